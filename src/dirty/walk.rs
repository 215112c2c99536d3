//! Walking the address space of a layout.

use std::collections::BTreeSet;
use std::fs::File;

use super::{Found, TrackError, sparse};
use crate::image::memory::Layout;
use crate::image::{PAGE_SIZE, PageRange, Vma};
use crate::sys::pagemap::{self, Entry};

/// The whole of the layout as one range.
pub(super) fn span(layout: &Layout) -> PageRange {
    let start = layout.vmas.first().map_or(0, |v| v.start);
    PageRange::new(start, layout.vmas.last().map_or(start, |v| v.end))
}

/// Shared mappings of files hold the file's content, which is not ours to send.
pub(super) fn tracked(vma: &Vma) -> bool {
    !(vma.shared && matches!(vma.backing, crate::image::Backing::File { .. }))
}

/// Collects over the whole layout, in two halves at the same time where the machine has the cores: of two, one is
/// busy with capturing the state. The results are in address order.
pub(super) fn side_by_side<T: Send>(
    layout: &Layout,
    collect: impl Fn(PageRange) -> Result<T, TrackError> + Sync,
) -> Result<Vec<T>, TrackError> {
    if std::thread::available_parallelism().is_ok_and(|n| n.get() < 3) {
        return Ok(vec![collect(span(layout))?]);
    }
    let (low, high) = halves(layout);
    let (low, high) = std::thread::scope(|s| {
        let other = s.spawn(|| collect(high));
        (collect(low), other.join())
    });
    let high = high.unwrap_or_else(|_| unreachable!("a scan does not panic"));
    Ok(vec![low?, high?])
}

/// Two ranges of about the same mapped size.
fn halves(layout: &Layout) -> (PageRange, PageRange) {
    let whole = span(layout);
    let half = layout.vmas.iter().map(|v| v.range().len()).sum::<u64>() / 2;
    let mut passed = 0;
    for vma in &layout.vmas {
        let len = vma.range().len();
        if passed + len >= half {
            let cut = vma.start + (half - passed) / PAGE_SIZE * PAGE_SIZE;
            return (PageRange::new(whole.start, cut), PageRange::new(cut, whole.end));
        }
        passed += len;
    }
    (whole, PageRange::new(whole.end, whole.end))
}

/// The page map of a process, entry by entry, where its layout has something that is tracked.
pub(super) struct Walk<'a> {
    pid: i32,
    pagemap: &'a File,
    layout: &'a Layout,
    empty: BTreeSet<u64>,
}

impl<'a> Walk<'a> {
    pub(super) fn of(pid: i32, pagemap: &'a File, layout: &'a Layout) -> Self {
        Walk { pid, pagemap, layout, empty: sparse::empty_areas(pid, layout) }
    }

    /// Hands over the entries of that part, area by area, in pieces of at most one page table.
    pub(super) fn entries(
        &self,
        part: PageRange,
        mut each: impl FnMut(&Vma, u64, &[Entry]),
    ) -> Result<(), TrackError> {
        for vma in self.layout.vmas.iter().filter(|v| tracked(v) && !self.empty.contains(&v.start)) {
            let range = vma.range().intersection(&part);
            pagemap::entries(self.pagemap, range.start, range.end, |at, piece| each(vma, at, piece))
                .map_err(TrackError::kernel(self.pid, "reading the page map"))?;
        }
        Ok(())
    }
}

/// What a tracker makes of a page that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Judged {
    pub(super) written: bool,
    /// Known to be the kernel's zero page.
    pub(super) zero: bool,
}

/// Adds the pages of a piece of the page map that are there, in runs of one kind.
pub(super) fn add_entries(
    all: &mut Vec<Found>,
    start: u64,
    piece: &[Entry],
    judge: impl Fn(usize, Entry) -> Judged,
) {
    for (i, entry) in piece.iter().enumerate().filter(|(_, e)| e.held()) {
        let at = start + i as u64 * PAGE_SIZE;
        let Judged { written, zero } = judge(i, *entry);
        let new = Found {
            written,
            zero,
            file: entry.file(),
            guard: entry.guard(),
            ..Found::data(PageRange::new(at, at + PAGE_SIZE))
        };
        match all.last_mut() {
            Some(f) if f.range.end == at && Found { range: f.range, ..new } == *f => {
                f.range.end += PAGE_SIZE;
            }
            _ => all.push(new),
        }
    }
}
