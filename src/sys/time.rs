//! Clocks across time namespaces, and a ticker that breaks blocking waits.
#![allow(unsafe_code)]

use std::io;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigEvent, SigHandler, SigSet, SigevNotify, Signal, sigaction};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::{ClockId, clock_gettime};

/// A reading of a clock in nanoseconds.
pub fn now_ns(clock: ClockId) -> i64 {
    clock_gettime(clock).map_or(0, |t| t.tv_sec() * 1_000_000_000 + t.tv_nsec())
}

/// What a task's clocks read beyond the ones of the initial time namespace, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ClockOffsets {
    /// `CLOCK_MONOTONIC`.
    pub monotonic_ns: i64,
    /// `CLOCK_BOOTTIME`.
    pub boottime_ns: i64,
}

impl ClockOffsets {
    /// Reads `/proc/PID/timens_offsets` (time_namespaces(7)); zero where the kernel has no time namespaces.
    pub fn of(pid: &str) -> Self {
        let mut offsets = ClockOffsets::default();
        let Ok(text) = std::fs::read_to_string(format!("/proc/{pid}/timens_offsets")) else { return offsets };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let (Some(name), Some(Ok(s)), Some(Ok(ns))) =
                (words.next(), words.next().map(str::parse::<i64>), words.next().map(str::parse::<i64>))
            else {
                continue;
            };
            match name {
                "monotonic" => offsets.monotonic_ns = s * 1_000_000_000 + ns,
                "boottime" => offsets.boottime_ns = s * 1_000_000_000 + ns,
                _ => {}
            }
        }
        offsets
    }
}

/// Our clocks as they are in the initial time namespace.
pub fn initial_clocks() -> ClockOffsets {
    let own = ClockOffsets::of("self");
    ClockOffsets {
        monotonic_ns: now_ns(ClockId::CLOCK_MONOTONIC) - own.monotonic_ns,
        boottime_ns: now_ns(ClockId::CLOCK_BOOTTIME) - own.boottime_ns,
    }
}

/// How long ago that reading of our boottime clock was, as it is in the initial time namespace.
pub fn since_boottime(boottime_ns: i64) -> Duration {
    Duration::from_nanos(initial_clocks().boottime_ns.saturating_sub(boottime_ns).max(0) as u64)
}

extern "C" fn nothing(_: libc::c_int) {}

/// Sends a harmless signal to the calling thread every so often, so that a blocking `waitpid` returns
/// `EINTR` and a deadline can be looked at. A stuck tracee (uninterruptible sleep) must not hang us.
#[derive(Debug)]
pub struct Ticker {
    _timer: Timer,
}

/// SIGURG: ignored by default, so a tick that arrives late hurts nobody.
const TICK: Signal = Signal::SIGURG;

/// Lets ticks through while `wait` runs; elsewhere they stay blocked, so that no other call sees `EINTR`.
pub fn interruptible<T>(wait: impl FnOnce() -> T) -> T {
    let mut tick = SigSet::empty();
    tick.add(TICK);
    let _ = tick.thread_unblock();
    let result = wait();
    let _ = tick.thread_block();
    result
}

impl Ticker {
    /// Starts ticking for the calling thread; dropping stops it.
    pub fn start(period: Duration) -> io::Result<Self> {
        let mut tick = SigSet::empty();
        tick.add(TICK);
        tick.thread_block()?;
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, so it is safe in any context.
        unsafe { sigaction(TICK, &action) }?;
        let notify = SigevNotify::SigevThreadId {
            signal: TICK,
            thread_id: nix::unistd::gettid().as_raw(),
            si_value: 0,
        };
        let timer = Timer::new(ClockId::CLOCK_MONOTONIC, SigEvent::new(notify));
        let mut timer = timer.map_err(|e| match e {
            Errno::EAGAIN => io::Error::other(
                "timers and queued signals of this user have reached their limit (RLIMIT_SIGPENDING; `SigQ:` in \
                 /proc/self/status): raise it (`ulimit -i`), or end the process that queues so many",
            ),
            other => other.into(),
        })?;
        timer.set(Expiration::Interval(period.into()), TimerSetTimeFlags::empty())?;
        Ok(Ticker { _timer: timer })
    }
}

/// A point in time by which something must have happened.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// That long from now.
    pub fn after(span: Duration) -> Self {
        Deadline(Instant::now() + span)
    }

    /// Whether it is past.
    pub fn passed(self) -> bool {
        Instant::now() >= self.0
    }
}
