//! Namespaces: those of the process must be the ones of the `ulpm` that moves it, since paths and addresses are understood
//! there; those of a thread must be the process's (`setns` and `unshare` change them for one thread alone). Pid and time
//! namespaces are not compared: the process gets them anew where it needs them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::image::Obstacle;

/// What stands in the way: another namespace than ours, one of a thread's own, another root directory.
pub fn obstacles(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    let who = format!("/proc/{pid}");
    let kinds = kinds();
    let others: Vec<&str> = kinds
        .iter()
        .map(String::as_str)
        .filter(|ns| !is_its_own_affair(ns) && link(&who, ns) != link("/proc/self", ns))
        .filter(|ns| *ns != "mnt" || mounts(&who) != mounts("/proc/self"))
        .collect();
    let mut found: Vec<Obstacle> = others.iter().map(|ns| other(pid, ns, &others)).collect();
    for (ns, own) in [("pid_for_children", "pid"), ("time_for_children", "time")] {
        if link(&who, ns) != link(&who, own) {
            found.push(Obstacle::new(
                format!("process {pid}"),
                format!("its children would live in another {own} namespace than itself"),
                "have the program start that namespace's first process, and move that one",
            ));
        }
    }
    let root = std::fs::read_link(format!("{who}/root")).unwrap_or_default();
    if root != std::path::Path::new("/") {
        found.push(Obstacle::new(
            format!("process {pid}"),
            format!("its root directory is {}", crate::image::FilePath::from(root)),
            INSIDE,
        ));
    }
    let threads = tids.iter().filter(|tid| **tid != pid);
    found.extend(threads.filter_map(|tid| of_thread(pid, *tid, &kinds)));
    found
}

/// A thread that lives elsewhere than its process.
fn of_thread(pid: i32, tid: i32, kinds: &BTreeSet<String>) -> Option<Obstacle> {
    let (process, thread) = (format!("/proc/{pid}"), format!("/proc/{pid}/task/{tid}"));
    let differs = |ns: &&String| {
        let its = link(&thread, ns);
        // a main thread that has ended shows none, and neither does another
        its.is_some() && link(&process, ns).is_some_and(|process| Some(process) != its)
    };
    let own: Vec<&str> = kinds.iter().filter(differs).map(String::as_str).collect();
    (!own.is_empty()).then(|| {
        let name = super::program::name(tid);
        Obstacle::new(
            format!("thread {tid} ({name})"),
            format!("it lives in another {} namespace than its process", own.join(", ")),
            "move the program before it starts this thread",
        )
    })
}

/// All that this kernel has.
fn kinds() -> BTreeSet<String> {
    let all = std::fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    all.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn is_its_own_affair(ns: &str) -> bool {
    matches!(ns, "pid" | "pid_for_children" | "time" | "time_for_children")
}

fn link(who: &str, ns: &str) -> Option<PathBuf> {
    std::fs::read_link(format!("{who}/ns/{ns}")).ok()
}

/// Where paths and users mean something else, so does the path of ulpm.
const INSIDE: &str =
    "run `ulpm live` inside that container, and `ulpm serve` inside one like it at the target";

/// `all`: in which it lives elsewhere.
fn other(pid: i32, ns: &str, all: &[&str]) -> Obstacle {
    let enter: String = all.iter().map(|ns| format!(" --{ns}")).collect();
    let advice = match all.iter().all(|ns| matches!(*ns, "cgroup" | "ipc" | "net" | "uts")) {
        false => INSIDE.to_owned(),
        true if all.contains(&"net") => {
            format!("if the target can be reached from there: nsenter --target {pid}{enter} ulpm live …")
        }
        true => format!("nsenter --target {pid}{enter} ulpm live …"),
    };
    Obstacle::new(
        format!("process {pid}"),
        format!("it lives in another {ns} namespace than this ulpm"),
        advice,
    )
}

/// Mounts without those of /proc: a pid namespace that we made has its own.
fn mounts(who: &str) -> Vec<String> {
    let text = crate::sys::lossy(format!("{who}/mountinfo")).unwrap_or_default();
    text.lines()
        .filter(|l| !l.contains(" - proc "))
        .map(|l| l.split_whitespace().skip(2).take(3).collect::<Vec<_>>().join(" "))
        .collect()
}
