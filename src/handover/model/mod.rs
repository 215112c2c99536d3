//! The hand-over, checked: the machines of this room (the very code, not a copy) in a world in which everything fails.
//!
//! - *Messages* once sent may arrive at any time, in any order, any number of times, or never: more than QUIC allows,
//!   within a connection and across them.
//! - *Crashes* of either side between any two actions: what was in memory is gone; journals stay; the kernel does to
//!   the copies what it does (a traced source copy runs on, a held one stays stopped, a skeleton dies, one that
//!   outlives its tracer runs).
//! - *Power cuts* of either host: all copies there are gone, and of its journal what was not synced may be.
//! - *Journal writes* that are reported as failed, whether or not they reached the cache or the disk.
//! - The process *ends* by itself at the target.
//! - Its *memory* comes after it: until it is whole the copy at the source must not go. The target may give it up.
//! - Somebody *signals* the stopped copy at the source.
//! - `ulpm recover` and the start of `ulpm serve` at any time; the user's word where, and only where, the answer is
//!   that only the user can know.
//!
//! Bounds: [`Budget`]. Checked by stateright: the invariants of `checks.rs`; by our own walk over the whole graph: that
//! from every state the run can still end.

mod checks;
mod message;
mod world;

use stateright::Model;

use super::settle::{self, Answer, Life, OnStart, Phase, answer, may_become, on_start};
use super::{After, Machine, Source, SourceAction, SourceEvent, Target, TargetAction, TargetEvent};
use message::Message;
use world::{AtSource, AtTarget, World};

/// How often what may go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    /// Crashes of `ulpm` at the source; at the target.
    crashes: [u8; 2],
    /// Power cuts.
    cuts: [u8; 2],
    /// Journal writes that fail.
    writes: [u8; 2],
    /// The process ends by itself at the target, or is given up there for want of memory.
    ends: u8,
    /// Signals to the stopped copy.
    signals: u8,
    /// Whether moves are looked at whose memory comes after the process.
    lazy: bool,
}

/// A protocol with a fault in it: each must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Broken {
    /// As it is.
    Nothing,
    /// `Commit` leaves before the source's journal is written and the copy held.
    CommitBeforeJournal,
    /// The stop does not outlive us.
    NoHold,
    /// The source goes on when the answer to `Commit` is lost.
    ResumeOnLost,
    /// The source kills its copy as soon as `Commit` is sent.
    KillOnSend,
    /// Threads are let go before the target's journal is written.
    RunBeforeJournal,
    /// That it never will run here is said, and not written down.
    NeverNotWritten,
    /// That it runs here is said while a session is still about to let it go.
    RunningWhileAtWork,
    /// Whether a session can be asked about is not noted before its skeleton outlives it.
    NoNote,
    /// A process that went down with its host counts as running.
    DownIsRunning,
    /// The copy is killed as soon as the process runs there, whether or not it has its memory.
    KillWhileOutstanding,
    /// What is ours is taken out of a copy that is held already.
    TidyWhenHeld,
    /// Signals of the last look stay here.
    NoLastSignals,
    /// A copy is begun anew although the commit may have been sent.
    NotSentAfterSending,
    /// Nobody but the first session ever asks.
    NoRecover,
}

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// The source does its next action.
    SourceActs(Luck),
    /// The target does.
    TargetActs(Luck),
    /// A message arrives.
    Arrives(Message),
    /// The source gives the connection up; is told to end; gives asking up.
    SourceHears(SourceEvent),
    /// The target gives the connection up; has applied all; fails.
    TargetHears(TargetEvent),
    /// A session is over.
    SourceEnds,
    TargetEnds,
    Crash(Side),
    /// What was not synced survives, or not.
    PowerCut(Side, bool),
    /// `ulpm recover` at the source.
    Recover,
    /// `ulpm serve` is started.
    Serve,
    /// The process comes to its own end.
    ProcessEnds,
    /// The process has all its memory.
    BecomesWhole,
    /// Nobody has come with the rest of its memory for too long.
    GivenUp,
    /// Somebody signals the copy at the source.
    Signalled,
    /// The target removes an entry that says "never", and that no session has.
    Forgets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Side {
    Source,
    Target,
}

/// How an action goes: a journal write, or another one that may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Luck {
    Good,
    /// It is reported as failed, and nothing was written, or done.
    NotWritten,
    /// It is reported as failed, and reached the cache.
    Cached,
    /// It is reported as failed, and reached the disk.
    Written,
}

const BAD_LUCK: [Luck; 3] = [Luck::NotWritten, Luck::Cached, Luck::Written];

/// The protocol, or a broken variant.
#[derive(Clone, Debug)]
struct Protocol {
    broken: Broken,
    budget: Budget,
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let lazy = [false, true].into_iter().take(1 + usize::from(self.budget.lazy));
        lazy.map(|lazy| World::start(self.budget, lazy)).collect()
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        world.steps(steps, self.broken);
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        next.take(step, self.broken);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        checks::properties()
    }
}
