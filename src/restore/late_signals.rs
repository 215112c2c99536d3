//! Signals that reached the copy at the source after its state was read, queued here.
//!
//! Those that come with `Commit` are queued before anything is decided, so that one that cannot be is no more than a failed move. The
//! process is stopped, so its own threads queue them: only to itself may a thread send what looks like `kill` (`do_rt_sigqueueinfo`),
//! and they arrive as they were sent.
//!
//! Those that come later meet a process that runs. We queue them, and such a one looks like one of `sigqueue`, of the same
//! sender. In a pid namespace of its own that sender is 0, as for each signal from outside of it.

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
use crate::image::{FIRST, PAGE_SIZE, ProcessIndex};
use crate::state::signals::{number, sendable};
use crate::sys::process::{pidfd_open, pidfd_queue_signal, prlimit, queue_to_thread};
use crate::sys::ptrace;
use crate::sys::status::Status;
use crate::tracee::Remote;
use crate::tracee::thread::Thread;
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
    (of, first): (ProcessIndex, u32),
    signals: &[LateSignal],
) -> Result<u32, RestoreError> {
    // the journal names one process
    if of != FIRST {
        return Err(RestoreError::Nonsense(format!("signals to {of} of a tree of one")));
    }
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
    if signals.is_empty() {
        return Ok(());
    }
    // a limit that is reached only means that others of this user have much queued
    let limit = raise_limit(skeleton.pid);
    // what no thread can block is in the way of remote calls
    let open = |s: &LateSignal| matches!(number(&s.info), libc::SIGSTOP | libc::SIGTRAP);
    let (first, rest) = signals.split_at(signals.iter().position(open).unwrap_or(signals.len()));
    let queued = queue_by_itself(skeleton, first)
        .and_then(|()| rest.iter().try_for_each(|signal| queue_one(skeleton, signal)));
    if let Some(limit) = limit {
        let put = prlimit(skeleton.pid, libc::RLIMIT_SIGPENDING, Some(limit));
        put.map_err(|e| RestoreError::io("putting a limit back")(std::io::Error::from(e)))?;
    }
    queued
}

/// Has the threads of a process queue to themselves what nobody else could; where one cannot, it is queued from outside.
fn queue_by_itself(skeleton: &Skeleton, signals: &[LateSignal]) -> Result<(), RestoreError> {
    let own = |s: &LateSignal| s.info.first_chunk().is_some_and(|info| sendable(info) != *info);
    let page = if signals.iter().any(own) { Page::map(skeleton)? } else { None };
    for signal in signals {
        let queued = match &page {
            Some(page) if own(signal) => page.queue(signal)?,
            _ => false,
        };
        if !queued {
            queue_one(skeleton, signal)?;
        }
    }
    page.map_or(Ok(()), Page::unmap)
}

/// A page of the stopped process for a `siginfo_t`; the scratch area is gone by now.
#[derive(Debug)]
struct Page<'s> {
    skeleton: &'s Skeleton,
    at: u64,
}

impl<'s> Page<'s> {
    /// `None`: the process may not call so, or has no room for it.
    fn map(skeleton: &'s Skeleton) -> Result<Option<Self>, RestoreError> {
        let confined = |thread: &Thread| {
            let filtered = Status::of(thread.0).is_ok_and(|status| status.seccomp != 0);
            filtered || ptrace::dispatch(thread.0).is_ok_and(|conf| conf.mode != 0)
        };
        if skeleton.threads.values().any(confined) {
            return Ok(None);
        }
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let args = [0, PAGE_SIZE, prot as u64, flags as u64, u64::MAX, 0];
        let at = call(skeleton, skeleton.leader(), ("mmap of a page", libc::SYS_mmap), args)?;
        Ok((at > 0).then_some(Page { skeleton, at: at as u64 }))
    }

    /// Whether the thread that it is for, or the main thread, could queue it.
    fn queue(&self, signal: &LateSignal) -> Result<bool, RestoreError> {
        let (pid, tid) = (self.skeleton.inner_pid, signal.tid);
        let thread = thread_in(self.skeleton, tid)?;
        let failed = RestoreError::io("writing a signal that came in the freeze");
        self.skeleton.site.mem.write(self.at, &signal.info).map_err(failed)?;
        let (pid, signo) = (pid as u64, number(&signal.info) as u64);
        let done = match tid {
            0 => {
                let args = [pid, signo, self.at, 0, 0, 0];
                call(self.skeleton, thread, ("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo), args)?
            }
            _ => {
                let args = [pid, tid as u64, signo, self.at, 0, 0];
                call(self.skeleton, thread, ("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo), args)?
            }
        };
        Ok(done == 0)
    }

    fn unmap(self) -> Result<(), RestoreError> {
        let args = [self.at, PAGE_SIZE, 0, 0, 0, 0];
        call(self.skeleton, self.skeleton.leader(), ("munmap of a page", libc::SYS_munmap), args).map(drop)
    }
}

/// One call of a thread that has its own registers already.
fn call(
    skeleton: &Skeleton,
    thread: Thread,
    (name, nr): (&'static str, i64),
    args: [u64; 6],
) -> Result<i64, RestoreError> {
    let mut remote = Remote::borrow(thread, &skeleton.site)?;
    let result = remote.single(name, nr, args)?;
    remote.finish()?;
    Ok(result)
}

fn thread_in(skeleton: &Skeleton, tid: i32) -> Result<Thread, RestoreError> {
    let number = if tid == 0 { skeleton.inner_pid } else { tid };
    let thread = skeleton.threads.get(&number).copied();
    thread.ok_or_else(|| RestoreError::Nonsense(format!("a signal to an unknown thread {number}")))
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
    let thread = thread_in(skeleton, signal.tid)?;
    let by_others = sendable(info);
    let queued = match signal.tid {
        0 => pidfd_queue_signal(skeleton.pidfd.as_fd(), &by_others),
        _ => queue_to_thread(skeleton.pid, thread.0, &by_others),
    };
    let failed = RestoreError::io("queueing a signal that came in the freeze");
    queued.map_err(|e| failed(std::io::Error::from(e)))
}
