//! What arrives: checked, gathered, placed wherever it is missing; who waited for it goes on.

use std::os::fd::AsFd as _;
use std::time::Instant;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

use super::super::space::{Content, Interruption, Put, put};
use super::{FIRST_CHILD, Pager, PagerError, TELL};
use crate::image::{ObjectId, PAGE_SIZE, PageOwner, PageRange, ProcessIndex};
use crate::transport::lane::{LaneKind, LazyRange, PagesHead};

impl Pager {
    /// Pages have arrived.
    pub(in crate::restore::lazy) fn pages(
        &mut self,
        lane: LaneKind,
        head: &PagesHead,
        content: Bytes,
        now: Instant,
    ) -> Result<(), PagerError> {
        let len = content.len() as u64;
        let end = head.start.checked_add(len).ok_or(PagerError::Torn)?;
        let r = LazyRange { owner: head.owner, range: PageRange::new(head.start, end) };
        if len == 0 || !len.is_multiple_of(PAGE_SIZE) || !head.start.is_multiple_of(PAGE_SIZE) {
            return Err(PagerError::Torn);
        }
        if self.verify && xxh3_128(&content) != head.digest {
            return Err(PagerError::Differs(head.start));
        }
        if self.plan.arrived(lane, r, now) != [r.range] {
            return Err(PagerError::Unasked(head.start));
        }
        self.take_in(lane, r, &Content::Data(content), now);
        Ok(())
    }

    /// Pages that hold zeroes, or nothing.
    pub(in crate::restore::lazy) fn zeroes(
        &mut self,
        lane: LaneKind,
        ranges: &[LazyRange],
        now: Instant,
    ) -> Result<(), PagerError> {
        for r in ranges {
            if self.plan.arrived(lane, *r, now) != [r.range] {
                return Err(PagerError::Unasked(r.range.start));
            }
            self.take_in(lane, *r, &Content::Zero, now);
        }
        Ok(())
    }

    /// Huge pages are gathered first; all else is placed at once.
    fn take_in(&mut self, lane: LaneKind, r: LazyRange, content: &Content, now: Instant) {
        let mut at = r.range.start;
        while at < r.range.end {
            let page = self.plan.page(r.owner, at);
            let huge = page.pages() > 1;
            let end = if huge { page.end } else { self.plan.plain_until(r.owner, at, r.range.end) };
            let piece = LazyRange { range: PageRange::new(at, end.min(r.range.end)), ..r };
            at = piece.range.end;
            let part = content.slice(piece.range.start - r.range.start, piece.range.end - r.range.start);
            self.plan.park(piece);
            if !huge || piece.range == page {
                self.place(piece, part, now);
            } else if let Some(whole) = self.gathered.add(lane, r.owner, page, piece.range, &part) {
                self.place(LazyRange { range: page, ..r }, Content::Data(whole), now);
            }
        }
    }

    /// Puts pages wherever they are missing.
    fn place(&mut self, r: LazyRange, content: Content, now: Instant) {
        let again = match r.owner {
            PageOwner::Process(of) => self.place_private(of, r, &content, now),
            PageOwner::Object(id) => self.place_object(id, r, &content, now),
        };
        if again {
            self.parked.push_back((r, content));
        } else {
            self.plan.settled(r);
            self.placed.push(r);
        }
    }

    /// Whether it is time to tell the source what is in place: not of each page that a thread waited for.
    pub(in crate::restore::lazy) fn tells_placed(&self, now: Instant) -> bool {
        let many = self.placed.len() >= TELL.0 || now.saturating_duration_since(self.told) >= TELL.1;
        many && !self.placed.is_empty()
    }

    /// What is in place since this was last asked.
    pub(in crate::restore::lazy) fn placed(&mut self) -> Vec<LazyRange> {
        self.told = Instant::now();
        std::mem::take(&mut self.placed)
    }

    fn place_private(&mut self, of: ProcessIndex, r: LazyRange, content: &Content, now: Instant) -> bool {
        let mut again = false;
        let its = self.private.iter().filter(|(_, private)| private.of == of);
        let spaces: Vec<usize> = its.map(|(space, _)| *space).collect();
        for space in spaces {
            let mut dead = false;
            let Some(private) = self.private.get_mut(&space) else { continue };
            let mut in_place = Vec::new();
            for (here, source) in private.places.of_source(r.range) {
                let part = content.slice(source.start - r.range.start, source.end - r.range.start);
                let size = private.places.page_size(here);
                let mut done = put(private.uffd.as_fd(), here, source.len(), &part, size);
                if space >= FIRST_CHILD {
                    // another thread of its parent had moved this place right after the fork, and told it before: see `forked`
                    done.nowhere += std::mem::take(&mut done.present);
                }
                let range = PageRange::new(here, here + done.done);
                private.places.settle(range);
                in_place.push(range);
                again |= done.stopped == Some(Interruption::Again);
                dead |= done.stopped == Some(Interruption::Dead);
                self.stats.placed(&done, content);
            }
            in_place.into_iter().for_each(|range| self.served(space, range, now));
            if dead {
                self.forget(space);
            }
        }
        again
    }

    fn place_object(&mut self, id: ObjectId, r: LazyRange, content: &Content, now: Instant) -> bool {
        let Some(feeder) = self.feeders.get(&id) else { return false };
        let done: Put = feeder.put(r.range.start, r.range.len(), content);
        self.stats.placed(&done, content);
        for shared in self.shared.values() {
            shared.wake(id, r.range);
        }
        if done.stopped.is_some() {
            return true;
        }
        let stats = &mut self.stats;
        self.waiting.retain(|w| {
            let its = w.owner == PageOwner::Object(id) && r.range.start <= w.source && w.source < r.range.end;
            if its {
                stats.waited(now - w.since);
            }
            !its
        });
        false
    }

    /// Threads that waited there go on.
    fn served(&mut self, space: usize, range: PageRange, now: Instant) {
        let stats = &mut self.stats;
        self.waiting.retain(|w| {
            let its = w.space == space && !w.here.intersection(&range).is_empty();
            if its {
                stats.waited(now.saturating_duration_since(w.since));
            }
            !its
        });
    }

    /// Tries again what was held up.
    pub(in crate::restore::lazy) fn retry(&mut self, now: Instant) {
        for (r, content) in std::mem::take(&mut self.parked) {
            self.place(r, content, now);
        }
        for (space, here) in std::mem::take(&mut self.unserved) {
            self.serve_zero(space, here);
        }
    }
}
