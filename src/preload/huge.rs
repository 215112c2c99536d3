//! What the target has of huge pages (hugetlb), page by page of 4 KiB.
//!
//! A tracker sees huge pages as wholes: one byte written marks 2 MiB. Only the small pages whose hash has changed are
//! sent. And the write-protect mark survives `MADV_DONTNEED` (`MADV_REMOVE` for shared memory): a page that was
//! dropped and then read is zero, and marked clean. Nothing but zeroes can come about in this way, so one look at one
//! small page that was sent with content tells it ([`dropped`]).
//!
//! A huge page that is all zeroes is not like one that is absent: touching it needs no further page from the pool.
//! So the first small page of each is sent even if it is zero ([`runs`]), and the target, too, has it.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_128;

use crate::image::{PAGE_SIZE, PageRange, RangeSet};
use crate::state::digest::runs_of_zero;

/// Hashes of small pages as they were sent, by address or offset.
pub type Hashes = HashMap<u64, u128>;

/// Runs of pages, from and to as places in `data`, that are to be sent: those that are new or have changed. Their hashes
/// are noted. `sent`: what the target has.
pub fn changed(hashes: &mut Hashes, sent: &RangeSet, start: u64, data: &[u8]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (i, page) in data.chunks(PAGE_SIZE as usize).enumerate() {
        let from = i * PAGE_SIZE as usize;
        let addr = start + from as u64;
        let hash = xxh3_128(page);
        let same = hashes.insert(addr, hash) == Some(hash);
        if same && sent.overlaps(PageRange::new(addr, addr + PAGE_SIZE)) {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.1 == from => run.1 = from + page.len(),
            _ => runs.push((from, from + page.len())),
        }
    }
    runs
}

/// Runs that are all zero or all not, as [`runs_of_zero`] gives them; the first small page of a huge one never counts as zero.
pub fn runs(data: &[u8], start: u64, page_size: u64, look: bool) -> Vec<(usize, usize, bool)> {
    if page_size == PAGE_SIZE {
        return runs_of_zero(data, look);
    }
    let mut all = Vec::new();
    for (from, to, zero) in runs_of_zero(data, look) {
        if !zero {
            all.push((from, to, false));
            continue;
        }
        let mut at = from;
        while at < to {
            let addr = start + at as u64;
            let next = if addr.is_multiple_of(page_size) {
                (at + PAGE_SIZE as usize, false)
            } else {
                (at + (addr.next_multiple_of(page_size) - addr) as usize, true)
            };
            let end = next.0.min(to);
            all.push((at, end, next.1));
            at = end;
        }
    }
    all
}

/// The huge pages of `range` (whole ones, believed clean) whose content is not what was sent. `read` gives one small page.
pub fn dropped(
    hashes: &Hashes,
    sent: &RangeSet,
    range: PageRange,
    page_size: u64,
    mut read: impl FnMut(u64) -> Option<Vec<u8>>,
) -> Vec<PageRange> {
    let zero = xxh3_128(&[0; PAGE_SIZE as usize]);
    let mut wrong = Vec::new();
    for page in range.chunks(page_size) {
        let small = sent.within(page).flat_map(|run| run.chunks(PAGE_SIZE));
        let witness = small.map(|p| (p.start, hashes.get(&p.start))).find(|(_, hash)| *hash != Some(&zero));
        let Some((addr, hash)) = witness else { continue };
        if read(addr).is_none_or(|data| Some(&xxh3_128(&data)) != hash) {
            wrong.push(page);
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: usize = PAGE_SIZE as usize;
    const HUGE: u64 = 4 * PAGE_SIZE;

    fn pages(content: &[u8]) -> Vec<u8> {
        content.iter().flat_map(|byte| [*byte; SMALL]).collect()
    }

    #[test]
    fn the_first_small_page_is_never_left_out() {
        let data = pages(&[0, 0, 1, 0, 0, 0, 0, 0]);
        let all = runs(&data, HUGE, HUGE, true);
        let kinds: Vec<_> = all.iter().map(|(a, b, zero)| (a / SMALL, b / SMALL, *zero)).collect();
        assert_eq!(
            kinds,
            [(0, 1, false), (1, 2, true), (2, 3, false), (3, 4, true), (4, 5, false), (5, 8, true)]
        );
        // a piece from the middle has no first page
        assert_eq!(runs(&pages(&[0, 0]), HUGE + PAGE_SIZE, HUGE, true), [(0, 2 * SMALL, true)]);
    }

    #[test]
    fn what_has_not_changed_is_not_sent_again() {
        let (mut hashes, mut sent) = (Hashes::new(), RangeSet::default());
        assert_eq!(changed(&mut hashes, &sent, 0, &pages(&[1, 2, 3])), [(0, 3 * SMALL)]);
        sent.insert(PageRange::new(0, 3 * PAGE_SIZE));
        assert_eq!(changed(&mut hashes, &sent, 0, &pages(&[1, 2, 4])), [(2 * SMALL, 3 * SMALL)]);
        // the same content, but the target has lost it
        sent.remove(PageRange::new(0, PAGE_SIZE));
        assert_eq!(changed(&mut hashes, &sent, 0, &pages(&[1, 2, 4])), [(0, SMALL)]);
    }

    #[test]
    fn a_page_that_became_zero_without_a_mark_is_found() {
        let (mut hashes, mut sent) = (Hashes::new(), RangeSet::default());
        let content = pages(&[0, 0, 7, 0, 0, 0, 0, 0]);
        changed(&mut hashes, &sent, HUGE, &content);
        sent.insert(PageRange::new(HUGE, HUGE + PAGE_SIZE));
        sent.insert(PageRange::new(HUGE + 2 * PAGE_SIZE, HUGE + 3 * PAGE_SIZE));
        sent.insert(PageRange::new(2 * HUGE, 2 * HUGE + PAGE_SIZE));
        let range = PageRange::new(HUGE, 3 * HUGE);
        let look = |now: &[u8]| {
            dropped(&hashes, &sent, range, HUGE, |addr| {
                let at = (addr - HUGE) as usize;
                Some(now[at..at + SMALL].to_vec())
            })
        };
        assert_eq!(look(&content), []);
        assert_eq!(look(&pages(&[0; 8])), [PageRange::new(HUGE, 2 * HUGE)]);
    }
}
