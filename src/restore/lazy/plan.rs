//! What to ask the source for next. Pure: ranges and moments in, ranges out.
//!
//! A page that a thread waits for goes on the urgent lane at once. All the rest follows on the bulk lane: first the
//! neighbours of such pages, then what the source thinks is needed soon, then by address. No page is asked for while
//! it is on its way.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use crate::image::{PAGE_SIZE, PageOwner, PageRange, RangeSet};
use crate::transport::lane::{LaneKind, LazyRange};

/// Most bytes asked for in one piece.
const PIECE: u64 = 256 * 1024;
/// How far around a fault the neighbours reach, in bytes.
const NEAR: u64 = 64 * 1024;

/// Pages of several owners.
#[derive(Clone, Debug, Default)]
struct Sets(BTreeMap<PageOwner, RangeSet>);

impl FromIterator<LazyRange> for Sets {
    fn from_iter<I: IntoIterator<Item = LazyRange>>(ranges: I) -> Self {
        let mut lists: BTreeMap<PageOwner, Vec<PageRange>> = BTreeMap::new();
        ranges.into_iter().for_each(|r| lists.entry(r.owner).or_default().push(r.range));
        Sets(lists.into_iter().map(|(owner, list)| (owner, list.into_iter().collect())).collect())
    }
}

impl Sets {
    fn insert(&mut self, r: LazyRange) {
        self.0.entry(r.owner).or_default().insert(r.range);
    }

    fn remove(&mut self, r: LazyRange) {
        if let Some(set) = self.0.get_mut(&r.owner) {
            set.remove(r.range);
            if set.is_empty() {
                self.0.remove(&r.owner);
            }
        }
    }

    fn overlaps(&self, r: LazyRange) -> bool {
        self.0.get(&r.owner).is_some_and(|set| set.overlaps(r.range))
    }

    fn within(&self, r: LazyRange) -> Vec<PageRange> {
        self.0.get(&r.owner).map(|set| set.within(r.range).collect()).unwrap_or_default()
    }
}

/// What is outstanding and what is on its way.
#[derive(Debug)]
pub(super) struct Plan {
    owed: Sets,
    in_flight: BTreeMap<LaneKind, Flight>,
    /// What has arrived and could not be placed yet.
    parked: Sets,
    urgent: Vec<LazyRange>,
    near: VecDeque<LazyRange>,
    order: VecDeque<LazyRange>,
    cursor: Option<(PageOwner, u64)>,
    /// Huge pages (hugetlb): they come as wholes.
    huge: Vec<(LazyRange, u64)>,
    window: Window,
}

/// What is on its way on one lane, in the order in which it was asked for.
#[derive(Debug, Default)]
struct Flight {
    set: Sets,
    asked: VecDeque<(LazyRange, Instant)>,
    bytes: u64,
}

/// How much may be on its way on the bulk lane: as much as keeps it busy, and no more, since a thread may come to wait
/// for what is far behind in it, and what it asks for itself queues behind it where the link is narrow.
///
/// That is what arrives in the time that the fastest piece took, at the best speed that was seen of late, and one and a half times as much again, but
/// no more than arrives in [two milliseconds](Window::WAITING): the first is under way, the second waits. With less of the second the link ran empty
/// whenever others had the CPU (`cargo bench --bench lazy -- access --rate 1gbit --delay 500us`, as much again: push 0.79 of that without faults,
/// median wait 1.9 round trips; twice as much: 0.92 and 2.8). A page on the urgent lane is the smallest
/// of pieces: with it comes the time that the link takes when nothing is ahead, to which the [work](Window::WORK) on a larger piece is
/// added. That a piece took long says nothing: somebody else may have had the CPU.
#[derive(Debug)]
struct Window {
    bytes: u64,
    shortest: Duration,
    /// Bytes that have arrived since a moment.
    counted: (u64, Option<Instant>),
    /// Bytes per second, of the latest spans.
    speeds: VecDeque<f64>,
}

impl Window {
    const LEAST: u64 = 64 << 10;
    const MOST: u64 = 16 << 20;
    /// What waits where the link is narrowest keeps it busy while others have the CPU; whoever faults waits behind it.
    const WAITING: Duration = Duration::from_millis(2);
    /// To read a piece and to place it takes as long as this, a page next to nothing.
    const WORK: Duration = Duration::from_micros(150);
    /// A speed is of so much time.
    const SPAN: Duration = Duration::from_millis(10);
    /// So many of them count.
    const SPANS: usize = 50;

    fn new() -> Self {
        let (shortest, speeds) = (Duration::from_secs(1), VecDeque::new());
        Window { bytes: 1 << 20, shortest, counted: (0, None), speeds }
    }

    /// Most bytes of a piece: several are on their way.
    fn piece(&self) -> u64 {
        (self.bytes / 4).next_power_of_two().clamp(16 << 10, PIECE)
    }

    /// A piece, however small, took that time.
    fn took(&mut self, time: Duration) {
        self.shortest = self.shortest.min(time);
    }

    /// So many bytes, asked for as a piece, have arrived after that time.
    fn learn(&mut self, bytes: u64, took: Duration, now: Instant) {
        self.took(took);
        let since = *self.counted.1.get_or_insert(now);
        self.counted.0 += bytes;
        let span = now.saturating_duration_since(since);
        if span < Self::SPAN {
            return;
        }
        self.speeds.push_back(self.counted.0 as f64 / span.as_secs_f64());
        if self.speeds.len() > Self::SPANS {
            self.speeds.pop_front();
        }
        self.counted = (0, Some(now));
        let best = self.speeds.iter().copied().fold(0.0, f64::max);
        let time = self.shortest + (self.shortest * 3 / 2).min(Self::WAITING);
        let enough = (best * time.as_secs_f64()) as u64;
        self.bytes = enough.clamp(Self::LEAST, Self::MOST);
    }
}

impl Plan {
    /// Nothing is asked for yet.
    pub(super) fn new(
        outstanding: impl IntoIterator<Item = LazyRange>,
        order: Vec<LazyRange>,
        huge: Vec<(LazyRange, u64)>,
    ) -> Self {
        let wholes = |r: LazyRange| {
            let size = page_size(&huge, r.owner, r.range.start);
            let range = PageRange::new(r.range.start / size * size, r.range.end.next_multiple_of(size));
            LazyRange { range, ..r }
        };
        let order = order.into_iter().map(wholes).collect();
        Plan {
            owed: outstanding.into_iter().filter(|r| !r.range.is_empty()).collect(),
            in_flight: BTreeMap::from([
                (LaneKind::Urgent, Flight::default()),
                (LaneKind::Bulk, Flight::default()),
            ]),
            parked: Sets::default(),
            urgent: Vec::new(),
            near: VecDeque::new(),
            order,
            cursor: None,
            huge,
            window: Window::new(),
        }
    }

    /// Whether nothing is outstanding any more.
    pub(super) fn is_done(&self) -> bool {
        self.owed.0.is_empty()
    }

    /// Pages still to come.
    pub(super) fn pages_left(&self) -> u64 {
        self.owed.0.values().map(RangeSet::pages).sum()
    }

    /// The whole page around an address, and its size.
    pub(super) fn page(&self, owner: PageOwner, addr: u64) -> PageRange {
        let size = page_size(&self.huge, owner, addr);
        let start = addr / size * size;
        PageRange::new(start, start + size)
    }

    /// How far from `addr` there are no huge pages, at most to `end`.
    pub(super) fn plain_until(&self, owner: PageOwner, addr: u64, end: u64) -> u64 {
        let starts = self.huge.iter().filter(|(r, _)| r.owner == owner).map(|(r, _)| r.range.start);
        starts.filter(|start| *start > addr).fold(end, u64::min)
    }

    /// A thread waits for the page at this address of the source. Does nothing if it is on its way.
    pub(super) fn fault(&mut self, owner: PageOwner, addr: u64) {
        let page = LazyRange { owner, range: self.page(owner, addr) };
        for part in self.missing(page) {
            self.urgent.push(part);
        }
        if page.range.len() > NEAR {
            return;
        }
        let start = addr / NEAR * NEAR;
        self.near.push_front(LazyRange { owner, range: PageRange::new(start, start + NEAR) });
        self.near.truncate(256);
    }

    /// What of a range is owed and neither on its way nor about to be asked for.
    fn missing(&self, r: LazyRange) -> Vec<LazyRange> {
        let mut missing: RangeSet = self.owed.within(r).into_iter().collect();
        let about = self.urgent.iter().filter(|u| u.owner == r.owner).map(|u| u.range);
        self.underway(r).into_iter().chain(about).for_each(|known| missing.remove(known));
        missing.iter().map(|range| LazyRange { range, ..r }).collect()
    }

    /// What of a range is on its way, or here and not in place.
    fn underway(&self, r: LazyRange) -> Vec<PageRange> {
        self.in_flight.values().map(|f| &f.set).chain([&self.parked]).flat_map(|set| set.within(r)).collect()
    }

    /// What to ask for now on a lane.
    pub(super) fn wants(&mut self, lane: LaneKind, now: Instant) -> Vec<LazyRange> {
        let wanted = match lane {
            LaneKind::Urgent => std::mem::take(&mut self.urgent),
            LaneKind::Bulk => self.bulk(),
        };
        for r in &wanted {
            self.flies(lane, *r, now);
        }
        wanted
    }

    fn flies(&mut self, lane: LaneKind, r: LazyRange, now: Instant) {
        let flight = self.in_flight.entry(lane).or_default();
        flight.set.insert(r);
        flight.bytes += r.range.len();
        flight.asked.push_back((r, now));
    }

    fn bulk(&mut self) -> Vec<LazyRange> {
        let mut wanted: Vec<LazyRange> = Vec::new();
        let mut bytes = self.in_flight.get(&LaneKind::Bulk).map_or(0, |f| f.bytes);
        while bytes < self.window.bytes {
            let Some(next) = self.next_piece(&wanted) else { break };
            bytes += next.range.len();
            wanted.push(next);
        }
        wanted
    }

    /// The next piece that is not among `chosen` already.
    fn next_piece(&mut self, chosen: &[LazyRange]) -> Option<LazyRange> {
        while let Some(near) = self.near.front().copied() {
            match self.first_missing(near, chosen) {
                Some(piece) => return Some(piece),
                None => self.near.pop_front(),
            };
        }
        while let Some(next) = self.order.front().copied() {
            match self.first_missing(next, chosen) {
                Some(piece) => return Some(piece),
                None => self.order.pop_front(),
            };
        }
        let next = self.next_by_address(chosen);
        if next.is_some() || self.cursor.take().is_none() {
            return next;
        }
        // what could not be placed, or got lost, lies behind
        self.next_by_address(chosen)
    }

    fn next_by_address(&mut self, chosen: &[LazyRange]) -> Option<LazyRange> {
        let from = self.cursor;
        let owners: Vec<PageOwner> = self.owed.0.keys().copied().collect();
        for owner in owners {
            let start = match from {
                Some((last, _)) if owner < last => continue,
                Some((last, at)) if owner == last => at,
                _ => 0,
            };
            let rest = LazyRange { owner, range: PageRange::new(start, u64::MAX) };
            if let Some(piece) = self.first_missing(rest, chosen) {
                self.cursor = Some((owner, piece.range.end));
                return Some(piece);
            }
        }
        None
    }

    /// The first piece of a range that is owed, not on its way and not chosen.
    fn first_missing(&self, r: LazyRange, chosen: &[LazyRange]) -> Option<LazyRange> {
        let set = self.owed.0.get(&r.owner)?;
        for owed in set.within(r.range) {
            let page = self.page(r.owner, owed.start);
            let most = self.window.piece().max(page.len());
            let mut at = owed.start;
            while at < owed.end {
                let piece = LazyRange { range: PageRange::new(at, owed.end.min(at + most)), ..r };
                let mut free: RangeSet = [piece.range].into_iter().collect();
                let known = self.underway(piece).into_iter();
                let about = chosen.iter().chain(&self.urgent).filter(|c| c.owner == r.owner).map(|c| c.range);
                known.chain(about).for_each(|k| free.remove(k));
                if let Some(range) = free.iter().next() {
                    return Some(LazyRange { range, ..r });
                }
                at = piece.range.end;
            }
        }
        None
    }

    /// Something has arrived on a lane. Returns what of it was asked for there: the rest is nonsense.
    pub(super) fn arrived(&mut self, lane: LaneKind, r: LazyRange, now: Instant) -> Vec<PageRange> {
        let Some(flight) = self.in_flight.get_mut(&lane) else { return Vec::new() };
        let asked = flight.set.within(r);
        for range in &asked {
            flight.set.remove(LazyRange { range: *range, ..r });
            flight.bytes = flight.bytes.saturating_sub(range.len());
        }
        while let Some((front, since)) = flight.asked.front().copied() {
            if flight.set.overlaps(front) {
                break;
            }
            flight.asked.pop_front();
            match lane {
                LaneKind::Bulk => self.window.learn(front.range.len(), now - since, now),
                LaneKind::Urgent => self.window.took(now - since + Window::WORK),
            }
        }
        asked
    }

    /// These pages are here and will be placed; they need not be asked for.
    pub(super) fn park(&mut self, r: LazyRange) {
        self.parked.insert(r);
    }

    /// They got lost here: they must be asked for again.
    pub(super) fn unpark(&mut self, r: LazyRange) {
        self.parked.remove(r);
    }

    /// These pages are in place, or nobody wants them any more.
    pub(super) fn settled(&mut self, r: LazyRange) {
        self.owed.remove(r);
        self.parked.remove(r);
    }

    /// Whether any page of the range is outstanding.
    pub(super) fn owes(&self, r: LazyRange) -> bool {
        self.owed.overlaps(r)
    }

    /// A lane broke: what was on its way there is not coming. What threads wait for must be told anew by [`Plan::fault`].
    pub(super) fn lost(&mut self, lane: LaneKind) {
        self.in_flight.insert(lane, Flight::default());
        if lane == LaneKind::Bulk {
            // another connection, perhaps another path
            self.window = Window::new();
        }
        if lane == LaneKind::Urgent {
            self.urgent.clear();
        }
        self.cursor = None;
    }
}

/// Bytes of the page at an address.
fn page_size(huge: &[(LazyRange, u64)], owner: PageOwner, addr: u64) -> u64 {
    let at = |(r, _): &&(LazyRange, u64)| r.owner == owner && r.range.start <= addr && addr < r.range.end;
    huge.iter().find(at).map_or(PAGE_SIZE, |(_, size)| *size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{FIRST, ProcessIndex};

    const OWN: PageOwner = PageOwner::Process(FIRST);

    fn pages(start: u64, end: u64) -> LazyRange {
        LazyRange { owner: OWN, range: PageRange::new(start << 12, end << 12) }
    }

    fn all_of(plan: &mut Plan, lane: LaneKind) -> Vec<LazyRange> {
        let mut order = Vec::new();
        loop {
            let wanted = plan.wants(lane, Instant::now());
            if wanted.is_empty() {
                return order;
            }
            for r in wanted {
                assert_eq!(plan.arrived(lane, r, Instant::now()), [r.range]);
                plan.settled(r);
                order.push(r);
            }
        }
    }

    #[test]
    fn everything_comes_once_and_the_touched_first() {
        let order = vec![pages(600, 620)];
        let mut plan = Plan::new([pages(0, 1000)], order, Vec::new());
        plan.fault(OWN, (500 << 12) + 77);
        plan.fault(OWN, 500 << 12);
        assert_eq!(plan.wants(LaneKind::Urgent, Instant::now()), [pages(500, 501)]);
        let came = all_of(&mut plan, LaneKind::Bulk);
        assert_eq!(came[0], pages(496, 500), "{came:?}");
        assert_eq!(came[1], pages(501, 512));
        assert_eq!(came[2], pages(600, 620));
        assert_eq!(came[3].range.start, 0);
        assert_eq!(came.iter().map(|r| r.range.pages()).sum::<u64>(), 999);
        assert!(!plan.is_done());
        assert_eq!(plan.arrived(LaneKind::Urgent, pages(500, 501), Instant::now()).len(), 1);
        plan.settled(pages(500, 501));
        assert!(plan.is_done());
    }

    #[test]
    fn what_was_not_asked_for_is_nonsense() {
        let mut plan = Plan::new([pages(0, 10)], Vec::new(), Vec::new());
        assert!(plan.arrived(LaneKind::Bulk, pages(0, 10), Instant::now()).is_empty());
        plan.wants(LaneKind::Bulk, Instant::now());
        assert!(plan.arrived(LaneKind::Urgent, pages(0, 10), Instant::now()).is_empty());
        assert_eq!(plan.arrived(LaneKind::Bulk, pages(5, 20), Instant::now()), [pages(5, 10).range]);
        assert!(plan.arrived(LaneKind::Bulk, pages(5, 20), Instant::now()).is_empty());
        let other = LazyRange { owner: PageOwner::Process(ProcessIndex(1)), ..pages(0, 5) };
        assert!(
            plan.arrived(LaneKind::Bulk, other, Instant::now()).is_empty(),
            "of a process that is not there"
        );
    }

    #[test]
    fn a_broken_lane_is_asked_again() {
        let mut plan = Plan::new([pages(0, 10)], Vec::new(), Vec::new());
        assert_eq!(plan.wants(LaneKind::Bulk, Instant::now()), [pages(0, 10)]);
        plan.fault(OWN, 3 << 12);
        assert!(plan.wants(LaneKind::Urgent, Instant::now()).is_empty(), "it is on its way");
        plan.lost(LaneKind::Bulk);
        plan.fault(OWN, 3 << 12);
        assert_eq!(plan.wants(LaneKind::Urgent, Instant::now()), [pages(3, 4)]);
        plan.lost(LaneKind::Urgent);
        plan.fault(OWN, 3 << 12);
        assert_eq!(plan.wants(LaneKind::Urgent, Instant::now()), [pages(3, 4)]);
        let rest = all_of(&mut plan, LaneKind::Bulk);
        assert_eq!(rest.iter().map(|r| r.range.pages()).sum::<u64>(), 9);
    }

    #[test]
    fn huge_pages_come_as_wholes() {
        let huge = pages(512, 1536);
        let mut plan = Plan::new([huge, pages(0, 4)], Vec::new(), vec![(huge, 512 << 12)]);
        plan.fault(OWN, 700 << 12);
        assert_eq!(plan.wants(LaneKind::Urgent, Instant::now()), [pages(512, 1024)]);
        let rest = all_of(&mut plan, LaneKind::Bulk);
        assert!(rest.contains(&pages(1024, 1536)), "{rest:?}");
    }

    #[test]
    fn the_window_follows_the_link() {
        // a gigabyte per second over a round trip of 4 ms, and then a tenth of it: what is under way, and what arrives in two milliseconds
        let mut window = Window::new();
        let mut now = Instant::now();
        for (nanos, least, most) in [(1, 4 << 20, 6 << 20), (10, 600 << 10, 1 << 20)] {
            for _ in 0..200 {
                let flight = Duration::from_millis(4) + Duration::from_nanos(PIECE * nanos);
                // what the window holds takes that long, or as long as the link needs for it
                let link = Duration::from_nanos(window.bytes * nanos);
                now += flight.max(link);
                (0..window.bytes / PIECE).for_each(|_| window.learn(PIECE, flight.max(link), now));
            }
            assert!((least..most).contains(&window.bytes), "{}", window.bytes);
        }
    }
}
