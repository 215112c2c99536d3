//! redis-server with 500 MiB under load, moved in three ways: how long it stands still, and what its clients get over time.

use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use ulpm::demo::hosts::Host;
use ulpm::report::MigrationReport;

use super::stage::{LOOPBACK, Stage};
use super::{Spread, Wire, load};

/// Requests per second that the clients ask for, half of them writing: what one core and this link leave room for.
pub(crate) const DEMAND: u32 = 20_000;
const PORT: u16 = 6379;
/// With 1000 bytes each about 500 MiB.
const KEYS: u64 = 470_000;
const CLIENTS: u32 = 4;
/// Requests that a client has under way.
const BATCH: u32 = 10;
const RATE: u64 = 1_000_000_000;
/// The width of a step in the picture.
pub(crate) const BUCKET: Duration = Duration::from_millis(100);
const BUCKETS: usize = 1200;
/// Watched before and afterwards.
const WATCH: Duration = Duration::from_secs(2);
const SOON: Duration = Duration::from_secs(60);

/// How it is moved.
const WAYS: [(&str, &[&str]); 3] =
    [("pre-copy", &[]), ("lazy", &["--lazy"]), ("hybrid", &["--lazy-after", "2"])];

/// One move under load.
#[derive(Debug, Serialize)]
pub(crate) struct Moved {
    pub(crate) way: &'static str,
    pub(crate) freeze_ms: f64,
    parts: Vec<(&'static str, f64)>,
    /// The longest time without an answer to any client.
    pub(crate) silence_ms: f64,
    /// Seconds from the first bucket: the move began, the process ran at the target, it was whole.
    pub(crate) begun: f64,
    pub(crate) resumed: f64,
    pub(crate) whole: f64,
    pub(crate) rounds: usize,
    pub(crate) final_pages: u64,
    pub(crate) bytes_on_wire: u64,
    pub(crate) late_pages: u64,
    pub(crate) faults: u64,
    pub fault_p50_us: u64,
    pub fault_p99_us: u64,
    pub(crate) sent_twice: u64,
    /// Answers per second in each bucket.
    pub(crate) answers: Vec<f64>,
    pub(crate) load: String,
}

/// Moves it in each way, one after the other.
pub(crate) fn measure(demand: u32) -> Result<Vec<Moved>> {
    WAYS.iter()
        .map(|(way, args)| {
            let moved = one(way, args, demand)?;
            eprintln!(
                "{way}: frozen {:.1} ms, whole after {:.1} s",
                moved.freeze_ms,
                moved.whole - moved.begun
            );
            Ok(moved)
        })
        .collect()
}

fn one(way: &'static str, args: &[&str], demand: u32) -> Result<Moved> {
    let stage = Stage::set_up(&Wire { rate: Some(RATE), delay: None })?;
    let port = PORT.to_string();
    let redis = ["redis-server", "--port", &port, "--bind", "0.0.0.0", "--save", "", "--appendonly", "no"];
    let debug = ["--enable-debug-command", "yes", "--protected-mode", "no"];
    let redis = stage.start("redis", &[&redis[..], &debug].concat()).context("redis-server is needed")?;
    redis.says("Ready to accept", SOON)?;
    fill(&stage.hosts()[0])?;
    let (stop, clock) = (AtomicBool::new(false), Clock::new());
    let (report, begun, ended) = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|i| {
                let client =
                    Client { hosts: stage.hosts(), clock: &clock, stop: &stop, random: u64::from(i) + 1 };
                scope.spawn(move || client.run(demand))
            })
            .collect();
        std::thread::sleep(WATCH);
        let begun = clock.now();
        let args = [&["--tcp", "close"], args].concat();
        let report = stage.live(redis.process.pid().as_raw(), &args);
        let ended = clock.now();
        std::thread::sleep(WATCH);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok::<_, anyhow::Error>((report?, begun, ended))
    })?;
    let keys = ask(&stage.hosts()[1], "DBSIZE")?;
    ensure!(keys.trim() == format!(":{KEYS}"), "redis has {keys} keys after the move");
    Ok(moved(way, &report, &clock, begun, ended))
}

fn moved(way: &'static str, report: &MigrationReport, clock: &Clock, begun: f64, ended: f64) -> Moved {
    Moved {
        way,
        freeze_ms: report.freeze_ms,
        parts: report.freeze_parts.named().to_vec(),
        silence_ms: clock.silence(),
        begun,
        resumed: ended - report.lazy.ms / 1e3,
        whole: ended,
        rounds: report.rounds.len(),
        final_pages: report.final_pages,
        bytes_on_wire: report.bytes_on_wire,
        late_pages: report.lazy.pages,
        faults: report.lazy.faults,
        fault_p50_us: report.lazy.fault_p50_us,
        fault_p99_us: report.lazy.fault_p99_us,
        sent_twice: report.lazy.sent_twice,
        answers: clock.per_s(),
        load: load(),
    }
}

/// Answers by the time at which they came.
struct Clock {
    begun: Instant,
    /// In steps of a millisecond: the longest silence is to be seen, too.
    answers: Vec<AtomicU32>,
}

impl Clock {
    fn new() -> Self {
        let steps = BUCKETS * BUCKET.as_millis() as usize;
        Clock { begun: Instant::now(), answers: (0..steps).map(|_| AtomicU32::new(0)).collect() }
    }

    fn now(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }

    fn count(&self, answers: u32) {
        let at = self.begun.elapsed().as_millis() as usize;
        if let Some(step) = self.answers.get(at) {
            step.fetch_add(answers, Ordering::Relaxed);
        }
    }

    fn per_s(&self) -> Vec<f64> {
        let full = self.begun.elapsed().as_millis() as usize / BUCKET.as_millis() as usize;
        let sum = |bucket: &[AtomicU32]| bucket.iter().map(|s| s.load(Ordering::Relaxed)).sum::<u32>();
        let buckets = self.answers.chunks(BUCKET.as_millis() as usize).take(full);
        buckets.map(|bucket| f64::from(sum(bucket)) / BUCKET.as_secs_f64()).collect()
    }

    /// Milliseconds.
    fn silence(&self) -> f64 {
        let loud = self.answers.iter().enumerate().filter(|(_, s)| s.load(Ordering::Relaxed) > 0);
        let at: Vec<usize> = loud.map(|(i, _)| i).collect();
        at.windows(2).map(|w| w[1] - w[0]).max().unwrap_or(0) as f64
    }
}

/// Asks for its share of the demand, wherever redis is.
struct Client<'a> {
    hosts: &'a [Host; 2],
    clock: &'a Clock,
    stop: &'a AtomicBool,
    random: u64,
}

impl Client<'_> {
    fn run(mut self, demand: u32) -> Result<()> {
        let pause = Duration::from_secs_f64(f64::from(BATCH * CLIENTS) / f64::from(demand));
        let mut at = 0;
        let mut next = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            let Ok(stream) = connect(&self.hosts[at % 2]) else {
                at += 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            };
            let mut stream = BufReader::new(stream);
            while !self.stop.load(Ordering::Relaxed) && self.batch(&mut stream).is_ok() {
                next = (next + pause).max(Instant::now());
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        Ok(())
    }

    /// Requests at once, and their answers.
    fn batch(&mut self, stream: &mut BufReader<TcpStream>) -> Result<()> {
        let mut text = String::new();
        for i in 0..BATCH {
            self.random =
                self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (self.random >> 33) % KEYS;
            match i % 2 {
                0 => write!(text, "GET key:{key}\r\n")?,
                _ => write!(text, "SET key:{key} {:0>1000}\r\n", self.random)?,
            }
        }
        stream.get_mut().write_all(text.as_bytes())?;
        for _ in 0..BATCH {
            answer(stream)?;
            self.clock.count(1);
        }
        Ok(())
    }
}

fn connect(host: &Host) -> Result<TcpStream> {
    let stream = host.in_network(|| TcpStream::connect(SocketAddr::from((LOOPBACK, PORT))))??;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SOON))?;
    Ok(stream)
}

/// One answer; a bulk answer's header.
fn answer(stream: &mut BufReader<TcpStream>) -> Result<String> {
    let mut line = String::new();
    ensure!(stream.read_line(&mut line)? > 0, "redis closed the connection");
    ensure!(!line.starts_with('-'), "redis says {line}");
    if let Some(len) = line.strip_prefix('$').and_then(|n| n.trim().parse::<usize>().ok()) {
        let mut body = vec![0; len + 2];
        stream.read_exact(&mut body)?;
    }
    Ok(line)
}

fn fill(host: &Host) -> Result<()> {
    let filled = ask(host, &format!("DEBUG POPULATE {KEYS} key 1000"))?;
    ensure!(filled.starts_with("+OK"), "populate: {filled}");
    Ok(())
}

fn ask(host: &Host, text: &str) -> Result<String> {
    let mut stream = BufReader::new(connect(host)?);
    stream.get_mut().write_all(format!("{text}\r\n").as_bytes())?;
    answer(&mut stream)
}

/// For people.
pub(crate) fn text(all: &[Moved]) -> String {
    let mut out = format!(
        "redis-server with {KEYS} values of 1000 bytes, link of {} Mbit/s\n{:<10}{:>10}{:>11}{:>9}{:>9}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9}{:>9}{:>7}\n",
        RATE / 1_000_000,
        "way",
        "freeze ms",
        "silence ms",
        "runs s",
        "whole s",
        "rounds",
        "MiB sent",
        "in freeze",
        "late",
        "faults",
        "p50 us",
        "p99 us",
        "twice"
    );
    for m in all {
        let _ = writeln!(
            out,
            "{:<10}{:>10.1}{:>11.0}{:>9.2}{:>9.2}{:>9}{:>9}{:>10}{:>10}{:>10}{:>9}{:>9}{:>7}",
            m.way,
            m.freeze_ms,
            m.silence_ms,
            m.resumed - m.begun,
            m.whole - m.begun,
            m.rounds,
            m.bytes_on_wire >> 20,
            m.final_pages,
            m.late_pages,
            m.faults,
            m.fault_p50_us,
            m.fault_p99_us,
            m.sent_twice
        );
    }
    for m in all {
        let part = |from: f64, to: f64| {
            let step = BUCKET.as_secs_f64();
            let within = |i: &usize| *i as f64 * step >= from && (*i as f64 + 1.0) * step <= to;
            Spread::of(m.answers.iter().enumerate().filter(|(i, _)| within(i)).map(|(_, n)| *n))
        };
        let (before, ahead) = (part(0.5, m.begun), part(m.begun, m.resumed - m.freeze_ms / 1e3));
        let (late, after) = (part(m.resumed, m.whole), part(m.whole, f64::MAX));
        let _ = writeln!(
            out,
            "{}: answers/s before {:.0}, while rounds run {:.0}, while memory follows {:.0} (least {:.0}), afterwards {:.0}",
            m.way, before.median, ahead.median, late.median, late.min, after.median
        );
        let parts: Vec<String> = m.parts.iter().map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        let _ = writeln!(out, "{}: freeze in ms: {}", m.way, parts.join(", "));
    }
    out
}
