//! Signals that reached the copy at the source after its state was read, queued here.
//!
//! Those that come with `Commit` are queued before anything is decided, so that one that cannot be is no more than a failed move. We
//! queue them, and only a process itself may say that a signal is of `kill` (`do_rt_sigqueueinfo`): such a one looks like one of
//! `sigqueue`, of the same sender. In a pid namespace of its own that sender is 0, as for each signal from outside of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::RestoreError;
use super::skeleton::Skeleton;
use crate::handover::journal::Journal;
use crate::handover::settle::Phase;
use crate::image::process::LateSignal;
use crate::preload::late_signals::sendable;
use crate::state::signals::number;
use crate::sys::process::{pidfd_open, pidfd_queue_signal, prlimit, queue_to_thread};
use crate::transport::Fingerprint;

/// How long the queue of a process that runs may be full.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many late signals of each migration are queued; clones count together.
#[derive(Clone, Debug, Default)]
pub struct Taken(Arc<Mutex<BTreeMap<String, u32>>>);

impl Taken {
    /// Nobody will speak of this migration any more.
    pub fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Queues those of `signals` that are not yet, `first` having been said before. How many of all are queued now.
    pub fn queue(
        &self,
        id: &str,
        first: u32,
        pid: i32,
        pidfd: BorrowedFd<'_>,
        signals: &[LateSignal],
    ) -> u32 {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = all.entry(id.to_owned()).or_insert(first);
        let known = taken.saturating_sub(first) as usize;
        let deadline = Instant::now() + PATIENCE;
        for signal in signals.iter().skip(known) {
            if let Err(error) = queue(pid, pidfd, signal, deadline) {
                tracing::warn!(pid, signal = number(&signal.info), %error, "a signal from the source cannot be queued");
                break;
            }
            *taken += 1;
        }
        *taken
    }
}

/// Of a process that was moved here by the peer with this key; how many of all are queued now.
pub fn queue_of(
    taken: &Taken,
    dir: &std::path::Path,
    (id, key): (&str, &Fingerprint),
    first: u32,
    signals: &[LateSignal],
) -> Result<u32, RestoreError> {
    let journal = Journal::open(dir, id, false).map_err(RestoreError::io("reading the journal"))?;
    let running = journal.as_ref().map(Journal::entry).filter(|entry| {
        let runs = matches!(entry.phase, Phase::Releasing | Phase::Released);
        runs && entry.key == key.to_string()
    });
    let Some(entry) = running else {
        return Err(RestoreError::Nonsense("signals of a migration that is not here".to_owned()));
    };
    // the descriptor first, then the question whether it is the same process still
    match pidfd_open(entry.pid) {
        Ok(pidfd) if entry.process_lives() => Ok(taken.queue(id, first, entry.pid, pidfd.as_fd(), signals)),
        // it has ended, and with it what was queued
        _ => Ok(first.saturating_add(signals.len() as u32)),
    }
}

fn queue(pid: i32, pidfd: BorrowedFd<'_>, signal: &LateSignal, deadline: Instant) -> Result<(), Errno> {
    let Some(info) = signal.info.first_chunk::<128>().map(sendable) else { return Err(Errno::EINVAL) };
    let tid = match signal.tid {
        0 => None,
        inner => match thread_of(pid, inner) {
            Some(tid) => Some(tid),
            // it has ended, and with it what was queued
            None => return Ok(()),
        },
    };
    loop {
        let done = match tid {
            None => pidfd_queue_signal(pidfd, &info),
            Some(tid) => queue_to_thread(pid, tid, &info),
        };
        match done {
            Err(Errno::EAGAIN) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
            Err(Errno::ESRCH) => return Ok(()),
            done => return done,
        }
    }
}

/// A thread by the id by which the process itself knows it.
fn thread_of(pid: i32, inner: i32) -> Option<i32> {
    crate::tracee::freeze::tids(pid).ok()?.into_iter().find(|tid| {
        let status = crate::sys::lossy(format!("/proc/{tid}/status")).unwrap_or_default();
        let own = status.lines().find_map(|l| l.strip_prefix("NSpid:")?.split_whitespace().last());
        own.and_then(|own| own.parse().ok()) == Some(inner)
    })
}

/// Queues what came with `Commit` to a process that is complete and stopped.
pub fn queue_before(skeleton: &Skeleton, signals: &[LateSignal]) -> Result<(), RestoreError> {
    // a limit that is reached only means that others of this user have much queued
    let limit = signals.iter().any(|s| number(&s.info) >= 32).then(|| raise_limit(skeleton.pid)).flatten();
    let queued = signals.iter().try_for_each(|signal| queue_one(skeleton, signal));
    if let Some(limit) = limit {
        let put = prlimit(skeleton.pid, libc::RLIMIT_SIGPENDING, Some(limit));
        put.map_err(|e| RestoreError::io("putting a limit back")(std::io::Error::from(e)))?;
    }
    queued
}

/// As high as we may; what it was.
fn raise_limit(pid: i32) -> Option<(u64, u64)> {
    let was = prlimit(pid, libc::RLIMIT_SIGPENDING, None).ok()?;
    let raised = prlimit(pid, libc::RLIMIT_SIGPENDING, Some((u64::MAX, u64::MAX)))
        .or_else(|_| prlimit(pid, libc::RLIMIT_SIGPENDING, Some((was.1, was.1))));
    raised.is_ok().then_some(was)
}

fn queue_one(skeleton: &Skeleton, signal: &LateSignal) -> Result<(), RestoreError> {
    let Some(info) = signal.info.first_chunk::<128>() else {
        return Err(RestoreError::Nonsense("a signal that cannot be".to_owned()));
    };
    let number = if signal.tid == 0 { skeleton.inner_pid } else { signal.tid };
    let Some(thread) = skeleton.threads.get(&number).copied() else {
        return Err(RestoreError::Nonsense(format!("a signal to an unknown thread {number}")));
    };
    let by_others = sendable(info);
    let queued = match signal.tid {
        0 => pidfd_queue_signal(skeleton.pidfd.as_fd(), &by_others),
        _ => queue_to_thread(skeleton.pid, thread.0, &by_others),
    };
    let failed = RestoreError::io("queueing a signal that came in the freeze");
    queued.map_err(|e| failed(std::io::Error::from(e)))
}
