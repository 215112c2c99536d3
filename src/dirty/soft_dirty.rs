//! Soft-dirty bits: `/proc/PID/clear_refs` (4) clears them, the first write to a page sets its own, and bit 55 of
//! `/proc/PID/pagemap` shows it (`Documentation/admin-guide/mm/soft-dirty.rst`). No stop is needed to begin.
//!
//! Looking and clearing are two steps, and what is written between them would be lost. So the bits are cleared once,
//! before anything is read, and then only while the process is stopped ([`DirtyTracker::renew`]): in between they add
//! up, and contents are compared by hash to find out what has changed since it was sent. That also filters what a bit
//! says too coarsely: a transparent huge page has one for 2 MiB, a new or grown area (`VM_SOFTDIRTY`) counts as written
//! for as long as the bits are not cleared.
//!
//! What sets no bit, and how it is found all the same (each is a page that would be believed clean):
//! - `mremap` moves whole page tables if it can, with the bits as they are (`move_normal_pmd`; `move_ptes` sets them):
//!   other, clean pages stand at an address.
//! - After `MADV_DONTNEED` a read maps the zero page, clean.
//!
//! In the first case another page frame is there than before: the frame of every page is remembered, and a page with
//! another frame counts as written. A frame that was freed and comes back to the same address was filled by a
//! write, which sets the bit. (A page that was moved by the kernel, or swapped, counts as written, too: harmless.)
//! Frames are shown to `CAP_SYS_ADMIN` only; without it this tracker is not offered.
//!
//! The zero page is no such frame: it comes back without a write. A page that showed it when a round looked, was written
//! before the round read it, sent, dropped, and read by the process again, shows what the round saw. So the zero page always
//! counts as written (`zero_frames.rs`); that costs nothing, since it need not be read.
//!
//! Huge pages (hugetlb) have no such bits (`clear_refs` passes them over): they always count as written.
//!
//! Shared memory is beyond it: dropping the page table entry of a shared page (`MADV_DONTNEED`, reclaim) drops its bit
//! and keeps what was written. The contents of shared objects are always compared.

use std::fs::File;
use std::io::Write as _;

use super::walk::{Judged, Walk, add_entries, side_by_side, span};
use super::zero_frames::ZeroFrames;
use super::{DirtyTracker, Found, Last, TrackError, open_pagemap};
use crate::image::memory::Layout;
use crate::image::page_map::{PIECE_PAGES, place};
use crate::image::{PageMap, RangeSet, Vma};
use crate::sys::pagemap::Entry;
use crate::sys::voice;

/// The tracker. Leaves nothing behind but cleared bits.
#[derive(Debug)]
pub struct SoftDirty {
    pid: i32,
    pagemap: File,
    /// Page frames as last seen; 0: no page.
    frames: PageMap<u64>,
    zero: ZeroFrames,
    begun: bool,
}

impl SoftDirty {
    /// Opens what is needed; the process is not touched.
    pub fn new(pid: i32) -> Result<Self, TrackError> {
        let (pagemap, zero) = (open_pagemap(pid)?, ZeroFrames::find()?);
        Ok(SoftDirty { pid, pagemap, frames: PageMap::default(), zero, begun: false })
    }

    /// All present pages, and whether each counts as written.
    fn look(&self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let walk = Walk::of(self.pid, &self.pagemap, layout);
        let parts = side_by_side(layout, |part| {
            let mut all = Vec::new();
            walk.entries(part, |vma, at, piece| {
                let known = self.frames.piece(at);
                add_entries(&mut all, at, piece, |i, entry| {
                    judge(&self.zero, vma, entry, known.map_or(0, |k| k[place(at) + i]))
                });
            })?;
            Ok(all)
        })?;
        Ok(parts.concat())
    }

    /// Looks, and remembers the frames that were seen.
    fn look_and_remember(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let known = std::mem::take(&mut self.frames);
        let (frames, zero) = (&mut self.frames, &self.zero);
        let mut all = Vec::new();
        Walk::of(self.pid, &self.pagemap, layout).entries(span(layout), |vma, at, piece| {
            let before = known.piece(at).copied().unwrap_or([0; PIECE_PAGES]);
            add_entries(&mut all, at, piece, |i, entry| judge(zero, vma, entry, before[place(at) + i]));
            if piece.iter().any(|e| e.held()) {
                remember(&mut frames.piece_mut(at)[place(at)..], piece);
            }
        })?;
        Ok(all)
    }
}

/// `before`: the frame that was seen there last.
fn judge(zero: &ZeroFrames, vma: &Vma, entry: Entry, before: u64) -> Judged {
    let zero = zero.contain(entry.frame());
    Judged { written: zero || vma.huge() || entry.soft_dirty() || before != entry.frame(), zero }
}

fn remember(frames: &mut [u64], piece: &[Entry]) {
    for (frame, entry) in frames.iter_mut().zip(piece) {
        *frame = if entry.held() { entry.frame() } else { 0 };
    }
}

fn clear(pid: i32) -> Result<(), TrackError> {
    let write = |voice| {
        let file = File::options().write(true).open(format!("/proc/{voice}/clear_refs"));
        file.and_then(|mut file| file.write_all(b"4"))
    };
    voice::by(pid, write).map_err(|source| TrackError::ClearRefs { pid, source })
}

impl DirtyTracker for SoftDirty {
    fn name(&self) -> &'static str {
        "soft-dirty"
    }

    fn exact(&self) -> bool {
        false
    }

    fn round(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let first = !std::mem::replace(&mut self.begun, true);
        if first {
            clear(self.pid)?;
        }
        let mut found = self.look_and_remember(layout)?;
        found.retain_mut(|f| {
            f.written |= first || f.guard;
            f.written
        });
        Ok(found)
    }

    fn gains_by_a_stop(&self) -> bool {
        self.begun
    }

    fn renew(&mut self, layout: &Layout) -> Result<Vec<Found>, TrackError> {
        let mut found = self.look_and_remember(layout)?;
        clear(self.pid)?;
        found.retain(|f| f.written || f.guard);
        Ok(found)
    }

    fn stale(&self) -> bool {
        super::is_gone(&self.pagemap)
    }

    fn last(&mut self, layout: &Layout, known: &RangeSet) -> Result<Last, TrackError> {
        Ok(Last::of_present(self.look(layout)?, known))
    }
}
