//! The list of the kinds of state that a process has as a whole, each in a file of its own, and what is done with all of them.
//!
//! A new kind is one file here and one line in the list; [`seam`](super::seam) says what the file tells, `CONTRIBUTING.md` has an
//! example. The order of the list is that on the wire, and within a stage that in which they are put.

use super::error::StateError;
use super::seam::process::{OfProcess, ProcessKind, ProcessPut, ProcessStage, SeenProcess};
use super::seam::{Awaited, NamedPath, TargetHost, insist_complete, kinds};
use crate::image::{Note, Obstacle, States};
use crate::tracee::Batch;

mod number;

kinds! {
    OfProcess as ProcessKind;
    signal_actions::SignalActions;
    membarrier::Membarrier;
    xstate_permission::XstatePermission;
    directories::Directories;
    limits::ResourceLimits;
    autogroup::Autogroup;
    oom_score_adj::OomScoreAdj;
    coredump_filter::CoredumpFilter;
    confinement::Confinement;
    dumpable::Dumpable;
    child_subreaper::ChildSubreaper;
}

/// All states as a new process has them.
pub fn defaults() -> Result<States, StateError> {
    let mut states = States::default();
    KINDS.iter().try_for_each(|kind| kind.default(&mut states))?;
    Ok(states)
}

/// Describes a running process, from outside.
pub fn describe(seen: &SeenProcess<'_>) -> Result<States, StateError> {
    let mut states = States::default();
    KINDS.iter().try_for_each(|kind| kind.describe(seen, &mut states))?;
    Ok(states)
}

/// What cannot be carried.
pub fn obstacles(seen: &SeenProcess<'_>, tids: &[i32]) -> Vec<Obstacle> {
    KINDS.iter().flat_map(|kind| kind.obstacles(seen, tids)).collect()
}

/// What will differ at any target.
pub fn notes(seen: &SeenProcess<'_>) -> Vec<Note> {
    KINDS.iter().flat_map(|kind| kind.notes(seen)).collect()
}

/// Captures a stopped process into what was described of it; what it must be asked comes with [`Awaited::read`].
pub fn capture(
    seen: &SeenProcess<'_>,
    batch: &mut Batch,
    states: &mut States,
) -> Result<Awaited, StateError> {
    let mut awaited = Awaited::default();
    KINDS.iter().try_for_each(|kind| kind.capture(seen, batch, states, &mut awaited))?;
    Ok(awaited)
}

/// Checks what came from another host.
pub fn check(states: &States) -> Result<(), String> {
    insist_complete(states, NAMES)?;
    KINDS.iter().try_for_each(|kind| kind.check(states))
}

/// Paths by which the states reach files.
pub fn paths(states: &States) -> Result<Vec<NamedPath>, StateError> {
    let mut paths = Vec::new();
    for kind in KINDS {
        paths.extend(kind.paths(states)?);
    }
    Ok(paths)
}

/// What stands in the way at this target, and what will differ.
pub fn here(pid: i32, states: &States, host: &TargetHost) -> Result<(Vec<Obstacle>, Vec<Note>), StateError> {
    let mut all = (Vec::new(), Vec::new());
    for kind in KINDS {
        let (obstacles, notes) = kind.here(pid, states, host)?;
        all.0.extend(obstacles);
        all.1.extend(notes);
    }
    Ok(all)
}

/// What only root could have given: objects, and what they are.
pub fn powers(states: &States) -> Result<Vec<(&'static str, String)>, StateError> {
    let found: Result<Vec<_>, _> = KINDS.iter().map(|kind| kind.powers(states)).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Puts all states whose stage has come. The caller has `batch` executed.
pub fn put(states: &States, pid: i32, stage: ProcessStage, batch: &mut Batch) -> Result<(), StateError> {
    let mut to = ProcessPut { pid, stage, batch };
    KINDS.iter().try_for_each(|kind| kind.put(states, &mut to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::seam::State as _;
    use crate::state::seam::process::ProcessState;

    #[test]
    fn what_a_new_process_has_is_complete_and_each_name_stands_for_one_kind() {
        assert_eq!(check(&defaults().unwrap()), Ok(()));
        let names: std::collections::BTreeSet<_> = NAMES.iter().collect();
        assert_eq!(names.len(), NAMES.len());
    }

    #[test]
    fn what_is_missing_unknown_or_out_of_order_is_refused_by_name() {
        let mut more = defaults().unwrap();
        more.set("unheard\nof", vec![1]);
        assert!(check(&more).unwrap_err().contains("unheard\\nof"));
        let mut turned = States::default();
        turned.set(NAMES[1], defaults().unwrap().get(NAMES[1]).unwrap().to_vec());
        assert!(check(&turned).unwrap_err().contains(NAMES[0]));
        for (name, bytes) in defaults().unwrap().iter().filter(|(name, _)| *name != NAMES[1]) {
            turned.set(NAMES.iter().find(|own| **own == name).unwrap(), bytes.to_vec());
        }
        assert!(check(&turned).unwrap_err().contains("out of order"));
        assert!(check(&States::default()).is_err());
    }

    #[test]
    fn what_cannot_be_is_refused() {
        fn lie(state: &impl ProcessState) -> String {
            let mut states = defaults().unwrap();
            state.store(&mut states).unwrap();
            check(&states).expect_err("a lie passes")
        }
        assert!(lie(&limits::ResourceLimits(vec![(0, 0); 17])).contains("17 resource limits"));
        assert!(lie(&signal_actions::SignalActions(vec![[0; 4]; 65])).contains("65 signal actions"));
        assert!(lie(&autogroup::Autogroup(Some(20))).contains("nice"));
        let label = Some("x".repeat(5000));
        assert!(lie(&confinement::Confinement { label, ..Default::default() }).contains("label"));
        for path in ["", "relative", "../up", "/with\0nul", &format!("/{}", "x".repeat(5000))] {
            let own = directories::Directories::default();
            assert!(lie(&directories::Directories { cwd: path.into(), ..own.clone() }).contains("path"));
            assert!(lie(&directories::Directories { root: path.into(), ..own }).contains("path"));
        }
        for bytes in [vec![0xff; 100_000], vec![1, 1], Vec::new()] {
            let mut states = defaults().unwrap();
            states.set(dumpable::Dumpable::NAME, bytes);
            assert!(check(&states).unwrap_err().contains("dumpable"));
        }
    }
}
