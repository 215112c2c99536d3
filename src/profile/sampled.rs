//! What all samples together say: pure, fed by [`mod@super::watch`].

use std::time::Duration;

use super::heat::{Heat, Hot, Named};
use super::timeline::{Step, Timeline};
use super::windows::{Windows, WorkingSet};
use crate::dirty::Found;
use crate::image::memory::Layout;
use crate::image::{Backing, RangeSet};

/// The pages among `found` that a move would send: not what a file or the kernel's zero page holds, nor shared mappings of
/// files, whose content is the file's own.
pub(crate) fn to_send(found: &[Found], layout: &Layout) -> RangeSet {
    let mut set = RangeSet::default();
    let mut at = 0;
    for f in found.iter().filter(|f| f.written && !f.zero) {
        while layout.vmas.get(at).is_some_and(|v| v.end <= f.range.start) {
            at += 1;
        }
        for vma in layout.vmas[at..].iter().take_while(|v| v.start < f.range.end) {
            let file = matches!(vma.backing, Backing::File { .. });
            if if vma.shared { !file } else { !f.file } {
                set.insert(f.range.intersection(&vma.range()));
            }
        }
    }
    set
}

/// Whether something was found where no mapping is known.
pub(crate) fn is_unknown(found: &[Found], known: &RangeSet) -> bool {
    found.iter().any(|f| f.written && !f.zero && !known.gaps(f.range).is_empty())
}

/// Collects samples.
#[derive(Debug)]
pub(crate) struct Samples {
    windows: WorkingSet,
    timeline: Timeline,
    heat: Heat,
    count: u64,
    span: Duration,
    longest: Duration,
    pages: u64,
}

/// What the samples say.
#[derive(Clone, Debug)]
pub(crate) struct Sampled {
    /// How many there were.
    pub(crate) count: u64,
    /// The time that they cover.
    pub(crate) span: Duration,
    /// The longest time between two.
    pub(crate) longest: Duration,
    /// Pages written, counted once per sample.
    pub(crate) pages: u64,
    /// The dirty rate over time.
    pub(crate) steps: Vec<Step>,
    /// The working set.
    pub(crate) windows: Vec<Windows>,
    /// Mappings, hottest first.
    pub(crate) hot: Vec<Hot>,
}

impl Samples {
    /// For a watch that is to take that long, with samples that far apart.
    pub(crate) fn new(whole: Duration, interval: Duration) -> Self {
        Samples {
            windows: WorkingSet::default(),
            timeline: Timeline::new(whole, interval),
            heat: Heat::default(),
            count: 0,
            span: Duration::ZERO,
            longest: Duration::ZERO,
            pages: 0,
        }
    }

    /// Takes in what was written within `span`, which follows the last one.
    pub(crate) fn add(&mut self, span: Duration, written: &RangeSet, maps: &[Named]) {
        let pages = written.pages();
        self.windows.add(span, written);
        self.timeline.add(span, pages);
        self.heat.add(written, maps);
        self.count += 1;
        self.span += span;
        self.longest = self.longest.max(span);
        self.pages += pages;
    }

    /// What they say; `maps` are those at the end.
    pub(crate) fn finish(self, maps: &[Named]) -> Sampled {
        Sampled {
            count: self.count,
            span: self.span,
            longest: self.longest,
            pages: self.pages,
            steps: self.timeline.finish(),
            windows: self.windows.finish(),
            hot: self.heat.finish(maps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{ObjectId, PAGE_SIZE, PageRange, Vma, VmaFlags};

    fn pages(from: u64, to: u64) -> PageRange {
        PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE)
    }

    fn vma(from: u64, to: u64, shared: bool, backing: Backing) -> Vma {
        let PageRange { start, end } = pages(from, to);
        Vma {
            start,
            end,
            prot: 3,
            shared,
            offset: 0,
            backing,
            flags: VmaFlags::empty(),
            page_size: PAGE_SIZE,
        }
    }

    #[test]
    fn only_what_a_move_would_send_counts() {
        let file = || Backing::File { path: "/x".into() };
        let object = Backing::MemFd(ObjectId { dev: 1, ino: 2 });
        let vmas = vec![
            vma(0, 10, false, Backing::Anonymous),
            vma(10, 20, false, file()),
            vma(20, 30, true, file()),
            vma(30, 40, true, object),
        ];
        let layout = Layout { vmas, ..Layout::default() };
        let found = |from, to| Found::data(pages(from, to));
        let all = [
            found(0, 2),
            Found { zero: true, ..found(2, 4) },
            Found { written: false, ..found(4, 6) },
            found(9, 11),
            Found { file: true, ..found(12, 14) },
            found(22, 24),
            Found { file: true, ..found(32, 34) },
            found(39, 42),
        ];
        let expected: RangeSet =
            [pages(0, 2), pages(9, 11), pages(32, 34), pages(39, 40)].into_iter().collect();
        assert_eq!(to_send(&all, &layout), expected);
        let known: RangeSet = layout.vmas.iter().map(Vma::range).collect();
        assert!(is_unknown(&all, &known) && !is_unknown(&all[..7], &known));
    }
}
