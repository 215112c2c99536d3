//! How long a moved process stands still: `cargo bench --bench freeze [-- --json]`.
//!
//! Moves `ulpm demo`'s workload between two hosts on this machine, with 256 MiB and with 1 GiB (`--small`, `--large`), 1,000 pages
//! written per second in both. The sizes take turns within one run, so that what else the machine does falls on both.
//! Every move has hosts, servers and a workload of its own. The first ones are not counted: memory touched for the
//! first time since boot can cost ten times as much.
//!
//! Each report has the freeze as it was predicted at the moment of stopping: the text says how many were within 30 %.
//! The source's memory of earlier predictions goes from move to move, as it does on a host; the first has none, or the file `ULPM_BENCH_PREDICTIONS` of an earlier run.
//!
//! `silence_ms` is the longest silence, during the first round, of a process that has nothing to do with the move and asks for a
//! millisecond's sleep over and over, in a session of its own. `silence_net` is the same less the time in which all CPUs stood still,
//! which sleepers under `SCHED_FIFO` on each of them tell: that is the hypervisor's doing.
//!
//! `-- --verify` hashes all memory inside the freeze. `ULPM_BENCH_MOVES=3` shortens it (20 of each size otherwise).
//! Nothing is asserted about time.

mod sleeper;
mod spread;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use serde::Serialize;
use ulpm::demo::hosts;
use ulpm::demo::scene::{SceneOptions, Watcher, move_once};
use ulpm::report::{FreezeParts, MigrationReport, Size};

use sleeper::{Longest, Sleeper};
use spread::Spread;

const DIRTY_RATE: u64 = 1000;
const MOVES: usize = 20;

/// Measures the freeze of many moves.
#[derive(Debug, Parser)]
struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Compare every page at both ends while the process is frozen
    #[arg(long)]
    verify: bool,
    /// Memory of the small ones
    #[arg(long, default_value = "256MiB")]
    small: Size,
    /// Memory of the large ones
    #[arg(long, default_value = "1GiB")]
    large: Size,
    /// Be the sleeper of another run
    #[arg(long, hide = true)]
    sleeper: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// One move.
#[derive(Debug)]
struct Move {
    report: MigrationReport,
    /// The longest silence of an unrelated sleeper during the first round.
    silence: Longest,
}

/// What was measured at one size.
#[derive(Debug, Serialize)]
struct Series {
    mem_bytes: u64,
    freeze_ms: Spread,
    /// The parts of the freeze by name, and what no part accounts for.
    freeze_parts: BTreeMap<String, Spread>,
    /// The freeze as it was predicted at the moment of stopping.
    predicted_freeze_ms: Spread,
    /// The same, its parts.
    predicted_freeze_parts: BTreeMap<String, Spread>,
    /// Freezes by predictions: above 1, it took longer.
    real_by_predicted: Spread,
    /// Freezes within 30 % of what was predicted.
    within_30_percent: usize,
    /// The longest silence that the workload itself saw.
    observed_gap_ms: Spread,
    /// The longest silence of an unrelated sleeper during the first round.
    silence_ms: Spread,
    /// Less the time in which the machine stood still.
    silence_net_ms: Spread,
    final_pages: Spread,
    rounds: Spread,
    precopy_ms: Spread,
    /// `freeze_ms` and `predicted_freeze_ms` of every move in order.
    each_freeze_ms: Vec<(f64, f64)>,
}

#[derive(Debug, Serialize)]
struct Findings {
    moves: usize,
    verify: bool,
    dirty_pages_per_s: u64,
    debug_build: bool,
    kernel: String,
    load_before: String,
    load_after: String,
    small: Series,
    large: Series,
    /// Median of the large ones by that of the small ones.
    ratio: f64,
}

impl Series {
    fn of(mem: Size, moves: &[Move]) -> Self {
        let reports: Vec<&MigrationReport> = moves.iter().map(|m| &m.report).collect();
        let spread = |value: fn(&MigrationReport) -> f64| Spread::of(reports.iter().map(|r| value(r)));
        let parts = |of: fn(&MigrationReport) -> FreezeParts| -> BTreeMap<String, Spread> {
            let each = |i: usize| Spread::of(reports.iter().map(|r| of(r).named()[i].1));
            let names = FreezeParts::default().named();
            names.iter().enumerate().map(|(i, (name, _))| (format!("{} {name}", i + 1), each(i))).collect()
        };
        let mut freeze_parts = parts(|r| r.freeze_parts);
        freeze_parts.insert("9 other".to_owned(), spread(|r| r.freeze_ms - r.freeze_parts.sum()));
        Self {
            mem_bytes: mem.as_bytes(),
            freeze_ms: spread(|r| r.freeze_ms),
            freeze_parts,
            predicted_freeze_ms: spread(predicted),
            predicted_freeze_parts: parts(|r| r.predicted_freeze_parts),
            real_by_predicted: spread(|r| r.freeze_ms / predicted(r)),
            within_30_percent: reports.iter().filter(|r| foretold(r)).count(),
            observed_gap_ms: spread(|r| r.observed_gap_ms.unwrap_or(f64::NAN)),
            silence_ms: Spread::of(moves.iter().map(|m| m.silence.silence_ms)),
            silence_net_ms: Spread::of(moves.iter().map(|m| m.silence.net_ms)),
            final_pages: spread(|r| r.final_pages as f64),
            rounds: spread(|r| r.rounds.len() as f64),
            precopy_ms: spread(|r| r.precopy_ms),
            each_freeze_ms: reports.iter().map(|r| (r.freeze_ms, predicted(r))).collect(),
        }
    }
}

fn predicted(report: &MigrationReport) -> f64 {
    report.predicted_freeze_ms.unwrap_or(f64::NAN)
}

/// Whether it took no more than 30 % longer or shorter than predicted.
fn foretold(report: &MigrationReport) -> bool {
    (report.freeze_ms - predicted(report)).abs() <= 0.3 * predicted(report)
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.sleeper {
        sleeper::sleep();
        return Ok(());
    }
    // Before any thread exists: an ordinary user gets a user namespace.
    hosts::become_able()?;
    let moves = match std::env::var("ULPM_BENCH_MOVES") {
        Ok(text) => text.parse().with_context(|| format!("ULPM_BENCH_MOVES is {text:?}, not a number"))?,
        Err(_) => MOVES,
    };
    ensure!(moves > 0, "ULPM_BENCH_MOVES is 0");
    let findings = measure(moves, &args)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        print!("{}", text(&findings));
    }
    Ok(())
}

fn measure(moves: usize, args: &Args) -> Result<Findings> {
    let Args { small: small_mem, large: large_mem, verify, .. } = *args;
    let dir = tempfile::tempdir().context("make a directory")?;
    let given = std::env::var_os("ULPM_BENCH_PREDICTIONS").map(PathBuf::from);
    let predictions = given.unwrap_or_else(|| dir.path().join("predictions.json"));
    let one = |mem| one(mem, verify, &predictions);
    let load_before = load();
    eprintln!("warming up");
    for mem in [large_mem, small_mem] {
        one(mem)?;
    }
    let (mut small, mut large) = (vec![], vec![]);
    for i in 0..moves {
        // Which one goes first changes, too.
        for mem in if i % 2 == 0 { [small_mem, large_mem] } else { [large_mem, small_mem] } {
            let begun = Instant::now();
            let one = one(mem)?;
            let report = &one.report;
            eprintln!(
                "{}/{moves} {mem}: frozen {:.2} ms, {:.2} ms predicted, {} pages last; silence {:.1} ms, net {:.1} ({:.1} s in all)",
                i + 1,
                report.freeze_ms,
                predicted(report),
                report.final_pages,
                one.silence.silence_ms,
                one.silence.net_ms,
                begun.elapsed().as_secs_f64()
            );
            if mem == small_mem { small.push(one) } else { large.push(one) }
        }
    }
    let (small, large) = (Series::of(small_mem, &small), Series::of(large_mem, &large));
    Ok(Findings {
        moves,
        verify,
        dirty_pages_per_s: DIRTY_RATE,
        debug_build: cfg!(debug_assertions),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        load_before,
        load_after: load(),
        ratio: large.freeze_ms.median / small.freeze_ms.median,
        small,
        large,
    })
}

fn one(mem: Size, verify: bool, predictions: &Path) -> Result<Move> {
    let options = SceneOptions {
        mem,
        dirty_rate: DIRTY_RATE,
        verify,
        predictions: Some(predictions.to_owned()),
        program: Some(env!("CARGO_BIN_EXE_ulpm").into()),
        ..SceneOptions::default()
    };
    let sleeper = Sleeper::start()?;
    let began = Arc::new(Mutex::new(None));
    let ended = Arc::new(Mutex::new(None));
    let watcher = {
        let (began, ended) = (began.clone(), ended.clone());
        Watcher::new(move |line| {
            let moment = match line {
                line if line.contains("attaching …") => &began,
                line if line.contains("round 0: ") => &ended,
                _ => return,
            };
            moment.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(sleeper::now);
        })
    };
    let (report, result) = move_once(&options, &watcher).map_err(|error| {
        let advice = error.advice().unwrap_or_default();
        anyhow::Error::from(error).context(format!("a move of {mem} failed; {advice}"))
    })?;
    ensure!(result.passed, "the workload found errors: {}", result.status.first_errors.join("; "));
    let moment = |of: &Mutex<Option<Duration>>| *of.lock().unwrap_or_else(PoisonError::into_inner);
    let (began, ended) = moment(&began).zip(moment(&ended)).context("no first round was told")?;
    Ok(Move { report, silence: sleeper.longest(began, ended) })
}

fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn text(findings: &Findings) -> String {
    let mut out = format!(
        "{} moves of each size, {} pages written per second{}{}, kernel {}, load {} before, {} after\n\n",
        findings.moves,
        findings.dirty_pages_per_s,
        if findings.verify { ", verified" } else { "" },
        if findings.debug_build { ", DEBUG BUILD" } else { "" },
        findings.kernel,
        findings.load_before,
        findings.load_after
    );
    let (small, large) = (&findings.small, &findings.large);
    let (small_mem, large_mem) = (Size::bytes(small.mem_bytes), Size::bytes(large.mem_bytes));
    let _ = writeln!(out, "{:<16}{small_mem:>27}{large_mem:>27}", "");
    let _ = writeln!(
        out,
        "{:<16}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
        "", "median", "min", "max", "median", "min", "max"
    );
    line(&mut out, "freeze_ms", &small.freeze_ms, &large.freeze_ms);
    for (name, part) in &small.freeze_parts {
        if let Some(other) = large.freeze_parts.get(name) {
            line(
                &mut out,
                &format!("  {}", name.split_once(' ').map_or(name.as_str(), |(_, n)| n)),
                part,
                other,
            );
        }
    }
    line(&mut out, "predicted", &small.predicted_freeze_ms, &large.predicted_freeze_ms);
    for (name, part) in &small.predicted_freeze_parts {
        if let Some(other) = large.predicted_freeze_parts.get(name) {
            let name = name.split_once(' ').map_or(name.as_str(), |(_, n)| n);
            line(&mut out, &format!("  {name}"), part, other);
        }
    }
    line(&mut out, "real/predicted", &small.real_by_predicted, &large.real_by_predicted);
    line(&mut out, "observed_gap_ms", &small.observed_gap_ms, &large.observed_gap_ms);
    line(&mut out, "silence_ms", &small.silence_ms, &large.silence_ms);
    line(&mut out, "silence_net", &small.silence_net_ms, &large.silence_net_ms);
    line(&mut out, "final_pages", &small.final_pages, &large.final_pages);
    line(&mut out, "rounds", &small.rounds, &large.rounds);
    line(&mut out, "precopy_ms", &small.precopy_ms, &large.precopy_ms);
    let _ = writeln!(
        out,
        "\nwithin 30 % of what was predicted: {} of {} at {small_mem}, {} of {} at {large_mem}",
        small.within_30_percent, findings.moves, large.within_30_percent, findings.moves
    );
    let _ =
        writeln!(out, "ratio of the medians of freeze_ms, {large_mem} to {small_mem}: {:.2}", findings.ratio);
    out
}

fn line(out: &mut String, name: &str, small: &Spread, large: &Spread) {
    let _ = write!(out, "{name:<16}");
    for spread in [small, large] {
        let _ = write!(out, "{:>9.2}{:>9.2}{:>9.2}", spread.median, spread.min, spread.max);
    }
    out.push('\n');
}
