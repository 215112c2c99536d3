//! States that a process has as a whole.

use std::marker::PhantomData;

use super::{Awaited, Captured, NamedPath, State, TargetHost, checked};
use crate::image::{Note, Obstacle, States};
use crate::state::error::StateError;
use crate::sys::status::Status;
use crate::tracee::Batch;

/// When a state of a process is put. In the order of `restore/activate.rs`, where the reasons stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessStage {
    /// Asked of its main thread, with the rights of `ulpm serve`, before its timers run.
    Inside,
    /// Likewise with the rights of its user: what reaches files.
    AsUser,
    /// From outside, while it still has the credentials of `ulpm serve`: another user's limits are not ours to set.
    Outside,
    /// Asked of its main thread, when all threads have their credentials: what a change of those resets.
    Last,
}

/// A process as it is looked at from outside.
#[derive(Clone, Copy, Debug)]
pub struct SeenProcess<'a> {
    /// Its pid here.
    pub pid: i32,
    /// A thread of it that lives: who it is asked of.
    pub voice: i32,
    /// `/proc/VOICE/status`, read once for all.
    pub status: &'a Status,
}

/// A process to which a state is given.
#[derive(Debug)]
pub struct ProcessPut<'a> {
    /// Its pid here.
    pub pid: i32,
    /// Which stage it is.
    pub stage: ProcessStage,
    /// Calls for its main thread to make, shared by all states of the stage. Not in [`ProcessStage::Outside`].
    pub batch: &'a mut Batch,
}

/// A kind of state that a process has as a whole.
pub trait ProcessState: State {
    /// When it is put.
    const STAGES: &'static [ProcessStage];

    /// The state of a running process, seen from outside. What only the process can tell is as in a new one.
    fn describe(_seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        Ok(Self::default())
    }

    /// What of it cannot be carried, at the source. `tids`: its threads.
    fn obstacles(_seen: &SeenProcess<'_>, _tids: &[i32]) -> Vec<Obstacle> {
        Vec::new()
    }

    /// What of it will differ at any target.
    fn notes(_seen: &SeenProcess<'_>) -> Vec<Note> {
        Vec::new()
    }

    /// The state of a stopped process: read again, or asked by a call in the batch that all states share.
    fn capture(_seen: &SeenProcess<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Ok(Captured::AsDescribed)
    }

    /// Paths by which it reaches files.
    fn paths(&self) -> Vec<NamedPath> {
        Vec::new()
    }

    /// What stands in its way at the target. `pid`: the process as it knows itself.
    fn obstacles_here(&self, _pid: i32, _host: &TargetHost) -> Vec<Obstacle> {
        Vec::new()
    }

    /// What of it will differ at this target.
    fn notes_here(&self, _pid: i32, _host: &TargetHost) -> Vec<Note> {
        Vec::new()
    }

    /// What of it only root could have given: the object, and what it is. Refused to peers that bring ordinary users only.
    fn powers(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Gives it to a process that has come to one of its stages.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError>;
}

/// A [`ProcessState`] in a list: any of them, on the states of an image.
pub trait ProcessKind: Sync {
    /// Adds the state of a new process.
    fn default(&self, states: &mut States) -> Result<(), StateError>;
    /// See [`ProcessState::describe`].
    fn describe(&self, seen: &SeenProcess<'_>, states: &mut States) -> Result<(), StateError>;
    /// See [`ProcessState::obstacles`].
    fn obstacles(&self, seen: &SeenProcess<'_>, tids: &[i32]) -> Vec<Obstacle>;
    /// See [`ProcessState::notes`].
    fn notes(&self, seen: &SeenProcess<'_>) -> Vec<Note>;
    /// See [`ProcessState::capture`].
    fn capture(
        &self,
        seen: &SeenProcess<'_>,
        batch: &mut Batch,
        states: &mut States,
        awaited: &mut Awaited,
    ) -> Result<(), StateError>;
    /// See [`State::check`].
    fn check(&self, states: &States) -> Result<(), String>;
    /// See [`ProcessState::paths`].
    fn paths(&self, states: &States) -> Result<Vec<NamedPath>, StateError>;
    /// See [`ProcessState::obstacles_here`] and [`ProcessState::notes_here`].
    fn here(
        &self,
        pid: i32,
        states: &States,
        host: &TargetHost,
    ) -> Result<(Vec<Obstacle>, Vec<Note>), StateError>;
    /// See [`ProcessState::powers`].
    fn powers(&self, states: &States) -> Result<Option<(&'static str, String)>, StateError>;
    /// See [`ProcessState::put`]. Nothing in stages that are not its own.
    fn put(&self, states: &States, to: &mut ProcessPut<'_>) -> Result<(), StateError>;
}

/// The entry of a kind in the list.
pub struct OfProcess<S>(PhantomData<fn() -> S>);

impl<S> OfProcess<S> {
    /// For the list.
    pub const KIND: Self = Self(PhantomData);
}

impl<S: ProcessState> ProcessKind for OfProcess<S> {
    fn default(&self, states: &mut States) -> Result<(), StateError> {
        S::default().store(states)
    }

    fn describe(&self, seen: &SeenProcess<'_>, states: &mut States) -> Result<(), StateError> {
        S::describe(seen)?.store(states)
    }

    fn obstacles(&self, seen: &SeenProcess<'_>, tids: &[i32]) -> Vec<Obstacle> {
        S::obstacles(seen, tids)
    }

    fn notes(&self, seen: &SeenProcess<'_>) -> Vec<Note> {
        S::notes(seen)
    }

    fn capture(
        &self,
        seen: &SeenProcess<'_>,
        batch: &mut Batch,
        states: &mut States,
        awaited: &mut Awaited,
    ) -> Result<(), StateError> {
        S::capture(seen, batch)?.take(states, awaited)
    }

    fn check(&self, states: &States) -> Result<(), String> {
        checked::<S>(states)
    }

    fn paths(&self, states: &States) -> Result<Vec<NamedPath>, StateError> {
        Ok(S::of(states)?.paths())
    }

    fn here(
        &self,
        pid: i32,
        states: &States,
        host: &TargetHost,
    ) -> Result<(Vec<Obstacle>, Vec<Note>), StateError> {
        let state = S::of(states)?;
        Ok((state.obstacles_here(pid, host), state.notes_here(pid, host)))
    }

    fn powers(&self, states: &States) -> Result<Option<(&'static str, String)>, StateError> {
        Ok(S::of(states)?.powers())
    }

    fn put(&self, states: &States, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        if !S::STAGES.contains(&to.stage) {
            return Ok(());
        }
        S::of(states)?.put(to)
    }
}
