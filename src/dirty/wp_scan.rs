//! Write-protect tracking: every page is protected by a userfaultfd in `WP_ASYNC` mode, the first write to it is
//! let through by the kernel and leaves a mark, and `PAGEMAP_SCAN` collects the marks and protects anew in one
//! atomic walk.
//!
//! The userfaultfd must belong to the process's own address space: it is made by a remote system call, taken
//! over with `pidfd_getfd` and closed inside. When we close ours, or die, the kernel takes all protection back
//! (`userfaultfd_release`): nothing is left in the process.
//!
//! A mapping made between two rounds, be it at an address that had another before, is not registered. That is
//! the sign of a new one: before new areas are registered, a scan for *present pages in unregistered areas*
//! takes them all as written, whatever marks they carry (`mremap` may have brought old ones along).
//!
//! A guard page (`MADV_GUARD_INSTALL`) is a marker of its own, which looks like a page in swap. Protecting it marks it, too, so that it
//! is reported once; taking the protection back leaves that mark (`change_pte_range`), which says nothing in an area that is not registered.
//!
//! Huge pages (hugetlb) are marked as wholes. Those larger than 2 MiB cannot be protected by a scan
//! ([`crate::sys::pagemap`]): they count as written in every round. Dropping a protected page (`MADV_DONTNEED`) of
//! huge pages or of a file leaves its mark behind, which goes before the final scan.

mod last;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use super::inside::Inside;
use super::walk::{span, tracked};
use super::{DirtyTracker, Found, Last, TrackError, open_pagemap};
use crate::image::memory::Layout;
use crate::image::{Backing, PAGE_SIZE, PageRange, RangeSet, Vma, VmaFlags};
use crate::sys::kernel::Kernel;
use crate::sys::pagemap::{self, Category, Query, Region};
use crate::sys::process::{ProcMem, pidfd_getfd, pidfd_of_thread};
use crate::sys::uffd::{self, Features, UFFD_USER_MODE_ONLY};
use crate::sys::voice;

const HELD: Category = Category::PRESENT.union(Category::SWAPPED);

/// The tracker; dropping it leaves no trace in the process.
#[derive(Debug)]
pub struct WpScan {
    pid: i32,
    uffd: OwnedFd,
    pagemap: File,
    /// [`Category::GUARD`], where scans may name it.
    guards: Category,
    /// [`Kernel::holes_reported`]
    reports_holes: bool,
}

impl WpScan {
    /// Makes the userfaultfd inside the process by means of a stopped thread.
    pub fn install(kernel: &Kernel, pid: i32, inside: Inside<'_, '_>) -> Result<Self, TrackError> {
        let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64 | UFFD_USER_MODE_ONLY;
        // closed inside whether or not we get it: no trace
        let taken = inside.remote.make_and_close(
            ("userfaultfd", libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0]),
            (inside.scratch, inside.pid),
            |fd| pidfd_of_thread(voice::of(pid)).and_then(|pidfd| pidfd_getfd(pidfd.as_fd(), fd)),
        )?;
        let uffd = taken.map_err(TrackError::kernel(pid, "taking over the userfaultfd"))?;
        uffd::handshake(uffd.as_fd(), Features::TRACKING).map_err(TrackError::Unsupported)?;
        Ok(Self::of(kernel, pid, uffd, open_pagemap(pid)?))
    }

    fn of(kernel: &Kernel, pid: i32, uffd: OwnedFd, pagemap: File) -> Self {
        let guards = Category::guards_of(kernel);
        WpScan { pid, uffd, pagemap, guards, reports_holes: kernel.holes_reported }
    }

    fn scan(&self, range: PageRange, query: Query, each: impl FnMut(Region)) -> Result<(), TrackError> {
        pagemap::scan(self.pagemap.as_fd(), range.start, range.end, query, each)
            .map_err(TrackError::kernel(self.pid, "scanning the pages"))
    }

    /// Whether a page is in memory or in swap.
    fn is_held(&self, page: u64) -> Result<bool, TrackError> {
        pagemap::is_held(&self.pagemap, page).map_err(TrackError::kernel(self.pid, "reading the page map"))
    }

    /// A huge page that was protected and then dropped leaves its mark in its place, which a scan cannot tell from a page in
    /// swap, unchanged. Without the mark there is nothing. The process is stopped.
    fn clear_marks(&self, layout: &Layout) -> Result<(), TrackError> {
        for place in layout.vmas.iter().filter(|v| v.huge() && v.private()).map(Vma::range) {
            let mut marks = Vec::new();
            self.scan(place, swapped_ones(), |r| marks.push(PageRange::new(r.start, r.end)))?;
            for mark in marks {
                uffd::unprotect(self.uffd.as_fd(), mark.start, mark.len())
                    .map_err(TrackError::kernel(self.pid, "clearing the marks of dropped pages"))?;
            }
        }
        Ok(())
    }

    /// Registers whole spans between areas that cannot be registered, not area by area: the process runs and may
    /// have grown or moved an area since the layout was read, and registering part of one would split it in two,
    /// which `mremap` of the whole would notice (`EFAULT`).
    fn register(&self, layout: &Layout) -> Result<(), TrackError> {
        for span in spans(layout) {
            if self.register_range(span)? {
                continue;
            }
            // something in it has changed: area by area this once
            let inside = |v: &&Vma| registrable(v) && span.intersection(&v.range()) == v.range();
            for vma in layout.vmas.iter().filter(inside) {
                self.register_range(vma.range())?;
            }
        }
        Ok(())
    }

    /// A protected copy of a file's page leaves a marker when it is dropped (`MADV_DONTNEED`), which looks like a page in
    /// swap: present, clean, the process's own. Touched, each shows what it is: the file's page, or the copy from swap.
    fn bring_in(&self, range: PageRange) -> Result<(), TrackError> {
        let mut absent = Vec::new();
        self.scan(range, out_of_memory_ones(), |r| absent.push(PageRange::new(r.start, r.end)))?;
        if absent.is_empty() {
            return Ok(());
        }
        let memory = |source| TrackError::Memory { pid: self.pid, source };
        let mem = ProcMem::of_process(self.pid).map_err(memory)?;
        for page in absent.iter().flat_map(|r| r.chunks(PAGE_SIZE)) {
            // what cannot be read (beyond the end of the file, a guard page) stays as it is
            let _ = mem.read(page.start, &mut [0]);
        }
        Ok(())
    }

    /// `false`: the range holds nothing, or something that cannot be registered.
    fn register_range(&self, range: PageRange) -> Result<bool, TrackError> {
        match uffd::register_write_protect(self.uffd.as_fd(), range.start, range.len()) {
            Ok(()) => Ok(true),
            // EINVAL, ENOENT: unmapped or replaced since the layout was read: the next round sees it.
            // EPERM: a shared mapping that nobody can write through.
            Err(Errno::EINVAL | Errno::ENOENT | Errno::EPERM) => Ok(false),
            Err(e) => Err(TrackError::kernel(self.pid, "registering a mapping for tracking")(e)),
        }
    }
}

/// Everything between areas that cannot be registered (the vDSO's) or need not be, to its full width: an area that
/// has grown into the free space beside it is still whole.
fn spans(layout: &Layout) -> Vec<PageRange> {
    /// Above `vm.mmap_min_addr`, below the end of user space.
    const ALL: PageRange = PageRange { start: 0x10000, end: 0x7fff_ffff_f000 };
    let mut barriers: RangeSet = layout.vmas.iter().filter(|v| !registrable(v)).map(|v| v.range()).collect();
    layout.special.iter().for_each(|s| barriers.insert(*s));
    let mapped: RangeSet = layout.vmas.iter().map(|v| v.range()).collect();
    let first = |gap: &PageRange| layout.vmas.get(layout.vmas.partition_point(|v| v.end <= gap.start));
    barriers
        .gaps(ALL)
        .into_iter()
        .filter(|gap| mapped.overlaps(*gap))
        // the kernel wants a range whose first area is of huge pages to begin at such a page
        .map(|gap| match first(&gap) {
            Some(vma) if vma.huge() => PageRange::new(vma.start, gap.end),
            _ => gap,
        })
        .collect()
}

/// Whether it can be registered at all. What cannot is new in each round.
fn registrable(vma: &Vma) -> bool {
    tracked(vma) && !vma.has(VmaFlags::DROPPABLE)
}

/// Areas whose pages are too large for a scan to protect.
fn gigantic(layout: &Layout) -> RangeSet {
    const PROTECTABLE: u64 = 2 << 20;
    layout.vmas.iter().filter(|v| v.page_size > PROTECTABLE).map(Vma::range).collect()
}

/// A range cut at the borders of areas of huge pages: the kernel refuses to work on parts of those.
fn by_page_size(layout: &Layout, range: PageRange) -> Vec<PageRange> {
    let first = layout.vmas.partition_point(|v| v.end <= range.start);
    let huge = layout.vmas[first..].iter().take_while(|v| v.start < range.end).filter(|v| v.huge());
    let mut all = Vec::new();
    let mut at = range.start;
    for part in huge.map(|v| v.range().intersection(&range)) {
        all.extend([PageRange::new(at, part.start), part]);
        at = part.end;
    }
    all.push(PageRange::new(at, range.end));
    all.retain(|r| !r.is_empty());
    all
}

fn everything(guards: Category, file: Category) -> Query {
    Query {
        all: Category::empty(),
        any: HELD,
        inverted: Category::empty(),
        report: Category::WPALLOWED | Category::WRITTEN | Category::PFNZERO | guards | file,
        protect: false,
    }
}

/// Pages of files in private mappings are left alone: once written they are no file pages any more. Protecting them would
/// leave a marker for each that is dropped or reclaimed, which looks like a swapped page.
fn written_ones(guards: Category, file: Category, protect: bool) -> Query {
    Query {
        all: Category::WRITTEN | file,
        any: HELD,
        inverted: file,
        report: Category::WRITTEN | Category::PFNZERO | guards | file,
        protect,
    }
}

/// Exactly this is the kernel's fast path: without our mark, or empty.
fn fast_ones() -> Query {
    Query::only(Category::WRITTEN)
}

/// Neither in memory nor in swap, even where there is no page table.
fn absent_ones() -> Query {
    Query { all: HELD, any: Category::empty(), inverted: HELD, report: Category::PRESENT, protect: false }
}

/// In swap, or a mark without a page.
fn out_of_memory_ones() -> Query {
    Query::only(Category::SWAPPED)
}

/// In swap, or a mark without a page; in either case not written since.
fn swapped_ones() -> Query {
    Query {
        all: Category::SWAPPED.union(Category::WPALLOWED).union(Category::WRITTEN),
        any: Category::SWAPPED,
        inverted: Category::WRITTEN,
        report: Category::SWAPPED,
        protect: false,
    }
}

/// Present or not.
fn pages_of_unregistered(guards: Category) -> Query {
    Query { any: Category::empty(), report: HELD | Category::PFNZERO | guards, ..unregistered_ones(guards) }
}

fn unregistered_ones(guards: Category) -> Query {
    Query {
        all: Category::WPALLOWED,
        any: HELD,
        inverted: Category::WPALLOWED,
        report: Category::FILE | Category::PFNZERO | guards,
        protect: false,
    }
}

fn found(region: Region, written: bool) -> Found {
    let categories = region.categories();
    Found {
        range: PageRange::new(region.start, region.end),
        file: categories.contains(Category::FILE),
        zero: categories.contains(Category::PFNZERO),
        written,
        guard: categories.contains(Category::GUARD),
    }
}

impl DirtyTracker for WpScan {
    fn name(&self) -> &'static str {
        "wp-scan"
    }

    fn exact(&self) -> bool {
        true
    }

    fn round(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let whole = span(layout);
        let mut new = RangeSet::default();
        let mut all = Vec::new();
        self.scan(whole, unregistered_ones(self.guards), |r| {
            let found = found(r, true);
            // what is no data yet may become some before the second scan, which then must not be passed over
            if found.private_data() {
                new.insert(found.range);
            }
            all.push(found);
        })?;
        self.register(layout)?;
        for range in all.iter().flat_map(|f| by_page_size(layout, f.range)) {
            // a mark brought along by `mremap` may sit on a writable page, whose writes it would hide; where this fails
            // the area has changed again, and is new in the next round
            let _ = uffd::unprotect(self.uffd.as_fd(), range.start, range.len());
        }
        let mut again = Vec::new();
        let gigantic = gigantic(layout);
        for (range, file) in by_file(layout, whole) {
            for part in gigantic.gaps(range) {
                self.scan(part, written_ones(self.guards, file, true), |r| again.push(found(r, true)))?;
            }
            for part in gigantic.within(range) {
                self.scan(part, everything(self.guards, file), |r| again.push(found(r, true)))?;
            }
        }
        // the pages of new areas carry no marks, so most of them come a second time
        for f in again {
            all.extend(new.gaps(f.range).into_iter().map(|range| Found { range, ..f }));
        }
        all.sort_by_key(|f| f.range.start);
        Ok(all)
    }

    fn stale(&self) -> bool {
        super::is_gone(&self.pagemap)
    }

    fn last(&mut self, layout: &Layout, known: &RangeSet) -> Result<Last, TrackError> {
        self.clear_marks(layout)?;
        last::last(self, layout, known)
    }
}

/// Ranges of neighbouring areas, and whether it matters there what is a page of a file. The kernel looks that up in
/// its `struct page`: a cache miss for every page, several times the cost of the walk itself. In shared mappings
/// and in anonymous ones the answer is known. In a hole it is not: something may have been mapped there since.
fn by_file(layout: &Layout, part: PageRange) -> Vec<(PageRange, Category)> {
    let mut all: Vec<(PageRange, Category)> = Vec::new();
    let mut add = |range: PageRange, file: Category| match all.last_mut() {
        _ if range.is_empty() => {}
        Some((last, f)) if *f == file && last.end == range.start => last.end = range.end,
        _ => all.push((range, file)),
    };
    let mut at = part.start;
    for vma in &layout.vmas {
        let range = vma.range().intersection(&part);
        if range.is_empty() {
            continue;
        }
        let known = vma.shared || matches!(vma.backing, Backing::Anonymous);
        add(PageRange::new(at, range.start), Category::FILE);
        add(range, if known { Category::empty() } else { Category::FILE });
        at = range.end;
    }
    all
}
