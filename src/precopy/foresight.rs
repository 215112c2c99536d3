//! What a prediction of this migration's freeze rests on, measured on the spot; and what came of it, for the next.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::destination::Destination;
use crate::convergence::learned::Correction;
use crate::convergence::predict::{Basis, Prediction};
use crate::convergence::rounds::Measured;
use crate::handover::journal::{Journal, Phase};
use crate::image::files::FilesImage;
use crate::image::memory::Layout;
use crate::image::{PAGE_SIZE, RangeSet, TreeImage, Vma};
use crate::preload::agent::Agent;
use crate::report::MigrationReport;
use crate::state::digest;
use crate::tracee::together::Urgent;

/// From the prediction to the final scan: the stop, reading the mappings.
const STOP: Duration = Duration::from_micros(700);

/// Pages hashed to know what hashing costs.
const SAMPLE: u64 = 4096;

/// Pages of one piece of these.
const PIECE: u64 = 512;

/// What is known when the process is to be frozen.
#[derive(Clone, Debug)]
pub(crate) struct Foresight {
    /// The rounds.
    pub rounds: Vec<Measured>,
    /// When the last one's scan began.
    pub scanned: Instant,
    /// What else a prediction rests on.
    pub basis: Basis,
    /// The descriptors as last seen.
    pub files: FilesImage,
    /// What is left of the memory comes after the process.
    pub lazy: bool,
    /// What hashing a page took as it was tried.
    pub hashing: Option<Duration>,
}

/// What is known before the first round.
pub(crate) fn basis(
    home: &Path,
    to: &dyn Destination,
    rtt: Duration,
    agent: &Agent,
    described: &TreeImage,
) -> Basis {
    let exact = agent.tracker() == "wp-scan";
    Basis {
        threads: described.processes.iter().map(|p| p.threads.len() as u32).sum(),
        descriptors: described.files.files.len() as u32,
        areas: agent.layout.vmas.len() as u32,
        resident_pages: described.processes.iter().map(|p| p.memory.resident / PAGE_SIZE).sum(),
        asks_for_written: exact,
        rtt,
        compares: !exact || !agent.layout.objects.is_empty(),
        same_machine: to.same_machine(),
        correction: Correction::load(home, false),
        lazy_correction: Correction::load(home, true),
        ..Basis::default()
    }
}

/// What the disk takes for one block of the journal, as the commit will write it: the middle one of three tries, since a disk
/// that others use answers now and then only. As urgent as in the freeze, or it would be the waiting for a CPU.
pub(crate) fn sync_time(journal: &mut Journal) -> io::Result<Duration> {
    let _urgent = Urgent::begin();
    let mut tries = [Duration::ZERO; 3];
    for took in &mut tries {
        let begun = Instant::now();
        journal.set(Phase::Begun)?;
        *took = begun.elapsed();
    }
    tries.sort();
    Ok(tries[1])
}

impl Foresight {
    /// Takes in what was measured last, right before the process is stopped.
    pub(crate) fn complete(&mut self, agent: &Agent, journal: Duration, verify: bool) {
        self.basis.journal = journal;
        self.basis.areas = agent.layout.vmas.len() as u32;
        self.basis.descriptors = self.files.files.len() as u32;
        if verify {
            self.hashing = hash_per_page(agent.pid, &agent.layout);
            let correction = if self.lazy { &self.basis.lazy_correction } else { &self.basis.correction };
            self.basis.hash_per_page = self.hashing.map(|tried| correction.hashing(tried));
        }
    }

    /// The freeze that begins now.
    pub(crate) fn predict(&self) -> Prediction {
        let window = self.scanned.elapsed() + STOP;
        if !self.lazy {
            return self.basis.predict(&self.rounds, window);
        }
        // what was written is not sent in it; a round that took everything would count as if all had been
        let quiet = |r: &Measured| Measured { written: 0, held: 0, window: r.window.max(STOP), ..*r };
        let rounds: Vec<Measured> = self.rounds.iter().map(quiet).collect();
        self.lazy_basis().predict(&rounds, window)
    }

    /// Of the memory only what went ahead is compared in the freeze.
    fn lazy_basis(&self) -> Basis {
        let ahead: u64 = self.rounds.iter().map(|r| r.pages).sum();
        let share = (ahead as f64 / self.basis.resident_pages.max(1) as f64).min(1.0);
        Basis {
            correction: self.basis.lazy_correction,
            hash_per_page: self.basis.hash_per_page.map(|per_page| per_page.mul_f64(share)),
            ..self.basis
        }
    }

    /// Learns from how it came.
    pub(crate) fn learn(&self, home: &Path, prediction: &Prediction, report: &MigrationReport) {
        // what other moves taught meanwhile is not lost
        let mut correction = Correction::load(home, self.lazy);
        tracing::debug!(basis = ?self.basis, uncorrected = ?prediction.uncorrected, pages = prediction.pages,
            came = ?report.freeze_parts, final_pages = report.final_pages, "a freeze that was predicted");
        correction.learn(&prediction.uncorrected, &report.freeze_parts, self.hashing);
        if let Err(error) = correction.save(home, self.lazy) {
            tracing::warn!(%error, "what this freeze teaches for the prediction of others is not kept");
        }
    }
}

/// Hashes a little of the largest mapping, piece by piece, while the process runs, as urgently as in the freeze. The fastest
/// piece counts: the others were disturbed. `None` if nothing can be read: then nothing is known.
fn hash_per_page(pid: i32, layout: &Layout) -> Option<Duration> {
    let _urgent = Urgent::begin();
    let largest = layout.vmas.iter().filter(|v| v.private()).max_by_key(|v| v.end - v.start)?;
    let all = Instant::now();
    let mut pages = 0;
    let mut fastest: Option<Duration> = None;
    for start in (largest.start..largest.end).step_by((PIECE * PAGE_SIZE) as usize) {
        let end = largest.end.min(start + PIECE * PAGE_SIZE);
        let part = Layout { vmas: vec![Vma { start, end, ..largest.clone() }], ..Layout::default() };
        let begun = Instant::now();
        let hashed = digest::private(pid, &part, &RangeSet::default())
            .ok()?
            .iter()
            .map(|(_, pages, _)| pages)
            .sum::<u64>();
        if hashed >= PIECE / 2 {
            let per_page = begun.elapsed() / hashed as u32;
            fastest = Some(fastest.map_or(per_page, |f| f.min(per_page)));
        }
        pages += hashed;
        if pages >= SAMPLE || all.elapsed() > Duration::from_millis(30) {
            break;
        }
    }
    fastest
}
