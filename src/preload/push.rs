//! Private pages: which to send, reading them in large pieces, leaving zeroes out.
//!
//! What has been sent is remembered: a page that is gone at the end must go at the target too, and a page of
//! zeroes needs no byte on the wire unless the target has something else there. Where the tracker is not exact, the hash
//! of each page is remembered, too, and what has not changed is left out.

use bytes::{Bytes, BytesMut};

use super::PreloadError;
use super::heat::Heat;
use super::huge;
use super::lazy;
use super::look::{Batch, How, Look, batches, cut, look};
use crate::dirty::{Found, Last};
use crate::image::memory::Layout;
use crate::image::{Backing, ObjectId, PAGE_SIZE, PageMap, PageRange, ProcessIndex, RangeSet};
use crate::sys::process::{ProcMem, read_memory, read_scattered};
use crate::sys::voice;

/// Where pages go.
pub trait PageSink {
    /// Pages of private memory, from this address on.
    fn pages(&mut self, of: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError>;
    /// These are zero now.
    fn zero(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
    /// These are gone.
    fn gone(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
    /// Pages of a shared object.
    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError>;
    /// These parts of an object are holes now.
    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError>;
}

/// What the target has of the private memory of one process.
#[derive(Debug)]
pub struct Pusher {
    pid: i32,
    /// Its name in the tree.
    of: ProcessIndex,
    mem: ProcMem,
    /// What the target has.
    sent: RangeSet,
    /// Found to hold zeroes, for which the target needs nothing as long as the mapping is what it was.
    zeroes: RangeSet,
    /// Found written, and so marked clean by the tracker, but not sent: outside of the mappings that were known when
    /// the scan ran, or gone when they were read. They stay owed until they are read.
    owed: RangeSet,
    /// Guard pages. The target gets them in the end.
    guards: RangeSet,
    /// Hashes of contents as last looked at; 0: nothing, or zeroes. Of all pages where the tracker is not exact; else of huge
    /// pages alone: one byte written marks 2 MiB.
    seen: PageMap<u128>,
    exact: bool,
    heat: Heat,
    begun: bool,
    /// What rounds leave out; it stays owed.
    withheld: RangeSet,
}

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Pages sent, with content.
    pub pages: u64,
    /// Pages found written: by the tracker where it is exact, else by their contents.
    pub written: u64,
    /// Pages looked at for nothing: their contents had not changed.
    pub unchanged: u64,
}

/// A run of pages to be read: where, and of what kind.
type Run = (PageRange, How);

/// What becomes of a page that was read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Send,
    Zero,
    Hold,
    Later,
    Unchanged,
}

/// One round's books.
#[derive(Default)]
struct Round {
    sent: Sent,
    /// Contents that changed, where contents are compared.
    changed: RangeSet,
    zeroed: Vec<PageRange>,
    /// Held back until now: sent even if they did not change since they were last looked at.
    stale: RangeSet,
    last: bool,
    /// May come after the process: not sent in the freeze.
    may_wait: RangeSet,
    /// Of that, what the target does not have.
    later: RangeSet,
}

impl Pusher {
    /// Nothing is sent yet. `exact`: whether the tracker is; contents are compared where it is not.
    pub fn new(pid: i32, of: ProcessIndex, exact: bool) -> Result<Self, PreloadError> {
        let mem = ProcMem::of_process(pid).map_err(|source| PreloadError::Memory { pid, addr: 0, source })?;
        let (sent, zeroes, owed) = (RangeSet::default(), RangeSet::default(), RangeSet::default());
        let guards = RangeSet::default();
        let (seen, heat, withheld) = (PageMap::default(), Heat::default(), RangeSet::default());
        Ok(Pusher { pid, of, mem, sent, zeroes, owed, guards, seen, exact, heat, begun: false, withheld })
    }

    /// The target is about to lose what was in place there: it is owed again, should it still exist. The layouts of a
    /// running process are not of one instant, and one that lacks an area is not proof that it is gone. Neither are zeroes
    /// zero any more, if the mapping is a file's: they were left out because the layout said anonymous memory.
    pub fn forget(&mut self, lost: &[PageRange]) {
        for range in lost {
            self.heat.held().within(*range).for_each(|part| self.owed.insert(part));
            for had in [&mut self.sent, &mut self.zeroes] {
                had.within(*range).for_each(|part| self.owed.insert(part));
                had.remove(*range);
            }
            self.heat.forget(*range);
            self.seen.clear(*range);
            self.guards.remove(*range);
        }
    }

    /// Takes note of pages that have become guard pages, or are none any more. What was there is lost: the target drops it.
    fn guard(&mut self, found: &[Found], sink: &mut dyn PageSink) -> Result<(), PreloadError> {
        let mut lost = Vec::new();
        if !self.guards.is_empty() {
            self.guards.subtract(&found.iter().map(|f| f.range).collect());
        }
        for range in found.iter().filter(|f| f.guard).map(|f| f.range) {
            self.guards.insert(range);
            lost.extend(self.sent.within(range));
            for had in [&mut self.sent, &mut self.zeroes, &mut self.owed] {
                had.remove(range);
            }
            self.heat.forget(range);
            self.seen.clear(range);
        }
        if lost.is_empty() { Ok(()) } else { sink.gone(self.of, lost) }
    }

    /// The guard pages that the process has, after [`Pusher::last`].
    pub fn guards(&self) -> &RangeSet {
        &self.guards
    }

    /// The rounds from now on leave this out: it comes after the process.
    pub fn withhold(&mut self, lazy: RangeSet) {
        self.withheld = lazy;
    }

    /// Pages that are held back until the freeze.
    pub fn held(&self) -> u64 {
        self.heat.held().without(&self.withheld).pages()
    }

    /// Sends what a round found.
    pub fn round(
        &mut self,
        layout: &Layout,
        found: &[Found],
        sink: &mut dyn PageSink,
    ) -> Result<Sent, PreloadError> {
        let mut round = Round::default();
        self.guard(found, sink)?;
        let first = !std::mem::replace(&mut self.begun, true);
        found.iter().filter(|f| f.private_data()).for_each(|f| self.owed.insert(f.range));
        if self.exact {
            let written: RangeSet = split(layout, found).0.into_iter().map(|(range, _)| range).collect();
            round.sent.written = written.without(&self.withheld).pages();
            if !first {
                let sorted = self.heat.round(written);
                self.owed.subtract(&sorted.hot);
                sorted.cooled.iter().for_each(|r| self.owed.insert(r));
            }
        } else {
            round.stale = self.heat.held().clone();
            round.stale.iter().for_each(|r| self.owed.insert(r));
        }
        self.pay(layout, found, &mut round, sink)?;
        if !self.exact {
            // what was held, and is gone for now, may come back as it was last seen: the target has something older
            for lost in round.stale.common(&self.owed).iter() {
                self.seen.clear(lost);
            }
            round.sent.written = round.changed.pages();
            if !first {
                self.heat.round(round.changed);
            }
        }
        Ok(round.sent)
    }

    /// Right before a lazy freeze, where the tracker is exact: of what may come after the process, takes back what was written since it was
    /// sent. It has to go at the target before the process runs there, and in the freeze each of some ten thousand pages would
    /// take its time. Nothing is sent, and all that was written stays owed. Returns pages.
    pub fn take_back(
        &mut self,
        layout: &Layout,
        found: &[Found],
        sink: &mut dyn PageSink,
    ) -> Result<u64, PreloadError> {
        debug_assert!(self.exact, "what was sent may turn out to be what is there");
        self.guard(found, sink)?;
        found.iter().filter(|f| f.private_data()).for_each(|f| self.owed.insert(f.range));
        let written = self.owed.union(self.heat.held());
        // what is the zero page by now carries a mark, and the final scan will say nothing of it
        let zero: RangeSet = split(layout, found).1.into_iter().collect();
        let stale =
            self.sent.common(&lazy::ordinary(layout)).common(&written).union(&self.sent.common(&zero));
        self.sent.subtract(&stale);
        if !stale.is_empty() {
            sink.gone(self.of, stale.iter().collect())?;
        }
        Ok(stale.pages())
    }

    /// Every private page that a round found, and that was not given up since.
    pub fn known(&self) -> RangeSet {
        self.with_content().union(&self.guards)
    }

    fn with_content(&self) -> RangeSet {
        self.sent.union(&self.zeroes).union(&self.owed).union(self.heat.held())
    }

    /// Sends what the last scan found written, and takes back what is there no more. Of what may wait nothing is sent:
    /// what the target lacks of it is returned, and where pages are written often.
    pub fn last(
        &mut self,
        layout: &Layout,
        Last { written, gone }: &Last,
        may_wait: &RangeSet,
        sink: &mut dyn PageSink,
    ) -> Result<(Sent, RangeSet, Vec<RangeSet>), PreloadError> {
        let mut round = Round { last: true, may_wait: may_wait.clone(), ..Round::default() };
        let often = if may_wait.is_empty() { Vec::new() } else { self.heat.often() };
        self.withheld = RangeSet::default();
        self.guards.subtract(gone);
        self.guard(written, sink)?;
        for range in written.iter().filter(|f| f.private_data()).map(|f| f.range) {
            if !self.comes_late_anyway(range, may_wait) {
                self.owed.insert(range);
            }
        }
        self.dropped(layout, written, gone).iter().for_each(|r| self.owed.insert(*r));
        let held = self.heat.release();
        self.owed = self.owed.union(&held);
        if !self.exact {
            // they were looked at without being sent
            round.stale = held;
        }
        if !may_wait.is_empty() {
            round.later = self.postpone(may_wait, &self.there(written, gone));
        }
        self.pay(layout, written, &mut round, sink)?;
        lazy::whole_pages(layout, &mut round.later);
        self.sent.subtract(&round.later);
        let private: RangeSet = layout.vmas.iter().filter(|v| v.private()).map(|v| v.range()).collect();
        if let Some(lost) = self.owed.common(&private).without(gone).iter().next() {
            let source = std::io::Error::other("the page is there and cannot be read");
            return Err(PreloadError::Memory { pid: self.pid, addr: lost.start, source });
        }
        // also what was owed and sent just now, though nothing of the process's own is there any more; what lies in
        // mappings that are gone went with them
        let gone: Vec<PageRange> = self.sent.common(gone).common(&private).iter().collect();
        if !gone.is_empty() {
            gone.iter().for_each(|g| self.sent.remove(*g));
            sink.gone(self.of, gone)?;
        }
        round.sent.written = round.sent.pages;
        Ok((round.sent, round.later, often))
    }

    /// All that is present.
    fn there(&self, written: &[Found], gone: &RangeSet) -> RangeSet {
        let now = written.iter().filter(|f| f.private_data()).map(|f| f.range).collect();
        self.with_content().without(gone).union(&now)
    }

    /// Whether [`Pusher::postpone`] finds a range that was written even if nobody says so: all of it may wait, and the target has nothing
    /// of it. Under random writes there are tens of thousands of those, in the freeze.
    fn comes_late_anyway(&self, range: PageRange, may_wait: &RangeSet) -> bool {
        self.exact
            && !self.sent.overlaps(range)
            && !self.zeroes.overlaps(range)
            && may_wait.within(range).next() == Some(range)
    }

    /// Takes what may wait off what is owed, and returns what the target certainly lacks of it. Where contents tell what was
    /// written, what the target has in some form stays owed: it is compared.
    fn postpone(&mut self, may_wait: &RangeSet, there: &RangeSet) -> RangeSet {
        let has = self.sent.union(&self.zeroes);
        let waits = there.common(may_wait);
        let lacks = waits.without(&has);
        let changed = self.owed.common(&waits).common(&has);
        // what is owed and not present has nothing behind it any more, and goes if it was sent
        self.owed.subtract(may_wait);
        if self.exact {
            return lacks.union(&changed);
        }
        self.owed = self.owed.union(&changed);
        lacks
    }

    /// Huge pages that are marked clean and are not what was sent.
    fn dropped(&self, layout: &Layout, written: &[Found], gone: &RangeSet) -> Vec<PageRange> {
        let vmas: Vec<_> = layout.vmas.iter().filter(|v| v.huge() && v.private()).collect();
        if vmas.is_empty() {
            return Vec::new();
        }
        let written = written.iter().filter(|f| f.private_data()).map(|f| f.range).collect();
        let clean = self.with_content().without(gone).without(&written);
        let read = |addr: u64| {
            let mut page = vec![0; PAGE_SIZE as usize];
            self.mem.read(addr, &mut page).ok().map(|()| page)
        };
        let pages = vmas
            .into_iter()
            .flat_map(|v| clean.within(v.range()).map(|r| (r, v.page_size)).collect::<Vec<_>>());
        pages.flat_map(|(range, size)| huge::dropped(&self.seen, &self.sent, range, size, read)).collect()
    }

    /// Reads what is owed and sends what must be, cold pages first; tells of pages that have become zero.
    fn pay(
        &mut self,
        layout: &Layout,
        found: &[Found],
        round: &mut Round,
        sink: &mut dyn PageSink,
    ) -> Result<(), PreloadError> {
        // where the layout knows something shared, the scan may have seen what was mapped there since
        let known: RangeSet = layout.vmas.iter().filter(|v| v.private()).map(|v| v.range()).collect();
        let (mut cold, mut warm) = (Vec::new(), Vec::new());
        for owed in std::mem::take(&mut self.owed).iter() {
            known.gaps(owed).into_iter().for_each(|gap| self.owed.insert(gap));
            self.withheld.within(owed).for_each(|part| self.owed.insert(part));
            let of = Found::data;
            for now in self.withheld.gaps(owed) {
                warm.extend(self.heat.warm(now).map(of));
                cold.extend(self.heat.cold(now).into_iter().map(of));
            }
        }
        let runs = [split(layout, &cold).0, split(layout, &warm).0].concat();
        let runs: Vec<Run> = runs
            .into_iter()
            .map(|(range, how)| (range, How { hash: how.hash || !self.exact, ..how }))
            .collect();
        runs.iter().for_each(|(range, _)| self.owed.insert(*range));
        round.zeroed = split(layout, found)
            .1
            .into_iter()
            .flat_map(|z| self.sent.within(z).collect::<Vec<_>>())
            .collect();
        for zero in &round.zeroed {
            self.sent.remove(*zero);
            self.seen.clear(*zero);
        }
        let (pid, mem) = (
            voice::of(self.pid),
            self.mem.try_clone().map_err(|source| PreloadError::Memory { pid: self.pid, addr: 0, source })?,
        );
        let read = |batch: &Batch| Ok(read(pid, &mem, batch));
        look(&batches(runs), &read, |look| self.settle(&look, round, sink))?;
        // not what was the zero page when the scan passed, and has been written and sent since
        let zeroed: Vec<PageRange> = round.zeroed.drain(..).flat_map(|z| self.sent.gaps(z)).collect();
        if zeroed.is_empty() { Ok(()) } else { sink.zero(self.of, zeroed) }
    }

    /// Does with each page of a run what must be done.
    fn settle(
        &mut self,
        look: &Look,
        round: &mut Round,
        sink: &mut dyn PageSink,
    ) -> Result<(), PreloadError> {
        self.owed.remove(PageRange::new(look.start, look.start + look.data.len() as u64));
        let verdicts: Vec<Verdict> = (0..look.zero.len()).map(|i| self.judge(look, i, round)).collect();
        let mut first = 0;
        for same in verdicts.chunk_by(|a, b| a == b) {
            let (from, to) = (first * PAGE_SIZE as usize, (first + same.len()) * PAGE_SIZE as usize);
            first += same.len();
            let range = PageRange::new(look.start + from as u64, look.start + to as u64);
            match same[0] {
                Verdict::Zero => {
                    round.zeroed.extend(self.sent.within(range));
                    self.sent.remove(range);
                    self.zeroes.insert(range);
                }
                Verdict::Send => {
                    round.sent.pages += range.pages();
                    self.sent.insert(range);
                    self.zeroes.remove(range);
                    sink.pages(self.of, range.start, look.data.slice(from..to))?;
                }
                Verdict::Unchanged => round.sent.unchanged += range.pages(),
                Verdict::Later => round.later.insert(range),
                Verdict::Hold => {}
            }
        }
        Ok(())
    }

    fn judge(&mut self, look: &Look, i: usize, round: &mut Round) -> Verdict {
        let at = look.start + i as u64 * PAGE_SIZE;
        if look.zero[i] {
            self.seen.set(at, 0);
            return Verdict::Zero;
        }
        let page = PageRange::new(at, at + PAGE_SIZE);
        let send = if round.may_wait.overlaps(page) { Verdict::Later } else { Verdict::Send };
        let Some(&hash) = look.hashes.get(i) else { return send };
        if self.seen.set(at, hash) != hash {
            round.changed.insert(page);
            let hold = !round.last && !self.exact && self.heat.hot_if_written(page);
            return if hold { Verdict::Hold } else { send };
        }
        if round.stale.overlaps(page) { send } else { Verdict::Unchanged }
    }
}

/// Reads a batch. Where protections refuse, `/proc/PID/mem` reads through them, page by page: what cannot be read even
/// so has been unmapped meanwhile, and the next scan knows.
pub fn read(pid: i32, mem: &ProcMem, batch: &Batch) -> Vec<(u64, Bytes)> {
    let pieces: Vec<(u64, usize)> = batch.ranges.iter().map(|r| (r.start, r.len() as usize)).collect();
    let mut buffer = BytesMut::zeroed(pieces.iter().map(|(_, len)| len).sum());
    if read_scattered(pid, &pieces, &mut buffer).is_ok() {
        return cut(batch, buffer);
    }
    batch.ranges.iter().flat_map(|range| read_range(pid, mem, *range)).collect()
}

fn read_range(pid: i32, mem: &ProcMem, range: PageRange) -> Vec<(u64, Bytes)> {
    let mut buffer = BytesMut::zeroed(range.len() as usize);
    if read_memory(pid, range.start, &mut buffer).is_ok() {
        return vec![(range.start, buffer.freeze())];
    }
    range
        .chunks(PAGE_SIZE)
        .filter_map(|page| {
            let mut buffer = BytesMut::zeroed(PAGE_SIZE as usize);
            mem.read(page.start, &mut buffer).ok().map(|()| (page.start, buffer.freeze()))
        })
        .collect()
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
            let anonymous = vma.backing == Backing::Anonymous;
            let how = How { skip_zero: anonymous, hash: vma.huge(), page_size: vma.page_size };
            if f.zero && anonymous {
                zero.push(range);
            } else if f.private_data() {
                match data.last_mut() {
                    Some((last, h)) if last.end == range.start && *h == how => last.end = range.end,
                    _ => data.push((range, how)),
                }
            }
        }
    }
    (data, zero)
}
