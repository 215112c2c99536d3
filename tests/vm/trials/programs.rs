//! Real programs moved from one kernel to the other, and back, while they work.

use std::fmt::Write as _;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::mover::Mover;
use super::trial;
use crate::lab::SOON;
use crate::lab::live::LiveOutcome;
use crate::lab::needs::{Need, find_program};
use crate::vm::machine::Job;
use crate::vm::pair::Pair;
use crate::vm::wire::Sink;

const CHURN: &str = include_str!("../programs/churn.py");
/// How often a program is moved; `ULPM_VM_MOVES` overrides it.
const MOVES: u32 = 2;
/// About 7 MiB.
const KEYS: &str = "6000";

pub(super) fn trials() -> Vec<Trial> {
    let python = [Need::Program("python3")];
    let redis = [Need::Program("redis-server"), Need::Program("redis-cli")];
    vec![
        trial("vm soft-dirty python3", &python, |pair| python3(pair, "soft-dirty")),
        trial("vm checksum python3", &python, |pair| python3(pair, "checksum")),
        trial("vm soft-dirty redis", &redis, |pair| redis_server(pair, "soft-dirty")),
        trial("vm checksum redis", &redis, |pair| redis_server(pair, "checksum")),
        trial("vm auto", &python, auto),
    ]
}

fn moves() -> u32 {
    std::env::var("ULPM_VM_MOVES").ok().and_then(|text| text.parse().ok()).unwrap_or(MOVES)
}

/// One line of what a report says.
fn in_short(outcome: &LiveOutcome) -> String {
    let report = &outcome.report;
    let mut line = format!("{} {}, rounds of", report["outcome"], report["tracker"]);
    for round in report["rounds"].as_array().into_iter().flatten() {
        let _ = write!(line, " {}", round["pages"]);
    }
    let _ = write!(line, " pages, at last {}; ", report["final_pages"]);
    let _ = write!(line, "precopy {} ms, freeze {} ms", report["precopy_ms"], report["freeze_ms"]);
    line
}

fn check_report(outcome: &LiveOutcome, tracker: &str) -> Result<()> {
    let report = &outcome.report;
    ensure!(report["tracker"] == tracker, "the tracker is {}, not {tracker}", report["tracker"]);
    let rounds = report["rounds"].as_array().context("no rounds")?;
    ensure!(rounds.len() >= 2, "only {} rounds: {report}", rounds.len());
    Ok(())
}

pub(super) fn start_python(pair: &mut Pair) -> Result<Mover> {
    let python = find_program("python3").context("no python3")?;
    Mover::start(pair, &[&python, "-c", CHURN])
}

fn python3(pair: &mut Pair, tracker: &str) -> Result<()> {
    pair.serve()?;
    let mut python = start_python(pair)?;
    for number in 1..=moves() {
        let outcome = python.cross(pair, &["--tracker", tracker])?;
        eprintln!("move {number} of python3 to {}: {}", python.at, in_short(&outcome));
        check_report(&outcome, tracker)?;
    }
    python.finish(pair)
}

fn ask(pair: &Pair, at: &str, words: &[&str]) -> Result<String> {
    let argv = [&["redis-cli", "-h", "127.0.0.1"], words].concat();
    Ok(pair.machine(at).must(&argv)?.trim().to_owned())
}

/// A server with data, and the digest of that.
pub(super) fn start_redis(pair: &mut Pair) -> Result<(Job, String)> {
    let args = ["redis-server", "--save", "", "--appendonly", "no", "--enable-debug-command", "yes"];
    let redis = pair.a.start_job(&args, &[], Sink::Ear)?;
    let said = pair.a.until(&redis, &["Ready to accept"], SOON)?;
    ensure!(said.contains("Ready to accept"), "redis says: {said}");
    ensure!(ask(pair, "a", &["DEBUG", "POPULATE", KEYS, "key", "1000"])? == "OK", "populate");
    let digest = ask(pair, "a", &["DEBUG", "DIGEST"])?;
    ensure!(digest.len() == 40, "no digest: {digest}");
    Ok((redis, digest))
}

/// Its digest of all data stays the same, and it can be written to wherever it is.
fn redis_server(pair: &mut Pair, tracker: &str) -> Result<()> {
    pair.serve()?;
    let (redis, digest) = start_redis(pair)?;
    let (mut pid, mut at) = (redis.pid, "a");
    for number in 1..=moves() {
        let to = if at == "a" { "b" } else { "a" };
        let outcome = pair.live(at, pid, to, &["--verify", "--tracker", tracker])?;
        let before = pid;
        pid = outcome.moved()?;
        eprintln!("move {number} of redis-server to {to}: {}", in_short(&outcome));
        ensure!(outcome.report["tracker"] == tracker, "the tracker is {}", outcome.report["tracker"]);
        ensure!(!pair.machine(at).is_alive(before)?, "the source's copy still exists");
        at = to;
        let there = ask(pair, at, &["DEBUG", "DIGEST"])?;
        ensure!(there == digest, "the digest is {there} in {at}, was {digest}");
        let value = format!("after move {number}");
        ensure!(ask(pair, at, &["SET", "written", &value])? == "OK", "it cannot be written to");
        ensure!(ask(pair, at, &["GET", "written"])? == value, "it forgot what was written");
        ensure!(ask(pair, at, &["DEL", "written"])? == "1", "it cannot forget");
    }
    Ok(())
}

/// Left to itself it takes soft-dirty bits here; a tracker that the kernel lacks is refused, and nothing was touched.
fn auto(pair: &mut Pair) -> Result<()> {
    pair.serve()?;
    let mut python = start_python(pair)?;
    let pid = python.pid();
    let refused = pair.live("a", pid, "b", &["--tracker", "wp-scan"])?;
    refused.refused(3, &["wp-scan"])?;
    eprintln!("refused: {}", refused.stderr.trim());
    python.check_running(pair)?;
    let check = pair.a.must(&[crate::lab::ULPM, "check"])?;
    ensure!(check.contains("soft-dirty"), "ulpm check: {check}");
    let outcome = python.cross(pair, &[])?;
    check_report(&outcome, "soft-dirty")?;
    python.finish(pair)
}
