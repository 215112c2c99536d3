//! Guard pages (`MADV_GUARD_INSTALL`): made when all pages are in place, since what is there goes, and before anything is locked for good.
//! In a locked area the kernel makes none: it is unlocked for that moment.

use super::RestoreError;
use super::locking;
use super::skeleton::Skeleton;
use crate::image::{PageRange, Vma, VmaFlags};
use crate::sys::memory_modes::MADV_GUARD_INSTALL;

/// Makes all of them.
pub(super) fn put(skeleton: &Skeleton, guards: &[PageRange]) -> Result<(), RestoreError> {
    let vmas = &skeleton.layout.vmas;
    let mut parts: Vec<(PageRange, &Vma)> = Vec::new();
    for guard in guards {
        let first = vmas.partition_point(|v| v.end <= guard.start);
        let inside = vmas.get(first).filter(|v| v.start <= guard.start && guard.end <= v.end);
        match inside {
            Some(vma) if vma.private() && !vma.huge() => parts.push((*guard, vma)),
            _ => return Err(RestoreError::Nonsense(format!("a guard page at {:#x}", guard.start))),
        }
    }
    skeleton.run_all(&parts, 0, |batch, (guard, vma)| {
        let locked = vma.has(VmaFlags::LOCKED);
        if locked {
            batch.call("munlock", libc::SYS_munlock, &[guard.start, guard.len()]);
        }
        let args = [guard.start, guard.len(), MADV_GUARD_INSTALL as u64];
        batch.call("madvise(GUARD_INSTALL)", libc::SYS_madvise, &args);
        if locked {
            locking::on_fault(batch, *guard);
        }
    })
}
