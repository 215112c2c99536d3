//! Guard pages made by `madvise(MADV_GUARD_INSTALL)` (Linux 6.13): markers in the page table that let every access fail,
//! without a mapping of their own. Newer C libraries guard the stacks of threads so.
//!
//! A marker looks like a page in swap that cannot be read. `PAGEMAP_SCAN` and the page map tell it apart (Linux 6.15), so trackers report
//! it ([`crate::dirty::Found`]), and the target makes it anew. On the kernels in between it is first noticed when the last pages are
//! read. In a shared mapping it is refused.

use std::fs::File;
use std::os::fd::AsFd;

use super::StateError;
use crate::image::memory::Layout;
use crate::image::{Obstacle, PageRange};
use crate::sys::kernel::Kernel;
use crate::sys::pagemap::{self, Category, Query};
use crate::sys::voice;

/// Why guard pages in a shared mapping are refused.
pub const SHARED: &str = "guard pages (MADV_GUARD_INSTALL) in a shared mapping are not carried";
/// Why a process with guard pages is refused by a target.
pub const UNKNOWN: &str = "it has guard pages (MADV_GUARD_INSTALL), which the target's kernel does not know";

/// The guard pages of a running process.
#[derive(Debug, Default)]
pub struct Guards {
    /// Those of private mappings.
    pub private: Vec<PageRange>,
    /// One obstacle for all others.
    pub obstacle: Option<Obstacle>,
}

/// Looks for all of them. None, where the kernel does not show them.
pub fn look(kernel: &Kernel, pid: i32, layout: &Layout) -> Result<Guards, StateError> {
    let mut all = Guards::default();
    if !kernel.guards_shown {
        return Ok(all);
    }
    let pagemap = voice::by(pid, |voice| File::open(format!("/proc/{voice}/pagemap")))
        .map_err(StateError::io(pid, "opening the page map"))?;
    for vma in layout.vmas.iter().filter(|v| !v.huge()) {
        pagemap::scan(pagemap.as_fd(), vma.start, vma.end, Query::only(Category::GUARD), |r| {
            if vma.private() {
                all.private.push(PageRange::new(r.start, r.end));
            } else {
                all.obstacle.get_or_insert_with(|| obstacle(r.start, r.end, SHARED));
            }
        })
        .map_err(StateError::errno(pid, "scanning for guard pages"))?;
    }
    Ok(all)
}

/// An obstacle that names one of them.
pub fn obstacle(start: u64, end: u64, why: &str) -> Obstacle {
    Obstacle::new(
        format!("mapping {start:#x}-{end:#x}"),
        why,
        "have the program guard such memory by mprotect",
    )
}
