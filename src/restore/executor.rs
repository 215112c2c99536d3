//! The hand-over at the target as it is carried out: what the machine [`Target`] says becomes work on the skeleton, the journal and
//! the conversation. Nothing else in a session lets go, destroys, or says how it ended.

use std::time::Instant;

use super::RestoreError;
use super::session::Session;
use super::work::{Commit, Work};
use crate::fault::Point;
use crate::handover::journal::{Journal, Phase};
use crate::handover::{Driver, Hands, NotDone, Target, TargetAction, TargetEvent};
use crate::image::FIRST;
use crate::sys::chain;
use crate::sys::time::initial_clocks;
use crate::transport::protocol::ToSource;

impl Session {
    /// Something has happened: what follows is carried out. `why`: the error behind it, if it is one; what it comes to in the end is
    /// returned.
    pub(super) fn on(
        &mut self,
        work: &mut Work,
        event: TargetEvent,
        why: Option<RestoreError>,
    ) -> Result<(), RestoreError> {
        work.commit.error = why.map(|e| explained(work, e));
        let mut driver = work.driver;
        driver.on(event, &mut TargetHands { session: self, work });
        work.driver = driver;
        // all is said that there is to say of it
        self.concluded |= matches!(driver.state(), Target::Running | Target::Destroyed);
        work.commit.error.take().map_or(Ok(()), Err)
    }

    /// The copy at the source is gone, and nobody will ask any more.
    pub(super) fn goodbye(&self, id: &str) {
        Driver::new(Target::Running).on(TargetEvent::Goodbye, &mut Farewell { session: self, id });
    }
}

/// An error that names what somebody or the kernel did to the process in the making.
fn explained(work: &Work, error: RestoreError) -> RestoreError {
    match error {
        e @ (RestoreError::Wire(_) | RestoreError::Unheard(_) | RestoreError::Aborted(_)) => e,
        e => work.builder.explain(e),
    }
}

/// The hands of the machine, for one event.
struct TargetHands<'r> {
    session: &'r mut Session,
    work: &'r mut Work,
}

impl Hands<Target> for TargetHands<'_> {
    fn id(&self) -> &str {
        &self.work.id
    }

    fn carry_out(&mut self, action: TargetAction) -> Result<Option<TargetEvent>, NotDone> {
        self.try_to(action).map_err(|error| {
            if self.work.commit.error.is_some() {
                // it follows from what stands in the journal, too
                tracing::warn!(?action, error = %chain(&error), "not done");
            } else {
                self.work.commit.error = Some(explained(self.work, error));
            }
            NotDone
        })
    }
}

impl TargetHands<'_> {
    fn try_to(&mut self, action: TargetAction) -> Result<Option<TargetEvent>, RestoreError> {
        use TargetAction as A;
        let work = &mut *self.work;
        match action {
            A::SendPrepared => self.send_prepared()?,
            A::SaveWaits => work.builder.save_waits(&self.session.server.home),
            A::QueueSignals => {
                let signals = std::mem::take(&mut work.commit.signals);
                signals.iter().try_for_each(|(of, signals)| work.builder.queue(*of, signals))?;
            }
            A::JournalCommitted => {
                work.journal.set(Phase::Committed).map_err(RestoreError::io("writing the journal"))?;
                work.commit.journal_ms = ms(work.commit.begun);
                RestoreError::point(Point::TargetJournalled)?;
                return Ok(Some(TargetEvent::Journalled));
            }
            A::NoteReleasing => {
                work.journal.note(Phase::Releasing).map_err(RestoreError::io("writing the journal"))?;
                RestoreError::point(Point::TargetNoted)?;
            }
            A::Outlive => {
                work.builder.outlive()?;
                RestoreError::point(Point::TargetOutlives)?;
                return Ok(Some(TargetEvent::Outlives));
            }
            A::LetGo => {
                work.builder.let_go();
                work.commit.at_boottime_ns = initial_clocks().boottime_ns;
                // what follows is no freeze any more
                work.commit.resume_ms = ms(work.commit.begun) - work.commit.journal_ms;
                drop(work.commit.urgent.take());
            }
            A::LeaveMemory => {
                self.session.lazy |= work.builder.leave_later_memory(&self.session.server.home, &work.id);
                let _ = RestoreError::point(Point::TargetLetGo);
            }
            A::SendRunning => self.send_running()?,
            A::JournalReleased => self.journal_released(),
            A::Destroy => {
                work.builder.destroy();
                tracing::debug!(namespace = work.builder.has_namespace(), "the skeleton is destroyed");
            }
            A::JournalRemoved => {
                work.journal.remove().map_err(RestoreError::io("removing the journal's entry"))?
            }
            A::JournalRefused => {
                work.journal.set(Phase::Refused).map_err(RestoreError::io("writing the journal"))?
            }
            A::SendFailed => {
                let why = work.commit.error.as_ref().map(|e| chain(e)).unwrap_or_default();
                // a source that cannot be heard may be out of reach
                let _ = self.session.say(&ToSource::Failed(why));
            }
        }
        Ok(None)
    }

    fn send_prepared(&mut self) -> Result<(), RestoreError> {
        let apply_ms = ms(self.work.commit.begun);
        let (verify_ms, verified) = (self.work.verify_ms, self.work.builder.verifies());
        self.session.say(&ToSource::Prepared { apply_ms, verify_ms, verified })?;
        RestoreError::point(Point::TargetPrepared)
    }

    fn send_running(&mut self) -> Result<(), RestoreError> {
        let pid = self.work.builder.pid(FIRST)?;
        let Commit { at_boottime_ns, journal_ms, resume_ms, .. } = self.work.commit;
        let said = self.session.say(&ToSource::Running { pid, at_boottime_ns, journal_ms, resume_ms });
        let _ = RestoreError::point(Point::TargetSaid);
        said
    }

    fn journal_released(&mut self) {
        if let Err(error) = self.work.journal.set(Phase::Released) {
            // what stands there is believed as long as the process lives
            tracing::warn!(id = self.work.id, %error, "the journal does not say that the process was let go");
        }
        let _ = RestoreError::point(Point::TargetReleased);
    }
}

/// The hands for the entry of a process that runs here, once its session has nothing else of it.
struct Farewell<'s> {
    session: &'s Session,
    id: &'s str,
}

impl Hands<Target> for Farewell<'_> {
    fn id(&self) -> &str {
        self.id
    }

    fn carry_out(&mut self, action: TargetAction) -> Result<Option<TargetEvent>, NotDone> {
        if action != TargetAction::JournalRemoved {
            return Err(NotDone);
        }
        let server = &self.session.server;
        // by another connection than the move's it may be anybody's
        let own = |entry: &Journal| entry.entry().key == self.session.key.to_string();
        let entry = Journal::open(&server.journal, self.id, false).map(|entry| entry.filter(own));
        if let Err(e) = entry.and_then(|entry| entry.map_or(Ok(()), |entry| entry.remove())) {
            tracing::warn!(error = %e, "the entry of a process that has arrived stays");
            return Err(NotDone);
        }
        server.taken.forget(self.id);
        Ok(None)
    }
}

fn ms(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e3
}
