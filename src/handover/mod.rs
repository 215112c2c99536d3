//! The two-sided commit: at every instant at most one copy can run, and one can always be brought back.
//!
//! Pure state machines: events in, the actions to carry out in that order. No I/O, no clock. The sessions feed
//! them and do what they say; [`journal`] writes what must be remembered.
//!
//! ```text
//! source                                     target
//!   Moving ──Prepared──▶ Committing            Building ──Applied──▶ Prepared
//!     │ Failed, Lost, Cancelled                   │ Lost, Abort          │ Commit       │ Lost, Abort
//!     ▼                    │ Running, Lost        ▼                      ▼              ▼
//!   resumed             Done   Open             destroyed           Committed       destroyed
//!                                                                        │ LetGo
//!                                                                     Running
//! ```
//! The target's journal decides. Before `Committed` is written there nothing can run at the target; the source
//! goes on. From the moment before `Commit` leaves, the source copy stays stopped whatever happens to ulpm, until
//! the target's answer (or its journal, asked later by `ulpm recover`) says which copy it is. A target that is
//! asked about a migration it has not committed writes down that it never will: a late `Commit` finds that.

pub mod journal;

/// Where the source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The target has applied everything.
    Prepared,
    /// The target says that it failed.
    Failed,
    /// The connection is gone, or the target is silent too long.
    Lost,
    /// The user, or a time limit, wants it to end.
    Cancelled,
    /// The target says that the process runs there.
    Running,
    /// The target says that it will never run there.
    Never,
}

/// What the source has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAction {
    /// Write to the journal that the outcome is open, durably.
    JournalOpen,
    /// Make the stop outlive us.
    Hold,
    /// Send `Commit`.
    SendCommit,
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
}

impl Source {
    /// What follows an event.
    pub fn on(&mut self, event: SourceEvent) -> &'static [SourceAction] {
        use SourceAction as A;
        use SourceEvent as E;
        let (next, actions): (Source, &'static [A]) = match (*self, event) {
            (Source::Moving, E::Prepared) => (Source::Committing, &[A::JournalOpen, A::Hold, A::SendCommit]),
            (Source::Moving, E::Failed | E::Lost | E::Never) => (Source::Resumed, &[A::Resume]),
            (Source::Moving, E::Cancelled) => (Source::Resumed, &[A::SendAbort, A::Resume]),
            // nothing can run before the commit: such an answer is a lie, and changes nothing here
            (Source::Moving, E::Running) => (Source::Resumed, &[A::SendAbort, A::Resume]),
            (Source::Committing | Source::Open, E::Running) => (Source::Done, &[A::Kill, A::JournalClosed]),
            (Source::Committing | Source::Open, E::Never | E::Failed) => {
                (Source::Resumed, &[A::Resume, A::JournalClosed])
            }
            (Source::Committing, E::Lost) => (Source::Open, &[A::LeaveStopped]),
            // too late to cancel; a second Prepared says nothing new
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }
}

/// Where the target stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// The skeleton is being filled.
    Building,
    /// Everything is applied.
    Prepared,
    /// The decision is taken and written down.
    Committed,
    /// It runs here.
    Running,
    /// There is nothing here, nor will be.
    Destroyed,
}

/// What happens to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetEvent {
    /// The state is applied (and verified).
    Applied,
    /// The source says `Commit`.
    Commit,
    /// The journal entry is durable.
    Journalled,
    /// Something here failed before the commit.
    Failed,
    /// The source says `Abort`.
    Abort,
    /// The connection is gone.
    Lost,
}

/// What the target has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Tell the source that all is applied.
    SendPrepared,
    /// Write durably that the process runs here.
    JournalCommitted,
    /// Let all threads go.
    LetGo,
    /// Tell the source.
    SendRunning,
    /// Kill the skeleton.
    Destroy,
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
            (Target::Committed, E::Journalled) => (Target::Running, &[A::LetGo, A::SendRunning]),
            // the journal could not be written: nobody has been let go, and never will be
            (Target::Committed, E::Failed) => (Target::Destroyed, &[A::Destroy, A::SendFailed]),
            (Target::Building | Target::Prepared, E::Failed) => {
                (Target::Destroyed, &[A::Destroy, A::SendFailed])
            }
            (Target::Building | Target::Prepared, E::Abort | E::Lost) => (Target::Destroyed, &[A::Destroy]),
            // a commit without anything prepared
            (Target::Building, E::Commit) => (Target::Destroyed, &[A::Destroy, A::SendFailed]),
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }
}

#[cfg(test)]
mod tests;
