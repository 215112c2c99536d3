//! Which pages are written again and again. Sending them in every round is wasted: they are held back until they are left
//! alone for one round, or until the freeze.

use crate::image::{PageRange, RangeSet};

/// Rounds in a row in which a page must be written to count as hot.
const HOT: usize = 3;

/// What was written in the last rounds.
#[derive(Debug, Default)]
pub struct Heat {
    /// `streaks[n]`: written in each of the last n + 1 rounds.
    streaks: [RangeSet; HOT - 1],
    /// Hot pages, of which the target has an old content.
    held: RangeSet,
}

impl Heat {
    /// Whether a page would be hot if it was written now.
    pub fn hot_if_written(&self, page: PageRange) -> bool {
        self.streaks[HOT - 2].overlaps(page)
    }

    /// Of `range`, what was written in two rounds in a row.
    pub fn warm(&self, range: PageRange) -> impl Iterator<Item = PageRange> {
        self.streaks[1].within(range)
    }

    /// The rest of `range`.
    pub fn cold(&self, range: PageRange) -> Vec<PageRange> {
        self.streaks[1].gaps(range)
    }

    /// Of what was written in this round: what is to be held back. What was held and was left alone is given up by it:
    /// it has cooled down, and is to be sent.
    pub fn round(&mut self, written: RangeSet) -> Sorted {
        let hot = written.common(&self.streaks[HOT - 2]);
        let mut cooled = std::mem::replace(&mut self.held, hot.clone());
        cooled.subtract(&written);
        for n in (1..HOT - 1).rev() {
            self.streaks[n] = written.common(&self.streaks[n - 1]);
        }
        self.streaks[0] = written;
        Sorted { hot, cooled }
    }

    /// Pages that are written often, the hottest first.
    pub fn often(&self) -> Vec<RangeSet> {
        let streaks = self.streaks.iter().rev().cloned();
        std::iter::once(self.held.clone()).chain(streaks).collect()
    }

    /// What is held back.
    pub fn held(&self) -> &RangeSet {
        &self.held
    }

    /// These pages are not what they were.
    pub fn forget(&mut self, range: PageRange) {
        self.held.remove(range);
        self.streaks.iter_mut().for_each(|s| s.remove(range));
    }

    /// Nothing is held back any more.
    pub fn release(&mut self) -> RangeSet {
        std::mem::take(&mut self.held)
    }
}

/// What a round is to do about hot pages.
#[derive(Debug, PartialEq, Eq)]
pub struct Sorted {
    /// To be held back.
    pub hot: RangeSet,
    /// Held until now, to be sent.
    pub cooled: RangeSet,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::PAGE_SIZE;

    fn set(pages: &[u64]) -> RangeSet {
        pages.iter().map(|n| PageRange::new(n * PAGE_SIZE, (n + 1) * PAGE_SIZE)).collect()
    }

    #[test]
    fn a_page_written_in_three_rounds_is_held_until_it_is_left_alone() {
        let mut heat = Heat::default();
        for written in [&[1, 2, 3][..], &[1, 2, 9]] {
            let sorted = heat.round(set(written));
            assert!(sorted.hot.is_empty() && sorted.cooled.is_empty(), "{sorted:?}");
        }
        assert_eq!(heat.round(set(&[1, 2, 3])), Sorted { hot: set(&[1, 2]), cooled: set(&[]) });
        assert_eq!(heat.round(set(&[2, 3])), Sorted { hot: set(&[2]), cooled: set(&[1]) });
        assert_eq!(heat.round(set(&[3])), Sorted { hot: set(&[3]), cooled: set(&[2]) });
        heat.forget(PageRange::new(3 * PAGE_SIZE, 4 * PAGE_SIZE));
        assert_eq!(heat.round(set(&[3])), Sorted { hot: set(&[]), cooled: set(&[]) });
        assert!(heat.release().is_empty());
    }
}
