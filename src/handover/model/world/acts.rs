//! What either side does about what it hears: the machine's actions, one by one, each with its luck.

use super::*;

impl World {
    pub(super) fn source_hears(&mut self, event: SourceEvent, broken: Broken) {
        use SourceAction as A;
        let Some(state) = &mut self.source else { return };
        HEARD.with_borrow_mut(|(source, _)| source.insert(format!("{state:?} {event:?}")));
        self.forced |= matches!(event, SourceEvent::ForcedHere | SourceEvent::ForcedThere);
        let mut actions = state.on(event).to_vec();
        match broken {
            Broken::CommitBeforeJournal if actions.contains(&A::SendCommit) => actions.rotate_right(2),
            Broken::NoHold => actions.retain(|a| *a != A::Hold),
            Broken::TidyWhenHeld if actions.contains(&A::Tidy) => {
                actions.retain(|a| *a != A::Tidy);
                let held = actions.iter().position(|a| *a == A::Hold).map_or(0, |at| at + 1);
                actions.insert(held, A::Tidy);
            }
            Broken::KillWhileOutstanding if actions == [A::Follow] => {
                *state = Source::Done;
                actions = vec![A::Kill, A::JournalClosed];
            }
            Broken::NoLastSignals => actions.retain(|a| *a != A::HandOnLast),
            Broken::KillOnSend if actions.contains(&A::SendCommit) => actions.push(A::Kill),
            Broken::ResumeOnLost if actions == [A::Ask] => {
                *state = Source::Resumed;
                actions = vec![A::Resume, A::JournalClosed];
            }
            _ => {}
        }
        self.source_todo = actions;
    }

    pub(super) fn target_hears(&mut self, event: TargetEvent, broken: Broken) {
        use TargetAction as A;
        let Some(state) = &mut self.target else { return };
        HEARD.with_borrow_mut(|(_, target)| target.insert(format!("{state:?} {event:?}")));
        let mut actions = state.on(event).to_vec();
        match broken {
            Broken::RunBeforeJournal if event == TargetEvent::Commit => {
                actions.splice(0..0, [A::Outlive, A::LetGo]);
            }
            Broken::NoNote => actions.retain(|a| *a != A::NoteReleasing),
            _ => {}
        }
        self.target_todo = actions;
    }

    pub(super) fn source_acts(&mut self, luck: Luck, broken: Broken) {
        let action = self.source_todo.remove(0);
        self.left.writes[0] -= u8::from(luck != Luck::Good);
        self.source_does(action, luck);
        if luck == Luck::Good {
            return;
        }
        // signals that cannot be handed on are named to the user
        self.crashed |= matches!(action, SourceAction::HandOn | SourceAction::HandOnLast);
        match Source::failed(action) {
            After::GoOn => {}
            After::Stop => self.source_todo.clear(),
            After::Hear(_) if broken == Broken::NotSentAfterSending => {
                self.source_hears(SourceEvent::NotSent, broken)
            }
            After::Hear(event) => self.source_hears(event, Broken::Nothing),
        }
    }

    fn source_does(&mut self, action: SourceAction, luck: Luck) {
        use SourceAction as A;
        match action {
            A::JournalOpen => {
                self.source_journal.write(Some(Phase::Committed), luck);
            }
            // in the real world it stays in the directory
            A::JournalClosed => {
                self.source_journal.write(None, luck);
            }
            _ if luck == Luck::NotWritten => {}
            // a remote call takes a pending stop
            A::Tidy if self.at_source == AtSource::Held => self.at_source = AtSource::Frozen,
            A::TakeSignals if self.signal == Signal::Queued => self.signal = Signal::Taken,
            A::Hold => self.at_source = AtSource::Held,
            A::SendCommit => {
                self.send(Message::Commit);
                self.hands_on(Signal::Taken);
            }
            A::HandOn => self.hands_on(Signal::Queued),
            A::HandOnLast => self.hands_on(Signal::Kept),
            A::SendAbort => self.send(Message::Abort),
            A::SendGoodbye => self.send(Message::Goodbye),
            A::Ask => self.send(Message::Ask),
            A::Resume if self.at_source != AtSource::Gone => {
                self.at_source = AtSource::Running;
                self.rolled_back |= self.ran && !self.forced && !self.target_rebooted;
            }
            A::Kill => {
                let last = matches!(self.at_target, AtTarget::Gone);
                self.excused |= last && (self.told || self.forced);
                // the user's word that nothing of this copy is needed
                self.excused |= self.forced && !self.whole;
                self.at_source = AtSource::Gone;
                if matches!(self.signal, Signal::Queued | Signal::Taken) {
                    self.signal = Signal::Kept;
                }
            }
            A::LeaveStopped if self.at_source == AtSource::Held => self.at_source = AtSource::Stopped,
            A::Resume | A::LeaveStopped | A::Tidy | A::TakeSignals => {}
            // a copy that never runs again is stopped all the more
            A::NoteSignals | A::Follow | A::Disable => {}
        }
    }

    fn hands_on(&mut self, from: Signal) {
        if self.signal == from {
            self.signal = Signal::HandedOn;
            self.send(Message::Signals);
        }
    }

    pub(super) fn target_acts(&mut self, luck: Luck, broken: Broken) {
        use TargetAction as A;
        let action = self.target_todo.remove(0);
        let writes = !matches!(action, A::Outlive | A::QueueSignals);
        self.left.writes[1] -= u8::from(writes && luck != Luck::Good);
        match action {
            A::SendPrepared => self.send(Message::Prepared),
            A::SaveWaits | A::LeaveMemory => {}
            A::QueueSignals if luck == Luck::Good => {}
            A::QueueSignals => self.target_hears(TargetEvent::Failed, broken),
            A::JournalCommitted => {
                let done = self.write_at_target(Phase::Committed, luck);
                self.target_hears(if done { TargetEvent::Journalled } else { TargetEvent::Failed }, broken);
            }
            A::NoteReleasing => {
                if luck != Luck::NotWritten {
                    self.target_journal.cached = Some(Phase::Releasing);
                }
                if luck != Luck::Good {
                    self.target_hears(TargetEvent::Failed, broken);
                }
            }
            A::Outlive if luck == Luck::Good => {
                self.at_target = AtTarget::Outlives;
                if broken != Broken::RunBeforeJournal || self.target == Some(Target::Leaving) {
                    self.target_hears(TargetEvent::Outlives, broken);
                }
            }
            A::Outlive => self.target_hears(TargetEvent::Failed, broken),
            A::LetGo => self.runs_at_target(),
            A::SendRunning => {
                self.told = true;
                self.send(Message::Running);
            }
            A::JournalReleased => {
                self.write_at_target(Phase::Released, luck);
            }
            A::Destroy => self.at_target = AtTarget::Gone,
            A::JournalRemoved => {
                self.target_journal.write(None, luck);
            }
            A::JournalRefused => {
                self.write_at_target(Phase::Refused, luck);
            }
            A::SendFailed => self.send(Message::Failed),
        }
    }

    /// As the journal does it: a decision stands.
    fn write_at_target(&mut self, phase: Phase, luck: Luck) -> bool {
        let stands = self.target_journal.cached.is_none_or(|was| !may_become(false, was, phase, self.life()));
        !stands && self.target_journal.write(Some(phase), luck)
    }
}
