//! Ranges of page-aligned addresses, and sets of them. Pure arithmetic.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::PAGE_SIZE;

/// Bytes `[start, end)`, both multiples of the page size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PageRange {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
}

impl PageRange {
    /// A range from its ends.
    pub fn new(start: u64, end: u64) -> Self {
        PageRange { start, end }
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.end <= self.start
    }

    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.len() / PAGE_SIZE
    }

    /// What both have in common.
    pub fn intersection(&self, other: &PageRange) -> PageRange {
        PageRange::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// Pieces of at most `bytes`.
    pub fn chunks(self, bytes: u64) -> impl Iterator<Item = PageRange> {
        (self.start..self.end)
            .step_by(bytes as usize)
            .map(move |s| PageRange::new(s, s.saturating_add(bytes).min(self.end)))
    }
}

/// A set of addresses, kept as disjoint ranges that do not touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeSet {
    by_start: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// Adds a range.
    pub fn insert(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        if let Some((&s, &e)) = self.by_start.range(..=start).next_back()
            && e >= start
        {
            if e >= end {
                return;
            }
            start = s;
        }
        while let Some((&s, &e)) = self.by_start.range(start..=end).next() {
            end = end.max(e);
            self.by_start.remove(&s);
        }
        self.by_start.insert(start, end);
    }

    /// Takes a range out.
    pub fn remove(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        if let Some((&s, &e)) = self.by_start.range(..range.start).next_back()
            && e > range.start
        {
            self.by_start.insert(s, range.start);
            if e > range.end {
                self.by_start.insert(range.end, e);
                return;
            }
        }
        while let Some((&s, &e)) = self.by_start.range(range.start..range.end).next() {
            self.by_start.remove(&s);
            if e > range.end {
                self.by_start.insert(range.end, e);
            }
        }
    }

    /// The ranges in address order.
    pub fn iter(&self) -> impl Iterator<Item = PageRange> {
        self.by_start.iter().map(|(&s, &e)| PageRange::new(s, e))
    }

    /// The parts of `range` that are in the set, in order.
    pub fn within(&self, range: PageRange) -> impl Iterator<Item = PageRange> {
        let before = self.by_start.range(..range.start).next_back();
        before
            .into_iter()
            .chain(self.by_start.range(range.start..range.end.max(range.start)))
            .map(move |(&s, &e)| PageRange::new(s, e).intersection(&range))
            .filter(|r| !r.is_empty())
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: PageRange) -> Vec<PageRange> {
        let mut gaps = Vec::new();
        let mut from = range.start;
        for part in self.within(range) {
            if part.start > from {
                gaps.push(PageRange::new(from, part.start));
            }
            from = part.end;
        }
        if from < range.end {
            gaps.push(PageRange::new(from, range.end));
        }
        gaps
    }

    /// Whether any byte of `range` is in the set.
    pub fn overlaps(&self, range: PageRange) -> bool {
        self.within(range).next().is_some()
    }

    /// Number of pages.
    pub fn pages(&self) -> u64 {
        self.iter().map(|r| r.pages()).sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.by_start.is_empty()
    }

    /// Takes out what the other set holds.
    pub fn subtract(&mut self, other: &RangeSet) {
        other.iter().for_each(|r| self.remove(r));
    }
}

impl FromIterator<PageRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = PageRange>>(ranges: I) -> Self {
        let mut set = RangeSet::default();
        ranges.into_iter().for_each(|r| set.insert(r));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation against a plain array of bits, over many random sequences.
    #[test]
    fn behaves_like_an_array_of_bits() {
        const PAGES: u64 = 64;
        let mut seed = 1u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let mut set = RangeSet::default();
            let mut bits = [false; PAGES as usize];
            for _ in 0..60 {
                let a = random(PAGES);
                let b = a + random(PAGES - a + 1);
                let range = PageRange::new(a * PAGE_SIZE, b * PAGE_SIZE);
                let add = random(2) == 0;
                if add {
                    set.insert(range)
                } else {
                    set.remove(range)
                }
                bits[a as usize..b as usize].fill(add);
                let held: Vec<bool> = (0..PAGES)
                    .map(|p| set.overlaps(PageRange::new(p * PAGE_SIZE, (p + 1) * PAGE_SIZE)))
                    .collect();
                assert_eq!(held, bits);
                let ranges: Vec<_> = set.iter().collect();
                assert!(ranges.windows(2).all(|w| w[0].end < w[1].start), "{ranges:?}");
                let all = PageRange::new(0, PAGES * PAGE_SIZE);
                let gaps: u64 = set.gaps(all).iter().map(PageRange::pages).sum();
                assert_eq!(gaps + set.pages(), PAGES);
            }
        }
    }
}
