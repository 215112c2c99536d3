//! The page server: what a lane is asked for, read from the stopped process.
//!
//! It keeps nothing but ways to read, and has no part in what is outstanding: what is asked for is answered, once more if
//! need be. Only memory that may come late is ever shown, and nothing that has been freed here (`--release-source`).
//!
//! Pages of zeroes are not sent as content, except those inside of a huge page (hugetlb) that is not all zero: the other
//! end can place such a page only as a whole.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_128;

use crate::image::memory::Layout;
use crate::image::{FIRST, ObjectId, PAGE_SIZE, PageOwner, PageRange, ProcessIndex, RangeSet};
use crate::preload::PreloadError;
use crate::preload::lazy;
use crate::preload::objects::{ObjectPusher, Shown};
use crate::state::digest::runs_of_zero;
use crate::state::memory_map;
use crate::sys::process::{ProcMem, ends_within, pidfd_open, read_memory};
use crate::sys::stat::start_time;
use crate::sys::voice;
use crate::transport::lane::{LazyRange, PagesHead};
use crate::transport::protocol::PAGES_MAX;

/// The memory of a stopped process, from several threads at once.
#[derive(Debug)]
pub(crate) struct Memory {
    pid: i32,
    /// Its name in the tree.
    of: ProcessIndex,
    /// A thread of it that lives.
    voice: i32,
    pidfd: OwnedFd,
    mem: ProcMem,
    /// What may be shown of private memory.
    private: RangeSet,
    /// Huge pages in it: the size of each mapping's.
    huge: Vec<(PageRange, u64)>,
    objects: BTreeMap<ObjectId, Shown>,
    /// Contents go with their hash.
    verify: bool,
    /// Freed here, since it is there.
    released: Mutex<HashMap<PageOwner, RangeSet>>,
}

/// Why something cannot be answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswerable {
    /// The copy here has been ended by somebody, and what had not been sent is lost.
    #[error("process {0}, the stopped copy at the source, has been ended there")]
    Gone(i32),
    /// There is a page, and the kernel does not give it.
    #[error("the page at {at:#x} of the stopped copy at the source cannot be read: {why}")]
    Unreadable {
        /// Address, or offset in an object.
        at: u64,
        /// What the kernel said.
        why: String,
    },
    /// Not memory that comes late.
    #[error("asked for {0:?}, which is not memory that comes late")]
    Foreign(LazyRange),
}

/// What is read, and answered, at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    /// Where.
    pub of: LazyRange,
    /// Zero as a whole or not at all.
    whole: bool,
}

/// An answer to a piece, or to a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The content.
    Pages(PagesHead, Bytes),
    /// It is zero.
    Zero(LazyRange),
}

impl Memory {
    /// Of a process that is stopped and has this layout.
    pub(crate) fn of(
        (pid, of): (i32, ProcessIndex),
        layout: &Layout,
        objects: Vec<Shown>,
        verify: bool,
    ) -> io::Result<Self> {
        let huge = |v: &&crate::image::Vma| v.huge() && lazy::lazy_able(v);
        Ok(Memory {
            pid,
            of,
            voice: voice::of(pid),
            pidfd: pidfd_open(pid)?,
            mem: ProcMem::of_process(pid)?,
            private: lazy::private(layout),
            huge: layout.vmas.iter().filter(huge).map(|v| (v.range(), v.page_size)).collect(),
            objects: objects.into_iter().map(|shown| (shown.id(), shown)).collect(),
            verify,
            released: Mutex::default(),
        })
    }

    /// Of a process that somebody else has left stopped; `began`: its start time, as the journal has it.
    pub(crate) fn of_left(pid: i32, began: u64, verify: bool) -> Result<Self, PreloadError> {
        let failed = |source| PreloadError::Memory { pid, addr: 0, source };
        let layout = memory_map::survey(pid)?.layout;
        let mut objects = ObjectPusher::default();
        objects.update(voice::of(pid), &layout, &BTreeMap::new());
        let memory =
            Memory::of((pid, FIRST), &layout, objects.shown().map_err(failed)?, verify).map_err(failed)?;
        // what has been opened is of that process only if the process is still that one
        if start_time(pid) == Some(began) { Ok(memory) } else { Err(PreloadError::NoSuchProcess(pid)) }
    }

    /// Whether the stopped process is still there. One that was killed while we trace it ends for its pidfd only when we have taken
    /// the death notice of each thread; its threads are zombies at once.
    pub(crate) fn lives(&self) -> bool {
        !self.has_ended() && voice::lives(self.pid)
    }

    /// Until then its number is its own.
    fn has_ended(&self) -> bool {
        ends_within(self.pidfd.as_fd(), Duration::ZERO)
    }

    /// These are about to be freed here: they cannot be shown any more.
    pub(crate) fn release(&self, ranges: &[LazyRange]) {
        let mut released = self.released();
        ranges.iter().for_each(|r| released.entry(r.owner).or_default().insert(r.range));
    }

    fn released(&self) -> MutexGuard<'_, HashMap<PageOwner, RangeSet>> {
        self.released.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is asked for, in pieces to be answered one after the other.
    pub(crate) fn pieces(
        &self,
        wanted: LazyRange,
    ) -> Result<impl Iterator<Item = Piece> + use<>, Unanswerable> {
        let range = wanted.range;
        let aligned = range.start.is_multiple_of(PAGE_SIZE) && range.end.is_multiple_of(PAGE_SIZE);
        let (known, parts) = match wanted.owner {
            PageOwner::Process(of) => {
                (of == self.of && self.private.gaps(range).is_empty(), by_page_size(range, &self.huge))
            }
            PageOwner::Object(id) => {
                let shown = self.objects.get(&id);
                let within = |s: &Shown| range.intersection(&s.range()) == range;
                (shown.is_some_and(within), vec![(range, shown.map_or(PAGE_SIZE, Shown::page_size))])
            }
        };
        let released = self.released().get(&wanted.owner).is_some_and(|set| set.overlaps(range));
        if !aligned || range.is_empty() || !known || released {
            return Err(Unanswerable::Foreign(wanted));
        }
        let owner = wanted.owner;
        Ok(parts.into_iter().flat_map(move |(part, page_size)| {
            cut(part, page_size)
                .map(move |range| Piece { of: LazyRange { owner, range }, whole: page_size > PAGE_SIZE })
        }))
    }

    /// Reads a piece.
    pub(crate) fn answer(&self, piece: &Piece) -> Result<Vec<Answer>, Unanswerable> {
        let LazyRange { owner, range } = piece.of;
        let mut buffer = BytesMut::zeroed(range.len() as usize);
        let read = match owner.object().and_then(|id| self.objects.get(&id)) {
            Some(shown) => shown.read(range, &mut buffer).map_err(|e| (range.start, crate::sys::chain(&e))),
            None => self.read(range, &mut buffer),
        };
        // The number may be another process's by now: only if it is still ours was it ours that was read. One that was killed while we
        // trace it keeps its number, but has no memory any more that could be read. (`lives` costs as much as reading a page.)
        match read {
            Ok(()) if !self.has_ended() => Ok(self.sorted(piece, buffer.freeze())),
            Err((at, why)) if self.lives() => Err(Unanswerable::Unreadable { at, why }),
            _ => Err(Unanswerable::Gone(self.pid)),
        }
    }

    fn read(&self, range: PageRange, buffer: &mut [u8]) -> Result<(), (u64, String)> {
        if read_memory(self.voice, range.start, buffer).is_ok() {
            return Ok(());
        }
        // through protections, page by page
        for (page, bytes) in range.chunks(PAGE_SIZE).zip(buffer.chunks_mut(PAGE_SIZE as usize)) {
            self.mem.read(page.start, bytes).map_err(|e| (page.start, e.to_string()))?;
        }
        Ok(())
    }

    fn sorted(&self, piece: &Piece, data: Bytes) -> Vec<Answer> {
        let LazyRange { owner, range } = piece.of;
        let mut runs = runs_of_zero(&data, true);
        if piece.whole && runs.iter().any(|(_, _, zero)| !zero) {
            runs = vec![(0, data.len(), false)];
        }
        let mut answers = Vec::new();
        for (from, to, zero) in runs {
            let run = PageRange::new(range.start + from as u64, range.start + to as u64);
            if zero {
                answers.push(Answer::Zero(LazyRange { owner, range: run }));
                continue;
            }
            for part in run.chunks(PAGES_MAX as u64) {
                let at = (part.start - range.start) as usize;
                let content = data.slice(at..at + part.len() as usize);
                let digest = if self.verify { xxh3_128(&content) } else { 0 };
                answers.push(Answer::Pages(PagesHead { owner, start: part.start, digest }, content));
            }
        }
        answers
    }
}

/// Parts of a range, each within mappings of one page size, in order.
fn by_page_size(range: PageRange, huge: &[(PageRange, u64)]) -> Vec<(PageRange, u64)> {
    let mut parts: Vec<(PageRange, u64)> =
        huge.iter().map(|(h, size)| (h.intersection(&range), *size)).filter(|(r, _)| !r.is_empty()).collect();
    let taken: RangeSet = parts.iter().map(|(r, _)| *r).collect();
    parts.extend(taken.gaps(range).into_iter().map(|gap| (gap, PAGE_SIZE)));
    parts.sort_by_key(|(r, _)| r.start);
    parts
}

/// Cuts a range into what is read at once: pieces of a frame's size, or huge pages.
fn cut(range: PageRange, page_size: u64) -> impl Iterator<Item = PageRange> {
    let size = if page_size > PAGE_SIZE { page_size } else { PAGES_MAX as u64 };
    // huge pages begin where their size says, ordinary pieces where the range begins
    let first = match page_size > PAGE_SIZE {
        true => (range.start / size + 1) * size,
        false => range.start + size,
    };
    let head = PageRange::new(range.start, first.min(range.end));
    std::iter::once(head).chain(PageRange::new(head.end, range.end).chunks(size)).filter(|r| !r.is_empty())
}

#[cfg(test)]
#[path = "page_server_tests.rs"]
mod tests;
