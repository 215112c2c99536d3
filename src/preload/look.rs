//! Reading pages, and looking at them: which are zero, and what their hashes are. On all cores when there is much to read
//! (a checksum of every page), in line when there is little.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use super::PreloadError;
use crate::image::{PAGE_SIZE, PageRange};
use crate::state::digest::is_zero;
use crate::transport::protocol::PAGES_MAX;

/// Pages to be read together, of at most [`PAGES_MAX`] bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// In ascending order.
    pub ranges: Vec<PageRange>,
    /// How they are to be looked at.
    pub how: How,
}

/// How pages are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct How {
    /// Zeroes may be left out.
    pub skip_zero: bool,
    /// Contents are compared by hash.
    pub hash: bool,
    /// Of the mapping, in bytes. A huge page (hugetlb) that is all zeroes is not like one that is absent: touching it needs
    /// no further page from the pool. So the first 4 KiB of each are not left out, and the target, too, has it.
    pub page_size: u64,
}

impl Default for How {
    fn default() -> Self {
        How { skip_zero: true, hash: true, page_size: PAGE_SIZE }
    }
}

/// A run of pages that was read.
#[derive(Clone, Debug)]
pub struct Look {
    /// The first page: an address, or the offset in an object.
    pub start: u64,
    /// Whole pages.
    pub data: Bytes,
    /// One for each page, where contents are compared, else none; see [`page_hash`].
    pub hashes: Vec<u128>,
    /// Pages, as offsets into the data, that are zero and may be left out.
    pub zero: Vec<bool>,
}

/// Batches from runs.
pub fn batches(runs: impl IntoIterator<Item = (PageRange, How)>) -> Vec<Batch> {
    let mut all: Vec<Batch> = Vec::new();
    let mut room = 0;
    for (range, how) in runs {
        let mut rest = range;
        while !rest.is_empty() {
            if room == 0 || all.last().is_none_or(|b| b.how != how) {
                all.push(Batch { ranges: Vec::new(), how });
                room = PAGES_MAX as u64;
            }
            let piece = PageRange::new(rest.start, rest.end.min(rest.start + room));
            room -= piece.len();
            rest.start = piece.end;
            if let Some(batch) = all.last_mut() {
                batch.ranges.push(piece);
            }
        }
    }
    all
}

/// Hash of a page, never 0 (which stands for none). 128 bits of xxh3: against chance, not against forgery.
pub fn page_hash(page: &[u8]) -> u128 {
    xxh3_128(page).max(1)
}

/// Reads the pieces of a batch: runs of what could be read. The ranges of the batch may come in parts.
pub type Read<'a> = dyn Fn(&Batch) -> Result<Vec<(u64, Bytes)>, PreloadError> + Sync + 'a;

/// Reads all batches and hands each run to `each`, which is called on this thread, in no certain order.
pub fn look(
    batches: &[Batch],
    read: &Read<'_>,
    mut each: impl FnMut(Look) -> Result<(), PreloadError>,
) -> Result<(), PreloadError> {
    /// Below this, other threads cost more than they bring.
    const MANY: usize = 16;
    let one = |batch: &Batch| -> Result<Vec<Look>, PreloadError> {
        Ok(read(batch)?.into_iter().map(|(start, data)| examine(start, data, batch.how)).collect())
    };
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if batches.len() < MANY || cores == 1 {
        return batches.iter().try_for_each(|b| one(b)?.into_iter().try_for_each(&mut each));
    }
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let (out, results) = sync_channel(2 * cores);
        for _ in 0..cores {
            let (out, one, next) = (out.clone(), &one, &next);
            scope.spawn(move || {
                while let Some(batch) = batches.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // nobody listens any more once sending has failed
                    if out.send(one(batch)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(out);
        results.into_iter().try_for_each(|looks| looks?.into_iter().try_for_each(&mut each))
    })
}

fn examine(start: u64, data: Bytes, how: How) -> Look {
    let pages = || data.chunks(PAGE_SIZE as usize);
    let first = |addr: u64| how.page_size > PAGE_SIZE && addr.is_multiple_of(how.page_size);
    let addrs = (start..).step_by(PAGE_SIZE as usize);
    let zero = pages().zip(addrs).map(|(p, addr)| how.skip_zero && is_zero(p) && !first(addr)).collect();
    let hashes = if how.hash { pages().map(page_hash).collect() } else { Vec::new() };
    Look { start, zero, hashes, data }
}

/// A buffer for the pages of a batch, cut into its runs once it is filled.
pub fn cut(batch: &Batch, buffer: BytesMut) -> Vec<(u64, Bytes)> {
    let mut rest = buffer.freeze();
    batch.ranges.iter().map(|r| (r.start, rest.split_to(r.len() as usize))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pages(from: u64, to: u64) -> PageRange {
        PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE)
    }

    #[test]
    fn batches_hold_every_page_once_and_no_more_than_their_size() {
        let other = How { skip_zero: false, ..How::default() };
        let runs = [
            (pages(0, 1), How::default()),
            (pages(5, 200), How::default()),
            (pages(300, 301), other),
            (pages(400, 465), How::default()),
        ];
        let all = batches(runs);
        let size = |b: &Batch| b.ranges.iter().map(PageRange::len).sum::<u64>();
        assert!(all.iter().all(|b| size(b) > 0 && size(b) <= PAGES_MAX as u64), "{all:?}");
        let mut seen: Vec<u64> =
            all.iter().flat_map(|b| &b.ranges).flat_map(|r| r.chunks(PAGE_SIZE)).map(|r| r.start).collect();
        let wanted: Vec<u64> = runs.iter().flat_map(|(r, _)| r.chunks(PAGE_SIZE)).map(|r| r.start).collect();
        seen.sort_unstable();
        assert_eq!(seen, wanted);
        assert!(all.iter().all(|b| b.how.skip_zero != b.ranges.contains(&pages(300, 301))));
    }

    #[test]
    fn every_page_is_looked_at_once_in_line_and_on_all_cores() {
        let read = |batch: &Batch| {
            let bytes = |r: &PageRange| vec![(r.start / PAGE_SIZE % 7) as u8; r.len() as usize];
            Ok(batch
                .ranges
                .iter()
                .flat_map(|r| r.chunks(PAGE_SIZE))
                .map(|r| (r.start, bytes(&r).into()))
                .collect())
        };
        for count in [3, 4000] {
            let mut seen = Vec::new();
            look(&batches([(pages(1, count), How::default())]), &read, |look| {
                let n = look.start / PAGE_SIZE;
                assert_eq!(look.zero, [n.is_multiple_of(7)]);
                assert_eq!(look.hashes, [page_hash(&look.data)]);
                seen.push(n);
                Ok(())
            })
            .unwrap();
            seen.sort_unstable();
            assert_eq!(seen, (1..count).collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_small_page_of_a_huge_one_is_never_left_out() {
        let how = How { page_size: 4 * PAGE_SIZE, ..How::default() };
        let zeroes = Bytes::from(vec![0; 6 * PAGE_SIZE as usize]);
        assert_eq!(examine(3 * PAGE_SIZE, zeroes, how).zero, [true, false, true, true, true, false]);
    }

    #[test]
    fn a_failure_ends_it() {
        let read = |_: &Batch| Err(PreloadError::NoSuchProcess(1));
        assert!(look(&batches([(pages(0, 9000), How::default())]), &read, |_| Ok(())).is_err());
        let read = |b: &Batch| Ok(cut(b, BytesMut::zeroed(b.ranges.iter().map(|r| r.len() as usize).sum())));
        let mut calls = 0;
        let failed = look(&batches([(pages(0, 9000), How::default())]), &read, |_| {
            calls += 1;
            Err(PreloadError::NoSuchProcess(2))
        });
        assert!(failed.is_err() && calls == 1);
    }
}
