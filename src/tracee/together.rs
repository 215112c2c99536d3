//! Tracer and tracee on one CPU, ahead of everything else, for the moments that count.
//!
//! A remote call is a switch to the tracee and back. Across cores that is two wake-ups of a sleeping core (about
//! 290 µs), on one CPU two switches (about 20 µs). On a busy host each switch also waits for somebody's time
//! slice, milliseconds long, unless both threads run under `SCHED_FIFO`. Where that is not permitted
//! (`CAP_SYS_NICE`) it is done without.

use super::thread::Thread;
use crate::sys::process::{SchedAttr, affinity, only, sched_attr, set_affinity, set_sched_attr};

const SCHED_FIFO: u32 = 1;
/// Nine times the share of an ordinary thread.
const FAVOURED: i32 = -10;

/// The calling thread, made urgent; as it was when dropped.
#[derive(Debug)]
pub struct Urgent {
    mask: Option<Vec<u8>>,
    sched: Option<SchedAttr>,
}

impl Urgent {
    /// Makes the calling thread urgent.
    pub fn begin() -> Self {
        let sched = sched_attr(0).ok();
        if let Some(own) = sched {
            let _ = set_sched_attr(0, &urgent(own, Haste::Soon));
        }
        Urgent { mask: affinity(0).ok(), sched }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        if let Some(mask) = &self.mask {
            let _ = set_affinity(0, mask);
        }
        if let Some(sched) = &self.sched {
            let _ = set_sched_attr(0, sched);
        }
    }
}

/// For what others wait for, and what is no matter of moments: ahead of ordinary threads.
pub fn favoured(own: SchedAttr) -> SchedAttr {
    SchedAttr { nice: own.nice.min(FAVOURED), ..own }
}

/// Makes the calling thread [`favoured`], for good, where that is permitted.
fn favour() {
    if let Ok(own) = sched_attr(0) {
        let _ = set_sched_attr(0, &favoured(own));
    }
}

/// How much a thread is waited for that carries pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Haste {
    /// Somebody may come to wait for what it carries.
    Soon = 1,
    /// Somebody waits for some of it.
    Next = 2,
    /// Somebody waits for all of it.
    Now = 3,
}

/// How a thread was before it was made urgent.
#[derive(Debug)]
pub struct Unhurried {
    sched: SchedAttr,
    mask: Option<Vec<u8>>,
}

impl Unhurried {
    /// Makes a thread that again.
    pub fn restore(&self, tid: i32) -> Result<(), nix::errno::Errno> {
        let mask = self.mask.as_ref().map_or(Ok(()), |mask| set_affinity(tid, mask));
        set_sched_attr(tid, &self.sched).and(mask)
    }
}

/// For what threads wait for that cannot run without it, as long as there are such: ahead of all that is ordinary, where that is
/// permitted; otherwise favoured. Children are neither. Returns how the calling thread was, if it has changed.
///
/// Nice values alone do not do it: with `sched_autogroup_enabled` they count within a session only (sched(7)), and who has become
/// runnable waits for the end of somebody's time slice.
pub fn hasten(haste: Haste) -> Option<Unhurried> {
    const RESET_ON_FORK: u64 = 1;
    let own = sched_attr(0).ok()?;
    let flags = own.flags | RESET_ON_FORK;
    match set_sched_attr(0, &SchedAttr { flags, ..urgent(own, haste) }) {
        // to take the flag back would need CAP_SYS_NICE
        Ok(()) => Some(Unhurried { sched: SchedAttr { flags, ..own }, mask: None }),
        Err(_) => {
            favour();
            None
        }
    }
}

/// As [`hasten`], for threads that wait for one another in turn: they come together on the last CPU that they may use (the first ones
/// have most interrupts). To wake a thread takes 8 µs there, and 30 on another CPU of the test machine.
///
/// Only if they are urgent there: among ordinary threads they would wait for their share of that one CPU.
pub fn hasten_together(haste: Haste) -> Option<Unhurried> {
    let mut before = hasten(haste)?;
    let mask = affinity(0).unwrap_or_default();
    let last = (0..mask.len() * 8).rfind(|cpu| mask[cpu / 8] & 1 << (cpu % 8) != 0);
    if last.is_some_and(|cpu| set_affinity(0, &only(cpu)).is_ok()) {
        before.mask = Some(mask);
    }
    Some(before)
}

/// Does something ahead of what is urgent, too: our helper threads may be at work on the CPU where it is to be done. For
/// microseconds only.
pub fn ahead_of_the_urgent<T>(work: impl FnOnce() -> T) -> T {
    let urgent = sched_attr(0).ok().filter(|own| own.policy == SCHED_FIFO);
    let raised = urgent.filter(|own| {
        set_sched_attr(0, &SchedAttr { priority: own.priority.saturating_add(1), ..*own }).is_ok()
    });
    let result = work();
    if let Some(own) = raised {
        let _ = set_sched_attr(0, &own);
    }
    result
}

/// Brings the calling thread to a CPU; [`Urgent`] remembers where it was.
pub fn go_to(cpu: usize) {
    let _ = set_affinity(0, &only(cpu));
}

/// Takes a helper thread, which inherits our CPU and priority, to the other CPUs, if there are any.
pub fn leave_to_others(all: &[u8]) {
    let Ok(own) = nix::sched::sched_getcpu() else { return };
    let mut others = all.to_vec();
    if let Some(byte) = others.get_mut(own / 8) {
        *byte &= !(1 << (own % 8));
    }
    others.resize(others.len().next_multiple_of(8), 0);
    let _ = set_affinity(0, if others.iter().any(|b| *b != 0) { &others } else { all });
}

/// The scheduling of a thread as it is without us.
#[derive(Clone, Debug)]
pub struct Plain {
    thread: Thread,
    sched: Option<SchedAttr>,
    slack: Option<u64>,
}

impl Plain {
    /// Looks.
    pub fn of(thread: Thread) -> Self {
        let slack = std::fs::read_to_string(slack_of(thread)).ok().and_then(|s| s.trim().parse().ok());
        Plain { thread, sched: sched_attr(thread.0).ok(), slack }
    }

    /// The calls with which the thread itself puts it back, when the attributes lie at `attributes`.
    pub(super) fn calls(&self, attributes: u64) -> Vec<(i64, [u64; 3])> {
        let sched = self.sched.map(|_| (libc::SYS_sched_setattr, [0, attributes, 0]));
        let slack = self.slack.map(|slack| (libc::SYS_prctl, [libc::PR_SET_TIMERSLACK as u64, slack, 0]));
        sched.into_iter().chain(slack).collect()
    }

    /// What lies there.
    pub(super) fn bytes(&self) -> Vec<u8> {
        self.sched.map(|sched| sched.bytes()).unwrap_or_default()
    }

    fn put_back(&self) -> std::io::Result<()> {
        let Some(sched) = &self.sched else { return Ok(()) };
        set_sched_attr(self.thread.0, sched)?;
        self.slack.map_or(Ok(()), |slack| std::fs::write(slack_of(self.thread), slack.to_string()))
    }
}

/// A stopped thread, made urgent; as it was when dropped.
#[derive(Debug)]
pub struct UrgentTracee {
    plain: Option<Plain>,
}

impl UrgentTracee {
    /// Makes it urgent.
    pub fn begin(thread: Thread) -> Self {
        Self::from(Plain::of(thread))
    }

    /// Leaves it urgent: its attributes will be set by the caller.
    pub fn keep(mut self) {
        self.plain = None;
    }
}

impl From<Plain> for UrgentTracee {
    /// Makes it urgent. A real-time thread has no timer slack, and one that ceases to be gets the default
    /// (`__setscheduler_params`): so that is put back, too, and a thread whose slack we may not know stays as it is
    /// (an ordinary user's, whom `RLIMIT_RTPRIO` lets have such threads).
    fn from(plain: Plain) -> Self {
        let own = plain.slack.and(plain.sched);
        let urgent = own.is_some_and(|s| set_sched_attr(plain.thread.0, &urgent(s, Haste::Soon)).is_ok());
        UrgentTracee { plain: urgent.then_some(plain) }
    }
}

impl Drop for UrgentTracee {
    fn drop(&mut self) {
        if let Some(plain) = &self.plain
            && let Err(e) = plain.put_back()
        {
            tracing::debug!(tid = plain.thread.0, error = %e, "scheduling attributes not put back");
        }
    }
}

fn slack_of(thread: Thread) -> String {
    format!("/proc/{}/timerslack_ns", thread.0)
}

/// One of the lowest real-time priorities: ahead of ordinary threads, behind all others. Who has one already keeps it.
fn urgent(own: SchedAttr, haste: Haste) -> SchedAttr {
    if own.policy == SCHED_FIFO
        || own.policy == libc::SCHED_DEADLINE as u32
        || own.policy == libc::SCHED_RR as u32
    {
        return own;
    }
    SchedAttr { policy: SCHED_FIFO, priority: haste as u32, nice: 0, ..own }
}
