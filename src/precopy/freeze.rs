//! From the first thread asked to stop to the commit: the time that the process's users notice.
//!
//! The final scan runs on other threads while the state is captured here. What can be prepared is prepared before:
//! threads are seized, files of `/proc` opened, the journal entry lies on the disk at its full size.

use std::time::Instant;

use super::MigrateError;
use super::attempt::{ATTEMPTS, PAUSE, is_new_mapping, memory, passing};
use super::control::Control;
use super::destination::{Destination, out_of_turn};
use super::foresight::Foresight;
use super::hand_on::{Copy, Signals, Tended as _};
use super::late::{Arrived, Late, plan};
use super::predict::Prediction;
use super::session::{MOVED, Options, Progress};
use super::settle::Answer;
use crate::dirty::{Found, Last};
use crate::fault::Point;
use crate::handover::journal::{Journal, Phase};
use crate::handover::{Source, SourceAction, SourceEvent};
use crate::image::process::ProcessImage;
use crate::image::{PAGE_SIZE, PageRange, TreeImage};
use crate::preload::PreloadError;
use crate::preload::agent::Agent;
use crate::preload::capture::{Captive, Poised};
use crate::preload::lazy::{self, Later};
use crate::preload::standing::children;
use crate::report::{MigrationReport, Outcome};
use crate::restore::session::initial_clocks;
use crate::state::files::tcp_over::hang_up;
use crate::state::{StateError, scheduling};
use crate::sys::time::ClockOffsets;
use crate::tracee::together::{Urgent, leave_to_others};
use crate::transport::protocol::{Moments, ToSource, ToTarget};

/// What the freeze works with.
pub struct Freezer<'a> {
    /// What the user wants.
    pub options: &'a Options,
    /// Filled in as it goes.
    pub report: &'a mut MigrationReport,
    /// Where the hand-over stands.
    pub state: &'a mut Source,
    /// Our clocks minus the target's.
    pub difference: ClockOffsets,
    /// Our journal entry, on disk.
    pub journal: Journal,
    /// What its length is predicted from.
    pub foresight: Foresight,
    /// For those who ask.
    pub control: &'a Control,
    /// For those who watch.
    pub tell: &'a dyn Fn(Progress<'_>),
    /// Its memory comes after it.
    pub late: Option<Late>,
}

impl std::fmt::Debug for Freezer<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Freezer").field("state", &self.state).finish_non_exhaustive()
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Freezer<'_> {
    /// Freezes, sends, commits. Until the commit point every failure lets the process run on.
    pub fn run(
        mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        described: &ProcessImage,
    ) -> Result<(), MigrateError> {
        to.say(&ToTarget::Freezing)?;
        to.flush()?;
        for attempt in 1.. {
            let poised = Poised::prepare(self.options.pid)?;
            let prediction = self.foresee();
            let urgent = Urgent::begin();
            let frozen_at = initial_clocks().boottime_ns;
            let begun = Instant::now();
            let mut captive = poised.freeze()?;
            self.report.freeze_parts.stop = ms(begun);
            let stopped_ns = initial_clocks().boottime_ns;
            let captured = MigrateError::point(Point::SourceFrozen)
                .and_then(|()| self.capture(agent, described, &mut captive, attempt));
            match captured {
                Err(e) if passing(&e) && attempt < ATTEMPTS => {
                    tracing::info!(error = %e, attempt, "not now; the process runs on, and is frozen again in a moment");
                    captive.resume(&mut agent.waits.lock());
                    if is_new_mapping(&e) {
                        agent.survey(&described.files)?;
                    } else {
                        std::thread::sleep(PAUSE * attempt);
                    }
                }
                Err(e) => return self.give_up(to, agent, captive, e),
                Ok((image, found)) => {
                    return match self.send(to, agent, image, &found, (frozen_at, stopped_ns)) {
                        Ok(()) => self.commit(to, agent, captive, (frozen_at, prediction), urgent),
                        Err(e) => self.give_up(to, agent, captive, e),
                    };
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    /// How long it will be, noted at the moment of stopping.
    fn foresee(&mut self) -> Prediction {
        let prediction = self.foresight.predict();
        self.report.predicted_freeze_ms = Some(prediction.parts.sum());
        self.report.predicted_freeze_parts = prediction.parts;
        prediction
    }

    fn give_up(
        self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        captive: Captive,
        e: MigrateError,
    ) -> Result<(), MigrateError> {
        self.state.on(e.event());
        self.report.outcome = Outcome::Aborted;
        self.run_on(agent, captive);
        if e.event() == SourceEvent::Cancelled {
            to.ignore_cancel();
            let _ = to.say(&ToTarget::Abort(e.to_string()));
        }
        let _ = self.journal.close();
        Err(e)
    }

    /// The process runs on here, whatever was decided before: what we interrupted is remembered for the next move.
    fn run_on(&self, agent: &Agent, captive: Captive) {
        let mut waits = agent.waits.lock();
        captive.resume(&mut waits);
        waits.save(&self.options.home, self.options.pid);
    }

    fn send(
        &mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        mut image: ProcessImage,
        found: &Last,
        (frozen_at, stopped_ns): (i64, i64),
    ) -> Result<(), MigrateError> {
        MigrateError::point(Point::SourceCaptured)?;
        let theirs = |ns| ns - self.difference.boottime_ns;
        let moments = Moments {
            frozen_ns: theirs(frozen_at),
            stopped_ns: theirs(stopped_ns),
            captured_ns: theirs(initial_clocks().boottime_ns),
        };
        let begun = Instant::now();
        let new_files = agent.new_files();
        to.say(&ToTarget::Layout { pid: image.pid, layout: agent.layout.clone(), new_files })?;
        let layout_ms = ms(begun);
        let later = self.last_pages(to, agent, &image, found)?;
        image.memory.guards = agent.guards()?;
        tracing::debug!(
            layout_ms,
            pages_ms = ms(begun),
            found = found.written.len(),
            "send, until the end of"
        );
        let mut hashing_ms = 0.0;
        if self.options.verify {
            to.say(&ToTarget::Verify)?;
            to.flush()?;
            let hashing = Instant::now();
            let digests = super::hashed::digests(self.options.pid, agent, &later)?;
            hashing_ms = ms(hashing);
            to.say(&ToTarget::Digests(digests))?;
        }
        self.report.threads = image.threads.len() as u32;
        to.say(&ToTarget::State(Box::new(TreeImage::new(vec![image])), moments))?;
        MigrateError::point(Point::SourceSent)?;
        let (apply_ms, theirs_ms, verified) = match to.hear("applying the last state")? {
            ToSource::Prepared { apply_ms, verify_ms, verified } => (apply_ms, verify_ms, verified),
            other => return Err(out_of_turn(&other)),
        };
        self.report.verified = verified;
        self.report.freeze_parts.apply = apply_ms;
        let rest = (ms(begun) - apply_ms).max(0.0);
        // both ends hash at once, from the same message on
        let verify = hashing_ms.max(theirs_ms).clamp(0.0, rest);
        self.report.freeze_parts.verify = verify;
        self.report.freeze_parts.send = rest - verify;
        Ok(())
    }

    /// Sends the last pages, and says what comes later.
    fn last_pages(
        &mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        image: &ProcessImage,
        found: &Last,
    ) -> Result<Later, MigrateError> {
        let touched = self.late.as_ref().map(|_| lazy::touched(&agent.layout, &image.threads));
        let (pages, later) = agent.last(found, touched.as_ref(), to)?;
        self.report.final_pages = pages;
        match &mut self.late {
            Some(late) if !later.is_empty() => {
                let patience = self.options.lazy.patience;
                let plan = plan(&later, &touched.unwrap_or_default(), self.options.verify, patience);
                late.begin(to, agent, &later, plan)?;
            }
            // nothing is left: a move like any other
            _ => self.late = None,
        }
        Ok(later)
    }

    fn capture(
        &mut self,
        agent: &mut Agent,
        described: &ProcessImage,
        captive: &mut Captive,
        attempt: u32,
    ) -> Result<(ProcessImage, Last), MigrateError> {
        let begun = Instant::now();
        agent.insist_same_program()?;
        let memory = memory(self.options.pid, agent, described, attempt)?;
        tracing::debug!(maps_ms = ms(begun), "capture");
        captive.furnish(&agent.waits.lock())?;
        MigrateError::point(Point::SourceFurnished)?;
        tracing::debug!(scratch_ms = ms(begun), "capture");
        let options = &self.options.files;
        let pid = self.options.pid;
        let (tracker, layout, known, waits) = agent.scanner();
        let (image, (found, children)) = std::thread::scope(|s| {
            let scan = s.spawn(move || {
                leave_to_others(&scheduling::online_cpus());
                (tracker.last(layout, &known), newborn(pid))
            });
            let image = captive.capture(described, memory, options, &waits);
            self.report.freeze_parts.capture = ms(begun);
            let found = scan.join().unwrap_or_else(|_| unreachable!("a scan does not panic"));
            (image, found)
        });
        drop(waits);
        self.report.freeze_parts.scan = ms(begun) - self.report.freeze_parts.capture;
        let image = image?;
        children?;
        super::direct::check(agent.tracker(), &image.files)?;
        let mut found = found.map_err(PreloadError::from)?;
        touched_by_capture(&image, &mut found.written);
        let layout = agent.layout.clone();
        agent.take(layout, &image.files);
        let mut image = image;
        image.memory.layout = agent.layout.clone();
        Ok((image, found))
    }

    fn commit(
        mut self,
        to: &mut dyn Destination,
        agent: &Agent,
        mut captive: Captive,
        (frozen_at, prediction): (i64, Prediction),
        urgent: Urgent,
    ) -> Result<(), MigrateError> {
        let begun = Instant::now();
        to.ignore_cancel();
        let dir = self.options.home.join("journal");
        if let Err(e) = MigrateError::point(Point::SourcePrepared) {
            return self.before_commit_failed(to, agent, captive, (SourceAction::JournalOpen, e));
        }
        let mut signals = Vec::new();
        for action in self.state.on(SourceEvent::Prepared) {
            let done = match action {
                SourceAction::JournalOpen => {
                    let written = self.journal.set(Phase::Committed).map_err(MigrateError::journal(&dir));
                    written.and_then(|()| MigrateError::point(Point::SourceJournalled))
                }
                // a stop takes a SIGCONT that has come out of the queue: first they are looked at
                SourceAction::Hold => captive
                    .signalled()
                    .and_then(|come| {
                        captive.hold(self.late.is_some() && self.options.lazy.release).map(|()| come)
                    })
                    .map_err(MigrateError::from)
                    .and_then(|come| {
                        signals = come;
                        MigrateError::point(Point::SourceHeld)
                    }),
                _ => to.say(&ToTarget::Commit(std::mem::take(&mut signals))).and_then(|()| {
                    // while the target lets it go
                    Signals::of(self.options, &self.report.id).note(captive.accounts());
                    if crate::fault::waits_at(Point::SourceCommitSent) {
                        to.flush()?;
                    }
                    MigrateError::point(Point::SourceCommitSent)
                }),
            };
            if let Err(e) = done {
                return self.before_commit_failed(to, agent, captive, (*action, e));
            }
        }
        let answer = to.hear("waiting for it to run");
        if let Ok(ToSource::Running { pid, at_boottime_ns, journal_ms, resume_ms }) = answer {
            self.report.target_pid = Some(pid);
            self.report.outcome = Outcome::Moved;
            let ended = at_boottime_ns + self.difference.boottime_ns;
            self.report.freeze_ms = (ended - frozen_at) as f64 / 1e6;
            self.report.freeze_parts.resume = resume_ms;
            self.report.freeze_parts.commit = self.commit_ms(journal_ms);
            self.report.bytes_on_wire = to.bytes_sent();
            tracing::debug!(journal_ms, answered_ms = ms(begun), "commit");
            MigrateError::point(Point::SourceAnswered)?;
            drop(urgent);
            self.foresight.learn(&self.options.home, &prediction, self.report);
            return self.moved(to, captive);
        }
        self.unanswered(to, agent, captive, answer.err())
    }

    /// It runs there. The copy here goes, as soon as nothing of it is needed any more; what it is signalled until then goes there.
    fn moved(mut self, to: &mut dyn Destination, mut captive: Captive) -> Result<(), MigrateError> {
        self.state.on(SourceEvent::Running);
        self.report.outcome = Outcome::Moved;
        if self.late.is_none() {
            captive.disable()?;
        }
        let mut signals = Signals::of(self.options, &self.report.id);
        // of a lazy move's copy the plain ones cannot be taken out of the queue before it is retired
        if self.late.is_none() {
            let found = captive.signalled_meanwhile();
            signals.send(Some(to), found, Some(&captive));
        }
        let followed = match self.late.take() {
            Some(late) => self.follow(late, to, &mut captive, &mut signals),
            None => Ok(()),
        };
        // of a copy that is lost what is left is of no use, and nothing is open
        if !matches!(followed, Ok(()) | Err(MigrateError::CopyLost(_))) {
            return followed;
        }
        signals.send(None, captive.kill()?, None);
        self.report.notes.extend(signals.finish(to));
        if followed.is_ok() {
            MigrateError::point(Point::SourceKilled)?;
        }
        self.clear_up().and(followed)
    }

    /// Its memory follows.
    fn follow(
        &mut self,
        mut late: Late,
        to: &mut dyn Destination,
        captive: &mut Captive,
        signals: &mut Signals,
    ) -> Result<(), MigrateError> {
        hang_up(self.options.pid);
        let mut copy = Copy::new(captive, signals, late.layout().clone(), self.options.lazy.release);
        copy.meanwhile(Some(&mut *to));
        let arrived = late.until_whole(Some(to), self.control, self.tell, &mut copy);
        self.report.bytes_on_wire = to.bytes_sent() + late.bytes();
        match &arrived {
            Ok(arrived) => {
                self.report.lazy = late.stats(arrived);
                if let Arrived::Ended(why) = arrived {
                    (self.tell)(Progress::Step(&format!("nothing more of its memory is needed: {why}")));
                }
                late.close(MOVED);
            }
            Err(MigrateError::CopyLost(_)) => self.report.outcome = Outcome::Lost,
            Err(_) => self.report.outcome = Outcome::Unknown,
        }
        arrived.map(drop)
    }

    /// The move is settled on this side.
    fn clear_up(self) -> Result<(), MigrateError> {
        let dir = self.options.home.join("journal");
        self.journal.close().map_err(MigrateError::journal(&dir))
    }

    /// What of the freeze lies between `PREPARED` and the target letting go.
    fn commit_ms(&self, journal_ms: f64) -> f64 {
        let p = &self.report.freeze_parts;
        let before = p.stop + p.capture + p.scan + p.send + p.verify + p.apply;
        let rest = self.report.freeze_ms - (before + p.resume);
        rest.max(journal_ms)
    }

    /// `Commit` was not sent: the process runs on here.
    fn before_commit_failed(
        self,
        to: &mut dyn Destination,
        agent: &Agent,
        captive: Captive,
        (at, e): (SourceAction, MigrateError),
    ) -> Result<(), MigrateError> {
        if at == SourceAction::SendCommit {
            // part of it may have left
            return self.unanswered(to, agent, captive, Some(e));
        }
        let _ = to.say(&ToTarget::Abort(e.to_string()));
        self.state.on(SourceEvent::NotSent);
        self.report.outcome = Outcome::Aborted;
        self.run_on(agent, captive);
        let _ = self.journal.close();
        Err(e)
    }

    /// The target has not said whether it runs there: ask again for a while, by new connections.
    fn unanswered(
        self,
        to: &mut dyn Destination,
        agent: &Agent,
        captive: Captive,
        e: Option<MigrateError>,
    ) -> Result<(), MigrateError> {
        tracing::warn!(error = ?e, "the target did not answer the commit; asking again");
        let id = self.report.id.clone();
        self.state.on(SourceEvent::Lost);
        let answer = super::settle::ask(self.options, &id);
        self.state.on(answer.as_ref().map_or(SourceEvent::Unsettled, |answer| answer.event()));
        match answer {
            Ok(Answer::Running(pid) | Answer::RunsLazily(pid)) => {
                self.report.target_pid = Some(pid);
                self.moved(to, captive)
            }
            Ok(Answer::Never) => {
                self.report.outcome = Outcome::Aborted;
                self.run_on(agent, captive);
                let _ = self.journal.close();
                Err(e.unwrap_or(MigrateError::Cancelled))
            }
            Ok(Answer::Down) | Err(_) => {
                self.report.outcome = Outcome::Unknown;
                // it may be this copy that `ulpm recover` lets go on
                captive.remember_waits(&mut agent.waits.lock());
                agent.waits.lock().save(&self.options.home, self.options.pid);
                captive.leave_stopped();
                Err(if answer.is_ok() { MigrateError::Down { id } } else { MigrateError::Open { id } })
            }
        }
    }
}

/// A child that was born since preflight would stay behind.
fn newborn(pid: i32) -> Result<(), MigrateError> {
    match children(pid) {
        none if none.is_empty() => Ok(()),
        some => Err(PreloadError::from(StateError::Obstacles(format!(
            "it has child processes ({some:?}), and trees of processes are not carried yet"
        )))
        .into()),
    }
}

/// The scan ran beside the capture, whose remote calls return to user mode: there the kernel writes the CPU number
/// into each thread's rseq area. Those pages count as written.
fn touched_by_capture(image: &ProcessImage, written: &mut Vec<Found>) {
    for thread in image.threads.iter().filter(|t| t.rseq.0 != 0) {
        let start = thread.rseq.0 / PAGE_SIZE * PAGE_SIZE;
        let range = PageRange::new(start, start + PAGE_SIZE);
        let clean = written.iter().all(|f| f.range.intersection(&range).is_empty());
        if clean {
            written.push(Found::data(range));
        }
    }
    written.sort_by_key(|f| f.range.start);
}
