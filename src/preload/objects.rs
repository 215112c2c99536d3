//! Shared memory objects at the source: shared anonymous memory and memfds.
//!
//! The tracker sees stores through the mappings of the process. It does not see `write(2)` on a memfd, nor a
//! mapping that came and went between two rounds, nor what a child wrote before it ended, nor what was written and lost
//! its page table entry (`MADV_DONTNEED`, reclaim: the content stays). So contents are compared by hash: of all pages
//! at the end; in the rounds, too, for an object that has a descriptor, or several mappings, or mappings that changed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};

use bytes::{Bytes, BytesMut};

use super::PreloadError;
use super::lazy;
use super::lazy::Later;
use super::look::{Batch, How, Look, batches, cut, look};
use super::push::PageSink;
use crate::dirty::Found;
use crate::image::memory::{Layout, MemoryObject};
use crate::image::{ObjectId, PAGE_SIZE, PageMap, PageRange, RangeSet, Vma};
use crate::state::StateError;
use crate::state::digest::{self, Digest, data_ranges, read_up_to};
use crate::state::memory_map::map_file;
use crate::state::{reasons, shared_memory};
use crate::sys::process::{ProcMem, read_memory};

/// What the target has of the shared objects of one process.
#[derive(Debug, Default)]
pub struct ObjectPusher {
    objects: BTreeMap<ObjectId, Source>,
}

/// An object as it can be read.
#[derive(Debug)]
pub struct Shown {
    pid: i32,
    id: ObjectId,
    /// `None`: we may not open it, and read through the mappings.
    file: Option<File>,
    /// As the target knows it.
    size: u64,
    /// Bytes of its pages.
    page_size: u64,
    /// Shared ones.
    mappings: Vec<(PageRange, u64)>,
}

#[derive(Debug)]
struct Source {
    shown: Shown,
    unsure: bool,
    /// It may come after the process.
    lazy: bool,
    /// A part of it that the process shows privately is to be read nowhere.
    hidden: bool,
    hashes: PageMap<u128>,
    sent: RangeSet,
    begun: bool,
}

impl ObjectPusher {
    /// Takes in the objects of a layout. `descriptors`: memfds by inode with one of their numbers.
    pub fn update(&mut self, pid: i32, layout: &Layout, descriptors: &BTreeMap<u64, i32>) {
        for object in &layout.objects {
            let shows = |v: &&Vma| v.object() == Some(object.id);
            let all: Vec<PageRange> = layout.vmas.iter().filter(shows).map(Vma::range).collect();
            let mappings: Vec<(PageRange, u64)> = layout
                .vmas
                .iter()
                .filter(shows)
                .filter(|v| v.shared)
                .map(|v| (v.range(), v.offset))
                .collect();
            let fd = descriptors.get(&object.id.ino).copied();
            let source = self.objects.entry(object.id).or_insert_with(|| Source {
                shown: Shown {
                    pid,
                    id: object.id,
                    file: None,
                    size: object.size,
                    page_size: object.page_size,
                    mappings: mappings.clone(),
                },
                unsure: false,
                lazy: false,
                hidden: false,
                hashes: PageMap::default(),
                sent: RangeSet::default(),
                begun: false,
            });
            let shown = &mut source.shown;
            if shown.file.is_none() {
                shown.file = open(pid, object.id, fd, &all);
            }
            source.unsure |= fd.is_some() || mappings.len() > 1 || mappings != shown.mappings;
            source.hidden = shown.file.is_none() && shared_memory::shown_privately_only(layout, object);
            shown.mappings = mappings;
            source.lazy = lazy::object(layout, object.id, fd.is_some());
        }
    }

    /// Sends what is new; in the `last` round everything is looked at. Returns the number of pages with content, and what
    /// comes after the process. `lazy`: in a round, objects that may do so are left out; in the last one, what the target
    /// lacks of them is not sent.
    pub fn push(
        &mut self,
        layout: &Layout,
        found: &[Found],
        (last, lazy): (bool, bool),
        sink: &mut dyn PageSink,
    ) -> Result<(u64, BTreeMap<ObjectId, RangeSet>), PreloadError> {
        let (mut pages, mut later) = (0, BTreeMap::new());
        // as the target does with the same layout: should the object come back, it begins with nothing on both sides
        self.objects.retain(|id, _| layout.objects.iter().any(|o| o.id == *id));
        for (id, source) in &mut self.objects {
            source.shown.size =
                layout.objects.iter().find(|o| o.id == *id).map_or(0, |o: &MemoryObject| o.size);
            if last && source.hidden {
                // seen in preflight, unless it has come since then
                let why = format!("memory object {}: {}", id.ino, reasons::UNREADABLE);
                return Err(StateError::Obstacles(why).into());
            }
            let late = lazy && source.lazy;
            if late && !last {
                // what was written meanwhile is not noted: should it have to be sent after all, then all of it
                source.begun = false;
                continue;
            }
            let all = source.shown.ranges()?;
            if late && source.sent.is_empty() {
                later.insert(*id, source.shown.whole_pages(all.into_iter().collect()));
                continue;
            }
            let whole = last || !source.begun || source.unsure;
            let wanted = if whole { all.clone() } else { written(layout, *id, found) };
            source.begun = true;
            let mut lacks = late.then(RangeSet::default);
            match source.push(wanted, lacks.as_mut(), sink) {
                // without a descriptor it is read by its mappings, which may have gone meanwhile: next time, then
                Err(PreloadError::Memory { .. }) if !last && source.shown.file.is_none() => {
                    source.begun = false
                }
                sent => pages += sent?,
            }
            if let Some(lacks) = lacks {
                let lacks = source.shown.whole_pages(lacks);
                source.sent.subtract(&lacks);
                later.insert(*id, lacks);
            }
            let mut holes = source.sent.clone();
            all.iter().for_each(|r| holes.remove(*r));
            if !holes.is_empty() {
                source.forget(&holes);
                sink.object_holes(*id, holes.iter().collect())?;
            }
        }
        Ok((pages, later))
    }

    /// Hashes of the contents without what comes later, for `--verify`. What we may not open is read through the mappings.
    pub fn digests(&self, later: &Later) -> Result<Vec<(ObjectId, Digest)>, PreloadError> {
        self.objects.iter().map(|(id, source)| Ok((*id, source.shown.digest(&later.object(*id))?))).collect()
    }

    /// The objects as they can be read, for other threads.
    pub fn shown(&self) -> std::io::Result<Vec<Shown>> {
        self.objects.values().map(|s| s.shown.try_clone()).collect()
    }
}

/// Opens an object by one of its descriptors or mappings. The process runs, and may show something else there by now.
fn open(pid: i32, id: ObjectId, fd: Option<i32>, mappings: &[PageRange]) -> Option<File> {
    let by_fd = fd.map(|fd| format!("/proc/{pid}/fd/{fd}"));
    let by_map = mappings.iter().map(|r| map_file(pid, (r.start, r.end)));
    let is_it = |file: &File| file.metadata().is_ok_and(|m| m.dev() == id.dev && m.ino() == id.ino);
    // our reads are none of the process's; only its owner may read so
    let quietly = |path: &String| File::options().read(true).custom_flags(libc::O_NOATIME).open(path);
    let open = |path: String| quietly(&path).or_else(|_| File::open(&path)).ok();
    by_fd.into_iter().chain(by_map).filter_map(open).find(is_it)
}

/// Offsets of the object that were written through its mappings.
fn written(layout: &Layout, id: ObjectId, found: &[Found]) -> Vec<PageRange> {
    let mut set = RangeSet::default();
    for vma in layout.vmas.iter().filter(|v| v.object() == Some(id)) {
        for f in found.iter().filter(|f| f.written) {
            let part = f.range.intersection(&vma.range());
            if !part.is_empty() {
                set.insert(in_object(vma, part));
            }
        }
    }
    set.iter().collect()
}

fn in_object(vma: &Vma, range: PageRange) -> PageRange {
    PageRange::new(range.start - vma.start + vma.offset, range.end - vma.start + vma.offset)
}

impl Shown {
    /// Which one it is.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Bytes of its pages.
    pub fn page_size(&self) -> u64 {
        self.page_size
    }

    /// All of it, in whole pages.
    pub fn range(&self) -> PageRange {
        PageRange::new(0, self.size.next_multiple_of(self.page_size))
    }

    /// Its descriptor, if it could be opened.
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    fn try_clone(&self) -> std::io::Result<Self> {
        let file = self.file.as_ref().map(File::try_clone).transpose()?;
        let Shown { pid, id, size, page_size, .. } = *self;
        Ok(Shown { pid, id, file, size, page_size, mappings: self.mappings.clone() })
    }

    fn whole_pages(&self, set: RangeSet) -> RangeSet {
        set.iter().map(|r| lazy::whole(r, self.page_size)).collect()
    }

    /// Where the object has content, as far as the target knows its size: it may have grown since.
    fn ranges(&self) -> Result<Vec<PageRange>, PreloadError> {
        let shown: RangeSet = match &self.file {
            Some(file) => {
                let failed = |source| PreloadError::Memory { pid: self.pid, addr: self.id.ino, source };
                data_ranges(file).map_err(failed)?.into_iter().collect()
            }
            None => {
                self.mappings.iter().map(|(r, offset)| PageRange::new(*offset, offset + r.len())).collect()
            }
        };
        Ok(shown.within(PageRange::new(0, self.size.next_multiple_of(PAGE_SIZE))).collect())
    }

    /// Reads a piece into a buffer of zeroes. What lies beyond the object's end is zero: the target cuts the last page off
    /// there, and it is none of what it has when the object grows.
    pub fn read(&self, piece: PageRange, buffer: &mut [u8]) -> Result<(), PreloadError> {
        let read = self.read_all(piece, buffer);
        buffer[self.size.saturating_sub(piece.start).min(piece.len()) as usize..].fill(0);
        read
    }

    fn read_all(&self, piece: PageRange, buffer: &mut [u8]) -> Result<(), PreloadError> {
        let failed = |source| PreloadError::Memory { pid: self.pid, addr: self.id.ino, source };
        if let Some(file) = &self.file {
            return read_up_to(file, piece.start, buffer).map_err(failed);
        }
        for (range, offset) in &self.mappings {
            let shown = PageRange::new(*offset, offset + range.len()).intersection(&piece);
            if !shown.is_empty() {
                let at = (shown.start - piece.start) as usize;
                let addr = shown.start - offset + range.start;
                let place = &mut buffer[at..at + shown.len() as usize];
                // what the process itself may not read (`PROT_NONE`)
                if read_memory(self.pid, addr, place).is_err() {
                    ProcMem::open(self.pid).and_then(|mem| mem.read(addr, place)).map_err(failed)?;
                }
            }
        }
        Ok(())
    }

    fn digest(&self, except: &RangeSet) -> Result<Digest, PreloadError> {
        if let Some(file) = &self.file {
            return Ok(digest::object(self.id, file, except)?);
        }
        let ranges: Vec<PageRange> = self.ranges()?.into_iter().flat_map(|r| except.gaps(r)).collect();
        digest::object_by(self.id, ranges, |piece, bytes| {
            self.read(piece, bytes)?;
            bytes[self.size.saturating_sub(piece.start).min(piece.len()) as usize..].fill(0);
            Ok(())
        })
    }

    fn read_batch(&self, batch: &Batch) -> Result<Vec<(u64, Bytes)>, PreloadError> {
        let mut buffer = BytesMut::zeroed(batch.ranges.iter().map(|r| r.len() as usize).sum());
        let mut rest = &mut buffer[..];
        for piece in &batch.ranges {
            let (now, later) = rest.split_at_mut(piece.len() as usize);
            self.read(*piece, now)?;
            rest = later;
        }
        Ok(cut(batch, buffer))
    }
}

impl Source {
    /// Sends what is new of `wanted`; or notes it in `later`.
    fn push(
        &mut self,
        wanted: Vec<PageRange>,
        mut later: Option<&mut RangeSet>,
        sink: &mut dyn PageSink,
    ) -> Result<u64, PreloadError> {
        let id = self.shown.id;
        let mut pages = 0;
        let mut zeroed = RangeSet::default();
        let (mut hashes, mut sent) = (std::mem::take(&mut self.hashes), std::mem::take(&mut self.sent));
        let read = |batch: &Batch| self.shown.read_batch(batch);
        let done = look(&batches(wanted.into_iter().map(|r| (r, How::default()))), &read, |look| {
            for (from, to, change) in changes(&look, &mut hashes) {
                let range = PageRange::new(look.start + from as u64, look.start + to as u64);
                match change {
                    Change::Zero => sent.within(range).for_each(|r| zeroed.insert(r)),
                    Change::New if later.is_some() => later.iter_mut().for_each(|later| later.insert(range)),
                    Change::New => {
                        pages += range.pages();
                        sent.insert(range);
                        sink.object_pages(id, range.start, look.data.slice(from..to))?;
                    }
                    Change::None => {}
                }
            }
            Ok(())
        });
        (self.hashes, self.sent) = (hashes, sent);
        done?;
        if !zeroed.is_empty() {
            self.forget(&zeroed);
            sink.object_holes(id, zeroed.iter().collect())?;
        }
        Ok(pages)
    }

    fn forget(&mut self, holes: &RangeSet) {
        self.sent.subtract(holes);
        holes.iter().for_each(|r| self.hashes.clear(r));
    }
}

/// What a page has become since it was sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    New,
    Zero,
}

/// Runs of pages of one fate, as offsets into the data; the hashes of new ones are noted.
fn changes(look: &Look, hashes: &mut PageMap<u128>) -> Vec<(usize, usize, Change)> {
    let one = |(i, zero): (usize, &bool)| {
        if *zero {
            return Change::Zero;
        }
        let at = look.start + i as u64 * PAGE_SIZE;
        if hashes.set(at, look.hashes[i]) == look.hashes[i] { Change::None } else { Change::New }
    };
    let all: Vec<Change> = look.zero.iter().enumerate().map(one).collect();
    let mut first = 0;
    all.chunk_by(|a, b| a == b)
        .map(|same| {
            let from = first;
            first += same.len() * PAGE_SIZE as usize;
            (from, first, same[0])
        })
        .collect()
}
