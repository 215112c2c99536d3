//! Which pages have changed, by their contents: for trackers that report more than what was written.

use super::ProfileError;
use crate::image::{PAGE_SIZE, PageMap, PageRange, RangeSet};
use crate::preload::PreloadError;
use crate::preload::look::{How, batches, look};
use crate::preload::push::read;
use crate::sys::process::ProcMem;
use crate::sys::voice;

/// Hashes of the pages as last seen.
#[derive(Debug)]
pub(crate) struct Contents {
    pid: i32,
    mem: ProcMem,
    seen: PageMap<u128>,
}

impl Contents {
    /// Nothing is seen yet.
    pub(crate) fn of(pid: i32) -> Result<Self, ProfileError> {
        let mem = ProcMem::of_process(pid).map_err(|source| PreloadError::Memory { pid, addr: 0, source })?;
        Ok(Contents { pid, mem, seen: PageMap::default() })
    }

    /// Those of `pages` that are not what they were when last seen, or were never seen.
    pub(crate) fn changed(&mut self, pages: &RangeSet) -> Result<RangeSet, ProfileError> {
        let (pid, mem, seen) = (voice::of(self.pid), &self.mem, &mut self.seen);
        let all = batches(pages.iter().map(|range| (range, How { skip_zero: false, ..How::default() })));
        let mut changed = RangeSet::default();
        look(&all, &|batch| Ok(read(pid, mem, batch)), |run| {
            for (at, hash) in (run.start..).step_by(PAGE_SIZE as usize).zip(&run.hashes) {
                if seen.set(at, *hash) != *hash {
                    changed.insert(PageRange::new(at, at + PAGE_SIZE));
                }
            }
            Ok(())
        })?;
        Ok(changed)
    }
}
