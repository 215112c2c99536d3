//! What the workload's threads tell each other and the outside: counters, errors, gaps.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::options::Options;

const ERRORS_KEPT: usize = 8;
const GAPS_KEPT: usize = 8;
/// Shorter silences are scheduling, and not kept one by one.
const GAP_KEPT_FROM: Duration = Duration::from_micros(500);

/// What the workload says of itself in `status.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its process id as it sees it.
    pub pid: u32,
    /// Made up when it started and kept in its memory: a workload started anew has another.
    pub instance: String,
    /// Grows with every status written.
    pub sequence: u64,
    /// Whether all memory is filled and every kind of state is busy.
    pub ready: bool,
    /// Set once, at the end: whether everything was right.
    pub passed: Option<bool>,
    /// Pages of memory.
    pub pages: u64,
    /// Pages rewritten so far.
    pub pages_written: u64,
    /// Pages compared with what they must hold, at random and at the end.
    pub pages_checked: u64,
    /// Pages compared in the full pass at the end.
    pub pages_checked_at_end: u64,
    /// The rate of rewriting reached over the last second.
    pub dirty_pages_per_s: u64,
    /// Hops of the token that goes round through pipes.
    pub token_hops: u64,
    /// Records appended to a file and read back.
    pub file_records: u64,
    /// Expirations of the timer.
    pub timer_ticks: u64,
    /// How far the timer was from the clock at most.
    pub timer_drift_ms: f64,
    /// Things found wrong.
    pub errors: u64,
    /// The first of them in words.
    pub first_errors: Vec<String>,
    /// The longest silence since the last `reset-gap`.
    pub longest_gap_ms: f64,
    /// The longest silences since then, longest first.
    pub gaps: Vec<Gap>,
    /// Times CLOCK_MONOTONIC was seen going backwards.
    pub clock_backwards: u64,
    /// How much CLOCK_MONOTONIC or CLOCK_BOOTTIME gained on the wall clock since `reset-gap`.
    pub clock_shift_ms: f64,
    /// Whether CLOCK_MONOTONIC never ran backwards and never jumped.
    pub monotonic_consistent: bool,
}

/// One silence.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Gap {
    /// When it ended, since the last `reset-gap`.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
}

/// Counters shared by all threads.
pub(super) struct Board {
    instance: String,
    pages: u64,
    writers: usize,
    stopping: AtomicBool,
    filled: AtomicUsize,
    errors: AtomicU64,
    first_errors: Mutex<Vec<String>>,
    gaps: Mutex<Gaps>,
    timer_drift_us: AtomicU64,
    /// Pages rewritten.
    pub(super) written: AtomicU64,
    /// Pages checked at random.
    pub(super) checked: AtomicU64,
    /// Pages checked in the full pass at the end.
    pub(super) checked_at_end: AtomicU64,
    /// Hops of the token.
    pub(super) hops: AtomicU64,
    /// Records appended and read back.
    pub(super) records: AtomicU64,
    /// Timer expirations.
    pub(super) ticks: AtomicU64,
    /// Backward steps of CLOCK_MONOTONIC.
    pub(super) backwards: AtomicU64,
}

struct Gaps {
    since: Instant,
    longest: Duration,
    /// Longest first.
    kept: Vec<Gap>,
}

impl Board {
    pub(super) fn new(options: &Options) -> Self {
        Self {
            instance: made_up(),
            pages: super::options::page_count(options),
            writers: options.threads,
            stopping: AtomicBool::new(false),
            filled: AtomicUsize::new(0),
            errors: AtomicU64::new(0),
            first_errors: Mutex::default(),
            gaps: Mutex::new(Gaps::new()),
            timer_drift_us: AtomicU64::new(0),
            written: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            checked_at_end: AtomicU64::new(0),
            hops: AtomicU64::new(0),
            records: AtomicU64::new(0),
            ticks: AtomicU64::new(0),
            backwards: AtomicU64::new(0),
        }
    }

    /// Asks all threads to end.
    pub(super) fn stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    /// Whether all threads are to end.
    pub(super) fn stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    /// One writer has filled its memory.
    pub(super) fn filled(&self) {
        self.filled.fetch_add(1, Relaxed);
    }

    /// Something is wrong.
    pub(super) fn fail(&self, what: impl Into<String>) {
        self.errors.fetch_add(1, Relaxed);
        let mut first = lock(&self.first_errors);
        if first.len() < ERRORS_KEPT {
            first.push(what.into());
        }
    }

    /// The timer was so far from the clock.
    pub(super) fn timer_drift(&self, drift: Duration) {
        self.timer_drift_us.fetch_max(u64::try_from(drift.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// There was a silence.
    pub(super) fn gap(&self, length: Duration) {
        let mut gaps = lock(&self.gaps);
        gaps.longest = gaps.longest.max(length);
        if length >= GAP_KEPT_FROM {
            let at_ms = millis(gaps.since.elapsed());
            let ms = millis(length);
            let place = gaps.kept.partition_point(|gap| gap.ms >= ms);
            gaps.kept.insert(place, Gap { at_ms, ms });
            gaps.kept.truncate(GAPS_KEPT);
        }
    }

    /// Forgets the silences so far.
    pub(super) fn reset_gaps(&self) {
        *lock(&self.gaps) = Gaps::new();
    }

    /// Everything counted; the caller adds the rate, the clocks and the verdict.
    pub(super) fn status(&self) -> Status {
        let (longest, kept) = {
            let gaps = lock(&self.gaps);
            (gaps.longest, gaps.kept.clone())
        };
        let (hops, records, ticks) =
            (self.hops.load(Relaxed), self.records.load(Relaxed), self.ticks.load(Relaxed));
        let at_end = self.checked_at_end.load(Relaxed);
        let all_filled = self.filled.load(Relaxed) == self.writers;
        Status {
            pid: std::process::id(),
            instance: self.instance.clone(),
            ready: all_filled && hops > 0 && records > 0 && ticks > 0,
            pages: self.pages,
            pages_written: self.written.load(Relaxed),
            pages_checked: self.checked.load(Relaxed) + at_end,
            pages_checked_at_end: at_end,
            token_hops: hops,
            file_records: records,
            timer_ticks: ticks,
            timer_drift_ms: self.timer_drift_us.load(Relaxed) as f64 / 1000.0,
            errors: self.errors.load(Relaxed),
            first_errors: lock(&self.first_errors).clone(),
            longest_gap_ms: millis(longest),
            gaps: kept,
            clock_backwards: self.backwards.load(Relaxed),
            ..Status::default()
        }
    }
}

impl Gaps {
    fn new() -> Self {
        Self { since: Instant::now(), longest: Duration::ZERO, kept: Vec::with_capacity(GAPS_KEPT + 1) }
    }
}

/// A name that no other workload has.
fn made_up() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{:x}-{:x}", std::process::id(), now.as_nanos())
}

/// Whole microseconds, as milliseconds.
fn millis(duration: Duration) -> f64 {
    duration.as_micros() as f64 / 1000.0
}

/// A counter behind a poisoned lock is still right enough to be reported.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board() -> Board {
        Board::new(&Options { mem: 8192, dirty_rate: 1, threads: 1, dir: "d".into() })
    }

    #[test]
    fn the_longest_gaps_are_kept_in_order() {
        let board = board();
        for ms in [1, 9, 3, 7, 2, 8, 4, 6, 5, 10] {
            board.gap(Duration::from_millis(ms));
        }
        board.gap(Duration::from_micros(100));
        let status = board.status();
        assert_eq!(status.longest_gap_ms, 10.0);
        let kept: Vec<f64> = status.gaps.iter().map(|gap| gap.ms).collect();
        assert_eq!(kept, [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0]);
        board.reset_gaps();
        assert_eq!(board.status().longest_gap_ms, 0.0);
    }

    #[test]
    fn errors_are_counted_and_the_first_are_kept() {
        let board = board();
        for number in 0..20 {
            board.fail(format!("error {number}"));
        }
        let status = board.status();
        assert_eq!((status.errors, status.first_errors.len()), (20, ERRORS_KEPT));
        assert_eq!(status.first_errors[0], "error 0");
    }
}
