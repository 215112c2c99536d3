//! The scheduler's group of our session, as a whole behind other sessions, as long as they leave it something of the CPUs.
//!
//! With `sched_autogroup_enabled` sessions compete as one group each, however many threads they have at work, and nice values of threads
//! count within one only (sched(7)): threads that are each in the background ([`super::background`]) kept a sleeper of another session
//! waiting for up to 40 ms. What counts is the nice value of the group (`/proc/PID/autogroup`).
//!
//! | value | when |
//! |---|---|
//! | 19 | the host has CPU to spare |
//! | 10 | the group starves with that: it is ready to run for ten times as long as it runs |
//! | as it was | it still starves: a busy host must be emptied, too |
//!
//! A thread of its own (`Lookout`) looks twice a second: in less, a thread that had to wait once, be it for the other end of a move
//! within one host, would look like a busy host. What tells that nobody else leaves a CPU to us must have one itself: it is under
//! `SCHED_FIFO`. Where that is not permitted, or the kernel does not say how long threads wait (`CONFIG_SCHED_INFO`), the value is 10
//! until a thread that is at work finds that it starves ([`Starving`]).
//!
//! Kernels without autogroups, and sessions in a control group with the controller `cpu`: there threads compete with all others one by
//! one, or within the control group, whose weight is the administrator's; nothing is changed.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::unistd::{getpid, getsid};

use super::limits::own_capability;
use super::process::{SchedAttr, sched_attr, set_sched_attr};

const AUTOGROUP: &str = "/proc/self/autogroup";
/// Without it the kernel takes ten changes of a group a second, from all users together: ours might come too late in a freeze.
const CAP_SYS_ADMIN: u32 = 21;
/// For those who can look now and then only.
const NICE: i32 = 10;
/// For those who are told in time.
const NICEST: i32 = 19;

/// The group behind all others; as it was when dropped.
///
/// Only if the session is ours (we lead it) and `CAP_SYS_ADMIN` lets us take it back at any moment.
#[derive(Debug)]
pub struct OwnSession {
    before: Option<i32>,
    lookout: Option<Lookout>,
}

impl OwnSession {
    /// Puts the group there.
    pub fn behind() -> Self {
        let ours = getsid(None) == Ok(getpid()) && own_capability(CAP_SYS_ADMIN);
        let before = ours.then(group_nice).flatten().filter(|nice| *nice < NICE);
        let before = before.filter(|_| set_group_nice(NICE).is_ok());
        OwnSession { before, lookout: before.and_then(Lookout::start) }
    }

    /// A thread at work has found that it starves. If nobody watches, the group goes back.
    pub fn starves(&mut self) {
        if self.lookout.is_none() {
            self.end();
        }
    }

    /// Puts it back already.
    pub fn end(&mut self) {
        // first: it may be about to change the value
        self.lookout = None;
        if let Some(before) = self.before.take()
            && let Err(error) = set_group_nice(before)
        {
            tracing::warn!(%error, "our own session stays in the background");
        }
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        self.end();
    }
}

/// The nice value of our group: `/autogroup-25 nice 0`. `None` without autogroups.
fn group_nice() -> Option<i32> {
    let text = fs::read_to_string(AUTOGROUP).ok()?;
    text.split_whitespace().last()?.parse().ok()
}

fn set_group_nice(nice: i32) -> io::Result<()> {
    fs::write(AUTOGROUP, nice.to_string())
}

/// A real-time thread that keeps the group as far behind as it can be. Ends when dropped, and leaves the value as it happens to be.
///
/// A look costs some ten microseconds. Children of ours have no such thread (fork(2)).
#[derive(Debug)]
struct Lookout {
    thread: Option<JoinHandle<()>>,
    /// Its end is what the thread waits for.
    end: Option<Sender<()>>,
}

impl Lookout {
    const EVERY: Duration = Duration::from_millis(500);

    /// `None`: it cannot know, or not in time.
    fn start(before: i32) -> Option<Self> {
        let (end, ended) = channel();
        let (say, ready) = channel();
        let body = move || {
            let able = Times::own().is_some() && real_time() && set_group_nice(NICEST).is_ok();
            let _ = say.send(able);
            if able {
                watch(before, &ended);
            }
        };
        let thread = std::thread::Builder::new().name("courtesy".to_owned()).spawn(body).ok()?;
        let lookout = Lookout { thread: Some(thread), end: Some(end) };
        ready.recv().is_ok_and(|able| able).then_some(lookout)
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("what watches our share of the CPUs has panicked");
        }
    }
}

/// Makes the calling thread real-time, as little as can be. Whom it starts is not.
fn real_time() -> bool {
    const RESET_ON_FORK: u64 = 1;
    let Ok(own) = sched_attr(0) else { return false };
    let flags = own.flags | RESET_ON_FORK;
    set_sched_attr(0, &SchedAttr { policy: libc::SCHED_FIFO as u32, priority: 1, nice: 0, flags, ..own })
        .is_ok()
}

fn watch(before: i32, ended: &Receiver<()>) {
    let values = [NICEST, NICE, before];
    let mut courtesy = Courtesy::new(values.len() - 1);
    let mut share = Share::begin();
    let set = |nice: i32| match set_group_nice(nice) {
        Ok(()) => tracing::debug!(nice, "our session among others"),
        Err(error) => tracing::debug!(%error, nice, "the nice value of our session"),
    };
    while ended.recv_timeout(Lookout::EVERY) == Err(RecvTimeoutError::Timeout) {
        if courtesy.tick(share.starves()) {
            set(values[courtesy.step]);
        }
    }
}

/// How far behind the group is, step by step.
#[derive(Debug)]
struct Courtesy {
    /// 0: farthest.
    step: usize,
    last: usize,
    /// Looks since the last change.
    calm: u32,
    /// After how many that were well it tries what did not go before.
    patience: u32,
}

impl Courtesy {
    const PATIENCE: u32 = 4;
    const MOST: u32 = 64;

    fn new(last: usize) -> Self {
        Courtesy { step: 0, last, calm: 0, patience: Self::PATIENCE }
    }

    /// After each look. Returns whether the step is another one now.
    fn tick(&mut self, starves: bool) -> bool {
        let step = match starves {
            true => (self.step + 1).min(self.last),
            false if self.calm >= self.patience => self.step.saturating_sub(1),
            false => self.step,
        };
        self.calm = self.calm.saturating_add(1);
        if step > self.step {
            // each attempt costs a moment of standstill
            self.patience = (self.patience * 2).min(Self::MOST);
        }
        let changed = step != self.step;
        if changed || starves {
            (self.step, self.calm) = (step, 0);
        }
        changed
    }
}

/// For how long a thread has run, and been ready to run, in nanoseconds.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    ran: u64,
    waited: u64,
}

impl Times {
    /// Of the calling thread.
    fn own() -> Option<Self> {
        Self::of("/proc/thread-self/schedstat")
    }

    /// `RAN WAITED SLICES`. Nothing without `CONFIG_SCHED_INFO`.
    fn of(schedstat: &str) -> Option<Self> {
        let text = fs::read_to_string(schedstat).ok()?;
        let mut fields = text.split_whitespace().map(str::parse);
        Some(Times { ran: fields.next()?.ok()?, waited: fields.next()?.ok()? })
    }
}

/// Whether our threads together get next to nothing of the CPUs.
#[derive(Debug)]
struct Share {
    looked: Instant,
    threads: BTreeMap<i32, Times>,
}

impl Share {
    /// From now on.
    fn begin() -> Self {
        Share { looked: Instant::now(), threads: Self::threads() }
    }

    /// Since the last time. The kernel adds a wait when it is over: a thread that has not had a CPU at all is seen when it has.
    fn starves(&mut self) -> bool {
        let (looked, threads) = (Instant::now(), Self::threads());
        let (mut ran, mut waited) = (0, 0);
        for (tid, now) in &threads {
            let before = self.threads.get(tid).copied().unwrap_or_default();
            ran += now.ran.saturating_sub(before.ran);
            waited += now.waited.saturating_sub(before.waited);
        }
        let starves = next_to_nothing(ran, waited, looked - self.looked);
        *self = Share { looked, threads };
        starves
    }

    fn threads() -> BTreeMap<i32, Times> {
        let entries = fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let tids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        tids.filter_map(|tid: i32| Some((tid, Times::of(&format!("/proc/self/task/{tid}/schedstat"))?)))
            .collect()
    }
}

/// Ready to run for ten times as long as it ran, and for half of the time at least: who has little to do waits little.
fn next_to_nothing(ran: u64, waited: u64, window: Duration) -> bool {
    waited > ran.saturating_mul(10) && u128::from(waited) * 2 > window.as_nanos()
}

/// Whether a thread gets next to nothing of the CPUs, for a quarter of a second.
#[derive(Debug)]
pub struct Starving {
    looked: Instant,
    times: Times,
}

impl Starving {
    const WINDOW: Duration = Duration::from_millis(250);

    /// Of the calling thread, from now on.
    pub fn begin() -> Self {
        Starving { looked: Instant::now(), times: Times::own().unwrap_or_default() }
    }

    /// To be asked by the same thread now and then.
    pub fn look(&mut self) -> bool {
        let window = self.looked.elapsed();
        if window < Self::WINDOW {
            return false;
        }
        let Some(times) = Times::own() else { return false };
        let Times { ran, waited } = std::mem::replace(&mut self.times, times);
        self.looked = Instant::now();
        next_to_nothing(times.ran.saturating_sub(ran), times.waited.saturating_sub(waited), window)
    }
}

#[cfg(test)]
#[path = "own_session_tests.rs"]
mod tests;
