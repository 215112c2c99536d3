//! Makes the skeleton's mappings those of the source, by differences, so that pages already in place stay.
//!
//! A piece of address space keeps its content when it shows the same thing before and after (private or
//! shared, same file and offset). Anything else is mapped anew; the source knows from its own tracking that
//! such pages must be sent again. Protections and flags that hinder (or are hindered by) the placing of pages
//! are set at the end ([`finish`]); among them all protections of private huge pages (hugetlb), through which not every
//! kernel lets `/proc/PID/mem` write.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;

use super::objects::Objects;
use super::skeleton::Skeleton;
use super::{RestoreError, locking, pages};
use crate::image::memory::Layout;
use crate::image::{Backing, FilePath, PAGE_SIZE, PageRange, RangeSet, Vma, VmaFlags};
use crate::sys::hugetlb;
use crate::sys::kernel::Kernel;
use crate::sys::memory_modes::SYS_MSEAL;
use crate::tracee::Batch;

/// Instead of `MAP_PRIVATE` (Linux 6.11).
const MAP_DROPPABLE: i32 = 0x08;

/// One step of making one layout the other.
#[derive(Debug, PartialEq, Eq)]
enum Step<'a> {
    Unmap(PageRange),
    Map(PageRange, &'a Vma),
    Protect(PageRange, u8),
}

/// Compares two layouts piece by piece.
fn difference<'a>(old: &'a [Vma], new: &'a [Vma]) -> Vec<Step<'a>> {
    let mut edges: BTreeSet<u64> = BTreeSet::new();
    for vma in old.iter().chain(new) {
        edges.extend([vma.start, vma.end]);
    }
    let edges: Vec<u64> = edges.into_iter().collect();
    let (mut o, mut n) = (0, 0);
    let mut steps: Vec<Step<'a>> = Vec::new();
    for piece in edges.windows(2) {
        let range = PageRange::new(piece[0], piece[1]);
        let before = advance(old, &mut o, range);
        let after = advance(new, &mut n, range);
        let step = match (before, after) {
            (None, None) => continue,
            (Some(_), None) => Step::Unmap(range),
            (None, Some(vma)) => Step::Map(range, vma),
            (Some(b), Some(a)) if b.identity_at(range.start) != a.identity_at(range.start) => {
                Step::Map(range, a)
            }
            (Some(b), Some(a)) if early(b) != early(a) => Step::Protect(range, early(a)),
            _ => continue,
        };
        match (steps.last_mut(), step) {
            (Some(Step::Unmap(last)), Step::Unmap(r)) if last.end == r.start => last.end = r.end,
            (Some(Step::Map(last, v)), Step::Map(r, w)) if last.end == r.start && std::ptr::eq(*v, w) => {
                last.end = r.end;
            }
            (Some(Step::Protect(last, p)), Step::Protect(r, q)) if last.end == r.start && *p == q => {
                last.end = r.end
            }
            (_, step) => steps.push(step),
        }
    }
    steps
}

/// The protection while pages are placed.
fn early(vma: &Vma) -> u8 {
    const BOTH: u8 = (libc::PROT_READ | libc::PROT_WRITE) as u8;
    if vma.huge() && vma.private() { BOTH } else { vma.prot }
}

/// The area of a sorted list that covers `range`.
fn advance<'a>(vmas: &'a [Vma], at: &mut usize, range: PageRange) -> Option<&'a Vma> {
    while vmas.get(*at).is_some_and(|v| v.end <= range.start) {
        *at += 1;
    }
    vmas.get(*at).filter(|v| v.start <= range.start)
}

/// Applies the difference between what is mapped and `layout`.
pub fn apply(skeleton: &mut Skeleton, objects: &mut Objects, layout: Layout) -> Result<(), RestoreError> {
    check(&layout)?;
    let joined = joined(&skeleton.layout.vmas, &layout.vmas, &skeleton.written);
    let saved = save(skeleton, joined.iter().flat_map(|j| j.parts.iter().copied()))?;
    let whole: Vec<PageRange> = joined.iter().map(|j| j.whole).collect();
    let old = without(&skeleton.layout.vmas, &whole);
    let steps = difference(&old, &layout.vmas);
    if !steps.is_empty() {
        carry_out(skeleton, objects, &steps)?;
    }
    for step in &steps {
        if let Step::Unmap(range) | Step::Map(range, _) = step {
            skeleton.written.remove(*range);
            skeleton.locked.remove(*range);
        }
    }
    skeleton.layout = layout;
    locking::apply(skeleton)?;
    for (addr, data) in saved {
        pages::write(skeleton, addr, &data)?;
    }
    Ok(())
}

/// New areas that take in the pages of two or more old ones (`mremap`, or unmapped and mapped again). The kernel does
/// not merge two areas that both have pages of their own (their `anon_vma` differ): kept as they are, they
/// would stay two here, and an `mremap` of the whole would see `EFAULT`. They are made anew in one piece.
fn joined(old: &[Vma], new: &[Vma], written: &RangeSet) -> Vec<Joined> {
    new.iter()
        .filter(|n| n.private())
        .filter(|n| continued(old, n).filter(|(o, _)| written.overlaps(o.range())).count() > 1)
        .map(|n| Joined { whole: n.range(), parts: continued(old, n).map(|(_, part)| part).collect() })
        .collect()
}

/// A new area, and what of it shows what was there before.
#[derive(Debug, PartialEq, Eq)]
struct Joined {
    whole: PageRange,
    parts: Vec<PageRange>,
}

/// What the new area continues. In between may have been something else, whose pages are lost as the source knows.
fn continued<'a>(old: &'a [Vma], new: &'a Vma) -> impl Iterator<Item = (&'a Vma, PageRange)> {
    let first = old.partition_point(|o| o.end <= new.start);
    old[first..].iter().take_while(|o| o.start < new.end).filter_map(|o| {
        let both = o.range().intersection(&new.range());
        (o.identity_at(both.start) == new.identity_at(both.start)).then_some((o, both))
    })
}

/// Goes through what [`apply`] would do, for fuzzers: what is kept, made and lost is told apart without a contradiction.
pub(crate) fn walk(old: &Layout, new: &Layout) {
    let written: RangeSet = old.vmas.iter().map(Vma::range).collect();
    let whole: Vec<PageRange> = joined(&old.vmas, &new.vmas, &written).iter().map(|j| j.whole).collect();
    let kept = without(&old.vmas, &whole);
    let mut mapped: RangeSet = kept.iter().map(Vma::range).collect();
    for step in difference(&kept, &new.vmas) {
        match step {
            Step::Unmap(range) => mapped.remove(range),
            Step::Map(range, _) => mapped.insert(range),
            Step::Protect(range, _) => assert!(mapped.overlaps(range)),
        }
    }
    assert_eq!(mapped, new.vmas.iter().map(Vma::range).collect());
}

/// Reads the pages that are in place in these ranges.
fn save(
    skeleton: &Skeleton,
    ranges: impl Iterator<Item = PageRange>,
) -> Result<Vec<(u64, Vec<u8>)>, RestoreError> {
    const PIECE: u64 = 1024 * 1024;
    let mut saved = Vec::new();
    let written = ranges.flat_map(|r| skeleton.written.within(r).collect::<Vec<_>>());
    for piece in written.flat_map(|r| r.chunks(PIECE)) {
        let mut data = vec![0; piece.len() as usize];
        let step = "reading pages that change their area";
        skeleton.site.mem.read(piece.start, &mut data).map_err(RestoreError::io(step))?;
        saved.push((piece.start, data));
    }
    Ok(saved)
}

/// The areas, less these ranges.
fn without(vmas: &[Vma], ranges: &[PageRange]) -> Vec<Vma> {
    let cut: RangeSet = ranges.iter().copied().collect();
    vmas.iter()
        .flat_map(|vma| {
            cut.gaps(vma.range()).into_iter().map(|gap| {
                let (_, _, offset, ..) = vma.identity_at(gap.start);
                Vma { start: gap.start, end: gap.end, offset, ..vma.clone() }
            })
        })
        .collect()
}

/// A layout from the wire: in order, page-aligned, in user space.
fn check(layout: &Layout) -> Result<(), RestoreError> {
    let mut last = 0;
    for v in &layout.vmas {
        let known = !v.huge() || Kernel::here().has_huge_pages_of(v.page_size);
        let aligned = known
            && v.page_size >= PAGE_SIZE
            && [v.start, v.end, v.offset].iter().all(|x| x % v.page_size == 0);
        if !aligned || v.start < last || v.end <= v.start || v.end > 1 << 47 {
            return Err(RestoreError::Nonsense(format!("an impossible mapping {:#x}-{:#x}", v.start, v.end)));
        }
        last = v.end;
    }
    Ok(())
}

fn carry_out(skeleton: &Skeleton, objects: &mut Objects, steps: &[Step<'_>]) -> Result<(), RestoreError> {
    let fds = open_backings(skeleton, objects, steps)?;
    skeleton.run_all(steps, 0, |batch, step| match step {
        Step::Unmap(r) => {
            batch.call("munmap", libc::SYS_munmap, &[r.start, r.len()]);
        }
        Step::Protect(r, prot) => {
            batch.call("mprotect", libc::SYS_mprotect, &[r.start, r.len(), u64::from(*prot)]);
        }
        Step::Map(r, vma) => map(batch, *r, vma, &fds),
    })?;
    if !fds.is_empty() {
        let mut batch = skeleton.batch();
        skeleton.close_received(&mut batch);
        skeleton.run(&batch)?;
    }
    Ok(())
}

/// What a mapping is opened as inside the skeleton.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Opened {
    File(FilePath, bool),
    Object(crate::image::ObjectId, bool),
}

fn opened(vma: &Vma) -> Option<Opened> {
    match &vma.backing {
        Backing::Anonymous => None,
        Backing::File { path } => {
            Some(Opened::File(path.clone(), vma.shared && vma.has(VmaFlags::MAY_WRITE)))
        }
        Backing::SharedAnonymous(id) | Backing::MemFd(id) => {
            let write =
                vma.shared && (vma.has(VmaFlags::MAY_WRITE) || vma.prot & libc::PROT_WRITE as u8 != 0);
            Some(Opened::Object(*id, write))
        }
    }
}

/// Opens files inside the skeleton, hands objects over; gives their numbers there.
fn open_backings(
    skeleton: &Skeleton,
    objects: &mut Objects,
    steps: &[Step<'_>],
) -> Result<BTreeMap<Opened, u64>, RestoreError> {
    let needed: BTreeSet<Opened> =
        steps.iter().filter_map(|s| if let Step::Map(_, vma) = s { opened(vma) } else { None }).collect();
    let mut fds = BTreeMap::new();
    let ids: Vec<_> = needed
        .iter()
        .filter_map(|o| if let Opened::Object(id, write) = o { Some((*id, *write)) } else { None })
        .collect();
    let handed = ids.iter().map(|(id, write)| objects.opened(*id, *write)).collect::<Result<Vec<_>, _>>()?;
    let borrowed: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
    for ((id, write), number) in ids.iter().zip(skeleton.receive(&borrowed)?) {
        fds.insert(Opened::Object(*id, *write), number as u64);
    }
    let files: Vec<(&Opened, &FilePath, bool)> = needed
        .iter()
        .filter_map(|o| if let Opened::File(path, write) = o { Some((o, path, *write)) } else { None })
        .collect();
    for part in files.chunks(64) {
        let mut batch = skeleton.batch();
        let calls: Vec<usize> = skeleton.as_user(&mut batch, |batch| {
            let open = |(_, path, write): &(_, &FilePath, bool)| {
                let access = if *write { libc::O_RDWR } else { libc::O_RDONLY };
                let path = batch.string(path);
                let flags = access | libc::O_CLOEXEC | libc::O_NONBLOCK | libc::O_NOCTTY;
                let args = [libc::AT_FDCWD as u64, path, flags as u64, 0];
                batch.call("open of a mapped file", libc::SYS_openat, &args)
            };
            part.iter().map(open).collect()
        });
        let outcome = skeleton.run(&batch)?;
        for ((opened, path, _), call) in part.iter().zip(calls) {
            let fd = outcome.results[call] as u64;
            // what the peer calls a file may be a device here
            let found = std::fs::metadata(format!("/proc/{}/fd/{fd}", skeleton.pid));
            let zero = |found: &std::fs::Metadata| found.rdev() == libc::makedev(1, 5);
            if !found.is_ok_and(|found| found.is_file() || zero(&found)) {
                return Err(RestoreError::Nonsense(format!(
                    "a mapping of {path}, which is no regular file here"
                )));
            }
            fds.insert((*opened).clone(), fd);
        }
    }
    Ok(fds)
}

fn map(batch: &mut Batch, range: PageRange, vma: &Vma, fds: &BTreeMap<Opened, u64>) {
    let kind = match (vma.shared, vma.has(VmaFlags::DROPPABLE)) {
        (true, _) => libc::MAP_SHARED,
        (false, false) => libc::MAP_PRIVATE,
        (false, true) => MAP_DROPPABLE,
    };
    let mut flags = libc::MAP_FIXED | kind;
    if vma.has(VmaFlags::GROWS_DOWN) {
        flags |= libc::MAP_GROWSDOWN;
    }
    if vma.has(VmaFlags::NO_RESERVE) {
        flags |= libc::MAP_NORESERVE;
    }
    let (fd, offset) = match opened(vma) {
        None => {
            flags |= libc::MAP_ANONYMOUS | if vma.huge() { hugetlb::map_flags(vma.page_size) } else { 0 };
            (u64::MAX, 0)
        }
        Some(backing) => {
            (fds.get(&backing).copied().unwrap_or(u64::MAX), vma.offset + range.start - vma.start)
        }
    };
    let args = [range.start, range.len(), u64::from(early(vma)), flags as u64, fd, offset];
    if vma.huge() {
        // what is there may hold promises of huge pages: they are given back first
        batch.call("munmap", libc::SYS_munmap, &[range.start, range.len()]);
        batch.call(
            "mmap of huge pages (ENOMEM: the target has too few free, see `sysctl vm.nr_hugepages`)",
            libc::SYS_mmap,
            &args,
        );
        return;
    }
    batch.call("mmap", libc::SYS_mmap, &args);
    if vma.has(VmaFlags::NO_HUGE_PAGE) {
        let args = [range.start, range.len(), libc::MADV_NOHUGEPAGE as u64];
        batch.attempt("madvise", libc::SYS_madvise, &args);
    }
}

/// Sets what had to wait until all pages are in place.
pub fn finish(skeleton: &Skeleton) -> Result<(), RestoreError> {
    let advice = [
        (VmaFlags::SEQUENTIAL, libc::MADV_SEQUENTIAL),
        (VmaFlags::RANDOM, libc::MADV_RANDOM),
        (VmaFlags::DONT_FORK, libc::MADV_DONTFORK),
        (VmaFlags::WIPE_ON_FORK, libc::MADV_WIPEONFORK),
        (VmaFlags::DONT_DUMP, libc::MADV_DONTDUMP),
        (VmaFlags::MERGEABLE, libc::MADV_MERGEABLE),
    ];
    let late = VmaFlags::LOCKED | advice.iter().map(|(f, _)| *f).collect::<VmaFlags>();
    let waits = |v: &&Vma| v.flags.intersects(late) || early(v) != v.prot;
    let vmas: Vec<&Vma> = skeleton.layout.vmas.iter().filter(waits).collect();
    skeleton.run_all(&vmas, 0, |batch, vma| {
        let (start, len) = (vma.start, vma.end - vma.start);
        for (_, advice) in advice.iter().filter(|(flag, _)| vma.has(*flag)) {
            batch.call("madvise", libc::SYS_madvise, &[start, len, *advice as u64]);
        }
        if early(vma) != vma.prot {
            batch.call("mprotect", libc::SYS_mprotect, &[start, len, u64::from(vma.prot)]);
        }
        locking::finish(batch, vma);
    })
}

/// Sets what must come behind everything else that is done to a mapping.
pub fn conclude(skeleton: &Skeleton) -> Result<(), RestoreError> {
    let last = VmaFlags::HUGE_PAGE | VmaFlags::SEALED;
    let vmas: Vec<&Vma> = skeleton.layout.vmas.iter().filter(|v| v.flags.intersects(last)).collect();
    if vmas.is_empty() {
        return Ok(());
    }
    skeleton.run_all(&vmas, 0, |batch, vma| {
        let (start, len) = (vma.start, vma.end - vma.start);
        if vma.has(VmaFlags::HUGE_PAGE) {
            // before, each page that is placed would bring a huge one
            batch.attempt("madvise", libc::SYS_madvise, &[start, len, libc::MADV_HUGEPAGE as u64]);
        }
        if vma.has(VmaFlags::SEALED) {
            batch.call("mseal", SYS_MSEAL, &[start, len, 0]);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anon(start: u64, end: u64, prot: u8) -> Vma {
        Vma {
            start: start << 12,
            end: end << 12,
            prot,
            shared: false,
            offset: 0,
            backing: Backing::Anonymous,
            flags: VmaFlags::empty(),
            page_size: PAGE_SIZE,
        }
    }

    fn file(start: u64, end: u64, offset: u64) -> Vma {
        Vma { offset: offset << 12, backing: Backing::File { path: "/f".into() }, ..anon(start, end, 1) }
    }

    fn range(start: u64, end: u64) -> PageRange {
        PageRange::new(start << 12, end << 12)
    }

    #[test]
    fn what_stays_is_not_touched() {
        let old = [anon(1, 4, 3), file(10, 14, 0)];
        assert_eq!(difference(&old, &old), []);
        // split by flags or merged: still the same piece
        let split = [anon(1, 2, 3), anon(2, 4, 3), file(10, 12, 0), file(12, 14, 2)];
        assert_eq!(difference(&old, &split), []);
    }

    #[test]
    fn growth_shrinking_and_protection() {
        let old = [anon(1, 4, 3), anon(8, 9, 3)];
        let new = [anon(1, 2, 3), anon(2, 6, 1)];
        assert_eq!(
            difference(&old, &new),
            [Step::Protect(range(2, 4), 1), Step::Map(range(4, 6), &new[1]), Step::Unmap(range(8, 9))]
        );
    }

    #[test]
    fn two_areas_that_became_one_are_made_anew() {
        let old = [anon(1, 4, 3), anon(6, 9, 3)];
        let new = [anon(1, 9, 3)];
        let both: RangeSet = [range(1, 2), range(6, 7)].into_iter().collect();
        let parts = vec![range(1, 4), range(6, 9)];
        assert_eq!(joined(&old, &new, &both), [Joined { whole: range(1, 9), parts }]);
        // an area without pages merges by itself
        let one: RangeSet = [range(1, 2)].into_iter().collect();
        assert!(joined(&old, &new, &one).is_empty());
        assert_eq!(difference(&without(&old, &[new[0].range()]), &new), [Step::Map(range(1, 9), &new[0])]);
    }

    #[test]
    fn of_an_area_that_took_in_others_only_what_it_continues_is_kept() {
        let old = [anon(1, 4, 3), file(4, 6, 0), anon(6, 9, 3)];
        let new = [anon(1, 9, 3)];
        let all: RangeSet = [range(1, 9)].into_iter().collect();
        let parts = vec![range(1, 4), range(6, 9)];
        assert_eq!(joined(&old, &new, &all), [Joined { whole: range(1, 9), parts }]);
    }

    /// What may become writable keeps its memory file from being sealed (`F_SEAL_WRITE`: EBUSY).
    #[test]
    fn a_shared_mapping_that_only_reads_is_another_than_one_that_may_write() {
        let backing = Backing::MemFd(crate::image::ObjectId { dev: 1, ino: 2 });
        let reads = Vma { shared: true, backing, ..anon(1, 4, 1) };
        let may_write = Vma { flags: VmaFlags::MAY_WRITE, ..reads.clone() };
        let (old, new) = ([may_write], [reads]);
        assert_eq!(difference(&old, &new), [Step::Map(range(1, 4), &new[0])]);
        let private = |vma: &Vma| [Vma { shared: false, ..vma.clone() }];
        assert_eq!(difference(&private(&old[0]), &private(&new[0])), []);
    }

    #[test]
    fn another_backing_is_mapped_anew() {
        let old = [anon(1, 4, 1)];
        let new = [file(1, 4, 0)];
        assert_eq!(difference(&old, &new), [Step::Map(range(1, 4), &new[0])]);
        let moved = [file(1, 4, 1)];
        assert_eq!(difference(&new, &moved), [Step::Map(range(1, 4), &moved[0])]);
    }
}
