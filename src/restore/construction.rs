//! The target's part of a move from `Begin` to the moment in which the process runs here: what the source says becomes calls of
//! the [`Builder`], after its permission was asked; journal and answers are written here.

use std::time::{Duration, Instant};

use super::RestoreError;
use super::builder::{Blueprint, Builder, StoppedTree};
use super::incoming::{MAX_ROUNDS, UNWEIGHED, aborted, endless, place};
use super::lazy::adopt::Holder;
use super::quarters::Quarters;
use super::reservation::Reservation;
use super::session::{Session, clock, out_of_turn};
use super::urgency::Stage;
use crate::fault::Point;
use crate::handover::journal::{Entry, Journal, Phase};
use crate::handover::{Target, TargetAction, TargetEvent};
use crate::image::process::LateSignal;
use crate::image::{FIRST, FilePath, ProcessIndex, TreeImage};
use crate::sys::time::{ClockOffsets, initial_clocks};
use crate::tracee::together::Urgent;
use crate::transport::protocol::{Description, Moments, PidChoice, ToSource, ToTarget, kind};

/// A process on its way here.
pub(super) struct Work {
    id: String,
    builder: Builder,
    journal: Journal,
    state: Target,
    /// What hashing all pages took.
    verify_ms: f64,
    /// When the freeze began, on our boottime clock.
    frozen_ns: i64,
    /// Bytes that have come since the memory was last held against what the peer may bring.
    unweighed: u64,
    /// How urgent all this is.
    stage: Stage,
}

impl Session {
    /// Makes the skeleton.
    pub(super) fn begin(
        &mut self,
        description: &Description,
        reservation: Reservation,
        difference: ClockOffsets,
    ) -> Result<Work, RestoreError> {
        if !self.visit.take_place(self.authority.permit.processes) {
            return Err(RestoreError::NotPermitted("too many processes of this source are here".to_owned()));
        }
        let entry = Entry::new(&description.id, false, 0, &self.peer).wanted_by(&self.key.to_string());
        let journal = super::settle::make_room(&self.server.journal, &self.key)
            .and_then(|()| Journal::begin(&self.server.journal, entry))
            .map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetBegun)?;
        let builder = match self.bear(description, reservation, difference) {
            Ok(builder) => builder,
            Err(e) => {
                let _ = journal.close();
                return Err(e);
            }
        };
        self.say(&ToSource::Ready { pids: builder.pids(), namespace: builder.has_namespace() })?;
        Ok(Work {
            id: description.id.clone(),
            builder,
            journal,
            state: Target::Building,
            verify_ms: 0.0,
            frozen_ns: 0,
            unweighed: 0,
            stage: Stage::rounds(),
        })
    }

    fn bear(
        &self,
        description: &Description,
        reservation: Reservation,
        difference: ClockOffsets,
    ) -> Result<Builder, RestoreError> {
        let tree = &description.tree;
        let process = super::builder::single(tree)?;
        let quarters = Quarters {
            place: &self.server.place,
            id: &description.id,
            what: format!("process {} from {}", process.pid, self.peer),
        };
        let mut builder = Builder::begin(Blueprint {
            tree,
            quarters: &quarters,
            clocks: super::reservation::clocks(description, difference),
            namespace: description.pid_mode == PidChoice::Namespace || reservation.namespace,
            or_namespace: description.pid_mode == PidChoice::Auto && !self.authority.permit.no_namespaces,
            rights: self.authority.rights(process),
            vetted: reservation.vetted,
            verify: description.verify,
        })?;
        if description.lazy {
            let (home, key) = (&self.server.home, &self.key);
            builder.serve_later(FIRST, |skeleton| Holder::start(home, &quarters, key, skeleton))?;
        }
        Ok(builder)
    }

    /// Rounds, state, commit.
    pub(super) fn build(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let done = self.build_until_running(work).map_err(|e| match e {
            e @ (RestoreError::Wire(_) | RestoreError::Aborted(_)) => e,
            e => work.builder.explain(e),
        });
        if work.state == Target::Running {
            // settled when the source says goodbye; see `run`
            self.settled = Some(work.id.clone());
        }
        if let Err(e) = &done
            && work.state != Target::Running
        {
            let event = match e {
                RestoreError::Wire(_) => TargetEvent::Lost,
                RestoreError::Aborted(_) => TargetEvent::Abort,
                _ => TargetEvent::Failed,
            };
            give_up(work, event);
            tracing::debug!(namespace = work.builder.has_namespace(), "the skeleton is destroyed");
        }
        done
    }

    fn build_until_running(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let mut rounds = 0;
        loop {
            if rounds > MAX_ROUNDS {
                return Err(endless());
            }
            let frame = self.frame()?;
            work.stage.look();
            if matches!(frame.kind, kind::PAGES | kind::OBJECT_PAGES) {
                work.unweighed += frame.body.len() as u64;
                if work.unweighed > UNWEIGHED {
                    work.unweighed = 0;
                    self.authority.weigh(work.builder.weight())?;
                }
            }
            let permit = |path: &FilePath| self.authority.check_paths([path].into_iter());
            match place(&mut work.builder, &frame, &permit)? {
                None => {}
                Some(ToTarget::RoundEnd(n)) => {
                    RestoreError::point(Point::TargetRound)?;
                    rounds += 1;
                    self.say(&ToSource::RoundApplied(n))?;
                }
                Some(ToTarget::Freezing) => work.stage.frozen(),
                Some(ToTarget::Clock) => {
                    rounds += 1;
                    self.say(&clock())?;
                }
                Some(ToTarget::Verify) => {
                    let begun = Instant::now();
                    work.builder.hash()?;
                    work.verify_ms = begun.elapsed().as_secs_f64() * 1e3;
                }
                Some(ToTarget::State(tree, moments)) => return self.finish(work, *tree, moments),
                Some(ToTarget::Abort(why)) => return Err(aborted(&why)),
                Some(other) => return Err(out_of_turn(&other)),
            }
        }
    }

    /// The process is frozen at the source: everything from here on is downtime.
    fn finish(&mut self, work: &mut Work, tree: TreeImage, moments: Moments) -> Result<(), RestoreError> {
        let arrived = Instant::now();
        work.stage.frozen();
        work.frozen_ns = moments.frozen_ns;
        RestoreError::point(Point::TargetState)?;
        let mut tree = StoppedTree::check(tree)?;
        for (at, image) in tree.processes() {
            self.authority.map_users(image).map_err(|o| RestoreError::NotPermitted(o.to_string()))?;
            self.authority.check(image)?;
            self.authority.bound(image)?;
            work.builder.set_rights(at, self.authority.rights(image))?;
        }
        self.authority.still_holds()?;
        self.authority.weigh(work.builder.weight())?;
        work.builder.state(&tree, &moments)?;
        let pid = work.builder.pid(FIRST)?;
        work.journal.name_process(pid).map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetApplied)?;
        for action in work.state.on(TargetEvent::Applied) {
            debug_assert_eq!(*action, TargetAction::SendPrepared);
            let apply_ms = arrived.elapsed().as_secs_f64() * 1e3;
            let (verify_ms, verified) = (work.verify_ms, work.builder.verifies());
            self.say(&ToSource::Prepared { apply_ms, verify_ms, verified })?;
            RestoreError::point(Point::TargetPrepared)?;
        }
        // while the source commits, and before anyone can know that the process runs here and move it on
        work.builder.save_waits(&self.server.home);
        match self.message()? {
            ToTarget::Commit(signals) => self.commit(work, &signals),
            ToTarget::Abort(why) => Err(aborted(&why)),
            other => Err(out_of_turn(&other)),
        }
    }

    fn commit(
        &mut self,
        work: &mut Work,
        signals: &[(ProcessIndex, Vec<LateSignal>)],
    ) -> Result<(), RestoreError> {
        let begun = Instant::now();
        // threads that run already must not keep us from letting go of the others
        let mut urgent = Some(Urgent::begin());
        RestoreError::point(Point::TargetCommit)?;
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        // nothing is decided yet: what fails here fails the move
        signals.iter().try_for_each(|(of, signals)| work.builder.queue(*of, signals))?;
        for action in work.state.on(TargetEvent::Commit) {
            debug_assert_eq!(*action, TargetAction::JournalCommitted);
            work.journal.set(Phase::Committed).map_err(RestoreError::io("writing the journal"))?;
        }
        let journal_ms = ms(begun);
        RestoreError::point(Point::TargetJournalled)?;
        outlive(work)?;
        let pid = work.builder.pid(FIRST)?;
        let mut said = Ok(());
        let (mut at_boottime_ns, mut resume_ms) = (0, 0.0);
        for action in work.state.on(TargetEvent::Outlives) {
            match action {
                TargetAction::LetGo => {
                    work.builder.let_go();
                    at_boottime_ns = initial_clocks().boottime_ns;
                    // what follows is no freeze any more
                    resume_ms = ms(begun) - journal_ms;
                    drop(urgent.take());
                    self.lazy |= work.builder.leave_later_memory(&self.server.home, &work.id);
                    let _ = RestoreError::point(Point::TargetLetGo);
                }
                TargetAction::SendRunning => {
                    said = self.say(&ToSource::Running { pid, at_boottime_ns, journal_ms, resume_ms });
                    let _ = RestoreError::point(Point::TargetSaid);
                }
                _ => {
                    if let Err(e) = work.journal.set(Phase::Released) {
                        // what stands there is believed as long as the process lives
                        tracing::warn!(pid, error = %e, "the journal does not say that the process was let go");
                    }
                }
            }
        }
        let _ = RestoreError::point(Point::TargetReleased);
        if let Some(passenger) = self.passenger.take() {
            passenger.arrived(
                pid,
                Duration::from_nanos(at_boottime_ns.saturating_sub(work.frozen_ns).max(0) as u64),
            );
        }
        self.visit.arrived(pid);
        reap(pid);
        said
    }
}

/// From here on the process outlives us.
fn outlive(work: &mut Work) -> Result<(), RestoreError> {
    for action in work.state.on(TargetEvent::Journalled) {
        match action {
            TargetAction::NoteReleasing => {
                work.journal.note(Phase::Releasing).map_err(RestoreError::io("writing the journal"))?;
                RestoreError::point(Point::TargetNoted)?;
            }
            _ => {
                work.builder.outlive()?;
                RestoreError::point(Point::TargetOutlives)?;
            }
        }
    }
    Ok(())
}

/// Nothing was let go here, nor will be. What failed is told by `run`.
fn give_up(work: &mut Work, event: TargetEvent) {
    let decided = matches!(work.state, Target::Committed | Target::Leaving);
    for action in work.state.on(if decided { TargetEvent::Failed } else { event }) {
        let written = match action {
            TargetAction::Destroy => {
                work.builder.destroy();
                Ok(())
            }
            TargetAction::JournalRemoved => work.journal.remove(),
            TargetAction::JournalRefused => work.journal.set(Phase::Refused),
            _ => Ok(()),
        };
        if let Err(e) = written {
            // it follows from what stands there, too
            tracing::warn!(error = %e, ?action, "the journal could not be written");
        }
    }
}

/// Where we are pid 1 it is our child by now, and reaped as it ends.
fn reap(pid: i32) {
    let started = std::thread::Builder::new().spawn(move || {
        // not our child: its init reaps it
        if let Ok(status) = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
            tracing::info!(pid, ?status, "a process that was moved here has ended");
        }
    });
    if let Err(error) = started {
        tracing::warn!(pid, %error, "nobody waits for the end of a process that was moved here");
    }
}
