//! The hand-over at the source as it is carried out: what the machine [`Source`] says becomes work on the stopped process, the
//! journal and the conversation. Nothing else in the session commits, kills, lets go, gives up or asks.

use super::MigrateError;
use super::ask::{Answer, ask};
use super::control::Control;
use super::destination::Destination;
use super::hand_on::{Copy, Signals, Tended as _};
use super::late::{Arrived, Late};
use super::options::{MOVED, Options, Progress};
use crate::fault::{self, Point};
use crate::handover::journal::{Journal, Phase};
use crate::handover::{Driver, Hands, NotDone, Source, SourceAction, SourceEvent};
use crate::image::process::LateSignal;
use crate::image::{FIRST, ProcessIndex};
use crate::preload::PreloadError;
use crate::preload::capture::Captive;
use crate::preload::claim::Claim;
use crate::preload::throttle::Waits;
use crate::report::{MigrationReport, Outcome};
use crate::state::files::tcp_over::hang_up;
use crate::transport::protocol::ToTarget;

/// The machine, and all that its actions work on.
pub(super) struct Executor<'a> {
    driver: Driver<Source>,
    options: &'a Options,
    control: &'a Control,
    tell: &'a dyn Fn(Progress<'_>),
    /// Whether the process is ours among the movers of this host.
    pub(super) claim: Option<Claim>,
    /// Our journal entry, once it is on the disk.
    pub(super) journal: Option<Journal>,
    /// Waits that a stop of ours interrupted.
    pub(super) waits: Option<Waits>,
    /// The process, while it is frozen.
    pub(super) captive: Option<Captive>,
    /// Its memory comes after it.
    pub(super) late: Option<Late>,
    /// Signals that go with `Commit`.
    taken: Vec<(ProcessIndex, Vec<LateSignal>)>,
    /// Signals that come later.
    signals: Option<Signals>,
    /// The copy here was ended.
    killed: bool,
    /// Why it does not end well.
    error: Option<MigrateError>,
}

impl std::fmt::Debug for Executor<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Executor").field("state", &self.driver.state()).finish_non_exhaustive()
    }
}

impl<'a> Executor<'a> {
    /// Of a migration that has not begun.
    pub(super) fn new(options: &'a Options, control: &'a Control, tell: &'a dyn Fn(Progress<'_>)) -> Self {
        Executor {
            driver: Driver::new(Source::Moving),
            options,
            control,
            tell,
            claim: None,
            journal: None,
            waits: None,
            captive: None,
            late: None,
            taken: Vec::new(),
            signals: None,
            killed: false,
            error: None,
        }
    }

    /// Where the hand-over stands.
    pub(super) fn state(&self) -> Source {
        self.driver.state()
    }

    /// Something has happened: what follows is carried out. `why`: the error behind it, if it is one; what it comes to in the end
    /// is returned.
    pub(super) fn on(
        &mut self,
        event: SourceEvent,
        why: Option<MigrateError>,
        to: &mut dyn Destination,
        report: &mut MigrationReport,
    ) -> Result<(), MigrateError> {
        self.error = why;
        let mut driver = self.driver;
        driver.on(event, &mut SourceHands { executor: self, to, report });
        self.driver = driver;
        self.error.take().map_or(Ok(()), Err)
    }

    /// What went wrong before the commit point.
    pub(super) fn give_up(
        &mut self,
        error: MigrateError,
        to: &mut dyn Destination,
        report: &mut MigrationReport,
    ) -> Result<(), MigrateError> {
        self.on(error.event(), Some(error), to, report)
    }
}

/// The hands of the machine, for one event.
struct SourceHands<'r, 'a> {
    executor: &'r mut Executor<'a>,
    to: &'r mut dyn Destination,
    report: &'r mut MigrationReport,
}

impl Hands<Source> for SourceHands<'_, '_> {
    fn id(&self) -> &str {
        &self.report.id
    }

    fn carry_out(&mut self, action: SourceAction) -> Result<Option<SourceEvent>, NotDone> {
        use SourceAction as A;
        let done = match action {
            A::JournalOpen => self.open_journal(),
            A::Tidy => self.tidy(),
            A::TakeSignals => self.take_signals(),
            A::Hold => self.hold(),
            A::SendCommit => {
                let taken = std::mem::take(&mut self.executor.taken);
                self.to.say(&ToTarget::Commit(taken)).and_then(|()| self.to.nudge())
            }
            A::NoteSignals => self.note_signals(),
            A::Ask => return self.ask().map(Some),
            A::Follow => return self.follow().map(Some),
            A::Disable => self.captive(Captive::disable),
            A::HandOn => self.hand_on(),
            A::Kill => self.kill(),
            A::HandOnLast => self.hand_on_last(),
            A::Resume => self.resume(),
            A::LeaveStopped => self.leave_stopped(),
            A::SendAbort => {
                self.to.ignore_cancel();
                let why = self.executor.error.as_ref().map(ToString::to_string).unwrap_or_default();
                self.to.say(&ToTarget::Abort(why))
            }
            A::JournalClosed => self.close_journal(),
            A::SendGoodbye => self.to.say(&ToTarget::Goodbye),
        };
        done.map(|()| None).map_err(|error| self.not_done(action, error))
    }
}

impl SourceHands<'_, '_> {
    /// The first error is the one that counts.
    fn not_done(&mut self, action: SourceAction, error: MigrateError) -> NotDone {
        let told = matches!(action, SourceAction::SendAbort | SourceAction::SendGoodbye);
        if told || self.executor.error.is_some() {
            tracing::debug!(?action, error = %crate::sys::chain(&error), "not done");
        } else {
            self.executor.error = Some(error);
        }
        NotDone
    }

    /// Works on the stopped process, if there is one.
    fn captive(
        &mut self,
        work: impl FnOnce(&mut Captive) -> Result<(), PreloadError>,
    ) -> Result<(), MigrateError> {
        self.executor.captive.as_mut().map_or(Ok(()), work).map_err(MigrateError::from)
    }

    fn open_journal(&mut self) -> Result<(), MigrateError> {
        let dir = self.executor.options.home.join("journal");
        if let Some(journal) = &mut self.executor.journal {
            journal.set(Phase::Committed).map_err(MigrateError::journal(&dir))?;
        }
        MigrateError::point(Point::SourceJournalled)
    }

    /// A copy that is retired next needs the scratch area, and never runs again.
    fn tidy(&mut self) -> Result<(), MigrateError> {
        if self.executor.late.is_some() && self.executor.options.lazy.release {
            return Ok(());
        }
        self.captive(|captive| captive.tidy().map_err(PreloadError::from))
    }

    fn take_signals(&mut self) -> Result<(), MigrateError> {
        if let Some(captive) = &mut self.executor.captive {
            self.executor.taken = vec![(FIRST, captive.signalled()?)];
        }
        Ok(())
    }

    fn hold(&mut self) -> Result<(), MigrateError> {
        self.captive(Captive::hold)?;
        MigrateError::point(Point::SourceHeld)
    }

    /// While the target lets it go.
    fn note_signals(&mut self) -> Result<(), MigrateError> {
        let accounts = self.executor.captive.as_ref().and_then(Captive::accounts);
        self.signals().note(accounts);
        if fault::waits_at(Point::SourceCommitSent) {
            self.to.flush()?;
        }
        MigrateError::point(Point::SourceCommitSent)
    }

    fn signals(&mut self) -> &mut Signals {
        let (options, id) = (self.executor.options, &self.report.id);
        self.executor.signals.get_or_insert_with(|| Signals::of(options, id))
    }

    fn ask(&mut self) -> Result<SourceEvent, NotDone> {
        let unanswered = self.executor.error.take();
        tracing::warn!(error = ?unanswered, "the target did not answer the commit; asking again");
        let id = self.report.id.clone();
        let Ok(answer) = ask(self.to, &id) else {
            return Err(self.not_done(SourceAction::Ask, MigrateError::Open { id }));
        };
        match answer {
            Answer::Running(pid) | Answer::RunsLazily(pid) => self.report.target_pid = Some(pid),
            Answer::Never => self.executor.error = Some(unanswered.unwrap_or(MigrateError::Cancelled)),
            Answer::Down => self.executor.error = Some(MigrateError::Down { id }),
        }
        Ok(match answer {
            // nothing of it was to come later
            Answer::RunsLazily(_) if self.executor.late.is_none() => SourceEvent::Running,
            answer => answer.event(),
        })
    }

    fn follow(&mut self) -> Result<SourceEvent, NotDone> {
        self.report.outcome = Outcome::Moved;
        let Some(mut late) = self.executor.late.take() else { return Ok(SourceEvent::Whole) };
        let Some(mut captive) = self.executor.captive.take() else { return Ok(SourceEvent::Whole) };
        hang_up(self.executor.options.pid);
        let layout = late.layout().clone();
        let release = self.executor.options.lazy.release;
        let (control, tell) = (self.executor.control, self.executor.tell);
        self.signals();
        let Some(signals) = &mut self.executor.signals else { return Err(NotDone) };
        let mut copy = Copy::new(&mut captive, signals, layout, release);
        copy.meanwhile(Some(&mut *self.to));
        let arrived = late.until_whole(Some(&mut *self.to), control, tell, &mut copy);
        self.executor.captive = Some(captive);
        self.report.bytes_on_wire = self.to.bytes_sent() + late.bytes();
        match arrived {
            Ok(arrived) => {
                self.report.lazy = late.stats(&arrived);
                if let Arrived::Ended(why) = &arrived {
                    tell(Progress::Step(&format!("nothing more of its memory is needed: {why}")));
                }
                late.close(MOVED);
                Ok(SourceEvent::Whole)
            }
            // what is left of the copy is of no use, and nothing is open
            Err(lost @ MigrateError::CopyLost(_)) => {
                self.report.outcome = Outcome::Lost;
                self.executor.error = Some(lost);
                Ok(SourceEvent::CopyLost)
            }
            Err(error) => {
                self.report.outcome = Outcome::Unknown;
                Err(self.not_done(SourceAction::Follow, error))
            }
        }
    }

    fn hand_on(&mut self) -> Result<(), MigrateError> {
        self.report.outcome = Outcome::Moved;
        self.signals();
        let executor = &mut *self.executor;
        if let (Some(captive), Some(signals)) = (&mut executor.captive, &mut executor.signals) {
            let found = captive.signalled_meanwhile();
            signals.send(Some(&mut *self.to), found, Some(captive));
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<(), MigrateError> {
        let Some(captive) = self.executor.captive.take() else { return Ok(()) };
        let last = captive.kill()?;
        self.executor.killed = true;
        self.signals().send(None, last, None);
        // whole without us
        if let Some(late) = self.executor.late.take() {
            late.close(MOVED);
        }
        Ok(())
    }

    fn hand_on_last(&mut self) -> Result<(), MigrateError> {
        if let Some(signals) = self.executor.signals.take() {
            self.report.notes.extend(signals.finish(self.to));
        }
        Ok(())
    }

    /// What we interrupted is remembered for the next move.
    fn resume(&mut self) -> Result<(), MigrateError> {
        self.report.outcome = Outcome::Aborted;
        if let (Some(captive), Some(waits)) = (self.executor.captive.take(), &self.executor.waits) {
            let mut waits = waits.lock();
            captive.resume(&mut waits);
            waits.save(&self.executor.options.home, self.executor.options.pid);
        }
        self.executor.late = None;
        Ok(())
    }

    /// It may be this copy that `ulpm recover` lets go on.
    fn leave_stopped(&mut self) -> Result<(), MigrateError> {
        self.report.outcome = Outcome::Unknown;
        if let (Some(captive), Some(waits)) = (self.executor.captive.take(), &self.executor.waits) {
            captive.remember_waits(&mut waits.lock());
            waits.lock().save(&self.executor.options.home, self.executor.options.pid);
            captive.leave_stopped();
        }
        self.executor.late = None;
        Ok(())
    }

    fn close_journal(&mut self) -> Result<(), MigrateError> {
        let killed = self.executor.killed;
        if killed {
            MigrateError::point(Point::SourceKilled)?;
        }
        let dir = self.executor.options.home.join("journal");
        let entry = match self.executor.journal.take() {
            Some(journal) => Ok(Some(journal)),
            // it was made, and something went wrong just then
            None => Journal::open(&dir, &self.report.id, true),
        };
        entry.and_then(|entry| entry.map_or(Ok(()), Journal::close)).map_err(MigrateError::journal(&dir))?;
        if killed {
            // what is still to be said to the target is no matter of the process's
            self.executor.claim = None;
            MigrateError::point(Point::SourceClosed)?;
        }
        Ok(())
    }
}
