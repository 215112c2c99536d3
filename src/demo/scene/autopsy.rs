//! What the threads of a process are doing, for an error about one that stands still.

use std::fs;

use super::error::Tail;

/// One line for each thread of the process and each of its timers, as the caller's `/proc` shows them.
pub(super) fn look_at(pid: i32) -> Tail {
    let mut tids: Vec<i32> = entries(&format!("/proc/{pid}/task"));
    tids.sort_unstable();
    let mut lines: Vec<String> = tids.into_iter().map(|tid| thread(pid, tid)).collect();
    if lines.is_empty() {
        lines.push("the process has ended".into());
    }
    lines.extend(entries(&format!("/proc/{pid}/fd")).into_iter().filter_map(|fd| timer(pid, fd)));
    Tail { whose: "/proc".into(), lines }
}

fn entries(dir: &str) -> Vec<i32> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn thread(pid: i32, tid: i32) -> String {
    let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/task/{tid}/{file}")).unwrap_or_default();
    let status = read("status");
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or("?").to_owned()
    };
    // `[<0>] function+0x1/0x2`, the innermost first
    let stack = read("stack");
    let calls: Vec<&str> =
        stack.lines().filter_map(|line| line.split_whitespace().nth(1)?.split('+').next()).take(6).collect();
    format!(
        "thread {tid} ({}): state {}, wchan {}, syscall {}, stack {}, traced by {}, signals pending {}/{}, blocked {}",
        read("comm").trim(),
        field("State:"),
        read("wchan").trim(),
        read("syscall").trim(),
        if calls.is_empty() { "?".to_owned() } else { calls.join(" < ") },
        field("TracerPid:"),
        field("SigPnd:"),
        field("ShdPnd:"),
        field("SigBlk:"),
    )
}

fn timer(pid: i32, fd: i32) -> Option<String> {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).ok()?;
    info.contains("it_value:")
        .then(|| format!("timer fd {fd}: {}", info.split_whitespace().collect::<Vec<_>>().join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_thread_says_what_it_waits_for() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let name = std::thread::Builder::new().name("waits".into());
        let waiting = name.spawn(move || wait.recv()).unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
        let line = loop {
            let tail = look_at(own);
            let line = tail.lines.into_iter().find(|line| line.contains("(waits): state S"));
            match line {
                Some(line) => break line,
                None => assert!(std::time::Instant::now() < deadline, "no such thread asleep"),
            }
        };
        assert!(line.contains("signals pending 0000000000000000/"), "{line}");
        drop(go);
        let _ = waiting.join();
        assert_eq!(look_at(i32::MAX).lines, ["the process has ended"]);
    }
}
