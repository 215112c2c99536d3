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

use crate::image::PageRange;
use crate::image::memory::Layout;

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
}

impl Found {
    /// Whether the page is private memory with content of its own.
    pub fn private_data(&self) -> bool {
        !self.file && !self.zero
    }
}

/// Finds out which pages of one process are written while it runs.
pub trait DirtyTracker: Send {
    /// Its name in options and reports.
    fn name(&self) -> &'static str;

    /// Whether a page that it reports was most likely written. If not, contents must be compared to find out.
    fn exact(&self) -> bool;

    /// Reports the present pages written since the last round (all, in the first), and starts the next round.
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

    /// Reports every present page, in address order. The process is stopped and will not run on here.
    fn last(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError>;
}

fn open_pagemap(pid: i32) -> Result<File, TrackError> {
    File::open(format!("/proc/{pid}/pagemap")).map_err(|source| TrackError::Pagemap { pid, source })
}
