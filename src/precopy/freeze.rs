//! From the first thread asked to stop until the other end has everything: most of the time that the process's users notice. What
//! follows, and what becomes of a freeze that came to nothing: `commit.rs`.
//!
//! The final scan runs on other threads while the state is captured here. What can be prepared is prepared before:
//! threads are seized, files of `/proc` opened, the journal entry lies on the disk at its full size.

use std::time::Instant;

use super::MigrateError;
use super::attempt::{ATTEMPTS, PAUSE, is_new_mapping, memory, passing};
use super::destination::{Destination, out_of_turn};
use super::executor::Executor;
use super::foresight::Foresight;
use super::late::plan;
use super::options::Options;
use crate::convergence::predict::Prediction;
use crate::dirty::{Found, Last};
use crate::fault::Point;
use crate::image::files::FilesImage;
use crate::image::process::ProcessImage;
use crate::image::{PAGE_SIZE, PageRange, TreeImage};
use crate::preload::PreloadError;
use crate::preload::agent::Agent;
use crate::preload::capture::{Captive, Poised};
use crate::preload::lazy::{self, Later};
use crate::preload::standing::children;
use crate::report::MigrationReport;
use crate::state::StateError;
use crate::state::thread::scheduling;
use crate::sys::time::{ClockOffsets, initial_clocks};
use crate::tracee::together::{Urgent, leave_to_others};
use crate::transport::protocol::{Moments, ToSource, ToTarget};

/// What the freeze works with.
pub(super) struct Freezer<'a, 'o> {
    /// What the user wants.
    pub options: &'a Options,
    /// Filled in as it goes.
    pub report: &'a mut MigrationReport,
    /// Carries out the hand-over.
    pub executor: &'a mut Executor<'o>,
    /// Our clocks minus the target's.
    pub difference: ClockOffsets,
    /// What its length is predicted from.
    pub foresight: Foresight,
}

/// A process that stands still, and of which the other end has everything.
pub(super) struct Stopped {
    pub(super) captive: Captive,
    /// When it was asked to stop, on our boottime clock.
    pub(super) frozen_at: i64,
    pub(super) prediction: Prediction,
    pub(super) urgent: Urgent,
}

/// A process that stands still, and what it has open.
type Standing = (ProcessImage, FilesImage);

/// A freeze that came to nothing, and the process, if it stands still.
struct Spoilt {
    captive: Option<Box<Captive>>,
    error: MigrateError,
}

impl<E: Into<MigrateError>> From<E> for Spoilt {
    fn from(error: E) -> Self {
        Spoilt { captive: None, error: error.into() }
    }
}

pub(super) fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}

impl Freezer<'_, '_> {
    /// Freezes, sends, commits. Until the commit point every failure lets the process run on.
    pub(super) fn run(
        mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        described: &TreeImage,
    ) -> Result<(), MigrateError> {
        match self.until_prepared(to, agent, described) {
            Ok(stopped) if self.options.leave_running => self.leave(to, stopped),
            Ok(stopped) => self.commit(to, stopped),
            Err(Spoilt { captive, error }) => {
                self.executor.captive = captive.map(|captive| *captive);
                self.executor.give_up(error, to, self.report)
            }
        }
    }

    /// Freezes and sends, until the other end has all there is. Nothing is decided then: the process may run on, here.
    fn until_prepared(
        &mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        described: &TreeImage,
    ) -> Result<Stopped, Spoilt> {
        to.say(&ToTarget::Freezing)?;
        to.nudge()?;
        for attempt in 1.. {
            let poised = Poised::prepare(self.options.pid, agent.witness()?)?;
            let prediction = self.foresee();
            let urgent = Urgent::begin();
            let frozen_at = initial_clocks().boottime_ns;
            let begun = Instant::now();
            let mut captive = match poised.freeze().map_err(MigrateError::from) {
                Err(e) if e.is_job_control() && attempt < ATTEMPTS => {
                    tracing::info!(error = %e, attempt, "stopped by somebody else just now; frozen again in a moment");
                    std::thread::sleep(PAUSE * attempt);
                    continue;
                }
                frozen => frozen?,
            };
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
                Err(error) => return Err(Spoilt { captive: Some(Box::new(captive)), error }),
                Ok((standing, found)) => {
                    return match self.send(to, agent, standing, &found, (frozen_at, stopped_ns)) {
                        Ok(()) => Ok(Stopped { captive, frozen_at, prediction, urgent }),
                        Err(error) => Err(Spoilt { captive: Some(Box::new(captive)), error }),
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

    fn send(
        &mut self,
        to: &mut dyn Destination,
        agent: &mut Agent,
        (mut image, files): Standing,
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
        to.say(&ToTarget::Layout { of: agent.of, layout: agent.layout.clone(), new_files })?;
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
        to.say(&ToTarget::State(Box::new(TreeImage::new(vec![image], files)), moments))?;
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
        let touched = self.executor.late.as_ref().map(|_| lazy::touched(&agent.layout, &image.threads));
        let (pages, later) = agent.last(found, touched.as_ref(), to)?;
        self.report.final_pages = pages;
        match &mut self.executor.late {
            Some(late) if !later.is_empty() => {
                let patience = self.options.lazy.patience;
                let plan =
                    plan(agent.of, &later, &touched.unwrap_or_default(), self.options.verify, patience);
                late.begin(to, agent, &later, plan)?;
            }
            // nothing is left: a move like any other
            _ => self.executor.late = None,
        }
        Ok(later)
    }

    fn capture(
        &mut self,
        agent: &mut Agent,
        described: &TreeImage,
        captive: &mut Captive,
        attempt: u32,
    ) -> Result<(Standing, Last), MigrateError> {
        let begun = Instant::now();
        agent.insist_same_program()?;
        let Some(process) = described.process(agent.of) else {
            return Err(PreloadError::NoSuchProcess(agent.pid).into());
        };
        let memory = memory(self.options.pid, agent, process, attempt)?;
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
            let image = captive.capture((process, &described.files), memory, options, &waits);
            self.report.freeze_parts.capture = ms(begun);
            let found = scan.join().unwrap_or_else(|_| unreachable!("a scan does not panic"));
            (image, found)
        });
        drop(waits);
        self.report.freeze_parts.scan = ms(begun) - self.report.freeze_parts.capture;
        let (mut image, files) = image?;
        children?;
        super::direct::check(agent.tracker(), &files)?;
        let mut found = found.map_err(PreloadError::from)?;
        touched_by_capture(&image, &mut found.written);
        let layout = agent.layout.clone();
        agent.take(layout, &files);
        image.memory.layout = agent.layout.clone();
        Ok(((image, files), found))
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
