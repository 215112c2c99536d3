//! The two hosts, their journals, the copies of the process, and what is under way between them.

use super::*;

/// The copy at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AtSource {
    /// Traced: runs when its tracer ends.
    Frozen,
    /// Traced, with a stop that outlives the tracer.
    Held,
    /// Stopped, and traced by nobody.
    Stopped,
    Running,
    Gone,
}

/// The copy at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum AtTarget {
    /// Dies with its tracer.
    Skeleton,
    /// Traced, has not run, runs when its tracer ends.
    Outlives,
    Running,
    /// Came to its own end.
    Ended,
    Gone,
}

/// What is written: in the cache, as every reader sees it; and on the disk, as the next boot will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Disk {
    pub(super) cached: Option<Phase>,
    durable: Option<Phase>,
}

impl Disk {
    fn write(&mut self, phase: Option<Phase>, luck: Luck) -> bool {
        if luck != Luck::NotWritten {
            self.cached = phase;
        }
        if matches!(luck, Luck::Good | Luck::Written) {
            self.durable = phase;
        }
        luck == Luck::Good
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// The session at the source, or `ulpm recover`; what it has still to do.
    pub(super) source: Option<Source>,
    source_todo: Vec<SourceAction>,
    pub(super) at_source: AtSource,
    pub(super) source_journal: Disk,
    /// The session at the target.
    pub(super) target: Option<Target>,
    target_todo: Vec<TargetAction>,
    pub(super) at_target: AtTarget,
    pub(super) target_journal: Disk,
    serving: bool,
    /// The target's host was booted since the entry was made.
    pub(super) target_rebooted: bool,
    /// It has executed an instruction at the target.
    pub(super) ran: bool,
    /// Messages that were sent; any of them may arrive, again and again.
    sent: u16,
    /// The last copy went down with the host on which the process lived: nobody could have helped.
    pub(super) excused: bool,
    /// The source's copy went on, without the user's word, although it had run at the target.
    pub(super) rolled_back: bool,
    /// The target has said that it runs while it did, or when it had come to its own end.
    told: bool,
    /// The user was asked for a decision, and took one.
    pub(super) forced: bool,
    left: Budget,
}

impl World {
    pub(super) fn start(left: Budget) -> Self {
        let begun = Disk { cached: Some(Phase::Begun), durable: Some(Phase::Begun) };
        World {
            source: Some(Source::Moving),
            source_todo: Vec::new(),
            at_source: AtSource::Frozen,
            source_journal: begun,
            target: Some(Target::Building),
            target_todo: Vec::new(),
            at_target: AtTarget::Skeleton,
            target_journal: begun,
            serving: true,
            target_rebooted: false,
            ran: false,
            sent: 0,
            excused: false,
            rolled_back: false,
            told: false,
            forced: false,
            left,
        }
    }

    fn send(&mut self, message: Message) {
        self.sent |= 1 << message as u16;
    }

    pub(super) fn was_sent(&self, message: Message) -> bool {
        self.sent & 1 << message as u16 != 0
    }

    fn life(&self) -> Life {
        match self.at_target {
            AtTarget::Skeleton | AtTarget::Outlives | AtTarget::Running => Life::Lives,
            AtTarget::Ended | AtTarget::Gone if self.target_rebooted => Life::Rebooted,
            AtTarget::Ended | AtTarget::Gone => Life::Ended,
        }
    }

    /// Everything that can happen next.
    pub(super) fn steps(&self, steps: &mut Vec<Step>, broken: Broken) {
        self.source_steps(steps, broken);
        self.target_steps(steps);
        for message in Message::ALL.into_iter().filter(|m| self.was_sent(*m)) {
            steps.push(Step::Arrives(message));
        }
        if self.at_target == AtTarget::Running && self.left.ends > 0 {
            steps.push(Step::ProcessEnds);
        }
        for (i, side) in [Side::Source, Side::Target].into_iter().enumerate() {
            if self.left.crashes[i] > 0 {
                steps.push(Step::Crash(side));
            }
            if self.left.cuts[i] > 0 {
                steps.extend([Step::PowerCut(side, true), Step::PowerCut(side, false)]);
            }
        }
    }

    fn source_steps(&self, steps: &mut Vec<Step>, broken: Broken) {
        let Some(state) = self.source else {
            if self.source_journal.cached.is_some() && broken != Broken::NoRecover {
                steps.push(Step::Recover);
            }
            return;
        };
        if let Some(next) = self.source_todo.first() {
            steps.push(Step::SourceActs(Luck::Good));
            if matches!(next, SourceAction::JournalOpen | SourceAction::JournalClosed)
                && self.left.writes[0] > 0
            {
                steps.extend(BAD_LUCK.map(Step::SourceActs));
            }
            return;
        }
        match state {
            Source::Moving => {
                steps.extend([SourceEvent::Lost, SourceEvent::Cancelled].map(Step::SourceHears));
            }
            Source::Committing => {
                steps.extend([SourceEvent::Lost, SourceEvent::Cancelled].map(Step::SourceHears));
            }
            Source::Open => {
                steps.push(Step::SourceHears(SourceEvent::Unsettled));
                if self.was_sent(Message::AnswerDown) {
                    steps.extend([SourceEvent::ForcedHere, SourceEvent::ForcedThere].map(Step::SourceHears));
                }
            }
            Source::Done | Source::Resumed => {}
        }
        if state != Source::Moving && state != Source::Committing {
            steps.push(Step::SourceEnds);
        }
    }

    fn target_steps(&self, steps: &mut Vec<Step>) {
        if !self.serving {
            steps.push(Step::Serve);
        }
        if self.serving && self.target.is_none() && self.target_journal.cached == Some(Phase::Refused) {
            steps.push(Step::Forgets);
        }
        let Some(state) = self.target else { return };
        if let Some(next) = self.target_todo.first() {
            steps.push(Step::TargetActs(Luck::Good));
            let fails = matches!(next, TargetAction::Outlive);
            let writes = matches!(
                next,
                TargetAction::JournalCommitted
                    | TargetAction::NoteReleasing
                    | TargetAction::JournalReleased
                    | TargetAction::JournalRefused
                    | TargetAction::JournalRemoved
            );
            if fails {
                steps.push(Step::TargetActs(Luck::NotWritten));
            }
            if writes && self.left.writes[1] > 0 {
                steps.extend(BAD_LUCK.map(Step::TargetActs));
            }
            return;
        }
        steps.push(Step::TargetHears(TargetEvent::Lost));
        if state == Target::Building {
            steps.extend([TargetEvent::Applied, TargetEvent::Failed].map(Step::TargetHears));
        }
        if matches!(state, Target::Running | Target::Destroyed) {
            steps.push(Step::TargetEnds);
        }
    }

    pub(super) fn take(&mut self, step: Step, broken: Broken) {
        match step {
            Step::SourceActs(luck) => self.source_acts(luck),
            Step::TargetActs(luck) => self.target_acts(luck, broken),
            Step::Arrives(message) => self.arrives(message, broken),
            Step::SourceHears(event) => self.source_hears(event, broken),
            Step::TargetHears(event) => self.target_hears(event, broken),
            Step::SourceEnds => self.source_ends(),
            Step::TargetEnds => self.target = None,
            Step::Crash(Side::Source) => {
                self.left.crashes[0] -= 1;
                self.source_ends();
            }
            Step::Crash(Side::Target) => {
                self.left.crashes[1] -= 1;
                self.target_ends();
            }
            Step::PowerCut(side, survives) => self.power_cut(side, survives),
            Step::Recover => {
                let Some(phase) = self.source_journal.cached else { return };
                let (state, actions) = settle::reopened(phase);
                self.source = Some(state);
                self.source_todo = actions.to_vec();
            }
            Step::Serve => self.serve(),
            Step::Forgets => {
                self.target_journal.write(None, Luck::Good);
            }
            Step::ProcessEnds => {
                self.left.ends -= 1;
                self.at_target = AtTarget::Ended;
            }
        }
    }

    /// The tracer goes, with all that it knew.
    fn source_ends(&mut self) {
        self.source = None;
        self.source_todo.clear();
        self.at_source = match self.at_source {
            AtSource::Frozen => AtSource::Running,
            AtSource::Held => AtSource::Stopped,
            other => other,
        };
    }

    fn target_ends(&mut self) {
        self.target = None;
        self.target_todo.clear();
        self.serving = false;
        match self.at_target {
            AtTarget::Skeleton => self.at_target = AtTarget::Gone,
            AtTarget::Outlives => self.runs_at_target(),
            _ => {}
        }
    }

    fn runs_at_target(&mut self) {
        self.at_target = AtTarget::Running;
        self.ran = true;
    }

    fn power_cut(&mut self, side: Side, survives: bool) {
        match side {
            Side::Source => {
                self.left.cuts[0] -= 1;
                self.source_ends();
                // that was where it lived, or where its last copy was
                let last = !self.ran || self.at_target == AtTarget::Gone;
                self.excused |= self.at_source != AtSource::Gone && last;
                self.at_source = AtSource::Gone;
                let disk = &mut self.source_journal;
                if !survives {
                    disk.cached = disk.durable;
                }
                disk.durable = disk.cached;
            }
            Side::Target => {
                self.left.cuts[1] -= 1;
                let alive = matches!(self.at_target, AtTarget::Running | AtTarget::Outlives);
                self.target_ends();
                self.excused |= alive && self.at_source == AtSource::Gone;
                if self.at_target != AtTarget::Ended {
                    self.at_target = AtTarget::Gone;
                }
                self.target_rebooted = true;
                let disk = &mut self.target_journal;
                if !survives {
                    disk.cached = disk.durable;
                }
                disk.durable = disk.cached;
            }
        }
    }

    fn serve(&mut self) {
        self.serving = true;
        let Some(phase) = self.target_journal.cached else { return };
        match on_start(phase, self.life()) {
            OnStart::Keep => {}
            OnStart::Write(phase) => {
                self.target_journal.write(Some(phase), Luck::Good);
            }
            OnStart::Remove => self.target_journal.cached = None,
        }
    }

    fn arrives(&mut self, message: Message, broken: Broken) {
        if message == Message::Ask {
            if self.serving {
                self.answer(broken);
            }
        } else if let Some(event) = message.to_source() {
            if self.source.is_some() && self.source_todo.is_empty() {
                self.source_hears(event, broken);
            }
        } else if let Some(event) = message.to_target()
            && self.target.is_some()
            && self.target_todo.is_empty()
        {
            self.target_hears(event, broken);
        }
    }

    /// Another connection than the session's asks.
    fn answer(&mut self, broken: Broken) {
        let written = self.target_journal.cached.map(|phase| (phase, self.life()));
        let at_work = self.target.is_some() && broken != Broken::RunningWhileAtWork;
        let (mut reply, mut write) = answer(written, at_work);
        match broken {
            Broken::NeverNotWritten if reply == Answer::Never => write = None,
            Broken::DownIsRunning if reply == Answer::Down => reply = Answer::Running,
            _ => {}
        }
        if let Some(phase) = write {
            self.target_journal.write(Some(phase), Luck::Good);
        }
        let true_now = matches!(self.at_target, AtTarget::Running | AtTarget::Ended);
        match reply {
            Answer::Running => {
                self.told |= true_now;
                self.send(Message::AnswerRunning);
            }
            Answer::Never => self.send(Message::AnswerNever),
            Answer::Down => self.send(Message::AnswerDown),
            Answer::Later => {}
        }
    }

    fn source_hears(&mut self, event: SourceEvent, broken: Broken) {
        use SourceAction as A;
        let Some(state) = &mut self.source else { return };
        self.forced |= matches!(event, SourceEvent::ForcedHere | SourceEvent::ForcedThere);
        let mut actions = state.on(event).to_vec();
        match broken {
            Broken::CommitBeforeJournal if actions.contains(&A::SendCommit) => actions.rotate_right(1),
            Broken::NoHold => actions.retain(|a| *a != A::Hold),
            Broken::KillOnSend if actions.contains(&A::SendCommit) => actions.push(A::Kill),
            Broken::ResumeOnLost if actions == [A::Ask] => {
                *state = Source::Resumed;
                actions = vec![A::Resume, A::JournalClosed];
            }
            _ => {}
        }
        self.source_todo = actions;
    }

    fn target_hears(&mut self, event: TargetEvent, broken: Broken) {
        use TargetAction as A;
        let Some(state) = &mut self.target else { return };
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

    fn source_acts(&mut self, luck: Luck) {
        use SourceAction as A;
        let action = self.source_todo.remove(0);
        self.left.writes[0] -= u8::from(luck != Luck::Good);
        match action {
            A::JournalOpen => {
                if !self.source_journal.write(Some(Phase::Committed), luck) {
                    self.source_hears(SourceEvent::NotSent, Broken::Nothing);
                }
            }
            // in the real world it stays in the directory
            A::JournalClosed => {
                self.source_journal.write(None, luck);
            }
            A::Hold => self.at_source = AtSource::Held,
            A::SendCommit => self.send(Message::Commit),
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
                self.at_source = AtSource::Gone;
            }
            A::LeaveStopped if self.at_source == AtSource::Held => self.at_source = AtSource::Stopped,
            A::Resume | A::LeaveStopped => {}
        }
    }

    fn target_acts(&mut self, luck: Luck, broken: Broken) {
        use TargetAction as A;
        let action = self.target_todo.remove(0);
        let writes = !matches!(action, A::Outlive);
        self.left.writes[1] -= u8::from(writes && luck != Luck::Good);
        match action {
            A::SendPrepared => self.send(Message::Prepared),
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
