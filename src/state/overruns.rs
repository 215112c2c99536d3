//! Expirations that the queued signal of a periodic POSIX timer will tell.
//!
//! Such a timer does not run while its signal waits. When the kernel takes the signal out of the queue it works out how many intervals
//! have gone by, tells them in `si_overrun`, and starts the timer again in its phase (`posixtimer_rearm`; since Linux 6.13
//! `__posixtimer_deliver_signal`). Until then nothing shows how many there were: the entry in the queue says 0, and
//! timer_getoverrun(2) speaks of the last signal that was taken.
//!
//! So the entry does not travel. The target sets the timer to the instant at which it fired: it fires at once, its kernel queues the
//! signal and counts what was missed, also during the move. When that was is found out here:
//! - A signal that the thread does not block was queued just now: one expiration.
//! - One that it blocks it takes out of the queue itself (`rt_sigtimedwait`), reads how many there were, and sets the timer back in the
//!   same way: it fires at once, and all is as before, but for what timer_getoverrun(2) says. That is asked only where no other signal
//!   of this number waits, which would be taken in its place; else one expiration is carried.

use std::time::Instant;

use super::error::StateError;
use super::signals;
use super::timers::{self, SECOND, TIMER_ABSTIME};
use crate::image::Note;
use crate::image::process::{PosixTimer, Siginfo};
use crate::tracee::freeze::Frozen;
use crate::tracee::{Batch, Outcome, Scratch, TraceeError};

/// Bytes of a `siginfo_t`.
const INFO: usize = 128;
/// Where `si_overrun` lies in it.
const OVERRUN: u64 = 20;

/// What becomes different.
pub const TOLD: &str = "timer_getoverrun(2) says 0 until the next signal at the target; expirations that a queued signal has gathered \
     are lost where others of its number are queued, or its clock counts CPU time";

/// Said of a process that has POSIX timers which signal.
pub fn note(timers: &[PosixTimer]) -> Option<Note> {
    let signals = |timer: &PosixTimer| timer.notify & !libc::SIGEV_THREAD_ID != libc::SIGEV_NONE;
    timers.iter().any(signals).then(|| Note::new("POSIX timers", TOLD))
}

/// What was queued before the timers were asked.
#[derive(Debug, Default)]
pub struct Queued {
    /// To the process.
    shared: Vec<Siginfo>,
    /// To threads, by their numbers as we know them.
    own: Vec<(i32, Vec<Siginfo>)>,
}

impl Queued {
    /// Looks into the queues of a process that has timers.
    pub fn look(frozen: &Frozen, timers: &[PosixTimer]) -> Result<Self, StateError> {
        if timers.is_empty() {
            return Ok(Self::default());
        }
        let own = frozen.threads.iter().map(|member| member.thread.0);
        let own = own.map(|tid| signals::queued(tid, false).map(|queue| (tid, queue)));
        let own = own.collect::<Result<_, StateError>>()?;
        Ok(Queued { shared: signals::queued(frozen.voice().0, true)?, own })
    }

    /// As one thread takes them: those to it first, then, if it is the one that speaks for the process, those to that.
    fn of(&self, tid: i32, speaks: bool) -> (&[Siginfo], &[Siginfo]) {
        let own = self.own.iter().find(|(of, _)| *of == tid).map_or(&[][..], |(_, own)| own.as_slice());
        (own, if speaks { &self.shared[..] } else { &[] })
    }
}

/// A stopped thread that executes calls.
pub struct Taker<'a> {
    /// Its number, as we know it.
    pub tid: i32,
    /// The process, as it knows itself.
    pub pid: i32,
    /// Whether it answers for the process.
    pub speaks: bool,
    /// Signals that it blocks.
    pub mask: u64,
    /// Signals that are pending to it alone.
    pub sigpnd: u64,
    /// For its calls.
    pub scratch: &'a Scratch,
    /// Executes them.
    pub run: &'a mut dyn FnMut(&Batch) -> Result<Outcome, TraceeError>,
}

/// Counts the expirations of timers whose signals wait for this thread. `read`: when their settings were.
pub fn count(
    posix: &mut [PosixTimer],
    queued: &Queued,
    taker: &mut Taker<'_>,
    read: Instant,
) -> Result<(), StateError> {
    let (own, shared) = queued.of(taker.tid, taker.speaks);
    for timer in posix.iter_mut().filter(|timer| timers::waits_for_its_signal(timer)) {
        let of_timer = |info: &&Siginfo| signals::timer_of(info) == Some(timer.id);
        let Some(signal) = own.iter().chain(shared).find(of_timer).map(|info| signals::number(info)) else {
            continue;
        };
        timer.expired = 1;
        let bit = 1u64 << (signal - 1).clamp(0, 63);
        let same = |queue: &[Siginfo]| queue.iter().filter(|info| signals::number(info) == signal).count();
        let alone = match own.iter().any(|info| of_timer(&info)) {
            true => same(own) == 1,
            false => same(shared) == 1 && taker.sigpnd & bit == 0,
        };
        if alone && taker.mask & bit != 0 {
            take(timer, bit, taker, read)?;
        }
    }
    Ok(())
}

/// Takes the timer's signal out of the queue and sets the timer to when it fired.
fn take(timer: &mut PosixTimer, set: u64, taker: &mut Taker<'_>, read: Instant) -> Result<(), StateError> {
    let mut batch = Batch::new(taker.scratch);
    let (set, info) = (batch.bytes(&set.to_le_bytes()), batch.space(INFO));
    let (at_once, setting, clock) = (batch.space(16), batch.space(32), batch.space(16));
    let taken = batch.attempt("rt_sigtimedwait", libc::SYS_rt_sigtimedwait, &[set, info, at_once, 8]);
    batch.call("clock_gettime", libc::SYS_clock_gettime, &[timer.clock as u64, clock]);
    batch.call("timer_gettime", libc::SYS_timer_gettime, &[timer.id as u64, setting]);
    let outcome = (taker.run)(&batch)?;
    // since the settings were read
    let later = i64::try_from(read.elapsed().as_nanos()).unwrap_or(i64::MAX);
    if outcome.results[taken] < 0 {
        // one of before the timer was set anew, which the kernel drops
        timer.expired = 0;
        return Ok(());
    }
    let bytes: Vec<u8> =
        (0..INFO as u64 / 8).flat_map(|i| outcome.word(info + i * 8).to_le_bytes()).collect();
    let mut batch = Batch::new(taker.scratch);
    if signals::timer_of(&bytes) != Some(timer.id) {
        signals::put_queued(&mut batch, taker.pid, 0, &[bytes]);
        return (taker.run)(&batch).map(drop).map_err(StateError::from);
    }
    timer.expired = (outcome.half(info + OVERRUN) as i32).max(0).saturating_add(1);
    let time = |at: u64| {
        (outcome.word(at) as i64).saturating_mul(SECOND).saturating_add(outcome.word(at + 8) as i64)
    };
    let (interval, left) = (time(setting), time(setting + 16));
    let fired = timers::fired(time(clock).saturating_add(left), interval, timer.expired);
    let back = batch.bytes(&timers::words(&timers::setting(interval, fired)));
    batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, TIMER_ABSTIME, back, 0]);
    (taker.run)(&batch)?;
    timer.setting = timers::setting(interval, left.saturating_add(later));
    Ok(())
}
