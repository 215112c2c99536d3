//! Waits on sockets with a time limit of their own (`SO_RCVTIMEO`, `SO_SNDTIMEO`): to those the kernel answers `EINTR` whenever the
//! thread is stopped, and does not say what was left.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use ulpm::state::verdicts::{Area, Verdict, of};

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, SOON, ULPM, victims};

pub(super) fn trials() -> Vec<Trial> {
    let connect = ["tcp", "unix"];
    let connect = connect.map(|kind| {
        trial(&format!("limits connect {kind}"), &[], move |lab| watched_while_it_connects(lab, kind))
    });
    connect.into_iter().chain([trial("limits named", &[], named)]).collect()
}

/// `connect(2)`: such a socket cannot be moved, but it can be stopped.
fn watched_while_it_connects(lab: &mut Lab, kind: &str) -> Result<()> {
    let victim = Victim::start_command(lab, &[&victims::tool("connecting")?, kind])?;
    for _ in 0..3 {
        let pid = victim.pid.to_string();
        let watched = lab.run("a", &[ULPM, "profile", &pid, "--seconds", "1"], SOON)?;
        ensure!(watched.exit == 0, "{watched:?}");
        victim.check_running(lab)?;
    }
    victim.finish()
}

/// Each descriptor that has a limit, and no other, is named by `ulpm check` and in the report of a move.
fn named(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "limits")?;
    let said = victim.said();
    let limited: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("limit on ")).collect();
    let check = lab.run("a", &[ULPM, "check", &victim.pid.to_string(), "--json"], SOON)?;
    let document: Value = serde_json::from_str(&check.stdout)?;
    all_named(&document["notes"], &limited)?;
    let before = victim.outside_pid(lab)?;
    let outcome = lab.live("a", victim.pid, "b", &["--verify"])?;
    victim.moved(lab, &outcome, before, "b")?;
    all_named(&outcome.report["notes"], &limited)?;
    ensure!(outcome.stderr.contains("SO_RCVTIMEO"), "{}", outcome.stderr);
    victim.finish()
}

fn all_named(notes: &Value, limited: &[&str]) -> Result<()> {
    let row = of(Area::Sockets, "SO_RCVTIMEO, SO_SNDTIMEO: a wait under way");
    let Some(Verdict::Limited(text)) = row.map(|row| row.verdict) else { anyhow::bail!("{row:?}") };
    let notes = notes.as_array().map(Vec::as_slice).unwrap_or_default();
    let of_limits = notes.iter().filter(|note| note["what"] == text);
    let mut named: Vec<&str> = of_limits
        .filter_map(|note| note["object"].as_str()?.strip_prefix("fd ")?.split_once(':').map(|(fd, _)| fd))
        .collect();
    let mut limited = limited.to_vec();
    named.sort_unstable();
    limited.sort_unstable();
    ensure!(
        !limited.is_empty() && named == limited,
        "{named:?} are named, {limited:?} have a limit: {notes:#?}"
    );
    Ok(())
}
