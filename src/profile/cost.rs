//! What being watched costs the process: CPU time and page faults with tracking against without, and how sure that is.
//!
//! Each first write to a page after a sample takes a page fault, which the kernel answers by itself. So tracking costs
//! the process faults, and the time of these. The faults are counted by the kernel. That the process does as much with
//! tracking as without is not known: all is counted in slices, before, with and after tracking, and how far the slices
//! differ among themselves says how sure the difference is.

use std::time::Duration;

use serde::Serialize;

/// What `/proc/PID/stat` counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counters {
    /// CPU time in user mode and in the kernel, of all threads.
    pub(crate) cpu: Duration,
    /// Page faults that needed no I/O.
    pub(crate) faults: u64,
}

/// What a process used within some time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Used {
    /// How long it was looked at.
    pub(crate) span: Duration,
    /// CPU time.
    pub(crate) cpu: Duration,
    /// Page faults.
    pub(crate) faults: u64,
}

impl Used {
    /// Between two readings `span` apart.
    pub(crate) fn between(before: Counters, after: Counters, span: Duration) -> Self {
        Used {
            span,
            cpu: after.cpu.saturating_sub(before.cpu),
            faults: after.faults.saturating_sub(before.faults),
        }
    }

    fn rates(&self) -> Rates {
        let seconds = self.span.as_secs_f64().max(1e-9);
        Rates {
            seconds: self.span.as_secs_f64(),
            cpu_ms_per_s: self.cpu.as_secs_f64() * 1e3 / seconds,
            faults_per_s: self.faults as f64 / seconds,
        }
    }
}

/// What a process used per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Rates {
    /// How long it was looked at, in seconds.
    pub(crate) seconds: f64,
    /// CPU time of all threads, in milliseconds per second.
    pub(crate) cpu_ms_per_s: f64,
    /// Minor page faults per second.
    pub(crate) faults_per_s: f64,
}

/// What tracking costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// How long a thread was stopped to install tracking, in milliseconds.
    pub(crate) attach_ms: f64,
    /// Without tracking, before it was installed.
    pub(crate) before: Option<Rates>,
    /// With tracking.
    pub(crate) tracked: Rates,
    /// Without tracking, after it was taken away.
    pub(crate) after: Option<Rates>,
    /// CPU time per second with tracking beyond that without, in milliseconds. Negative: less.
    pub(crate) extra_cpu_ms_per_s: Option<f64>,
    /// By how much that may be wrong (two standard errors), in milliseconds per second.
    pub(crate) uncertainty_ms_per_s: Option<f64>,
    /// Page faults per second with tracking beyond those without.
    pub(crate) extra_faults_per_s: Option<f64>,
    /// What the extra faults take at 1.2 to 1.8 microseconds each, in milliseconds per second.
    pub(crate) faults_ms_per_s: Option<[f64; 2]>,
    /// CPU time that watching took ulpm itself, in percent of one core.
    pub(crate) own_cpu_percent: f64,
}

/// What a fault on a protected page takes, in microseconds (measured on the test machine).
const FAULT_US: [f64; 2] = [1.2, 1.8];

impl Cost {
    /// From what was used before, with and after tracking, each in slices.
    pub(crate) fn of(before: &[Used], tracked: &[Used], after: &[Used]) -> Self {
        let without: Vec<Used> = before.iter().chain(after).copied().collect();
        let mut cost = Cost {
            before: total(before).map(|u| u.rates()),
            tracked: total(tracked).map(|u| u.rates()).unwrap_or_default(),
            after: total(after).map(|u| u.rates()),
            ..Cost::default()
        };
        let (Some(base), false) = (total(&without).map(|u| u.rates()), tracked.is_empty()) else {
            return cost;
        };
        cost.extra_cpu_ms_per_s = Some(cost.tracked.cpu_ms_per_s - base.cpu_ms_per_s);
        cost.uncertainty_ms_per_s = squared_error(&without)
            .zip(squared_error(tracked))
            .map(|(without, with)| 2.0 * (without + with).sqrt());
        let faults = cost.tracked.faults_per_s - base.faults_per_s;
        cost.extra_faults_per_s = Some(faults);
        cost.faults_ms_per_s = Some(FAULT_US.map(|us| faults.max(0.0) * us / 1e3));
        cost
    }

    /// Whether the difference in CPU time is larger than what it may be wrong by.
    pub(crate) fn is_certain(&self) -> bool {
        matches!((self.extra_cpu_ms_per_s, self.uncertainty_ms_per_s), (Some(e), Some(u)) if e.abs() > u)
    }
}

fn total(slices: &[Used]) -> Option<Used> {
    slices.iter().copied().reduce(|sum, u| Used {
        span: sum.span + u.span,
        cpu: sum.cpu + u.cpu,
        faults: sum.faults + u.faults,
    })
}

/// The square of the standard error of the mean CPU time per second; one slice says nothing about it.
fn squared_error(slices: &[Used]) -> Option<f64> {
    let n = slices.len() as f64;
    let rates: Vec<f64> = slices.iter().map(|u| u.rates().cpu_ms_per_s).collect();
    let mean = rates.iter().sum::<f64>() / n;
    (slices.len() > 1).then(|| rates.iter().map(|r| (r - mean).powi(2)).sum::<f64>() / (n - 1.0) / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slices(cpu_ms: &[u64], faults: u64) -> Vec<Used> {
        let slice =
            |ms: &u64| Used { span: Duration::from_millis(250), cpu: Duration::from_millis(*ms), faults };
        cpu_ms.iter().map(slice).collect()
    }

    #[test]
    fn the_difference_is_told_with_its_uncertainty() {
        let cost =
            Cost::of(&slices(&[25, 26, 24, 25], 0), &slices(&[35, 36, 34, 35], 500), &slices(&[25; 4], 0));
        assert_eq!(cost.extra_cpu_ms_per_s, Some(40.0));
        assert!(cost.is_certain() && cost.uncertainty_ms_per_s.unwrap() < 5.0, "{cost:?}");
        assert_eq!(cost.extra_faults_per_s, Some(2000.0));
        let [low, high] = cost.faults_ms_per_s.unwrap();
        assert!((low - 2.4).abs() < 1e-9 && (high - 3.6).abs() < 1e-9);
        assert_eq!(cost.before.unwrap().seconds, 1.0);
    }

    #[test]
    fn noise_is_not_called_a_cost() {
        let busier = slices(&[100, 20, 90, 30], 50);
        let cost = Cost::of(&slices(&[10, 70, 30, 90], 50), &busier, &slices(&[70, 20], 50));
        assert!(!cost.is_certain(), "{cost:?}");
        assert_eq!(cost.faults_ms_per_s, Some([0.0, 0.0]));
    }

    #[test]
    fn without_a_baseline_nothing_is_claimed() {
        let cost = Cost::of(&[], &slices(&[10, 10], 5), &[]);
        assert!(cost.extra_cpu_ms_per_s.is_none() && !cost.is_certain());
        assert_eq!(cost.tracked.faults_per_s, 20.0);
        assert!(Cost::of(&slices(&[10], 1), &slices(&[10], 1), &[]).uncertainty_ms_per_s.is_none());
    }
}
