//! Each way to find written pages: it moves a process that writes in many ways, and says what it was; one that this
//! kernel lacks is refused with the reason. (Soft-dirty bits: `tests/vm`.)

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, SOON, ULPM};

pub(super) fn trials() -> Vec<Trial> {
    let mut all: Vec<Trial> = ["wp-scan", "checksum"]
        .into_iter()
        .flat_map(|tracker| {
            ["memory", "threads", "dirty"].map(|victim| {
                trial(&format!("tracker {tracker} {victim}"), &[], move |lab| moved(lab, tracker, victim))
            })
        })
        .collect();
    all.push(trial("tracker that this kernel lacks is refused", &[], refused));
    all
}

fn moved(lab: &mut Lab, tracker: &str, name: &str) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, name)?;
    for to in ["b", "a", "b"] {
        std::thread::sleep(Duration::from_millis(300));
        let before = victim.outside_pid(lab)?;
        let outcome = lab.live(&victim.host, victim.pid, to, &["--verify", "--tracker", tracker])?;
        victim.moved(lab, &outcome, before, to)?;
        ensure!(outcome.report["tracker"] == tracker, "not by {tracker}: {}", outcome.report);
        ensure!(outcome.report["tracker_reason"] == "as asked for", "{}", outcome.report);
    }
    victim.finish()
}

/// What `ulpm check` says is missing is what a move is refused for.
fn refused(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "registers")?;
    let check = lab.run("a", &[ULPM, "check", "--json"], SOON)?;
    let findings: serde_json::Value = serde_json::from_str(&check.stdout)?;
    let trackers = findings["trackers"].as_array().cloned().unwrap_or_default();
    ensure!(
        trackers.len() == 3 && trackers.iter().filter(|t| t["chosen"] == true).count() == 1,
        "{findings}"
    );
    for tracker in trackers.iter().filter(|t| t["there"] == false) {
        let name = tracker["name"].as_str().unwrap_or_default();
        let why = tracker["why"].as_str().unwrap_or_default();
        let outcome = lab.live("a", victim.pid, "b", &["--tracker", name])?;
        outcome.refused(3, &[name, why, "--tracker auto"])?;
        victim.check_running(lab)?;
    }
    victim.finish()
}
