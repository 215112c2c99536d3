//! Private pages: which to send, reading them in large pieces, leaving zeroes out.
//!
//! What has been sent is remembered: a page that is gone at the end must go at the target too, and a page of
//! zeroes needs no byte on the wire unless the target has something else there.

use bytes::{Bytes, BytesMut};

use super::PreloadError;
use crate::dirty::Found;
use crate::image::memory::Layout;
use crate::image::{Backing, ObjectId, PAGE_SIZE, PageRange, RangeSet};
use crate::state::digest::runs_of_zero;
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
    /// Found to hold zeroes, for which the target needs nothing as long as the mapping is what it was.
    zeroes: RangeSet,
    /// Found written, and so marked clean by the tracker, but not sent: outside of the mappings that were known when
    /// the scan ran, or gone when they were read. They stay owed until they are read.
    owed: RangeSet,
}

/// A run of pages to be read: where, and whether zeroes may be left out.
type Run = (PageRange, bool);

impl Pusher {
    /// Nothing is sent yet.
    pub fn new(pid: i32) -> Result<Self, PreloadError> {
        let mem = ProcMem::open(pid).map_err(|source| PreloadError::Memory { pid, addr: 0, source })?;
        Ok(Pusher {
            pid,
            mem,
            sent: RangeSet::default(),
            zeroes: RangeSet::default(),
            owed: RangeSet::default(),
        })
    }

    /// The target is about to lose what was in place there: it is owed again, should it still exist. The layouts of a
    /// running process are not of one instant, and one that lacks an area is not proof that it is gone. Neither are zeroes
    /// zero any more, if the mapping is a file's: they were left out because the layout said anonymous memory.
    pub fn forget(&mut self, lost: &[PageRange]) {
        for range in lost {
            for had in [&mut self.sent, &mut self.zeroes] {
                had.within(*range).for_each(|part| self.owed.insert(part));
                had.remove(*range);
            }
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
        // where the layout knows something shared, the scan may have seen what was mapped there since
        let known: RangeSet = layout.vmas.iter().filter(|v| v.private()).map(|v| v.range()).collect();
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
        let written: Vec<Found> = found.iter().filter(|f| f.written).copied().collect();
        let pages = self.round(layout, &written, sink)?;
        if let Some(lost) = present.iter().find_map(|(range, _)| self.owed.within(*range).next()) {
            let source = std::io::Error::other("the page is there and cannot be read");
            return Err(PreloadError::Memory { pid: self.pid, addr: lost.start, source });
        }
        // also what was owed and sent just now, though nothing of the process's own is there any more
        let mut gone = self.sent.clone();
        present.iter().for_each(|(range, _)| gone.remove(*range));
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

    fn send(
        &mut self,
        runs: &[Run],
        zeroed: &mut Vec<PageRange>,
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut pages = 0;
        for (range, skip_zero) in runs {
            for piece in range.chunks(PAGES_MAX as u64) {
                self.owed.insert(piece);
                for (start, data) in self.read(piece) {
                    self.owed.remove(PageRange::new(start, start + data.len() as u64));
                    pages += self.send_piece(start, data, *skip_zero, zeroed, sink)?;
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
        skip_zero: bool,
        zeroed: &mut Vec<PageRange>,
        sink: &mut impl PageSink,
    ) -> Result<u64, PreloadError> {
        let mut pages = 0;
        for (from, to, zero) in runs_of_zero(&data, skip_zero) {
            let range = PageRange::new(start + from as u64, start + to as u64);
            if zero {
                zeroed.extend(self.sent.within(range));
                self.sent.remove(range);
                self.zeroes.insert(range);
            } else {
                pages += range.pages();
                self.sent.insert(range);
                self.zeroes.remove(range);
                sink.pages(range.start, data.slice(from..to))?;
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
            if f.zero && skip_zero {
                zero.push(range);
            } else if f.private_data() {
                match data.last_mut() {
                    Some((last, s)) if last.end == range.start && *s == skip_zero => last.end = range.end,
                    _ => data.push((range, skip_zero)),
                }
            }
        }
    }
    (data, zero)
}
