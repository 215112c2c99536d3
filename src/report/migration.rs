//! The report of one migration, as `--json` prints it.
//!
//! Field names, their order and their units are a contract (`docs/design.md`): times in milliseconds
//! with three decimals, sizes in bytes. Every field is always present; what was never measured or
//! never came to be (`target_pid` of a refused move, `observed_gap_ms` of a process that does not
//! measure itself) is `null`.

use serde::{Deserialize, Serialize, Serializer};

use crate::image::{Note, Obstacle};

/// What one migration did, how long each part took, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MigrationReport {
    /// The migration's identifier, the same in both hosts' logs and journals.
    pub id: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The process at the source.
    pub pid: i32,
    /// Where it was to go, as `ADDRESS:PORT`.
    pub target: String,
    /// The process as the target host sees it.
    pub target_pid: Option<i32>,
    /// Whether it kept its pid in the target's own namespace.
    pub pid_mode: PidMode,
    /// Processes moved.
    pub processes: u32,
    /// Threads moved, over all processes.
    pub threads: u32,
    /// Which dirty tracker was used, such as `wp-scan`.
    pub tracker: String,
    /// Memory present at the source when the first round began.
    pub resident_bytes: u64,
    /// Time the process was held up to install tracking, apart from the freeze.
    #[serde(serialize_with = "three_decimals")]
    pub attach_ms: f64,
    /// From the start of round 0 to the freeze.
    #[serde(serialize_with = "three_decimals")]
    pub precopy_ms: f64,
    /// The pre-copy rounds in order.
    pub rounds: Vec<Round>,
    /// From the first thread asked to stop at the source to the last let go at the target.
    #[serde(serialize_with = "three_decimals")]
    pub freeze_ms: f64,
    /// What the freeze consisted of.
    pub freeze_parts: FreezeParts,
    /// Pages sent inside the freeze.
    pub final_pages: u64,
    /// Everything sent, as counted on the wire.
    pub bytes_on_wire: u64,
    /// Whether every page was compared at both ends while the process was frozen (`--verify`).
    pub verified: bool,
    /// Pages that came after the process was let go.
    pub lazy: LazyStats,
    /// The longest silence that a self-measuring workload (demo, bench) saw.
    #[serde(serialize_with = "three_decimals_or_null")]
    pub observed_gap_ms: Option<f64>,
    /// Why it did not end as wished, as one line.
    pub error: Option<String>,
    /// Why this tracker was taken.
    #[serde(default)]
    pub tracker_reason: String,
    /// `freeze_ms` as it was predicted at the moment of stopping.
    #[serde(default, serialize_with = "three_decimals_or_null")]
    pub predicted_freeze_ms: Option<f64>,
    /// `freeze_parts` as they were predicted then.
    #[serde(default)]
    pub predicted_freeze_parts: FreezeParts,
    /// What differs at the target without having stood in the way.
    #[serde(default)]
    pub notes: Vec<Note>,
    /// What stood in the way of a move that was refused.
    #[serde(default)]
    pub obstacles: Vec<Obstacle>,
    /// Version of this document.
    #[serde(default)]
    pub schema: Schema,
}

/// Version of the JSON documents: raised when a field changes its meaning or goes, not when one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Schema(pub u32);

impl Default for Schema {
    fn default() -> Self {
        Schema(1)
    }
}

/// How a migration ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The process runs at the target.
    Moved,
    /// The process runs on at the source; something was tried and undone.
    Aborted,
    /// Preflight refused; the process was not touched.
    Refused,
    /// Nothing was moved, for another reason: no such process, no way to the target; or the process came to its own end.
    Failed,
    /// The process is gone: the copy at the source was ended before all memory had followed.
    Lost,
    /// What was typed makes no sense; nothing was touched.
    Usage,
    /// Not known (yet): `ulpm recover` settles it.
    #[default]
    Unknown,
}

/// Under which pid the process lives at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidMode {
    /// Its old pid, in the target's own pid namespace.
    #[default]
    Same,
    /// Its old pid inside a pid namespace made for it.
    Namespace,
}

/// One pre-copy round.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Round {
    /// Pages sent in it.
    pub pages: u64,
    /// Bytes it put on the wire.
    pub bytes_on_wire: u64,
    /// How long it took.
    #[serde(serialize_with = "three_decimals")]
    pub ms: f64,
    /// How fast the process wrote new pages meanwhile.
    pub dirty_pages_per_s: u64,
    /// Why another round followed, or why the freeze did.
    pub why_next: String,
    /// Pages that had been written since the round before (all that were present, in the first).
    #[serde(default)]
    pub written_pages: u64,
    /// Pages held back until the freeze, since they are written again and again.
    #[serde(default)]
    pub held_pages: u64,
    /// What finding the written pages took.
    #[serde(default, serialize_with = "three_decimals")]
    pub scan_ms: f64,
    /// Percent of the time for which the process was stopped meanwhile, to slow it down.
    #[serde(default)]
    pub throttle_percent: u8,
    /// The freeze, had it followed right after this round; null after the first.
    #[serde(default, serialize_with = "three_decimals_or_null")]
    pub predicted_freeze_ms: Option<f64>,
}

/// The freeze in its parts, in the order in which they happen. They need not add up to the whole
/// freeze: what lies between them is shown as "other" in the text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct FreezeParts {
    /// All threads come to rest.
    #[serde(serialize_with = "three_decimals")]
    pub stop: f64,
    /// State other than memory is read.
    #[serde(serialize_with = "three_decimals")]
    pub capture: f64,
    /// The last look for written pages.
    #[serde(serialize_with = "three_decimals")]
    pub scan: f64,
    /// What is left goes over the wire.
    #[serde(serialize_with = "three_decimals")]
    pub send: f64,
    /// The target puts it in place.
    #[serde(serialize_with = "three_decimals")]
    pub apply: f64,
    /// `PREPARED` to `COMMIT`, with both journals.
    #[serde(serialize_with = "three_decimals")]
    pub commit: f64,
    /// The threads are let go at the target.
    #[serde(serialize_with = "three_decimals")]
    pub resume: f64,
    /// Every page is hashed at both ends, and compared (`--verify`): after `send`.
    #[serde(default, serialize_with = "three_decimals")]
    pub verify: f64,
}

impl FreezeParts {
    /// All parts of one length.
    pub(crate) const fn all(ms: f64) -> Self {
        FreezeParts {
            stop: ms,
            capture: ms,
            scan: ms,
            send: ms,
            apply: ms,
            commit: ms,
            resume: ms,
            verify: ms,
        }
    }
}

/// Pages fetched on demand after the process was let go.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LazyStats {
    /// Pages that came late.
    pub pages: u64,
    /// Times the process had to wait for one.
    pub faults: u64,
    /// Median wait, in microseconds.
    pub fault_p50_us: u64,
    /// 99th percentile of the waits, in microseconds.
    pub fault_p99_us: u64,
    /// From the resume to the last page.
    #[serde(serialize_with = "three_decimals")]
    pub ms: f64,
    /// Pages that turned out to be zero when they were asked for.
    #[serde(default)]
    pub zero_pages: u64,
    /// Pages that the process gave up before they came.
    #[serde(default)]
    pub dropped_pages: u64,
    /// Pages that arrived and were there already.
    #[serde(default)]
    pub sent_twice: u64,
    /// Faults on pages with nothing behind them, answered with zeroes on the spot.
    #[serde(default)]
    pub zero_faults: u64,
    /// How many waits took how long: at most so many microseconds, count.
    #[serde(default)]
    pub waits: Vec<(u64, u64)>,
    /// The longest wait, in microseconds.
    #[serde(default)]
    pub max_us: u64,
    /// How often a lane had to be opened anew.
    #[serde(default)]
    pub reconnects: u64,
}

impl MigrationReport {
    /// The report of a move that preflight turned down.
    pub fn refused(pid: i32, target: impl Into<String>, error: impl Into<String>) -> Self {
        Self::ended(Outcome::Refused, pid, target.into(), error.into())
    }

    /// The report of a move that came to nothing for another reason.
    pub fn failed(pid: i32, target: impl Into<String>, error: impl Into<String>) -> Self {
        Self::ended(Outcome::Failed, pid, target.into(), error.into())
    }

    /// The report of a move that was undone: fields measured so far may be filled in afterwards.
    pub fn aborted(pid: i32, target: impl Into<String>, error: impl Into<String>) -> Self {
        Self::ended(Outcome::Aborted, pid, target.into(), error.into())
    }

    /// The report as one pretty-printed JSON document, without a final newline.
    pub fn to_json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self)
    }

    fn ended(outcome: Outcome, pid: i32, target: String, error: String) -> Self {
        Self { outcome, pid, target, error: Some(error), ..Self::default() }
    }
}

impl FreezeParts {
    /// The parts with their names, in order.
    pub fn named(&self) -> [(&'static str, f64); 8] {
        [
            ("stop", self.stop),
            ("capture", self.capture),
            ("scan", self.scan),
            ("send", self.send),
            ("verify", self.verify),
            ("apply", self.apply),
            ("commit", self.commit),
            ("resume", self.resume),
        ]
    }

    /// All parts together, in milliseconds.
    pub fn sum(&self) -> f64 {
        self.named().iter().map(|(_, ms)| ms).sum()
    }
}

fn three_decimals<S: Serializer>(ms: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(rounded(*ms))
}

fn three_decimals_or_null<S: Serializer>(ms: &Option<f64>, serializer: S) -> Result<S::Ok, S::Error> {
    match ms {
        Some(ms) => serializer.serialize_some(&rounded(*ms)),
        None => serializer.serialize_none(),
    }
}

/// JSON knows no NaN: a quotient of nothing counts as nothing.
fn rounded(ms: f64) -> f64 {
    if ms.is_finite() { (ms * 1000.0).round() / 1000.0 } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = r#"{"id":"a1","outcome":"moved","pid":4242,"target":"10.0.0.2:3490","target_pid":4242,"pid_mode":"same","processes":1,"threads":4,"tracker":"wp-scan","resident_bytes":268435456,"attach_ms":1.235,"precopy_ms":640.0,"rounds":[{"pages":65536,"bytes_on_wire":268500000,"ms":640.125,"dirty_pages_per_s":1000,"why_next":"2.6 MiB left","written_pages":65536,"held_pages":0,"scan_ms":2.5,"throttle_percent":0,"predicted_freeze_ms":null}],"freeze_ms":4.2,"freeze_parts":{"stop":0.4,"capture":0.5,"scan":0.6,"send":0.7,"apply":0.8,"commit":0.9,"resume":0.1,"verify":0.0},"final_pages":12,"bytes_on_wire":268600000,"verified":true,"lazy":{"pages":0,"faults":0,"fault_p50_us":0,"fault_p99_us":0,"ms":0.0,"zero_pages":0,"dropped_pages":0,"sent_twice":0,"zero_faults":0,"waits":[],"max_us":0,"reconnects":0},"observed_gap_ms":5.125,"error":null,"tracker_reason":"as asked for","predicted_freeze_ms":4.5,"predicted_freeze_parts":{"stop":0.0,"capture":4.5,"scan":0.0,"send":0.0,"apply":0.0,"commit":0.0,"resume":0.0,"verify":0.0},"notes":[{"object":"fd 4","what":"its queue is lost"}],"obstacles":[],"schema":1}"#;

    fn sample() -> MigrationReport {
        MigrationReport {
            id: "a1".into(),
            outcome: Outcome::Moved,
            pid: 4242,
            target: "10.0.0.2:3490".into(),
            target_pid: Some(4242),
            processes: 1,
            threads: 4,
            tracker: "wp-scan".into(),
            resident_bytes: 256 << 20,
            attach_ms: 1.234_567,
            precopy_ms: 640.0,
            rounds: vec![Round {
                pages: 65_536,
                bytes_on_wire: 268_500_000,
                ms: 640.125,
                dirty_pages_per_s: 1000,
                why_next: "2.6 MiB left".into(),
                written_pages: 65_536,
                scan_ms: 2.5,
                ..Round::default()
            }],
            freeze_ms: 4.2,
            freeze_parts: FreezeParts {
                stop: 0.4,
                capture: 0.5,
                scan: 0.6,
                send: 0.7,
                apply: 0.8,
                commit: 0.9,
                resume: 0.1,
                verify: 0.0,
            },
            final_pages: 12,
            bytes_on_wire: 268_600_000,
            verified: true,
            observed_gap_ms: Some(5.125),
            tracker_reason: "as asked for".into(),
            predicted_freeze_ms: Some(4.5),
            predicted_freeze_parts: FreezeParts { capture: 4.5, ..FreezeParts::default() },
            notes: vec![Note::new("fd 4", "its queue is lost")],
            ..MigrationReport::default()
        }
    }

    #[test]
    fn json_is_the_contract_word_for_word() {
        assert_eq!(serde_json::to_string(&sample()).unwrap(), GOLDEN);
    }

    #[test]
    fn json_comes_back_as_it_went() {
        let back: MigrationReport = serde_json::from_str(GOLDEN).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), GOLDEN);
    }

    #[test]
    fn a_refused_move_has_every_key() {
        let report = MigrationReport::refused(7, "b:3490", "fd 5 is a perf event");
        let json = serde_json::to_value(&report).unwrap();
        let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
        let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&json), keys(&golden));
        assert_eq!(json["outcome"], "refused");
        assert_eq!(json["error"], "fd 5 is a perf event");
        assert!(json["target_pid"].is_null() && json["observed_gap_ms"].is_null());
        assert_eq!(
            serde_json::to_value(MigrationReport::aborted(7, "b", "x")).unwrap()["outcome"],
            "aborted"
        );
        assert_eq!(serde_json::to_value(MigrationReport::default()).unwrap()["outcome"], "unknown");
        assert_eq!(serde_json::to_value(PidMode::Namespace).unwrap(), "namespace");
    }

    #[test]
    fn times_have_three_decimals_and_are_never_null() {
        let report = MigrationReport { freeze_ms: f64::NAN, precopy_ms: 0.000_4, ..sample() };
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["freeze_ms"], 0.0);
        assert_eq!(json["precopy_ms"], 0.0);
        assert!((sample().freeze_parts.sum() - 4.0).abs() < 1e-9);
    }
}
