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
            .step_by(usize::try_from(bytes).unwrap_or(usize::MAX))
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
        *self = self.without(other);
    }

    /// What only this one holds. Like the next two it goes once through both sets: in a freeze they may have tens of thousands of
    /// ranges each, and ten searches for each of them are milliseconds.
    pub fn without(&self, other: &RangeSet) -> RangeSet {
        let mut others = other.iter().peekable();
        let mut left = Vec::new();
        for range in self.iter() {
            let mut from = range.start;
            while let Some(taken) = others.next_if(|o| o.end <= range.end) {
                left.push(PageRange::new(from, taken.start));
                from = from.max(taken.end);
            }
            // one that reaches beyond is looked at again with the next
            let next = others.peek().map_or(range.end, |o| o.start.min(range.end));
            left.push(PageRange::new(from, next));
        }
        left.into_iter().collect()
    }

    /// What both hold.
    pub fn common(&self, other: &RangeSet) -> RangeSet {
        let (mut ours, mut others) = (self.iter().peekable(), other.iter().peekable());
        let mut both = Vec::new();
        while let (Some(a), Some(b)) = (ours.peek(), others.peek()) {
            both.push(a.intersection(b));
            if a.end <= b.end {
                ours.next();
            } else {
                others.next();
            }
        }
        both.into_iter().collect()
    }

    /// What either holds.
    pub fn union(&self, other: &RangeSet) -> RangeSet {
        self.iter().chain(other.iter()).collect()
    }
}

impl FromIterator<PageRange> for RangeSet {
    fn from_iter<I: IntoIterator<Item = PageRange>>(ranges: I) -> Self {
        let mut all: Vec<PageRange> = ranges.into_iter().filter(|r| !r.is_empty()).collect();
        // one run, or a few: then it is no more than a merge
        all.sort();
        all.dedup_by(|next, last| {
            let touch = next.start <= last.end;
            if touch {
                last.end = last.end.max(next.end);
            }
            touch
        });
        RangeSet { by_start: all.into_iter().map(|r| (r.start, r.end)).collect() }
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

    #[test]
    fn whole_sets_behave_like_arrays_of_bits() {
        let mut seed = 1u64;
        for _ in 0..2000 {
            let mut random = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // as many bits as not, in runs of all lengths
                (seed >> 32) as u32 & (seed >> 16) as u32 | (seed >> 40) as u32
            };
            let page = |i: u64| PageRange::new(i * PAGE_SIZE, (i + 1) * PAGE_SIZE);
            let set = |bits: u32| -> RangeSet { (0..32).filter(|i| bits >> i & 1 == 1).map(page).collect() };
            let (a, b) = (random(), random());
            assert_eq!(set(a).without(&set(b)), set(a & !b), "{a:#b} {b:#b}");
            assert_eq!(set(a).common(&set(b)), set(a & b), "{a:#b} {b:#b}");
            assert_eq!(set(a).union(&set(b)), set(a | b), "{a:#b} {b:#b}");
            let mut one_by_one = RangeSet::default();
            set(a).iter().chain(set(b).iter()).for_each(|r| one_by_one.insert(r));
            assert_eq!(one_by_one, set(a | b));
        }
    }
}
