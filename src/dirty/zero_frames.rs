//! The page frames that stand for zeroes in every process: the zero page, and the huge zero page where the kernel has
//! one (`mm/huge_memory.c`). Found by reading memory of our own that nobody has written, since no interface names them
//! without a look at `/proc/kpageflags` for each page.

use std::fs::File;
use std::ops::Range;

use memmap2::{Advice, MmapMut};
use nix::errno::Errno;

use super::{TrackError, open_pagemap};
use crate::image::PAGE_SIZE;
use crate::sys::pagemap;

/// Of a transparent huge page.
const HUGE: u64 = 2 * 1024 * 1024;

/// Both kinds. Our own mappings of them are kept: the kernel gives the huge one up when nobody uses it.
#[derive(Debug)]
pub(super) struct ZeroFrames {
    small: u64,
    huge: Range<u64>,
    _kept: [MmapMut; 2],
}

impl ZeroFrames {
    pub(super) fn find() -> Result<Self, TrackError> {
        let own = std::process::id() as i32;
        let map = open_pagemap(own)?;
        let small = area(own, PAGE_SIZE)?;
        let large = area(own, 2 * HUGE)?;
        // without huge pages there is no huge page of zeroes either
        let _ = large.advise(Advice::HugePage);
        let at = (large.as_ptr() as u64).next_multiple_of(HUGE);
        std::hint::black_box(small[0]);
        std::hint::black_box(large[(at - large.as_ptr() as u64) as usize]);
        let frames = frames(&map, own, at, HUGE)?;
        let first = frames.first().copied().unwrap_or(0);
        let whole = first != 0 && frames.iter().zip(first..).all(|(frame, next)| *frame == next);
        let small_frame = self::frames(&map, own, small.as_ptr() as u64, PAGE_SIZE)?;
        Ok(ZeroFrames {
            small: small_frame.first().copied().unwrap_or(0),
            huge: if whole { first..first + HUGE / PAGE_SIZE } else { 0..0 },
            _kept: [small, large],
        })
    }

    /// Whether a page with that frame reads as zeroes, whatever was there before.
    pub(super) fn contain(&self, frame: u64) -> bool {
        frame != 0 && (frame == self.small || self.huge.contains(&frame))
    }
}

fn area(own: i32, len: u64) -> Result<MmapMut, TrackError> {
    MmapMut::map_anon(len as usize).map_err(|e| {
        let errno = Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        TrackError::kernel(own, "mapping memory to find the zero page")(errno)
    })
}

fn frames(map: &File, own: i32, at: u64, len: u64) -> Result<Vec<u64>, TrackError> {
    let mut frames = Vec::new();
    pagemap::entries(map, at, at + len, |_, piece| frames.extend(piece.iter().map(|e| e.frame())))
        .map_err(TrackError::kernel(own, "reading the page map"))?;
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_only_is_zero_and_what_was_written_is_not() {
        let own = std::process::id() as i32;
        let zero = ZeroFrames::find().unwrap();
        let map = open_pagemap(own).unwrap();
        if zero.small == 0 {
            println!("page frames are hidden from us: nothing to see");
            return;
        }
        let mut memory = area(own, 2 * PAGE_SIZE).unwrap();
        std::hint::black_box(memory[0]);
        memory[PAGE_SIZE as usize] = 1;
        let seen = frames(&map, own, memory.as_ptr() as u64, 2 * PAGE_SIZE).unwrap();
        assert!(zero.contain(seen[0]) && !zero.contain(seen[1]), "{seen:x?} {zero:x?}");
        assert!(!zero.contain(0));
    }
}
