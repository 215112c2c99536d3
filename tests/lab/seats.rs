//! How many trials run at once: always some, and more while the machine's processors have nothing to do. Most trials wait for most
//! of their time, and how much they work depends on the machine; so the kernel is asked (`/proc/stat`).

use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Trials at once on a machine with few cores, however busy it is.
const ALWAYS: usize = 2;
/// The same while processors are idle.
pub(crate) const MOST: usize = 8;
/// Idle is a machine with this share of its processor time to spare,
const SPARE: f64 = 0.3;
/// over this long; the work of a trial that has begun is seen after it.
const SPAN: Duration = Duration::from_millis(500);
/// Between two looks of a trial that waits.
const TICK: Duration = Duration::from_millis(20);

/// What a trial needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seat {
    /// It may run beside any other.
    Any,
    /// It measures times or rates: no more than [`ALWAYS`] run with it.
    Calm,
    /// It takes what all share: none runs with it.
    Alone,
}

impl Seat {
    /// Of how many trials it keeps the place.
    fn width(self) -> usize {
        if self == Seat::Alone { MOST } else { 1 }
    }
}

/// A seat that is taken, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken(Seat);

#[derive(Debug)]
struct Room {
    taken: usize,
    calm: usize,
    /// Ticks of all processors, idle and in all, when a look was taken last.
    looked: Option<(Instant, u64, u64)>,
}

static ROOM: Mutex<Room> = Mutex::new(Room { taken: 0, calm: 0, looked: None });

fn room() -> MutexGuard<'static, Room> {
    ROOM.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Waits until a trial may begin.
pub(crate) fn take(seat: Seat) -> Taken {
    loop {
        let mut room = room();
        let free = match seat {
            Seat::Any => room.taken < ALWAYS || room.calm == 0 && room.taken < MOST && room.is_idle(),
            Seat::Calm => room.taken < ALWAYS,
            Seat::Alone => room.taken == 0,
        };
        if free {
            room.taken += seat.width();
            room.calm += usize::from(seat == Seat::Calm);
            room.looked = ticks();
            return Taken(seat);
        }
        drop(room);
        std::thread::sleep(TICK);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut room = room();
        room.taken -= self.0.width();
        room.calm -= usize::from(self.0 == Seat::Calm);
    }
}

impl Room {
    /// Whether the last [`SPAN`], since which no trial has begun, had time to spare.
    fn is_idle(&mut self) -> bool {
        let Some((at, idle, all)) = self.looked else {
            self.looked = ticks();
            return false;
        };
        if at.elapsed() < SPAN {
            return false;
        }
        self.looked = ticks();
        let Some((_, now_idle, now_all)) = self.looked else { return false };
        now_idle.saturating_sub(idle) as f64 >= SPARE * now_all.saturating_sub(all).max(1) as f64
    }
}

/// Idle time and all time of all processors since the boot, in ticks: the first line of `/proc/stat`.
fn ticks() -> Option<(Instant, u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    // user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two
    let times: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|time| time.parse().ok())
        .collect();
    Some((Instant::now(), times.get(3)? + times.get(4)?, times.iter().sum()))
}
