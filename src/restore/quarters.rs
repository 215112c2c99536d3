//! Among which control groups an arriving process lives.
//!
//! Born of `ulpm serve` it would live in the group of that service: the service's limits would count it, and whatever the
//! service manager does to a service would be done to it (a note says so). Two ways out:
//!
//! - `ulpm serve --slice`: a *scope* of its own by systemd (systemd.scope(5)): the nursery is started by `systemd-run
//!   --scope`, which puts itself into the new scope and then becomes the nursery, under the same pid and with the same
//!   parent and descriptors. The scope goes with the last of its processes. This takes some 20 ms, long before the freeze.
//! - `ulpm serve --cgroup`: a group of its own below that directory, made by us; the nursery moves itself into it. Below,
//!   not in it: so it can be seen, frozen and ended by itself (`cgroup.kill`), and a group with controllers for its children
//!   may have no processes (cgroups(7), "no internal processes"). Limits are those of the directory. It is removed when
//!   its process has ended; what a dead `ulpm serve` left behind, by the next one.
//!
//! What the nursery gives birth to is there, too, and so is all that it starts in its life.
//!
//! ```text
//! system.slice/ulpm-serve.service          ulpm serve, and nobody else
//! ulpm.slice/ulpm-ID.scope                 an arrived process and its children
//! ulpm.slice/ulpm-ID-namespace.scope       the same, with the init of its pid namespace
//! ulpm.slice/ulpm-ID-memory.scope          what serves its memory that is still to come, until it has
//! DIRECTORY/ulpm-ID                        with --cgroup: process and init; their memory's server stays with ulpm serve
//! ```

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::RestoreError;
use crate::image::{Note, Obstacle};
use crate::sys::cgroup::Group;
use crate::sys::process::ends_within;

/// Where arriving processes are to live.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Place {
    /// Where `ulpm serve` lives.
    #[default]
    Here,
    /// In scopes of their own in this slice of systemd.
    Slice(String),
    /// In groups of their own below this directory.
    Below(PathBuf),
}

impl Place {
    /// In which groups, of those that are there already, their memory and tasks will count.
    pub fn groups(&self) -> Vec<Group> {
        let own = ["memory", "pids"].iter().filter_map(|controller| Group::of("self", controller));
        match self {
            Place::Here => own.collect(),
            Place::Slice(name) => Group::named(&slice_path(name)),
            // in hierarchies other than that of the directory they stay where we are
            Place::Below(path) => Group::at(path).into_iter().chain(own).collect(),
        }
    }

    /// Our own group, if they are to live in it, and it is not that of everybody.
    pub fn shared(&self) -> Option<String> {
        let text = crate::sys::lossy("/proc/self/cgroup").ok().filter(|_| *self == Place::Here)?;
        let paths = text.lines().filter_map(|line| line.splitn(3, ':').nth(2));
        paths.filter(|path| *path != "/").max_by_key(|path| path.len()).map(str::to_owned)
    }

    /// What the user of a process may not expect.
    pub fn note(&self) -> Option<Note> {
        let own = self.shared()?;
        Some(Note::new(
            "control group",
            format!(
                "it will be that of ulpm serve there ({own}): its limits count for the process, and what is done to that \
                 service is done to it (ulpm serve --slice or --cgroup gives it its own)"
            ),
        ))
    }

    /// Whether a group can be made there.
    pub fn obstacle(&self) -> Option<Obstacle> {
        let Place::Below(path) = self else { return None };
        let failed = |why: &io::Error| {
            Obstacle::new(
                format!("control group {}", path.display()),
                format!("ulpm serve cannot make groups below it: {why}"),
                "make it a directory of a control group that ulpm serve may write, or start it with another --cgroup",
            )
        };
        usable(path).err().as_ref().map(failed)
    }

    /// Removes groups of processes that have ended.
    pub fn sweep(&self) {
        let Place::Below(path) = self else { return };
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("ulpm-") {
                // one that is lived in stays
                let _ = fs::remove_dir(entry.path());
            }
        }
    }
}

/// Whether groups can be made below a directory: asked by making one.
pub fn usable(path: &Path) -> io::Result<()> {
    if !path.join("cgroup.procs").exists() {
        return Err(io::Error::other("it is not the directory of a control group"));
    }
    let probe = path.join(format!("ulpm-probe-{}-{:?}", std::process::id(), std::thread::current().id()));
    fs::create_dir(&probe)?;
    fs::remove_dir(&probe)
}

/// Where the processes of one migration are to live.
#[derive(Clone, Debug)]
pub struct Quarters<'a> {
    /// As `ulpm serve` was told.
    pub place: &'a Place,
    /// The migration.
    pub id: &'a str,
    /// What to call them, in `systemctl status`.
    pub what: String,
}

impl Quarters<'_> {
    /// A command that runs this program in a scope of its own; `part` tells several of one migration apart.
    pub fn command(&self, part: &str) -> Command {
        let Place::Slice(slice) = self.place else { return Command::new("/proc/self/exe") };
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

    /// Makes the group below the directory of `--cgroup`; the nursery goes there.
    pub fn make(&self) -> Result<Option<PathBuf>, RestoreError> {
        let Place::Below(path) = self.place else { return Ok(None) };
        let group = path.join(format!("ulpm-{}", self.id));
        match fs::create_dir(&group) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                Err(RestoreError::io(format!("making the control group {}", group.display()))(e))
            }
            _ => Ok(Some(group)),
        }
    }

    /// Why a program that was started so ended without a word.
    pub fn silence(&self, ended: Option<ExitStatus>) -> RestoreError {
        let status =
            ended.map_or_else(|| "it could not be waited for".to_owned(), |status| status.to_string());
        let (step, said) = match self.place {
            Place::Slice(slice) => (
                format!("having systemd make a scope for the process in {slice}"),
                format!("systemd-run ended ({status}); the log of ulpm serve at the target has its reason"),
            ),
            _ => ("waiting for the nursery".to_owned(), "it ended without a word".to_owned()),
        };
        RestoreError::Io { step, source: std::io::Error::other(said) }
    }
}

/// Removes a group when its process has ended, and the init of its namespace after it.
pub fn remove_after(group: PathBuf, process: OwnedFd) {
    std::thread::spawn(move || {
        while !ends_within(process.as_fd(), Duration::from_secs(3600)) {}
        remove(&group);
    });
}

/// A group whose processes are ending is busy for a moment.
pub fn remove(group: &Path) {
    for _ in 0..100 {
        match fs::remove_dir(group) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(Duration::from_millis(20)),
            _ => return,
        }
    }
}

/// Where a slice lies (systemd.slice(5)): `a-b.slice` in `a.slice`.
fn slice_path(name: &str) -> PathBuf {
    let stem = name.trim_end_matches(".slice");
    let ends = stem.match_indices('-').map(|(at, _)| at).chain([stem.len()]);
    ends.map(|end| format!("{}.slice", &stem[..end])).collect()
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
        let place = Place::Slice("ulpm.slice".to_owned());
        let mut quarters =
            Quarters { place: &Place::Here, id: "a-1", what: "process 7 of 10.0.0.1".to_owned() };
        assert_eq!(quarters.command("").get_program(), "/proc/self/exe");
        quarters.place = &place;
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
        assert_eq!(slice_path("a-b.slice"), Path::new("a.slice/a-b.slice"));
    }

    #[test]
    fn a_directory_that_is_no_group_is_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Place::Below(dir.path().to_owned()).obstacle().is_some());
        assert!(Place::Here.obstacle().is_none());
    }
}
