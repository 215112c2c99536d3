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
use super::work::Work;
use crate::fault::Point;
use crate::handover::journal::{Entry, Journal};
use crate::handover::{Target, TargetEvent};
use crate::image::process::LateSignal;
use crate::image::{FIRST, FilePath, ProcessIndex, TreeImage};
use crate::sys::time::ClockOffsets;
use crate::tracee::together::Urgent;
use crate::transport::protocol::{Description, Moments, PidChoice, ToSource, ToTarget, kind};

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
        Ok(Work::new(&description.id, builder, journal))
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
        let mut done = self.build_until_running(work);
        if matches!(work.driver.state(), Target::Building | Target::Prepared)
            && let Err(e) = done
        {
            let event = match &e {
                RestoreError::Wire(_) | RestoreError::Unheard(_) => TargetEvent::Lost,
                RestoreError::Aborted(_) => TargetEvent::Abort,
                _ => TargetEvent::Failed,
            };
            done = self.on(work, event, Some(e));
        }
        if work.driver.state() == Target::Running {
            // settled when the source says goodbye; see `run`
            self.settled = Some(work.id.clone());
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
        let (processes, files) = tree.parts();
        for (at, image) in processes {
            let mapped = self.authority.map_users(image, files);
            mapped.map_err(|o| RestoreError::NotPermitted(o.to_string()))?;
            self.authority.check(image, files)?;
            self.authority.bound(image)?;
            work.builder.set_rights(at, self.authority.rights(image))?;
        }
        self.authority.still_holds()?;
        self.authority.weigh(work.builder.weight())?;
        work.builder.state(&tree, &moments)?;
        let pid = work.builder.pid(FIRST)?;
        work.journal.name_process(pid).map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetApplied)?;
        work.commit.begun = arrived;
        self.on(work, TargetEvent::Applied, None)?;
        match self.message()? {
            ToTarget::Commit(signals) => self.commit(work, signals),
            ToTarget::Abort(why) => Err(aborted(&why)),
            other => Err(out_of_turn(&other)),
        }
    }

    fn commit(
        &mut self,
        work: &mut Work,
        signals: Vec<(ProcessIndex, Vec<LateSignal>)>,
    ) -> Result<(), RestoreError> {
        work.commit.begun = Instant::now();
        work.commit.urgent = Some(Urgent::begin());
        work.commit.signals = signals;
        RestoreError::point(Point::TargetCommit)?;
        let done = self.on(work, TargetEvent::Commit, None);
        // else nothing of it was let go, nor will be
        if work.driver.state() == Target::Running {
            let pid = work.builder.pid(FIRST)?;
            if let Some(passenger) = self.passenger.take() {
                let frozen = work.commit.at_boottime_ns.saturating_sub(work.frozen_ns).max(0);
                passenger.arrived(pid, Duration::from_nanos(frozen as u64));
            }
            self.visit.arrived(pid);
            reap(pid);
        }
        done
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
