//! Userfaultfds of the process and of its children, and placing pages through them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;

use super::places::Places;
use crate::image::{ObjectId, PAGE_SIZE, PageRange, ProcessIndex};
use crate::sys::uffd::{self, Features};

/// Zeroes for huge pages, which cannot be zeroed otherwise.
static ZEROES: [u8; 2 << 20] = [0; 2 << 20];

/// What belongs in some pages.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Data(bytes::Bytes),
    Zero,
}

impl Content {
    pub(super) fn slice(&self, from: u64, to: u64) -> Content {
        match self {
            Content::Data(data) => Content::Data(data.slice(from as usize..to as usize)),
            Content::Zero => Content::Zero,
        }
    }
}

/// How far a placing came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Put {
    /// Bytes done, from the start.
    pub(super) done: u64,
    /// Pages of them that were there already.
    pub(super) present: u64,
    /// Pages of them whose mapping is gone.
    pub(super) nowhere: u64,
    /// Why it ended early.
    pub(super) stopped: Option<Interruption>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Interruption {
    /// An event must be read first, or memory is short for the moment.
    Again,
    /// The address space is gone.
    Dead,
}

/// Places `len` bytes of content at `to`.
///
/// `ENOENT` has two meanings. A piece reaches over the end of a mapping (mappings that touch each other count as several): then it is
/// placed page by page. Or nothing registered is there: the process has moved or unmapped it, and the event that tells is yet to be
/// read (since 6.9 the mapping is looked up before `mmap_changing` is asked): then it waits for that. If no event is under way
/// either, the page has no place: we alone read events, so what is settled now was settled before. A child has such places if
/// another thread moved or unmapped something right before the `fork` and told it right after it.
pub(super) fn put(uffd: BorrowedFd<'_>, to: u64, len: u64, content: &Content, page_size: u64) -> Put {
    let mut put = Put { done: 0, present: 0, nowhere: 0, stopped: None };
    let mut most = u64::MAX;
    while put.done < len {
        let piece = most.min(len - put.done);
        let (done, error) = put_piece(uffd, to + put.done, put.done, piece, content, page_size);
        put.done += done;
        match error {
            None => {}
            Some(Errno::EEXIST) => {
                // who waits for it has come too late to hear
                let _ = uffd::wake(uffd, to + put.done, page_size);
                put.done += page_size;
                put.present += 1;
            }
            Some(Errno::ENOENT) if piece > page_size => most = page_size,
            Some(Errno::ENOENT) if uffd::is_settled(uffd) => {
                put.done += page_size;
                put.nowhere += 1;
            }
            Some(Errno::ESRCH) => {
                put.stopped = Some(Interruption::Dead);
                return put;
            }
            Some(Errno::EAGAIN | Errno::ENOENT | Errno::ENOMEM | Errno::ENOSPC) => {
                put.stopped = Some(Interruption::Again);
                return put;
            }
            Some(error) => {
                tracing::error!(%error, at = format!("{:#x}", to + put.done), "no place for a page");
                put.done += page_size;
                put.nowhere += 1;
            }
        }
    }
    put.done = put.done.min(len);
    put
}

/// One request: `len` bytes of the content from `from` on.
fn put_piece(
    uffd: BorrowedFd<'_>,
    at: u64,
    from: u64,
    len: u64,
    content: &Content,
    page_size: u64,
) -> (u64, Option<Errno>) {
    match content {
        Content::Data(data) => uffd::copy(uffd, at, &data[from as usize..(from + len) as usize]),
        Content::Zero if page_size == PAGE_SIZE => uffd::zero(uffd, at, len),
        Content::Zero => uffd::copy(uffd, at, &ZEROES[..page_size.min(len) as usize]),
    }
}

/// Private memory of one process: the one that was moved, or a child of it.
#[derive(Debug)]
pub(super) struct Private {
    /// Whose it is, or was before a fork.
    pub(super) of: ProcessIndex,
    pub(super) uffd: OwnedFd,
    pub(super) places: Places,
}

/// A mapping of a shared object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Area {
    pub(super) range: PageRange,
    pub(super) object: ObjectId,
    pub(super) offset: u64,
}

impl Area {
    fn part(&self, range: PageRange) -> Area {
        Area { range, offset: self.offset + (range.start - self.range.start), ..*self }
    }
}

/// Mappings of shared objects in one process. Their pages belong to the objects, and are placed through [`Feeder`]s.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) uffd: OwnedFd,
    pub(super) areas: Vec<Area>,
}

impl Shared {
    /// The object behind an address, and the offset in it.
    pub(super) fn at(&self, addr: u64) -> Option<(ObjectId, u64)> {
        let area = self.areas.iter().find(|a| a.range.start <= addr && addr < a.range.end)?;
        Some((area.object, area.offset + (addr - area.range.start)))
    }

    /// Wakes who waits for pages of an object.
    pub(super) fn wake(&self, object: ObjectId, range: PageRange) {
        for area in self.areas.iter().filter(|a| a.object == object) {
            let shown = PageRange::new(area.offset, area.offset + area.range.len()).intersection(&range);
            if !shown.is_empty() {
                let start = area.range.start + (shown.start - area.offset);
                let _ = uffd::wake(self.uffd.as_fd(), start, shown.len());
            }
        }
    }

    /// A range is mapped no more.
    pub(super) fn unmapped(&mut self, range: PageRange) {
        self.take(range);
    }

    /// A piece was moved.
    pub(super) fn moved(&mut self, from: u64, to: u64, len: u64) {
        let taken = self.take(PageRange::new(from, from + len));
        self.take(PageRange::new(to, to + len));
        self.areas.extend(taken.into_iter().map(|a| Area {
            range: PageRange::new(a.range.start - from + to, a.range.end - from + to),
            ..a
        }));
    }

    fn take(&mut self, range: PageRange) -> Vec<Area> {
        let mut taken = Vec::new();
        for area in std::mem::take(&mut self.areas) {
            let part = area.range.intersection(&range);
            if part.is_empty() {
                self.areas.push(area);
                continue;
            }
            let rests =
                [PageRange::new(area.range.start, part.start), PageRange::new(part.end, area.range.end)];
            self.areas.extend(rests.into_iter().filter(|r| !r.is_empty()).map(|r| area.part(r)));
            taken.push(area.part(part));
        }
        taken
    }
}

/// Fills a shared object by a mapping of our own: a page appears in it whole or not at all, which `write(2)` does not
/// promise for huge pages, and without regard to who has it mapped where.
#[derive(Debug)]
pub(super) struct Feeder {
    map: MmapRaw,
    uffd: OwnedFd,
    pub(super) page_size: u64,
}

impl Feeder {
    pub(super) fn new(fd: &OwnedFd, size: u64, page_size: u64) -> Result<Self, std::io::Error> {
        let len = size.next_multiple_of(page_size);
        let map = MmapOptions::new().len(len as usize).map_raw(fd)?;
        let own = uffd::create_own(libc::O_NONBLOCK as u64)?;
        // without events: our own munmap would wait for us to hear of it
        uffd::handshake(own.as_fd(), Features::MISSING_HUGETLBFS.union(Features::MISSING_SHMEM))?;
        uffd::register_missing(own.as_fd(), map.as_ptr() as u64, len)?;
        Ok(Feeder { map, uffd: own, page_size })
    }

    /// Places content at an offset.
    pub(super) fn put(&self, offset: u64, len: u64, content: &Content) -> Put {
        let len = len.min((self.map.len() as u64).saturating_sub(offset));
        put(self.uffd.as_fd(), self.map.as_ptr() as u64 + offset, len, content, self.page_size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_mappings_are_cut_and_moved() {
        let id = ObjectId { dev: 1, ino: 2 };
        let range = |s: u64, e: u64| PageRange::new(s << 12, e << 12);
        let uffd = std::fs::File::open("/dev/null").unwrap().into();
        let mut shared = Shared { uffd, areas: vec![Area { range: range(10, 20), object: id, offset: 0 }] };
        shared.unmapped(range(12, 14));
        assert_eq!(shared.at(12 << 12), None);
        assert_eq!(shared.at(14 << 12), Some((id, 4 << 12)));
        shared.moved(16 << 12, 40 << 12, 2 << 12);
        assert_eq!(shared.at(16 << 12), None);
        assert_eq!(shared.at(41 << 12), Some((id, 7 << 12)));
        assert_eq!(shared.at(18 << 12), Some((id, 8 << 12)));
    }
}
