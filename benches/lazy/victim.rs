//! The process under access: threads that read and rewrite memory at random, each its own pages, and know every word of it; or
//! that sleep. It says every 5 ms on its output when it is and how many accesses there were.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};

const PAGE: usize = 512;
const TICK: Duration = Duration::from_millis(5);
/// Accesses between two looks at the counter.
const BATCH: u64 = 16;

/// All threads' accesses, and what was found wrong.
#[derive(Default)]
struct Board {
    accesses: AtomicU64,
    wrong: AtomicU64,
    ending: AtomicBool,
}

/// Arguments: bytes, threads, `busy` or `asleep`, the file that ends it.
pub(crate) fn main(args: &[String]) -> Result<()> {
    let [bytes, threads, how, stop] = args else { anyhow::bail!("four arguments") };
    let (bytes, threads): (usize, usize) = (bytes.parse()?, threads.parse()?);
    let (busy, stop) = (how == "busy", PathBuf::from(stop));
    let pages = bytes / PAGE / 8 / threads;
    ensure!(pages > 0, "less than a page for each thread");
    let mut memory = vec![0u64; (pages * threads + 1) * PAGE];
    // pages of the hardware's, too
    let first = memory.as_ptr().align_offset(PAGE * 8);
    let memory = &mut memory[first..][..pages * threads * PAGE];
    let board = Board::default();
    std::thread::scope(|scope| {
        let shares = memory.chunks_exact_mut(pages * PAGE).enumerate();
        let workers: Vec<_> = shares
            .map(|(i, words)| {
                let share = Share { words, versions: vec![1; pages], random: i as u64 + 1 };
                let board = &board;
                scope.spawn(move || share.work(board, busy))
            })
            .collect();
        let told = tell(&board, threads as u64, &stop);
        board.ending.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.thread().unpark();
            worker.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        }
        told
    })?;
    let wrong = board.wrong.load(Ordering::Relaxed);
    println!("{}", if wrong == 0 { "PASS" } else { "FAIL" });
    Ok(())
}

/// Until it is told to end. Nothing is said before all memory is filled.
fn tell(board: &Board, threads: u64, stop: &std::path::Path) -> Result<()> {
    let mut out = std::io::stdout();
    while board.accesses.load(Ordering::Relaxed) < threads {
        std::thread::sleep(TICK);
    }
    out.write_all(b"ready\n")?;
    while !stop.exists() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock")?.as_micros();
        let (accesses, wrong) = (board.accesses.load(Ordering::Relaxed), board.wrong.load(Ordering::Relaxed));
        out.write_all(format!("at {now} {accesses} {wrong}\n").as_bytes())?;
        std::thread::sleep(TICK);
    }
    Ok(())
}

/// One thread's pages.
struct Share<'a> {
    words: &'a mut [u64],
    versions: Vec<u32>,
    random: u64,
}

impl Share<'_> {
    fn work(mut self, board: &Board, busy: bool) {
        for page in 0..self.versions.len() {
            self.write(page);
        }
        board.accesses.fetch_add(1, Ordering::Relaxed);
        while !board.ending.load(Ordering::Relaxed) {
            if !busy {
                std::thread::park();
                continue;
            }
            for _ in 0..BATCH {
                let page = self.below(self.versions.len());
                let wrong = self.check(page, self.random as usize % 8, 64);
                board.wrong.fetch_add(wrong, Ordering::Relaxed);
                if self.random >> 60 == 0 {
                    self.versions[page] += 1;
                    self.write(page);
                }
                board.accesses.fetch_add(1, Ordering::Relaxed);
            }
        }
        let wrong = (0..self.versions.len()).map(|page| self.check(page, 0, 1)).sum();
        board.wrong.fetch_add(wrong, Ordering::Relaxed);
    }

    fn word(&self, page: usize, at: usize) -> u64 {
        let seed = (page as u64) << 40 ^ u64::from(self.versions[page]) << 12 ^ at as u64;
        (seed ^ seed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) | 1
    }

    fn write(&mut self, page: usize) {
        for at in 0..PAGE {
            self.words[page * PAGE + at] = self.word(page, at);
        }
    }

    /// How many of the looked at words are wrong.
    fn check(&self, page: usize, from: usize, step: usize) -> u64 {
        let own = &self.words[page * PAGE..][..PAGE];
        (from..PAGE).step_by(step).filter(|at| own[*at] != self.word(page, *at)).count() as u64
    }

    fn below(&mut self, sides: usize) -> usize {
        self.random =
            self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) as usize % sides
    }
}
