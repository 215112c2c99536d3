//! Every decoder of outside bytes against the corpus in `fuzz/corpus` and against some thousand inputs that a simple mutator makes
//! of it. The thorough search is `fuzz/run` (cargo-fuzz); what it finds goes into the corpus.
//!
//! `ULPM_FUZZ_INPUTS=1000000 cargo test --test fuzz` tries more; `ULPM_FUZZ_SEED` repeats a run; `ULPM_FUZZ_WRITE=1` writes the
//! first seeds of the corpus anew, after the formats have changed.

#![allow(clippy::unwrap_used)]

#[path = "fuzz/seeds.rs"]
mod seeds;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ulpm::fuzzing::{DOORS, door};

fn corpus(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name)
}

fn files(name: &str) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus(name))
        .unwrap_or_else(|e| panic!("no corpus for {name}: {e}"))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// xorshift64*
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, all: &[Vec<u8>]) -> Vec<u8> {
    const TELLING: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0xfe, b'/', b' '];
    let mut bytes = all[random.below(all.len())].clone();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        let len = random.below(bytes.len() - at.min(bytes.len())).min(64);
        match random.below(7) {
            _ if bytes.is_empty() => bytes.push(random.next() as u8),
            0 => bytes[at] = TELLING[random.below(TELLING.len())],
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..at + len)),
            3 => bytes.insert(at, random.next() as u8),
            // the longest number there is
            4 => drop(bytes.splice(at..at, [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1])),
            5 => {
                let piece = bytes[at..at + len].to_vec();
                let place = random.below(bytes.len());
                drop(bytes.splice(place..place, piece));
            }
            _ => {
                let other = &all[random.below(all.len())];
                let from = random.below(other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
    bytes.truncate(1 << 16);
    bytes
}

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |text| text.parse().unwrap())
}

fn through(name: &str) {
    let open = door(name).unwrap();
    let all = files(name);
    assert!(!all.is_empty());
    all.iter().for_each(|bytes| open(bytes));
    let seed = number("ULPM_FUZZ_SEED", std::process::id().into()).max(1);
    let mut random = Random(seed);
    let inputs = number("ULPM_FUZZ_INPUTS", 5000);
    for count in 0..inputs {
        let bytes = mutate(&mut random, &all);
        if catch_unwind(AssertUnwindSafe(|| open(&bytes))).is_err() {
            let path = std::env::temp_dir().join(format!("ulpm-fuzz-{name}-{seed}"));
            fs::write(&path, &bytes).unwrap();
            panic!("{name} panics (seed {seed}, input {count}): {}", path.display());
        }
    }
    println!("{name}: {} seeds, {inputs} inputs (seed {seed})", all.len());
}

macro_rules! doors {
    ($($name:ident)*) => {
        $(#[test] fn $name() { through(stringify!($name)); })*

        #[test]
        fn every_door_is_tried() {
            let tried = [$(stringify!($name)),*];
            assert_eq!(DOORS.map(|(name, _)| name).as_slice(), tried);
        }
    };
}

doors! { frame to_target to_source image layout lane journal trust predictions address }

/// The doors are open to honest messages: else nothing behind the first check would ever be tried.
#[test]
fn honest_messages_are_understood() {
    use ulpm::image::bounded::decode_owned;
    use ulpm::transport::protocol::{ToSource, ToTarget};
    for (name, number, bytes) in seeds::all() {
        let understood = match name {
            "to_target" => seeds::frame(&bytes).message::<ToTarget>().is_ok(),
            "to_source" => seeds::frame(&bytes).message::<ToSource>().is_ok(),
            "image" => decode_owned::<ulpm::image::TreeImage>(&bytes)
                .is_ok_and(|(tree, _)| ulpm::state::sanity::tree(&tree, true) == Ok(())),
            _ => true,
        };
        assert!(understood, "{name} {number}");
    }
}

/// The seeds are what today's encoders write, so the search begins behind the first check.
#[test]
fn seeds_are_of_today() {
    for (name, number, bytes) in seeds::all() {
        let path = corpus(name).join(format!("seed-{number}"));
        if std::env::var_os("ULPM_FUZZ_WRITE").is_some() {
            fs::create_dir_all(corpus(name)).unwrap();
            fs::write(&path, &bytes).unwrap();
        }
        let known = fs::read(&path).unwrap_or_default();
        assert!(
            known == bytes,
            "{} is of an older format: ULPM_FUZZ_WRITE=1 cargo test --test fuzz",
            path.display()
        );
    }
}
