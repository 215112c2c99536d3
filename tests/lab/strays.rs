//! Proof that nothing is left: processes by pid and start time and by a mark in their environment, namespaces and
//! mounts by what is still open or mounted, directories by path. Asked once, after all trials.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ulpm::demo::hosts::Host;

/// In the environment of every process of a lab; its value is the pid of the test program.
pub(crate) const MARK: &str = "ULPM_LAB";

/// How long the kernel may take to bury what was killed.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Seen {
    /// Namespaces that hosts had, as `/proc/PID/ns` names them.
    namespaces: BTreeSet<String>,
    /// Processes: outside pid and start time.
    processes: BTreeSet<(i32, u64)>,
    directories: BTreeSet<PathBuf>,
}

static SEEN: Mutex<Seen> = Mutex::new(Seen {
    namespaces: BTreeSet::new(),
    processes: BTreeSet::new(),
    directories: BTreeSet::new(),
});

fn seen() -> MutexGuard<'static, Seen> {
    SEEN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Remembers a new host.
pub(crate) fn watch(host: &Host) {
    let mut seen = seen();
    for kind in ["net", "pid", "mnt", "uts", "ipc", "time"] {
        let (theirs, ours) =
            (namespace(host.init_pid().as_raw(), kind), namespace(std::process::id() as i32, kind));
        if theirs != ours {
            seen.namespaces.extend(theirs);
        }
    }
    seen.directories.insert(host.home().to_owned());
}

/// Remembers what runs in a host that is about to end, nested pid namespaces included.
pub(crate) fn remember_processes(host: &Host) {
    let init = host.init_pid().as_raw();
    let mut inside = BTreeSet::from([init]);
    // Children have mostly higher pids than their parents; a second pass catches the others.
    for _ in 0..2 {
        for (pid, parent, start) in processes() {
            if inside.contains(&parent) || pid == init {
                inside.insert(pid);
                seen().processes.insert((pid, start));
            }
        }
    }
}

/// Remembers a directory that must not outlive the run.
pub(crate) fn expect_gone(directory: &Path) {
    if std::env::var_os("ULPM_LAB_KEEP").is_none() {
        seen().directories.insert(directory.to_owned());
    }
}

/// What is left of all hosts after the last was dropped; empty if all is well.
pub(crate) fn left_over() -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_empty() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn look() -> Vec<String> {
    let seen = seen();
    let mut found = Vec::new();
    let mark = format!("{MARK}={}", std::process::id());
    for (pid, _, start) in processes() {
        let marked = fs::read(format!("/proc/{pid}/environ"))
            .is_ok_and(|env| env.split(|byte| *byte == 0).any(|entry| entry == mark.as_bytes()));
        if marked || seen.processes.contains(&(pid, start)) {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            found.push(format!("process {pid} (started at {start}): {}", command.replace('\0', " ")));
        }
    }
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        if seen.namespaces.contains(&target) {
            found.push(format!("namespace {target} is held by descriptor {}", entry.file_name().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let ours = |path: &PathBuf| line.contains(&path.display().to_string());
        if line.contains("nsfs") && seen.namespaces.iter().any(|name| line.contains(name.as_str()))
            || seen.directories.iter().any(ours)
        {
            found.push(format!("mount: {line}"));
        }
    }
    found.extend(
        seen.directories.iter().filter(|path| path.exists()).map(|path| format!("{}", path.display())),
    );
    found
}

fn namespace(pid: i32, kind: &str) -> Option<String> {
    Some(fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok()?.display().to_string())
}

/// Pid, parent and start time of every process; zombies do not count.
fn processes() -> Vec<(i32, i32, u64)> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        let Ok(stat) = ulpm::sys::lossy(format!("/proc/{pid}/stat")) else { continue };
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        let (Some(parent), Some(start)) = (fields.get(1), fields.get(19)) else { continue };
        if fields[0] != "Z" {
            all.push((pid, parent.parse().unwrap_or(0), start.parse().unwrap_or(0)));
        }
    }
    all.sort_unstable();
    all
}
