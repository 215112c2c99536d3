//! What follows from what is written: the answer to a source that asks, what `ulpm serve` does with an entry when it
//! starts, and which entry may become which. Pure, as the machines are; in doubt nothing is decided without the user.

use serde::{Deserialize, Serialize};

use super::Source;

/// Where a migration stands, as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Phase {
    /// Before the commit point: if this is all there is, the process runs (or ran) at the source.
    Begun,
    /// Source: `Commit` is about to be sent. Target: it runs here, or is about to.
    Committed,
    /// Target: it is about to be let go, or was; not yet known to have been.
    Releasing,
    /// Target: it has been let go; what becomes of it is its own affair.
    Released,
    /// Target: it never ran here, and never will.
    Refused,
}

/// What has become of the process that an entry names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Life {
    /// It is there.
    Lives,
    /// It is not, and this host has been up ever since.
    Ended,
    /// This host has been booted since.
    Rebooted,
}

/// The target's answer to a source that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It runs here, or ran here to its end: the copy at the source must go.
    Running,
    /// It never ran here, and never will: the copy at the source goes on.
    Never,
    /// A session here is about to let it go, or to fail: ask again in a moment.
    Later,
    /// It ran here, or may have, and is no more, through no end of its own that anybody knows of: the copy at the
    /// source is the only one left, as old as the hand-over. Only the user can know whether it may go on.
    Down,
}

/// The answer, and what must be written, durably, before it is given. `at_work`: a session of this host has the entry.
pub(crate) fn answer(written: Option<(Phase, Life)>, at_work: bool) -> (Answer, Option<Phase>) {
    match written {
        // written again even if it is: the write before may have failed
        None | Some((Phase::Begun | Phase::Refused, _)) => (Answer::Never, Some(Phase::Refused)),
        // a session cannot let a dead process go, nor write that it did once this is written
        Some((Phase::Committed, Life::Ended)) => (Answer::Never, Some(Phase::Refused)),
        Some((Phase::Committed | Phase::Releasing, _)) if at_work => (Answer::Later, None),
        Some((Phase::Committed | Phase::Releasing, Life::Lives)) => (Answer::Running, Some(Phase::Released)),
        // it went down with the host before it ran
        Some((Phase::Committed, Life::Rebooted)) => (Answer::Never, Some(Phase::Refused)),
        // written again: a note need not be on the disk yet
        Some((Phase::Releasing, Life::Ended | Life::Rebooted)) => (Answer::Down, Some(Phase::Releasing)),
        Some((Phase::Released, Life::Rebooted)) => (Answer::Down, None),
        Some((Phase::Released, Life::Lives | Life::Ended)) => (Answer::Running, None),
    }
}

/// What `ulpm serve` does with an entry of its own side that it finds when it starts, and nobody is at work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnStart {
    /// It stays as it is.
    Keep,
    /// This is written.
    Write(Phase),
    /// It goes: nothing was decided, and without an entry the answer is the same.
    Remove,
}

/// See [`OnStart`].
pub(crate) fn on_start(phase: Phase, life: Life) -> OnStart {
    match (phase, life) {
        (Phase::Begun | Phase::Refused, _) => OnStart::Remove,
        (Phase::Committed | Phase::Releasing, Life::Lives) => OnStart::Write(Phase::Released),
        (Phase::Committed, Life::Ended | Life::Rebooted) => OnStart::Write(Phase::Refused),
        // a note need not be on the disk yet
        (Phase::Releasing, Life::Ended | Life::Rebooted) => OnStart::Write(Phase::Releasing),
        (Phase::Released, _) => OnStart::Keep,
    }
}

/// Whether what is written may become something else: a decision stands, whoever wants another one. `source`: of
/// which side the entry is.
pub(crate) fn may_become(source: bool, was: Phase, wanted: Phase, life: Life) -> bool {
    let dead = life != Life::Lives;
    match (was, wanted) {
        _ if was == wanted => true,
        (Phase::Begun, _) => true,
        (Phase::Committed, Phase::Releasing | Phase::Released) | (Phase::Releasing, Phase::Released) => {
            !source
        }
        // the skeleton died before it was let go: it never ran, and never will
        (Phase::Committed | Phase::Releasing, Phase::Refused) => !source && dead,
        _ => false,
    }
}

/// Where `ulpm recover` goes on with an entry of the source's side.
pub(crate) fn reopened(phase: Phase) -> Source {
    match phase {
        Phase::Committed => Source::Open,
        // the commit was never sent
        _ => Source::Moving,
    }
}
