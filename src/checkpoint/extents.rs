//! Places of pages: for each range of an address space (or of a memory object) where its content is kept. Pure.
//!
//! What comes later takes the place of what was there before, so that each page is kept once, however often it was sent.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::image::{PAGE_SIZE, PageRange};

/// Where the content of a range is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Spot {
    /// Nothing is kept: all zeroes.
    Zero,
    /// In the file of pages, from this one on.
    Stored(u64),
}

impl Spot {
    /// The place so many bytes further on.
    fn after(self, bytes: u64) -> Spot {
        match self {
            Spot::Zero => Spot::Zero,
            Spot::Stored(slot) => Spot::Stored(slot + bytes / PAGE_SIZE),
        }
    }
}

/// Disjoint ranges with their places, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extents(BTreeMap<u64, (u64, Spot)>);

impl Extents {
    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (PageRange, Spot)> {
        self.0.iter().map(|(&start, &(end, place))| (PageRange::new(start, end), place))
    }

    /// Forgets what was in a range.
    pub(crate) fn remove(&mut self, range: PageRange) {
        if range.is_empty() {
            return;
        }
        let before = self.0.range(..range.start).next_back().map(|(&s, &(e, p))| (s, e, p));
        if let Some((start, end, place)) = before.filter(|(_, end, _)| *end > range.start) {
            self.0.insert(start, (range.start, place));
            if end > range.end {
                self.0.insert(range.end, (end, place.after(range.end - start)));
                return;
            }
        }
        while let Some((&start, &(end, place))) = self.0.range(range.start..range.end).next() {
            self.0.remove(&start);
            if end > range.end {
                self.0.insert(range.end, (end, place.after(range.end - start)));
            }
        }
    }

    /// From now on this range is there.
    pub(crate) fn put(&mut self, range: PageRange, place: Spot) {
        if range.is_empty() {
            return;
        }
        self.remove(range);
        // what goes on where another ends is one with it
        if let Some((&start, &(end, before))) = self.0.range(..range.start).next_back()
            && end == range.start
            && before.after(end - start) == place
        {
            self.0.insert(start, (range.end, before));
        } else {
            self.0.insert(range.start, (range.end, place));
        }
    }

    /// What of a range has a place in the file of pages, and what has not, in order.
    pub(crate) fn split(&self, range: PageRange) -> Vec<(PageRange, Option<u64>)> {
        let before = self.0.range(..range.start).next_back();
        let mut parts = Vec::new();
        let mut at = range.start;
        for (&start, &(end, place)) in before.into_iter().chain(self.0.range(range.start..range.end)) {
            let part = PageRange::new(start, end).intersection(&range);
            let Spot::Stored(slot) = place else { continue };
            if part.is_empty() {
                continue;
            }
            if at < part.start {
                parts.push((PageRange::new(at, part.start), None));
            }
            parts.push((part, Some(slot + (part.start - start) / PAGE_SIZE)));
            at = part.end;
        }
        if at < range.end {
            parts.push((PageRange::new(at, range.end), None));
        }
        parts
    }

    /// What is in `range` of it, in order.
    pub(crate) fn within(&self, range: PageRange) -> Vec<(PageRange, Spot)> {
        let before = self.0.range(..range.start).next_back();
        let all = before.into_iter().chain(self.0.range(range.start..range.end));
        let parts = all.map(|(&start, &(end, spot))| {
            let part = PageRange::new(start, end).intersection(&range);
            (part, spot.after(part.start.saturating_sub(start)))
        });
        parts.filter(|(part, _)| !part.is_empty()).collect()
    }

    /// Pages with content.
    pub(crate) fn stored(&self) -> u64 {
        self.iter().filter(|(_, place)| *place != Spot::Zero).map(|(range, _)| range.pages()).sum()
    }

    /// Whether every range is one, in order, and its pages lie among the first `slots` of the file: so it was written.
    pub(crate) fn plausible(&self, slots: u64) -> bool {
        let aligned = |at: u64| at.is_multiple_of(PAGE_SIZE);
        let mut last = 0;
        self.iter().all(|(range, place)| {
            let inside = match place {
                Spot::Zero => true,
                Spot::Stored(slot) => slot.checked_add(range.pages()).is_some_and(|end| end <= slots),
            };
            let good = range.start >= last && !range.is_empty() && aligned(range.start) && aligned(range.end);
            last = range.end;
            good && inside
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every operation against a plain array of places.
    #[test]
    fn behaves_like_an_array_of_places() {
        const PAGES: u64 = 48;
        let mut seed = 1u64;
        let mut random = move |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        for _ in 0..200 {
            let (mut extents, mut plain) = (Extents::default(), [None; PAGES as usize]);
            for _ in 0..60 {
                let from = random(PAGES);
                let to = from + random(PAGES - from + 1);
                let range = PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE);
                let slot = random(1000);
                let kind = random(3);
                match kind {
                    0 => extents.remove(range),
                    1 => extents.put(range, Spot::Zero),
                    _ => extents.put(range, Spot::Stored(slot)),
                }
                for page in from..to {
                    plain[page as usize] = match kind {
                        0 => None,
                        1 => Some(Spot::Zero),
                        _ => Some(Spot::Stored(slot + page - from)),
                    };
                }
                let mut shown = [None; PAGES as usize];
                for (range, place) in extents.iter() {
                    for page in 0..range.pages() {
                        shown[(range.start / PAGE_SIZE + page) as usize] =
                            Some(place.after(page * PAGE_SIZE));
                    }
                }
                assert_eq!(shown, plain);
            }
            let all = PageRange::new(0, PAGES * PAGE_SIZE);
            for (range, slot) in extents.split(all) {
                for page in 0..range.pages() {
                    let place = plain[(range.start / PAGE_SIZE + page) as usize];
                    let stored = match place {
                        Some(Spot::Stored(slot)) => Some(slot),
                        _ => None,
                    };
                    assert_eq!(slot.map(|slot| slot + page), stored);
                }
            }
            assert!(extents.plausible(2000) && (extents.stored() == 0 || !extents.plausible(0)));
        }
    }
}
