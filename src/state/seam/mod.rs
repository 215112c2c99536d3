//! The seam for every kind of state: what one is, seen from those who carry it, put it and refuse it.
//!
//! A kind is one file in `state/process/` or `state/thread/` and one line in the list of its scope. The file
//! has the type of the state, which is what travels, and says of it:
//!
//! | | when | where |
//! |---|---|---|
//! | `obstacles`, `notes` | preflight, the process runs | source |
//! | `describe` | likewise | source |
//! | `capture` | every thread stands: read from outside, or asked in the one round trip that all share | source |
//! | `check` | before anybody looks at it: whether it can be true at all | target |
//! | `paths`, `obstacles_here`, `notes_here` | preflight | target |
//! | `put` | in its stages, the order of which is `restore/activate.rs` | target |
//!
//! An image has every state of the list, in that order, and no other: what is missing or unknown is refused by name.

pub mod process;
pub mod thread;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::StateError;
use crate::image::{FilePath, States, bounded, shown};
use crate::tracee::Outcome;

/// Most bytes of one state of one process or thread.
const MOST: usize = 64 * 1024;

/// What travels of a kind of state. The default is what a new process has.
pub trait State: Default + Serialize + DeserializeOwned + 'static {
    /// Name by which it travels and is refused; never changed, never given to another kind.
    const NAME: &'static str;

    /// Refuses what cannot be true, whoever says so. Pure: whether this host can do it is asked later.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// The state in an image.
    fn of(states: &States) -> Result<Self, StateError> {
        let nonsense = |why| StateError::Nonsense { name: Self::NAME, why };
        let bytes = states.get(Self::NAME).ok_or_else(|| nonsense("it is missing"))?;
        if bytes.len() > MOST {
            return Err(nonsense("it is too large"));
        }
        match bounded::decode_owned(bytes) {
            Ok((state, [])) => Ok(state),
            _ => Err(nonsense("it cannot be read")),
        }
    }

    /// Its bytes.
    fn bytes(&self) -> Result<Vec<u8>, StateError> {
        let nonsense = |_| StateError::Nonsense { name: Self::NAME, why: "it cannot be written" };
        postcard::to_stdvec(self).map_err(nonsense)
    }

    /// Puts it into an image, in place of the one that was there.
    fn store(&self, states: &mut States) -> Result<(), StateError> {
        states.set(Self::NAME, self.bytes()?);
        Ok(())
    }
}

/// A state of a stopped process or thread, as it was captured.
pub enum Captured<S> {
    /// As preflight saw it: nothing that is asked again in the freeze.
    AsDescribed,
    /// As it was read from outside.
    Seen(S),
    /// As it will have told when the calls that were added to the batch have been made.
    Told(Box<dyn FnOnce(&Outcome) -> S>),
}

impl<S: State> Captured<S> {
    /// As it will have told.
    pub(super) fn told(read: impl FnOnce(&Outcome) -> S + 'static) -> Self {
        Captured::Told(Box::new(read))
    }

    /// Takes it into an image, now or when there is an answer.
    pub(super) fn take(self, states: &mut States, awaited: &mut Awaited) -> Result<(), StateError> {
        match self {
            Captured::AsDescribed => Ok(()),
            Captured::Seen(state) => state.store(states),
            Captured::Told(read) => {
                // its place in the order
                if states.get(S::NAME).is_none() {
                    states.set(S::NAME, Vec::new());
                }
                let read = Box::new(move |outcome: &Outcome| read(outcome).bytes());
                awaited.0.push((S::NAME, read));
                Ok(())
            }
        }
    }
}

type Reader = Box<dyn FnOnce(&Outcome) -> Result<Vec<u8>, StateError>>;

/// States whose answers are still to come.
#[derive(Default)]
pub struct Awaited(Vec<(&'static str, Reader)>);

impl Awaited {
    /// Reads the answers.
    pub fn read(self, outcome: &Outcome, states: &mut States) -> Result<(), StateError> {
        for (name, read) in self.0 {
            states.set(name, read(outcome)?);
        }
        Ok(())
    }
}

/// What a list says of the states in an image: each of them is there once, in order, and no other; `names` is the list.
pub(super) fn insist_complete(states: &States, names: &[&str]) -> Result<(), String> {
    if let Some((unknown, _)) = states.iter().find(|(name, _)| !names.contains(name)) {
        let name: String = unknown.chars().take(64).collect();
        return Err(format!("a kind of state that is not known here, {}", shown(&name)));
    }
    match names.iter().find(|name| states.get(name).is_none()) {
        Some(missing) => Err(format!("an image without {missing}")),
        None if !states.iter().map(|(name, _)| name).eq(names.iter().copied()) => {
            Err("an image with a state twice, or out of order".to_owned())
        }
        None => Ok(()),
    }
}

/// Reads and checks one of them.
pub(super) fn checked<S: State>(states: &States) -> Result<(), String> {
    let state = S::of(states).map_err(|e| e.to_string())?;
    state.check().map_err(|why| format!("{}: {why}", S::NAME))
}

/// Insists on something, for [`State::check`].
pub(super) fn insist(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

/// What a path leads to, and the path: it must be there at the target, where the peer may have files.
pub type NamedPath = (&'static str, FilePath);

/// The host to which a process comes, for preflight there.
#[derive(Debug)]
pub struct TargetHost {
    /// CPUs that are online, as the kernel's bit mask.
    pub cpus: Vec<u8>,
}

/// The list of a scope: each line names the file of a kind and the type of its state, declares the file as a module, and
/// adds the kind to `KINDS`.
macro_rules! kinds {
    ($of:ident as $kind:ident; $($file:ident::$state:ident;)*) => {
        $(pub mod $file;)*

        const KINDS: &[&dyn $kind] = &[$(&$of::<$file::$state>::KIND),*];
        const NAMES: &[&str] = &[$(<$file::$state as $crate::state::seam::State>::NAME),*];
    };
}

pub(super) use kinds;
