//! Huge pages (hugetlb) that were dropped.
//!
//! The write-protect mark of one survives `MADV_DONTNEED`: a page that was dropped and then read is zero, and marked clean.
//! Nothing but zeroes can come about in this way, so one look at one small page that was sent with content tells it.

use super::look::page_hash;
use crate::image::{PAGE_SIZE, PageMap, PageRange, RangeSet};

/// The huge pages of `range` (whole ones, believed clean) whose content is not what was sent. `read` gives one small page.
pub fn dropped(
    hashes: &PageMap<u128>,
    sent: &RangeSet,
    range: PageRange,
    page_size: u64,
    mut read: impl FnMut(u64) -> Option<Vec<u8>>,
) -> Vec<PageRange> {
    let zero = page_hash(&[0; PAGE_SIZE as usize]);
    let mut wrong = Vec::new();
    for page in range.chunks(page_size) {
        let small = sent.within(page).flat_map(|run| run.chunks(PAGE_SIZE));
        let witness = small.map(|p| (p.start, hashes.get(p.start))).find(|(_, hash)| *hash != zero);
        let Some((addr, hash)) = witness else { continue };
        if read(addr).is_none_or(|data| page_hash(&data) != hash) {
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
    fn a_page_that_became_zero_without_a_mark_is_found() {
        let (mut hashes, mut sent) = (PageMap::default(), RangeSet::default());
        let content = pages(&[0, 0, 7, 0, 0, 0, 0, 0]);
        for (i, page) in content.chunks(SMALL).enumerate() {
            hashes.set(HUGE + i as u64 * PAGE_SIZE, page_hash(page));
        }
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
