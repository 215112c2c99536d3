//! Placing pages in the skeleton's memory as they arrive, straight from the receive buffer.
//!
//! `process_vm_writev` is fast but honours protections; where it refuses (RELRO, patched text, `PROT_NONE`),
//! `/proc/PID/mem` writes through them. Only addresses of private mappings of the announced layout are written:
//! a peer cannot reach anything else.

use super::skeleton::Skeleton;
use super::{RestoreError, locking};
use crate::image::{Backing, PAGE_SIZE, PageRange, RangeSet};
use crate::sys::process;
use nix::errno::Errno;

static ZEROES: [u8; 256 * 1024] = [0; 256 * 1024];

/// Checks that `range` lies wholly in private mappings of the layout.
fn check(skeleton: &Skeleton, range: PageRange) -> Result<(), RestoreError> {
    let vmas = &skeleton.layout.vmas;
    let mut at = range.start;
    let mut i = vmas.partition_point(|v| v.end <= range.start);
    while at < range.end {
        match vmas.get(i) {
            Some(v) if v.start <= at && v.private() => at = v.end,
            _ => {
                return Err(RestoreError::Nonsense(format!(
                    "pages for {:#x}-{:#x}, where nothing private is mapped",
                    range.start, range.end
                )));
            }
        }
        i += 1;
    }
    Ok(())
}

/// Writes pages.
pub fn write(skeleton: &mut Skeleton, addr: u64, data: &[u8]) -> Result<(), RestoreError> {
    let end = addr.checked_add(data.len() as u64).filter(|_| addr.is_multiple_of(PAGE_SIZE));
    let Some(end) = end.filter(|_| (data.len() as u64).is_multiple_of(PAGE_SIZE)) else {
        return Err(RestoreError::Nonsense(format!("pages at an odd address {addr:#x}")));
    };
    check(skeleton, PageRange::new(addr, end))?;
    skeleton.written.insert(PageRange::new(addr, end));
    put(skeleton, addr, data)
}

/// Writes pages whose place is known to be right.
pub(super) fn put(skeleton: &Skeleton, addr: u64, data: &[u8]) -> Result<(), RestoreError> {
    match process::write_memory(skeleton.pid, addr, data) {
        Ok(()) => Ok(()),
        Err(Errno::EFAULT) => skeleton.site.mem.write(addr, data).map_err(|source| {
            let vmas = &skeleton.layout.vmas;
            match vmas.get(vmas.partition_point(|v| v.end <= addr)) {
                // they are writable while pages are placed: what fails is getting one
                Some(v) if v.huge() => {
                    RestoreError::NoHugePage { step: "placing pages", page_size: v.page_size, source }
                }
                _ => RestoreError::io(format!("writing pages at {addr:#x}"))(source),
            }
        }),
        Err(e) => Err(RestoreError::io(format!("writing pages at {addr:#x}"))(e)),
    }
}

/// Makes pages zero. Of anonymous memory those that were written: all others are zero, however many they are.
pub fn zero(skeleton: &mut Skeleton, ranges: &[PageRange]) -> Result<(), RestoreError> {
    for range in ranges {
        check(skeleton, *range)?;
        let vmas = &skeleton.layout.vmas;
        let first = vmas.partition_point(|v| v.end <= range.start);
        let mut there: Vec<PageRange> = Vec::new();
        for vma in vmas[first..].iter().take_while(|v| v.start < range.end) {
            let part = range.intersection(&vma.range());
            match vma.backing {
                Backing::Anonymous if !vma.huge() => there.extend(skeleton.written.within(part)),
                _ => there.push(part),
            }
        }
        for piece in there.into_iter().flat_map(|part| part.chunks(ZEROES.len() as u64)) {
            write(skeleton, piece.start, &ZEROES[..piece.len() as usize])?;
        }
    }
    Ok(())
}

/// Takes pages away: what is behind them (zeroes, the file) shows again.
pub fn drop_pages(skeleton: &mut Skeleton, ranges: &[PageRange]) -> Result<(), RestoreError> {
    for range in ranges {
        check(skeleton, *range)?;
    }
    let ranges = whole(skeleton, ranges);
    for range in &ranges {
        skeleton.written.remove(*range);
    }
    let locked = &skeleton.locked;
    skeleton.run_all(&ranges, 0, |batch, range| {
        let (start, len) = (range.start, range.len());
        // what is locked cannot be dropped
        let held: Vec<PageRange> = locked.within(*range).collect();
        for part in &held {
            batch.call("munlock", libc::SYS_munlock, &[part.start, part.len()]);
        }
        batch.call("madvise(DONTNEED)", libc::SYS_madvise, &[start, len, libc::MADV_DONTNEED as u64]);
        for part in &held {
            locking::on_fault(batch, *part);
        }
    })
}

/// A huge page goes as a whole: at the source, too, all of it is there or nothing.
fn whole(skeleton: &Skeleton, ranges: &[PageRange]) -> Vec<PageRange> {
    let vmas = &skeleton.layout.vmas;
    let mut all = RangeSet::default();
    for range in ranges {
        let first = vmas.partition_point(|v| v.end <= range.start);
        for vma in vmas[first..].iter().take_while(|v| v.start < range.end) {
            let part = range.intersection(&vma.range());
            let start = part.start / vma.page_size * vma.page_size;
            all.insert(PageRange::new(start, part.end.next_multiple_of(vma.page_size)));
        }
    }
    all.iter().collect()
}
