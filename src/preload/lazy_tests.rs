//! What is sent and what is left for later, of memory of this very process; and a stopped process that is no more than memory.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::process::{Child, Command, Stdio};

use bytes::Bytes;
use memmap2::MmapMut;
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::PreloadError;
use super::capture::{Captive, Poised};
use super::lazy;
use super::objects::ObjectPusher;
use super::push::{PageSink, Pusher};
use crate::dirty::{Found, Last};
use crate::image::memory::{Layout, MemoryObject, VmaFlags};
use crate::image::{Backing, FIRST, ObjectId, PAGE_SIZE, PageOwner, PageRange, ProcessIndex, RangeSet, Vma};
use crate::state::memory_map;
use crate::sys::process::ProcMem;
use crate::sys::spawn::quietly;
use crate::tracee::thread::state_of;
use crate::transport::lane::LazyRange;

/// Notes what it is given, as page numbers.
#[derive(Default)]
struct Notes {
    base: u64,
    pages: Vec<u64>,
    gone: Vec<u64>,
    zero: Vec<u64>,
    object: Vec<u64>,
    holes: Vec<u64>,
}

impl Notes {
    fn numbers(&self, ranges: impl IntoIterator<Item = PageRange>) -> Vec<u64> {
        let pages = ranges.into_iter().flat_map(|r| r.chunks(PAGE_SIZE));
        pages.map(|p| (p.start - self.base) / PAGE_SIZE).collect()
    }

    fn taken(&mut self) -> Notes {
        std::mem::replace(self, Notes { base: self.base, ..Notes::default() })
    }

    fn nothing_sent(&self) -> bool {
        self.pages.is_empty() && self.object.is_empty()
    }
}

impl PageSink for Notes {
    fn pages(&mut self, _: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError> {
        let numbers = self.numbers([PageRange::new(addr, addr + data.len() as u64)]);
        self.pages.extend(numbers);
        Ok(())
    }

    fn zero(&mut self, _: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        let numbers = self.numbers(ranges);
        self.zero.extend(numbers);
        Ok(())
    }

    fn gone(&mut self, _: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        let numbers = self.numbers(ranges);
        self.gone.extend(numbers);
        Ok(())
    }

    fn object_pages(&mut self, _: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError> {
        self.object
            .extend((offset..offset + data.len() as u64).step_by(PAGE_SIZE as usize).map(|o| o / PAGE_SIZE));
        Ok(())
    }

    fn object_holes(&mut self, _: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.holes.extend(ranges.into_iter().flat_map(|r| r.chunks(PAGE_SIZE)).map(|p| p.start / PAGE_SIZE));
        Ok(())
    }
}

/// Private memory of this process: a page of content each, but the last, which is zero.
struct Ours {
    memory: MmapMut,
    layout: Layout,
    notes: Notes,
    pusher: Pusher,
}

const PAGES: u64 = 10;

impl Ours {
    fn new(exact: bool) -> Self {
        let mut memory = MmapMut::map_anon((PAGES * PAGE_SIZE) as usize).unwrap();
        for (i, page) in memory.chunks_mut(PAGE_SIZE as usize).enumerate().take(PAGES as usize - 1) {
            page.fill(i as u8 + 1);
        }
        let base = memory.as_ptr() as u64;
        let layout = Layout { vmas: vec![vma(base, PAGES, Backing::Anonymous)], ..Layout::default() };
        let pusher = Pusher::new(std::process::id() as i32, FIRST, exact).unwrap();
        Ours { memory, layout, notes: Notes { base, ..Notes::default() }, pusher }
    }

    fn write(&mut self, page: usize) {
        self.memory[page * PAGE_SIZE as usize] ^= 0x55;
    }

    fn range(&self, from: u64, to: u64) -> PageRange {
        PageRange::new(self.notes.base + from * PAGE_SIZE, self.notes.base + to * PAGE_SIZE)
    }

    fn found(&self, from: u64, to: u64, written: bool) -> Found {
        Found { written, ..Found::data(self.range(from, to)) }
    }

    fn round(&mut self, found: &[Found]) -> Notes {
        self.pusher.round(&self.layout, found, &mut self.notes).unwrap();
        self.notes.taken()
    }

    fn take_back(&mut self, found: &[Found]) -> Notes {
        self.pusher.take_back(&self.layout, found, &mut self.notes).unwrap();
        self.notes.taken()
    }

    /// The last round: what it sent, and what is left for later.
    fn last(&mut self, found: &[Found], touched: &[PageRange]) -> (Notes, Vec<u64>) {
        let mut may_wait = lazy::private(&self.layout);
        touched.iter().for_each(|t| may_wait.remove(*t));
        let found = Last::of_present(found.to_vec(), &self.pusher.known());
        let (_, later, _) = self.pusher.last(&self.layout, &found, &may_wait, &mut self.notes).unwrap();
        let later = self.notes.numbers(later.iter());
        (self.notes.taken(), later)
    }
}

fn vma(start: u64, pages: u64, backing: Backing) -> Vma {
    Vma {
        start,
        end: start + pages * PAGE_SIZE,
        prot: 3,
        shared: backing != Backing::Anonymous,
        offset: 0,
        backing,
        flags: VmaFlags::MAY_WRITE,
        page_size: PAGE_SIZE,
    }
}

#[test]
fn what_went_ahead_and_was_not_written_is_not_outstanding() {
    let mut ours = Ours::new(true);
    let all = ours.found(0, PAGES, true);
    assert_eq!(ours.round(&[all]).pages, (0..PAGES - 1).collect::<Vec<_>>());
    ours.write(3);
    // 5 has been given up; 0 and 3 were written, of which 0 is touched first
    let found = [
        ours.found(0, 1, true),
        ours.found(1, 3, false),
        ours.found(3, 4, true),
        ours.found(4, 5, false),
        ours.found(6, PAGES, false),
    ];
    let first = ours.range(0, 1);
    let (sent, later) = ours.last(&found, &[first]);
    assert_eq!((sent.pages, sent.gone, later), (vec![0], vec![5], vec![3]));
}

#[test]
fn where_contents_tell_only_what_differs_is_outstanding() {
    let mut ours = Ours::new(false);
    let all = ours.found(0, PAGES, true);
    assert_eq!(ours.round(&[all]).pages.len(), PAGES as usize - 1);
    ours.write(3);
    ours.memory[7 * PAGE_SIZE as usize..8 * PAGE_SIZE as usize].fill(0);
    ours.write(9);
    let (sent, later) = ours.last(&[all], &[]);
    assert!(sent.nothing_sent(), "{:?}", sent.pages);
    assert_eq!((sent.zero, later), (vec![7], vec![3, 9]));
}

#[test]
fn what_is_held_back_as_hot_is_outstanding() {
    for exact in [true, false] {
        let mut ours = Ours::new(exact);
        ours.round(&[ours.found(0, PAGES, true)]);
        for _ in 0..4 {
            ours.write(2);
            ours.round(&[ours.found(2, 3, true)]);
        }
        assert_eq!(ours.pusher.held(), 1);
        // not written since the last round: the target has an older one all the same
        let (sent, later) = ours.last(&[ours.found(0, PAGES, !exact)], &[]);
        assert!(sent.nothing_sent() && later == [2], "{exact}: {:?}, {later:?}", sent.pages);
    }
}

#[test]
fn what_is_taken_back_before_the_freeze_is_outstanding_or_sent_again() {
    let mut ours = Ours::new(true);
    ours.round(&[ours.found(0, PAGES, true)]);
    for _ in 0..4 {
        ours.write(2);
        ours.round(&[ours.found(2, 3, true)]);
    }
    [3, 5].into_iter().for_each(|page| ours.write(page));
    // 2 is held back; of 9, which was zero, the target has nothing
    let written = [ours.found(3, 4, true), ours.found(5, 6, true), ours.found(9, 10, true)];
    let back = ours.take_back(&written);
    assert!(back.nothing_sent());
    assert_eq!(back.gone, [2, 3, 5]);
    // nothing was written since, 5 is touched first
    let first = ours.range(5, 6);
    let (sent, later) = ours.last(&[ours.found(0, PAGES, false)], &[first]);
    assert_eq!((sent.pages, sent.gone, later), (vec![5], vec![], vec![2, 3, 9]));
}

#[test]
fn what_rounds_leave_out_is_owed() {
    for exact in [true, false] {
        let mut ours = Ours::new(exact);
        let all = ours.found(0, PAGES, true);
        ours.pusher.withhold(lazy::private(&ours.layout));
        assert!(ours.round(&[all]).nothing_sent());
        assert!(ours.round(&[]).nothing_sent());
        let first = ours.range(4, 5);
        let present = ours.found(0, PAGES, !exact);
        let (sent, later) = ours.last(&[present], &[first]);
        assert_eq!((sent.pages, later), (vec![4], vec![0, 1, 2, 3, 5, 6, 7, 8, 9]));

        // it may not come late any more
        let mut ours = Ours::new(exact);
        ours.pusher.withhold(lazy::private(&ours.layout));
        ours.round(&[ours.found(0, PAGES, true)]);
        ours.pusher.withhold(RangeSet::default());
        assert_eq!(ours.round(&[]).pages, (0..PAGES - 1).collect::<Vec<_>>());
    }
}

#[test]
fn objects_without_a_descriptor_come_late() {
    let file = File::from(memfd_create("late", MFdFlags::MFD_CLOEXEC).unwrap());
    file.set_len(PAGES * PAGE_SIZE).unwrap();
    (&file).write_all(&vec![7; 6 * PAGE_SIZE as usize]).unwrap();
    let meta = file.metadata().unwrap();
    let id = ObjectId { dev: meta.dev(), ino: meta.ino() };
    let object = MemoryObject {
        id,
        size: PAGES * PAGE_SIZE,
        memfd_name: Some("late".into()),
        seals: 0,
        page_size: PAGE_SIZE,
        inode: None,
        shm: false,
    };
    let layout = Layout {
        vmas: vec![vma(1 << 40, PAGES, Backing::MemFd(id))],
        objects: vec![object],
        ..Layout::default()
    };
    let pid = std::process::id() as i32;
    let fd = [(id.ino, file.as_raw_fd())].into();
    let nobody = std::collections::BTreeMap::new();
    let numbers = |set: &RangeSet| {
        set.iter().flat_map(|r| r.chunks(PAGE_SIZE)).map(|p| p.start / PAGE_SIZE).collect::<Vec<_>>()
    };
    let mut notes = Notes::default();

    // from the start: rounds leave it out
    let mut late = ObjectPusher::default();
    // opened by way of the descriptor, which is closed then
    late.update(pid, &layout, &fd);
    late.update(pid, &layout, &nobody);
    for _ in 0..2 {
        late.push(&layout, &[], (false, true), &mut notes).unwrap();
    }
    let (pages, later) = late.push(&layout, &[], (true, true), &mut notes).unwrap();
    assert_eq!((pages, numbers(&later[&id])), (0, (0..6).collect()));
    assert!(notes.nothing_sent());

    // with a descriptor it goes in rounds; when that is closed, only what has changed since comes late
    let mut hybrid = ObjectPusher::default();
    hybrid.update(pid, &layout, &fd);
    assert_eq!(hybrid.push(&layout, &[], (false, true), &mut notes).unwrap().0, 6);
    file.write_all_at(&[9], 2 * PAGE_SIZE).unwrap();
    file.write_all_at(&[0; PAGE_SIZE as usize], 4 * PAGE_SIZE).unwrap();
    hybrid.update(pid, &layout, &nobody);
    notes = Notes::default();
    let (pages, later) = hybrid.push(&layout, &[], (true, true), &mut notes).unwrap();
    assert_eq!((pages, numbers(&later[&id]), &notes.holes), (0, vec![2], &vec![4]));

    // and with one it never does
    let mut eager = ObjectPusher::default();
    eager.update(pid, &layout, &fd);
    let (pages, later) = eager.push(&layout, &[], (true, true), &mut notes).unwrap();
    assert_eq!((pages, later.len()), (5, 0));
}

/// A shell that waits, for a freeze.
struct Shell(Child);

impl Shell {
    fn new() -> Self {
        let script = "x=$(printf %200000d 7); echo; read line";
        let mut shell = Command::new("sh");
        let mut child = quietly(shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut byte = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut byte).unwrap();
        Shell(child)
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn captive(&self) -> Captive {
        let mut captive = Poised::prepare(self.pid(), None).unwrap().freeze().unwrap();
        captive.furnish(&crate::state::waits::Memory::default()).unwrap();
        captive
    }

    /// It comes to rest in this state, and stays there.
    fn rests(&self, state: char) {
        let pause = || std::thread::sleep(std::time::Duration::from_millis(50));
        let comes = (0..1200).any(|_| {
            pause();
            state_of(self.pid()) == state
        });
        pause();
        assert!(comes && state_of(self.pid()) == state, "it is in state {}", state_of(self.pid()));
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_copy_that_is_left_behind_stays_stopped() {
    let shell = Shell::new();
    let mut captive = shell.captive();
    captive.hold().unwrap();
    captive.leave_stopped();
    shell.rests('T');
}

#[test]
fn a_retired_copy_is_memory_and_nothing_else() {
    let mut shell = Shell::new();
    let pid = shell.pid();
    let layout = memory_map::survey(pid).unwrap().layout;
    let mut captive = shell.captive();
    captive.hold().unwrap();
    captive.retire().unwrap();
    let heap =
        layout.vmas.iter().filter(|v| lazy::lazy_able(v) && v.prot == 3).max_by_key(|v| v.end - v.start);
    let heap = heap.unwrap().range();
    let (freed, kept) = (
        PageRange::new(heap.start, heap.start + 8 * PAGE_SIZE),
        PageRange::new(heap.start + 8 * PAGE_SIZE, heap.start + 16 * PAGE_SIZE),
    );
    let read = |range: PageRange| {
        let mut bytes = vec![0; range.len() as usize];
        ProcMem::open(pid).unwrap().read(range.start, &mut bytes).unwrap();
        bytes
    };
    let before = read(kept);
    assert!(read(freed).iter().any(|b| *b != 0));
    let ranges = [LazyRange { owner: PageOwner::Process(FIRST), range: freed }];
    captive.free(&lazy::freeing(&layout, &ranges)).unwrap();
    assert!(read(freed).iter().all(|b| *b == 0));
    // the tracer goes: it sleeps for ever, and signals do not wake it
    drop(captive);
    let signal = nix::sys::signal::SIGTERM;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
    drop(shell.0.stdin.take());
    shell.rests('S');
    let call = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap();
    assert!(call.starts_with("34 "), "{call}");
    assert_eq!(read(kept), before);
}
