//! A migration without process, network or clock: the rounds that the policy would let happen, given how a process
//! writes and what a link carries. `ulpm profile` asks it what would be; the policy's own trials run on it.

use std::time::Duration;

use super::policy::{Assessed, Limits, Next, decide};
use super::predict::{Basis, LEAD};
use super::rounds::{Measured, seconds};

/// A process as its writes are seen from outside.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Workload {
    /// Pages written at least once within a window: window and pages, both rising. Between two points it is
    /// interpolated, below the first it goes to zero in proportion, beyond the last it goes on as the last piece does.
    pub written: Vec<(Duration, f64)>,
    /// Pages that are present.
    pub resident_pages: u64,
}

impl Workload {
    /// Pages written within a window.
    pub fn within(&self, window: Duration) -> f64 {
        let x = window.as_secs_f64();
        let (mut from, mut to) = ((0.0, 0.0), (0.0, 0.0));
        for (at, pages) in &self.written {
            (from, to) = (to, (at.as_secs_f64(), pages.max(to.1)));
            if x <= to.0 {
                break;
            }
        }
        let slope = if to.0 > from.0 { (to.1 - from.1) / (to.0 - from.0) } else { 0.0 };
        (from.1 + slope * (x - from.0)).clamp(0.0, self.resident_pages as f64)
    }
}

/// A link.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkModel {
    /// Pages it carries per second; `Limits::bandwidth` holds rounds up besides.
    pub pages_per_s: f64,
    /// Round trip.
    pub rtt: Duration,
    /// What a round takes besides sending: the scan of a process of this size, the layout.
    pub per_round: Duration,
    /// The scan's part of that; the freeze has one, too.
    pub scan: Duration,
}

/// How a simulated migration went.
#[derive(Clone, Debug, PartialEq)]
pub struct Simulated {
    /// Rounds before the freeze.
    pub rounds: usize,
    /// From the first round to the freeze.
    pub total: Duration,
    /// The freeze as predicted at its beginning.
    pub predicted_freeze: Duration,
    /// The process writes faster than the link carries, or the goal is out of reach: what was decided then is
    /// `--on-divergence`.
    pub diverged: bool,
    /// Percent of the time for which the process was stopped at the end, to slow it down.
    pub throttle: u8,
    /// The last decision.
    pub why: String,
}

/// What a migration of `workload` over `link` would be. `basis` is what its freeze costs besides pages.
pub fn simulate(workload: &Workload, limits: &Limits, link: &LinkModel, basis: &Basis) -> Simulated {
    let mut writes = |from: Duration, to: Duration, throttle: u8| {
        let runs = 1.0 - f64::from(throttle) / 100.0;
        workload.within((to - from).mul_f64(runs)) as u64
    };
    let mut carries = |_: Duration| link.pages_per_s;
    let basis = Basis { resident_pages: workload.resident_pages, rtt: link.rtt, ..*basis };
    play(limits, &basis, (link.per_round, link.scan), &mut writes, &mut carries).0
}

/// The same with any process and any link: `writes(from, to, throttle)` is how many pages are written between two
/// instants, `carries(at)` the pages per second that the link carries then. Also gives the rounds.
pub(super) fn play(
    limits: &Limits,
    basis: &Basis,
    (per_round, scan): (Duration, Duration),
    writes: &mut dyn FnMut(Duration, Duration, u8) -> u64,
    carries: &mut dyn FnMut(Duration) -> f64,
) -> (Simulated, Vec<Assessed>) {
    let mut rounds: Vec<Assessed> = Vec::new();
    let (mut now, mut scanned, mut throttle) = (Duration::ZERO, Duration::ZERO, 0);
    let mut diverged = false;
    loop {
        let window = now - scanned;
        let written = if rounds.is_empty() { basis.resident_pages } else { writes(scanned, now, throttle) };
        scanned = now;
        let (round, took) = one_round(written, window, throttle, carries(now), limits, basis, per_round);
        let round = Measured { scan, ..round };
        now += took;
        let mut measured: Vec<Measured> = rounds.iter().map(|r| r.round).collect();
        measured.push(round);
        let freeze = basis.predict(&measured, now - scanned + LEAD);
        rounds.push(Assessed { round, freeze });
        let decision = decide(&rounds, limits, basis.rtt, now);
        diverged |= decision.diverged;
        match decision.next {
            Next::Again => {}
            Next::Throttle(step) => throttle = step,
            next @ (Next::Freeze | Next::Lazy | Next::GiveUp) => {
                let total = if next == Next::Lazy { freeze.floor() } else { freeze.total() };
                let (predicted_freeze, why) = (total, decision.why);
                let made = rounds.len();
                return (
                    Simulated { rounds: made, total: now, predicted_freeze, diverged, throttle, why },
                    rounds,
                );
            }
        }
    }
}

/// What a full bucket lets through.
fn burst(written: u64, pages_per_s: f64, limits: &Limits) -> (u64, Duration) {
    let depth = limits.bandwidth.map_or(0, |rate| rate.as_bytes_per_s() / 10);
    let pages = written.min((depth / 4112).max(1));
    (pages, seconds(pages as f64 / pages_per_s))
}

fn one_round(
    written: u64,
    window: Duration,
    throttle: u8,
    pages_per_s: f64,
    limits: &Limits,
    basis: &Basis,
    per_round: Duration,
) -> (Measured, Duration) {
    let bytes = written * 4112;
    let link = written as f64 / pages_per_s;
    let limited = limits.bandwidth.map_or(0.0, |rate| rate.seconds_for(bytes));
    let sending = basis.rtt + seconds(link.max(limited));
    let took = per_round + sending;
    let round = Measured {
        pages: written,
        bytes,
        written,
        held: 0,
        window,
        scan: Duration::ZERO,
        sending,
        paced: limited > link,
        burst: (limited > link).then(|| burst(written, pages_per_s, limits)),
        took,
        throttle,
    };
    (round, took)
}
