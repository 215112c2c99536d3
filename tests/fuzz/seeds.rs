//! The first inputs of each door: messages as they are really sent, made of fixed numbers.

use std::collections::BTreeMap;

use ulpm::handover::journal::{Entry, Journal};
use ulpm::image::files::{
    BusyPoll, DescriptorTable, EpollItem, FdSlot, FileIdentity, FileKind, FilesImage, FreshSocket, OpenFile,
    PeerCredentials, Pipe, SocketOption, TimerFd, UnixPeer, UnixSocket,
};
use ulpm::image::inode::Inode;
use ulpm::image::memory::{HugePages, Layout, MemoryModes, MemoryObject, MmFields, Vdso};
use ulpm::image::process::{LateSignal, PosixTimer, Timers, Wait};
use ulpm::image::{
    Backing, FIRST, MemoryImage, Note, ObjectId, Obstacle, PageOwner, PageRange, ProcessImage, ProcessIndex,
    Relations, States, ThreadImage, TreeImage, Vma, VmaFlags,
};
use ulpm::state::process::confinement::Confinement;
use ulpm::state::process::limits::ResourceLimits;
use ulpm::state::process::signal_actions::SignalActions;
use ulpm::state::seam::State as _;
use ulpm::state::{process, thread};
use ulpm::sys::time::ClockOffsets;
use ulpm::transport::Frame;
use ulpm::transport::frame::Header;
use ulpm::transport::greeting::{About, Hello};
use ulpm::transport::lane::{
    FromHolder, FromSource, LaneKind, LazyPlan, LazyProcess, LazyRange, LazyReport, PagesHead,
};
use ulpm::transport::message::WireMessage;
use ulpm::transport::protocol::{AreaDigest, Description, Moments, PidChoice, ToSource, ToTarget, kind};

const OBJECT: ObjectId = ObjectId { dev: 1, ino: 77 };

/// Door, number, bytes.
pub(crate) fn all() -> Vec<(&'static str, usize, Vec<u8>)> {
    let mut all = Vec::new();
    let mut add = |name, seeds: Vec<Vec<u8>>| {
        all.extend(seeds.into_iter().enumerate().map(|(i, bytes)| (name, i, bytes)));
    };
    add(
        "frame",
        [(3, 100), (kind::PAGES, 4108), (kind::OBJECT_PAGES, 4120), (kind::LAZY_PAGES, 4144), (104, 9)]
            .map(|(kind, len)| Header { kind, len }.encode().to_vec())
            .into(),
    );
    add("to_target", to_target().iter().map(said).collect());
    add("to_source", to_source().iter().map(said).collect());
    add("image", vec![encode(&tree())]);
    let (old, new) = layouts();
    add("layout", vec![encode(&(old.clone(), new.clone())), encode(&(new, old))]);
    add("lane", lane());
    add("journal", vec![journal()]);
    add("trust", trust().iter().map(|text| text.as_bytes().to_vec()).collect());
    add("predictions", vec![br#"{"stop":1.5,"capture":0.5,"scan":1,"send":2,"verify":1e0,"apply":3.25,"commit":4,"resume":1,"moves":12}"#.to_vec()]);
    let texts = [
        "alpha",
        "10.0.0.2:99",
        "[fe80::1%eth0]:77",
        "::1",
        "set max-freeze=20ms",
        "set bandwidth=100Mbit",
        "freeze-now",
        "status",
    ];
    add("address", texts.map(|text| text.as_bytes().to_vec()).into());
    all
}

/// The frame of a kind and a body.
pub(crate) fn frame(bytes: &[u8]) -> Frame {
    let (kind, body) = bytes.split_first_chunk().unwrap();
    Frame { kind: u16::from_le_bytes(*kind), body: body.to_vec().into() }
}

/// Kind and body.
fn said<M: WireMessage>(message: &M) -> Vec<u8> {
    let Frame { kind, body } = Frame::of(message).unwrap();
    [&kind.to_le_bytes()[..], &body].concat()
}

fn encode<T: serde::Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).unwrap()
}

fn ranges() -> Vec<PageRange> {
    vec![PageRange::new(0x1000, 0x3000), PageRange::new(0x7f00_0000_0000, 0x7f00_0020_0000)]
}

fn vma(start: u64, end: u64, backing: Backing) -> Vma {
    let shared = matches!(backing, Backing::SharedAnonymous(_) | Backing::MemFd(_));
    Vma { start, end, prot: 3, shared, offset: 0, backing, flags: VmaFlags::empty(), page_size: 4096 }
}

fn layouts() -> (Layout, Layout) {
    let object = MemoryObject {
        id: OBJECT,
        size: 0x4000,
        memfd_name: Some("m".into()),
        seals: 0,
        page_size: 4096,
        inode: None,
        shm: false,
    };
    let file = Backing::File { path: "/bin/x".into() };
    let old = vec![
        vma(0x40_0000, 0x40_4000, file.clone()),
        vma(0x50_0000, 0x60_0000, Backing::Anonymous),
        vma(0x70_0000, 0x70_4000, Backing::MemFd(OBJECT)),
        Vma { page_size: 1 << 21, ..vma(0x100_0000, 0x140_0000, Backing::Anonymous) },
    ];
    let mut new = old.clone();
    new[1].end = 0x58_0000;
    new[2].backing = Backing::SharedAnonymous(OBJECT);
    new.insert(2, vma(0x5a_0000, 0x60_0000, Backing::Anonymous));
    new.push(Vma {
        flags: VmaFlags::GROWS_DOWN,
        ..vma(0x7f00_0000_0000, 0x7f00_0002_0000, Backing::Anonymous)
    });
    let objects = vec![object];
    (
        Layout { vmas: old, objects: objects.clone(), special: ranges() },
        Layout { vmas: new, objects, special: Vec::new() },
    )
}

fn identity() -> FileIdentity {
    FileIdentity {
        host: "h".to_owned(),
        fs_type: 0xef53,
        dev: 5,
        ino: 6,
        mode: 0o100_644,
        size: 7,
        mtime_ns: 8,
        btime_ns: Some(9),
    }
}

fn files() -> FilesImage {
    let socket = |peer| {
        FileKind::Unix(UnixSocket {
            socket_type: 1,
            peer: UnixPeer::File(peer),
            shutdown: 0,
            error: false,
            credentials: Some(PeerCredentials { uid: 1, gid: 2, groups: vec![3] }),
            queue: vec![b"q".to_vec()],
            options: Vec::new(),
        })
    };
    let timer = TimerFd {
        clock: 1,
        ticks: 0,
        remaining_ns: 5_000_000_000,
        interval_ns: 1,
        settime_flags: 0,
        expires_at_ns: None,
    };
    let epoll = FileKind::Epoll {
        items: vec![EpollItem { fd: 0, registered: 0, events: 1, data: 9 }],
        busy_poll: Some(BusyPoll { usecs: 50, budget: 8, prefer: true }),
    };
    let kinds = vec![
        FileKind::Regular { path: "/tmp/x".into(), pos: 3, identity: identity() },
        FileKind::Pipe { pipe: 0 },
        FileKind::EventFd { count: 2, semaphore: true },
        epoll,
        FileKind::TimerFd(timer),
        socket(6),
        socket(5),
        FileKind::CharDevice { path: "/dev/null".into(), major: 1, minor: 3 },
    ];
    let files: Vec<OpenFile> = kinds
        .into_iter()
        .enumerate()
        .map(|(i, kind)| OpenFile {
            fd: i as i32,
            link: "l".into(),
            ino: 4,
            flags: 0,
            owner: None,
            node: None,
            kind,
        })
        .collect();
    let slots = (0..files.len()).map(|i| FdSlot { fd: i as i32, file: i, cloexec: i % 2 == 0 });
    FilesImage {
        tables: vec![DescriptorTable(slots.collect())],
        files,
        pipes: vec![Pipe {
            ino: 4,
            capacity: 65536,
            inode: Inode::default(),
            data: b"data".to_vec(),
            packets: vec![3],
        }],
        memfds: Vec::new(),
        fresh: vec![FreshSocket {
            domain: 2,
            kind: 2,
            protocol: 17,
            options: vec![SocketOption { level: 0, name: 2, value: vec![64, 0, 0, 0] }],
        }],
        notes: vec![Note::new("fd 3", "note")],
    }
}

fn states() -> States {
    let mut states = process::defaults().unwrap();
    let label = Some("unconfined".to_owned());
    SignalActions(vec![[0, 1, 2, 3]; 64]).store(&mut states).unwrap();
    ResourceLimits(vec![(1024, u64::MAX); 16]).store(&mut states).unwrap();
    Confinement { label, login: 0, session: 1 }.store(&mut states).unwrap();
    states
}

fn tree() -> TreeImage {
    let of = |tid| ThreadImage {
        tid,
        regs: (0..27).collect(),
        xstate: vec![0; 16],
        comm: b"x".to_vec(),
        states: thread::defaults().unwrap(),
        queued: vec![vec![0; 128]],
        wait: Some(Wait { nr: 230, args: [1; 6], left_ns: 10 }),
        patch: Some((0x50_0000, vec![0; 16])),
        ..ThreadImage::default()
    };
    let timer = PosixTimer {
        id: 1,
        clock: 1,
        notify: 0,
        signal: 14,
        value: 0,
        thread: 7,
        setting: [0, 5, 1, 2],
        expired: 0,
    };
    let memory = MemoryImage {
        guards: vec![ulpm::image::PageRange::new(0x1000, 0x2000)],
        layout: layouts().0,
        vdso: Vdso { areas: vec![("[vdso]".to_owned(), 0x7fff_0000_0000, 0x7fff_0000_2000)], hash: [1; 32] },
        mm: MmFields { auxv: vec![0; 32], ..MmFields::default() },
        exe: "/bin/x".into(),
        files: vec![("/bin/x".into(), identity())],
        resident: 4096,
        needs: 4096,
        huge_pages: vec![HugePages { page_size: 1 << 21, count: 2 }],
        modes: MemoryModes { thp_disable: 1, merge: true, mdwe: 1, future_lock: 6 },
    };
    let process = ProcessImage {
        pid: 7,
        memory,
        threads: vec![of(7), of(8)],
        queued: Vec::new(),
        timers: Timers { itimers: vec![[0, 0, 1, 0]; 3], posix: vec![timer] },
        states: states(),
        table: 0,
        relations: Relations::alone(7),
        ended: None,
    };
    TreeImage::new(vec![process], files())
}

fn hello() -> Hello {
    let about = About {
        kernel: "6.1".to_owned(),
        host: "a".to_owned(),
        page_size: 4096,
        cpu_components: 7,
        cpu_features: vec![1, 2, 3],
        boot_id: "b".to_owned(),
    };
    Hello::new(2, 2, "0.1.0", &about)
}

fn to_target() -> Vec<ToTarget> {
    let offsets = ClockOffsets { monotonic_ns: -5, boottime_ns: 6 };
    let description = Description {
        id: "6dd5e1d4-6d2c-4ec9-bb5e-2a7f0ae31c1a".to_owned(),
        tree: tree(),
        pid_mode: PidChoice::Auto,
        verify: true,
        clocks: offsets,
        time_namespace: false,
        lazy: false,
        only_asks: false,
    };
    let plan = LazyPlan {
        processes: vec![LazyProcess { of: FIRST, outstanding: ranges(), order: ranges() }],
        objects: vec![(OBJECT, ranges())],
        verify: true,
        patience_ms: 5,
    };
    vec![
        ToTarget::Hello(hello()),
        ToTarget::Clock,
        ToTarget::Describe(Box::new(description)),
        ToTarget::Hashes(BTreeMap::from([("/bin/x".into(), [3; 32])])),
        ToTarget::Begin { difference: offsets },
        ToTarget::Layout { of: FIRST, layout: layouts().1, new_files: vec![("/bin/y".into(), identity())] },
        ToTarget::Zero(FIRST, ranges()),
        ToTarget::Drop(ProcessIndex(1), ranges()),
        ToTarget::ObjectHoles(OBJECT, ranges()),
        ToTarget::RoundEnd(3),
        ToTarget::Lazy(plan),
        ToTarget::Lane { id: "i".to_owned(), lane: LaneKind::Urgent },
        ToTarget::State(Box::new(tree()), Moments { frozen_ns: 0, stopped_ns: 1, captured_ns: 2 }),
        ToTarget::Digests(vec![AreaDigest {
            owner: PageOwner::Object(OBJECT),
            start: 0x1000,
            pages: 1,
            hash: 9,
        }]),
        ToTarget::Commit(vec![(FIRST, vec![LateSignal { tid: 0, info: vec![15; 128] }])]),
        ToTarget::Signals {
            id: "i".to_owned(),
            of: FIRST,
            first: 2,
            signals: vec![LateSignal { tid: 8, info: vec![15; 128] }],
        },
        ToTarget::Abort("why".to_owned()),
        ToTarget::Settle("i".to_owned()),
        ToTarget::Goodbye,
    ]
}

fn to_source() -> Vec<ToSource> {
    vec![
        ToSource::Hello(hello()),
        ToSource::Clock(1, 2),
        ToSource::NeedHashes(vec!["/bin/x".into()]),
        ToSource::Preflight {
            obstacles: vec![Obstacle::new("fd 3", "why", "advice")],
            notes: vec![Note::new("fd 4", "what")],
        },
        ToSource::Ready { pids: vec![7], namespace: false },
        ToSource::RoundApplied(1),
        ToSource::Prepared { apply_ms: 1.5, verify_ms: 2.5, verified: true },
        ToSource::Running { pid: 7, at_boottime_ns: 8, journal_ms: 0.5, resume_ms: 0.25 },
        ToSource::SignalsTaken(1),
        ToSource::Failed("why".to_owned()),
        ToSource::Settled(Some(7)),
        ToSource::SettledLazy(7),
    ]
}

fn lane() -> Vec<Vec<u8>> {
    let pieces = vec![
        LazyRange { owner: PageOwner::Process(FIRST), range: PageRange::new(0x1000, 0x2000) },
        LazyRange { owner: PageOwner::Object(OBJECT), range: PageRange::new(0, 0x1000) },
    ];
    let head = PagesHead { owner: PageOwner::Object(OBJECT), start: 0x1000, digest: 5 };
    vec![
        [&head.encode()[..], b"content"].concat(),
        said(&FromHolder::Want(pieces.clone())),
        said(&FromHolder::Whole(Box::new(LazyReport { waits: vec![(8, 1)], ..LazyReport::default() }))),
        said(&FromHolder::Ended("x".to_owned())),
        said(&FromHolder::Killed("x".to_owned())),
        said(&FromSource::Zero(pieces)),
        said(&FromSource::Bye),
    ]
}

/// As the file is, written by the code that writes it.
fn journal() -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    // no process has this number, and no boot this name, so nothing in it depends on this machine
    let mut entry = Entry::new("a-1", true, i32::MAX, "host");
    entry.boot_id = "00000000-0000-4000-8000-000000000000".to_owned();
    drop(Journal::begin(dir.path(), entry).unwrap());
    let entry = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap();
    std::fs::read(entry.path()).unwrap()
}

fn trust() -> Vec<String> {
    let print = "SHA256:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE";
    vec![
        format!("# friends\n\n{print} alpha\n"),
        format!("{print}\n"),
        format!(
            "{print} a users=redis,1000-1999 processes=4 memory=8G address-space=1T paths=/srv:/usr namespaces=no\n"
        ),
        format!("{print} c users=ci,nobody map-users=1000=ci,2000-2999=65534,0=nobody cpu-time=2h\n"),
        format!(
            "{print} direction=send expires=2027-01-31 revoked\n{print} b direction=receive users=ordinary\n"
        ),
    ]
}
