//! What a session has in hand of a process on its way here.

use std::time::Instant;

use super::RestoreError;
use super::builder::Builder;
use super::urgency::Stage;
use crate::handover::journal::Journal;
use crate::handover::{Driver, Target};
use crate::image::ProcessIndex;
use crate::image::process::LateSignal;
use crate::tracee::together::Urgent;

/// A process on its way here.
pub(super) struct Work {
    pub(super) id: String,
    pub(super) builder: Builder,
    pub(super) journal: Journal,
    /// The machine that says what becomes of it.
    pub(super) driver: Driver<Target>,
    /// What its actions work on.
    pub(super) commit: Commit,
    /// What hashing all pages took.
    pub(super) verify_ms: f64,
    /// When the freeze began, on our boottime clock.
    pub(super) frozen_ns: i64,
    /// Bytes that have come since the memory was last held against what the peer may bring.
    pub(super) unweighed: u64,
    /// How urgent all this is.
    pub(super) stage: Stage,
}

impl Work {
    /// Of a skeleton that is empty yet.
    pub(super) fn new(id: &str, builder: Builder, journal: Journal) -> Self {
        Work {
            id: id.to_owned(),
            builder,
            journal,
            driver: Driver::new(Target::Building),
            commit: Commit::new(),
            verify_ms: 0.0,
            frozen_ns: 0,
            unweighed: 0,
            stage: Stage::rounds(),
        }
    }
}

/// What the actions need besides the process, and what of them is told.
#[derive(Debug)]
pub(super) struct Commit {
    /// When the state had arrived, then `Commit`.
    pub(super) begun: Instant,
    /// Signals that came with it.
    pub(super) signals: Vec<(ProcessIndex, Vec<LateSignal>)>,
    /// Threads that run already must not keep us from letting go of the others.
    pub(super) urgent: Option<Urgent>,
    /// When the process was let go, on our boottime clock.
    pub(super) at_boottime_ns: i64,
    pub(super) journal_ms: f64,
    pub(super) resume_ms: f64,
    /// Why it does not end well.
    pub(super) error: Option<RestoreError>,
}

impl Commit {
    /// Before anything of it has happened.
    pub(super) fn new() -> Self {
        Commit {
            begun: Instant::now(),
            signals: Vec::new(),
            urgent: None,
            at_boottime_ns: 0,
            journal_ms: 0.0,
            resume_ms: 0.0,
            error: None,
        }
    }
}
