//! How long the process would stand still if it were frozen now, part by part. Pure.
//!
//! | part | from |
//! |---|---|
//! | `stop` | the number of threads |
//! | `capture` | threads, descriptors, mappings; the scans of the rounds, since the final one runs beside it and in its way |
//! | `scan` | what the final scan takes longer than the capture |
//! | `send` | the round trip; pages left, at the speed of the rounds; comparing, where contents are compared |
//! | `verify` | with `--verify` the hashing of all memory |
//! | `apply` | threads, descriptors |
//! | `commit` | the round trip, and what writing a journal entry took |
//! | `resume` | the number of threads |
//!
//! Pages left are those held back and those that will have been written by the final scan. The constants are of one
//! machine; [`Correction`] learns from each move how another one differs.

use std::time::Duration;

use super::learned::Correction;
use super::rounds::{LinkSpeed, Measured, expected_written, seconds};
use crate::report::FreezeParts;

/// From the decision to freeze to the final scan: seizing the threads, the journal entry, the stop.
pub const LEAD: Duration = Duration::from_millis(3);

/// What is known of a migration besides its rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Basis {
    /// Threads.
    pub threads: u32,
    /// Open descriptors.
    pub descriptors: u32,
    /// Mappings.
    pub areas: u32,
    /// Pages that are present.
    pub resident_pages: u64,
    /// Whether the final scan asks for written pages alone ([`crate::dirty::WpScan`]), instead of listing all that are present.
    pub asks_for_written: bool,
    /// Round trip of a small message.
    pub rtt: Duration,
    /// What writing one block of the journal through to the disk took.
    pub journal: Duration,
    /// Whether both ends share one machine, its cores and its memory.
    pub same_machine: bool,
    /// Whether finding written pages goes on after the scan: contents are compared, of all memory or of shared objects.
    pub compares: bool,
    /// With `--verify`: what hashing one page takes.
    pub hash_per_page: Option<Duration>,
    /// What earlier moves of this host taught.
    pub correction: Correction,
    /// What earlier lazy moves taught.
    pub lazy_correction: Correction,
}

impl Default for Basis {
    /// Of a small process beside us, where nothing was measured.
    fn default() -> Self {
        Basis {
            threads: 1,
            descriptors: 3,
            areas: 30,
            resident_pages: 0,
            asks_for_written: true,
            rtt: Duration::from_micros(200),
            journal: Duration::from_micros(150),
            same_machine: false,
            compares: false,
            hash_per_page: None,
            correction: Correction::default(),
            lazy_correction: Correction::default(),
        }
    }
}

/// A freeze that has not happened yet.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Prediction {
    /// Its parts, in milliseconds.
    pub parts: FreezeParts,
    /// The same before the correction.
    pub uncorrected: FreezeParts,
    /// Pages sent in it.
    pub pages: f64,
    /// What these pages cost: the rest is there however few are left.
    pub for_pages: Duration,
}

impl Prediction {
    /// All of it.
    pub fn total(&self) -> Duration {
        seconds(self.parts.sum() / 1e3)
    }

    /// What would be left of it with no page to send.
    pub fn floor(&self) -> Duration {
        self.total().saturating_sub(self.for_pages)
    }
}

impl Basis {
    /// Predicts a freeze whose final scan comes `window` after the last round's scan.
    pub fn predict(&self, rounds: &[Measured], window: Duration) -> Prediction {
        let held = rounds.last().map_or(0, |r| r.held) as f64;
        let pages = held + expected_written(rounds, window, self.resident_pages);
        let speed = LinkSpeed::of(rounds, self.rtt);
        // what a page costs beyond the rounds' reading ahead and the target's making room for it
        let for_pages = speed.time_for(pages).mul_f64(0.8);
        // a round without pages takes a round trip, and what comparing takes
        let comparing = if self.compares { ms(speed.latency.saturating_sub(self.rtt)) } else { 0.0 };
        let fixed = self.fixed(rounds);
        let parts = FreezeParts { send: fixed.send + comparing + ms(for_pages), ..fixed };
        let corrected = self.correction.apply(&parts);
        Prediction {
            parts: corrected,
            uncorrected: parts,
            pages,
            for_pages: for_pages.mul_f64(if parts.send > 0.0 { corrected.send / parts.send } else { 1.0 }),
        }
    }

    /// What a freeze costs without any page, in milliseconds.
    fn fixed(&self, rounds: &[Measured]) -> FreezeParts {
        let threads = f64::from(self.threads.max(1));
        let descriptors = f64::from(self.descriptors);
        let areas = f64::from(self.areas);
        // walking what is there takes 1.5 ns a page on one core; listing it, which the rounds' scans do not, 16
        let per_page = if self.asks_for_written { 1.5e-6 } else { 16e-6 };
        let scan = ms(final_scan(rounds)).max(self.resident_pages as f64 * per_page);
        // it runs beside the capture, and in its way: both want the address space, and on few cores the CPU
        let capture = 0.5 + 0.17 * threads + 0.01 * descriptors + 0.005 * areas + 0.7 * scan;
        // both ends hash at once; beside each other they share what the memory gives
        let share = if self.same_machine { 1.7 } else { 1.1 };
        let hashing =
            self.hash_per_page.map_or(0.0, |per_page| ms(per_page) * self.resident_pages as f64 * share);
        FreezeParts {
            stop: 0.12 + 0.01 * threads,
            capture,
            scan: (scan - capture).max(0.0),
            send: 0.25 + ms(self.rtt),
            verify: hashing,
            apply: 0.7 + 0.11 * threads + 0.01 * descriptors,
            commit: 0.2 + ms(self.rtt) + 2.0 * ms(self.journal),
            resume: 0.08 + 0.005 * threads,
        }
    }
}

/// The final scan, which protects nothing, from those of the rounds: the first one apart, which meets everything.
fn final_scan(rounds: &[Measured]) -> Duration {
    let from = usize::from(rounds.len() > 1);
    // the shortest: nothing else comes before the final one
    rounds.iter().skip(from).rev().take(3).map(|r| r.scan).min().unwrap_or_default()
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(written: u64, window_ms: u64) -> Measured {
        Measured {
            pages: written,
            written,
            bytes: written * 4100,
            window: Duration::from_millis(window_ms),
            scan: Duration::from_millis(1),
            sending: Duration::from_secs_f64(0.0002 + written as f64 * 1e-5),
            ..Measured::default()
        }
    }

    #[test]
    fn pages_and_hashing_lengthen_it_in_proportion() {
        let basis = Basis { resident_pages: 65_536, ..Basis::default() };
        let few = basis.predict(&[round(65_536, 0), round(100, 100)], Duration::from_millis(10));
        let many = basis.predict(&[round(65_536, 0), round(100_000, 100)], Duration::from_millis(100));
        assert!((few.pages - 10.0).abs() < 0.5, "{few:?}");
        assert!(many.pages > 60_000.0 && many.for_pages > Duration::from_millis(450), "{many:?}");
        assert!(many.floor().abs_diff(few.floor()) < Duration::from_micros(200), "{few:?} {many:?}");
        let verified = Basis { hash_per_page: Some(Duration::from_micros(1)), ..basis };
        let verified = verified.predict(&[round(65_536, 0), round(100, 100)], Duration::from_millis(10));
        let longer = verified.total().saturating_sub(few.total());
        assert!(longer > Duration::from_millis(65) && longer < Duration::from_millis(80), "{longer:?}");
    }

    #[test]
    fn held_pages_count() {
        let held = Measured { held: 5_000, ..round(10, 100) };
        let p = Basis::default().predict(&[round(65_536, 0), held], Duration::from_millis(10));
        assert!(p.pages >= 5_000.0 && p.for_pages >= Duration::from_millis(35), "{p:?}");
    }

    #[test]
    fn comparing_contents_counts() {
        let slow = Measured { sending: Duration::from_millis(80), ..round(10, 100) };
        let rounds = [round(65_536, 0), slow, slow];
        let plain = Basis::default().predict(&rounds, Duration::from_millis(7)).total();
        let compares = Basis { compares: true, ..Basis::default() };
        let longer = compares.predict(&rounds, Duration::from_millis(7)).total().saturating_sub(plain);
        assert!(longer > Duration::from_millis(70) && longer < Duration::from_millis(90), "{longer:?}");
    }

    #[test]
    fn a_scan_that_lists_what_is_there_takes_longer() {
        let basis = Basis { resident_pages: 1 << 20, ..Basis::default() };
        let rounds = [round(1 << 20, 0), round(10, 100)];
        let total = |basis: Basis| basis.predict(&rounds, Duration::from_millis(10)).total();
        let longer = total(Basis { asks_for_written: false, ..basis }).saturating_sub(total(basis));
        assert!(longer > Duration::from_millis(10) && longer < Duration::from_millis(18), "{longer:?}");
    }

    #[test]
    fn the_final_scan_counts_beyond_the_capture() {
        let slow = Measured { scan: Duration::from_millis(50), ..round(10, 100) };
        let p = Basis::default().predict(&[round(65_536, 0), slow, slow], Duration::from_millis(10));
        assert!((50.0..70.0).contains(&(p.parts.scan + p.parts.capture)), "{p:?}");
    }
}
