//! No tracking at all: every present page counts as written, in each round. Whoever sends them compares contents by
//! hash and leaves out what did not change. For kernels that have neither write-protect scans nor soft-dirty bits, and
//! for users who may not use them; costs a walk through all memory in every round, and within the freeze.

use std::fs::File;

use super::walk::{Judged, Walk, add_entries, side_by_side};
use super::{DirtyTracker, Found, Last, TrackError, open_pagemap};
use crate::image::RangeSet;
use crate::image::memory::Layout;

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
        let walk = Walk::of(self.pid, &self.pagemap, layout);
        let parts = side_by_side(layout, |part| {
            let mut all = Vec::new();
            let written = Judged { written: true, zero: false };
            walk.entries(part, |_, at, piece| add_entries(&mut all, at, piece, |_, _| written))?;
            Ok(all)
        })?;
        Ok(parts.concat())
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

    fn stale(&self) -> bool {
        super::is_gone(&self.pagemap)
    }

    fn last(&mut self, layout: &Layout, known: &RangeSet) -> Result<Last, TrackError> {
        Ok(Last::of_present(self.present(layout)?, known))
    }
}
