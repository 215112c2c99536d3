//! What was measured of the rounds so far, and what follows from it: how fast the link takes pages, how fast the
//! process writes them, how many it will have written after a given time. Pure.
//!
//! Two curves make a migration. The link: `time = latency + pages × time per page`, where small rounds tell the
//! latency and large ones the rest. The process: pages written at least once within a window; it rises with the
//! window and bends down where the process comes back to pages that it wrote before.

use std::time::Duration;

/// Bytes of a page.
const PAGE: f64 = 4096.0;

/// Rounds of fewer pages say nothing about the bandwidth.
const TELLING: u64 = 64;

/// How much less the round before counts for the bandwidth.
const FADES: f64 = 0.6;

/// What one round was.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Pages sent in it, with content.
    pub pages: u64,
    /// Bytes it put on the wire.
    pub bytes: u64,
    /// Pages that had been written since the scan before (all that are present, in the first).
    pub written: u64,
    /// Pages held back: they go out in the freeze.
    pub held: u64,
    /// From the scan before to this one's; zero in the first.
    pub window: Duration,
    /// What the scan took.
    pub scan: Duration,
    /// From the end of the scan until the target had placed the last page.
    pub sending: Duration,
    /// Whether `--bandwidth` held it up: it says how long a round takes, not what the link could carry.
    pub paced: bool,
    /// Of a round that was held up, what went before it was: so many pages, and how long the link was busy with them.
    pub burst: Option<(u64, Duration)>,
    /// All of it.
    pub took: Duration,
    /// Percent of the time for which the process was stopped meanwhile, to slow it down.
    pub throttle: u8,
}

impl Measured {
    /// Seconds that sending took beyond the round trip.
    fn net_seconds(&self, rtt: Duration) -> f64 {
        let all = self.sending.as_secs_f64();
        (all - rtt.as_secs_f64()).max(all * 0.1).max(1e-7)
    }
}

/// What the link does, as far as the rounds tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkSpeed {
    /// Pages per second, without any `--bandwidth`.
    pub pages_per_s: f64,
    /// Pages per second within rounds.
    pub round_pages_per_s: f64,
    /// Bytes on the wire per page.
    pub bytes_per_page: f64,
    /// What a round takes with hardly any page.
    pub latency: Duration,
}

impl LinkSpeed {
    /// From all rounds so far. The latest weigh most.
    pub fn of(rounds: &[Measured], rtt: Duration) -> Self {
        let round_pages_per_s = 1.0 / time_per_page(rounds, rtt, |_| true);
        // a round that the limit never held up shows the link itself, and so does what went before one was; the others are a
        // lower bound of it
        let free = rounds.iter().any(|r| !r.paced && r.pages >= TELLING);
        let pages_per_s = match free {
            true => (1.0 / time_per_page(rounds, rtt, |r| !r.paced)).max(round_pages_per_s),
            false => {
                burst_pages_per_s(rounds).map_or(round_pages_per_s, |burst| burst.max(round_pages_per_s))
            }
        };
        let (pages, bytes) = rounds.iter().fold((0, 0), |(p, b), r| (p + r.pages, b + r.bytes));
        let bytes_per_page = if pages > 0 { bytes as f64 / pages as f64 } else { PAGE };
        let latency = latency(rounds, rtt, 1.0 / pages_per_s);
        LinkSpeed { pages_per_s, round_pages_per_s, bytes_per_page, latency }
    }

    /// Bytes per second.
    pub fn bytes_per_s(&self) -> f64 {
        self.pages_per_s * self.bytes_per_page
    }

    /// How long so many pages take beyond the latency.
    pub fn time_for(&self, pages: f64) -> Duration {
        seconds(pages / self.pages_per_s)
    }

    /// The same within a round, where the limit applies.
    pub fn round_time_for(&self, pages: f64) -> Duration {
        seconds(pages / self.round_pages_per_s)
    }
}

/// Seconds per page: the mean over the rounds, the latest weighing most, small ones little.
fn time_per_page(rounds: &[Measured], rtt: Duration, counts: impl Fn(&Measured) -> bool) -> f64 {
    let telling = rounds.iter().any(|r| counts(r) && r.pages >= TELLING);
    let least = if telling { TELLING } else { 1 };
    let (mut sum, mut weights, mut weight) = (0.0, 0.0, 1.0);
    for round in rounds.iter().rev().filter(|r| counts(r) && r.pages >= least) {
        let pages = round.pages as f64;
        let confidence = weight * pages / (pages + 256.0);
        sum += confidence * round.net_seconds(rtt) / pages;
        weights += confidence;
        weight *= FADES;
    }
    // nothing was ever sent: as fast as loopback
    if weights > 0.0 { sum / weights } else { 1e-5 }
}

/// What the link carried before the limit held it up. The latest weigh most.
fn burst_pages_per_s(rounds: &[Measured]) -> Option<f64> {
    let (mut sum, mut weights, mut weight) = (0.0, 0.0, 1.0);
    for (pages, took) in rounds.iter().rev().filter_map(|r| r.burst).filter(|(pages, _)| *pages > 0) {
        let confidence = weight * pages as f64 / (pages as f64 + 256.0);
        sum += confidence * took.as_secs_f64().max(1e-7) / pages as f64;
        weights += confidence;
        weight *= FADES;
    }
    (weights > 0.0).then(|| weights / sum)
}

/// The smallest that a round took beyond its pages.
fn latency(rounds: &[Measured], rtt: Duration, per_page: f64) -> Duration {
    rounds
        .iter()
        .skip(1)
        .filter(|r| !r.paced && r.pages < 1024)
        .map(|r| seconds(r.sending.as_secs_f64() - r.pages as f64 * per_page))
        .min()
        .map_or(rtt, |least| least.max(rtt))
}

/// How fast the process wrote lately: pages per second between scans, over about the time of the last round.
pub fn dirty_pages_per_s(rounds: &[Measured]) -> f64 {
    let took = rounds.last().map_or(Duration::ZERO, |r| r.took);
    let (basis, _) = lately(rounds, took);
    if basis.window > Duration::ZERO { basis.written as f64 / basis.window.as_secs_f64() } else { 0.0 }
}

/// Pages that will have been written when `window` has passed since the last scan.
pub fn expected_written(rounds: &[Measured], window: Duration, resident_pages: u64) -> f64 {
    let (basis, earlier) = lately(rounds, window);
    if basis.window.is_zero() {
        // nothing is known of what was written since the first round's scan: it may be all
        return resident_pages as f64;
    }
    let ratio = window.as_secs_f64() / basis.window.as_secs_f64();
    let most = rounds.iter().map(|r| r.written).max().unwrap_or(0).max(resident_pages) as f64;
    (basis.written as f64 * ratio.powf(bend(&basis, earlier))).min(most)
}

/// How many times longer than a window the time may be for which it still tells something.
const TELLS: u32 = 8;

/// The last window that tells something about one of length `window`, and the rounds before it. A round that holds
/// back everything takes a round trip, and a process that did not get a CPU in that time wrote nothing: such a
/// window is taken together with those before it. What they found may be the same pages, so the most of them counts.
fn lately(rounds: &[Measured], window: Duration) -> (Measured, &[Measured]) {
    let Some((last, mut earlier)) = rounds.split_last() else { return Default::default() };
    let mut basis = *last;
    while let Some((before, rest)) = earlier.split_last() {
        let telling = basis.window * TELLS >= window;
        if telling || before.window.is_zero() || before.throttle != basis.throttle {
            break;
        }
        basis.window += before.window;
        basis.written = basis.written.max(before.written);
        earlier = rest;
    }
    (basis, earlier)
}

/// How the number of written pages grows with the window: its exponent, 1 for ever new pages, 0 for always the same.
fn bend(last: &Measured, earlier: &[Measured]) -> f64 {
    let known = |r: &&Measured| r.window > Duration::ZERO && r.throttle == last.throttle;
    // believed until there is evidence, which weighs more the farther apart the windows are
    let (mut sum, mut weights) = (1.0, 1.0);
    for (age, other) in earlier.iter().rev().filter(known).take(4).enumerate() {
        let apart = (other.window.as_secs_f64() / last.window.as_secs_f64()).ln();
        if apart.abs() < 0.3 || last.written + other.written < 16 {
            continue;
        }
        let grown = ((other.written.max(1)) as f64 / (last.written.max(1)) as f64).ln();
        let weight = apart.abs() * 4.0 * FADES.powi(age as i32);
        sum += weight * (grown / apart).clamp(0.0, 1.0);
        weights += weight;
    }
    sum / weights
}

/// Never negative, never out of range.
pub(crate) fn seconds(s: f64) -> Duration {
    Duration::try_from_secs_f64(s.max(0.0)).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: f64) -> Duration {
        seconds(ms / 1e3)
    }

    fn round(pages: u64, sending_ms: f64) -> Measured {
        Measured {
            pages,
            written: pages,
            bytes: pages * 4110,
            sending: ms(sending_ms),
            ..Measured::default()
        }
    }

    #[test]
    fn bandwidth_is_that_of_the_latest_large_rounds() {
        let rtt = ms(1.0);
        let steady = [round(100_000, 1001.0), round(1_000, 11.0), round(20, 2.0)];
        let speed = LinkSpeed::of(&steady, rtt);
        assert!((90_000.0..=110_000.0).contains(&speed.pages_per_s), "{speed:?}");
        assert!((4109.0..4111.0).contains(&speed.bytes_per_page));
        let slower = [round(100_000, 1001.0), round(10_000, 201.0), round(10_000, 201.0)];
        let speed = LinkSpeed::of(&slower, rtt);
        assert!((50_000.0..=62_000.0).contains(&speed.pages_per_s), "{speed:?}");
    }

    #[test]
    fn small_rounds_tell_the_latency() {
        let speed = LinkSpeed::of(&[round(100_000, 1000.0), round(10, 4.1)], ms(0.5));
        assert!((ms(3.9)..ms(4.1)).contains(&speed.latency), "{speed:?}");
        assert_eq!(LinkSpeed::of(&[round(100_000, 1000.0)], ms(0.5)).latency, ms(0.5));
    }

    #[test]
    fn what_a_limit_held_up_is_only_a_lower_bound() {
        let paced = |r: Measured| Measured { paced: true, ..r };
        let rounds = [paced(round(100_000, 10_000.0)), round(1_000, 11.0)];
        let speed = LinkSpeed::of(&rounds, ms(1.0));
        assert!(speed.pages_per_s > 90_000.0 && speed.round_pages_per_s < 60_000.0, "{speed:?}");
        let speed = LinkSpeed::of(&rounds[..1], ms(1.0));
        assert!((speed.pages_per_s - 10_000.0).abs() < 10.0, "{speed:?}");
        // what goes before it is held up shows the link
        let burst = Measured { burst: Some((2_560, ms(32.0))), ..paced(round(100_000, 10_000.0)) };
        let speed = LinkSpeed::of(&[burst], ms(1.0));
        assert!((speed.pages_per_s - 80_000.0).abs() < 10.0, "{speed:?}");
        assert!((speed.round_pages_per_s - 10_000.0).abs() < 10.0, "{speed:?}");
    }

    fn window(ms_: f64, written: u64) -> Measured {
        Measured { window: ms(ms_), written, ..Measured::default() }
    }

    #[test]
    fn a_steady_writer_writes_in_proportion_to_the_time() {
        let rounds = [window(0.0, 65_536), window(1000.0, 10_000), window(100.0, 1_000)];
        let expected = expected_written(&rounds, ms(10.0), 65_536);
        assert!((99.0..=101.0).contains(&expected), "{expected}");
        assert_eq!(dirty_pages_per_s(&rounds), 10_000.0);
    }

    #[test]
    fn a_hot_set_is_written_again_in_the_shortest_window() {
        let rounds = [window(0.0, 65_536), window(1000.0, 2_000), window(100.0, 2_000), window(20.0, 2_000)];
        let expected = expected_written(&rounds, ms(10.0), 65_536);
        assert!((1_600.0..=2_000.0).contains(&expected), "{expected}");
    }

    #[test]
    fn a_moment_without_a_cpu_does_not_tell_of_seconds() {
        // everything was held back in the last round but one: 1.8 ms, in which a process that writes 4,104 pages all the time wrote none
        let rounds = [window(0.0, 4124), window(2126.0, 4104), window(2126.0, 4104), window(1.8, 0)];
        let expected = expected_written(&rounds, ms(2126.0), 4408);
        assert!((4000.0..=4408.0).contains(&expected), "{expected}");
        assert_eq!(expected_written(&rounds, ms(10.0), 4408), 0.0);
        let mut rounds = rounds;
        rounds[3].took = ms(2123.0);
        assert!((1900.0..2000.0).contains(&dirty_pages_per_s(&rounds)), "{}", dirty_pages_per_s(&rounds));
        // another step of throttling is another process
        rounds[3].throttle = 20;
        assert_eq!(expected_written(&rounds, ms(2126.0), 4408), 0.0);
    }

    #[test]
    fn nothing_known_is_no_number_out_of_range() {
        assert_eq!(expected_written(&[], ms(1.0), 100), 100.0);
        assert_eq!(expected_written(&[window(0.0, 100)], ms(1.0), 100), 100.0);
        let wild = [window(0.0, 100), window(0.001, 100)];
        assert_eq!(expected_written(&wild, Duration::from_secs(10), 100), 100.0);
        let speed = LinkSpeed::of(&[], Duration::ZERO);
        assert!(speed.pages_per_s.is_finite() && speed.pages_per_s > 0.0);
        assert_eq!(seconds(f64::NAN), Duration::ZERO);
    }
}
