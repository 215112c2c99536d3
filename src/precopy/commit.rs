//! From the moment in which the other end has everything to the end of the copy here: the commit, and each way in which it may not
//! come about.

use std::time::Instant;

use super::MigrateError;
use super::ask::{Answer, ask};
use super::destination::Destination;
use super::freeze::{Freezer, Stopped, ms};
use super::hand_on::{Copy, Signals, Tended as _};
use super::late::{Arrived, Late};
use super::options::{MOVED, Progress};
use crate::fault::Point;
use crate::handover::journal::Phase;
use crate::handover::{SourceAction, SourceEvent};
use crate::image::ProcessIndex;
use crate::image::process::LateSignal;
use crate::preload::agent::Agent;
use crate::preload::capture::Captive;
use crate::report::Outcome;
use crate::state::files::tcp_over::hang_up;
use crate::transport::protocol::{ToSource, ToTarget};

impl Freezer<'_> {
    /// The other end has everything: the decision, and what follows from it.
    pub(super) fn commit(
        mut self,
        to: &mut dyn Destination,
        agent: &Agent,
        Stopped { mut captive, frozen_at, prediction, urgent }: Stopped,
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
                        signals = vec![(agent.of, come)];
                        MigrateError::point(Point::SourceHeld)
                    }),
                _ => self.send_commit(to, &captive, std::mem::take(&mut signals)),
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

    /// Says it; from then on the target may let the process go. `signals`: what has come until now.
    fn send_commit(
        &self,
        to: &mut dyn Destination,
        captive: &Captive,
        signals: Vec<(ProcessIndex, Vec<LateSignal>)>,
    ) -> Result<(), MigrateError> {
        to.say(&ToTarget::Commit(signals))?;
        to.nudge()?;
        // while the target lets it go
        Signals::of(self.options, &self.report.id).note(captive.accounts());
        if crate::fault::waits_at(Point::SourceCommitSent) {
            to.flush()?;
        }
        MigrateError::point(Point::SourceCommitSent)
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
        let answer = ask(to, &id);
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

    /// Nothing was decided: the process runs on here.
    pub(super) fn give_up(
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
}
