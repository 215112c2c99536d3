//! Seccomp, which confines a thread: it belongs to the thread, and a call of ours in the name of one under a filter may end the
//! process: so each is asked, from outside, before anything is attached.

use crate::image::Obstacle;

/// Why it is not carried.
pub const SECCOMP: &str = "runs under a seccomp filter, which is not carried yet";

/// What of it stands in the way.
pub fn obstacles(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    // one that ends meanwhile is confined no more
    let confined: Vec<(i32, Mode)> = tids.iter().filter_map(|tid| Some((*tid, mode(pid, *tid)?))).collect();
    let whole = confined.len() == tids.len();
    let named = |(tid, mode): &(i32, Mode)| {
        let object = if whole { format!("process {pid}") } else { format!("thread {tid} of process {pid}") };
        Obstacle::new(object, format!("it {SECCOMP} ({mode})"), "start it without the filter")
    };
    confined.iter().take(if whole { 1 } else { confined.len() }).map(named).collect()
}

/// How a thread is confined, in words; `None`: it is not.
type Mode = String;

fn mode(pid: i32, tid: i32) -> Option<Mode> {
    let status = crate::sys::lossy(format!("/proc/{pid}/task/{tid}/status")).ok()?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match field("Seccomp:")? {
        "0" => None,
        "1" => Some("strict mode".to_owned()),
        // the number of filters is told since Linux 5.9
        _ => Some(match field("Seccomp_filters:") {
            Some("1") | None => "filter mode".to_owned(),
            Some(count) => format!("filter mode, {count} filters"),
        }),
    }
}
