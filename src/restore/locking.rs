//! Locked memory (`mlock`). It is locked while it is still empty, on fault (`MLOCK_ONFAULT`), so that no page comes in that was
//! not at the source, and that each is locked as it is placed: to lock what is there costs the kernel 0.1 µs a page, in the freeze.
//!
//! Pages of nothing but zeroes do not travel. Where all pages of an area are there, they come in here as it is mapped: a program that
//! locks its memory wants no page fault.
//!
//! In the freeze, what is to be locked for good (also what is mapped there later: `mprotect`, `mremap`) changes its kind. `mlock` of
//! an area that is locked only changes its flags (`mlock_fixup`), but then looks at every page of it, and brings in what is missing. It
//! gives up at the first page that cannot be read, when all flags are set: so the first page is made one, for that moment.

use super::RestoreError;
use super::skeleton::Skeleton;
use crate::image::{PAGE_SIZE, PageRange, RangeSet, Vma, VmaFlags};
use crate::tracee::Batch;

const MLOCK_ONFAULT: u64 = 1;

/// Locks on fault what the layout says is locked, and unlocks what is not.
pub(super) fn apply(skeleton: &mut Skeleton) -> Result<(), RestoreError> {
    let vmas = &skeleton.layout.vmas;
    let wanted: RangeSet = vmas.iter().filter(|v| v.has(VmaFlags::LOCKED)).map(Vma::range).collect();
    let new: Vec<PageRange> = wanted.without(&skeleton.locked).iter().collect();
    let old: Vec<PageRange> = skeleton.locked.without(&wanted).iter().collect();
    if !new.is_empty() || !old.is_empty() {
        skeleton.run_all(&new, 0, |batch, range| {
            on_fault(batch, *range);
        })?;
        populate(skeleton, &new)?;
        skeleton.run_all(&old, 0, |batch, range| {
            batch.call("munlock", libc::SYS_munlock, &[range.start, range.len()]);
        })?;
    }
    skeleton.locked = wanted;
    Ok(())
}

/// Brings all pages in where all are there at the source.
fn populate(skeleton: &Skeleton, new: &[PageRange]) -> Result<(), RestoreError> {
    /// Linux 5.14. What cannot be brought in is not there at the source either.
    const MADV_POPULATE_READ: u64 = 22;
    const MADV_POPULATE_WRITE: u64 = 23;
    /// Done well within the time that a remote call may take.
    const PIECE: u64 = 64 << 20;
    let new: RangeSet = new.iter().copied().collect();
    for vma in skeleton.layout.vmas.iter().filter(|v| v.has(VmaFlags::POPULATED)) {
        let writable = vma.private() && i32::from(vma.prot) & libc::PROT_WRITE != 0;
        let advice = if writable { MADV_POPULATE_WRITE } else { MADV_POPULATE_READ };
        for piece in new.within(vma.range()).flat_map(|range| range.chunks(PIECE)) {
            let mut batch = skeleton.batch();
            batch.attempt("madvise(POPULATE)", libc::SYS_madvise, &[piece.start, piece.len(), advice]);
            skeleton.run(&batch)?;
        }
    }
    Ok(())
}

/// Locks a range on fault.
pub(super) fn on_fault(batch: &mut Batch, range: PageRange) {
    batch.call("mlock2", libc::SYS_mlock2, &[range.start, range.len(), MLOCK_ONFAULT]);
}

/// Makes one that is locked on fault one that is locked, unless that is what it shall be. Calls that fail leave it as it is.
pub(super) fn finish(batch: &mut Batch, vma: &Vma) {
    if !vma.has(VmaFlags::LOCKED) || vma.has(VmaFlags::LOCK_ON_FAULT) {
        return;
    }
    let readable = i32::from(vma.prot) & (libc::PROT_READ | libc::PROT_EXEC) != 0;
    if readable {
        batch.attempt("mprotect", libc::SYS_mprotect, &[vma.start, PAGE_SIZE, libc::PROT_NONE as u64]);
    }
    batch.attempt("mlock", libc::SYS_mlock, &[vma.start, vma.end - vma.start]);
    if readable {
        batch.call("mprotect", libc::SYS_mprotect, &[vma.start, PAGE_SIZE, u64::from(vma.prot)]);
    }
}
