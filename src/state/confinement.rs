//! Who else has a say about the process: labels of security modules (`/proc/PID/attr/`: SELinux, AppArmor, Smack), and the
//! login that the audit system counts it to. The process at the target is born of `ulpm serve` and has its.

use crate::image::file_path::printable;
use crate::image::process::{Attributes, Confinement};
use crate::image::{Note, Obstacle};

/// "No login", as the kernel says it.
const NO_LOGIN: u32 = u32::MAX;
/// What a program may ask for the next thing that it makes.
const FOR_LATER: [&str; 4] = ["exec", "fscreate", "keycreate", "sockcreate"];

/// What is known of a process, or of a thread (`PID/task/TID`).
pub fn capture(who: &str) -> Confinement {
    let number = |name: &str| {
        let text = crate::sys::lossy(format!("/proc/{who}/{name}")).unwrap_or_default();
        text.trim().parse().unwrap_or(NO_LOGIN)
    };
    Confinement { label: attr(who, "current"), login: number("loginuid"), session: number("sessionid") }
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

/// The security label that it would have at the target is another.
pub fn obstacle_here(pid: i32, want: &Attributes) -> Option<Obstacle> {
    let here = attr("self", "current");
    let label = want.confinement.label.as_deref().filter(|label| !is_free(label))?;
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

/// Keys that stay: those of its user, as far as `/proc/keys` shows them to us (id, flags, usage, timeout, rights, user, group, type).
pub fn notes(pid: i32, user: u32) -> Vec<Note> {
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

/// What is another at the target without standing in the way.
pub fn notes_here(pid: i32, want: &Attributes) -> Vec<Note> {
    let mut notes = Vec::new();
    let own = capture("self");
    let Confinement { label, login, session } = &want.confinement;
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
