//! Among which control groups an arriving process lives.
//!
//! Born of `ulpm serve` it would live in the group of that service: the service's limits would count it, and whatever the
//! service manager does to a service would be done to it. With `ulpm serve --slice` each arriving process is given a
//! *scope* of its own by systemd (systemd.scope(5)): the nursery is started by `systemd-run --scope`, which puts itself
//! into the new scope and then becomes the nursery, under the same pid and with the same parent and descriptors. What
//! the nursery gives birth to is in that scope, and so is all that it starts in its life. The scope goes with the
//! last of them. This takes some 20 ms, long before the freeze.
//!
//! ```text
//! system.slice/ulpm-serve.service          ulpm serve, and nobody else
//! ulpm.slice/ulpm-ID.scope                 an arrived process and its children
//! ulpm.slice/ulpm-ID-namespace.scope       the same, with the init of its pid namespace
//! ulpm.slice/ulpm-ID-memory.scope          what serves its memory that is still to come, until it has
//! ```

use std::process::{Command, ExitStatus};

use super::RestoreError;

/// Where the processes of one migration are to live.
#[derive(Clone, Debug)]
pub struct Quarters<'a> {
    /// The slice of systemd in which they get scopes; `None`: where `ulpm serve` lives.
    pub slice: Option<&'a str>,
    /// The migration.
    pub id: &'a str,
    /// What to call them, in `systemctl status`.
    pub what: String,
}

impl Quarters<'_> {
    /// A command that runs this program in a scope of its own; `part` tells several of one migration apart.
    pub fn command(&self, part: &str) -> Command {
        let Some(slice) = self.slice else { return Command::new("/proc/self/exe") };
        let mut command = Command::new("systemd-run");
        command.args(["--scope", "--quiet", "--collect"]);
        command.arg(format!("--slice={slice}")).arg(format!("--unit=ulpm-{}{part}.scope", self.id));
        // a percent sign or a dollar would be expanded
        let what: String = self.what.chars().filter(|c| !matches!(c, '%' | '$')).collect();
        // systemd-run would be /proc/self; a program that was replaced meanwhile has no path any more
        command
            .arg(format!("--description={what}"))
            .arg("--")
            .arg(format!("/proc/{}/exe", std::process::id()));
        command
    }

    /// Why a program that was started so ended without a word.
    pub fn silence(&self, ended: Option<ExitStatus>) -> RestoreError {
        let status =
            ended.map_or_else(|| "it could not be waited for".to_owned(), |status| status.to_string());
        let (step, said) = match self.slice {
            None => ("waiting for the nursery".to_owned(), "it ended without a word".to_owned()),
            Some(slice) => (
                format!("having systemd make a scope for the process in {slice}"),
                format!("systemd-run ended ({status}); the log of ulpm serve at the target has its reason"),
            ),
        };
        RestoreError::Io { step, source: std::io::Error::other(said) }
    }
}

/// Whether this can name a slice: `ulpm.slice`.
pub fn slice(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.:@\\".contains(c);
    match text.strip_suffix(".slice") {
        Some(name) if !name.is_empty() && !name.starts_with('-') && name.chars().all(plain) => {
            Ok(text.to_owned())
        }
        _ => Err("not the name of a slice, such as ulpm.slice".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_asked_for_only_in_a_slice() {
        let mut quarters = Quarters { slice: None, id: "a-1", what: "process 7 of 10.0.0.1".to_owned() };
        assert_eq!(quarters.command("").get_program(), "/proc/self/exe");
        quarters.slice = Some("ulpm.slice");
        quarters.what = "100% of $HOME".to_owned();
        let command = quarters.command("-memory");
        let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        assert!(args.contains(&"--unit=ulpm-a-1-memory.scope".to_owned()), "{args:?}");
        assert!(args.contains(&"--description=100 of HOME".to_owned()), "{args:?}");
        assert_eq!(args.last(), Some(&format!("/proc/{}/exe", std::process::id())));
    }

    #[test]
    fn names_of_slices() {
        assert!(slice("ulpm.slice").is_ok() && slice("system-ulpm.slice").is_ok());
        for bad in ["", ".slice", "ulpm", "a b.slice", "../x.slice", "-x.slice", "ulpm.service"] {
            assert!(slice(bad).is_err(), "{bad}");
        }
    }
}
