//! The working set: how many distinct pages are written within windows of 10 ms to 10 s.
//!
//! Windows of one length tile the time without gaps. Shorter windows are the pieces of longer ones, so a page set is
//! united into two or three others, not into all seven. A window is full when adding half of another piece would make it
//! too long: windows are as long as their name says to within half a piece, and how long they really were is kept.

use std::time::Duration;

use crate::image::RangeSet;

/// The windows, in milliseconds, and of which shorter window each is made (an index; the first is made of samples).
const LEVELS: [(u64, Option<usize>); 7] = [
    (10, None),
    (30, Some(0)),
    (100, Some(0)),
    (300, Some(1)),
    (1_000, Some(2)),
    (3_000, Some(3)),
    (10_000, Some(4)),
];

/// A window that is the last one may lack this part of its length.
const LAST_MAY_LACK: f64 = 0.1;
/// Windows that turned out longer than this many times their name are not reported under it.
const STRETCHED: f64 = 1.25;

/// What was seen of windows of one length.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Windows {
    /// The length they should have.
    pub(crate) window: Duration,
    /// The length that they had on average.
    pub(crate) real: Duration,
    /// How many there were.
    pub(crate) count: u64,
    /// Distinct pages written in one, on average.
    pub(crate) mean: f64,
    /// In the one with the most.
    pub(crate) max: u64,
}

#[derive(Debug, Default)]
struct Level {
    pages: RangeSet,
    span: Duration,
    count: u64,
    spans: Duration,
    sum: u64,
    max: u64,
}

impl Level {
    fn close(&mut self) -> (Duration, RangeSet) {
        let (span, pages) = (std::mem::take(&mut self.span), std::mem::take(&mut self.pages));
        let distinct = pages.pages();
        self.count += 1;
        self.spans += span;
        self.sum += distinct;
        self.max = self.max.max(distinct);
        (span, pages)
    }
}

/// Collects samples into windows.
#[derive(Debug, Default)]
pub(crate) struct WorkingSet {
    levels: [Level; LEVELS.len()],
}

impl WorkingSet {
    /// Takes in what was written within `span`, which follows the last one.
    pub(crate) fn add(&mut self, span: Duration, pages: &RangeSet) {
        self.add_to(0, span, pages);
    }

    fn add_to(&mut self, index: usize, span: Duration, pages: &RangeSet) {
        let level = &mut self.levels[index];
        pages.iter().for_each(|range| level.pages.insert(range));
        level.span += span;
        if level.span + span / 2 >= length(index) {
            let (span, pages) = level.close();
            self.pass_on(index, span, &pages);
        }
    }

    fn pass_on(&mut self, index: usize, span: Duration, pages: &RangeSet) {
        for (longer, (_, made_of)) in LEVELS.iter().enumerate() {
            if *made_of == Some(index) {
                self.add_to(longer, span, pages);
            }
        }
    }

    /// All windows that were seen whole and under their true length, shortest first.
    pub(crate) fn finish(mut self) -> Vec<Windows> {
        for index in 0..LEVELS.len() {
            let level = &mut self.levels[index];
            if level.span.is_zero() {
                continue;
            }
            let (span, pages) =
                if level.span.as_secs_f64() >= length(index).as_secs_f64() * (1.0 - LAST_MAY_LACK) {
                    level.close()
                } else {
                    (std::mem::take(&mut level.span), std::mem::take(&mut level.pages))
                };
            self.pass_on(index, span, &pages);
        }
        let seen = self.levels.iter().enumerate().filter(|(_, level)| level.count > 0);
        seen.map(|(index, level)| Windows {
            window: length(index),
            real: level.spans / u32::try_from(level.count).unwrap_or(u32::MAX),
            count: level.count,
            mean: level.sum as f64 / level.count as f64,
            max: level.max,
        })
        .filter(|w| w.real.as_secs_f64() <= w.window.as_secs_f64() * STRETCHED)
        .collect()
    }
}

fn length(index: usize) -> Duration {
    Duration::from_millis(LEVELS[index].0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{PAGE_SIZE, PageRange};

    const STEP: Duration = Duration::from_millis(10);

    fn page(n: u64) -> PageRange {
        PageRange::new(n * PAGE_SIZE, (n + 1) * PAGE_SIZE)
    }

    fn run(samples: u64, span: Duration, written: impl Fn(u64) -> Vec<u64>) -> Vec<Windows> {
        let mut set = WorkingSet::default();
        for n in 0..samples {
            set.add(span, &written(n).into_iter().map(page).collect());
        }
        set.finish()
    }

    #[test]
    fn the_same_pages_again_and_again_are_one_working_set() {
        let windows = run(1000, STEP, |_| vec![1, 2, 3]);
        assert_eq!(windows.len(), LEVELS.len());
        for w in &windows {
            assert_eq!((w.mean, w.max), (3.0, 3), "{w:?}");
            assert_eq!(w.real, w.window, "{w:?}");
        }
        assert_eq!(windows.iter().map(|w| w.count).collect::<Vec<_>>(), [1000, 333, 100, 33, 10, 3, 1]);
    }

    #[test]
    fn ever_new_pages_grow_with_the_window() {
        let windows = run(1000, STEP, |n| vec![2 * n]);
        for w in &windows {
            assert_eq!(w.mean, w.window.as_millis() as f64 / 10.0, "{w:?}");
        }
    }

    #[test]
    fn a_burst_shows_in_the_maximum() {
        let windows = run(1000, STEP, |n| if n == 500 { (0..100).collect() } else { vec![] });
        assert_eq!((windows[0].mean, windows[0].max), (0.1, 100));
        assert_eq!((windows[4].mean, windows[4].max), (10.0, 100));
    }

    #[test]
    fn what_samples_cannot_resolve_is_left_out() {
        // every 40 ms: nothing can be said of 10 and 30 ms, and 100 ms is at best 80
        let windows = run(250, Duration::from_millis(40), |n| vec![n]);
        let lengths: Vec<u128> = windows.iter().map(|w| w.window.as_millis()).collect();
        assert_eq!(lengths, [100, 300, 1000, 3000, 10_000]);
        assert!(windows.iter().all(|w| (w.mean - w.real.as_secs_f64() / 0.04).abs() < 1e-6), "{windows:?}");
    }

    #[test]
    fn a_watch_that_ends_a_little_early_still_has_its_longest_window() {
        let windows = run(970, STEP, |n| vec![n]);
        let longest = windows.last().unwrap();
        assert_eq!((longest.window.as_secs(), longest.count, longest.max), (10, 1, 970));
        let short = run(450, STEP, |n| vec![n]);
        assert_eq!(short.last().unwrap().window.as_secs(), 3);
        assert_eq!(run(0, STEP, |_| vec![]), []);
    }

    #[test]
    fn uneven_samples_keep_windows_about_their_length() {
        let mut set = WorkingSet::default();
        let mut n = 0;
        let mut time = Duration::ZERO;
        while time < Duration::from_secs(10) {
            let span = Duration::from_micros(9_000 + n * 7919 % 4000);
            set.add(span, &std::iter::once(page(n)).collect());
            time += span;
            n += 1;
        }
        for w in set.finish() {
            let ratio = w.real.as_secs_f64() / w.window.as_secs_f64();
            assert!((0.8..1.2).contains(&ratio), "{w:?}");
        }
    }
}
