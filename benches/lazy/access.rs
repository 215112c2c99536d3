//! 1 GiB under random access moved lazily, beside an idle process moved plainly and the same 1 GiB asleep.

use std::fmt::Write as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use ulpm::report::{LazyStats, MigrationReport, Size};

use super::stage::{Stage, Started};
use super::{Spread, Wire, load};

const THREADS: &str = "8";
/// The plain move beside it.
const IDLE: Size = Size::mib(64);
/// How long a process is watched before it is moved, and after it is whole.
const WATCH: Duration = Duration::from_secs(1);
const FILLED: Duration = Duration::from_secs(60);
const CHECKED: Duration = Duration::from_secs(120);

/// One move.
#[derive(Debug, Serialize)]
struct Moved {
    freeze_ms: f64,
    parts: Vec<(&'static str, f64)>,
    lazy: LazyStats,
    /// Medians of small packets' round trips: before the move, and while memory was outstanding.
    rtt_before_us: f64,
    rtt_during_us: f64,
    /// Accesses per second: before, until whole, afterwards.
    before: f64,
    during: f64,
    after: f64,
    /// The longest time without an access.
    gap_ms: f64,
}

impl Moved {
    /// Pages a second that came without being waited for. A page that was waited for while it was on its way anyway is not
    /// counted.
    fn push(&self) -> f64 {
        (self.lazy.pages.saturating_sub(self.lazy.faults)) as f64 / (self.lazy.ms / 1e3)
    }

    fn mib_per_s(&self) -> f64 {
        self.push() / 256.0
    }
}

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Findings {
    mem: String,
    turns: usize,
    debug_build: bool,
    kernel: String,
    load_before: String,
    load_after: String,
    wire: String,
    plain: Vec<Moved>,
    busy: Vec<Moved>,
    asleep: Vec<Moved>,
}

/// Takes all measurements in turns.
pub(crate) fn measure(turns: usize, mem: Size, wire: &Wire) -> Result<Findings> {
    let mut findings = Findings {
        mem: mem.to_string(),
        turns,
        debug_build: cfg!(debug_assertions),
        kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        load_before: load(),
        load_after: String::new(),
        wire: wire.to_string(),
        plain: Vec::new(),
        busy: Vec::new(),
        asleep: Vec::new(),
    };
    for turn in 0..=turns {
        let plain = one(IDLE, "asleep", &[], wire)?;
        let busy = one(mem, "busy", &["--lazy"], wire)?;
        let asleep = one(mem, "asleep", &["--lazy"], wire)?;
        eprintln!(
            "{turn}/{turns}{}: frozen {:.1} ms, {:.1} idle; p50 {} us, round trip {:.0} us ({:.0} before); {:.0} MiB/s, {:.0} asleep; \
             whole after {:.0} ms, {:.0} asleep",
            if turn == 0 { " (not counted)" } else { "" },
            busy.freeze_ms,
            plain.freeze_ms,
            busy.lazy.fault_p50_us,
            busy.rtt_during_us,
            busy.rtt_before_us,
            busy.mib_per_s(),
            asleep.mib_per_s(),
            busy.lazy.ms,
            asleep.lazy.ms
        );
        if turn > 0 {
            findings.plain.push(plain);
            findings.busy.push(busy);
            findings.asleep.push(asleep);
        }
    }
    findings.load_after = load();
    Ok(findings)
}

fn one(mem: Size, how: &str, args: &[&str], wire: &Wire) -> Result<Moved> {
    let stage = Stage::set_up(wire)?;
    let stop = stage.dir().join("stop");
    let own = std::env::current_exe()?.display().to_string();
    let (bytes, path) = (mem.as_bytes().to_string(), stop.display().to_string());
    let victim = stage.start("victim", &[&own, "--victim", &bytes, THREADS, how, &path])?;
    victim.says("ready", FILLED)?;
    std::thread::sleep(WATCH);
    let (_, before) = stage.pinging(|| std::thread::sleep(Duration::from_millis(300)))?;
    let ((begun, report, ended), trips) = stage.pinging(|| {
        let begun = micros();
        let report = stage.live(victim.process.pid().as_raw(), args);
        (begun, report, (Instant::now(), micros()))
    })?;
    let report = report?;
    std::thread::sleep(WATCH);
    std::fs::write(&stop, "")?;
    let last = || ["PASS", "FAIL"].iter().any(|word| victim.said().contains(word));
    let deadline = Instant::now() + CHECKED;
    while !last() {
        ensure!(Instant::now() < deadline, "the process does not end its last check");
        std::thread::sleep(Duration::from_millis(20));
    }
    let outstanding = Duration::from_secs_f64(report.lazy.ms / 1e3);
    let during = trips.iter().filter(|(at, _)| ended.0.saturating_duration_since(*at) < outstanding);
    let accesses = Accesses::read(&victim)?;
    Ok(moved(&report, &accesses, (begun, ended.1), median(before.iter()), median(during)))
}

fn moved(
    report: &MigrationReport,
    accesses: &Accesses,
    (begun, ended): (u64, u64),
    rtt_before_us: f64,
    rtt_during_us: f64,
) -> Moved {
    let resumed = ended.saturating_sub((report.lazy.ms * 1e3) as u64);
    Moved {
        freeze_ms: report.freeze_ms,
        parts: report.freeze_parts.named().to_vec(),
        lazy: report.lazy.clone(),
        rtt_before_us,
        rtt_during_us,
        before: accesses.per_s(0, begun),
        during: accesses.per_s(resumed, ended),
        after: accesses.per_s(ended, u64::MAX),
        gap_ms: accesses.gap_ms(),
    }
}

fn median<'a>(trips: impl Iterator<Item = &'a (Instant, Duration)>) -> f64 {
    Spread::of(trips.map(|(_, took)| took.as_secs_f64() * 1e6)).median
}

/// Of the clock that both hosts share.
fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_micros() as u64)
}

/// What the process said of itself: when, and how many accesses so far.
struct Accesses(Vec<(u64, u64)>);

impl Accesses {
    /// Fails if it found anything wrong.
    fn read(victim: &Started) -> Result<Self> {
        let said = victim.said();
        ensure!(
            said.contains("PASS"),
            "the process found wrong values: {}",
            said.lines().last().unwrap_or("")
        );
        let mut all = Vec::new();
        for line in said.lines().filter(|line| line.starts_with("at ")) {
            let numbers: Vec<u64> = line.split(' ').skip(1).filter_map(|n| n.parse().ok()).collect();
            let [at, accesses, wrong] = numbers[..] else { anyhow::bail!("half a line: {line:?}") };
            ensure!(wrong == 0, "the process found {wrong} wrong values");
            all.push((at, accesses));
        }
        all.first().context("the process said nothing of itself")?;
        Ok(Accesses(all))
    }

    fn per_s(&self, from: u64, to: u64) -> f64 {
        let within: Vec<_> = self.0.iter().filter(|(at, _)| (from..=to).contains(at)).collect();
        match (within.first(), within.last()) {
            (Some((t0, n0)), Some((t1, n1))) if t1 > t0 => (n1 - n0) as f64 / ((t1 - t0) as f64 / 1e6),
            _ => f64::NAN,
        }
    }

    /// The longest time between two words of it: it speaks without touching its memory.
    fn gap_ms(&self) -> f64 {
        self.0.windows(2).map(|w| (w[1].0 - w[0].0) as f64 / 1e3).fold(0.0, f64::max)
    }
}

impl Findings {
    /// For people.
    pub(crate) fn text(&self) -> String {
        let mut out = format!(
            "{} turns, {} under access by {THREADS} threads, {IDLE} idle, {}{}, kernel {}, load {} before, {} after\n\n",
            self.turns,
            self.mem,
            self.wire,
            if self.debug_build { ", DEBUG BUILD" } else { "" },
            self.kernel,
            self.load_before,
            self.load_after
        );
        let _ = writeln!(out, "{:<34}{:>10}{:>10}{:>10}", "", "median", "min", "max");
        let (plain, busy, asleep) = (&self.plain[..], &self.busy[..], &self.asleep[..]);
        self.freezes(&mut out);
        line(&mut out, "faults", busy, |m| m.lazy.faults as f64);
        line(&mut out, "fault p50 us", busy, |m| m.lazy.fault_p50_us as f64);
        line(&mut out, "fault p99 us", busy, |m| m.lazy.fault_p99_us as f64);
        line(&mut out, "fault longest us", busy, |m| m.lazy.max_us as f64);
        line(&mut out, "round trip before us", busy, |m| m.rtt_before_us);
        line(&mut out, "round trip while memory follows us", busy, |m| m.rtt_during_us);
        line(&mut out, "push under faults MiB/s", busy, Moved::mib_per_s);
        line(&mut out, "push without faults MiB/s", asleep, Moved::mib_per_s);
        line(&mut out, "whole after ms, under access", busy, |m| m.lazy.ms);
        line(&mut out, "whole after ms, asleep", asleep, |m| m.lazy.ms);
        line(&mut out, "accesses/s before", busy, |m| m.before);
        line(&mut out, "accesses/s until whole", busy, |m| m.during);
        line(&mut out, "accesses/s afterwards", busy, |m| m.after);
        line(&mut out, "main thread's longest silence ms", busy, |m| m.gap_ms);
        line(&mut out, "the same, idle", plain, |m| m.gap_ms);
        let of = |moves: &[Moved], value: fn(&Moved) -> f64| Spread::of(moves.iter().map(value)).median;
        let twice: u64 = busy.iter().chain(asleep).map(|m| m.lazy.sent_twice).sum();
        let p50 = of(busy, |m| m.lazy.fault_p50_us as f64);
        let _ = writeln!(
            out,
            "\nfreeze by that of the idle process          {:.2}  (goal: at most 2)\n\
             fault p50 by the round trip before          {:.2}\n\
             fault p50 by the round trip at that time    {:.2}  (goal: below 4)\n\
             push under faults by push without           {:.2}  (goal: at least 0.8)\n\
             speed until whole by speed before           {:.2}\n\
             pages sent twice                            {twice}  (goal: 0)",
            of(busy, |m| m.freeze_ms) / of(plain, |m| m.freeze_ms),
            p50 / of(busy, |m| m.rtt_before_us),
            p50 / of(busy, |m| m.rtt_during_us),
            of(busy, Moved::push) / of(asleep, Moved::push),
            of(busy, |m| m.during) / of(busy, |m| m.before),
        );
        out
    }

    fn freezes(&self, out: &mut String) {
        for (name, moves) in [("idle", &self.plain), ("under access", &self.busy), ("asleep", &self.asleep)] {
            line(out, &format!("freeze ms, {name}"), moves, |m| m.freeze_ms);
            let names: Vec<&str> =
                moves.first().map(|m| m.parts.iter().map(|p| p.0).collect()).unwrap_or_default();
            for (i, part) in names.iter().enumerate() {
                spread(out, &format!("  {part}"), &Spread::of(moves.iter().map(|m| m.parts[i].1)));
            }
        }
    }
}

fn line(out: &mut String, name: &str, moves: &[Moved], value: fn(&Moved) -> f64) {
    spread(out, name, &Spread::of(moves.iter().map(value)));
}

fn spread(out: &mut String, name: &str, s: &Spread) {
    let places = if s.median >= 1000.0 { 0 } else { 2 };
    let _ = writeln!(out, "{name:<34}{:>10.places$}{:>10.places$}{:>10.places$}", s.median, s.min, s.max);
}
