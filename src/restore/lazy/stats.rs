//! What happened in the lazy phase, counted.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::space::{Content, Put};
use crate::image::PAGE_SIZE;
use crate::transport::lane::LazyReport;

/// Waits longer than this count as this.
const LONGEST_US: u64 = 3_600_000_000;

#[derive(Debug)]
pub(super) struct Stats {
    report: LazyReport,
    waits: Histogram<u64>,
    resumed: Instant,
}

impl Stats {
    pub(super) fn new() -> Self {
        // three digits: 0.1 %
        let waits = Histogram::new_with_bounds(1, LONGEST_US, 3);
        let waits = waits.unwrap_or_else(|_| unreachable!("the bounds are valid"));
        Stats { report: LazyReport::default(), waits, resumed: Instant::now() }
    }

    /// The process has been let go.
    pub(super) fn resumed(&mut self) {
        self.resumed = Instant::now();
    }

    /// A thread has got what it waited for.
    pub(super) fn waited(&mut self, took: Duration) {
        self.waits.saturating_record((took.as_micros() as u64).clamp(1, LONGEST_US));
    }

    /// Pages were placed.
    pub(super) fn placed(&mut self, put: &Put, content: &Content) {
        let fresh = (put.done / PAGE_SIZE).saturating_sub(put.present + put.nowhere);
        match content {
            Content::Data(_) => self.report.pages += fresh,
            Content::Zero => self.report.zero_pages += fresh,
        }
        self.report.twice += put.present;
        self.report.dropped_pages += put.nowhere;
    }

    /// The counters.
    pub(super) fn count(&mut self) -> &mut LazyReport {
        &mut self.report
    }

    /// All of it so far.
    pub(super) fn report(&self) -> LazyReport {
        let at = |share| if self.waits.is_empty() { 0 } else { self.waits.value_at_quantile(share) };
        let waits =
            (0..).map(|i| (1u64 << i, 1u64 << (i + 1))).take_while(|(from, _)| *from <= self.waits.max());
        let waits = waits.map(|(from, to)| (to, self.waits.count_between(from, to - 1)));
        LazyReport {
            faults: self.report.faults,
            waits: waits.filter(|(_, count)| *count > 0).collect(),
            p50_us: at(0.5),
            p99_us: at(0.99),
            max_us: at(1.0),
            ms: self.resumed.elapsed().as_secs_f64() * 1e3,
            ..self.report.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_counted_by_powers_of_two() {
        let mut stats = Stats::new();
        assert_eq!(stats.report().p50_us, 0);
        for us in [100, 100, 100, 3000] {
            stats.waited(Duration::from_micros(us));
        }
        let report = stats.report();
        assert_eq!(report.waits, [(128, 3), (4096, 1)]);
        assert_eq!((report.p50_us, report.p99_us / 100, report.max_us / 100), (100, 30, 30));
    }
}
