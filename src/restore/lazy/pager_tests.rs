//! The pager against real userfaultfds on memory of our own: threads touch what is not there, and we are the source.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use memmap2::MmapRaw;
use nix::sys::memfd::{MFdFlags, memfd_create};
use xxhash_rust::xxh3::xxh3_128;

use super::pager::Pager;
use super::places::Places;
use super::plan::Plan;
use super::space::{Area, Feeder, Private, Shared};
use crate::image::{FIRST, ObjectId, PAGE_SIZE, PageOwner, PageRange};
use crate::sys::uffd::{self, Features};
use crate::transport::lane::{LaneKind, LazyRange, PagesHead};

const PAGES: u64 = 512;
const ID: ObjectId = ObjectId { dev: 1, ino: 2 };
const OWN: PageOwner = PageOwner::Process(FIRST);

/// What the source has at an address: each fourth page is zero.
fn word(addr: u64) -> u64 {
    if (addr / PAGE_SIZE).is_multiple_of(4) { 0 } else { addr.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 }
}

fn content(range: PageRange) -> Bytes {
    (range.start..range.end).step_by(8).flat_map(|addr| word(addr).to_le_bytes()).collect()
}

fn private_uffd(features: uffd::Features, at: &MmapRaw) -> OwnedFd {
    let own = uffd::create_own(libc::O_NONBLOCK as u64).unwrap();
    uffd::handshake(own.as_fd(), features).unwrap();
    uffd::register_missing(own.as_fd(), at.as_ptr() as u64, at.len() as u64).unwrap();
    own
}

/// Answers wishes as a source does, a piece at a time, until everything is in place.
fn serve(pager: &mut Pager, done: &AtomicBool) {
    let begun = Instant::now();
    while !(pager.is_whole() && done.load(Ordering::SeqCst)) {
        if begun.elapsed() > Duration::from_secs(60) {
            // a thread that waits for a page for ever cannot be joined
            eprintln!("it does not come to an end: {pager:?}");
            std::process::abort();
        }
        let now = Instant::now();
        let spaces: Vec<usize> = pager.descriptors().into_iter().map(|(i, _)| i).collect();
        spaces.into_iter().for_each(|space| {
            pager.hear(space, now);
        });
        if pager.is_held_up() {
            pager.retry(now);
        }
        for lane in [LaneKind::Urgent, LaneKind::Bulk] {
            for want in pager.plan.wants(lane, now) {
                answer(pager, lane, want);
            }
        }
        thread::yield_now();
    }
}

fn answer(pager: &mut Pager, lane: LaneKind, want: LazyRange) {
    for page in want.range.chunks(PAGE_SIZE) {
        let one = LazyRange { range: page, ..want };
        if word(page.start) == 0 {
            pager.zeroes(lane, &[one], Instant::now()).unwrap();
            continue;
        }
        let content = content(page);
        let head = PagesHead { owner: want.owner, start: page.start, digest: xxh3_128(&content) };
        pager.pages(lane, &head, content, Instant::now()).unwrap();
    }
}

/// Reads all words of a memory from several threads in different orders; gives how many were wrong.
fn read_all(map: &MmapRaw, origin: u64, wrong: &AtomicU64) {
    let (base, len) = (map.as_ptr() as u64, map.len() as u64);
    thread::scope(|s| {
        for t in 0..4u64 {
            s.spawn(move || {
                for i in 0..len / PAGE_SIZE {
                    let page = (i * [1, 7, 31, 61][t as usize] + t * 100) % (len / PAGE_SIZE) * PAGE_SIZE;
                    if peek(base + page + 64) != word(origin + page + 64) {
                        wrong.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
    });
}

#[test]
fn threads_find_what_the_source_had() {
    let map = MmapRaw::from(memmap2::MmapMut::map_anon((PAGES * PAGE_SIZE) as usize).unwrap());
    let uffd = private_uffd(Features::SERVING, &map);
    let base = map.as_ptr() as u64;
    let all = PageRange::new(base, base + PAGES * PAGE_SIZE);
    let plan = Plan::new([LazyRange { owner: OWN, range: all }], Vec::new(), Vec::new());
    let places = Places::new(&[all], Vec::new());
    let mut pager = Pager::new(Some(Private { of: FIRST, uffd, places }), None, BTreeMap::new(), plan, true);
    let (done, wrong) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            read_all(&map, base, &wrong);
            done.store(true, Ordering::SeqCst);
        });
        serve(&mut pager, &done);
    });
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
    let report = pager.report();
    assert_eq!((report.pages, report.zero_pages, report.twice), (PAGES * 3 / 4, PAGES / 4, 0), "{report:?}");
}

#[test]
fn shared_objects_are_filled_wherever_they_are_mapped() {
    let fd: OwnedFd = memfd_create("lazy", MFdFlags::MFD_CLOEXEC).unwrap();
    let file = std::fs::File::from(fd.try_clone().unwrap());
    file.set_len(PAGES * PAGE_SIZE).unwrap();
    let maps = [MmapRaw::map_raw(&file).unwrap(), MmapRaw::map_raw(&file).unwrap()];
    let uffd = private_uffd(Features::SERVING_SHARED, &maps[0]);
    let at = |m: &MmapRaw| PageRange::new(m.as_ptr() as u64, m.as_ptr() as u64 + m.len() as u64);
    uffd::register_missing(uffd.as_fd(), maps[1].as_ptr() as u64, maps[1].len() as u64).unwrap();
    let areas = maps.iter().map(|m| Area { range: at(m), object: ID, offset: 0 }).collect();
    let all = PageRange::new(0, PAGES * PAGE_SIZE);
    let plan = Plan::new([LazyRange { owner: PageOwner::Object(ID), range: all }], Vec::new(), Vec::new());
    let feeders = BTreeMap::from([(ID, Feeder::new(&fd, PAGES * PAGE_SIZE, PAGE_SIZE).unwrap())]);
    let mut pager = Pager::new(None, Some(Shared { uffd, areas }), feeders, plan, true);
    let (done, wrong) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|s| {
        s.spawn(|| {
            read_all(&maps[0], 0, &wrong);
            read_all(&maps[1], 0, &wrong);
            done.store(true, Ordering::SeqCst);
        });
        serve(&mut pager, &done);
    });
    assert_eq!(wrong.load(Ordering::SeqCst), 0);
}

#[test]
fn what_is_given_up_is_not_waited_for() {
    let map = memmap2::MmapMut::map_anon((PAGES * PAGE_SIZE) as usize).unwrap();
    let base = map.as_ptr() as u64;
    let raw = MmapRaw::from(map);
    let uffd = private_uffd(Features::SERVING, &raw);
    let all = PageRange::new(base, base + PAGES * PAGE_SIZE);
    let plan = Plan::new([LazyRange { owner: OWN, range: all }], Vec::new(), Vec::new());
    let mut pager = Pager::new(
        Some(Private { of: FIRST, uffd, places: Places::new(&[all], Vec::new()) }),
        None,
        BTreeMap::new(),
        plan,
        false,
    );
    let done = AtomicBool::new(false);
    let found = AtomicU64::new(u64::MAX);
    thread::scope(|s| {
        s.spawn(|| {
            // page 5 is not zero at the source
            dont_need(base + 4 * PAGE_SIZE, 4 * PAGE_SIZE);
            found.store(peek(base + 5 * PAGE_SIZE), Ordering::SeqCst);
            done.store(true, Ordering::SeqCst);
        });
        // before anything is asked for
        while pager.plan.pages_left() == PAGES {
            pager.hear(0, Instant::now());
        }
        serve(&mut pager, &done);
    });
    assert_eq!(found.load(Ordering::SeqCst), 0);
    assert_eq!(pager.report().dropped_pages, 4);
    // munmap would wait for somebody to hear of it
    drop(pager);
    drop(raw);
}

#[test]
fn a_page_without_a_place_is_not_waited_for() {
    let map = MmapRaw::from(memmap2::MmapMut::map_anon((PAGES * PAGE_SIZE) as usize).unwrap());
    let uffd = private_uffd(Features::SERVING, &map);
    let base = map.as_ptr() as u64;
    let all = PageRange::new(base, base + PAGES * PAGE_SIZE);
    // as in a child: the parent had moved this part before it forked, and told it afterwards
    let part = PageRange::new(base + 100 * PAGE_SIZE, base + 200 * PAGE_SIZE);
    uffd::unregister(uffd.as_fd(), part.start, part.len()).unwrap();
    let plan = Plan::new([LazyRange { owner: OWN, range: all }], Vec::new(), Vec::new());
    let places = Places::new(&[all], Vec::new());
    let mut pager = Pager::new(Some(Private { of: FIRST, uffd, places }), None, BTreeMap::new(), plan, false);
    serve(&mut pager, &AtomicBool::new(true));
    let report = pager.report();
    assert_eq!((report.dropped_pages, report.twice), (100, 0), "{report:?}");
    assert_eq!(report.pages + report.zero_pages, PAGES - 100);
    assert!((base..base + 100 * PAGE_SIZE).step_by(PAGE_SIZE as usize).all(|p| peek(p + 64) == word(p + 64)));
}

/// Reads a word as a program does.
fn peek(addr: u64) -> u64 {
    // SAFETY: the callers' mappings are longer.
    #[allow(unsafe_code)]
    unsafe {
        (addr as *const u64).read_volatile()
    }
}

fn dont_need(start: u64, len: u64) {
    let address = std::ptr::NonNull::new(start as *mut std::ffi::c_void).unwrap();
    // SAFETY: the range is a mapping of the test's own, which nobody else knows.
    #[allow(unsafe_code)]
    unsafe { nix::sys::mman::madvise(address, len as usize, nix::sys::mman::MmapAdvise::MADV_DONTNEED) }
        .unwrap();
}
