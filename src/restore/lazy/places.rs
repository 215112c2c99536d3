//! Where in an address space the pages belong that have not arrived. Pure.
//!
//! A page is named by its address at the source. It belongs to the same address here, until the process moves it
//! (`mremap`) or gives it up.

use std::collections::BTreeMap;

use crate::image::{PageRange, RangeSet};

/// The outstanding pages of one address space.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// Those at their own address.
    home: RangeSet,
    /// Those that were moved: start here, to length and address at the source. Few.
    away: BTreeMap<u64, (u64, u64)>,
    /// Areas of huge pages (hugetlb), here, and the size of theirs.
    huge: Vec<(PageRange, u64)>,
}

impl Places {
    /// All at their own addresses. `huge`: areas of huge pages and the size of theirs.
    pub(super) fn new(outstanding: &[PageRange], huge: Vec<(PageRange, u64)>) -> Self {
        Places { home: outstanding.iter().copied().collect(), away: BTreeMap::new(), huge }
    }

    /// Whether nothing is outstanding.
    pub(super) fn is_empty(&self) -> bool {
        self.home.is_empty() && self.away.is_empty()
    }

    /// Bytes of the page at `addr`.
    pub(super) fn page_size(&self, addr: u64) -> u64 {
        let huge = self.huge.iter().find(|(r, _)| r.start <= addr && addr < r.end);
        huge.map_or(crate::image::PAGE_SIZE, |(_, size)| *size)
    }

    /// The address at the source of what belongs to `addr`, if it is outstanding.
    pub(super) fn source_of(&self, addr: u64) -> Option<u64> {
        if self.home.overlaps(PageRange::new(addr, addr + 1)) {
            return Some(addr);
        }
        let (start, (len, source)) = self.away.range(..=addr).next_back()?;
        (addr < start + len).then(|| source + (addr - start))
    }

    /// The first outstanding address at the source of what belongs into a page.
    pub(super) fn of_page(&self, page: PageRange) -> Option<u64> {
        match self.home.within(page).next() {
            Some(part) => Some(part.start),
            None => page.chunks(crate::image::PAGE_SIZE).find_map(|p| self.source_of(p.start)),
        }
    }

    /// Where pages of the source are still missing: address here, and what of the source belongs there.
    pub(super) fn of_source(&self, source: PageRange) -> Vec<(u64, PageRange)> {
        let mut all: Vec<(u64, PageRange)> = self.home.within(source).map(|r| (r.start, r)).collect();
        for (start, (len, from)) in &self.away {
            let part = PageRange::new(*from, from + len).intersection(&source);
            if !part.is_empty() {
                all.push((start + (part.start - from), part));
            }
        }
        all
    }

    /// These addresses have what belongs there, or lost the right to it. Returns what that was, by addresses at the source.
    pub(super) fn settle(&mut self, range: PageRange) -> Vec<PageRange> {
        let mut gone: Vec<PageRange> = self.home.within(range).collect();
        self.home.remove(range);
        gone.extend(self.cut(range).into_iter().map(|(_, len, source)| PageRange::new(source, source + len)));
        gone
    }

    /// Takes moved pages out of a range: start here, length, address at the source.
    fn cut(&mut self, range: PageRange) -> Vec<(u64, u64, u64)> {
        let touched: Vec<u64> = self
            .away
            .range(..range.end)
            .filter(|(start, (len, _))| *start + len > range.start)
            .map(|(start, _)| *start)
            .collect();
        let mut cut = Vec::new();
        for start in touched {
            let Some((len, source)) = self.away.remove(&start) else { continue };
            let whole = PageRange::new(start, start + len);
            let part = whole.intersection(&range);
            for rest in [PageRange::new(whole.start, part.start), PageRange::new(part.end, whole.end)] {
                if !rest.is_empty() {
                    self.away.insert(rest.start, (rest.len(), source + (rest.start - start)));
                }
            }
            cut.push((part.start, part.len(), source + (part.start - start)));
        }
        cut
    }

    /// The process has moved `len` bytes. Returns what was outstanding at the new place and is not any more.
    pub(super) fn moved(&mut self, from: u64, to: u64, len: u64) -> Vec<PageRange> {
        let old = PageRange::new(from, from + len);
        let mut taken: Vec<(u64, u64, u64)> =
            self.home.within(old).map(|r| (r.start, r.len(), r.start)).collect();
        self.home.remove(old);
        taken.extend(self.cut(old));
        let lost = self.settle(PageRange::new(to, to + len));
        for (start, len, source) in taken {
            let here = start - from + to;
            if here == source {
                self.home.insert(PageRange::new(here, here + len));
            } else {
                self.away.insert(here, (len, source));
            }
        }
        let moved: Vec<_> = self
            .huge
            .iter()
            .map(|(r, size)| (r.intersection(&old), *size))
            .filter(|(r, _)| !r.is_empty())
            .map(|(r, size)| (PageRange::new(r.start - from + to, r.end - from + to), size))
            .collect();
        self.huge.extend(moved);
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(start << 12, end << 12)
    }

    /// Against a plain array: for each page here, which of the source belongs there.
    #[test]
    fn behaves_like_an_array() {
        const PAGES: u64 = 96;
        let mut seed = 7u64;
        let mut dice = |sides: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % sides
        };
        for _ in 0..200 {
            let mut places = Places::new(&[range(0, PAGES / 2)], Vec::new());
            let mut model: Vec<Option<u64>> = (0..PAGES).map(|p| (p < PAGES / 2).then_some(p)).collect();
            for _ in 0..60 {
                let (start, len) = (dice(PAGES - 16), 1 + dice(15));
                if dice(2) == 0 {
                    let mut gone: Vec<u64> = places
                        .settle(range(start, start + len))
                        .into_iter()
                        .flat_map(|r| (r.start >> 12)..(r.end >> 12))
                        .collect();
                    let mut want: Vec<u64> =
                        (start..start + len).filter_map(|p| model[p as usize].take()).collect();
                    gone.sort_unstable();
                    want.sort_unstable();
                    assert_eq!(gone, want);
                } else {
                    let to = dice(PAGES - 16);
                    if to.abs_diff(start) < len {
                        continue;
                    }
                    places.moved(start << 12, to << 12, len << 12);
                    for i in 0..len {
                        model[(to + i) as usize] = model[(start + i) as usize].take();
                    }
                }
                for (p, want) in model.iter().enumerate() {
                    assert_eq!(places.source_of((p as u64) << 12), want.map(|s| s << 12), "page {p}");
                }
                for (here, source) in places.of_source(range(0, PAGES)) {
                    for i in 0..source.pages() {
                        assert_eq!(model[((here >> 12) + i) as usize], Some((source.start >> 12) + i));
                    }
                }
                let all: u64 = places.of_source(range(0, PAGES)).iter().map(|(_, r)| r.pages()).sum();
                assert_eq!(all, model.iter().flatten().count() as u64);
                assert_eq!(places.is_empty(), all == 0);
            }
        }
    }
}
