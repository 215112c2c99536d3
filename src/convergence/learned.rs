//! What earlier moves taught about predictions on this host: for each part of the freeze, how much longer it took
//! than predicted. Kept in `ULPM_HOME/predictions.json`, and of lazy moves, whose freeze is of another kind, in
//! `ULPM_HOME/lazy-predictions.json`; a file that is missing or damaged teaches nothing.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::report::FreezeParts;

/// What the latest move weighs against all before it: the first ones more, since there is little to weigh against.
fn latest(moves: u32) -> f64 {
    (1.0 / (f64::from(moves) + 2.0)).max(0.15)
}

/// A ratio outside of this was no matter of the machine but an accident.
const SENSIBLE: std::ops::RangeInclusive<f64> = 0.2..=5.0;

/// Parts shorter than this, in milliseconds, say nothing about a ratio.
const TELLING_MS: f64 = 0.02;

/// Real by predicted, of each part.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Correction {
    stop: f64,
    capture: f64,
    scan: f64,
    send: f64,
    verify: f64,
    apply: f64,
    commit: f64,
    resume: f64,
    /// How many moves taught.
    moves: u32,
    /// What hashing a page took as it was tried before the freezes, in nanoseconds; 0 if it never was.
    hashing_ns: f64,
}

impl Default for Correction {
    fn default() -> Self {
        Correction {
            stop: 1.0,
            capture: 1.0,
            scan: 1.0,
            send: 1.0,
            verify: 1.0,
            apply: 1.0,
            commit: 1.0,
            resume: 1.0,
            moves: 0,
            hashing_ns: 0.0,
        }
    }
}

impl Correction {
    /// What earlier moves from this host taught: lazy ones, or the others.
    pub fn load(home: &Path, lazy: bool) -> Self {
        fs::read(file(home, lazy)).map(|text| Self::parse(&text)).unwrap_or_default()
    }

    /// What a file says.
    pub(crate) fn parse(text: &[u8]) -> Self {
        let mut correction: Self = serde_json::from_slice(text).unwrap_or_default();
        correction.each(|ratio| *ratio = sensible(*ratio));
        let hashing = correction.hashing_ns;
        correction.hashing_ns = if hashing.is_finite() { hashing.clamp(0.0, 1e9) } else { 0.0 };
        correction
    }

    /// Every ratio is one that can be multiplied with, and stays one whatever is learnt.
    pub(crate) fn check(mut self) {
        let part = FreezeParts::all(1.0);
        let odd = FreezeParts { stop: f64::NAN, send: f64::INFINITY, apply: 0.0, ..part };
        self.learn(&part, &odd, Some(Duration::MAX));
        assert!(self.hashing_ns.is_finite() && self.hashing_ns >= 0.0);
        self.each(|ratio| assert!(SENSIBLE.contains(ratio) || (*ratio - 1.0).abs() < 1e-9, "{ratio}"));
    }

    /// Corrects a prediction.
    pub fn apply(&self, p: &FreezeParts) -> FreezeParts {
        FreezeParts {
            stop: p.stop * self.stop,
            capture: p.capture * self.capture,
            scan: p.scan * self.scan,
            send: p.send * self.send,
            verify: p.verify * self.verify,
            apply: p.apply * self.apply,
            commit: p.commit * self.commit,
            resume: p.resume * self.resume,
        }
    }

    /// What hashing a page will take, from a try of some milliseconds that took `tried`: such a try is off by a third and more,
    /// in both directions, and what earlier ones took says as much.
    pub fn hashing(&self, tried: Duration) -> Duration {
        let now = tried.as_nanos() as f64;
        if self.hashing_ns <= 0.0 {
            return tried;
        }
        Duration::from_nanos((self.hashing_ns.powf(0.7) * now.max(1.0).powf(0.3)) as u64)
    }

    /// Takes in a freeze as it was predicted, uncorrected, and as it came; with `--verify`, what hashing a page took as it was
    /// tried before.
    pub fn learn(&mut self, predicted: &FreezeParts, real: &FreezeParts, hashing: Option<Duration>) {
        let latest = latest(self.moves);
        if let Some(tried) = hashing.map(|tried| tried.as_nanos() as f64) {
            let usual = if self.hashing_ns > 0.0 { self.hashing_ns } else { tried };
            self.hashing_ns = usual * (1.0 - latest) + tried.clamp(usual / 2.0, usual * 2.0) * latest;
        }
        self.moves = self.moves.saturating_add(1);
        let one = |ratio: &mut f64, predicted: f64, real: f64| {
            let now = real / predicted;
            if predicted >= TELLING_MS && SENSIBLE.contains(&now) {
                // of what is added up the arithmetic mean: a freeze has a floor, and a tail. One bad day teaches little
                let now = now.clamp(*ratio / 2.0, *ratio * 2.0);
                *ratio = sensible(*ratio * (1.0 - latest) + now * latest);
            }
        };
        one(&mut self.stop, predicted.stop, real.stop);
        one(&mut self.capture, predicted.capture, real.capture);
        one(&mut self.scan, predicted.scan, real.scan);
        match hashing {
            // what the target hashes longer than the source is sending, and tells nothing of other moves
            Some(_) => one(&mut self.verify, predicted.verify, real.verify),
            None => one(&mut self.send, predicted.send, real.send),
        }
        one(&mut self.apply, predicted.apply, real.apply);
        one(&mut self.commit, predicted.commit, real.commit);
        one(&mut self.resume, predicted.resume, real.resume);
    }

    /// Writes it for the next move, whole or not at all.
    pub fn save(&self, home: &Path, lazy: bool) -> io::Result<()> {
        let path = file(home, lazy);
        let fresh = path.with_extension(format!("json.{}", std::process::id()));
        let written = fs::File::create(&fresh)
            .and_then(|mut f| f.write_all(serde_json::to_string_pretty(self)?.as_bytes()))
            .and_then(|()| fs::rename(&fresh, &path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    fn each(&mut self, mut change: impl FnMut(&mut f64)) {
        for ratio in [
            &mut self.stop,
            &mut self.capture,
            &mut self.scan,
            &mut self.send,
            &mut self.verify,
            &mut self.apply,
            &mut self.commit,
            &mut self.resume,
        ] {
            change(ratio);
        }
    }
}

fn sensible(ratio: f64) -> f64 {
    if ratio.is_finite() { ratio.clamp(*SENSIBLE.start(), *SENSIBLE.end()) } else { 1.0 }
}

fn file(home: &Path, lazy: bool) -> PathBuf {
    home.join(if lazy { "lazy-predictions.json" } else { "predictions.json" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREDICTED: FreezeParts = FreezeParts {
        stop: 0.2,
        capture: 2.0,
        scan: 0.0,
        send: 0.6,
        verify: 0.6,
        apply: 2.0,
        commit: 0.5,
        resume: 0.1,
    };

    #[test]
    fn it_comes_to_what_really_happens() {
        let real = FreezeParts { capture: 4.0, apply: 1.0, ..PREDICTED };
        let mut correction = Correction::default();
        for _ in 0..30 {
            correction.learn(&PREDICTED, &real, None);
        }
        let corrected = correction.apply(&PREDICTED);
        assert!(
            (corrected.capture - 4.0).abs() < 0.05 && (corrected.apply - 1.0).abs() < 0.02,
            "{corrected:?}"
        );
        assert!((corrected.sum() - real.sum()).abs() < 0.1);
        assert_eq!(correction.scan, 1.0);
    }

    #[test]
    fn accidents_teach_nothing_and_hashing_is_learned_apart() {
        let mut correction = Correction::default();
        correction.learn(&PREDICTED, &FreezeParts { capture: 400.0, send: f64::NAN, ..PREDICTED }, None);
        assert_eq!(correction, Correction { moves: 1, ..Correction::default() });
        correction.learn(
            &PREDICTED,
            &FreezeParts { send: 1.2, verify: 1.2, ..PREDICTED },
            Some(Duration::from_micros(1)),
        );
        assert!(correction.verify > 1.0 && correction.send == 1.0);
    }

    #[test]
    fn one_try_of_hashing_says_little() {
        let us = Duration::from_micros;
        let mut correction = Correction::default();
        assert_eq!(correction.hashing(us(2)), us(2), "there is nothing else to go by");
        (0..50).for_each(|i| correction.learn(&PREDICTED, &PREDICTED, Some(us(1 + i % 2 * 2))));
        let odd = correction.hashing(us(8));
        assert!(odd > us(2) && odd < us(4), "{odd:?}");
        (0..50).for_each(|_| correction.learn(&PREDICTED, &PREDICTED, Some(us(8))));
        assert!(correction.hashing(us(8)).abs_diff(us(8)) < us(1), "another machine, another speed");
    }

    #[test]
    fn it_lasts_and_garbage_is_no_harm() {
        let home = tempfile::tempdir().unwrap();
        assert_eq!(Correction::load(home.path(), false), Correction::default());
        let mut correction = Correction::default();
        correction.learn(&PREDICTED, &FreezeParts { commit: 1.0, ..PREDICTED }, None);
        correction.save(home.path(), false).unwrap();
        assert!((Correction::load(home.path(), false).commit - correction.commit).abs() < 1e-9);
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 1);
        assert_eq!(Correction::load(home.path(), true), Correction::default(), "of lazy moves");
        for garbage in ["", "{", "[]", "null", "{\"stop\": \"x\"}"] {
            fs::write(file(home.path(), false), garbage).unwrap();
            assert_eq!(Correction::load(home.path(), false), Correction::default(), "{garbage}");
        }
        fs::write(file(home.path(), false), "{\"stop\": 1e9, \"commit\": -3, \"more\": 1}").unwrap();
        let odd = Correction::load(home.path(), false);
        assert_eq!((odd.stop, odd.commit, odd.apply), (5.0, 0.2, 1.0));
    }
}
