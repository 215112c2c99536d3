//! The waits that ulpm itself interrupted, and when they end.
//!
//! Kept within a session, and in `ULPM_HOME/waits/PID-STARTTIME` from one to the next: at the target that file is there before the
//! process runs, at the source it is written when the process stays. A file whose process has ended goes when another is written.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Taken, args, capture};
use crate::sys::ptrace::Regs;
use crate::sys::stat::start_time;
use crate::tracee::freeze::Frozen;
use crate::tracee::restart::Interrupted;

/// A wait whose call we know, because we interrupted it before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    tid: i32,
    rip: u64,
    rsp: u64,
    args: [u64; 6],
    nr: i64,
    /// On `CLOCK_MONOTONIC` as this ulpm reads it; nothing if the end is in the arguments, or never.
    end_ns: Option<i64>,
}

/// The waits of one process that ulpm interrupted on this host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    known: Vec<Known>,
}

/// `PID-STARTTIME`: the name of a process that no other one gets.
fn name(pid: i32) -> Option<String> {
    Some(format!("{pid}-{}", start_time(pid)?))
}

/// The file for a process.
fn path(home: &Path, pid: i32) -> Option<PathBuf> {
    name(pid).map(|name| home.join("waits").join(name))
}

impl Memory {
    /// Reads what is known of a process; nothing when there is nothing.
    pub fn load(home: &Path, pid: i32) -> Self {
        path(home, pid)
            .and_then(|p| std::fs::read(p).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Keeps it for the next move. Losing it only makes a wait longer, so failure is logged, not raised.
    pub fn save(&self, home: &Path, pid: i32) {
        let Some(path) = path(home, pid) else { return };
        let written = path.parent().map_or(Ok(()), |dir| {
            std::fs::create_dir_all(dir)?;
            std::fs::write(&path, serde_json::to_vec(self)?)?;
            forget_ended(dir)
        });
        if let Err(e) = written {
            tracing::warn!(path = %path.display(), error = %e, "the ends of sleeping threads' waits are not remembered");
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Remembers all waits of a stopped process: its stop turns them into `restart_syscall`, which hides the call and how long it has
    /// still to go.
    pub fn note(&mut self, frozen: &Frozen) {
        for member in &frozen.threads {
            if let Ok(regs) = member.thread.regs()
                && !matches!(Interrupted::of(&regs), Interrupted::Eintr(_))
                && let Ok(Taken { regs, wait, call: Some(nr), .. }) = capture(frozen, member, &regs, self)
            {
                let end_ns = wait.map(|w| frozen.stopped_ns().saturating_add_unsigned(w.left_ns));
                self.remember(member.thread.0, &regs, nr, end_ns);
            }
        }
    }

    /// Remembers the call in which a thread waits, and its end on `CLOCK_MONOTONIC`, if it is not in the arguments.
    pub fn remember(&mut self, tid: i32, regs: &Regs, nr: i64, end_ns: Option<i64>) {
        self.known.retain(|k| k.tid != tid);
        self.known.push(Known { tid, rip: regs.rip, rsp: regs.rsp, args: args(regs), nr, end_ns });
    }

    /// The call, and how long it has still to go, if that is known.
    pub(super) fn recall(&self, tid: i32, regs: &Regs, at_ns: i64) -> Option<(i64, Option<Duration>)> {
        let known = self
            .known
            .iter()
            .find(|k| k.tid == tid && (k.rip, k.rsp, k.args) == (regs.rip, regs.rsp, args(regs)))?;
        // one that is over was another wait, or is about to end: in any case of the same call with the same arguments
        let left = known.end_ns.and_then(|end_ns| u64::try_from(end_ns - at_ns).ok());
        Some((known.nr, left.map(Duration::from_nanos)))
    }
}

/// Removes the files of processes that have ended.
fn forget_ended(dir: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let file = entry.file_name();
        let pid = file.to_str().and_then(|n| n.split_once('-')).and_then(|(pid, _)| pid.parse().ok());
        if pid.and_then(name).is_none_or(|name| *name != *file) {
            match std::fs::remove_file(entry.path()) {
                // another move was quicker
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regs(rdi: u64) -> Regs {
        let mut regs = crate::sys::regs::from_words(&[0; 27]).unwrap();
        (regs.rip, regs.rsp, regs.rdi) = (0x402, 0x9000, rdi);
        regs
    }

    #[test]
    fn a_wait_is_recalled_by_its_thread_and_registers() {
        let mut memory = Memory::default();
        memory.remember(7, &regs(1), libc::SYS_poll, Some(900));
        memory.remember(8, &regs(1), libc::SYS_futex, None);
        assert_eq!(memory.recall(7, &regs(1), 400), Some((libc::SYS_poll, Some(Duration::from_nanos(500)))));
        assert_eq!(memory.recall(7, &regs(1), 901), Some((libc::SYS_poll, None)));
        assert_eq!(memory.recall(8, &regs(1), 400), Some((libc::SYS_futex, None)));
        assert_eq!(memory.recall(7, &regs(2), 400), None);
        memory.remember(7, &regs(2), libc::SYS_nanosleep, Some(900));
        assert_eq!(memory.recall(7, &regs(1), 400), None);
    }

    #[test]
    fn a_file_goes_with_its_process() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("waits");
        std::fs::create_dir(&dir).unwrap();
        let own = std::process::id() as i32;
        for name in [format!("{own}-1"), "0-7".to_owned()] {
            std::fs::write(dir.join(name), "{\"known\":[]}").unwrap();
        }
        let mut memory = Memory::default();
        memory.remember(own, &regs(1), libc::SYS_poll, None);
        memory.save(home.path(), own);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        assert!(!Memory::load(home.path(), own).is_empty());
    }
}
