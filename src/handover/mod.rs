//! The two-sided commit: at every instant at most one copy can run, and one can always be brought back.
//!
//! Pure state machines: events in, the actions to carry out in that order. No I/O, no clock. The sessions,
//! `ulpm recover` and `ulpm serve` feed them and do what they say; [`journal`] writes what must be remembered,
//! [`settle`] says what follows from what is written. `model/` checks all of it against every failure at every step.
//!
//! ```text
//! source                                     target
//!   Moving ──Prepared──▶ Committing            Building ──Applied──▶ Prepared
//!     │ Failed, Lost,      │ Running, Lost        │ Lost, Abort         │ Commit      │ Lost, Abort
//!     ▼ Cancelled          ▼                      ▼                     ▼             ▼
//!   Resumed             Done   Open             Destroyed           Committed      Destroyed
//!                                                                       │ Journalled
//!                                                                    Leaving
//!                                                                       │ Outlives
//!                                                                    Running
//! ```
//! The target's journal decides. Before `Committed` is written there nothing can run at the target; the source
//! goes on. From the moment before `Commit` leaves, the source copy stays stopped whatever happens to ulpm, until
//! the target's answer (or its journal, asked later by `ulpm recover`) says which copy it is. A target that is
//! asked about a migration it has not committed writes down that it never will: a late `Commit` finds that.

pub mod journal;
#[cfg(test)]
mod model;
pub mod settle;

/// Where the source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// Before the commit point: the process is ours.
    Moving,
    /// `Commit` may have been sent; the copy here is stopped for good or ill.
    Committing,
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
    /// The user, or a time limit, wants it to end.
    Cancelled,
    /// Something here failed before a single byte of `Commit` was sent.
    NotSent,
    /// The target says that the process runs there.
    Running,
    /// The target says that it will never run there.
    Never,
    /// The target says that it ran there and went down with its host; or it has been asked often enough in vain.
    Unsettled,
    /// The user says that the copy here is the one.
    ForcedHere,
    /// The user says that the copy at the target is the one.
    ForcedThere,
}

/// What the source has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SourceAction {
    /// Write to the journal that the outcome is open, durably.
    JournalOpen,
    /// Make the stop outlive us.
    Hold,
    /// Send `Commit`.
    SendCommit,
    /// Ask the target how it ended, by another connection.
    Ask,
    /// Kill the copy here.
    Kill,
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
    /// What follows an event.
    pub fn on(&mut self, event: SourceEvent) -> &'static [SourceAction] {
        use SourceAction as A;
        use SourceEvent as E;
        let (next, actions): (Source, &'static [A]) = match (*self, event) {
            (Source::Moving, E::Prepared) => (Source::Committing, &[A::JournalOpen, A::Hold, A::SendCommit]),
            (Source::Moving, E::Failed | E::Lost | E::Never | E::Unsettled) => {
                (Source::Resumed, &[A::Resume, A::JournalClosed])
            }
            // nothing can run before the commit: the answer that it does is a lie, and changes nothing here
            (Source::Moving, E::Cancelled | E::NotSent | E::Running) => {
                (Source::Resumed, &[A::SendAbort, A::Resume, A::JournalClosed])
            }
            (Source::Committing, E::NotSent) => {
                (Source::Resumed, &[A::SendAbort, A::Resume, A::JournalClosed])
            }
            (Source::Committing | Source::Open, E::Running) => {
                (Source::Done, &[A::Kill, A::JournalClosed, A::SendGoodbye])
            }
            (Source::Committing | Source::Open, E::Never) => {
                (Source::Resumed, &[A::Resume, A::JournalClosed])
            }
            // a target that failed may have written its decision before it did
            (Source::Committing, E::Lost | E::Failed) => (Source::Open, &[A::Ask]),
            (Source::Open, E::Unsettled) => (Source::Open, &[A::LeaveStopped]),
            (Source::Open, E::ForcedHere) => (Source::Resumed, &[A::Resume, A::JournalClosed]),
            (Source::Open, E::ForcedThere) => (Source::Done, &[A::Kill, A::JournalClosed]),
            // too late to cancel; a second Prepared says nothing new
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }
}

/// Where the target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The skeleton is being filled.
    Building,
    /// Everything is applied.
    Prepared,
    /// The decision is taken and written down.
    Committed,
    /// The skeleton is made to outlive us; nothing of it has run.
    Leaving,
    /// It runs here.
    Running,
    /// There is nothing here, nor will be.
    Destroyed,
}

/// What happens to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetEvent {
    /// The state is applied (and verified).
    Applied,
    /// The source says `Commit`.
    Commit,
    /// The journal entry is durable.
    Journalled,
    /// The skeleton no longer dies with us.
    Outlives,
    /// Something here failed before the first thread was let go.
    Failed,
    /// The source says `Abort`.
    Abort,
    /// The connection is gone.
    Lost,
    /// The source has ended its copy, and closed its entry.
    Goodbye,
}

/// What the target has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetAction {
    /// Tell the source that all is applied.
    SendPrepared,
    /// Write durably that the process runs here.
    JournalCommitted,
    /// Note that from now on it may have run (need not be durable: it matters when we end, not when the host does).
    NoteReleasing,
    /// Take the kernel's order away to kill it when we end.
    Outlive,
    /// Let all threads go.
    LetGo,
    /// Tell the source.
    SendRunning,
    /// Write durably that it was let go.
    JournalReleased,
    /// Kill the skeleton, and wait until it is dead.
    Destroy,
    /// Nothing was decided here, or nobody will ask any more: the entry goes.
    JournalRemoved,
    /// Write that it never ran here, nor will.
    JournalRefused,
    /// Tell the source what failed.
    SendFailed,
}

impl Target {
    /// What follows an event.
    pub fn on(&mut self, event: TargetEvent) -> &'static [TargetAction] {
        use TargetAction as A;
        use TargetEvent as E;
        let (next, actions): (Target, &'static [A]) = match (*self, event) {
            (Target::Building, E::Applied) => (Target::Prepared, &[A::SendPrepared]),
            (Target::Prepared, E::Commit) => (Target::Committed, &[A::JournalCommitted]),
            (Target::Committed, E::Journalled) => (Target::Leaving, &[A::NoteReleasing, A::Outlive]),
            (Target::Leaving, E::Outlives) => {
                (Target::Running, &[A::LetGo, A::SendRunning, A::JournalReleased])
            }
            // nobody has been let go, and never will be
            (Target::Committed | Target::Leaving, E::Failed) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRefused, A::SendFailed])
            }
            (Target::Building | Target::Prepared, E::Failed) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRemoved, A::SendFailed])
            }
            (Target::Building | Target::Prepared, E::Abort | E::Lost) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRemoved])
            }
            // a commit without anything prepared
            (Target::Building, E::Commit) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRemoved, A::SendFailed])
            }
            (Target::Running, E::Goodbye) => (Target::Running, &[A::JournalRemoved]),
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_silent_target_after_the_commit_leaves_it_open() {
        use SourceAction as A;
        let mut source = Source::Moving;
        assert_eq!(source.on(SourceEvent::Prepared), [A::JournalOpen, A::Hold, A::SendCommit]);
        assert_eq!(source.on(SourceEvent::Cancelled), []);
        assert_eq!(source.on(SourceEvent::Lost), [A::Ask]);
        assert_eq!(source.on(SourceEvent::Unsettled), [A::LeaveStopped]);
        assert_eq!(source, Source::Open);
        assert_eq!(source.on(SourceEvent::Never), [A::Resume, A::JournalClosed]);
    }
}
