//! The clock watcher: the longest silence a program sees, and clocks that jump.
//!
//! One thread does nothing but sleep for 100 µs and read CLOCK_MONOTONIC. Whatever keeps the
//! process from running shows as a distance between two readings beyond the usual one.

use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::board::Board;

const PAUSE: Duration = Duration::from_micros(100);
/// A sleep of 100 µs takes about this long with the default timer slack of 50 µs.
const USUAL_AT_FIRST: Duration = Duration::from_micros(160);
/// Longer distances are silences and say nothing of the usual one.
const USUAL_AT_MOST: Duration = Duration::from_millis(1);
/// Shorter silences are noise; not reporting them keeps this loop off the lock.
const REPORTED_FROM: Duration = Duration::from_micros(50);

/// Watches the clock until told to stop.
pub(super) fn watch(board: &Board) {
    let mut usual = USUAL_AT_FIRST;
    let mut last = monotonic();
    while !board.stopping() {
        thread::sleep(PAUSE);
        let now = monotonic();
        match now.checked_sub(last) {
            Some(distance) => {
                let gap = distance.saturating_sub(usual);
                if gap >= REPORTED_FROM {
                    board.gap(gap);
                }
                if distance < USUAL_AT_MOST {
                    usual = (usual * 63 + distance) / 64;
                }
            }
            None => {
                board.backwards.fetch_add(1, Relaxed);
                board.fail(format!("CLOCK_MONOTONIC went back by {:?}", last.saturating_sub(now)));
            }
        }
        last = now;
    }
}

/// CLOCK_MONOTONIC and CLOCK_BOOTTIME against the wall clock, which no migration touches.
pub(super) struct ClockCheck(Readings);

#[derive(Clone, Copy)]
struct Readings {
    monotonic: Duration,
    boottime: Duration,
    wall: Duration,
}

impl ClockCheck {
    /// Begins to compare.
    pub(super) fn start() -> Self {
        Self(Readings::take())
    }

    /// How much the worse of the two clocks has gained on the wall clock since the start.
    pub(super) fn shift_ms(&self) -> f64 {
        let now = Readings::take();
        let wall = passed(self.0.wall, now.wall);
        let monotonic = passed(self.0.monotonic, now.monotonic) - wall;
        let boottime = passed(self.0.boottime, now.boottime) - wall;
        if monotonic.abs() >= boottime.abs() { monotonic } else { boottime }
    }
}

impl Readings {
    /// Reads all three at practically one moment: a reading that was interrupted is repeated.
    fn take() -> Self {
        const AT_ONE_MOMENT: Duration = Duration::from_micros(20);
        let mut best: Option<(Duration, Self)> = None;
        for _ in 0..16 {
            let monotonic = self::monotonic();
            let readings = Self {
                monotonic,
                boottime: clock(ClockId::CLOCK_BOOTTIME),
                wall: clock(ClockId::CLOCK_REALTIME),
            };
            let took = self::monotonic().saturating_sub(monotonic);
            if best.is_none_or(|(shortest, _)| took < shortest) {
                best = Some((took, readings));
            }
            if took < AT_ONE_MOMENT {
                break;
            }
        }
        best.map_or(
            Self { monotonic: Duration::ZERO, boottime: Duration::ZERO, wall: Duration::ZERO },
            |(_, it)| it,
        )
    }
}

fn passed(from: Duration, to: Duration) -> f64 {
    (to.as_secs_f64() - from.as_secs_f64()) * 1000.0
}

fn monotonic() -> Duration {
    clock(ClockId::CLOCK_MONOTONIC)
}

fn clock(id: ClockId) -> Duration {
    // These clocks cannot fail on a kernel that can run this at all; zero would show as a jump.
    clock_gettime(id).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_that_are_left_alone_do_not_shift() {
        let check = ClockCheck::start();
        thread::sleep(Duration::from_millis(20));
        assert!(check.shift_ms().abs() < 5.0, "{}", check.shift_ms());
    }

    #[test]
    fn a_jump_is_seen() {
        let mut check = ClockCheck::start();
        check.0.boottime += Duration::from_secs(3);
        assert!((check.shift_ms() + 3000.0).abs() < 5.0, "{}", check.shift_ms());
    }
}
