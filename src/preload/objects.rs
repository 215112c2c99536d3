//! Shared memory objects at the source: shared anonymous memory and memfds.
//!
//! The tracker sees stores through the mappings of the process. It does not see `write(2)` on a memfd, nor a
//! mapping that came and went between two rounds. So an object that has a descriptor, or several mappings, or
//! mappings that changed, is *unsure*: every page of it is hashed in each round and at the end, and sent where the
//! hash differs.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;

use bytes::BytesMut;
use xxhash_rust::xxh3::xxh3_128;

use super::PreloadError;
use super::huge;
use super::push::PageSink;
use crate::dirty::Found;
use crate::image::memory::{Layout, MemoryObject};
use crate::image::{ObjectId, PAGE_SIZE, PageRange, RangeSet, Vma};
use crate::state::digest::{data_ranges, read_up_to, runs_of_zero};
use crate::state::memory_map::map_file;
use crate::sys::process::read_memory;
use crate::transport::protocol::PAGES_MAX;

/// What the target has of the shared objects of one process.
#[derive(Debug, Default)]
pub struct ObjectPusher {
    objects: BTreeMap<ObjectId, Source>,
}

#[derive(Debug)]
struct Source {
    pid: i32,
    /// `None`: we may not open it, and read through the mappings.
    file: Option<File>,
    mappings: Vec<(PageRange, u64)>,
    unsure: bool,
    hashes: HashMap<u64, u128>,
    sent: RangeSet,
    begun: bool,
    page_size: u64,
    /// As the target knows it.
    size: u64,
}

impl ObjectPusher {
    /// Takes in the objects of a layout. `descriptors`: memfds by inode with one of their numbers.
    pub fn update(&mut self, pid: i32, layout: &Layout, descriptors: &BTreeMap<u64, i32>) {
        for object in &layout.objects {
            let mappings: Vec<(PageRange, u64)> = layout
                .vmas
                .iter()
                .filter(|v| v.object() == Some(object.id))
                .map(|v| (v.range(), v.offset))
                .collect();
            let fd = descriptors.get(&object.id.ino).copied();
            let source = self.objects.entry(object.id).or_insert_with(|| Source {
                pid,
                file: open(pid, fd, &mappings),
                mappings: mappings.clone(),
                unsure: false,
                hashes: HashMap::new(),
                sent: RangeSet::default(),
                begun: false,
                page_size: object.page_size,
                size: object.size,
            });
            source.unsure |= fd.is_some() || mappings.len() > 1 || mappings != source.mappings;
            source.mappings = mappings;
            source.size = object.size;
        }
    }

    /// Sends what is new. Returns the number of pages with content.
    pub fn push(
        &mut self,
        layout: &Layout,
        found: &[Found],
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut pages = 0;
        for (id, source) in &mut self.objects {
            let all = source.known(source.ranges(layout, *id)?);
            let look = if !source.begun || source.unsure {
                all.clone()
            } else {
                let mut look = written(layout, *id, found);
                look.extend(source.dropped(*id));
                source.known(look)
            };
            source.begun = true;
            for piece in look.iter().flat_map(|r| r.chunks(PAGES_MAX as u64)) {
                pages += source.push_piece(*id, piece, sink)?;
            }
            let mut holes = source.sent.clone();
            all.iter().for_each(|r| holes.remove(*r));
            if !holes.is_empty() {
                source.forget(&holes);
                sink.object_holes(*id, holes.iter().collect())?;
            }
        }
        Ok(pages)
    }

    /// The descriptor of an object, for hashing.
    pub fn files(&self) -> impl Iterator<Item = (ObjectId, &File)> {
        self.objects.iter().filter_map(|(id, s)| s.file.as_ref().map(|f| (*id, f)))
    }
}

fn open(pid: i32, fd: Option<i32>, mappings: &[(PageRange, u64)]) -> Option<File> {
    let by_fd = fd.and_then(|fd| File::open(format!("/proc/{pid}/fd/{fd}")).ok());
    by_fd.or_else(|| mappings.iter().find_map(|(r, _)| File::open(map_file(pid, (r.start, r.end))).ok()))
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

impl Source {
    /// Where the object has content.
    fn ranges(&self, layout: &Layout, id: ObjectId) -> Result<Vec<PageRange>, PreloadError> {
        match &self.file {
            Some(file) => data_ranges(file).map_err(|source| PreloadError::Memory {
                pid: self.pid,
                addr: id.ino,
                source,
            }),
            None => {
                let size = layout.objects.iter().find(|o| o.id == id).map_or(0, |o: &MemoryObject| o.size);
                let mapped: RangeSet = self
                    .mappings
                    .iter()
                    .map(|(r, offset)| PageRange::new(*offset, offset + r.len()))
                    .collect();
                Ok(mapped.within(PageRange::new(0, size.next_multiple_of(PAGE_SIZE))).collect())
            }
        }
    }

    fn read(&self, id: ObjectId, piece: PageRange, buffer: &mut [u8]) -> Result<(), PreloadError> {
        let failed = |source| PreloadError::Memory { pid: self.pid, addr: id.ino, source };
        if let Some(file) = &self.file {
            return read_up_to(file, piece.start, buffer).map_err(failed);
        }
        for (range, offset) in &self.mappings {
            let shown = PageRange::new(*offset, offset + range.len()).intersection(&piece);
            if !shown.is_empty() {
                let at = (shown.start - piece.start) as usize;
                let addr = shown.start - offset + range.start;
                read_memory(self.pid, addr, &mut buffer[at..at + shown.len() as usize])
                    .map_err(|e| failed(e.into()))?;
            }
        }
        Ok(())
    }

    /// What of these the target knows of: the object may have grown since the layout was read. The rest comes with the
    /// next one, since an object that can grow has a descriptor, and so is unsure.
    fn known(&self, mut ranges: Vec<PageRange>) -> Vec<PageRange> {
        let size = self.size.next_multiple_of(PAGE_SIZE);
        ranges.iter_mut().for_each(|r| r.end = r.end.min(size));
        ranges.retain(|r| !r.is_empty());
        ranges
    }

    /// Huge pages that were taken away (`MADV_REMOVE`): their files have no holes to be asked for.
    fn dropped(&self, id: ObjectId) -> Vec<PageRange> {
        if self.page_size == PAGE_SIZE {
            return Vec::new();
        }
        let end = self.sent.iter().last().map_or(0, |r| r.end.next_multiple_of(self.page_size));
        huge::dropped(&self.hashes, &self.sent, PageRange::new(0, end), self.page_size, |at| {
            let mut page = vec![0; PAGE_SIZE as usize];
            self.read(id, PageRange::new(at, at + PAGE_SIZE), &mut page).ok().map(|()| page)
        })
    }

    fn push_piece(
        &mut self,
        id: ObjectId,
        piece: PageRange,
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut buffer = BytesMut::zeroed(piece.len() as usize);
        self.read(id, piece, &mut buffer)?;
        let data = buffer.freeze();
        let mut pages = 0;
        let mut zeroed = Vec::new();
        for (from, to, zero) in runs_of_zero(&data, true) {
            let range = PageRange::new(piece.start + from as u64, piece.start + to as u64);
            if zero {
                zeroed.extend(self.sent.within(range));
                continue;
            }
            for (a, b) in self.changed(range, &data[from..to]) {
                let (a, b) = (from + a, from + b);
                pages += (b - a) as u64 / PAGE_SIZE;
                sink.object_pages(id, piece.start + a as u64, data.slice(a..b))?;
            }
            self.sent.insert(range);
        }
        if !zeroed.is_empty() {
            self.forget(&zeroed.iter().copied().collect());
            sink.object_holes(id, zeroed)?;
        }
        Ok(pages)
    }

    /// Runs of pages whose hash is not that of what was sent; their new hashes are noted.
    fn changed(&mut self, range: PageRange, data: &[u8]) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (i, page) in data.chunks(PAGE_SIZE as usize).enumerate() {
            let from = i * PAGE_SIZE as usize;
            let hash = xxh3_128(page);
            if self.hashes.insert(range.start + from as u64, hash) == Some(hash) {
                continue;
            }
            match runs.last_mut() {
                Some(run) if run.1 == from => run.1 = from + page.len(),
                _ => runs.push((from, from + page.len())),
            }
        }
        runs
    }

    fn forget(&mut self, holes: &RangeSet) {
        self.sent.subtract(holes);
        for page in holes.iter().flat_map(|r| r.chunks(PAGE_SIZE)) {
            self.hashes.remove(&page.start);
        }
    }
}
