//! An ordinary user of a host, with an `ulpm` home of its own: its commands run under the words of [`User::words`].

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};

use super::{Lab, SOON, ULPM};

/// Its uid and gid.
const ID: u32 = 1234;

/// An ordinary user of one host.
#[derive(Debug)]
pub(crate) struct User {
    words: Vec<String>,
}

impl User {
    /// In a host of the lab, whose files it may make and read from now on.
    pub(crate) fn of(lab: &Lab, host: &str) -> Result<Self> {
        let home = lab.dir().join(format!("user-{host}"));
        fs::create_dir(&home)?;
        nix::unistd::chown(&home, Some(ID.into()), Some(ID.into()))?;
        fs::set_permissions(lab.dir(), Permissions::from_mode(0o1777))?;
        let (id, home) = (ID, format!("ULPM_HOME={}", home.display()));
        let words = format!("setpriv --reuid={id} --regid={id} --clear-groups env {home}");
        Ok(Self { words: words.split_whitespace().map(str::to_owned).collect() })
    }

    /// What comes before a command that the user runs.
    pub(crate) fn words(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).collect()
    }

    /// A command that runs a program as this user. The outputs are those of the lab, which it may open anew where it goes.
    pub(crate) fn command(&self, program: &str) -> [String; 4] {
        let run = format!(
            "chmod 666 /proc/self/fd/1 /proc/self/fd/2; exec {} {program} \"$1\"",
            self.words.join(" ")
        );
        ["sh".to_owned(), "-c".to_owned(), run, "sh".to_owned()]
    }
}

/// `who`, with these words before the command, trusts `whom`.
pub(crate) fn trust(
    lab: &Lab,
    (who, before): (&str, &[&str]),
    (whom, theirs): (&str, &[&str]),
) -> Result<()> {
    let shown = lab.run(whom, &[theirs, &[ULPM, "trust", "show"]].concat(), SOON)?;
    let name = if theirs.is_empty() { whom.to_owned() } else { format!("user-{whom}") };
    let add = [ULPM, "trust", "add", shown.stdout.trim(), "--name", &name, "--users", "any"];
    let added = lab.run(who, &[before, &add].concat(), SOON)?;
    ensure!(added.exit == 0, "{shown:?} {added:?}");
    Ok(())
}
