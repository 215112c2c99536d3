//! What may go wrong before the commit point, in several phases: the process goes on at the source as if nothing had
//! been tried, nothing of it is left at the target, and a second move succeeds.
//!
//! Phases are told by how many bytes went to the target through the proxy, whose rate is limited so that each lasts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::trial;
use super::victims::Victim;
use crate::lab::live::{Live, LiveOutcome};
use crate::lab::memory_group::MemoryGroup;
use crate::lab::needs::Need;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, PORT, SOON, wait_until};

/// The `dirty` victim's 96 MiB take about four seconds.
const RATE: u64 = 25_000_000;
/// How long the target may take to clear up after an abort (it may have to notice a silent link).
const CLEARED: Duration = Duration::from_secs(60);

const PHASES: [(&str, u64); 4] =
    [("hello", 1_000), ("preflight", 8_000), ("round 0", 20_000_000), ("late", 95_000_000)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    CtrlC,
    KillLive,
    KillServe,
    CutLink,
}

pub(super) fn trials() -> Vec<Trial> {
    let causes = [
        ("ctrl-c", Cause::CtrlC),
        ("kill live", Cause::KillLive),
        ("kill serve", Cause::KillServe),
        ("cut link", Cause::CutLink),
    ];
    let mut trials = Vec::new();
    for (name, cause) in causes {
        for (phase, bytes) in PHASES {
            trials.push(trial(&format!("abort {name} in {phase}"), &[], move |lab| abort(lab, cause, bytes)));
        }
    }
    trials.push(trial("abort full target", &[Need::MemoryGroup], full_target));
    trials.push(trial("slow link with delay, loss and duplicates", &[], bad_link));
    trials
}

fn abort(lab: &mut Lab, cause: Cause, bytes: u64) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let before = trace_of(victim.outside_pid(lab)?)?;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
    proxy.rate(RATE);
    if cause == Cause::CutLink {
        proxy.cut_after(bytes);
    }
    let mut live = lab.start_live("a", victim.pid, &proxy.address(), &["--verify"])?;
    wait_for_phase(&mut live, &proxy, bytes)?;
    match cause {
        Cause::CtrlC => live.signal(Signal::SIGINT)?,
        Cause::KillLive => live.signal(Signal::SIGKILL)?,
        Cause::KillServe => lab.server("b")?.signal(Signal::SIGKILL)?,
        Cause::CutLink => {}
    }
    let outcome = live.outcome()?;
    lab.note(format!("{cause:?} after {bytes} bytes: {outcome:?}"));
    check_outcome(cause, bytes, &outcome)?;
    check_source(lab, &victim, &before)?;
    proxy.heal();
    if cause == Cause::KillServe {
        lab.serve("b")?;
    }
    let pid = Pid::from_raw(victim.pid);
    wait_until("nothing of it is left at the target", CLEARED, || lab.host("b").outside_pid(pid).is_err())?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn wait_for_phase(live: &mut Live, proxy: &UdpProxy, bytes: u64) -> Result<()> {
    let mut early = false;
    wait_until("the phase to be disturbed", Duration::from_secs(60), || {
        early = live.has_ended().unwrap_or(true);
        early || proxy.is_cut() || proxy.forwarded() >= bytes
    })?;
    ensure!(!early || proxy.is_cut(), "the move ended before the phase to be disturbed: {}", live.errors());
    Ok(())
}

/// Before anything was attached a failure may be called "nothing was touched" (1); from then on it is an abort (4).
fn check_outcome(cause: Cause, bytes: u64, outcome: &LiveOutcome) -> Result<()> {
    if cause == Cause::KillLive {
        ensure!(outcome.exit == 128 + 9, "{outcome:?}");
        return Ok(());
    }
    let early = bytes < 100_000;
    ensure!(
        outcome.exit == 4 || early && outcome.exit == 1,
        "exit code {}: {}",
        outcome.exit,
        outcome.stderr
    );
    ensure!(outcome.outcome() == "aborted" || early, "outcome: {}", outcome.report);
    Ok(())
}

/// What an abort may not change: descriptors, signals, threads, tracer, clocks, state.
pub(super) fn trace_of(outside: i32) -> Result<BTreeMap<String, String>> {
    let mut trace = BTreeMap::new();
    let process = Path::new("/proc").join(outside.to_string());
    for entry in fs::read_dir(process.join("fd"))? {
        let entry = entry?;
        let target = fs::read_link(entry.path()).unwrap_or_default();
        trace.insert(format!("fd {}", entry.file_name().display()), target.display().to_string());
    }
    let status = fs::read_to_string(process.join("status")).context("the process has gone")?;
    let kept =
        ["SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "Threads", "TracerPid", "Seccomp", "CapEff"];
    for (name, value) in status.lines().filter_map(|line| line.split_once(':')) {
        if kept.contains(&name) {
            trace.insert(name.to_owned(), value.trim().to_owned());
        }
    }
    let maps = fs::read_to_string(process.join("maps"))?;
    trace.insert("maps".to_owned(), maps);
    Ok(trace)
}

fn check_source(lab: &Lab, victim: &Victim, before: &BTreeMap<String, String>) -> Result<()> {
    let outside = victim.outside_pid(lab)?;
    // The kernel ends a killed tracer's hold a moment after its death.
    let settled =
        wait_until("the source is as before", SOON, || trace_of(outside).is_ok_and(|now| now == *before));
    if settled.is_err() {
        let after = trace_of(outside)?;
        for key in before.keys().chain(after.keys()) {
            let (was, is) = (before.get(key), after.get(key));
            ensure!(was == is, "the abort left a trace: {key} was {was:?} and is {is:?}");
        }
    }
    std::thread::sleep(Duration::from_millis(500));
    let state = fs::read_to_string(format!("/proc/{outside}/stat"))?;
    let state = state.rsplit_once(") ").map_or('?', |(_, rest)| rest.chars().next().unwrap_or('?'));
    ensure!("RSD".contains(state), "the process is in state {state}");
    victim.check_running(lab)
}

/// The target runs out of memory in the middle: its control group holds less than the process has.
fn full_target(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let before = trace_of(victim.outside_pid(lab)?)?;
    let group = MemoryGroup::new(64 << 20)?;
    group.add(lab.server("b")?.outside_pid())?;
    let outcome = lab.live("a", victim.pid, "b", &["--verify"])?;
    if !matches!(outcome.exit, 3 | 4) {
        bail!("exit code {} of a move to a full target: {}", outcome.exit, outcome.stderr);
    }
    check_source(lab, &victim, &before)?;
    // The kernel may have killed serve for want of memory; a new one is started outside the group.
    let server = lab.server("b")?;
    if server.wait(Duration::ZERO)?.is_none() {
        server.signal(Signal::SIGKILL)?;
        server.wait(SOON)?;
    }
    lab.serve("b")?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn bad_link(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
    proxy.rate(RATE);
    proxy.delay(Duration::from_millis(5));
    proxy.lose(5);
    proxy.duplicate(5);
    let before = victim.outside_pid(lab)?;
    let outcome = lab.live_to("a", victim.pid, &proxy.address(), &["--verify"])?;
    victim.moved(lab, &outcome, before, "b")?;
    victim.finish()
}
