//! Lazy memory at the source: which pages may come after the process, and which of them the target does not have.
//!
//! | word | means |
//! |---|---|
//! | *lazy-able* | memory that a userfaultfd can wait for: private anonymous mappings, and shared objects that nobody has a descriptor of |
//! | *outstanding* | lazy-able pages that are present here and that the target does not have as they are now |
//! | *touched first* | pages that each thread needs for its first steps: they go with the freeze |
//!
//! `read` and `write` on a descriptor go past a userfaultfd, and so does what a private mapping of an object shows: such
//! objects are eager. What is locked must not wait. In doubt a page is outstanding.

use std::collections::BTreeMap;

use crate::image::memory::{Layout, VmaFlags};
use crate::image::process::ThreadImage;
use crate::image::{Backing, ObjectId, PAGE_SIZE, PageOwner, PageRange, RangeSet, Vma};
use crate::sys::regs::from_words;
use crate::transport::lane::LazyRange;

/// Bytes of the huge pages that can come late; larger ones cannot.
const HUGE: u64 = 2 * 1024 * 1024;

/// How far around what is touched first the next touches are expected.
const NEIGHBOURS: u64 = 16 * PAGE_SIZE;

/// Longest order. It is worked out in the freeze, and random writes leave tens of thousands of single pages.
const HINTS: usize = 1024;

/// What comes after the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Later {
    /// Private memory.
    pub private: RangeSet,
    /// Shared objects, as offsets.
    pub objects: BTreeMap<ObjectId, RangeSet>,
    /// Private pages that are written often, the hottest first. Not all of them are outstanding.
    pub hot: Vec<RangeSet>,
}

impl Later {
    /// Pages in all.
    pub fn pages(&self) -> u64 {
        self.private.pages() + self.objects.values().map(RangeSet::pages).sum::<u64>()
    }

    /// Whether nothing does.
    pub fn is_empty(&self) -> bool {
        self.private.is_empty() && self.objects.values().all(RangeSet::is_empty)
    }

    /// Of one object.
    pub fn object(&self, id: ObjectId) -> RangeSet {
        self.objects.get(&id).cloned().unwrap_or_default()
    }

    /// Private pages in the order in which they are likely to be needed: around what the threads touch first, then what
    /// they write often.
    pub fn order(&self, touched: &RangeSet) -> Vec<PageRange> {
        let mut rest = self.private.clone();
        let mut order = Vec::new();
        let around = touched
            .iter()
            .map(|r| PageRange::new(r.start.saturating_sub(NEIGHBOURS), r.end.saturating_add(NEIGHBOURS)));
        let often = self.hot.iter().flat_map(RangeSet::iter);
        for range in around.chain(often).take(HINTS) {
            let part: Vec<PageRange> = rest.within(range).collect();
            part.iter().for_each(|r| rest.remove(*r));
            order.extend(part);
        }
        order
    }
}

/// Whether a mapping's own pages may come late.
pub fn lazy_able(vma: &Vma) -> bool {
    vma.private() && vma.backing == Backing::Anonymous && fits(vma)
}

fn fits(vma: &Vma) -> bool {
    // userfaultfd(2) does not take droppable memory. And `UFFDIO_COPY` takes a guard page for a missing one (`pte_none_mostly`): where
    // guard pages are made, one may be made over what is outstanding
    let kept = vma.flags & VmaFlags::LOCKED.union(VmaFlags::DROPPABLE).union(VmaFlags::GUARDED);
    kept.is_empty() && matches!(vma.page_size, PAGE_SIZE | HUGE)
}

/// The private memory of a process that may come late.
pub fn private(layout: &Layout) -> RangeSet {
    layout.vmas.iter().filter(|v| lazy_able(v)).map(Vma::range).collect()
}

/// Of that, what is made of ordinary pages.
pub fn ordinary(layout: &Layout) -> RangeSet {
    layout.vmas.iter().filter(|v| lazy_able(v) && !v.huge()).map(Vma::range).collect()
}

/// Whether an object may come late: all that shows it are shared mappings that fit. `open`: the process has a descriptor.
pub fn object(layout: &Layout, id: ObjectId, open: bool) -> bool {
    let mut shown = layout.vmas.iter().filter(|v| v.object() == Some(id)).peekable();
    !open && shown.peek().is_some() && shown.all(|v| v.shared && fits(v) && may_wait(v))
}

/// What may not be written cannot be waited for: the kernel registers no such shared mapping.
fn may_wait(vma: &Vma) -> bool {
    !matches!(vma.backing, Backing::MemFd(_)) || vma.has(VmaFlags::MAY_WRITE)
}

/// Extends each range to whole pages of its mapping: of a huge page, nothing comes late unless all does.
pub fn whole_pages(layout: &Layout, set: &mut RangeSet) {
    for vma in layout.vmas.iter().filter(|v| v.huge()) {
        let parts: Vec<PageRange> = set.within(vma.range()).collect();
        parts.into_iter().for_each(|part| set.insert(whole(part, vma.page_size)));
    }
}

/// The whole pages of `page_size` bytes around a range.
pub fn whole(range: PageRange, page_size: u64) -> PageRange {
    PageRange::new(range.start / page_size * page_size, range.end.next_multiple_of(page_size))
}

/// How memory of a process that is not needed here any more is freed: addresses, lengths, `MADV_*`. Only what may come late is.
pub fn freeing(layout: &Layout, ranges: &[LazyRange]) -> Vec<(u64, u64, i32)> {
    let mut calls = Vec::new();
    for LazyRange { owner, range } in ranges {
        for vma in &layout.vmas {
            match owner {
                PageOwner::Process(_) if lazy_able(vma) => {
                    let part = vma.range().intersection(range);
                    calls.push((part.start, part.len(), libc::MADV_DONTNEED));
                }
                // one mapping is enough: the object itself loses its pages
                PageOwner::Object(id) if vma.object() == Some(*id) && vma.shared => {
                    let shown = PageRange::new(vma.offset, vma.offset + (vma.end - vma.start));
                    let part = shown.intersection(range);
                    calls.push((
                        part.start.wrapping_sub(vma.offset).wrapping_add(vma.start),
                        part.len(),
                        libc::MADV_REMOVE,
                    ));
                }
                _ => {}
            }
        }
    }
    calls.retain(|(_, len, _)| *len > 0);
    calls
}

/// What the threads touch first: stacks, thread areas, what the kernel writes or reads for them, and what their registers
/// point at. Of lazy-able memory of ordinary pages only: a huge page is late as a whole or not at all.
pub fn touched(layout: &Layout, threads: &[ThreadImage]) -> RangeSet {
    let ordinary = ordinary(layout);
    let mut pages = RangeSet::default();
    for thread in threads {
        for (at, len) in places(thread) {
            let start = at / PAGE_SIZE * PAGE_SIZE;
            let end = at.saturating_add(len).min(u64::MAX - PAGE_SIZE).next_multiple_of(PAGE_SIZE);
            ordinary.within(PageRange::new(start, end)).for_each(|r| pages.insert(r));
        }
    }
    pages
}

/// Addresses, and how many bytes from there on.
fn places(thread: &ThreadImage) -> Vec<(u64, u64)> {
    let mut all = vec![
        (thread.rseq.0, u64::from(thread.rseq.1).max(32)),
        (thread.robust_list.0, 24),
        (thread.clear_child_tid, 4),
    ];
    all.extend(thread.patch.as_ref().map(|(at, bytes)| (*at, bytes.len() as u64)));
    all.extend(thread.wait.iter().flat_map(|wait| wait.args).map(|arg| (arg, 16)));
    if let Some(r) = from_words(&thread.regs) {
        // the next frames lie below, those that are returned to above
        all.push((r.rsp.saturating_sub(PAGE_SIZE), 3 * PAGE_SIZE));
        // thread-local variables lie below
        all.push((r.fs_base.saturating_sub(PAGE_SIZE), 2 * PAGE_SIZE));
        let arguments = [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9];
        let others = [r.rax, r.rbx, r.rcx, r.rbp, r.r12, r.r13, r.r14, r.r15, r.r11];
        let blocked = r.orig_rax as i64 >= 0;
        all.extend(arguments.into_iter().chain(others.into_iter().filter(|_| !blocked)).map(|at| (at, 16)));
    }
    all.retain(|(at, _)| *at >= PAGE_SIZE);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::FIRST;

    fn pages(from: u64, to: u64) -> PageRange {
        PageRange::new(from * PAGE_SIZE, to * PAGE_SIZE)
    }

    fn vma(range: PageRange) -> Vma {
        Vma {
            start: range.start,
            end: range.end,
            prot: 3,
            shared: false,
            offset: 0,
            backing: Backing::Anonymous,
            flags: VmaFlags::default(),
            page_size: PAGE_SIZE,
        }
    }

    #[test]
    fn what_cannot_wait_is_eager() {
        let id = ObjectId { dev: 1, ino: 2 };
        let plain = vma(pages(1, 2));
        assert!(lazy_able(&plain));
        for eager in [
            Vma { flags: VmaFlags::LOCKED, ..plain.clone() },
            Vma { backing: Backing::File { path: "/x".into() }, ..plain.clone() },
            Vma { backing: Backing::MemFd(id), ..plain.clone() },
            Vma { page_size: 1 << 30, ..plain.clone() },
        ] {
            assert!(!lazy_able(&eager), "{eager:?}");
        }
        let shared = Vma { shared: true, backing: Backing::SharedAnonymous(id), ..plain.clone() };
        let layout = |vmas: &[Vma]| Layout { vmas: vmas.to_vec(), ..Layout::default() };
        let locked = Vma { flags: VmaFlags::LOCKED, ..shared.clone() };
        let private = Vma { shared: false, ..shared.clone() };
        assert!(object(&layout(&[plain.clone(), shared.clone()]), id, false));
        assert!(!object(&layout(std::slice::from_ref(&shared)), id, true), "read(2) goes past it");
        assert!(!object(&layout(&[plain]), id, false), "nothing shows it");
        assert!(!object(&layout(&[shared.clone(), locked]), id, false));
        assert!(!object(&layout(&[shared, private]), id, false));
    }

    #[test]
    fn threads_need_their_stacks_and_what_they_point_at() {
        let layout = Layout {
            vmas: vec![vma(pages(100, 200)), Vma { page_size: HUGE, ..vma(pages(512, 1536)) }],
            ..Layout::default()
        };
        let mut regs = vec![0; 27];
        regs[19] = 110 * PAGE_SIZE + 8; // rsp
        regs[21] = 150 * PAGE_SIZE; // fs_base
        regs[15] = 7; // orig_rax: poll
        regs[14] = 180 * PAGE_SIZE - 8; // rdi, across a border
        regs[13] = 600 * PAGE_SIZE; // rsi, in a huge page
        regs[5] = 190 * PAGE_SIZE; // rbx: of no use to a blocked thread
        let thread = ThreadImage { regs, rseq: (120 * PAGE_SIZE, 32, 0), ..ThreadImage::default() };
        let expected: RangeSet =
            [pages(109, 113), pages(120, 121), pages(149, 151), pages(179, 181)].into_iter().collect();
        assert_eq!(touched(&layout, std::slice::from_ref(&thread)), expected);
        let mut runs = thread;
        runs.regs[15] = u64::MAX;
        assert!(touched(&layout, &[runs]).overlaps(pages(190, 191)));
    }

    #[test]
    fn neighbours_come_first_then_what_is_hot_and_nothing_twice() {
        let later = Later {
            private: [pages(0, 50), pages(100, 200)].into_iter().collect(),
            hot: vec![
                [pages(150, 152), pages(49, 60)].into_iter().collect(),
                [pages(0, 300)].into_iter().collect(),
            ],
            ..Later::default()
        };
        let touched: RangeSet = [pages(60, 61)].into_iter().collect();
        let order = later.order(&touched);
        assert_eq!(order[..2], [pages(44, 50), pages(150, 152)]);
        assert_eq!(order.iter().map(PageRange::pages).sum::<u64>(), 150);
        assert_eq!(order.into_iter().collect::<RangeSet>(), later.private);
    }

    #[test]
    fn freeing_names_addresses_and_nothing_that_is_not_late() {
        let id = ObjectId { dev: 1, ino: 2 };
        let shared = Vma {
            shared: true,
            offset: 3 * PAGE_SIZE,
            backing: Backing::SharedAnonymous(id),
            ..vma(pages(100, 110))
        };
        let code = Vma { backing: Backing::File { path: "/x".into() }, ..vma(pages(6, 9)) };
        let layout = Layout { vmas: vec![vma(pages(1, 6)), code, shared], ..Layout::default() };
        let of = |owner, range| LazyRange { owner, range };
        let wanted = [of(PageOwner::Process(FIRST), pages(4, 8)), of(PageOwner::Object(id), pages(0, 5))];
        let page = PAGE_SIZE;
        assert_eq!(
            freeing(&layout, &wanted),
            [(4 * page, 2 * page, libc::MADV_DONTNEED), (100 * page, 2 * page, libc::MADV_REMOVE)]
        );
    }

    #[test]
    fn huge_pages_are_late_as_a_whole() {
        let layout = Layout {
            vmas: vec![vma(pages(1, 9)), Vma { page_size: HUGE, ..vma(pages(512, 2048)) }],
            ..Layout::default()
        };
        let mut set: RangeSet = [pages(3, 4), pages(1030, 1031)].into_iter().collect();
        whole_pages(&layout, &mut set);
        assert_eq!(set, [pages(3, 4), pages(1024, 1536)].into_iter().collect());
    }
}
