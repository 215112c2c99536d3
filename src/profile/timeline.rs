//! The dirty rate over time, in steps coarse enough for a picture.

use std::time::Duration;

/// Steps that a whole watch is cut into.
const STEPS: u32 = 100;

/// The rate within one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Step {
    /// When it began, after the watch did.
    pub(crate) at: Duration,
    /// How long it was.
    pub(crate) span: Duration,
    /// Pages written per second; one that was written twice between two samples counts once.
    pub(crate) pages_per_s: f64,
}

/// Collects samples into steps.
#[derive(Debug)]
pub(crate) struct Timeline {
    step: Duration,
    steps: Vec<Step>,
    at: Duration,
    span: Duration,
    pages: u64,
}

impl Timeline {
    /// For a watch that is to take that long, with samples that far apart.
    pub(crate) fn new(whole: Duration, interval: Duration) -> Self {
        let step = (whole / STEPS).max(interval * 2);
        Timeline { step, steps: Vec::new(), at: Duration::ZERO, span: Duration::ZERO, pages: 0 }
    }

    /// Takes in that so many pages were written within `span`, which follows the last one.
    pub(crate) fn add(&mut self, span: Duration, pages: u64) {
        self.span += span;
        self.pages += pages;
        if self.span + span / 2 >= self.step {
            self.close();
        }
    }

    fn close(&mut self) {
        if self.span.is_zero() {
            return;
        }
        let pages_per_s = self.pages as f64 / self.span.as_secs_f64();
        self.steps.push(Step { at: self.at, span: self.span, pages_per_s });
        self.at += self.span;
        self.span = Duration::ZERO;
        self.pages = 0;
    }

    /// The steps. A rest that is too short to be one is left out.
    pub(crate) fn finish(mut self) -> Vec<Step> {
        if self.span >= self.step / 2 {
            self.close();
        }
        self.steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_tile_the_time() {
        let interval = Duration::from_millis(10);
        let mut line = Timeline::new(Duration::from_secs(10), interval);
        for n in 0..1003u64 {
            line.add(interval, if n < 500 { 20 } else { 0 });
        }
        let steps = line.finish();
        assert_eq!(steps.len(), 100);
        assert!(steps.windows(2).all(|w| w[0].at + w[0].span == w[1].at));
        assert_eq!(steps[10].pages_per_s, 2000.0);
        assert_eq!(steps[60].pages_per_s, 0.0);
    }

    #[test]
    fn a_short_watch_has_steps_of_several_samples() {
        let interval = Duration::from_millis(10);
        let mut line = Timeline::new(Duration::from_secs(1), interval);
        (0..100).for_each(|_| line.add(interval, 1));
        assert_eq!(line.finish().len(), 50);
    }
}
