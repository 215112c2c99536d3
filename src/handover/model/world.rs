//! The two hosts, their journals, the copies of the process, and what is under way between them.

use std::cell::RefCell;
use std::collections::BTreeSet;

use super::*;

mod acts;

thread_local! {
    /// What either machine has heard on this thread, and in which state.
    pub(super) static HEARD: RefCell<(BTreeSet<String>, BTreeSet<String>)> = RefCell::default();
}

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

/// How an action of the source may fail.
fn bad_luck(action: SourceAction) -> &'static [Luck] {
    use SourceAction as A;
    match action {
        A::JournalOpen | A::JournalClosed => &BAD_LUCK,
        // part of it may have left, or all
        A::SendCommit => &[Luck::NotWritten, Luck::Written],
        A::Tidy
        | A::TakeSignals
        | A::Hold
        | A::NoteSignals
        | A::Follow
        | A::Disable
        | A::HandOn
        | A::Kill
        | A::HandOnLast => &[Luck::NotWritten],
        A::Ask | A::Resume | A::LeaveStopped | A::SendAbort | A::SendGoodbye => &[],
    }
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

/// A signal to the copy at the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Signal {
    None,
    /// In the copy's queue.
    Queued,
    /// There too, and about to be sent with `Commit`.
    Taken,
    /// In the session's memory, the copy being dead.
    Kept,
    /// Said to the target.
    HandedOn,
    /// Gone with a session.
    Lost,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    /// The session at the source, or `ulpm recover`; what it has still to do.
    pub(super) source: Option<Source>,
    source_todo: Vec<SourceAction>,
    pub(super) at_source: AtSource,
    pub(super) source_journal: Disk,
    pub(super) signal: Signal,
    /// A session of either side ended before its time, so that a signal may be lost.
    pub(super) crashed: bool,
    /// Its memory comes after it.
    pub(super) lazy: bool,
    /// It has all its memory, or needs no more.
    pub(super) whole: bool,
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
    pub(super) fn start(left: Budget, lazy: bool) -> Self {
        let begun = Disk { cached: Some(Phase::Begun), durable: Some(Phase::Begun) };
        World {
            source: Some(Source::Moving),
            source_todo: Vec::new(),
            at_source: AtSource::Frozen,
            source_journal: begun,
            signal: Signal::None,
            crashed: false,
            lazy,
            whole: !lazy,
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
        if self.at_target == AtTarget::Running {
            if self.left.ends > 0 {
                steps.push(Step::ProcessEnds);
                steps.extend((!self.whole).then_some(Step::GivenUp));
            }
            let served = self.source == Some(Source::Following) && self.source_todo.is_empty();
            let there = self.at_source != AtSource::Gone;
            steps.extend((!self.whole && served && there).then_some(Step::BecomesWhole));
        }
        let stopped = !matches!(self.at_source, AtSource::Running | AtSource::Gone);
        if stopped && self.left.signals > 0 && self.signal == Signal::None {
            steps.push(Step::Signalled);
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
            if self.left.writes[0] > 0 {
                steps.extend(bad_luck(*next).iter().copied().map(Step::SourceActs));
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
            Source::Following | Source::Done | Source::Resumed => {}
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
            let fails = matches!(next, TargetAction::Outlive | TargetAction::QueueSignals);
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
            steps.push(Step::TargetHears(TargetEvent::Applied));
        }
        if matches!(state, Target::Building | Target::Prepared) {
            steps.push(Step::TargetHears(TargetEvent::Failed));
        }
        if matches!(state, Target::Running | Target::Destroyed) {
            steps.push(Step::TargetEnds);
        }
    }

    pub(super) fn take(&mut self, step: Step, broken: Broken) {
        match step {
            Step::SourceActs(luck) => self.source_acts(luck, broken),
            Step::TargetActs(luck) => self.target_acts(luck, broken),
            Step::Arrives(message) => self.arrives(message, broken),
            Step::SourceHears(event) => self.source_hears(event, broken),
            Step::TargetHears(event) => self.target_hears(event, broken),
            Step::SourceEnds => self.source_ends(),
            Step::TargetEnds => self.target = None,
            Step::Crash(Side::Source) => {
                self.left.crashes[0] -= 1;
                self.crashed = true;
                self.source_ends();
            }
            Step::Crash(Side::Target) => {
                self.left.crashes[1] -= 1;
                self.target_ends();
            }
            Step::PowerCut(side, survives) => self.power_cut(side, survives),
            Step::Recover => {
                let Some(phase) = self.source_journal.cached else { return };
                self.source = Some(settle::reopened(phase));
                self.source_hears(SourceEvent::Recovered, broken);
            }
            Step::Serve => self.serve(),
            Step::Forgets => {
                self.target_journal.write(None, Luck::Good);
            }
            Step::ProcessEnds => {
                self.left.ends -= 1;
                self.at_target = AtTarget::Ended;
                self.becomes_whole(Message::Whole);
            }
            Step::BecomesWhole => self.becomes_whole(Message::Whole),
            Step::GivenUp => {
                self.left.ends -= 1;
                self.at_target = AtTarget::Gone;
                self.excused = true;
                self.becomes_whole(Message::CopyLost);
            }
            Step::Signalled => {
                self.left.signals -= 1;
                self.signal = Signal::Queued;
            }
        }
    }

    /// Nothing is outstanding any more, and the source is told why.
    fn becomes_whole(&mut self, why: Message) {
        if !std::mem::replace(&mut self.whole, true) {
            self.send(why);
        }
    }

    /// The tracer goes, with all that it knew.
    fn source_ends(&mut self) {
        self.signal = match self.signal {
            Signal::Taken => Signal::Queued,
            Signal::Kept => Signal::Lost,
            other => other,
        };
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
                self.crashed = true;
                self.source_ends();
                // what it lacks of its memory cannot come
                let starves = matches!(self.at_target, AtTarget::Outlives | AtTarget::Running);
                self.excused |= starves && !self.whole;
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
        } else if let Some(event) = message.to_source(self.lazy) {
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
                self.send(if self.whole { Message::AnswerRunning } else { Message::AnswerLazily });
            }
            Answer::Never => self.send(Message::AnswerNever),
            Answer::Down => self.send(Message::AnswerDown),
            Answer::Later => {}
        }
    }
}
