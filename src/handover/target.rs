//! The target's machine.

use super::drive::{After, Machine};

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
    /// Write down what a next move must know of its waits: nobody can move it on before.
    SaveWaits,
    /// Queue the signals that came with `Commit` to the stopped process.
    QueueSignals,
    /// Write durably that the process runs here.
    JournalCommitted,
    /// Note that from now on it may have run (need not be durable: it matters when we end, not when the host does).
    NoteReleasing,
    /// Take the kernel's order away to kill it when we end.
    Outlive,
    /// Let all threads go.
    LetGo,
    /// Leave memory that comes after the process to who holds it.
    LeaveMemory,
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
    /// All states.
    pub const ALL: [Target; 6] = [
        Target::Building,
        Target::Prepared,
        Target::Committed,
        Target::Leaving,
        Target::Running,
        Target::Destroyed,
    ];
}

impl TargetEvent {
    /// All events.
    pub const ALL: [TargetEvent; 8] = {
        use TargetEvent as E;
        [E::Applied, E::Commit, E::Journalled, E::Outlives, E::Failed, E::Abort, E::Lost, E::Goodbye]
    };
}

impl Machine for Target {
    type Event = TargetEvent;
    type Action = TargetAction;
    const SIDE: &'static str = "target";

    fn on(&mut self, event: TargetEvent) -> &'static [TargetAction] {
        use TargetAction as A;
        use TargetEvent as E;
        let (next, actions): (Target, &'static [A]) = match (*self, event) {
            (Target::Building, E::Applied) => (Target::Prepared, &[A::SendPrepared, A::SaveWaits]),
            (Target::Prepared, E::Commit) => (Target::Committed, &[A::QueueSignals, A::JournalCommitted]),
            (Target::Committed, E::Journalled) => (Target::Leaving, &[A::NoteReleasing, A::Outlive]),
            (Target::Leaving, E::Outlives) => {
                (Target::Running, &[A::LetGo, A::LeaveMemory, A::SendRunning, A::JournalReleased])
            }
            // nobody has been let go, and never will be
            (Target::Committed | Target::Leaving, E::Failed) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRefused, A::SendFailed])
            }
            // a source that cannot be heard may still hear
            (Target::Building | Target::Prepared, E::Failed | E::Lost) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRemoved, A::SendFailed])
            }
            (Target::Building | Target::Prepared, E::Abort) => {
                (Target::Destroyed, &[A::Destroy, A::JournalRemoved])
            }
            (Target::Running, E::Goodbye) => (Target::Running, &[A::JournalRemoved]),
            (state, _) => (state, &[]),
        };
        *self = next;
        actions
    }

    fn failed(action: TargetAction) -> After<TargetEvent> {
        use TargetAction as A;
        match action {
            A::SendPrepared => After::Hear(TargetEvent::Lost),
            A::QueueSignals | A::JournalCommitted | A::NoteReleasing | A::Outlive => {
                After::Hear(TargetEvent::Failed)
            }
            // what stands in the journal is believed as long as the process lives, and says the same when it is dead
            A::SaveWaits
            | A::LetGo
            | A::LeaveMemory
            | A::SendRunning
            | A::JournalReleased
            | A::Destroy
            | A::JournalRemoved
            | A::JournalRefused
            | A::SendFailed => After::GoOn,
        }
    }
}
