//! The list of the kinds of state that each thread has of its own, each in a file of its own, and what is done with all of them.
//!
//! A new kind is one file here and one line in the list; [`seam`](super::seam) says what the file tells. The order of the list is
//! that on the wire, and within a stage that in which they are put. Registers, signal mask, segments, dispatch and what the kernel
//! writes to when a thread ends are not in it: [`threads`](super::threads).

use super::error::StateError;
use super::seam::thread::{OfThread, SeenThread, ThreadKind, ThreadPut};
use super::seam::{Awaited, NamedPath, TargetHost, insist_complete, kinds};
use crate::image::{Obstacle, States, ThreadImage};
use crate::tracee::Batch;

kinds! {
    OfThread as ThreadKind;
    own_directory::OwnDirectory;
    alternate_stack::AlternateStack;
    modes::Modes;
    scheduling::Sched;
}

/// Kinds that a thread has: one that has ended has few.
fn kinds_of(ended: bool) -> impl Iterator<Item = &'static &'static dyn ThreadKind> {
    KINDS.iter().filter(move |kind| !ended || kind.outlives())
}

/// All states as a new thread has them.
pub fn defaults() -> Result<States, StateError> {
    let mut states = States::default();
    KINDS.iter().try_for_each(|kind| kind.default(&mut states))?;
    Ok(states)
}

/// Describes a running thread, from outside; or what is left of a main thread that has ended.
pub fn describe(seen: &SeenThread<'_>, ended: bool) -> Result<States, StateError> {
    let mut states = States::default();
    kinds_of(ended).try_for_each(|kind| kind.describe(seen, &mut states))?;
    Ok(states)
}

/// Captures a stopped thread; what it must be asked comes with [`Awaited::read`].
pub fn capture(seen: &SeenThread<'_>, batch: &mut Batch) -> Result<(States, Awaited), StateError> {
    let (mut states, mut awaited) = (States::default(), Awaited::default());
    KINDS.iter().try_for_each(|kind| kind.capture(seen, batch, &mut states, &mut awaited))?;
    Ok((states, awaited))
}

/// Checks what came from another host.
pub fn check(image: &ThreadImage) -> Result<(), String> {
    let ended = image.ended.is_some();
    if ended {
        let names: Vec<&str> = kinds_of(true).map(|kind| kind.name()).collect();
        insist_complete(&image.states, &names)?;
    } else {
        insist_complete(&image.states, NAMES)?;
    }
    kinds_of(ended).try_for_each(|kind| kind.check(&image.states))
}

/// Paths by which the states reach files.
pub fn paths(image: &ThreadImage) -> Result<Vec<NamedPath>, StateError> {
    let mut paths = Vec::new();
    for kind in kinds_of(image.ended.is_some()) {
        paths.extend(kind.paths(&image.states)?);
    }
    Ok(paths)
}

/// What stands in the way at this target.
pub fn obstacles_here(image: &ThreadImage, host: &TargetHost) -> Result<Vec<Obstacle>, StateError> {
    let mut all = Vec::new();
    for kind in kinds_of(image.ended.is_some()) {
        all.extend(kind.obstacles_here(image.tid, &image.states, host)?);
    }
    Ok(all)
}

/// What only root could have given.
pub fn powers(image: &ThreadImage) -> Result<Vec<String>, StateError> {
    let kinds = kinds_of(image.ended.is_some());
    let found: Result<Vec<_>, _> = kinds.map(|kind| kind.powers(&image.states)).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Puts all states whose stage has come. The caller has the batch executed.
pub fn put(states: &States, mut to: ThreadPut<'_>) -> Result<(), StateError> {
    kinds_of(to.ended).try_for_each(|kind| kind.put(states, &mut to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::check::path;
    use crate::state::seam::State as _;

    fn thread(ended: Option<u8>, states: States) -> ThreadImage {
        ThreadImage { tid: 7, ended, states, ..ThreadImage::default() }
    }

    #[test]
    fn a_thread_has_every_state_and_one_that_has_ended_what_outlives_it() {
        assert_eq!(check(&thread(None, defaults().unwrap())), Ok(()));
        let mut left = States::default();
        scheduling::Sched::default().store(&mut left).unwrap();
        assert_eq!(check(&thread(Some(3), left.clone())), Ok(()));
        assert!(check(&thread(None, left)).unwrap_err().contains("own_directory"));
        assert!(check(&thread(Some(3), defaults().unwrap())).is_err());
        assert!(check(&thread(None, States::default())).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let mut states = defaults().unwrap();
        let affinity = vec![1; 10_000];
        scheduling::Sched { affinity, ..Default::default() }.store(&mut states).unwrap();
        assert!(check(&thread(None, states)).unwrap_err().contains("CPU mask"));
        for cwd in ["", "relative", "/with\0nul"] {
            let mut states = defaults().unwrap();
            let own = own_directory::OwnDirectory::at(cwd.into(), 0o022);
            own.store(&mut states).unwrap();
            assert_eq!(check(&thread(None, states)).is_err(), path(&cwd.into()).is_err());
        }
    }
}
