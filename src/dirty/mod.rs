//! Dirty tracking: what was written since the last look.
//!
//! | file | tracker |
//! |---|---|
//! | [`wp_scan`] | userfaultfd async write-protection with `PAGEMAP_SCAN` (Linux 6.7) |
//!
//! The rules for pages in `docs/design.md` bind every tracker: in doubt a page counts as written.

pub mod error;
pub mod wp_scan;

pub use error::TrackError;
pub use wp_scan::WpScan;

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

    /// Reports the present pages written since the last round (all, in the first), and starts the next round.
    /// The process runs. Mappings that appeared since are taken in.
    fn round(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError>;

    /// Reports every present page, in address order. The process is stopped and will not run on here.
    fn last(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError>;
}
