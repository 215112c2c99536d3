//! A thread by which a process is looked at. The main thread of a process may end (`pthread_exit`) and leave it to the others.
//!
//! Kernel facts (tried on Linux 6.18):
//! - It stays as a zombie until the last of them has ended. What hangs on its memory and descriptors is gone with it: of its
//!   `/proc/PID` `maps`, `fd`, `exe`, `cwd` are empty, `process_vm_readv` is `ESRCH`, `PTRACE_SEIZE` is `EPERM`.
//!   Pid, name, credentials, signals pending to the process and the time it started at are still told.
//! - `/proc/TID` of any thread that lives is whole, though no listing of `/proc` shows it, and so is all that takes a thread.
//! - What waits for the process (its parent, a pidfd without `PIDFD_THREAD`) waits for the last thread.

use std::time::Duration;

use super::stat::Stat;
use super::time::Deadline;

/// A living thread of this process: its main thread, unless that has ended. The pid, if none lives.
///
/// It may be gone a moment later, as any thread may: see [`by`]. Those of a stopped process stay ([`crate::tracee::Frozen::voice`]).
pub fn of(pid: i32) -> i32 {
    if life(pid, pid) == Life::Lives {
        return pid;
    }
    living(pid).unwrap_or(pid)
}

/// Looks at a process by a thread that lived all the time: what one shows that ends meanwhile fails, or looks like nothing.
pub fn by<T, E>(pid: i32, mut look: impl FnMut(i32) -> Result<T, E>) -> Result<T, E> {
    /// Each is the end of another thread.
    const TRIES: u32 = 100;
    for _ in 1..TRIES {
        let voice = of(pid);
        let seen = look(voice);
        if life(pid, voice) == Life::Lives || !lives(pid) {
            return seen;
        }
    }
    look(of(pid))
}

/// The process that a thread belongs to.
pub fn process_of(tid: i32) -> i32 {
    super::status::Status::of(tid).map_or(tid, |status| status.tgid)
}

/// Whether any thread of this process lives.
pub fn lives(pid: i32) -> bool {
    life(pid, pid) == Life::Lives || living(pid).is_some()
}

fn living(pid: i32) -> Option<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    tids.find(|tid| life(pid, *tid) == Life::Lives)
}

/// How far a thread has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It runs, or may run.
    Lives,
    /// It is on its way out, and may still write to its memory (`clear_child_tid`). It stops for nobody any more.
    Ends,
    /// It is dead, or gone.
    Ended,
}

/// How far a thread has come. By its own `stat`: that of the process adds up all threads.
pub fn life(pid: i32, tid: i32) -> Life {
    match Stat::of_thread(pid, tid) {
        Some(stat) if stat.is_ending() && !stat.has_ended() => Life::Ends,
        Some(stat) if !stat.has_ended() => Life::Lives,
        _ => Life::Ended,
    }
}

/// Waits until a thread has ended, for a while.
pub fn await_end(pid: i32, tid: i32, at_most: Duration) {
    const TURN: Duration = Duration::from_micros(20);
    let deadline = Deadline::after(at_most);
    while life(pid, tid) != Life::Ended && !deadline.passed() {
        std::thread::sleep(TURN);
    }
}

/// The status with which a main thread has ended that others have outlived, as `exit(2)` took it; 0 where it is not shown
/// (`PTRACE_MODE_READ` is asked for).
pub fn exit_status(pid: i32) -> u8 {
    let code = Stat::of_thread(pid, pid).map_or(0, |stat| stat.exit_code());
    (code >> 8) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_ourselves_and_of_nobody() {
        let own = std::process::id() as i32;
        assert_eq!((of(own), lives(own), life(own, own)), (own, true, Life::Lives));
        assert_eq!((of(i32::MAX), lives(i32::MAX)), (i32::MAX, false));
    }
}
