//! Private pages: which to send, reading them in large pieces, leaving zeroes out.
//!
//! What has been sent is remembered: a page that is gone at the end must go at the target too, and a page of
//! zeroes needs no byte on the wire unless the target has something else there.

use bytes::{Bytes, BytesMut};

use super::PreloadError;
use super::huge::{self, Hashes};
use crate::dirty::Found;
use crate::image::memory::Layout;
use crate::image::{Backing, ObjectId, PAGE_SIZE, PageRange, RangeSet};
use crate::sys::process::{ProcMem, read_memory};
use crate::transport::protocol::PAGES_MAX;

/// Where pages go.
pub trait PageSink {
    /// Pages of private memory.
    fn pages(&mut self, addr: u64, data: Bytes) -> Result<(), PreloadError>;
    /// These are zero now.
    fn zero(&mut self, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
    /// These are gone.
    fn gone(&mut self, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
    /// Pages of a shared object.
    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError>;
    /// These parts of an object are holes now.
    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
}

/// What the target has of the private memory of one process.
#[derive(Debug)]
pub struct Pusher {
    pid: i32,
    mem: ProcMem,
    sent: RangeSet,
    /// Found written, and so marked clean by the tracker, but not sent: outside of the mappings that were known when
    /// the scan ran, or gone when they were read. They stay owed until they are read.
    owed: RangeSet,
    /// Of huge pages.
    hashes: Hashes,
}

/// A run of pages to be read.
#[derive(Clone, Copy, Debug)]
struct Run {
    range: PageRange,
    /// Zeroes may be left out.
    skip_zero: bool,
    page_size: u64,
}

impl Pusher {
    /// Nothing is sent yet.
    pub fn new(pid: i32) -> Result<Self, PreloadError> {
        let mem = ProcMem::open(pid).map_err(|source| PreloadError::Memory { pid, addr: 0, source })?;
        Ok(Pusher { pid, mem, sent: RangeSet::default(), owed: RangeSet::default(), hashes: Hashes::new() })
    }

    /// The target is about to lose what was in place there: it is owed again, should it still exist. The layouts of a
    /// running process are not of one instant, and one that lacks an area is not proof that it is gone.
    pub fn forget(&mut self, lost: &[PageRange]) {
        for range in lost {
            for part in self.sent.within(*range).collect::<Vec<_>>() {
                self.owed.insert(part);
            }
            self.sent.remove(*range);
        }
    }

    /// Sends what a round found. Returns the number of pages with content.
    pub fn round(
        &mut self,
        layout: &Layout,
        found: &[Found],
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        found.iter().filter(|f| f.private_data()).for_each(|f| self.owed.insert(f.range));
        let all: Vec<Found> = std::mem::take(&mut self.owed)
            .iter()
            .map(|range| Found { range, file: false, zero: false, written: true })
            .collect();
        let (runs, _) = split(layout, &all);
        let (_, zeroed) = split(layout, found);
        let known: RangeSet = layout.vmas.iter().map(|v| v.range()).collect();
        all.iter().flat_map(|f| known.gaps(f.range)).for_each(|gap| self.owed.insert(gap));
        let mut zeroed: Vec<PageRange> =
            zeroed.into_iter().flat_map(|z| self.sent.within(z).collect::<Vec<_>>()).collect();
        zeroed.iter().for_each(|z| self.sent.remove(*z));
        let pages = self.send(&runs, &mut zeroed, sink)?;
        // not what was the zero page when the scan passed, and has been written and sent since
        let zeroed: Vec<PageRange> = zeroed.into_iter().flat_map(|z| self.sent.gaps(z)).collect();
        if !zeroed.is_empty() {
            sink.zero(zeroed)?;
        }
        Ok(pages)
    }

    /// Sends what the last scan found written, and takes back what is there no more.
    pub fn last(
        &mut self,
        layout: &Layout,
        found: &[Found],
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let (present, _) = split(layout, found);
        let mut gone = self.sent.clone();
        present.iter().for_each(|run| gone.remove(run.range));
        let mut written: Vec<Found> = found.iter().filter(|f| f.written).copied().collect();
        written.extend(self.dropped(layout, found));
        written.sort_by_key(|f| f.range.start);
        let pages = self.round(layout, &written, sink)?;
        if let Some(lost) = present.iter().find_map(|run| self.owed.within(run.range).next()) {
            let source = std::io::Error::other("the page is there and cannot be read");
            return Err(PreloadError::Memory { pid: self.pid, addr: lost.start, source });
        }
        // what lies in mappings that are gone went with them
        let gone: Vec<PageRange> = layout
            .vmas
            .iter()
            .filter(|v| v.private())
            .flat_map(|v| gone.within(v.range()).collect::<Vec<_>>())
            .collect();
        if !gone.is_empty() {
            gone.iter().for_each(|g| self.sent.remove(*g));
            sink.gone(gone)?;
        }
        Ok(pages)
    }

    /// Huge pages that are marked clean and are not what was sent.
    fn dropped(&self, layout: &Layout, found: &[Found]) -> Vec<Found> {
        let mut clean = RangeSet::default();
        found.iter().filter(|f| f.private_data() && !f.written).for_each(|f| clean.insert(f.range));
        let read = |addr: u64| {
            let small = PageRange::new(addr, addr + PAGE_SIZE);
            self.read(small).first().map(|(_, data)| data.to_vec())
        };
        let vmas = layout.vmas.iter().filter(|v| v.huge() && v.private());
        let pages = vmas.flat_map(|v| clean.within(v.range()).map(|r| (r, v.page_size)).collect::<Vec<_>>());
        pages
            .flat_map(|(range, size)| huge::dropped(&self.hashes, &self.sent, range, size, read))
            .map(|range| Found { range, file: false, zero: false, written: true })
            .collect()
    }

    fn send(
        &mut self,
        runs: &[Run],
        zeroed: &mut Vec<PageRange>,
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut pages = 0;
        for run in runs {
            for piece in run.range.chunks(PAGES_MAX as u64) {
                self.owed.insert(piece);
                for (start, data) in self.read(piece) {
                    self.owed.remove(PageRange::new(start, start + data.len() as u64));
                    pages += self.send_piece(start, data, run, zeroed, sink)?;
                }
            }
        }
        Ok(pages)
    }

    /// Reads a piece. Where protections refuse, `/proc/PID/mem` reads through them, page by page: what cannot be
    /// read even so has been unmapped meanwhile, and the next scan knows.
    fn read(&self, piece: PageRange) -> Vec<(u64, Bytes)> {
        let mut buffer = BytesMut::zeroed(piece.len() as usize);
        if read_memory(self.pid, piece.start, &mut buffer).is_ok() {
            return vec![(piece.start, buffer.freeze())];
        }
        piece
            .chunks(PAGE_SIZE)
            .filter_map(|page| {
                let mut buffer = BytesMut::zeroed(PAGE_SIZE as usize);
                self.mem.read(page.start, &mut buffer).ok().map(|()| (page.start, buffer.freeze()))
            })
            .collect()
    }

    fn send_piece(
        &mut self,
        start: u64,
        data: Bytes,
        run: &Run,
        zeroed: &mut Vec<PageRange>,
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut pages = 0;
        for (from, to, zero) in huge::runs(&data, start, run.page_size, run.skip_zero) {
            let range = PageRange::new(start + from as u64, start + to as u64);
            if zero {
                zeroed.extend(self.sent.within(range));
                self.sent.remove(range);
            } else {
                let new = match run.page_size {
                    PAGE_SIZE => vec![(0, to - from)],
                    _ => huge::changed(&mut self.hashes, &self.sent, range.start, &data[from..to]),
                };
                self.sent.insert(range);
                for (a, b) in new {
                    pages += (b - a) as u64 / PAGE_SIZE;
                    sink.pages(range.start + a as u64, data.slice(from + a..from + b))?;
                }
            }
        }
        Ok(pages)
    }
}

/// The private pages with content among what was found, mapping by mapping; and those that are the zero page.
fn split(layout: &Layout, found: &[Found]) -> (Vec<Run>, Vec<PageRange>) {
    let mut data: Vec<Run> = Vec::new();
    let mut zero = Vec::new();
    let mut first = 0;
    for f in found {
        while layout.vmas.get(first).is_some_and(|v| v.end <= f.range.start) {
            first += 1;
        }
        for vma in layout.vmas[first..].iter().take_while(|v| v.start < f.range.end).filter(|v| v.private()) {
            let range = f.range.intersection(&vma.range());
            let skip_zero = vma.backing == Backing::Anonymous;
            let page_size = vma.page_size;
            if f.zero && skip_zero {
                zero.push(range);
            } else if f.private_data() {
                match data.last_mut() {
                    Some(last)
                        if last.range.end == range.start
                            && (last.skip_zero, last.page_size) == (skip_zero, page_size) =>
                    {
                        last.range.end = range.end;
                    }
                    _ => data.push(Run { range, skip_zero, page_size }),
                }
            }
        }
    }
    (data, zero)
}
