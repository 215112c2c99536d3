//! Which trial meets which transition of the machines of the hand-over. Each of them is met, or listed with the reason; each trial
//! that is named here sees to it that it has.

use std::collections::BTreeSet;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use ulpm::handover::drive::transitions;
use ulpm::handover::{Source, SourceEvent, Target, TargetEvent};

use crate::lab::recorded::{Met, Records};
use crate::lab::{Lab, SOON, wait_until};

/// Side, state, event; the fault, or the trial.
const MET: [(&str, &str, &str, &str); 34] = [
    ("source", "Moving", "Prepared", "source.answered=kill"),
    ("source", "Moving", "Failed", "target.state=memory"),
    ("source", "Moving", "Lost", "source.frozen=silent"),
    ("source", "Moving", "Cancelled", "source.frozen=ctrl-c"),
    ("source", "Moving", "Recovered", "source.frozen=kill"),
    ("source", "Committing", "NotSent", "source.held=memory"),
    ("source", "Committing", "NotSent", "source.journal.committed=full"),
    ("source", "Committing", "Running", "target.journal.released=full"),
    ("source", "Committing", "RunsLazily", "late source lost"),
    ("source", "Committing", "Lost", "source.prepared=silent"),
    ("source", "Committing", "Failed", "target.noted=memory"),
    ("source", "Following", "Whole", "late live restarted"),
    ("source", "Following", "CopyLost", "late source lost"),
    ("source", "Open", "Recovered", "source.held=kill"),
    ("source", "Open", "Running", "source.answered=kill"),
    ("source", "Open", "RunsLazily", "late live restarted"),
    ("source", "Open", "Never", "source.held=kill"),
    ("source", "Open", "Never", "target.noted=memory"),
    ("source", "Open", "Unsettled", "target.noted=kill"),
    ("source", "Open", "ForcedHere", "target.noted=kill"),
    ("target", "Building", "Applied", "target.prepared=kill"),
    ("target", "Building", "Failed", "target.state=memory"),
    ("target", "Building", "Abort", "source.frozen=ctrl-c"),
    ("target", "Building", "Lost", "source.frozen=kill"),
    ("target", "Prepared", "Commit", "target.journalled=kill"),
    ("target", "Prepared", "Failed", "target.commit=refuse"),
    ("target", "Prepared", "Abort", "source.held=memory"),
    ("target", "Prepared", "Lost", "source.held=kill"),
    ("target", "Committed", "Journalled", "target.outlives=kill"),
    ("target", "Committed", "Failed", "target.journal.committed=full"),
    ("target", "Leaving", "Outlives", "target.said=kill"),
    ("target", "Leaving", "Failed", "target.noted=memory"),
    ("target", "Running", "Goodbye", "target.journal.released=full"),
    ("target", "Running", "Goodbye", "source.answered=kill"),
];

/// What no trial meets, and why.
const UNMET: [(&str, &str, &str, &str); 1] = [(
    "source",
    "Open",
    "ForcedThere",
    "it ends what the trials would have to find again; what is carried out is the end of what `Running` is followed by",
)];

/// Every transition of both machines has its line, and every fault that is named is one of `tried`.
pub(super) fn complete(tried: &[String]) -> Result<()> {
    let names = |side: &str, state: &dyn Debug, event: &dyn Debug| {
        (side.to_owned(), format!("{state:?}"), format!("{event:?}"))
    };
    let source =
        transitions(&Source::ALL, &SourceEvent::ALL).into_iter().map(|(s, e)| names("source", &s, &e));
    let target =
        transitions(&Target::ALL, &TargetEvent::ALL).into_iter().map(|(s, e)| names("target", &s, &e));
    let there: Met = source.chain(target).collect();
    let listed = |list: &[(&str, &str, &str, &str)]| -> Met {
        list.iter().map(|(side, state, event, _)| names_of(side, state, event)).collect()
    };
    let (met, unmet) = (listed(&MET), listed(&UNMET));
    ensure!(met.is_disjoint(&unmet), "both: {:?}", met.intersection(&unmet));
    let both: Met = met.union(&unmet).cloned().collect();
    ensure!(both == there, "{:?}", both.symmetric_difference(&there));
    let faults: BTreeSet<&str> = MET.iter().map(|line| line.3).filter(|by| by.contains('=')).collect();
    let untried: Vec<_> = faults.iter().filter(|fault| !tried.iter().any(|t| t == *fault)).collect();
    ensure!(untried.is_empty(), "not tried: {untried:?}");
    Ok(())
}

fn names_of(side: &str, state: &str, event: &str) -> (String, String, String) {
    (side.to_owned(), state.to_owned(), event.to_owned())
}

/// What was carried out since `before` is what the machines say, and `trial` has met what it is listed for. `to_end`: no program was
/// killed.
pub(crate) fn check(lab: &Lab, before: &Records, trial: &str, to_end: bool) -> Result<()> {
    let listed = MET.iter().filter(|line| line.3 == trial);
    let expected: Met = listed.map(|(side, state, event, _)| names_of(side, state, event)).collect();
    let look = || -> Result<Met> { Records::read(lab.dir())?.since(before).check(to_end) };
    // the target hears the goodbye when the source is gone already
    let all_there = || look().is_ok_and(|met| met.is_superset(&expected));
    let in_vain = wait_until("all is said that was carried out", SOON, all_there);
    let met = look()?;
    let missing: Vec<_> = expected.difference(&met).collect();
    ensure!(in_vain.is_ok(), "{trial} has not met {missing:?}, but {met:?}");
    Ok(())
}
