//! How many distinct pages are written within any length of time, from the windows that were measured.
//!
//! Between two windows, and beyond the first and the last, the curve is a power of the time with the slope that the nearest two windows
//! have: slope 1 is a process that writes ever new pages, slope 0 one that writes the same ones.

use std::time::Duration;

use super::windows::Windows;

/// A working-set curve.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Curve {
    /// Seconds and pages, both growing, no zeroes.
    points: Vec<(f64, f64)>,
    most: f64,
}

impl Curve {
    /// The average one; no more than `present` pages are ever written.
    pub(crate) fn mean(windows: &[Windows], present: u64) -> Self {
        Self::through(windows, present, |w| w.mean)
    }

    /// The worst: as many as in the window that had most.
    pub(crate) fn worst(windows: &[Windows], present: u64) -> Self {
        Self::through(windows, present, |w| w.max as f64)
    }

    /// The curve from 0.1 ms to about 17 minutes, close enough together for straight lines between.
    pub(crate) fn points(&self) -> Vec<(Duration, f64)> {
        const FROM_S: f64 = 1e-4;
        const PER_DECADE: f64 = 8.0;
        (0..=56)
            .map(|n| Duration::from_secs_f64(FROM_S * 10f64.powf(f64::from(n) / PER_DECADE)))
            .map(|at| (at, self.pages_within(at)))
            .collect()
    }

    fn through(windows: &[Windows], present: u64, pages: impl Fn(&Windows) -> f64) -> Self {
        let mut points: Vec<(f64, f64)> = Vec::new();
        for w in windows {
            let most = points.last().map_or(0.0, |last| last.1);
            // a longer window holds no less than a shorter one; its mean may by chance
            points.push((w.real.as_secs_f64(), pages(w).max(most)));
        }
        points.retain(|p| p.0 > 0.0 && p.1 > 0.0);
        let most = points.last().map_or(0.0, |last| last.1).max(present as f64);
        Curve { points, most }
    }

    /// Distinct pages written within that time.
    pub(crate) fn pages_within(&self, time: Duration) -> f64 {
        let t = time.as_secs_f64();
        let (Some(first), Some(last)) = (self.points.first(), self.points.last()) else { return 0.0 };
        if t <= 0.0 {
            return 0.0;
        }
        let at = self.points.partition_point(|p| p.0 < t);
        let (a, b) = match at {
            _ if self.points.len() == 1 => return (first.1 * t / first.0).min(self.most),
            0 => (*first, self.points[1]),
            n if n == self.points.len() => (self.points[n - 2], *last),
            n => (self.points[n - 1], self.points[n]),
        };
        let slope = ((b.1 / a.1).ln() / (b.0 / a.0).ln()).clamp(0.0, 1.0);
        let (from, pages) = if at == 0 {
            a
        } else if at == self.points.len() {
            b
        } else {
            a
        };
        (pages * (t / from).powf(slope)).min(self.most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows(pages: &[(u64, f64)]) -> Vec<Windows> {
        let window = |(ms, mean): &(u64, f64)| {
            let window = Duration::from_millis(*ms);
            Windows { window, real: window, count: 1, mean: *mean, max: *mean as u64 }
        };
        pages.iter().map(window).collect()
    }

    fn at(curve: &Curve, ms: u64) -> f64 {
        curve.pages_within(Duration::from_millis(ms)).round()
    }

    #[test]
    fn the_curve_goes_through_what_was_measured() {
        let curve = Curve::mean(&windows(&[(10, 20.0), (100, 200.0), (1000, 400.0)]), 10_000);
        assert_eq!([10, 100, 1000].map(|ms| at(&curve, ms)), [20.0, 200.0, 400.0]);
        // new pages below, mostly the same ones above
        assert_eq!(at(&curve, 5), 10.0);
        assert_eq!(at(&curve, 50), 100.0);
        assert_eq!(at(&curve, 10_000), 800.0);
        assert_eq!(at(&curve, 0), 0.0);
    }

    #[test]
    fn no_more_pages_are_written_than_there_are() {
        let curve = Curve::mean(&windows(&[(10, 1000.0), (100, 10_000.0)]), 50_000);
        assert_eq!(at(&curve, 60_000), 50_000.0);
    }

    #[test]
    fn a_hot_set_is_there_at_once_and_an_idle_process_writes_nothing() {
        let hot = Curve::mean(&windows(&[(10, 300.0), (100, 299.0), (1000, 300.0)]), 1000);
        assert_eq!([1, 10, 100, 5000].map(|ms| at(&hot, ms)), [300.0; 4]);
        let idle = Curve::mean(&windows(&[(10, 0.0), (100, 0.0)]), 1000);
        assert_eq!(at(&idle, 500), 0.0);
        assert_eq!(at(&Curve::mean(&windows(&[(10, 5.0)]), 100), 20), 10.0);
        assert_eq!(at(&Curve::default(), 10), 0.0);
    }
}
