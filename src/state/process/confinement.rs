//! Who else has a say about the process: labels of security modules (`/proc/PID/attr/`: SELinux, AppArmor, Smack), and the
//! login that the audit system counts it to. The process at the target is born of `ulpm serve` and has its.

use serde::{Deserialize, Serialize};

use crate::image::file_path::printable;
use crate::image::{Note, Obstacle, PAGE_SIZE};
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{State, TargetHost, insist};

/// Labels and login: compared at the target, and put nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// `/proc/PID/attr/current`; `None`: no security module keeps one.
    pub label: Option<String>,
    /// `/proc/PID/loginuid`; all ones: none.
    pub login: u32,
    /// `/proc/PID/sessionid`.
    pub session: u32,
}

impl State for Confinement {
    const NAME: &'static str = "confinement";

    fn check(&self) -> Result<(), String> {
        let length = self.label.as_ref().map_or(0, String::len);
        insist(length <= PAGE_SIZE as usize, "an impossible security label")
    }
}

impl ProcessState for Confinement {
    const STAGES: &'static [ProcessStage] = &[];

    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        Ok(Self::of_whom(&seen.voice.to_string()))
    }

    fn obstacles(seen: &SeenProcess<'_>, tids: &[i32]) -> Vec<Obstacle> {
        obstacles(seen.voice, tids)
    }

    fn notes(seen: &SeenProcess<'_>) -> Vec<Note> {
        notes(seen.pid, seen.status.uids[0])
    }

    fn obstacles_here(&self, pid: i32, _host: &TargetHost) -> Vec<Obstacle> {
        self.obstacle_here(pid).into_iter().collect()
    }

    fn notes_here(&self, pid: i32, _host: &TargetHost) -> Vec<Note> {
        self.differences_here(pid)
    }

    fn put(&self, _to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        Ok(())
    }
}

/// "No login", as the kernel says it.
const NO_LOGIN: u32 = u32::MAX;
/// What a program may ask for the next thing that it makes.
const FOR_LATER: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];

impl Confinement {
    /// What is known of a process, or of a thread (`PID/task/TID`).
    fn of_whom(who: &str) -> Self {
        let number = |name: &str| {
            let text = crate::sys::lossy(format!("/proc/{who}/{name}")).unwrap_or_default();
            text.trim().parse().unwrap_or(NO_LOGIN)
        };
        Self { label: attr(who, "current"), login: number("loginuid"), session: number("sessionid") }
    }

    /// The security label that it would have at the target is another.
    fn obstacle_here(&self, pid: i32) -> Option<Obstacle> {
        let here = attr("self", "current");
        let label = self.label.as_deref().filter(|label| !is_free(label))?;
        (here.as_deref() != Some(label)).then(|| {
            Obstacle::new(
                format!("process {pid}"),
                format!(
                    "it is confined as {label}, and would be {} at the target",
                    here.as_deref().unwrap_or("without any label")
                ),
                "start `ulpm serve` under the same security label",
            )
        })
    }

    /// What is another at the target without standing in the way.
    fn differences_here(&self, pid: i32) -> Vec<Note> {
        let mut notes = Vec::new();
        let own = Self::of_whom("self");
        let Self { label, login, session } = self;
        if label.as_deref().is_none_or(is_free)
            && let Some(here) = own.label.as_deref().filter(|label| !is_free(label))
        {
            notes.push(Note::new(
                format!("process {pid}"),
                format!("it gets the security label of ulpm serve, {here}"),
            ));
        }
        if *login != NO_LOGIN && (*login, *session) != (own.login, own.session) {
            notes.push(Note::new(
                format!("process {pid}"),
                format!("it is counted to the login of ulpm serve, no more to that of user {login} (session {session})"),
            ));
        }
        notes
    }
}

/// The label in one of the files; none where no module keeps any, or it keeps an empty one.
fn attr(who: &str, name: &str) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{who}/attr/{name}")).ok()?;
    let text = printable(bytes.strip_suffix(b"\n").unwrap_or(&bytes).trim_ascii_end());
    let text = text.trim_end_matches("\\x00").to_owned();
    (!text.is_empty()).then_some(text)
}

/// What stands in the way at the source: labels for later, and threads with another one than their process.
pub fn obstacles(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    let process = attr(&pid.to_string(), "current");
    let mut found = Vec::new();
    for tid in tids {
        let who = format!("{pid}/task/{tid}");
        let object = if *tid == pid { format!("process {pid}") } else { format!("thread {tid}") };
        let label = attr(&who, "current");
        if label != process && std::path::Path::new(&format!("/proc/{who}")).exists() {
            let why = format!("it has a security label of its own, {}", label.as_deref().unwrap_or("none"));
            found.push(Obstacle::new(&object, why, "move the program before it starts this thread"));
        }
        for name in FOR_LATER {
            if let Some(label) = attr(&who, name) {
                let why =
                    format!("it has asked for the security label {label} ({name}) of what it makes next");
                found.push(Obstacle::new(&object, why, "move it when it has made that"));
            }
        }
    }
    found
}

/// Keys that stay: those of its user, as far as `/proc/keys` shows them to us (id, flags, usage, timeout, rights, user, group, type).
fn notes(pid: i32, user: u32) -> Vec<Note> {
    const KEYS: [&str; 5] = ["user", "logon", "big_key", "encrypted", "trusted"];
    let text = crate::sys::lossy("/proc/keys").unwrap_or_default();
    let count = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|line| line.get(5).is_some_and(|owner| owner.parse() == Ok(user)))
        .filter(|line| line.get(7).is_some_and(|kind| KEYS.contains(&kind.trim_end_matches(':'))))
        .count();
    let note = || {
        Note::new(
            format!("process {pid}"),
            format!(
                "keys of its session and user stay in this kernel (user {user} has {count}, see /proc/keys)"
            ),
        )
    };
    (count > 0).then(note).into_iter().collect()
}

fn is_free(label: &str) -> bool {
    label == "unconfined"
}
