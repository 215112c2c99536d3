//! Guard pages made by `madvise(MADV_GUARD_INSTALL)` (Linux 6.13): markers in the page table that let every access fail,
//! without a mapping of their own. Newer C libraries guard the stacks of threads so.
//!
//! They are not carried yet: a page that looks like one in swap and cannot be read. `PAGEMAP_SCAN` tells them apart
//! (Linux 6.15); on the kernels in between they are first noticed when the last pages are read.

use std::fs::File;
use std::os::fd::AsFd;

use super::StateError;
use crate::image::Obstacle;
use crate::image::memory::Layout;
use crate::sys::pagemap::{self, Category, Query};

/// One obstacle for all of them.
pub fn obstacles(pid: i32, layout: &Layout) -> Result<Option<Obstacle>, StateError> {
    let pagemap =
        File::open(format!("/proc/{pid}/pagemap")).map_err(StateError::io(pid, "opening the page map"))?;
    let query = Query {
        all: Category::GUARD,
        any: Category::empty(),
        inverted: Category::empty(),
        report: Category::GUARD,
        protect: false,
    };
    let mut found = Vec::new();
    for vma in layout.vmas.iter().filter(|v| !v.huge()) {
        let scanned =
            pagemap::scan(pagemap.as_fd(), vma.start, vma.end, query, |r| found.push((r.start, r.end)));
        // EINVAL: the kernel does not know the category
        if scanned.is_err() {
            return Ok(None);
        }
    }
    Ok(found.first().map(|(start, end)| {
        Obstacle::new(
            format!("mapping {start:#x}-{end:#x}"),
            format!("guard pages (MADV_GUARD_INSTALL) are not carried yet; {} in all", found.len()),
            "run it with a C library that guards the stacks of threads by mprotect (older ones do)",
        )
    }))
}
