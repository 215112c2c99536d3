//! The source's machine.

use super::drive::{After, Machine};

/// Where the source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Before the commit point: the process is ours.
    Moving,
    /// `Commit` may have been sent; the copy here is stopped for good or ill.
    Committing,
    /// The process runs at the target, and needs memory of the copy here.
    Following,
    /// The process runs at the target.
    Done,
    /// The process runs here.
    Resumed,
    /// Nobody here knows.
    Open,
}

/// What happens to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceEvent {
    /// The target has applied everything.
    Prepared,
    /// The target says that it failed.
    Failed,
    /// The connection is gone, or the target is silent too long.
    Lost,
    /// The user, or a time limit, wants it to end; or something here failed before the commit point.
    Cancelled,
    /// Something here failed before a single byte of `Commit` was sent.
    NotSent,
    /// The target says that the process runs there, and needs nothing from here.
    Running,
    /// The target says that the process runs there, and its memory is still to come.
    RunsLazily,
    /// Nothing more of the memory here is needed.
    Whole,
    /// The process at the target was ended: what was still to come of its memory cannot come.
    CopyLost,
    /// The target says that it will never run there.
    Never,
    /// The target says that it ran there and went down with its host; or it has been asked often enough in vain.
    Unsettled,
    /// The user says that the copy here is the one.
    ForcedHere,
    /// The user says that the copy at the target is the one.
    ForcedThere,
    /// `ulpm recover` goes on from what is written.
    Recovered,
}

/// What the source has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Write to the journal that the outcome is open, durably.
    JournalOpen,
    /// Take what is ours out of the copy: once it is held a remote call would swallow the stop.
    Tidy,
    /// Read what the copy was signalled since its state was captured: the stop takes a pending `SIGCONT` away.
    TakeSignals,
    /// Make the stop outlive us.
    Hold,
    /// Send `Commit`, and these signals with it.
    SendCommit,
    /// Leave word, for `ulpm recover`, which signals are accounted for.
    NoteSignals,
    /// Ask the target how it ended, in a conversation begun anew.
    Ask,
    /// Serve memory of the copy, which never runs again, and hand on what it is signalled.
    Follow,
    /// Lead the copy's threads nowhere: none runs any more, whoever lets it.
    Disable,
    /// Hand on what the copy was signalled meanwhile.
    HandOn,
    /// Kill the copy here, with a last look at its signals.
    Kill,
    /// Hand on those of the last look.
    HandOnLast,
    /// Let the copy here run.
    Resume,
    /// Leave the copy stopped.
    LeaveStopped,
    /// Tell the target that nothing comes of it.
    SendAbort,
    /// Close the journal entry.
    JournalClosed,
    /// Tell the target that nobody will ask any more.
    SendGoodbye,
}

impl Source {
    /// All states.
    pub const ALL: [Source; 6] =
        [Source::Moving, Source::Committing, Source::Following, Source::Done, Source::Resumed, Source::Open];
}

impl SourceEvent {
    /// All events.
    pub const ALL: [SourceEvent; 14] = {
        use SourceEvent as E;
        [
            E::Prepared,
            E::Failed,
            E::Lost,
            E::Cancelled,
            E::NotSent,
            E::Running,
            E::RunsLazily,
            E::Whole,
            E::CopyLost,
            E::Never,
            E::Unsettled,
            E::ForcedHere,
            E::ForcedThere,
            E::Recovered,
        ]
    };
}

impl Machine for Source {
    type Event = SourceEvent;
    type Action = SourceAction;
    const SIDE: &'static str = "source";

    fn on(&mut self, event: SourceEvent) -> &'static [SourceAction] {
        use SourceAction as A;
        use SourceEvent as E;
        let (next, actions): (Source, &'static [A]) = match (*self, event) {
            (Source::Moving, E::Prepared) => (
                Source::Committing,
                &[A::JournalOpen, A::Tidy, A::TakeSignals, A::Hold, A::SendCommit, A::NoteSignals],
            ),
            (Source::Moving, E::Failed | E::Lost) => (Source::Resumed, &[A::Resume, A::JournalClosed]),
            (Source::Moving, E::Cancelled) | (Source::Committing, E::NotSent) => {
                (Source::Resumed, &[A::Resume, A::SendAbort, A::JournalClosed])
            }
            // the commit was never sent: the kernel let the process go when its session ended
            (Source::Moving, E::Recovered) => (Source::Resumed, &[A::JournalClosed]),
            (Source::Committing | Source::Open, E::RunsLazily) => (Source::Following, &[A::Follow]),
            (Source::Committing | Source::Open, E::Running) => (
                Source::Done,
                &[A::Disable, A::HandOn, A::Kill, A::HandOnLast, A::JournalClosed, A::SendGoodbye],
            ),
            (Source::Following, E::Whole | E::CopyLost) => {
                (Source::Done, &[A::Kill, A::HandOnLast, A::JournalClosed, A::SendGoodbye])
            }
            // a target that failed may have written its decision before it did
            (Source::Committing, E::Lost | E::Failed) | (Source::Open, E::Recovered) => {
                (Source::Open, &[A::Ask])
            }
            (Source::Open, E::Unsettled) => (Source::Open, &[A::LeaveStopped]),
            (Source::Open, E::Never | E::ForcedHere) => (Source::Resumed, &[A::Resume, A::JournalClosed]),
            (Source::Open, E::ForcedThere) => (Source::Done, &[A::Kill, A::HandOnLast, A::JournalClosed]),
            // too late to cancel; a second Prepared says nothing new
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }

    fn failed(action: SourceAction) -> After<SourceEvent> {
        use SourceAction as A;
        match action {
            A::JournalOpen | A::Tidy | A::TakeSignals | A::Hold => After::Hear(SourceEvent::NotSent),
            // part of it may have left, or all
            A::SendCommit | A::NoteSignals => After::Hear(SourceEvent::Lost),
            A::Ask => After::Hear(SourceEvent::Unsettled),
            // the entry stays, and `ulpm recover` goes on from it
            A::Follow | A::Disable | A::Kill | A::JournalClosed => After::Stop,
            A::HandOn | A::HandOnLast | A::Resume | A::LeaveStopped | A::SendAbort | A::SendGoodbye => {
                After::GoOn
            }
        }
    }
}
