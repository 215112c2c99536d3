//! Lying sources against the real `ulpm serve`.

use std::fs;
use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use ulpm::image::files::{FdSlot, FileIdentity, FileKind, FileOwner, FilesImage, OpenFile, OwnerKind};
use ulpm::image::memory::{Layout, MemoryObject};
use ulpm::image::process::Wait;
use ulpm::image::{
    Backing, FIRST, ObjectId, PageRange, ProcessImage, ProcessIndex, States, TreeImage, Vma, VmaFlags,
};
use ulpm::state::process::directories::Directories;
use ulpm::state::process::dumpable::Dumpable;
use ulpm::state::process::limits::ResourceLimits;
use ulpm::state::process::oom_score_adj::OomScoreAdj;
use ulpm::state::seam::State;
use ulpm::transport::hello;
use ulpm::transport::page_head::PrivateHead;
use ulpm::transport::protocol::{Moments, ToSource, ToTarget, kind};
use ulpm::transport::{Frame, Header, Identity};

use super::super::trial;
use super::super::victims::Victim;
use super::peer::{Source, description};
use crate::lab::{Lab, SOON, wait_until};

const OBJECT: ObjectId = ObjectId { dev: 99, ino: 99 };
/// More than `ulpm serve` may take, whatever it is sent.
const RSS_MAX: u64 = 400 << 20;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile source greets with nonsense", &[], greetings),
        trial("hostile source lies in its description", &[], descriptions),
        trial("hostile source sends pages elsewhere", &[], pages),
        trial("hostile source lies in layout and state", &[], states),
        trial("hostile source says nothing, slowly", &[], silence),
        trial("hostile source comes many times", &[], many),
        trial("hostile source asks about many migrations", &[], questions),
        trial("hostile strangers flood", &[], strangers),
    ]
}

/// After all that it still receives processes, and nothing was left behind.
fn still_works(lab: &mut Lab, victim: Victim) -> Result<()> {
    let serve = lab.server("b")?;
    ensure!(serve.wait(Duration::ZERO)?.is_none(), "ulpm serve has ended: {}", serve.errors());
    ensure!(!serve.errors().contains("panicked"), "ulpm serve panicked: {}", serve.errors());
    let status = fs::read_to_string(format!("/proc/{}/status", serve.outside_pid()))?;
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let peak = peak.trim().trim_end_matches(" kB").trim().parse::<u64>()? << 10;
    ensure!(peak < RSS_MAX, "ulpm serve took {peak} bytes");
    let mut victim = victim;
    victim.check_running(lab)?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn greetings(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let header = |kind: u16, flags: u16, len: u32| {
        [&kind.to_le_bytes()[..], &flags.to_le_bytes(), &len.to_le_bytes()].concat()
    };
    let raw = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0; 64],
        vec![0xff; 4096],
        header(1, 0, u32::MAX),
        // as long as a description may be, but nobody has been greeted
        header(3, 0, 32 << 20),
        header(1, 1, 4),
        header(301, 0, 4108),
        header(303, 0, 40),
        // an answer, and what no version has said
        header(102, 0, 4),
        header(99, 0, 4),
        [header(1, 0, 3), vec![0xff; 3]].concat(),
        [header(1, 0, 10), vec![0]].concat(),
    ];
    for bytes in raw {
        let mut source = Source::connect(lab)?;
        source.raw(&bytes)?;
        ensure!(
            source.is_given_up(Duration::from_secs(20))?,
            "it went on after {:?}",
            &bytes[..bytes.len().min(16)]
        );
    }
    let mut early = Source::connect(lab)?;
    early.say(&ToTarget::Describe(Box::new(description(victim.outside_pid(lab)?)?)))?;
    ensure!(early.hear().is_err() || early.is_given_up(Duration::from_secs(5))?, "described without a hello");
    for message in [
        ToTarget::Commit(Vec::new()),
        ToTarget::Goodbye,
        ToTarget::RoundEnd(1),
        ToTarget::Verify,
        ToTarget::Zero(FIRST, Vec::new()),
    ] {
        let mut source = Source::greet(lab)?;
        source.say(&message)?;
        ensure!(source.failure()?.contains("out of turn"), "{message:?}");
    }
    for id in ["", "..", "../../etc/x", "a/b", &"x".repeat(5000)] {
        let mut source = Source::greet(lab)?;
        source.say(&ToTarget::Settle(id.to_owned()))?;
        ensure!(source.failure()?.contains("impossible name"), "{id:?}");
    }
    still_works(lab, victim)
}

type Lie = (&'static str, fn(&mut ProcessImage));
type Told = Box<dyn Fn(&mut TreeImage)>;
type OpenLie = (&'static str, fn(&mut FilesImage));

fn vma(start: u64, end: u64) -> Vma {
    Vma {
        start,
        end,
        prot: 3,
        shared: false,
        offset: 0,
        backing: Backing::Anonymous,
        flags: VmaFlags::empty(),
        page_size: 4096,
    }
}

fn object(size: u64, page_size: u64) -> MemoryObject {
    MemoryObject {
        id: OBJECT,
        size,
        memfd_name: Some("x".into()),
        seals: 0,
        page_size,
        inode: None,
        shm: false,
    }
}

fn open(f: &mut FilesImage, flags: u32, kind: FileKind) {
    let fd = f.slots().map(|s| s.fd).max().unwrap_or(0) + 1;
    f.tables[0].0.push(FdSlot { fd, file: f.files.len(), cloexec: false });
    f.files.push(OpenFile { fd, link: "x".into(), ino: 1, flags, owner: None, node: None, kind });
}

/// A file that claims to be made up, which nobody compares.
fn regular(path: &str, mode: u32) -> FileKind {
    let identity = FileIdentity {
        host: String::new(),
        fs_type: 0x9fa0,
        dev: 0,
        ino: 0,
        mode,
        size: 0,
        mtime_ns: 0,
        btime_ns: None,
    };
    FileKind::Regular { path: path.into(), pos: 0, identity }
}

/// Another one in place of a state that the process has.
fn change<S: State>(p: &mut ProcessImage, lie: impl FnOnce(&mut S)) {
    let mut state = S::of(&p.states).expect("the truth has every state");
    lie(&mut state);
    state.store(&mut p.states).expect("a lie can be written as well as the truth");
}

/// All states but one, which nobody may leave out: the process would keep that of `ulpm serve`.
fn without(states: &States, name: &str) -> States {
    let mut left: Vec<(String, Vec<u8>)> =
        states.iter().map(|(own, bytes)| (own.to_owned(), bytes.to_vec())).collect();
    left.retain(|(own, _)| own != name);
    let bytes = postcard::to_stdvec(&left).expect("names and bytes");
    postcard::from_bytes(&bytes).expect("as states travel")
}

/// All lies, each in its place in the truth.
fn lies() -> impl Iterator<Item = (&'static str, Told)> {
    let of_process = LIES.iter().map(|(words, lie)| {
        let told: Told = Box::new(|tree| lie(&mut tree.processes[0]));
        (*words, told)
    });
    let of_open = OPEN_LIES.iter().map(|(words, lie)| {
        let told: Told = Box::new(|tree| lie(&mut tree.files));
        (*words, told)
    });
    of_process.chain(of_open)
}

/// Each is refused, by an obstacle or at once; what is a place in the answer is told by the words.
const LIES: &[Lie] = &[
    ("mapping", |p| p.memory.layout.vmas.push(vma(0xffff_8000_0000_0000, 0xffff_8000_0001_0000))),
    ("mapping", |p| p.memory.layout.vmas.push(vma(0x7fff_ffff_f000, 0x8000_0000_1000))),
    ("mapping", |p| {
        let (_, start, end) = p.memory.vdso.areas[0].clone();
        p.memory.layout.vmas.push(vma(start, end));
        p.memory.layout.vmas.sort_by_key(|v| v.start);
    }),
    ("object", |p| p.memory.layout.objects.push(object(1 << 63, 4096))),
    ("object", |p| p.memory.layout.objects.push(object(4096, 0))),
    ("nothing can be", |p| p.memory.vdso.areas[0].1 = u64::MAX - 4095),
    ("pid", |p| p.pid = -1),
    ("leader", |p| p.threads[0].tid = 1),
    ("limits", |p| change::<ResourceLimits>(p, |limits| limits.0.push((1, 1)))),
    ("without oom_score_adj", |p| p.states = without(&p.states, OomScoreAdj::NAME)),
    ("not known here", |p| p.states.set("unheard_of", vec![1])),
    ("dumpable", |p| p.states.set(Dumpable::NAME, vec![0xff; 100_000])),
    ("cannot be read", |p| p.states.set(Dumpable::NAME, vec![1, 1])),
    ("wait", |p| p.threads[0].wait = Some(Wait { nr: 59, args: [0; 6], left_ns: 1 })),
    ("path", |p| change::<Directories>(p, |own| own.cwd = "../../etc".into())),
    ("relations", |p| p.relations.parent = Some(FIRST)),
    ("relations", |p| p.relations.session = 1),
    ("has ended", |p| p.ended = Some(0)),
    ("descriptor table", |p| p.table = 1),
];

/// The same about what it has open.
const OPEN_LIES: &[OpenLie] = &[
    ("descriptor", |f| f.tables[0].0[0].fd = i32::MAX),
    ("descriptor", |f| f.tables[0].0[0].fd = -1),
    ("descriptor", |f| f.tables[0].0[0].file = usize::MAX),
    ("somebody else", |f| {
        f.files[0].owner = Some(FileOwner { kind: OwnerKind::Process, id: 1, signal: 9 });
    }),
    ("path", |f| open(f, 0, regular("etc/shadow", 0o100_644))),
    ("cannot be opened", |f| {
        open(f, 0, FileKind::CharDevice { path: "/dev/mem".into(), major: 1, minor: 1 });
    }),
    ("cannot be opened", |f| {
        open(f, 0, FileKind::CharDevice { path: "/dev/kmsg".into(), major: 1, minor: 11 });
    }),
    // of ulpm serve itself, of its neighbours, by way of links
    ("another process", |f| open(f, 2, regular("/proc/self/mem", 0o100_600))),
    ("another process", |f| open(f, 0, regular("/proc/1/environ", 0o100_400))),
    ("another process", |f| open(f, 0, regular("/proc/thread-self/../../../1/maps", 0o100_444))),
    // another kind than it says
    ("kind", |f| open(f, 0, regular("/dev/zero", 0o100_644))),
    ("kind", |f| open(f, 2, regular("/dev/../dev/full", 0o100_644))),
];

fn descriptions(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let truth = description(victim.outside_pid(lab)?)?;
    for (index, (words, lie)) in lies().enumerate() {
        let mut told = truth.clone();
        lie(&mut told.tree);
        let mut source = Source::greet(lab)?;
        let said = match source.describe(told)? {
            ToSource::Failed(why) => why,
            ToSource::Preflight { obstacles, .. } => obstacles.iter().map(|o| format!("{o}; ")).collect(),
            ToSource::NeedHashes(paths) => format!("asked for {paths:?}"),
            other => format!("{other:?}"),
        };
        ensure!(said.to_lowercase().contains(words), "lie {index} ({words}): {said:?}");
    }
    let mut empty = truth.clone();
    empty.tree.processes.clear();
    ensure!(matches!(Source::greet(lab)?.describe(empty)?, ToSource::Failed(_)), "no process at all");
    still_works(lab, victim)
}

fn begun(lab: &Lab, victim: &Victim) -> Result<(Source, i32, TreeImage)> {
    let truth = description(victim.outside_pid(lab)?)?;
    let tree = truth.tree.clone();
    let mut source = Source::greet(lab)?;
    let pid = source.begin(truth)?;
    source.say(&ToTarget::Layout { of: FIRST, layout: layout(&tree), new_files: Vec::new() })?;
    source.say(&ToTarget::RoundEnd(0))?;
    ensure!(source.hear()? == ToSource::RoundApplied(0), "the layout is not taken");
    Ok((source, pid, tree))
}

fn layout(tree: &TreeImage) -> Layout {
    tree.processes[0].memory.layout.clone()
}

fn pages(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let (_source, pid, tree) = begun(lab, &victim)?;
    let skeleton = lab.host("b").outside_pid(nix::unistd::Pid::from_raw(pid))?;
    let maps = fs::read_to_string(format!("/proc/{skeleton}/maps"))?;
    // scratch area, vDSO: what is there and was not announced
    let own: Vec<u64> = maps
        .lines()
        .filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok())
        .filter(|start| layout(&tree).vmas.iter().all(|v| !(v.start..v.end).contains(start)))
        .collect();
    ensure!(own.len() >= 3, "no areas of its own: {maps}");
    drop(_source);
    let last = layout(&tree).vmas.last().context("no mapping")?.end;
    let elsewhere =
        [0, 0x1000, last, 0x7fff_ffff_f000, 1 << 47, 0xffff_ffff_ff60_0000, u64::MAX - 4095, 0x1234_5001];
    for address in own.into_iter().chain(elsewhere) {
        let (mut source, ..) = begun(lab, &victim)?;
        source.frame(kind::PAGES, &page(FIRST, address))?;
        let said = source.failure()?;
        ensure!(said.contains("pages"), "{address:#x}: {said}");
    }
    let whole = PageRange::new(0, u64::MAX);
    let beyond = PageRange::new(u64::MAX - 8191, u64::MAX);
    for message in [
        ToTarget::Zero(FIRST, vec![whole]),
        ToTarget::Zero(FIRST, vec![beyond]),
        ToTarget::Drop(FIRST, vec![whole]),
        ToTarget::ObjectHoles(OBJECT, vec![whole]),
    ] {
        let (mut source, ..) = begun(lab, &victim)?;
        source.say(&message)?;
        ensure!(source.failure()?.contains("sent"), "{message:?}");
    }
    let (mut source, ..) = begun(lab, &victim)?;
    source.frame(kind::OBJECT_PAGES, &[&[9; 24][..], &[7; 4096]].concat())?;
    ensure!(source.failure()?.contains("unknown memory object"), "pages of no object");
    let (mut source, ..) = begun(lab, &victim)?;
    source.frame(kind::PAGES, &[1, 2, 3])?;
    ensure!(source.failure()?.contains("without an address"), "a short frame");
    of_others(lab, &victim)?;
    still_works(lab, victim)
}

/// Memory of processes that are not in the tree.
fn of_others(lab: &Lab, victim: &Victim) -> Result<()> {
    let range = || vec![PageRange::new(0x1000, 0x2000)];
    for other in [ProcessIndex(1), ProcessIndex(u32::MAX)] {
        let (mut source, _, tree) = begun(lab, victim)?;
        source.frame(kind::PAGES, &page(other, layout(&tree).vmas[0].start))?;
        let words = format!("{other} of a tree of one");
        let said = source.failure()?;
        ensure!(said.contains(&words), "pages of {other}: {said}");
        for message in [
            ToTarget::Zero(other, range()),
            ToTarget::Drop(other, range()),
            ToTarget::Layout { of: other, layout: layout(&tree), new_files: Vec::new() },
        ] {
            let (mut source, ..) = begun(lab, victim)?;
            source.say(&message)?;
            let said = source.failure()?;
            ensure!(said.contains(&words), "{message:?}: {said}");
        }
    }
    Ok(())
}

/// A page of sevens as a frame's body.
fn page(of: ProcessIndex, start: u64) -> Vec<u8> {
    [&PrivateHead { of, start }.encode()[..], &[7; 4096]].concat()
}

fn states(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let moments = Moments { frozen_ns: i64::MIN, stopped_ns: i64::MIN, captured_ns: i64::MAX };
    for (index, (_, lie)) in lies().enumerate() {
        let (mut source, _, mut tree) = begun(lab, &victim)?;
        tree.processes[0].threads.iter_mut().for_each(|t| t.regs = vec![0; 27]);
        lie(&mut tree);
        source.say(&ToTarget::State(Box::new(tree), moments))?;
        let said = source.failure().with_context(|| format!("lie {index}"))?;
        ensure!(!said.is_empty(), "lie {index}");
    }
    let (mut source, _, tree) = begun(lab, &victim)?;
    source.say(&ToTarget::State(Box::new(tree), moments))?;
    ensure!(source.failure()?.contains("registers"), "threads without registers");
    for (mapped, words) in [("/dev/full", "no regular file"), ("/dev/mem", "mapped file")] {
        let (mut source, _, tree) = begun(lab, &victim)?;
        let mut layout = layout(&tree);
        let device =
            Vma { backing: Backing::File { path: mapped.into() }, prot: 1, ..vma(0x1000_0000, 0x1000_1000) };
        layout.vmas.push(device);
        layout.vmas.sort_by_key(|v| v.start);
        source.say(&ToTarget::Layout { of: FIRST, layout, new_files: Vec::new() })?;
        let said = source.failure()?;
        ensure!(said.contains(words) || said.contains("no regular file"), "{mapped}: {said}");
    }
    let (mut source, _, tree) = begun(lab, &victim)?;
    let mut layout = layout(&tree);
    // an object of eight exabytes less a page: it takes nothing, and nothing is made of it
    layout.objects.push(object(i64::MAX as u64 & !4095, 4096));
    source.say(&ToTarget::Layout { of: FIRST, layout, new_files: Vec::new() })?;
    ensure!(source.failure()?.contains("impossible memory object"), "a huge object");
    still_works(lab, victim)
}

/// One stream is never opened, one gets a byte, one stops in the middle of a greeting, one after it.
fn silence(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let mute = Source::connect(lab)?;
    let mut slow = Source::connect(lab)?;
    slow.raw(&[1])?;
    let mut half = Source::connect(lab)?;
    let hello = Frame::of(&ToTarget::Hello(hello::ours()))?;
    let header = Header { kind: hello.kind, len: hello.body.len() as u32 };
    half.raw(&[&header.encode()[..], &hello.body[..5]].concat())?;
    let greeted = Source::greet(lab)?;
    for (name, source) in [("mute", mute), ("slow", slow), ("half", half), ("greeted", greeted)] {
        ensure!(source.is_given_up(Duration::from_secs(40))?, "{name} was waited for");
    }
    still_works(lab, victim)
}

fn many(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    // the news may come while the caller still says hello
    let (sources, early): (Vec<_>, Vec<_>) = (0..70).map(|_| Source::connect(lab)).partition(Result::is_ok);
    let closed = |s: &&Source| s.connection().is_ok_and(|c| c.close_reason().is_some());
    let refused = || sources.iter().flatten().filter(closed).count() + early.len();
    wait_until("those above the limit are refused", SOON, || refused() >= 6)?;
    let said = lab.server("b")?.errors();
    ensure!(said.contains("too many conversations"), "{said}");
    drop(sources);
    still_works(lab, victim)
}

/// Each question about a migration that never was is answered, and leaves an entry: a bounded number of them.
fn questions(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    for n in 0..80 {
        let mut source = Source::connect(lab)?;
        source.say(&ToTarget::Settle(format!("never-{n}")))?;
        let answer = source.hear()?;
        ensure!(matches!(answer, ToSource::Settled(None)), "question {n}: {answer:?}");
    }
    let left = fs::read_dir(lab.host("b").home().join("ulpm/journal"))?.count();
    ensure!(left == 64, "{left} entries are left");
    still_works(lab, victim)
}

fn strangers(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let address = lab.address("b");
    lab.host("a").in_network(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        for i in 0..20_000u32 {
            let len = (i % 1400) as usize;
            let mut packet = vec![(i >> 3) as u8; len + 1];
            // a long header of QUIC version 1
            packet.splice(0..0, [0xc0 | (i & 0x3f) as u8, 0, 0, 0, 1, 8]);
            let _ = socket.send_to(&packet, &address);
        }
        Ok(())
    })??;
    let home = lab.dir().join("stranger");
    let stranger = Identity::load_or_create(&home)?;
    for _ in 0..60 {
        ensure!(Source::connect_as(lab, &stranger).is_err(), "a stranger was let in");
    }
    let said = lab.server("b")?.errors();
    ensure!(said.contains(&stranger.fingerprint().to_string()), "nobody says who came: {said}");
    still_works(lab, victim)
}
