//! The final scan of write-protect tracking: what was written since the last round, and what is gone, without listing what is there.
//!
//! Cost on the test machine, per GiB of present and clean memory, caches cold (`PAGEMAP_SCAN`, Linux 6.18):
//!
//! | query | ms |
//! |---|---|
//! | all present pages, with their categories: each is reported, and merged with the one before | 2.9 |
//! | written and present | 0.7 |
//! | `WRITTEN` alone asked and returned, nothing protected: the fast path, which compares one bit of each entry | 0.4 |
//!
//! The fast path passes over what carries our mark, in memory or in swap, and reports all the rest, so also empty entries (`pte_none`);
//! where there is no page table at all only newer kernels report anything. So:
//!
//! 1. what the fast path reports is looked at more closely: written and present, or a hole;
//! 2. where the kernel does not report the lack of a page table, a known page that was not reported is clean, or its table is gone
//!    (`MADV_DONTNEED` frees empty ones since Linux 6.14): one entry of each table, 2 MiB apart, is asked for.
//!
//! Private mappings of files and huge pages are listed as a whole: pages of files carry no mark, and the entries of huge pages are few.

use super::{
    Category, HELD, WpScan, by_file, by_page_size, everything, fast_ones, found, pages_of_unregistered,
    written_ones,
};
use crate::dirty::walk::{side_by_side, span};
use crate::dirty::{Found, Last, TrackError};
use crate::image::memory::Layout;
use crate::image::{PAGE_SIZE, PageRange, RangeSet};

/// Ranges as near as this are looked at together: a system call costs as much as so many entries.
const NEAR: u64 = 256 * PAGE_SIZE;
/// What one page table maps.
const TABLE: u64 = 512 * PAGE_SIZE;

/// The final scan under way in a part of the layout.
struct Scan<'a> {
    tracker: &'a WpScan,
    layout: &'a Layout,
    known: &'a RangeSet,
    written: Vec<Found>,
    gone: Vec<PageRange>,
}

/// The final scan; see [`crate::dirty::DirtyTracker::last`].
pub(super) fn last(tracker: &WpScan, layout: &Layout, known: &RangeSet) -> Result<Last, TrackError> {
    let parts = side_by_side(layout, |part| {
        let mut scan = Scan { tracker, layout, known, written: Vec::new(), gone: Vec::new() };
        scan.part(part)?;
        Ok((scan.written, scan.gone))
    })?;
    let whole = span(layout);
    let outside = [PageRange::new(0, whole.start), PageRange::new(whole.end, u64::MAX)];
    let mut gone: Vec<PageRange> =
        outside.into_iter().flat_map(|r| known.within(r).collect::<Vec<_>>()).collect();
    let mut written = Vec::new();
    for (w, g) in parts {
        written.extend(w);
        gone.extend(g);
    }
    Ok(Last { written, gone: gone.into_iter().collect() })
}

impl Scan<'_> {
    fn part(&mut self, part: PageRange) -> Result<(), TrackError> {
        let mut at = part.start;
        for (range, file) in by_file(self.layout, part) {
            at = range.end;
            if !file.is_empty() {
                self.tracker.bring_in(range)?;
                self.list(range, file)?;
                continue;
            }
            for piece in by_page_size(self.layout, range) {
                let first = self.layout.vmas.partition_point(|v| v.end <= piece.start);
                if self.layout.vmas.get(first).is_some_and(|v| v.huge() && v.start < piece.end) {
                    self.list(piece, file)?;
                } else {
                    self.look(piece)?;
                }
            }
        }
        // nothing is mapped behind the last area
        self.gone.extend(self.known.within(PageRange::new(at, part.end)));
        self.written.sort_by_key(|f| f.range.start);
        Ok(())
    }

    /// All that is present.
    fn list(&mut self, range: PageRange, file: Category) -> Result<(), TrackError> {
        let mut own = RangeSet::default();
        let written = &mut self.written;
        self.tracker.scan(range, everything(self.tracker.guards, file), |r| {
            let clean =
                r.categories().contains(Category::WPALLOWED) && !r.categories().contains(Category::WRITTEN);
            let found = found(r, !clean);
            if found.private_data() {
                own.insert(found.range);
            }
            if found.written || found.guard {
                written.push(found);
            }
        })?;
        self.gone.extend(self.known.within(range).flat_map(|known| own.gaps(known)));
        Ok(())
    }

    /// Ordinary pages that are no private copies of a file's.
    fn look(&mut self, range: PageRange) -> Result<(), TrackError> {
        // in an area that is not registered a mark (that `mremap` brought along) says nothing, and the fast path would pass it over;
        // nor does any kernel report a missing page table there
        let mut new = RangeSet::default();
        let (written, gone) = (&mut self.written, &mut self.gone);
        self.tracker.scan(range, pages_of_unregistered(self.tracker.guards), |r| {
            let found = found(r, true);
            if r.categories().intersects(HELD) {
                new.insert(found.range);
                written.push(found);
            }
            if found.guard || !r.categories().intersects(HELD) {
                gone.extend(self.known.within(found.range));
            }
        })?;
        let mut unmarked: Vec<PageRange> = Vec::new();
        self.tracker.scan(range, fast_ones(), |r| match unmarked.last_mut() {
            Some(last) if last.end >= r.start => last.end = last.end.max(r.end),
            _ => unmarked.push(PageRange::new(r.start, r.end)),
        })?;
        for near in unmarked.chunk_by(|a, b| a.end + NEAR >= b.start) {
            self.look_closer(near, &new)?;
        }
        if self.tracker.reports_holes { Ok(()) } else { self.missed(range, &unmarked) }
    }

    /// Written pages and holes among what the fast path reported.
    fn look_closer(&mut self, unmarked: &[PageRange], new: &RangeSet) -> Result<(), TrackError> {
        let [first, ..] = unmarked else { return Ok(()) };
        let all = PageRange::new(first.start, unmarked[unmarked.len() - 1].end);
        let mut present = Vec::new();
        let written = &mut self.written;
        self.tracker.scan(all, written_ones(self.tracker.guards, Category::empty(), false), |r| {
            let found = found(r, true);
            if !found.guard {
                present.push(found.range);
            }
            written.extend(new.gaps(found.range).into_iter().map(|range| Found { range, ..found }));
        })?;
        let present: RangeSet = present.into_iter().collect();
        let holes = unmarked.iter().flat_map(|range| present.gaps(*range));
        self.gone.extend(holes.flat_map(|hole| self.known.within(hole)));
        Ok(())
    }

    /// Known pages that the fast path did not report since there is no page table any more.
    fn missed(&mut self, range: PageRange, unmarked: &[PageRange]) -> Result<(), TrackError> {
        for known in self.known.within(range).collect::<Vec<_>>() {
            let mut at = known.start;
            while at < known.end {
                let end = known.end.min((at / TABLE + 1) * TABLE);
                if let Some(page) = first_outside(unmarked, at).filter(|page| *page < end)
                    && !self.tracker.is_held(page)?
                {
                    let gone = &mut self.gone;
                    self.tracker.scan(PageRange::new(page, end), super::absent_ones(), |r| {
                        gone.push(PageRange::new(r.start, r.end));
                    })?;
                }
                at = end;
            }
        }
        Ok(())
    }
}

/// The first address from `at` on that is in none of these ranges, which are in order and do not touch.
fn first_outside(ranges: &[PageRange], at: u64) -> Option<u64> {
    let next = ranges.get(ranges.partition_point(|r| r.end <= at));
    next.map_or(Some(at), |r| Some(if r.start <= at { r.end } else { at }))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use memmap2::{MmapMut, UncheckedAdvice};

    use super::*;
    use crate::dirty::{DirtyTracker as _, open_pagemap};
    use crate::image::{Backing, Vma, VmaFlags};
    use crate::sys::kernel::Kernel;
    use crate::sys::uffd::{self, Features, UFFD_USER_MODE_ONLY};

    const PAGES: usize = 8 * 512;
    const PAGE: usize = PAGE_SIZE as usize;

    fn vma(start: u64, end: u64) -> Vma {
        Vma {
            start,
            end,
            prot: 3,
            shared: false,
            offset: 0,
            backing: Backing::Anonymous,
            flags: VmaFlags::empty(),
            page_size: PAGE_SIZE,
        }
    }

    /// A tracker of this process, and a layout in which nothing but `memory` can be registered.
    fn tracker_of(memory: &[u8]) -> Option<(WpScan, Layout)> {
        Kernel::here().write_protect.ok()?;
        let uffd = uffd::create_own(UFFD_USER_MODE_ONLY).ok()?;
        uffd::handshake(uffd.as_fd(), Features::TRACKING).ok()?;
        let pid = std::process::id() as i32;
        let start = memory.as_ptr() as u64;
        let end = start + memory.len() as u64;
        let special = vec![PageRange::new(0x10000, start), PageRange::new(end, 0x7fff_ffff_f000)];
        let layout = Layout { vmas: vec![vma(start, end)], special, ..Layout::default() };
        Some((WpScan::of(Kernel::here(), pid, uffd, open_pagemap(pid).ok()?), layout))
    }

    /// Numbers of the pages in some ranges.
    fn pages(base: u64, ranges: impl IntoIterator<Item = PageRange>) -> Vec<u64> {
        ranges.into_iter().flat_map(|r| r.chunks(PAGE_SIZE)).map(|r| (r.start - base) / PAGE_SIZE).collect()
    }

    #[test]
    fn what_changed_is_found_without_listing_what_is_there() {
        let mut memory = MmapMut::map_anon(PAGES * PAGE).unwrap();
        // one page in seven is never touched
        (0..PAGES).filter(|i| i % 7 != 3).for_each(|i| memory[i * PAGE] = 1);
        let Some((mut tracker, layout)) = tracker_of(&memory) else {
            eprintln!("not tried: no write-protect scans here");
            return;
        };
        let base = memory.as_ptr() as u64;
        let known: RangeSet = tracker.round(&layout).unwrap().into_iter().map(|f| f.range).collect();
        let mut random = 12345u64;
        let mut roll = |n: usize| {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (random >> 33) as usize % n
        };
        for turn in 0..40 {
            for _ in 0..roll(300) {
                memory[roll(PAGES) * PAGE] ^= 1;
            }
            for _ in 0..roll(60) {
                let (from, most) = (roll(PAGES), [1, 8, 1200][roll(3)]);
                let len = most.min(PAGES - from);
                // SAFETY: nothing but bytes lies there, for which zeroes are as good.
                #[allow(unsafe_code)]
                unsafe { memory.unchecked_advise_range(UncheckedAdvice::DontNeed, from * PAGE, len * PAGE) }
                    .unwrap();
            }
            // the longer way must be right on every kernel
            tracker.reports_holes = turn % 2 == 0 && Kernel::here().holes_reported;
            let last = tracker.last(&layout, &known).unwrap();
            let mut present = Vec::new();
            tracker
                .scan(layout.vmas[0].range(), everything(tracker.guards, Category::empty()), |r| {
                    present.push(found(r, r.categories().contains(Category::WRITTEN)));
                })
                .unwrap();
            let expected = Last::of_present(present, &known);
            let flat = |last: &Last| {
                let written = |zero| last.written.iter().filter(move |f| f.zero == zero).map(|f| f.range);
                [pages(base, written(false)), pages(base, written(true)), pages(base, last.gone.iter())]
            };
            assert_eq!(flat(&last), flat(&expected), "turn {turn}");
        }
    }

    #[test]
    fn an_area_that_is_new_is_all_written_or_gone() {
        const TRACKED: usize = 512;
        let mut memory = MmapMut::map_anon(3 * 512 * PAGE).unwrap();
        memory[..TRACKED * PAGE].fill(1);
        let Some((mut tracker, mut layout)) = tracker_of(&memory[..TRACKED * PAGE]) else { return };
        tracker.round(&layout).unwrap();
        let (start, end) = (memory.as_ptr() as u64, memory.as_ptr() as u64 + memory.len() as u64);
        // what was there before had content in every page
        let known: RangeSet = std::iter::once(PageRange::new(start, end)).collect();
        layout.vmas.push(vma(start + (TRACKED * PAGE) as u64, end));
        memory[(TRACKED + 5) * PAGE] = 7;
        for reports_holes in [Kernel::here().holes_reported, false] {
            tracker.reports_holes = reports_holes;
            let last = tracker.last(&layout, &known).unwrap();
            assert_eq!(pages(start, last.written.iter().map(|f| f.range)), [TRACKED as u64 + 5]);
            let rest = (TRACKED as u64..3 * 512).filter(|page| *page != TRACKED as u64 + 5);
            assert_eq!(pages(start, last.gone.iter()), rest.collect::<Vec<_>>());
        }
    }

    #[test]
    fn the_first_address_outside() {
        let ranges = [PageRange::new(10, 20), PageRange::new(30, 40)];
        let at = |at| first_outside(&ranges, at).unwrap();
        assert_eq!([at(5), at(10), at(19), at(20), at(35), at(50)], [5, 20, 20, 20, 40, 50]);
    }
}
