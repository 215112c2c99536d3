//! Timers kept busy: a periodic timerfd whose expirations must agree with CLOCK_MONOTONIC, and
//! waits with a timeout that must not end early.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::unistd::read;

use super::board::Board;

const PERIOD: Duration = Duration::from_millis(5);
const WAIT: Duration = Duration::from_millis(3);
/// Beyond this the timer does not follow the clock.
const DRIFT_ALLOWED: Duration = Duration::from_millis(100);

/// Waits for the timers until told to stop.
pub(super) fn keep_busy(board: &Board) {
    if let Err(error) = follow_the_clock(board) {
        board.fail(format!("timerfd: {error}"));
    }
}

fn follow_the_clock(board: &Board) -> nix::Result<()> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    timer.set(Expiration::Interval(TimeSpec::from_duration(PERIOD)), TimerSetTimeFlags::empty())?;
    let start = Instant::now();
    // Nobody ever sends: a wait on it ends by its timeout or is wrong.
    let (_silent, never) = mpsc::channel::<()>();
    let mut ticks = 0_u64;
    let mut complained = false;
    while !board.stopping() {
        wait_with_timeout(board, &never);
        let mut count = [0; 8];
        let before = start.elapsed();
        read(timer.as_fd(), &mut count)?;
        ticks += u64::from_ne_bytes(count);
        board.ticks.store(ticks, Relaxed);
        let drift = drift(ticks, before, start.elapsed());
        board.timer_drift(drift);
        if drift > DRIFT_ALLOWED && !complained {
            complained = true;
            board.fail(format!("timerfd: {ticks} expirations are {drift:?} away from the clock"));
        }
    }
    Ok(())
}

/// How far so many expirations are from a clock that stood at `before` when the read began and at
/// `after` when it had ended.
fn drift(ticks: u64, before: Duration, after: Duration) -> Duration {
    let shown = PERIOD * u32::try_from(ticks).unwrap_or(u32::MAX);
    let behind = before.saturating_sub(shown + PERIOD);
    let ahead = shown.saturating_sub(after);
    behind.max(ahead)
}

fn wait_with_timeout(board: &Board, never: &mpsc::Receiver<()>) {
    let start = Instant::now();
    let ended = never.recv_timeout(WAIT);
    if ended != Err(RecvTimeoutError::Timeout) {
        board.fail("wait: something came through a channel nobody sends on");
    } else if start.elapsed() < WAIT {
        board.fail(format!("wait: a timeout of {WAIT:?} ended after {:?}", start.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_what_the_reads_cannot_explain() {
        let ms = Duration::from_millis;
        assert_eq!(drift(2, ms(9), ms(10)), ms(0));
        assert_eq!(drift(2, ms(14), ms(16)), ms(0));
        assert_eq!(drift(2, ms(40), ms(41)), ms(25));
        assert_eq!(drift(10, ms(20), ms(21)), ms(29));
    }
}
