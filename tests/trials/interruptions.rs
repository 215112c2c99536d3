//! Lazy moves that are interrupted while memory is outstanding, under full load, many times: cuts of 1, 5 and 30 s, `ulpm serve`
//! killed and started again, `ulpm live` and its worker killed and `ulpm recover` after it. Most of the time is waiting, so
//! several labs run side by side. A table says how it went.
//!
//! | variable | |
//! |---|---|
//! | `ULPM_LATE_RUNS` | how many runs; the kinds take turns |
//! | `ULPM_LATE_BESIDE` | how many at once |

use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::lazy::{Phase, RATE, WAYS, unfinished};
use super::trial;
use super::victims::is_gone;
use crate::lab::needs::caught;
use crate::lab::{Lab, SOON, ULPM};

/// Runs in the test command: each kind once.
const FEW: usize = KINDS.len();
/// At once.
const BESIDE: usize = 3;
/// Bytes per second before the interruption: however long that is in coming, memory is outstanding.
const SLOW: u64 = 1_000_000;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Cut(u64),
    Serve,
    Live,
}

const KINDS: [Kind; 5] = [Kind::Cut(30), Kind::Cut(5), Kind::Serve, Kind::Live, Kind::Cut(1)];

impl Kind {
    fn name(self) -> String {
        match self {
            Kind::Cut(seconds) => format!("cut of {seconds} s"),
            Kind::Serve => "ulpm serve killed and started".to_owned(),
            Kind::Live => "ulpm live killed, recover".to_owned(),
        }
    }
}

/// One run that has ended.
#[derive(Debug)]
struct Run {
    kind: usize,
    way: usize,
    /// Memory was outstanding when it was interrupted.
    hit: bool,
    /// From the end of the interruption to the end of the move.
    whole_after: Duration,
    /// Of the report; none after `ulpm recover`.
    faults: u64,
    longest_wait_ms: f64,
    wrong: Option<String>,
}

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("late runs", &[], |_| runs())]
}

fn variable(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(otherwise)
}

fn runs() -> Result<()> {
    let (count, beside) = (variable("ULPM_LATE_RUNS", FEW), variable("ULPM_LATE_BESIDE", BESIDE));
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..beside {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    let run = run(number);
                    let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                    done.push(run);
                    if count > FEW && done.len() % 10 == 0 {
                        let wrong = done.iter().filter(|r| r.wrong.is_some()).count();
                        eprintln!("late runs: {} of {count}, {wrong} wrong", done.len());
                    }
                }
            });
        }
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    eprint!("{}", table(&done, begun.elapsed()));
    let wrong: Vec<&str> = done.iter().filter_map(|r| r.wrong.as_deref()).collect();
    ensure!(wrong.is_empty(), "{} of {count} runs went wrong:\n{}", wrong.len(), wrong.join("\n\n"));
    ensure!(done.len() == count, "{} of {count} runs came to an end", done.len());
    for (number, kind) in KINDS.iter().enumerate().take(count) {
        let hit = done.iter().any(|r| r.kind == number && r.hit);
        ensure!(hit, "{}: never while memory was outstanding", kind.name());
    }
    Ok(())
}

/// Kinds take turns, and the ways to move with each round of them.
fn run(number: usize) -> Run {
    let (kind, way) = (number % KINDS.len(), number / KINDS.len() % WAYS.len());
    let mut run = Run {
        kind,
        way,
        hit: false,
        whole_after: Duration::ZERO,
        faults: 0,
        longest_wait_ms: 0.0,
        wrong: None,
    };
    match Lab::two_hosts() {
        Err(e) => run.wrong = Some(format!("run {number}: cannot make the lab: {e:#}")),
        Ok(mut lab) => {
            let pause = Duration::from_millis(100 + number as u64 * 37 % 400);
            let done = caught(|| interrupted(&mut lab, pause, &mut run));
            run.wrong = done.err().map(|e| {
                let name = KINDS[kind].name();
                format!("run {number}, {name}, {}: {e}\n{}", WAYS[way].0, lab.dump())
            });
        }
    }
    run
}

fn interrupted(lab: &mut Lab, pause: Duration, run: &mut Run) -> Result<()> {
    let phase = Phase::begin(lab, WAYS[run.way].1)?;
    phase.proxy.rate(SLOW);
    std::thread::sleep(pause);
    run.hit = unfinished(lab, "b").is_some();
    match KINDS[run.kind] {
        Kind::Cut(seconds) => {
            phase.proxy.cut();
            std::thread::sleep(Duration::from_secs(seconds));
            phase.proxy.rate(RATE);
            phase.proxy.heal();
        }
        Kind::Serve => {
            lab.server("b")?.signal(Signal::SIGKILL)?;
            std::thread::sleep(pause);
            phase.proxy.rate(RATE);
            lab.serve("b")?;
        }
        Kind::Live => return recovered(lab, phase, run),
    }
    ensure!(!phase.victim.said().contains("FAIL"), "the victim says: {}", phase.victim.said());
    let healed = Instant::now();
    let outcome = phase.ends(lab)?;
    run.whole_after = healed.elapsed();
    let late = &outcome.report["lazy"];
    run.faults = late["faults"].as_u64().unwrap_or(0);
    run.longest_wait_ms = late["max_us"].as_f64().unwrap_or(0.0) / 1e3;
    ensure!(late["sent_twice"] == 0, "pages were sent twice: {}", outcome.report);
    Ok(())
}

fn recovered(lab: &mut Lab, phase: Phase, run: &mut Run) -> Result<()> {
    let Phase { mut victim, live, proxy, before } = phase;
    live.kill_both()?;
    proxy.rate(RATE);
    live.outcome()?;
    ensure!(!run.hit || !is_gone(before), "the copy at the source is gone, and its memory with it");
    let begun = Instant::now();
    let recovered = lab.run("a", &[ULPM, "recover"], SOON * 5)?;
    ensure!(recovered.exit == 0, "ulpm recover: {recovered:?}");
    run.whole_after = begun.elapsed();
    drop(proxy);
    ensure!(is_gone(before), "the source's copy still exists");
    victim.host = "b".to_owned();
    victim.check_running(lab)?;
    victim.finish()
}

fn table(runs: &[Run], took: Duration) -> String {
    let mut text = format!(
        "late runs: {} in {:.0} s\n{:<30} {:<7} {:>5} {:>6} {:>6} {:>13} {:>9} {:>13}\n",
        runs.len(),
        took.as_secs_f64(),
        "interruption",
        "way",
        "runs",
        "hit",
        "wrong",
        "whole after s",
        "waits",
        "longest wait s"
    );
    for (kind, of_kind) in KINDS.iter().enumerate() {
        for (way, (name, _)) in WAYS.iter().enumerate() {
            let its: Vec<&Run> = runs.iter().filter(|r| r.kind == kind && r.way == way).collect();
            if its.is_empty() {
                continue;
            }
            let count = |of: fn(&Run) -> bool| its.iter().filter(|r| of(r)).count();
            let longest = its.iter().map(|r| r.longest_wait_ms / 1e3).fold(0.0, f64::max);
            let mut after: Vec<f64> = its.iter().map(|r| r.whole_after.as_secs_f64()).collect();
            after.sort_by(f64::total_cmp);
            let _ = writeln!(
                text,
                "{:<30} {name:<7} {:>5} {:>6} {:>6} {:>13.1} {:>9} {longest:>13.1}",
                of_kind.name(),
                its.len(),
                count(|r| r.hit),
                count(|r| r.wrong.is_some()),
                after[after.len() / 2],
                its.iter().map(|r| r.faults).sum::<u64>(),
            );
        }
    }
    text
}
