//! No tracking at all: every present page counts as written, in each round. Whoever sends them compares contents by
//! hash and leaves out what did not change. For kernels that have neither write-protect scans nor soft-dirty bits, and
//! for users who may not use them; costs a walk through all memory in every round, and within the freeze.

use std::fs::File;

use super::walk::{add_entries, side_by_side, tracked};
use super::{DirtyTracker, Found, TrackError, open_pagemap, sparse};
use crate::image::PageRange;
use crate::image::memory::Layout;
use crate::sys::pagemap;

/// The tracker. Nothing is installed.
#[derive(Debug)]
pub struct Checksum {
    pid: i32,
    pagemap: File,
}

impl Checksum {
    /// Opens the page map.
    pub fn new(pid: i32) -> Result<Self, TrackError> {
        Ok(Checksum { pid, pagemap: open_pagemap(pid)? })
    }

    fn present(&self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let empty = sparse::empty_areas(self.pid, layout);
        side_by_side(layout, |part: PageRange| {
            let mut all = Vec::new();
            for vma in layout.vmas.iter().filter(|v| tracked(v) && !empty.contains(&v.start)) {
                let range = vma.range().intersection(&part);
                pagemap::entries(&self.pagemap, range.start, range.end, |at, piece| {
                    add_entries(&mut all, at, piece, |_, _| true);
                })
                .map_err(TrackError::kernel(self.pid, "reading the page map"))?;
            }
            Ok(all)
        })
    }
}

impl DirtyTracker for Checksum {
    fn name(&self) -> &'static str {
        "checksum"
    }

    fn exact(&self) -> bool {
        false
    }

    fn round(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        self.present(layout)
    }

    fn last(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        self.present(layout)
    }
}
