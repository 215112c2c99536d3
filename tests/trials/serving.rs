//! What `ulpm serve` keeps, says and asks for.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial_in;
use super::victims::Victim;
use crate::lab::{Lab, LabOptions, SOON, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let disks = || LabOptions { disks: true, ..LabOptions::default() };
    vec![trial_in(disks(), "serve forgets what is settled", &[], forgets)]
}

/// Entries of the target's side at host `b`.
fn entries(lab: &Lab) -> usize {
    let list = fs::read_dir(lab.dir().join("disk-b/journal")).into_iter().flatten().flatten();
    list.filter(|f| f.file_name().to_string_lossy().ends_with(".target.journal")).count()
}

/// With the goodbye, which comes last of all; not without it.
fn forgets(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let moves =
        [(&["--verify"][..], 0), (&["--verify", "--lazy"], 0), (&["--fault", "source.closed=kill"], 1)];
    for (i, (args, left)) in moves.into_iter().enumerate() {
        let stop = format!("stop-{i}");
        let victim = Victim::start_until(lab, &stop, &[&crate::lab::victims::program("late")?])?;
        let outcome = lab.live("a", victim.pid, "b", args)?;
        ensure!(outcome.exit == if left == 0 { 0 } else { 5 }, "{outcome:?}");
        // the session has ended: the connection is gone
        wait_until("as many entries as expected", SOON, || entries(lab) == left)?;
        victim.finish()?;
    }
    Ok(())
}
