//! Namespaces: those of the process must be the ones of the `ulpm` that moves it, since paths and addresses are understood
//! there; those of a thread must be the process's (`setns` and `unshare` change them for one thread alone). Pid and time
//! namespaces are not compared: the process gets them anew where it needs them.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::image::Obstacle;
use crate::image::file_path::printable;

/// What stands in the way: another namespace than ours, one of a thread's own, another root directory.
pub fn obstacles(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    let who = format!("/proc/{pid}");
    let kinds = kinds();
    let mut found: Vec<Obstacle> = kinds
        .iter()
        .map(String::as_str)
        .filter(|ns| !is_its_own_affair(ns) && link(&who, ns) != link("/proc/self", ns))
        .filter(|ns| *ns != "mnt" || mounts(&who) != mounts("/proc/self"))
        .map(|ns| other(pid, ns))
        .collect();
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
            "run `ulpm live` inside that root directory",
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
        let name = printable(&crate::sys::status::name(tid));
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

fn other(pid: i32, ns: &str) -> Obstacle {
    Obstacle::new(
        format!("process {pid}"),
        format!("it lives in another {ns} namespace than this ulpm"),
        format!("run `ulpm live` in its namespaces: nsenter --target {pid} --all"),
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
