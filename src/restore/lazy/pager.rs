//! The pager: what is outstanding, who waits for what, and (in [`arrivals`]) what becomes of a page that arrives.
//!
//! | event | what follows |
//! |---|---|
//! | fault on an outstanding page | it is asked for on the urgent lane, unless it is on its way |
//! | fault on any other page | nothing was there at the source: zeroes, at once |
//! | `MADV_DONTNEED`, `munmap`, … | what was outstanding there is given up; who waits for it looks again, and finds zeroes or nothing |
//! | `mremap` | what is outstanding moves along |
//! | `fork` | the child owes the same pages; each page that arrives is placed in both |
//! | exec, exit | the address space is gone (`ESRCH`), and what was outstanding there with it |
//!
//! Interleavings that matter: an event is read after the kernel has taken note of it (`mmap_changing`), and until its thread
//! runs on, every placing is answered with `EAGAIN`: what arrived then is parked and placed later, by what is owed *then*. Faults
//! are read before older events (`userfaultfd_ctx_read`), and reading an event is all that its thread waits for: so of what is read at
//! once the changes are taken in first, before anything is placed; who faulted where something has changed looks again. A page
//! asked for may be given up right after.
//!
//! On shared mappings `MADV_DONTNEED` keeps the content and `MADV_REMOVE` does not, and one event stands for both: there none is
//! subscribed. A page that the process *removes* (`MADV_REMOVE`) before it has arrived comes back.

mod arrivals;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::gather::Gathered;
use super::plan::Plan;
use super::space::{Content, Feeder, Interruption, Private, Shared, put};
use super::stats::Stats;
use crate::image::{ObjectId, PageOwner, PageRange, ProcessIndex};
use crate::sys::uffd::{self, Event};
use crate::transport::lane::{LaneKind, LazyRange, LazyReport};

/// How many pieces in place, or how old the last word of them, make it time to tell the source.
const TELL: (usize, Duration) = (256, Duration::from_millis(50));

/// Address spaces from this number on are children's. Before: private memory of the process itself, and its mappings of shared objects.
const FIRST_CHILD: usize = 2;

/// A thread that waits for a page.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    /// Its place: which address space, which page.
    space: usize,
    here: PageRange,
    /// The page by its address at the source. For a shared object, its offset.
    owner: PageOwner,
    source: u64,
    since: Instant,
}

/// All of one migration.
#[derive(Debug)]
pub(super) struct Pager {
    private: BTreeMap<usize, Private>,
    shared: BTreeMap<usize, Shared>,
    next_space: usize,
    feeders: BTreeMap<ObjectId, Feeder>,
    /// What to ask for.
    pub(super) plan: Plan,
    waiting: Vec<Waiting>,
    gathered: Gathered,
    parked: VecDeque<(LazyRange, Content)>,
    /// Pages without content whose thread could not be served yet.
    unserved: Vec<(usize, PageRange)>,
    verify: bool,
    /// In place since this was last asked: the source may free its own.
    placed: Vec<LazyRange>,
    /// When it was.
    told: Instant,
    /// Counters.
    pub(super) stats: Stats,
}

/// The other end broke the rules, or its memory differs: nothing can be placed any more.
#[derive(Debug, thiserror::Error)]
pub(super) enum PagerError {
    #[error("the source sent pages that nobody asked for ({0:#x})")]
    Unasked(u64),
    #[error("the source sent half a page")]
    Torn,
    #[error("the page at {0:#x} arrived with another content than it left with")]
    Differs(u64),
}

impl Pager {
    pub(super) fn new(
        private: Option<Private>,
        shared: Option<Shared>,
        feeders: BTreeMap<ObjectId, Feeder>,
        plan: Plan,
        verify: bool,
    ) -> Self {
        let private = private.into_iter().map(|p| (0, p)).collect();
        let shared = shared.into_iter().map(|s| (1, s)).collect();
        Pager {
            private,
            shared,
            next_space: FIRST_CHILD,
            feeders,
            plan,
            waiting: Vec::new(),
            gathered: Gathered::default(),
            parked: VecDeque::new(),
            unserved: Vec::new(),
            verify,
            placed: Vec::new(),
            told: Instant::now(),
            stats: Stats::new(),
        }
    }

    /// The descriptors to watch.
    pub(super) fn descriptors(&self) -> Vec<(usize, std::os::fd::BorrowedFd<'_>)> {
        let private = self.private.iter().map(|(i, p)| (*i, p.uffd.as_fd()));
        private.chain(self.shared.iter().map(|(i, s)| (*i, s.uffd.as_fd()))).collect()
    }

    /// Whether any address space is left that may need pages.
    pub(super) fn has_spaces(&self) -> bool {
        !self.private.is_empty() || !self.shared.is_empty()
    }

    /// Whether everything is in place.
    pub(super) fn is_whole(&self) -> bool {
        self.plan.is_done() && self.parked.is_empty() && self.unserved.is_empty() && self.waiting.is_empty()
    }

    /// Whether something is to be tried again soon.
    pub(super) fn is_held_up(&self) -> bool {
        !self.parked.is_empty() || !self.unserved.is_empty()
    }

    /// Where it stands, in words.
    pub(super) fn state(&self) -> String {
        format!(
            "{} pages outstanding, {} pieces not placed yet, {} threads waiting",
            self.plan.pages_left(),
            self.parked.len() + self.unserved.len(),
            self.waiting.len()
        )
    }

    pub(super) fn report(&self) -> LazyReport {
        self.stats.report()
    }

    /// Takes in what a userfaultfd has to tell. Returns how many children were born.
    pub(super) fn hear(&mut self, space: usize, now: Instant) -> usize {
        let uffd = match (self.private.get(&space), self.shared.get(&space)) {
            (Some(p), _) => p.uffd.as_fd(),
            (_, Some(s)) => s.uffd.as_fd(),
            _ => return 0,
        };
        let events = match uffd::events(uffd) {
            Ok(events) => events,
            Err(error) => {
                // not that the address space is gone, which `look_round` notices: its pages are still owed
                tracing::error!(space, %error, "a userfaultfd cannot be read");
                return 0;
            }
        };
        let mut born = 0;
        let (mut faults, mut changed) = (Vec::new(), crate::image::RangeSet::default());
        for event in events {
            match event {
                Event::Fault(at) => faults.push(at),
                Event::Fork(child) => {
                    born += 1;
                    self.forked(space, child);
                }
                Event::Remap { from, to, len } => {
                    [from, to].into_iter().for_each(|at| changed.insert(PageRange::new(at, at + len)));
                    self.moved(space, from, to, len);
                }
                Event::Remove(start, end) | Event::Unmap(start, end) => {
                    changed.insert(PageRange::new(start, end));
                    let unmapped = matches!(event, Event::Unmap(..));
                    self.gone(space, PageRange::new(start, end), unmapped);
                }
            }
        }
        for at in faults {
            // it may be of before or after: its thread has been told to look again
            if !changed.overlaps(PageRange::new(at, at + 1)) {
                self.fault(space, at, now);
            }
        }
        born
    }

    fn fault(&mut self, space: usize, at: u64, now: Instant) {
        let (owner, source, here) = if let Some(private) = self.private.get(&space) {
            let size = private.places.page_size(at);
            let start = at / size * size;
            let here = PageRange::new(start, start + size);
            match private.places.of_page(here) {
                Some(source) => (PageOwner::Process(private.of), source, here),
                None => return self.serve_zero(space, here),
            }
        } else if let Some(shared) = self.shared.get(&space) {
            let Some((id, offset)) = shared.at(at) else { return };
            let size = self.feeders.get(&id).map_or(crate::image::PAGE_SIZE, |f| f.page_size);
            let source = offset / size * size;
            let start = at - (offset - source);
            let owner = PageOwner::Object(id);
            let page = LazyRange { owner, range: PageRange::new(source, source + size) };
            let here = PageRange::new(start, start + size);
            if !self.plan.owes(page) {
                return self.serve_zero(space, here);
            }
            (owner, source, here)
        } else {
            return;
        };
        self.stats.count().faults += 1;
        self.waiting.push(Waiting { space, here, owner, source, since: now });
        self.plan.fault(owner, source);
    }

    /// Nothing was there at the source: what a fresh page holds.
    fn serve_zero(&mut self, space: usize, here: PageRange) {
        let done = if let Some(private) = self.private.get(&space) {
            let size = private.places.page_size(here.start);
            put(private.uffd.as_fd(), here.start, here.len(), &Content::Zero, size)
        } else if let Some(shared) = self.shared.get(&space) {
            let Some((id, offset)) = shared.at(here.start) else { return };
            let Some(feeder) = self.feeders.get(&id) else { return };
            let done = feeder.put(offset, here.len(), &Content::Zero);
            let _ = uffd::wake(shared.uffd.as_fd(), here.start, here.len());
            done
        } else {
            return;
        };
        match done.stopped {
            None => self.stats.count().zero_faults += 1,
            Some(Interruption::Again) => self.unserved.push((space, here)),
            Some(Interruption::Dead) => self.forget(space),
        }
    }

    /// A child owes what its parent owes. What another thread changes in the very moment of the fork may be told in another order than
    /// it happened, since a thread tells a change only when it has let go of the address space: then a place of the child is nowhere,
    /// or taken. It is of memory that the parent was just moving or unmapping, which nobody can count on in the child.
    fn forked(&mut self, space: usize, child: OwnedFd) {
        let name = self.next_space;
        self.next_space += 1;
        if let Some(parent) = self.private.get(&space) {
            let (of, places) = (parent.of, parent.places.clone());
            self.private.insert(name, Private { of, uffd: child, places });
        } else if let Some(parent) = self.shared.get(&space) {
            let areas = parent.areas.clone();
            self.shared.insert(name, Shared { uffd: child, areas });
        }
    }

    fn moved(&mut self, space: usize, from: u64, to: u64, len: u64) {
        if let Some(private) = self.private.get_mut(&space) {
            let (of, lost) = (private.of, private.places.moved(from, to, len));
            self.give_up(of, &lost);
        } else if let Some(shared) = self.shared.get_mut(&space) {
            shared.moved(from, to, len);
        }
        // who touched the new place before this was told of it may be about to get zeroes
        self.look_again(space, PageRange::new(from, from + len));
        self.look_again(space, PageRange::new(to, to + len));
    }

    fn gone(&mut self, space: usize, range: PageRange, unmapped: bool) {
        if let Some(private) = self.private.get_mut(&space) {
            let (of, lost) = (private.of, private.places.settle(range));
            self.give_up(of, &lost);
        } else if let Some(shared) = self.shared.get_mut(&space)
            && unmapped
        {
            shared.unmapped(range);
        }
        self.look_again(space, range);
    }

    /// Who waits there looks again: things have changed.
    fn look_again(&mut self, space: usize, range: PageRange) {
        let before = self.waiting.len();
        self.waiting.retain(|w| w.space != space || w.here.intersection(&range).is_empty());
        self.unserved.retain(|(s, here)| *s != space || here.intersection(&range).is_empty());
        self.stats.count().faults -= (before - self.waiting.len()) as u64;
        let uffd = match (self.private.get(&space), self.shared.get(&space)) {
            (Some(p), _) => p.uffd.as_fd(),
            (_, Some(s)) => s.uffd.as_fd(),
            _ => return,
        };
        let _ = uffd::wake(uffd, range.start, range.len());
    }

    /// One address space needs these pages no more. Do others?
    fn give_up(&mut self, of: ProcessIndex, sources: &[PageRange]) {
        for source in sources {
            let mut left: crate::image::RangeSet = [*source].into_iter().collect();
            for private in self.private.values().filter(|private| private.of == of) {
                private.places.of_source(*source).into_iter().for_each(|(_, r)| left.remove(r));
            }
            for range in left.iter() {
                self.stats.count().dropped_pages += range.pages();
                self.plan.settled(LazyRange { owner: PageOwner::Process(of), range });
            }
        }
    }

    /// An address space is gone.
    fn forget(&mut self, space: usize) {
        self.shared.remove(&space);
        self.waiting.retain(|w| w.space != space);
        self.unserved.retain(|(s, _)| *s != space);
        if let Some(private) = self.private.remove(&space) {
            let all = PageRange::new(0, u64::MAX);
            let owed: Vec<PageRange> = private.places.of_source(all).into_iter().map(|(_, r)| r).collect();
            self.give_up(private.of, &owed);
        }
    }

    /// Looks which address spaces are still there: nothing tells when one goes.
    pub(super) fn look_round(&mut self) {
        let dead: Vec<usize> =
            self.descriptors().into_iter().filter(|(_, fd)| !uffd::alive(*fd)).map(|(i, _)| i).collect();
        dead.into_iter().for_each(|space| self.forget(space));
    }

    /// A lane broke: what threads wait for is asked for again.
    pub(super) fn lane_lost(&mut self, lane: LaneKind) {
        self.plan.lost(lane);
        // huge pages that came in part come again as wholes
        for (owner, start) in self.gathered.lost(lane) {
            self.plan.unpark(LazyRange { owner, range: self.plan.page(owner, start) });
        }
        for w in &self.waiting {
            self.plan.fault(w.owner, w.source);
        }
    }
}
