//! The report of `ulpm profile`, as `--json` prints it.
//!
//! Times in milliseconds unless the name says otherwise, sizes in bytes, rates per second, bandwidths in bits per second.
//! Every field is always present; what was not measured is `null`. A page is 4096 bytes.

use serde::Serialize;

use super::cost::Cost;
use super::watch::End;

/// What was seen of a process, and what a move of it would be like.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileReport {
    /// The process.
    pub pid: i32,
    /// Its name (`comm`).
    pub name: String,
    /// Which dirty tracker was used, such as `wp-scan`.
    pub tracker: String,
    /// Why this tracker was taken.
    pub tracker_reason: String,
    /// Why it was watched no longer: `time`, `interrupted`, `process-ended`, `other-program`.
    pub ended: End,
    /// How long it was watched with tracking, in seconds.
    pub seconds: f64,
    /// How many samples were taken.
    pub samples: u64,
    /// The time between two, on average.
    pub interval_ms: f64,
    /// The longest time between two.
    pub longest_interval_ms: f64,
    /// Threads when it began.
    pub threads: u64,
    /// Memory present when it began.
    pub resident_bytes: u64,
    /// Pages that the first round of a move would send.
    pub present_pages: u64,
    /// What is written.
    pub dirty: Dirty,
    /// Distinct pages written within windows of 10 ms to 10 s.
    pub working_set: Vec<Window>,
    /// Mappings by what is written in them, hottest first.
    pub mappings: Vec<Mapping>,
    /// What tracking cost the process.
    pub cost: Cost,
    /// What a move would be like, for each goal and each bandwidth.
    pub table: Vec<Forecast>,
    /// What follows from that.
    pub recommendation: Vec<String>,
    /// What is to be known when this is read.
    pub notes: Vec<String>,
}

/// The dirty rate.
#[derive(Clone, Debug, Serialize)]
pub struct Dirty {
    /// Pages written per second on average, each counted once per sample.
    pub mean_pages_per_s: f64,
    /// The highest rate of `over_time`.
    pub max_pages_per_s: f64,
    /// The rate step by step.
    pub over_time: Vec<Rate>,
}

/// The dirty rate within one step.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Rate {
    /// When the step began, after watching did.
    pub at_ms: f64,
    /// How long it was.
    pub ms: f64,
    /// Pages written per second in it.
    pub pages_per_s: f64,
}

/// Windows of one length.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Window {
    /// The length.
    pub window_ms: f64,
    /// The length that they had on average: samples are not taken to the microsecond.
    pub real_ms: f64,
    /// How many there were.
    pub windows: u64,
    /// Distinct pages written in one, on average.
    pub mean_pages: f64,
    /// In the one with the most.
    pub max_pages: u64,
}

/// What is written in one mapping, or in all mappings of one file.
#[derive(Clone, Debug, Serialize)]
pub struct Mapping {
    /// `[heap]`, `[stack]`, a path, `memfd:NAME`, or `anonymous at ADDRESS`.
    pub name: String,
    /// Its size at the end, all parts; 0 if it is gone.
    pub size_bytes: u64,
    /// Pages written per second, each counted once per sample.
    pub pages_per_s: f64,
    /// Its part of all that was written, 0 to 1.
    pub share: f64,
}

/// What a move with one goal over one bandwidth would be like.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// The goal, `--max-freeze`; `null`: none.
    pub max_freeze_ms: Option<f64>,
    /// The bandwidth.
    pub bandwidth_bits_per_s: u64,
    /// Whether the goal is reached, or, without one, whether rounds come to an end by themselves.
    pub reached: bool,
    /// Rounds before the freeze.
    pub rounds: u64,
    /// From the first round to the end of the freeze.
    pub total_ms: f64,
    /// The predicted freeze.
    pub freeze_ms: f64,
    /// The same if it writes all the time as it did in its busiest moments.
    pub worst_freeze_ms: f64,
    /// Where the goal is not reached: for which part of the time `--on-divergence throttle` would stop the process to
    /// reach it, in percent; `null`: it would not help.
    pub throttle_percent: Option<u8>,
}

impl ProfileReport {
    /// The report as one pretty-printed JSON document, without a final newline.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }
}
