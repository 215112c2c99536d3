//! States that each thread has of its own.

use std::marker::PhantomData;

use super::{Awaited, Captured, NamedPath, State, TargetHost, checked};
use crate::image::{Obstacle, States};
use crate::state::error::StateError;
use crate::sys::status::Status;
use crate::tracee::Batch;

/// When a state of a thread is put. In the order of `restore/activate.rs`, where the reasons stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ThreadStage {
    /// Asked of the thread with the rights of its process's user, if it has [paths](ThreadState::paths): what reaches files.
    AsUser,
    /// Asked of the thread: what it must say itself, with whatever rights.
    Itself,
    /// Asked of the thread, when it has its credentials: what a change of those resets.
    AfterCredentials,
    /// From outside, when it has said everything.
    Outside,
}

/// A thread as it is looked at from outside.
#[derive(Clone, Copy, Debug)]
pub struct SeenThread<'a> {
    /// Its process, by a thread that lives.
    pub voice: i32,
    /// Its number here.
    pub tid: i32,
    /// `/proc/TID/status`, read once for all.
    pub status: &'a Status,
    /// CPUs that are online, as the kernel's bit mask.
    pub cpus: &'a [u8],
}

/// A thread to which a state is given.
#[derive(Debug)]
pub struct ThreadPut<'a> {
    /// Its number here.
    pub tid: i32,
    /// It has ended at the source, and ends here as soon as it is let go.
    pub ended: bool,
    /// Which stage it is.
    pub stage: ThreadStage,
    /// CPUs that are online, as the kernel's bit mask.
    pub cpus: &'a [u8],
    /// Calls for the thread to make, shared by all states of the stage. Not in [`ThreadStage::Outside`].
    pub batch: &'a mut Batch,
}

/// A kind of state that each thread has of its own.
pub trait ThreadState: State {
    /// When it is put.
    const STAGES: &'static [ThreadStage];

    /// A main thread that has ended while others live still has it.
    const OUTLIVES: bool = false;

    /// The state of a running thread, seen from outside. What only the thread can tell is as in a new one.
    fn describe(_seen: &SeenThread<'_>) -> Result<Self, StateError> {
        Ok(Self::default())
    }

    /// The state of a stopped thread: read from outside, or asked by a call in the batch that all states share.
    fn capture(seen: &SeenThread<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Self::describe(seen).map(Captured::Seen)
    }

    /// Paths by which it reaches files.
    fn paths(&self) -> Vec<NamedPath> {
        Vec::new()
    }

    /// What stands in its way at the target. `tid`: the thread as its process knows it.
    fn obstacles_here(&self, _tid: i32, _host: &TargetHost) -> Vec<Obstacle> {
        Vec::new()
    }

    /// What of it only root could have given. Refused to peers that bring ordinary users only.
    fn powers(&self) -> Option<String> {
        None
    }

    /// Gives it to a thread that has come to one of its stages.
    fn put(&self, to: &mut ThreadPut<'_>) -> Result<(), StateError>;
}

/// A [`ThreadState`] in a list: any of them, on the states of an image.
pub trait ThreadKind: Sync {
    /// Its name.
    fn name(&self) -> &'static str;
    /// See [`ThreadState::OUTLIVES`].
    fn outlives(&self) -> bool;
    /// Adds the state of a new thread.
    fn default(&self, states: &mut States) -> Result<(), StateError>;
    /// See [`ThreadState::describe`].
    fn describe(&self, seen: &SeenThread<'_>, states: &mut States) -> Result<(), StateError>;
    /// See [`ThreadState::capture`].
    fn capture(
        &self,
        seen: &SeenThread<'_>,
        batch: &mut Batch,
        states: &mut States,
        awaited: &mut Awaited,
    ) -> Result<(), StateError>;
    /// See [`State::check`].
    fn check(&self, states: &States) -> Result<(), String>;
    /// See [`ThreadState::paths`].
    fn paths(&self, states: &States) -> Result<Vec<NamedPath>, StateError>;
    /// See [`ThreadState::obstacles_here`].
    fn obstacles_here(
        &self,
        tid: i32,
        states: &States,
        host: &TargetHost,
    ) -> Result<Vec<Obstacle>, StateError>;
    /// See [`ThreadState::powers`].
    fn powers(&self, states: &States) -> Result<Option<String>, StateError>;
    /// See [`ThreadState::put`]. Nothing in stages that are not its own.
    fn put(&self, states: &States, to: &mut ThreadPut<'_>) -> Result<(), StateError>;
}

/// The entry of a kind in the list.
pub struct OfThread<S>(PhantomData<fn() -> S>);

impl<S> OfThread<S> {
    /// For the list.
    pub const KIND: Self = Self(PhantomData);
}

impl<S: ThreadState> ThreadKind for OfThread<S> {
    fn name(&self) -> &'static str {
        S::NAME
    }

    fn outlives(&self) -> bool {
        S::OUTLIVES
    }

    fn default(&self, states: &mut States) -> Result<(), StateError> {
        S::default().store(states)
    }

    fn describe(&self, seen: &SeenThread<'_>, states: &mut States) -> Result<(), StateError> {
        S::describe(seen)?.store(states)
    }

    fn capture(
        &self,
        seen: &SeenThread<'_>,
        batch: &mut Batch,
        states: &mut States,
        awaited: &mut Awaited,
    ) -> Result<(), StateError> {
        match S::capture(seen, batch)? {
            // a thread is captured anew, whatever was described of it
            Captured::AsDescribed => self.describe(seen, states),
            captured => captured.take(states, awaited),
        }
    }

    fn check(&self, states: &States) -> Result<(), String> {
        checked::<S>(states)
    }

    fn paths(&self, states: &States) -> Result<Vec<NamedPath>, StateError> {
        Ok(S::of(states)?.paths())
    }

    fn obstacles_here(
        &self,
        tid: i32,
        states: &States,
        host: &TargetHost,
    ) -> Result<Vec<Obstacle>, StateError> {
        Ok(S::of(states)?.obstacles_here(tid, host))
    }

    fn powers(&self, states: &States) -> Result<Option<String>, StateError> {
        Ok(S::of(states)?.powers())
    }

    fn put(&self, states: &States, to: &mut ThreadPut<'_>) -> Result<(), StateError> {
        if !S::STAGES.contains(&to.stage) {
            return Ok(());
        }
        S::of(states)?.put(to)
    }
}
