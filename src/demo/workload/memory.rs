//! Memory whose content is known at every moment.
//!
//! One anonymous mapping, divided among the writer threads. The content of a page is a pure
//! function of (page index, version); the versions stand in a table on the heap, and their sum is
//! kept in a register or on the stack. So a page left behind does not fit its version, a version
//! left behind with its page does not fit the sum, and neither is believed.

use std::io;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use memmap2::MmapMut;

use super::board::Board;
use super::options::{Options, PAGE, page_count};

const TICK: Duration = Duration::from_millis(2);
/// After a silence only so much of the rate is made up for: bursts would be another workload.
const TICKS_MADE_UP: f64 = 4.0;

/// All of the workload's memory.
pub(super) struct Memory(MmapMut);

impl Memory {
    /// Maps it, without touching it.
    pub(super) fn map(options: &Options) -> io::Result<Self> {
        let bytes = usize::try_from(page_count(options)).ok().and_then(|pages| pages.checked_mul(PAGE));
        let bytes = bytes.ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        MmapMut::map_anon(bytes).map(Self)
    }

    /// One part for each writer.
    pub(super) fn shards(&mut self, options: &Options) -> Vec<Shard<'_>> {
        let mut rest = &mut self.0[..];
        let mut first = 0;
        let mut shards = Vec::with_capacity(options.threads);
        for left in (1..=options.threads).rev() {
            let pages = rest.len() / PAGE / left;
            let (mine, others) = rest.split_at_mut(pages * PAGE);
            shards.push(Shard {
                bytes: mine,
                first,
                versions: vec![0; pages],
                writes: 0,
                random: Random::new(first),
                per_second: options.dirty_rate as f64 / options.threads as f64,
            });
            first += pages as u64;
            rest = others;
        }
        shards
    }
}

/// The pages of one writer.
pub(super) struct Shard<'a> {
    bytes: &'a mut [u8],
    /// Index of its first page in the whole.
    first: u64,
    versions: Vec<u32>,
    /// The sum of all versions.
    writes: u64,
    random: Random,
    per_second: f64,
}

impl Shard<'_> {
    /// Fills the pages, rewrites and checks them until told to stop, then checks them all.
    pub(super) fn keep_writing(mut self, board: &Board) {
        for index in 0..self.versions.len() {
            self.write(index);
        }
        board.filled();
        // The threads shall not all write at the same moments, nor wait long where the rate is low.
        let mut due = self.random.below(1000) as f64 / 1000.0;
        let mut last = Instant::now();
        while !board.stopping() {
            thread::sleep(TICK);
            let now = Instant::now();
            due += now.duration_since(last).as_secs_f64() * self.per_second;
            // A rate below one page per tick must be able to add up to one.
            due = due.min((TICKS_MADE_UP * TICK.as_secs_f64() * self.per_second).max(1.0));
            last = now;
            self.check_random(board);
            while due >= 1.0 {
                due -= 1.0;
                let index = self.check_random(board);
                self.write_next(index);
                board.written.fetch_add(1, Relaxed);
            }
        }
        self.check_all(board);
    }

    fn write_next(&mut self, index: usize) {
        self.versions[index] = self.versions[index].wrapping_add(1);
        self.writes += 1;
        self.write(index);
    }

    fn write(&mut self, index: usize) {
        let words = content(self.first + index as u64, self.versions[index]);
        for (bytes, word) in self.page_mut(index).as_chunks_mut::<8>().0.iter_mut().zip(words) {
            *bytes = word.to_ne_bytes();
        }
    }

    fn check_random(&mut self, board: &Board) -> usize {
        let index = self.random.below(self.versions.len());
        self.check(index, board);
        board.checked.fetch_add(1, Relaxed);
        index
    }

    fn check(&self, index: usize, board: &Board) {
        let page = &self.bytes[index * PAGE..][..PAGE];
        let words = content(self.first + index as u64, self.versions[index]);
        let wrong =
            page.as_chunks::<8>().0.iter().zip(words).position(|(bytes, word)| *bytes != word.to_ne_bytes());
        if let Some(word) = wrong {
            let number = self.first + index as u64;
            let zero = if page.iter().all(|byte| *byte == 0) { ", the page is all zero" } else { "" };
            board.fail(format!(
                "page {number} is not what version {} must be, from byte {}{zero}",
                self.versions[index],
                word * 8
            ));
        }
    }

    fn check_all(&self, board: &Board) {
        for index in 0..self.versions.len() {
            self.check(index, board);
            board.checked_at_end.fetch_add(1, Relaxed);
        }
        let sum: u64 = self.versions.iter().map(|version| u64::from(*version)).sum();
        if sum != self.writes {
            board.fail(format!("{} pages were written, the versions say {sum}", self.writes));
        }
    }

    fn page_mut(&mut self, index: usize) -> &mut [u8] {
        &mut self.bytes[index * PAGE..][..PAGE]
    }
}

/// The words of a page: never compressible, never equal to those of another page or version.
fn content(page: u64, version: u32) -> impl Iterator<Item = u64> {
    let seed = mixed((page << 24) ^ u64::from(version).rotate_right(16));
    (1_u64..).map(move |word| mixed(seed.wrapping_add(word.wrapping_mul(0x9e37_79b9_7f4a_7c15))))
}

/// The output function of splitmix64.
pub(super) fn mixed(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// A random sequence good enough to pick pages.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(mixed(seed.wrapping_add(0x5eed)))
    }

    /// A number in `0..limit`; 0 if the limit is 0.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let wide = u128::from(mixed(self.0)) * limit as u128;
        // The product's upper half is below `limit`.
        (wide >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(mem: u64, threads: usize) -> Options {
        Options { mem, dirty_rate: 1000, threads, dir: "d".into() }
    }

    #[test]
    fn shards_cover_every_page_once() {
        let options = options(10 * PAGE as u64 + 5, 3);
        let mut memory = Memory::map(&options).unwrap();
        let shards = memory.shards(&options);
        let ranges: Vec<_> = shards.iter().map(|shard| (shard.first, shard.versions.len())).collect();
        assert_eq!(ranges, [(0, 3), (3, 3), (6, 4)]);
    }

    #[test]
    fn tiny_memory_still_has_a_page_for_each_thread() {
        assert_eq!(page_count(&options(0, 4)), 4);
    }

    #[test]
    fn every_kind_of_damage_is_found() {
        let options = options(8 * PAGE as u64, 1);
        let mut memory = Memory::map(&options).unwrap();
        let mut shard = memory.shards(&options).remove(0);
        (0..8).for_each(|index| shard.write(index));
        shard.write_next(3);
        let errors = |shard: &Shard<'_>| {
            let board = Board::new(&options);
            shard.check_all(&board);
            board.status().first_errors
        };
        assert_eq!(errors(&shard), Vec::<String>::new());
        shard.bytes[5 * PAGE + 4095] ^= 1;
        assert_eq!(errors(&shard), ["page 5 is not what version 0 must be, from byte 4088"]);
        shard.write(5);
        shard.page_mut(2).fill(0);
        assert!(errors(&shard)[0].ends_with("the page is all zero"));
        shard.write(2);
        // Page and version both lost: only the sum knows.
        shard.versions[3] = 0;
        shard.write(3);
        assert_eq!(errors(&shard), ["1 pages were written, the versions say 0"]);
    }

    #[test]
    fn random_stays_below_and_moves() {
        let mut random = Random::new(1);
        let picked: Vec<usize> = (0..100).map(|_| random.below(10)).collect();
        assert!(picked.iter().all(|number| *number < 10));
        assert!((0..10).all(|number| picked.contains(&number)));
        assert_eq!(random.below(0), 0);
    }
}
