//! Exit codes: what the README's table says of each, and one JSON document with every one of them (`--json`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use super::faults::{Case, End, whereabouts};
use super::lazy::{Phase, WAYS};
use super::victims::{Victim, is_gone};
use super::{trial, trial_in};
use crate::lab::live::LiveOutcome;
use crate::lab::process::Ended;
use crate::lab::{Lab, LabOptions, PORT, SOON, ULPM, victims, wait_until};

const README: &str = include_str!("../../README.md");

pub(super) fn trials() -> Vec<Trial> {
    // a process is stopped until somebody has recovered it
    let patient = LabOptions { disks: true, ..LabOptions::default() };
    vec![
        trial_in(patient, "exit codes: each as the table has it", &[], each),
        trial("exit codes: lost", &[], lost),
        trial("exit codes: a document with each failure", &[], documents),
        trial("exit codes: too late to end it", &[], too_late),
        trial("exit codes: a report that cannot be written", &[], unwritable),
    ]
}

/// The table: each code with its outcomes, the usual one first.
fn table() -> Result<BTreeMap<i32, Vec<String>>> {
    let (_, rows) = README.split_once("| exit code |").context("README.md has no table of exit codes")?;
    let rows = rows.lines().skip(2).take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let words = line.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        Ok((cells.get(1).context("no code")?.parse()?, words))
    };
    rows.map(row).collect()
}

/// Exit code and outcome are those of one row; returns the code.
fn agree(table: &BTreeMap<i32, Vec<String>>, exit: i32, outcome: &str) -> Result<i32> {
    let row = table.get(&exit).with_context(|| format!("exit code {exit} is not in the table"))?;
    ensure!(row.iter().any(|word| word == outcome), "{outcome:?} with exit code {exit}: {row:?}");
    Ok(exit)
}

fn each(lab: &mut Lab) -> Result<()> {
    let table = table()?;
    let mut seen = BTreeSet::new();
    let mut insist = |outcome: &LiveOutcome, exit: i32, word: &str| {
        ensure!(outcome.exit == exit && outcome.outcome() == word, "not {exit}, {word:?}: {outcome:?}");
        seen.insert(agree(&table, exit, word)?);
        Ok(())
    };
    let mut victim = Victim::start(lab, "threads")?;
    insist(&lab.live("a", 31_999, "b", &[])?, 1, "failed")?;
    insist(&lab.live("a", victim.pid, "b", &["--control", "/"])?, 1, "failed")?;
    let usage = lab.run("a", &[ULPM, "live", "--json", &victim.pid.to_string()], SOON)?;
    let report: Value = serde_json::from_str(&usage.stdout)?;
    insist(&LiveOutcome { exit: usage.exit, report, stderr: usage.stderr }, 2, "usage")?;
    insist(&lab.live("a", 1, "b", &[])?, 3, "refused")?;
    // ended before anything was touched, and in a round
    let silent = lab.host("b").in_network(|| UdpSocket::bind(("0.0.0.0", PORT)))??;
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &[])?;
    insist(&ended(live, "connecting")?, 4, "aborted")?;
    drop(silent);
    lab.serve("b")?;
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--bandwidth", "20K"])?;
    insist(&ended(live, "round 0")?, 4, "aborted")?;
    victim.check_running(lab)?;
    // the target is gone when it is to say whether it runs there
    lab.server("b")?.signal(Signal::SIGKILL)?;
    wait_until("ulpm serve has ended", SOON, || !lab.is_serving("b"))?;
    lab.serve_with_fault("b", "target.commit=kill")?;
    let before = victim.outside_pid(lab)?;
    insist(&lab.live("a", victim.pid, "b", &[])?, 5, "unknown")?;
    ensure!(!is_gone(before), "the copy here is to wait for `ulpm recover`");
    lab.serve("b")?;
    let recovered = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(recovered.exit == 0, "{recovered:?}");
    let end = whereabouts(lab, Case::some_time_after("target.commit"), victim.pid)?;
    let (here, there) = if end == End::Source { ("a", "b") } else { ("b", "a") };
    lab.serve("a")?;
    insist(&lab.live(here, victim.pid, there, &["--fault", "source.closed=memory"])?, 5, "moved")?;
    insist(&lab.live(there, victim.pid, here, &[])?, 0, "moved")?;
    victim.host = here.to_owned();
    victim.check_running(lab)?;
    let all: BTreeSet<i32> = table.into_keys().collect();
    // that is `lost`
    ensure!(all.symmetric_difference(&seen).eq(&[6]), "{all:?} in the table, {seen:?} seen");
    victim.finish()
}

/// Ends a move as Ctrl-C does, once it has said this.
fn ended(live: crate::lab::live::Live, said: &str) -> Result<LiveOutcome> {
    wait_until(said, SOON, || live.errors().contains(said))?;
    live.signal(Signal::SIGINT)?;
    live.outcome()
}

fn lost(lab: &mut Lab) -> Result<()> {
    let Phase { live, before, proxy, .. } = Phase::begin(lab, WAYS[0].1)?;
    kill(Pid::from_raw(before), Signal::SIGKILL)?;
    let outcome = live.outcome()?;
    drop(proxy);
    ensure!(agree(&table()?, outcome.exit, outcome.outcome())? == 6, "{outcome:?}");
    Ok(())
}

/// What can only be found out after the command line was read.
fn documents(lab: &mut Lab) -> Result<()> {
    let table = table()?;
    let (one, two) = (Victim::start(lab, "threads")?, victims::program("threads")?);
    let two = Victim::start_until(lab, "stop-2", &[&two])?;
    let home = format!("ULPM_HOME={}", lab.dir().join("no-home").display());
    fs::write(lab.dir().join("no-home"), "a file")?;
    for command in ["live", "check", "profile"] {
        let run = |words: &[&str], target: &[&str]| {
            let target = if command == "profile" { &[] } else { target };
            lab.run("a", &[words, target, &["--json"]].concat(), SOON)
        };
        for (words, exit) in [
            (&[ULPM, command, "nosuchname"][..], 1),
            (&[ULPM, command, "31999"], 1),
            (&[ULPM, command, "threads"], 2),
            (&["env", &home, ULPM, command, &one.pid.to_string()], 1),
        ] {
            tells(&table, &run(words, &["b"])?, exit).with_context(|| format!("{words:?}"))?;
        }
        // no process is named
        let words = if command == "profile" { &[][..] } else { &["--to", "b"] };
        tells(&table, &run(&[ULPM, command], words)?, 2).with_context(|| format!("{command} of nobody"))?;
    }
    tells(&table, &lab.run("a", &[ULPM, "profile", "1", "--json"], SOON)?, 3)?;
    tells(&table, &lab.run("a", &[ULPM, "check", "1", "--json"], SOON)?, 3)?;
    for (command, last) in [("check", &[][..]), ("profile", &["--seconds", "1"])] {
        let done = lab.run("a", &[&[ULPM, command, &one.pid.to_string(), "--json"], last].concat(), SOON)?;
        let document: Value = serde_json::from_str(&done.stdout)?;
        let well = document["outcome"] == "done" && document["error"].is_null() && document["schema"] == 1;
        ensure!(done.exit == 0 && well, "{done:?}");
    }
    two.finish()?;
    one.finish()
}

/// One document, with all that it must have.
fn tells(table: &BTreeMap<i32, Vec<String>>, ended: &Ended, exit: i32) -> Result<()> {
    let document: Value =
        serde_json::from_str(&ended.stdout).with_context(|| format!("no document: {ended:?}"))?;
    ensure!(ended.exit == exit && document["schema"] == 1, "not {exit}: {ended:?}");
    agree(table, exit, document["outcome"].as_str().unwrap_or_default())?;
    let names =
        document["error"].is_string() || document["obstacles"].as_array().is_some_and(|o| !o.is_empty());
    ensure!(names && !ended.stderr.contains("panic"), "it does not say why: {ended:?}");
    Ok(())
}

/// Ctrl-C while the process is being let go at the target.
fn too_late(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let fault = ["--verify", "--fault", "source.commit.sent=stop"];
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &fault)?;
    let word = "fault source.commit.sent=stop in process ";
    wait_until("the commit is sent", SOON, || live.errors().contains(word))?;
    live.signal(Signal::SIGINT)?;
    wait_until("it heard that", SOON, || live.errors().contains("ending the migration"))?;
    let said = live.errors();
    let worker = said.split_once(word).and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("");
    lab.go_on("a", worker)?;
    let outcome = live.outcome()?;
    victim.pid = outcome.moved()?;
    victim.host = "b".to_owned();
    let told =
        format!("too late to end the migration: the process has moved, and lives at {}", lab.address("b"));
    ensure!(outcome.stderr.contains(&told), "it does not say {told:?}: {}", outcome.stderr);
    victim.check_running(lab)?;
    victim.finish()
}

/// The exit code is about the process; stderr says what the report would have said.
fn unwritable(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let to = lab.address("b");
    let full =
        |words: &str| lab.run("a", &["sh", "-c", &format!("exec {ULPM} {words} --json >/dev/full")], SOON);
    let lost = full(&format!("live 31999 {to}"))?;
    ensure!(lost.exit == 1 && lost.stderr.contains("cannot write to stdout"), "{lost:?}");
    let moved = full(&format!("live {} {to}", victim.pid))?;
    let told = format!("outcome: moved, pid {} there", victim.pid);
    let says = ["cannot write to stdout", &told].iter().all(|word| moved.stderr.contains(word));
    ensure!(moved.exit == 0 && says, "{moved:?}");
    victim.host = "b".to_owned();
    victim.check_running(lab)?;
    victim.finish()
}
