//! What tracking costs the process that is tracked: `cargo bench --bench tracking [-- --json]`.
//!
//! Two workloads: one that writes random pages of its memory as fast as it can, and redis-server under redis-benchmark
//! (where both are installed). Each is measured untracked, tracked (rounds without end, read and thrown away: what a
//! move does, less the network), and untracked again, tracker by tracker, in turns within one run. Printed are
//! ratios of the tracked speed, and of the speed afterwards, to the untracked one beside it. Trackers that this
//! kernel lacks are left out; `docs/tracking.md` says how to run it in the virtual machines.
//!
//! `--turns`, `--memory` and `--requests` make it shorter, for slow machines. Nothing is asserted about time.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use serde::Serialize;
use ulpm::dirty::{Chosen, Kind};
use ulpm::image::{FIRST, ObjectId, PageRange, ProcessIndex};
use ulpm::preload::push::PageSink;
use ulpm::preload::{Agent, PreloadError, describe::describe};
use ulpm::state::files::FilesOptions;
use ulpm::sys::kernel::Kernel;

const PAGE: usize = 4096;
/// How long each state of the writer is measured.
const WINDOW: Duration = Duration::from_secs(2);
/// From the beginning of a round to that of the next.
const ROUND: Duration = Duration::from_millis(200);

/// Measures the cost of tracking.
#[derive(Debug, Parser)]
struct Args {
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// How often each tracker has its turn
    #[arg(long, default_value_t = 5)]
    turns: usize,
    /// MiB that the writer has
    #[arg(long, default_value_t = 256)]
    memory: usize,
    /// Requests of each measurement of redis, whose values of a kilobyte are twice as many
    #[arg(long, default_value_t = 100_000)]
    requests: usize,
    /// Be the workload
    #[arg(long, hide = true)]
    writer: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

/// One tracker on one workload.
#[derive(Debug, Serialize)]
struct Cost {
    workload: String,
    tracker: &'static str,
    /// Speed while tracked by that without, median over the turns.
    tracked: f64,
    /// The same of the slowest and of the fastest turn.
    range: (f64, f64),
    /// Speed afterwards by that before.
    afterwards: f64,
    /// Two untracked measurements, one after the other: what the machine's own unrest is.
    noise: f64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if args.writer {
        return write_for_ever((args.memory << 20) / PAGE);
    }
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|k| k.usable(Kernel::here()).is_ok()).collect();
    let mut all = Vec::new();
    let writer = Writer::start(args.memory)?;
    let workload = format!("writer of {} MiB", args.memory);
    all.extend(measure(&workload, writer.child.id(), &kinds, args.turns, || Ok(writer.speed()))?);
    drop(writer);
    match Redis::start(args.requests) {
        Ok(redis) => {
            all.extend(measure("redis-benchmark", redis.child.id(), &kinds, args.turns, || redis.speed())?)
        }
        Err(why) => eprintln!("redis is left out: {why:#}"),
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
        return Ok(());
    }
    println!(
        "{:<18} {:<11} {:>8} {:>15} {:>11} {:>7}",
        "workload", "tracker", "tracked", "least to most", "afterwards", "noise"
    );
    for c in &all {
        println!(
            "{:<18} {:<11} {:>8.3} {:>7.3} to {:<4.3} {:>11.3} {:>7.3}",
            c.workload, c.tracker, c.tracked, c.range.0, c.range.1, c.afterwards, c.noise
        );
    }
    Ok(())
}

/// Untracked, untracked again, tracked, untracked: for each tracker in each turn.
fn measure(
    workload: &str,
    pid: u32,
    kinds: &[Kind],
    turns: usize,
    speed: impl Fn() -> Result<f64>,
) -> Result<Vec<Cost>> {
    let mut costs: Vec<(Kind, [Vec<f64>; 3])> = kinds.iter().map(|k| (*k, Default::default())).collect();
    speed()?;
    for _ in 0..turns {
        for (kind, [tracked, afterwards, noise]) in &mut costs {
            let (first, before) = (speed()?, speed()?);
            let tracking = Tracking::start(pid as i32, *kind);
            let during = speed()?;
            tracking.end()?;
            let after = speed()?;
            noise.push(before / first);
            tracked.push(during / ((before + after) / 2.0));
            afterwards.push(after / before);
        }
    }
    Ok(costs
        .into_iter()
        .map(|(kind, [tracked, afterwards, noise])| Cost {
            workload: workload.to_owned(),
            tracker: kind.name(),
            range: (quantile(&tracked, 0.0), quantile(&tracked, 1.0)),
            tracked: quantile(&tracked, 0.5),
            afterwards: quantile(&afterwards, 0.5),
            noise: quantile(&noise, 0.5),
        })
        .collect())
}

fn quantile(values: &[f64], at: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = (sorted.len().saturating_sub(1) as f64 * at).round() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

/// A process that is tracked as a move would, by rounds without end.
struct Tracking {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Result<usize>>,
}

impl Tracking {
    fn start(pid: i32, kind: Kind) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = std::thread::spawn(move || track(pid, kind, &told));
        Tracking { stop, thread }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let rounds = self.thread.join().map_err(|_| anyhow::anyhow!("the tracking thread panicked"))??;
        ensure!(rounds > 2, "only {rounds} rounds: nothing was measured");
        Ok(())
    }
}

fn track(pid: i32, kind: Kind, stop: &AtomicBool) -> Result<usize> {
    let home = tempfile::tempdir()?;
    let described = describe(pid, &FilesOptions { tcp_close: true, ..FilesOptions::default() })?;
    let chosen = Chosen { kind, reason: String::new() };
    let mut agent = Agent::attach(&described.tree, (pid, FIRST), home.path(), &chosen)?;
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        agent.survey(&described.tree.files)?;
        agent.round(&mut Nowhere)?;
        rounds += 1;
        std::thread::sleep(ROUND.saturating_sub(begun.elapsed()));
    }
    Ok(rounds)
}

/// Throws pages away.
struct Nowhere;

impl PageSink for Nowhere {
    fn pages(&mut self, _: ProcessIndex, _: u64, _: Bytes) -> Result<(), PreloadError> {
        Ok(())
    }
    fn zero(&mut self, _: ProcessIndex, _: Vec<PageRange>) -> Result<(), PreloadError> {
        Ok(())
    }
    fn gone(&mut self, _: ProcessIndex, _: Vec<PageRange>) -> Result<(), PreloadError> {
        Ok(())
    }
    fn object_pages(&mut self, _: ObjectId, _: u64, _: Bytes) -> Result<(), PreloadError> {
        Ok(())
    }
    fn object_holes(&mut self, _: ObjectId, _: Vec<PageRange>) -> Result<(), PreloadError> {
        Ok(())
    }
}

/// Writes a word into a random page, and counts on stdout every 10 ms.
fn write_for_ever(pages: usize) -> Result<()> {
    let mut memory = vec![1u8; pages * PAGE];
    let (mut random, mut written, mut told) = (1u64, 0u64, Instant::now());
    loop {
        for _ in 0..2000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let page = (random >> 33) as usize % pages;
            memory[page * PAGE + (random as usize >> 8) % PAGE] = random as u8;
            // some work beside the writing, as programs do
            random ^= (0..64).fold(random, |a, b| a.rotate_left(5) ^ b) >> 7;
        }
        // nobody reads it: without this the compiler leaves the memory out altogether
        std::hint::black_box(&mut memory);
        written += 2000;
        if told.elapsed() >= Duration::from_millis(10) {
            println!("{written}");
            told = Instant::now();
        }
    }
}

struct Writer {
    child: Child,
    written: Arc<AtomicU64>,
}

impl Writer {
    fn start(mib: usize) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["--writer", "--memory", &mib.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let written = Arc::new(AtomicU64::new(0));
        let count = written.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                count.store(line.parse().unwrap_or(0), Ordering::Relaxed);
            }
        });
        Ok(Writer { child, written })
    }

    fn speed(&self) -> f64 {
        let (begun, before) = (Instant::now(), self.written.load(Ordering::Relaxed));
        std::thread::sleep(WINDOW);
        (self.written.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Redis {
    child: Child,
    port: u16,
    requests: usize,
    last: Mutex<()>,
}

impl Redis {
    fn start(requests: usize) -> Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .context("starting redis-server")?;
        let redis = Redis { child, port, requests, last: Mutex::new(()) };
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            ensure!(Instant::now() < deadline, "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        redis.benchmark(&["-n", &(4 * requests).to_string(), "-P", "16"])?;
        Ok(redis)
    }

    fn speed(&self) -> Result<f64> {
        self.benchmark(&["-n", &self.requests.to_string()])
    }

    /// SET of random keys; requests per second.
    fn benchmark(&self, args: &[&str]) -> Result<f64> {
        let _alone = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (port, values) = (self.port.to_string(), (2 * self.requests).to_string());
        let fixed = ["-p", &port, "-t", "set", "-r", &values, "-d", "1024", "-c", "20", "--csv"];
        let out =
            Command::new("redis-benchmark").args(fixed).args(args).output().context("redis-benchmark")?;
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let line = text.lines().last().unwrap_or_default();
        let rate = line.split(',').nth(1).map(|f| f.trim_matches('"'));
        rate.and_then(|r| r.parse().ok()).with_context(|| format!("redis-benchmark said {text:?}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
