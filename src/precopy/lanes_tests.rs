//! Both lanes against a holder that is played here, and a real stopped process.

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use tempfile::TempDir;

use super::*;
use crate::image::{FIRST, PageOwner, PageRange, RangeSet};
use crate::preload::lazy;
use crate::state::memory_map;
use crate::sys::process::ProcMem;
use crate::sys::spawn::quietly;
use crate::sys::stat::start_time;
use crate::tracee::thread::state_of;
use crate::transport::lane::PagesHead;
use crate::transport::{Accepted, Listener, accept_wire};

const PATIENCE: Duration = Duration::from_secs(60);
const OWN: PageOwner = PageOwner::Process(FIRST);

/// A shell, stopped as the commit leaves a process.
struct Stopped(Child);

impl Stopped {
    fn new() -> Self {
        let script = "x=$(printf %100000d 7); echo; read line";
        let mut shell = Command::new("sh");
        let mut child = quietly(shell.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut line = String::new();
        let stdout = child.stdout.as_mut().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        let stopped = Stopped(child);
        stopped.signal(nix::sys::signal::SIGSTOP);
        let begun = Instant::now();
        while state_of(stopped.pid()) != 'T' {
            assert!(begun.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(1));
        }
        stopped
    }

    fn pid(&self) -> i32 {
        self.0.id() as i32
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid()), signal).unwrap();
    }

    fn memory(&self) -> Memory {
        Memory::of_left(self.pid(), start_time(self.pid()).unwrap(), true).unwrap()
    }

    fn lazy(&self) -> RangeSet {
        lazy::private(&memory_map::survey(self.pid()).unwrap().layout)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Source and target that trust each other, and a target that listens.
struct Hosts {
    source: TempDir,
    _target: TempDir,
    listener: Listener,
}

impl Hosts {
    fn new() -> Self {
        let (source, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let identity = |dir: &TempDir| Identity::load_or_create(dir.path()).unwrap();
        let trust = |dir: &TempDir| TrustStore::new(dir.path());
        let (ours, theirs) = (identity(&source), identity(&target));
        trust(&source).add(theirs.fingerprint(), None).unwrap();
        trust(&target).add(ours.fingerprint(), None).unwrap();
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let listener = Listener::bind(&theirs, trust(&target), any).unwrap();
        Hosts { source, _target: target, listener }
    }

    fn open(&self) -> Lanes {
        let to = self.listener.local_addr().into();
        let home = self.source.path().to_owned();
        Lanes::open(&Road { home, to, id: "m-1".to_owned(), limit: PATIENCE }).unwrap()
    }

    async fn accept(&mut self) -> Accepted {
        tokio::time::timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap().unwrap()
    }
}

/// The holder's end of a lane.
struct End {
    accepted: Accepted,
    wire: Wire,
    kind: LaneKind,
}

impl End {
    async fn new(accepted: Accepted) -> Self {
        let mut wire =
            tokio::time::timeout(PATIENCE, accept_wire(&accepted.connection, cap)).await.unwrap().unwrap();
        match wire.recv().await.unwrap().message().unwrap() {
            ToTarget::Lane { id, lane } if id == "m-1" => End { accepted, wire, kind: lane },
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, message: &FromHolder) {
        self.wire.send_msg(message).await.unwrap();
    }

    async fn frame(&mut self) -> Frame {
        tokio::time::timeout(PATIENCE, self.wire.recv()).await.unwrap().unwrap()
    }

    /// Asks for these, and checks that every page is answered once, in order, and as the stopped process has it.
    async fn want(&mut self, pid: i32, wanted: &[PageRange]) -> (u64, u64) {
        let ranges = wanted.iter().map(|r| LazyRange { owner: OWN, range: *r }).collect();
        self.say(&FromHolder::Want(ranges)).await;
        let mem = ProcMem::open(pid).unwrap();
        let (mut content, mut zero) = (0, 0);
        for range in wanted {
            let mut next = range.start;
            while next < range.end {
                let frame = self.frame().await;
                let answered = match frame.kind {
                    kind::LAZY_PAGES => {
                        let (head, bytes) = PagesHead::decode(&frame.body).unwrap();
                        assert_eq!((head.owner, head.start), (OWN, next));
                        assert_eq!(head.digest, xxhash_rust::xxh3::xxh3_128(bytes));
                        let mut there = vec![0; bytes.len()];
                        mem.read(next, &mut there).unwrap();
                        assert!(there == bytes, "{next:#x}");
                        content += bytes.len() as u64 / PAGE_SIZE;
                        vec![PageRange::new(next, next + bytes.len() as u64)]
                    }
                    _ => match frame.message().unwrap() {
                        FromSource::Zero(ranges) => {
                            zero += ranges.iter().map(|r| r.range.pages()).sum::<u64>();
                            ranges.iter().map(|r| r.range).collect()
                        }
                        other => panic!("{other:?}"),
                    },
                };
                for part in answered {
                    assert_eq!(part.start, next);
                    next = part.end;
                }
            }
            assert_eq!(next, range.end);
        }
        (content, zero)
    }
}

fn hear(lanes: &Lanes) -> Heard {
    tokio::task::block_in_place(|| lanes.hear(PATIENCE)).expect("nothing is heard")
}

async fn both(hosts: &mut Hosts, lanes: &Lanes, memory: Memory) -> (End, End) {
    let connected = (hosts.accept().await, hosts.accept().await);
    for _ in 0..2 {
        assert!(matches!(hear(lanes), Heard::Ready));
    }
    lanes.serve(Arc::new(memory));
    let (one, other) = (End::new(connected.0).await, End::new(connected.1).await);
    if one.kind == LaneKind::Urgent { (one, other) } else { (other, one) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_process_is_served_on_both_lanes_and_over_a_cut() {
    let (stopped, mut hosts) = (Stopped::new(), Hosts::new());
    let pid = stopped.pid();
    let lanes = hosts.open();
    let (mut urgent, mut bulk) = both(&mut hosts, &lanes, stopped.memory()).await;
    assert_eq!((urgent.kind, bulk.kind), (LaneKind::Urgent, LaneKind::Bulk));
    let all: Vec<PageRange> = stopped.lazy().iter().collect();
    let stack = PageRange::new(all[all.len() - 1].end - PAGE_SIZE, all[all.len() - 1].end);
    let top = [stack];
    let ((content, zero), urgently) = tokio::join!(bulk.want(pid, &all), urgent.want(pid, &top));
    assert!(content >= 24 && zero > 0, "{content} pages with content, {zero} of zeroes");
    assert_eq!(urgently, (1, 0));
    let traffic = lanes.traffic();
    assert_eq!(traffic.pages.load(Ordering::Relaxed), content + 1);

    // cut in the middle of an answer: the lane comes back and has forgotten nothing, as it never knew anything
    bulk.say(&FromHolder::Want(all.iter().map(|r| LazyRange { owner: OWN, range: *r }).collect())).await;
    bulk.accepted.connection.close(0u32.into(), b"cut");
    let mut bulk = End::new(hosts.accept().await).await;
    assert_eq!(bulk.kind, LaneKind::Bulk);
    assert_eq!(bulk.want(pid, &all).await, (content, zero));
    assert_eq!(lanes.traffic().reconnects.load(Ordering::Relaxed), 1);

    let report = LazyReport { pages: content, faults: 1, ..LazyReport::default() };
    bulk.say(&FromHolder::Whole(Box::new(report.clone()))).await;
    assert_eq!(bulk.frame().await.message::<FromSource>().unwrap(), FromSource::Bye);
    // nothing is left to read: that is the acknowledgement that the last word waits for
    assert!(matches!(bulk.wire.recv().await, Err(WireError::Ended)));
    assert!(matches!(hear(&lanes), Heard::Whole(r) if *r == report));
    tokio::task::block_in_place(|| lanes.close("moved"));
    for end in [urgent, bulk] {
        let why = end.accepted.connection.closed().await.to_string();
        assert!(why.contains("moved"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_late_is_not_shown() {
    let (stopped, mut hosts) = (Stopped::new(), Hosts::new());
    let lanes = hosts.open();
    let (mut urgent, _bulk) = both(&mut hosts, &lanes, stopped.memory()).await;
    let layout = memory_map::survey(stopped.pid()).unwrap().layout;
    let code = layout.vmas.iter().find(|v| !lazy::lazy_able(v)).unwrap().range();
    urgent.say(&FromHolder::Want(vec![LazyRange { owner: OWN, range: code }])).await;
    urgent.accepted.connection.closed().await;
    let again = End::new(hosts.accept().await).await;
    assert_eq!(again.kind, LaneKind::Urgent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_target_hears_of_a_copy_that_was_ended() {
    let (mut stopped, mut hosts) = (Stopped::new(), Hosts::new());
    let lanes = hosts.open();
    let memory = stopped.memory();
    let (mut urgent, mut bulk) = both(&mut hosts, &lanes, memory).await;
    stopped.signal(nix::sys::signal::SIGKILL);
    assert_eq!(stopped.0.wait().unwrap().signal(), Some(9));
    for end in [&mut urgent, &mut bulk] {
        match end.frame().await.message().unwrap() {
            FromSource::Lost(why) => assert!(why.contains("has been ended"), "{why}"),
            other => panic!("{other:?}"),
        }
        // asked before it heard
        let first = LazyRange { owner: OWN, range: PageRange::new(0, PAGE_SIZE) };
        end.say(&FromHolder::Want(vec![first])).await;
    }
    // that it was said is not enough
    assert!(tokio::task::block_in_place(|| lanes.hear(Duration::from_millis(50))).is_none());
    for end in [&mut urgent, &mut bulk] {
        end.say(&FromHolder::Killed("its memory is lost".to_owned())).await;
        assert_eq!(end.frame().await.message::<FromSource>().unwrap(), FromSource::Bye);
        assert!(matches!(end.wire.recv().await, Err(WireError::Ended)));
    }
    assert!(matches!(hear(&lanes), Heard::Lost(why) if why.contains("has been ended")));
    tokio::task::block_in_place(|| lanes.close("lost"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_knows_nothing_of_it_is_heard() {
    let (stopped, mut hosts) = (Stopped::new(), Hosts::new());
    let lanes = hosts.open();
    let (mut urgent, bulk) = both(&mut hosts, &lanes, stopped.memory()).await;
    let failed = ToSource::Failed("no such lazy process".to_owned());
    urgent.wire.send_msg(&failed).await.unwrap();
    assert!(matches!(hear(&lanes), Heard::Refused(why) if why.contains("no such")));
    let again = End::new(hosts.accept().await).await;
    assert_eq!(again.kind, LaneKind::Urgent);
    drop((bulk, again));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_answer_is_told_of_and_tried_again() {
    let hosts = Hosts::new();
    let port = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let home = hosts.source.path().to_owned();
    let to = SocketAddr::from(([127, 0, 0, 1], port)).into();
    let lanes = Lanes::open(&Road { home, to, id: "m-1".to_owned(), limit: PATIENCE }).unwrap();
    for _ in 0..2 {
        assert!(matches!(hear(&lanes), Heard::NotYet(_)));
    }
    let begun = Instant::now();
    tokio::task::block_in_place(|| drop(lanes));
    assert!(begun.elapsed() < PATIENCE, "a lane that tries again can be ended");
}
