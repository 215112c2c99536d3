//! What a move would be like for each goal and bandwidth, by the policy's own simulation; what follows from it.

use std::path::Path;
use std::time::Duration;

use super::assemble::{self, rounded};
use super::curve::Curve;
use super::picture::Line;
use super::report::{Forecast, ProfileReport};
use super::text::bandwidth;
use super::watch::Watched;
use crate::convergence::learned::Correction;
use crate::convergence::policy::{Limits, OnDivergence};
use crate::convergence::predict::Basis;
use crate::convergence::simulate::{LinkModel, Simulated, Workload, simulate};
use crate::dirty::Chosen;
use crate::report::{Rate, human_ms};

/// Goals of the table in milliseconds; `None` is a move without `--max-freeze`.
const GOALS_MS: [Option<u32>; 6] = [None, Some(5), Some(10), Some(20), Some(50), Some(100)];
/// Bandwidths of the table in bits per second.
const LINKS: [u64; 5] = [100_000_000, 1_000_000_000, 2_500_000_000, 10_000_000_000, 25_000_000_000];
/// The goal for which the picture shows what slowing the process down would do.
const DRAWN_MS: u32 = 20;
/// Steps of the picture's bandwidth axis for each power of ten, and how many of them, from 50 Mbit/s on.
const STEPS: (u32, u32) = (20, 58);
/// Bits on the wire for a page: 4096 bytes, and a twentieth for Ethernet, IP, UDP and QUIC.
const BITS_PER_PAGE: f64 = 4096.0 * 8.0 * 1.05;
/// What one instance of ulpm was seen to send on the test machine (docs/measurements.md): beyond this the hosts decide.
const SEEN_BITS_PER_S: u64 = 3_900_000_000;

/// What a move would cost, and what the process would do meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct Outlook {
    mean: Workload,
    worst: Workload,
    basis: Basis,
    per_round: Duration,
    scan: Duration,
}

impl Outlook {
    /// From what was watched. `correction` is what earlier moves of this host taught.
    pub(crate) fn of(watched: &Watched, correction: Correction) -> Self {
        let who = &watched.who;
        let workload = |curve: Curve| Workload { written: curve.points(), resident_pages: watched.present };
        let windows = &watched.sampled.windows;
        let count = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Outlook {
            mean: workload(Curve::mean(windows, watched.present)),
            worst: workload(Curve::worst(windows, watched.present)),
            basis: Basis {
                threads: count(who.threads),
                descriptors: count(who.descriptors),
                areas: count(watched.areas),
                resident_pages: watched.present,
                correction,
                ..Basis::default()
            },
            per_round: watched.scan + watched.survey,
            scan: watched.scan,
        }
    }

    fn play(&self, workload: &Workload, goal: Option<u32>, bits_per_s: f64, then: OnDivergence) -> Simulated {
        let max_freeze = goal.map(|ms| Duration::from_millis(u64::from(ms)));
        let limits = Limits { max_freeze, on_divergence: then, ..Limits::default() };
        let link = LinkModel {
            pages_per_s: bits_per_s / BITS_PER_PAGE,
            rtt: self.basis.rtt,
            per_round: self.per_round,
            scan: self.scan,
        };
        simulate(workload, &limits, &link, &self.basis)
    }

    /// One cell of the table.
    pub(crate) fn forecast(&self, goal: Option<u32>, bits_per_s: u64) -> Forecast {
        let bits = bits_per_s as f64;
        let plain = self.play(&self.mean, goal, bits, OnDivergence::Freeze);
        let worst = self.play(&self.worst, goal, bits, OnDivergence::Freeze);
        let throttled = plain.diverged.then(|| self.play(&self.mean, goal, bits, OnDivergence::Throttle));
        let ms = |d: Duration| rounded(d.as_secs_f64() * 1e3);
        let meets = |s: &Simulated| goal.is_none_or(|g| ms(s.predicted_freeze) <= f64::from(g));
        Forecast {
            max_freeze_ms: goal.map(f64::from),
            bandwidth_bits_per_s: bits_per_s,
            reached: !plain.diverged && meets(&plain),
            rounds: plain.rounds as u64,
            total_ms: ms(plain.total + plain.predicted_freeze),
            freeze_ms: ms(plain.predicted_freeze),
            worst_freeze_ms: ms(worst.predicted_freeze),
            throttle_percent: throttled.filter(|t| meets(t) && t.throttle > 0).map(|t| t.throttle),
        }
    }

    /// The table, goal by goal, for these bandwidths.
    pub(crate) fn table(&self, links: &[u64]) -> Vec<Forecast> {
        GOALS_MS.iter().flat_map(|goal| links.iter().map(|link| self.forecast(*goal, *link))).collect()
    }

    /// The freeze against bandwidth.
    pub(crate) fn lines(&self) -> Vec<Line> {
        let line = |label, workload, goal, then| {
            let point = |step| {
                let bits = 5e7 * 10f64.powf(f64::from(step) / f64::from(STEPS.0));
                let freeze = self.play(workload, goal, bits, then).predicted_freeze;
                (bits, freeze.as_secs_f64() * 1e3)
            };
            Line { label, points: (0..STEPS.1).map(point).collect() }
        };
        vec![
            line("as it was on average", &self.mean, None, OnDivergence::Freeze),
            line("as in its busiest moments", &self.worst, None, OnDivergence::Freeze),
            line("--max-freeze 20ms, throttled", &self.mean, Some(DRAWN_MS), OnDivergence::Throttle),
        ]
    }
}

/// What a prediction needs besides what was watched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beyond<'a> {
    /// `ULPM_HOME`, where earlier moves left what they taught.
    pub(crate) home: &'a Path,
    /// A bandwidth that the table shall have besides its own.
    pub(crate) bandwidth: Option<Rate>,
}

impl Beyond<'_> {
    /// Bandwidths of the table, slowest first.
    fn links(&self) -> Vec<u64> {
        let mut links = LINKS.to_vec();
        links.extend(self.bandwidth.map(|rate| rate.as_bytes_per_s().saturating_mul(8)));
        links.sort_unstable();
        links.dedup();
        links
    }
}

/// The report, and the lines of its picture.
pub(crate) fn complete(
    tracker: &Chosen,
    watched: &Watched,
    beyond: &Beyond<'_>,
) -> (ProfileReport, Vec<Line>) {
    let mut report = assemble::report(tracker, watched);
    if watched.sampled.windows.is_empty() {
        report.notes.push("watched too shortly for any prediction".to_owned());
        return (report, Vec::new());
    }
    let outlook = Outlook::of(watched, Correction::load(beyond.home, false));
    report.table = outlook.table(&beyond.links());
    report.recommendation = recommend(&report.table);
    report.notes.push(format!(
        "predictions take the process as it was while it was watched, a round trip of {:.1} ms and a link of \
         its own; ulpm itself was seen to send {} on two cores, faster links want faster hosts",
        outlook.basis.rtt.as_secs_f64() * 1e3,
        bandwidth(SEEN_BITS_PER_S)
    ));
    (report, outlook.lines())
}

/// What to do, in words.
pub(crate) fn recommend(table: &[Forecast]) -> Vec<String> {
    let mut advice: Vec<String> = Vec::new();
    let mut links: Vec<u64> = table.iter().map(|f| f.bandwidth_bits_per_s).collect();
    links.sort_unstable();
    links.dedup();
    let cells = |link: u64| table.iter().filter(move |f| f.bandwidth_bits_per_s == link);
    let goals = |link| cells(link).filter(|f| f.max_freeze_ms.is_some());
    let best = |link: &u64| goals(*link).filter(|f| f.reached).min_by(|a, b| by_goal(a, b));
    // links of the same answer share a sentence
    for same in links.chunk_by(|a, b| best(a).map(|f| f.max_freeze_ms) == best(b).map(|f| f.max_freeze_ms)) {
        let (first, last) = (same[0], same[same.len() - 1]);
        match best(&first) {
            Some(f) => advice.push(reachable(f)),
            None => {
                let throttled =
                    goals(last).filter(|f| f.throttle_percent.is_some()).min_by(|a, b| by_goal(a, b));
                let plain = cells(last).find(|f| f.max_freeze_ms.is_none());
                advice.push(unreachable(last, throttled, plain));
            }
        }
    }
    advice
}

fn by_goal(a: &Forecast, b: &Forecast) -> std::cmp::Ordering {
    a.max_freeze_ms.unwrap_or(0.0).total_cmp(&b.max_freeze_ms.unwrap_or(0.0))
}

fn reachable(f: &Forecast) -> String {
    let goal = f.max_freeze_ms.unwrap_or_default();
    let mut text = format!(
        "from {} on, the goal of `ulpm live --max-freeze {goal}ms` is reached: a freeze of {} after {} rounds, which take {}",
        bandwidth(f.bandwidth_bits_per_s),
        human_ms(f.freeze_ms),
        f.rounds,
        human_ms(f.total_ms)
    );
    if f.worst_freeze_ms > goal {
        text += &format!(
            "; not while it writes as in its busiest moments, which would make it {}",
            human_ms(f.worst_freeze_ms)
        );
    }
    text
}

fn unreachable(link: u64, throttled: Option<&Forecast>, plain: Option<&Forecast>) -> String {
    let mut text = format!("up to {} no goal of the table is reached", bandwidth(link));
    if let Some(f) = plain {
        text += &format!(": there it would be frozen for {} without one", human_ms(f.freeze_ms));
    }
    match throttled.and_then(|f| Some((f.max_freeze_ms?, f.throttle_percent?))) {
        Some((goal, percent)) => {
            text += &format!(
                "; `--max-freeze {goal}ms --on-divergence throttle` reaches its goal by stopping it for {percent}% of \
                 the time"
            );
        }
        None => text += "; slowing it down (`--on-divergence throttle`) would not help either",
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::windows::Windows;

    /// A process of 256 MiB that writes ever new pages.
    fn outlook(pages_per_s: f64) -> Outlook {
        let windows: Vec<Windows> = [10, 100, 1000, 10_000]
            .into_iter()
            .map(|ms| {
                let window = Duration::from_millis(ms);
                let mean = window.as_secs_f64() * pages_per_s;
                Windows { window, real: window, count: 1, mean, max: mean as u64 }
            })
            .collect();
        let workload = |curve: Curve| Workload { written: curve.points(), resident_pages: 65_536 };
        Outlook {
            mean: workload(Curve::mean(&windows, 65_536)),
            worst: workload(Curve::worst(&windows, 65_536)),
            basis: Basis { threads: 4, resident_pages: 65_536, ..Basis::default() },
            per_round: Duration::from_millis(5),
            scan: Duration::from_millis(1),
        }
    }

    #[test]
    fn a_calm_process_reaches_every_goal_but_the_impossible() {
        let table = outlook(500.0).table(&LINKS);
        assert_eq!(table.len(), GOALS_MS.len() * LINKS.len());
        assert!(
            table.iter().filter(|f| f.max_freeze_ms.is_none_or(|g| g >= 20.0)).all(|f| f.reached),
            "{table:?}"
        );
        // the first round takes 22.5 s at 100 Mbit/s, and what is written meanwhile a sixth of that, and so on
        let total = |bits| outlook(500.0).forecast(Some(20), bits).total_ms;
        assert!((26_000.0..28_500.0).contains(&total(LINKS[0])), "{}", total(LINKS[0]));
        assert!((200.0..400.0).contains(&total(LINKS[3])), "{}", total(LINKS[3]));
        let advice = recommend(&table);
        assert!(advice.iter().any(|a| a.contains("--max-freeze")), "{advice:?}");
    }

    #[test]
    fn a_wild_process_wants_a_faster_link_or_a_throttle() {
        // 234 MiB/s: more than 1 Gbit/s carries, less than 10
        let wild = outlook(60_000.0);
        let slow = wild.forecast(Some(20), LINKS[1]);
        assert!(!slow.reached && slow.freeze_ms > 100.0, "{slow:?}");
        assert!(slow.throttle_percent.is_some(), "{slow:?}");
        assert!(wild.forecast(Some(20), LINKS[3]).reached, "{:?}", wild.forecast(Some(20), LINKS[3]));
        let advice = recommend(&wild.table(&LINKS));
        assert!(advice[0].starts_with("up to ") && advice[0].contains("throttle"), "{advice:?}");
        assert!(advice.last().unwrap().contains("is reached"), "{advice:?}");
    }

    #[test]
    fn the_users_own_link_is_in_the_table() {
        let links =
            |text: &str| Beyond { home: Path::new("/"), bandwidth: Some(text.parse().unwrap()) }.links();
        assert_eq!(links("500Mbit")[..3], [LINKS[0], 500_000_000, LINKS[1]]);
        assert_eq!(links("1Gbit"), LINKS);
    }

    #[test]
    fn the_freeze_falls_with_the_bandwidth() {
        let lines = outlook(20_000.0).lines();
        assert_eq!(lines.len(), 3);
        for line in &lines {
            let (first, last) = (line.points[0], line.points[line.points.len() - 1]);
            assert!(first.1 > last.1 && first.0 < last.0, "{line:?}");
            assert!(last.0 > 25e9 && line.points.iter().all(|p| p.1.is_finite() && p.1 > 0.0), "{line:?}");
        }
    }
}
