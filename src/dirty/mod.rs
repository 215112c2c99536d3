//! Dirty tracking: what was written since the last look.
//!
//! | file | tracker |
//! |---|---|
//! | [`wp_scan`] | userfaultfd async write-protection with `PAGEMAP_SCAN` (Linux 6.7): exact, cheap |
//! | [`soft_dirty`] | soft-dirty bits of the page map (`CONFIG_MEM_SOFT_DIRTY`, `CAP_SYS_ADMIN`): coarse |
//! | [`checksum`] | none: all contents are compared by hash, in every round and at the end |
//!
//! The rules for pages in `docs/design.md` bind every tracker: in doubt a page counts as written. A tracker that is not
//! [exact](DirtyTracker::exact) may report ever so much; whoever sends compares contents. `docs/tracking.md` says
//! what each costs.

pub mod checksum;
pub mod choice;
pub mod error;
pub mod inside;
pub mod soft_dirty;
mod sparse;
mod walk;
pub mod wp_scan;
mod zero_frames;

pub use checksum::Checksum;
pub use choice::{Choice, Chosen, Kind};
pub use error::TrackError;
pub use soft_dirty::SoftDirty;
pub use wp_scan::WpScan;

use std::fs::File;

use crate::image::memory::Layout;
use crate::image::{PageRange, RangeSet};
use crate::sys::voice;

/// A run of pages that are all of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where.
    pub range: PageRange,
    /// File-backed or shared: in a private mapping such a page was never written.
    pub file: bool,
    /// The kernel's zero page.
    pub zero: bool,
    /// Written since the last round, or not known not to be.
    pub written: bool,
    /// A guard page (`MADV_GUARD_INSTALL`): no content, and every access fails.
    pub guard: bool,
}

impl Found {
    /// Written, with content of its own.
    pub fn data(range: PageRange) -> Self {
        Found { range, file: false, zero: false, written: true, guard: false }
    }

    /// Whether the page is private memory with content of its own.
    pub fn private_data(&self) -> bool {
        !self.file && !self.zero && !self.guard
    }
}

/// What the final scan finds. Listing every present page would cost several times the walk itself, so it is of those alone
/// that changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Last {
    /// Present pages that were written since the last round, or are not known not to be, in address order; and guard pages, all but
    /// those that are known and still there.
    pub written: Vec<Found>,
    /// Known pages with nothing of the process's own behind them any more: dropped, unmapped, or a page of a file again.
    pub gone: RangeSet,
}

impl Last {
    /// From all present pages, in address order.
    pub(crate) fn of_present(mut present: Vec<Found>, known: &RangeSet) -> Self {
        let own: RangeSet = present.iter().filter(|f| f.private_data()).map(|f| f.range).collect();
        present.retain(|f| f.written || f.guard);
        Last { gone: known.without(&own), written: present }
    }
}

/// Finds out which pages of one process are written while it runs.
pub trait DirtyTracker: Send {
    /// Its name in options and reports.
    fn name(&self) -> &'static str;

    /// Whether a page that it reports was most likely written. If not, contents must be compared to find out.
    fn exact(&self) -> bool;

    /// Reports the present pages written since the last round (all, in the first), and starts the next round. A guard page counts as
    /// written when it was made since.
    /// The process runs. Mappings that appeared since are taken in.
    fn round(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError>;

    /// Whether a round while the process is [stopped](DirtyTracker::renew) makes later ones report less that was not written.
    fn gains_by_a_stop(&self) -> bool {
        false
    }

    /// A round while the process is stopped.
    fn renew(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        self.round(layout)
    }

    /// Whether the address space that is tracked is the process's no more: it has ended, or begun another program. What is found from then
    /// on is nothing, not a change.
    fn stale(&self) -> bool;

    /// The final scan. `known`: every page that a round reported and nobody has forgotten since; what is present besides counts as
    /// written. The process is stopped and will not run on here.
    fn last(&mut self, layout: &Layout, known: &RangeSet) -> Result<Last, TrackError>;
}

/// Whether the address space behind a page map is gone: it has no entry then, not even for the first page (`pagemap_read`).
fn is_gone(pagemap: &File) -> bool {
    use std::os::unix::fs::FileExt as _;
    matches!(pagemap.read_at(&mut [0; 8], 0), Ok(0))
}

fn open_pagemap(pid: i32) -> Result<File, TrackError> {
    voice::by(pid, |voice| File::open(format!("/proc/{voice}/pagemap")))
        .map_err(|source| TrackError::Pagemap { pid, source })
}
