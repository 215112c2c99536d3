//! `/proc/PID/pagemap`: which pages of a process are present, written, file-backed or zero.
//!
//! By `PAGEMAP_SCAN` (Linux 6.7), in one walk of its page tables, which write-protects the written ones in the same
//! walk if asked; or entry by entry, as every kernel has it (`Documentation/admin-guide/mm/pagemap.rst`).
//!
//! Facts this relies on (mm: `fs/proc/task_mmu.c`):
//! - With `PM_SCAN_WP_MATCHING` areas that are not registered for async write-protection are skipped silently.
//! - A huge page (hugetlb) is protected whole or not at all: a range that begins or ends inside one passes it over,
//!   without a word but that `walk_end` points back to it. Whatever the range, that is so for pages larger than 2 MiB.
//! - A mask of exactly `WRITTEN` takes a fast path that reports never-populated pages as written and plants
//!   markers for them; asking for more categories avoids both.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::kernel::Kernel;

bitflags::bitflags! {
    /// Page categories (`PAGE_IS_*`).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Category: u64 {
        /// The page lies in an area that is registered for async write-protection.
        const WPALLOWED = 1 << 0;
        /// Written since it was last write-protected, or never protected.
        const WRITTEN = 1 << 1;
        /// File-backed or shared anonymous: not a private copy.
        const FILE = 1 << 2;
        /// In memory.
        const PRESENT = 1 << 3;
        /// In swap, or a marker.
        const SWAPPED = 1 << 4;
        /// The kernel's zero page.
        const PFNZERO = 1 << 5;
        /// Part of a transparent or explicit huge page.
        const HUGE = 1 << 6;
        /// Soft-dirty.
        const SOFT_DIRTY = 1 << 7;
        /// A guard page made by `MADV_GUARD_INSTALL` (Linux 6.15).
        const GUARD = 1 << 8;
    }
}

impl Category {
    /// [`Category::GUARD`], where the kernel knows it; scans that name what it does not know are refused.
    pub fn guards_of(kernel: &Kernel) -> Self {
        if kernel.guards_shown { Category::GUARD } else { Category::empty() }
    }
}

/// Pages `[start, end)` which are all of the same categories (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Region {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    categories: u64,
}

impl Region {
    /// What all pages of the region are, of the categories that were asked for.
    pub fn categories(&self) -> Category {
        Category::from_bits_truncate(self.categories)
    }
}

#[repr(C)]
struct ScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}
const _: () = assert!(size_of::<ScanArg>() == 96);
const _: () = assert!(
    std::mem::offset_of!(ScanArg, start) == 16
        && std::mem::offset_of!(ScanArg, walk_end) == 32
        && std::mem::offset_of!(ScanArg, vec) == 40
        && std::mem::offset_of!(ScanArg, max_pages) == 56
);
const _: () = assert!(
    std::mem::offset_of!(ScanArg, category_inverted) == 64
        && std::mem::offset_of!(ScanArg, category_anyof_mask) == 80
        && std::mem::offset_of!(ScanArg, return_mask) == 88
);
const _: () = assert!(
    size_of::<Region>() == 24
        && std::mem::offset_of!(Region, end) == 8
        && std::mem::offset_of!(Region, categories) == 16
);
/// `_IOWR('f', 16, struct pm_scan_arg)`
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
const PM_SCAN_WP_MATCHING: u64 = 1;
/// The largest huge page.
const LARGEST: u64 = 1 << 30;

/// Which pages a scan reports.
#[derive(Clone, Copy, Debug)]
pub struct Query {
    /// All of these must be set (after inversion).
    pub all: Category,
    /// At least one of these must be set (empty: no condition).
    pub any: Category,
    /// These count as set when they are not.
    pub inverted: Category,
    /// What is reported of each region.
    pub report: Category,
    /// Write-protect what is reported.
    pub protect: bool,
}

impl Query {
    /// For pages of this category, whatever else they are.
    pub fn only(category: Category) -> Self {
        Query {
            all: category,
            any: Category::empty(),
            inverted: Category::empty(),
            report: category,
            protect: false,
        }
    }
}

/// Scans `[start, end)` and hands each region to `each`. Regions come in address order; one that spans two
/// kernel calls may arrive in two parts. Where pages are protected, some may come twice, the second time since they were written
/// in between: both count.
pub fn scan(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    query: Query,
    mut each: impl FnMut(Region),
) -> Result<(), Errno> {
    walk(pagemap, start, end, query, &mut each)
}

fn walk(
    pagemap: BorrowedFd<'_>,
    start: u64,
    end: u64,
    query: Query,
    each: &mut dyn FnMut(Region),
) -> Result<(), Errno> {
    const MOST: u64 = 4096;
    let mut regions = vec![Region::default(); ((end - start) / 4096).clamp(1, MOST) as usize];
    let mut from = start;
    while from < end {
        let mut arg = ScanArg {
            size: size_of::<ScanArg>() as u64,
            flags: if query.protect { PM_SCAN_WP_MATCHING } else { 0 },
            start: from,
            end,
            walk_end: 0,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            max_pages: 0,
            category_inverted: query.inverted.bits(),
            category_mask: query.all.bits(),
            category_anyof_mask: query.any.bits(),
            return_mask: query.report.bits(),
        };
        // SAFETY: arg and the vector it points to are valid for the sizes given, and outlive the call.
        let got = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
        let got = match Errno::result(got) {
            Ok(n) => usize::try_from(n).unwrap_or(0),
            Err(Errno::EINTR) => continue,
            Err(e) => return Err(e),
        };
        regions[..got].iter().copied().for_each(&mut *each);
        if query.protect && arg.walk_end <= from && got == 0 {
            // part of a huge page: reported, not protected, so that it is found again
            let behind = end.min((from / LARGEST + 1) * LARGEST);
            walk(pagemap, from, behind, Query { protect: false, ..query }, each)?;
            from = behind;
            continue;
        }
        // Linux 6.18 was seen to say it stopped where it began to fill its buffer for the last time, though it went on to
        // the end: what was reported was walked. Where pages are protected, once more is harmless, and leaves none out.
        let reported = regions[..got].last().map_or(0, |r| r.end);
        from = if query.protect { arg.walk_end } else { arg.walk_end.max(reported) };
    }
    Ok(())
}

/// One page's entry of `/proc/PID/pagemap`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(u64);

impl Entry {
    /// In memory or in swap.
    pub fn held(self) -> bool {
        self.0 >> 62 != 0
    }

    /// File-backed or shared anonymous: not a private copy.
    pub fn file(self) -> bool {
        self.0 >> 61 & 1 == 1
    }

    /// Soft-dirty; also every page of an area that was mapped or grew since the bits were cleared (`VM_SOFTDIRTY`).
    pub fn soft_dirty(self) -> bool {
        self.0 >> 55 & 1 == 1
    }

    /// A guard page made by `MADV_GUARD_INSTALL` (shown since Linux 6.15); it looks like a page in swap.
    pub fn guard(self) -> bool {
        self.0 >> 58 & 1 == 1
    }

    /// The page frame, or the place in swap. Zero for a page in memory if we lack `CAP_SYS_ADMIN`.
    pub fn frame(self) -> u64 {
        // bit 62 keeps a place in swap apart from a frame of the same number
        self.0 & (((1 << 55) - 1) | (1 << 62))
    }
}

/// Bytes of address space whose entries are handed over together: aligned pieces, one page table each.
pub const PIECE: u64 = 2 * 1024 * 1024;

/// Reads the entries of all pages of `[start, end)`, in pieces that do not cross a multiple of [`PIECE`].
pub fn entries(
    pagemap: &File,
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, &[Entry]),
) -> Result<(), Errno> {
    const PAGE: u64 = 4096;
    const AT_ONCE: u64 = 16 * PIECE;
    let mut bytes = vec![0u8; (AT_ONCE / PAGE * 8) as usize];
    let mut piece = Vec::with_capacity((PIECE / PAGE) as usize);
    let mut from = start;
    while from < end {
        let to = end.min((from / AT_ONCE + 1) * AT_ONCE);
        let wanted = &mut bytes[..((to - from) / PAGE * 8) as usize];
        let got = match pagemap.read_at(wanted, from / PAGE * 8) {
            Ok(n) => n / 8 * 8,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
        };
        if got == 0 {
            // the process has ended, or the end of user space is reached
            return Ok(());
        }
        let mut at = from;
        let mut rest = &wanted[..got];
        while !rest.is_empty() {
            let pages = ((at / PIECE + 1) * PIECE - at) / PAGE;
            let (now, later) = rest.split_at(rest.len().min(pages as usize * 8));
            piece.clear();
            piece.extend(
                now.chunks_exact(8).map(|e| Entry(u64::from_ne_bytes(e.try_into().unwrap_or_default()))),
            );
            each(at, &piece);
            at += piece.len() as u64 * PAGE;
            rest = later;
        }
        from += got as u64 / 8 * PAGE;
    }
    Ok(())
}

/// Whether a page is in memory or in swap, by its entry.
pub fn is_held(pagemap: &File, page: u64) -> Result<bool, Errno> {
    let mut entry = [0; 8];
    match pagemap.read_exact_at(&mut entry, page / 4096 * 8) {
        Ok(()) => Ok(Entry(u64::from_ne_bytes(entry)).held()),
        // the process has ended, or the end of user space is reached
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
    }
}

/// Hands over the runs of pages of `[start, end)` that hold private data (in memory or in swap, no page of a file, no guard page),
/// however this kernel shows it. Pages of zeroes may be among them.
pub fn private_pages(
    kernel: &Kernel,
    pagemap: &File,
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, u64),
) -> Result<(), Errno> {
    if kernel.pagemap_scan {
        let query = Query {
            all: Category::empty(),
            any: Category::PRESENT | Category::SWAPPED,
            inverted: Category::empty(),
            report: Category::FILE | Category::PFNZERO | Category::guards_of(kernel),
            protect: false,
        };
        return scan(pagemap.as_fd(), start, end, query, |r| {
            if r.categories().is_empty() {
                each(r.start, r.end);
            }
        });
    }
    let own = |entry: &Entry| entry.held() && !entry.file() && !entry.guard();
    entries(pagemap, start, end, |at, piece| {
        let mut first = 0;
        for run in piece.chunk_by(|a, b| own(a) == own(b)) {
            let after = first + run.len() as u64;
            if own(&run[0]) {
                each(at + first * 4096, at + after * 4096);
            }
            first = after;
        }
    })
}

/// Hands over the runs of pages of `[start, end)` that are in memory or in swap, whatever they hold; zero pages, too.
pub fn held_pages(
    kernel: &Kernel,
    pagemap: &File,
    start: u64,
    end: u64,
    mut each: impl FnMut(u64, u64),
) -> Result<(), Errno> {
    if kernel.pagemap_scan {
        let held = Category::PRESENT | Category::SWAPPED;
        let query = Query { all: Category::empty(), any: held, ..Query::only(held) };
        return scan(pagemap.as_fd(), start, end, query, |r| each(r.start, r.end));
    }
    entries(pagemap, start, end, |at, piece| {
        for (i, _) in piece.iter().enumerate().filter(|(_, entry)| entry.held()) {
            each(at + i as u64 * 4096, at + (i as u64 + 1) * 4096);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_come_once_however_many_there_are() {
        let kernel = Kernel::here();
        if !kernel.pagemap_scan {
            return;
        }
        let pages = 24_000;
        let mut map = memmap2::MmapMut::map_anon(pages * 4096).unwrap();
        // every second page, so that each is a region
        (0..pages).step_by(2).for_each(|i| map[i * 4096] = 1);
        let (start, end) = (map.as_ptr() as u64, map.as_ptr() as u64 + map.len() as u64);
        let own = File::open("/proc/self/pagemap").unwrap();
        let mut regions = Vec::new();
        private_pages(kernel, &own, start, end, |from, to| regions.push((from, to))).unwrap();
        assert!(regions.windows(2).all(|w| w[0].1 <= w[1].0), "regions overlap");
        let found: u64 = regions.iter().map(|(from, to)| (to - from) / 4096).sum();
        assert_eq!(found, pages as u64 / 2);
    }
}
