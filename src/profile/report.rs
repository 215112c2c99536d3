//! The report of `ulpm profile`, as `--json` prints it.
//!
//! Times in milliseconds unless the name says otherwise, sizes in bytes, rates per second, bandwidths in bits per second.
//! Every field is always present; what was not measured is `null`. A page is 4096 bytes.

use serde::Serialize;

use super::cost::Cost;
use super::watch::End;

/// What was seen of a process, and what a move of it would be like.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProfileReport {
    /// The process.
    pub(crate) pid: i32,
    /// Its name (`comm`).
    pub(crate) name: String,
    /// Which dirty tracker was used, such as `wp-scan`.
    pub(crate) tracker: String,
    /// Why this tracker was taken.
    pub(crate) tracker_reason: String,
    /// Why it was watched no longer: `time`, `interrupted`, `process-ended`, `other-program`.
    pub(crate) ended: End,
    /// How long it was watched with tracking, in seconds.
    pub(crate) seconds: f64,
    /// How many samples were taken.
    pub(crate) samples: u64,
    /// The time between two, on average.
    pub(crate) interval_ms: f64,
    /// The longest time between two.
    pub(crate) longest_interval_ms: f64,
    /// Threads when it began.
    pub(crate) threads: u64,
    /// Memory present when it began.
    pub(crate) resident_bytes: u64,
    /// Pages that the first round of a move would send.
    pub(crate) present_pages: u64,
    /// What is written.
    pub(crate) dirty: Dirty,
    /// Distinct pages written within windows of 10 ms to 10 s.
    pub(crate) working_set: Vec<Window>,
    /// Mappings by what is written in them, hottest first.
    pub(crate) mappings: Vec<Mapping>,
    /// What tracking cost the process.
    pub(crate) cost: Cost,
    /// What a move would be like, for each goal and each bandwidth.
    pub(crate) table: Vec<Forecast>,
    /// What follows from that.
    pub(crate) recommendation: Vec<String>,
    /// What is to be known when this is read.
    pub(crate) notes: Vec<String>,
}

/// The dirty rate.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Dirty {
    /// Pages written per second on average, each counted once per sample.
    pub(crate) mean_pages_per_s: f64,
    /// The highest rate of `over_time`.
    pub(crate) max_pages_per_s: f64,
    /// The rate step by step.
    pub(crate) over_time: Vec<Rate>,
}

/// The dirty rate within one step.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Rate {
    /// When the step began, after watching did.
    pub(crate) at_ms: f64,
    /// How long it was.
    pub(crate) ms: f64,
    /// Pages written per second in it.
    pub(crate) pages_per_s: f64,
}

/// Windows of one length.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Window {
    /// The length.
    pub(crate) window_ms: f64,
    /// The length that they had on average: samples are not taken to the microsecond.
    pub(crate) real_ms: f64,
    /// How many there were.
    pub(crate) windows: u64,
    /// Distinct pages written in one, on average.
    pub(crate) mean_pages: f64,
    /// In the one with the most.
    pub(crate) max_pages: u64,
}

/// What is written in one mapping, or in all mappings of one file.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Mapping {
    /// `[heap]`, `[stack]`, a path, `memfd:NAME`, or `anonymous at ADDRESS`.
    pub(crate) name: String,
    /// Its size at the end, all parts; 0 if it is gone.
    pub(crate) size_bytes: u64,
    /// Pages written per second, each counted once per sample.
    pub(crate) pages_per_s: f64,
    /// Its part of all that was written, 0 to 1.
    pub(crate) share: f64,
}

/// What a move with one goal over one bandwidth would be like.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Forecast {
    /// The goal, `--max-freeze`; `null`: none.
    pub(crate) max_freeze_ms: Option<f64>,
    /// The bandwidth.
    pub(crate) bandwidth_bits_per_s: u64,
    /// Whether the goal is reached, or, without one, whether rounds come to an end by themselves.
    pub(crate) reached: bool,
    /// Rounds before the freeze.
    pub(crate) rounds: u64,
    /// From the first round to the end of the freeze.
    pub(crate) total_ms: f64,
    /// The predicted freeze.
    pub(crate) freeze_ms: f64,
    /// The same if it writes all the time as it did in its busiest moments.
    pub(crate) worst_freeze_ms: f64,
    /// Where the goal is not reached: for which part of the time `--on-divergence throttle` would stop the process to
    /// reach it, in percent; `null`: it would not help.
    pub(crate) throttle_percent: Option<u8>,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::profile::cost::Rates;

    /// A report with something in every field.
    pub(in crate::profile) fn sample() -> ProfileReport {
        let goals = [None, Some(5.0), Some(100.0)];
        let links = [100_000_000, 2_500_000_000];
        let forecast = |goal: Option<f64>, link| Forecast {
            max_freeze_ms: goal,
            bandwidth_bits_per_s: link,
            reached: goal != Some(5.0),
            rounds: 3,
            total_ms: 12_345.678,
            freeze_ms: 7.5,
            worst_freeze_ms: 9.0,
            throttle_percent: goal.filter(|g| *g == 5.0).map(|_| 40),
        };
        let rates = Rates { seconds: 1.0, cpu_ms_per_s: 100.0, faults_per_s: 20.0 };
        ProfileReport {
            pid: 4242,
            name: "a<b&c".into(),
            tracker: "wp-scan".into(),
            tracker_reason: "the best there is, and it works here".into(),
            ended: End::ProcessEnded,
            seconds: 2.0,
            samples: 200,
            interval_ms: 10.0,
            longest_interval_ms: 12.5,
            threads: 4,
            resident_bytes: 256 << 20,
            present_pages: 65_000,
            dirty: Dirty {
                mean_pages_per_s: 1500.0,
                max_pages_per_s: 2000.0,
                over_time: vec![
                    Rate { at_ms: 0.0, ms: 1000.0, pages_per_s: 1000.0 },
                    Rate { at_ms: 1000.0, ms: 1000.0, pages_per_s: 2000.0 },
                ],
            },
            working_set: vec![Window {
                window_ms: 10.0,
                real_ms: 10.1,
                windows: 200,
                mean_pages: 15.0,
                max_pages: 30,
            }],
            mappings: vec![Mapping {
                name: "[heap]".into(),
                size_bytes: 1 << 20,
                pages_per_s: 1500.0,
                share: 1.0,
            }],
            cost: Cost {
                attach_ms: 0.3,
                before: Some(rates),
                tracked: Rates { faults_per_s: 1520.0, ..rates },
                after: None,
                extra_cpu_ms_per_s: Some(2.0),
                uncertainty_ms_per_s: Some(5.0),
                extra_faults_per_s: Some(1500.0),
                faults_ms_per_s: Some([1.8, 2.7]),
                own_cpu_percent: 3.5,
            },
            table: goals.into_iter().flat_map(|g| links.map(|l| forecast(g, l))).collect(),
            recommendation: vec!["do this".into()],
            notes: vec!["know that".into()],
        }
    }

    #[test]
    fn json_is_one_document_with_every_key() {
        let json: serde_json::Value = serde_json::to_value(sample()).unwrap();
        assert_eq!(json["ended"], "process-ended");
        assert!(json["cost"]["after"].is_null() && json["table"][0]["max_freeze_ms"].is_null());
        assert_eq!(json["table"][2]["throttle_percent"], 40);
        assert_eq!(json["cost"]["before"]["faults_per_s"], 20.0);
    }
}
