//! What an image from another host must look like before anything is done with it. Pure: whether the numbers in it can
//! be true at all, so that nobody behind has to ask. Whether *this* host can and may do it is asked elsewhere.

use std::collections::BTreeSet;

use super::files::{FileKind, FilesImage, OwnerKind, UnixPeer};
use super::memory::{Layout, MemoryImage, Vdso};
use super::process::{LateSignal, ProcessImage, Relations, ThreadImage, Timers, TreeImage};
use super::{Backing, FilePath, IMAGE_VERSION, PAGE_SIZE, PageRange, Vma};

/// One past the last address that a program can have.
pub const USER_END: u64 = 1 << 47;
const MAX_MAPPINGS: usize = 1 << 20;
const MAX_OBJECTS: usize = 1 << 16;
const MAX_OBJECT: u64 = 1 << 46;
const MAX_THREADS: usize = 1 << 16;
const MAX_PID: i32 = 1 << 22;
const MAX_FD: i32 = 1 << 20;
const MAX_FILES: usize = 1 << 20;
const MAX_TIMERS: usize = 1 << 16;
const MAX_TIMER_ID: i32 = 1 << 20;
const MAX_PATH: usize = 4096;
const MAX_XSTATE: usize = 64 * 1024;
const REGISTERS: usize = 27;
/// What fits in nanoseconds.
const MAX_SECONDS: i64 = i64::MAX / 1_000_000_000 - 1;

type Checked = Result<(), String>;

fn insist(holds: bool, what: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(what()) }
}

/// An image of one process; `frozen`: with its registers.
pub fn tree(tree: &TreeImage, frozen: bool) -> Checked {
    match tree.processes.as_slice() {
        [one] if tree.version == IMAGE_VERSION => {
            process(one, frozen)?;
            alone(one, &tree.files)?;
            files(&tree.files, &tids(one), frozen)
        }
        _ => Err("an image that is not of one process in our version".to_owned()),
    }
}

/// Nothing is there that only processes of a larger tree can have: it would be passed over in silence.
fn alone(p: &ProcessImage, open: &FilesImage) -> Checked {
    let own = p.table == 0 && open.tables.len() == 1;
    insist(own, || "a descriptor table that is not the one of its process".to_owned())?;
    insist(p.relations == Relations::alone(p.pid), || {
        format!("relations of process {} to others, in a tree of one", p.pid)
    })?;
    insist(p.ended.is_none(), || format!("the process {}, which has ended", p.pid))
}

fn tids(p: &ProcessImage) -> BTreeSet<i32> {
    p.threads.iter().map(|t| t.tid).collect()
}

/// Signals that came after the state.
pub fn signals(signals: &[LateSignal]) -> Checked {
    signals.iter().try_for_each(|signal| {
        let number = signal.info.first_chunk().map_or(0, |b| i32::from_le_bytes(*b));
        let possible = signal.info.len() == 128 && (1..=64).contains(&number);
        insist(possible && (0..=MAX_PID).contains(&signal.tid), || "an impossible signal".to_owned())
    })
}

/// The name of a migration is the name of a file.
pub fn id(id: &str) -> Checked {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    insist((1..=64).contains(&id.len()) && id.chars().all(good), || {
        "an impossible name of a migration".to_owned()
    })
}

fn process(p: &ProcessImage, frozen: bool) -> Checked {
    insist((1..=MAX_PID).contains(&p.pid), || format!("the impossible pid {}", p.pid))?;
    insist((1..=MAX_THREADS).contains(&p.threads.len()), || format!("{} threads", p.threads.len()))?;
    insist(p.threads[0].tid == p.pid, || "threads without their leader".to_owned())?;
    insist(tids(p).len() == p.threads.len(), || "two threads of one number".to_owned())?;
    p.threads.iter().try_for_each(|t| thread(t, frozen))?;
    // one that ends here does so by an instruction of the vDSO
    let may_end = p.threads.len() > 1 && p.memory.vdso.areas.iter().any(|(name, ..)| name == "[vdso]");
    insist(p.threads.iter().all(|t| t.ended.is_none() || t.tid == p.pid && may_end), || {
        "a thread that has ended".to_owned()
    })?;
    insist(p.queued.len() <= MAX_TIMERS, || format!("{} queued signals", p.queued.len()))?;
    path(&p.memory.exe)?;
    timers(&p.timers)?;
    memory(&p.memory, frozen)
}

fn thread(t: &ThreadImage, frozen: bool) -> Checked {
    insist((1..=MAX_PID).contains(&t.tid), || format!("the impossible thread {}", t.tid))?;
    let complete = match t.ended {
        Some(_) => t.regs.is_empty() && t.xstate.is_empty() && t.queued.is_empty() && has_nothing(t),
        None if frozen => t.regs.len() == REGISTERS,
        None => t.regs.is_empty() || t.regs.len() == REGISTERS,
    };
    insist(complete, || format!("{} registers", t.regs.len()))?;
    insist(t.xstate.len() <= MAX_XSTATE, || format!("{} bytes of extended state", t.xstate.len()))?;
    insist(t.queued.len() <= MAX_TIMERS, || format!("{} queued signals", t.queued.len()))?;
    insist(t.creds.groups.len() <= 1 << 16, || format!("{} groups", t.creds.groups.len()))?;
    insist(!t.comm.contains(&0) && t.comm.len() < 16, || "an impossible thread name".to_owned())?;
    insist(t.segments.len() <= 3, || format!("{} segments", t.segments.len()))?;
    let dispatch = t.dispatch.unwrap_or_default();
    insist(dispatch.selector < USER_END && dispatch.mode <= 2, || {
        "an impossible syscall dispatch".to_owned()
    })?;
    let waits = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_futex, libc::SYS_poll];
    insist(t.wait.as_ref().is_none_or(|w| waits.contains(&w.nr)), || "an impossible wait".to_owned())?;
    let patch = t.patch.as_ref().map_or(PageRange::new(0, 0), |(at, bytes)| {
        PageRange::new(*at, at.saturating_add(bytes.len() as u64))
    });
    insist(patch.end <= USER_END && patch.len() <= PAGE_SIZE, || "an impossible timeout".to_owned())
}

/// Nothing by which the kernel would write to its memory.
fn has_nothing(t: &ThreadImage) -> bool {
    let silent = t.rseq.0 == 0 && t.robust_list.0 == 0 && t.clear_child_tid == 0;
    silent && t.wait.is_none() && t.patch.is_none() && t.dispatch.is_none()
}

fn timers(t: &Timers) -> Checked {
    let ns = 0..1_000_000_000;
    let good = |setting: &[i64; 4], fraction: &std::ops::Range<i64>| {
        [setting[0], setting[2]].iter().all(|s| (0..=MAX_SECONDS).contains(s))
            && [setting[1], setting[3]].iter().all(|f| fraction.contains(f))
    };
    insist(t.itimers.len() <= 3 && t.itimers.iter().all(|s| good(s, &(0..1_000_000))), || {
        "impossible interval timers".to_owned()
    })?;
    insist(t.posix.len() <= MAX_TIMERS, || format!("{} timers", t.posix.len()))?;
    for timer in &t.posix {
        let possible = (0..=MAX_TIMER_ID).contains(&timer.id) && good(&timer.setting, &ns);
        insist(possible && timer.expired >= 0, || format!("the impossible timer {}", timer.id))?;
    }
    let ids: BTreeSet<i32> = t.posix.iter().map(|timer| timer.id).collect();
    insist(ids.len() == t.posix.len(), || "two timers of one number".to_owned())
}

fn memory(m: &MemoryImage, frozen: bool) -> Checked {
    vdso(&m.vdso)?;
    if frozen {
        layout(&m.layout, &m.vdso)?;
    } else {
        // what the source itself refuses is described, too: nothing is made of it
        spans(&m.layout, &m.vdso)?;
    }
    insist(m.mm.auxv.len() as u64 <= PAGE_SIZE, || "an impossible auxiliary vector".to_owned())?;
    insist(m.files.len() <= MAX_FILES, || format!("{} mapped files", m.files.len()))?;
    m.files.iter().try_for_each(|(name, _)| path(name))?;
    let mut last = 0;
    for guard in &m.guards {
        let possible = guard.start >= last && guard.start < guard.end && guard.end <= USER_END;
        let aligned = guard.start % PAGE_SIZE == 0 && guard.end % PAGE_SIZE == 0;
        insist(possible && aligned, || format!("an impossible guard page {:#x}", guard.start))?;
        last = guard.end;
    }
    let modes = m.modes;
    let possible = modes.thp_disable <= 3 && modes.mdwe <= 3 && [0, 2, 6].contains(&modes.future_lock);
    insist(possible, || "impossible modes of an address space".to_owned())?;
    insist(m.huge_pages.len() <= 16 && m.huge_pages.iter().all(|h| page_size(h.page_size)), || {
        "impossible huge pages".to_owned()
    })
}

fn vdso(v: &Vdso) -> Checked {
    insist(v.areas.len() <= 8, || "too many areas of a vDSO".to_owned())?;
    let mut last = 0;
    for (name, start, end) in &v.areas {
        let possible = *start >= last && start < end && *end <= USER_END;
        insist(possible && start % PAGE_SIZE == 0 && end % PAGE_SIZE == 0, || {
            format!("{name:?} at {start:#x}-{end:#x}, where nothing can be")
        })?;
        last = *end;
    }
    Ok(())
}

fn page_size(size: u64) -> bool {
    size.is_power_of_two() && (PAGE_SIZE..=1 << 34).contains(&size)
}

/// Mappings in order, in user space, apart from the vDSO; objects of a size that can be.
pub fn layout(layout: &Layout, vdso: &Vdso) -> Checked {
    spans(layout, vdso)?;
    let files = layout.vmas.iter().filter_map(|vma| match &vma.backing {
        Backing::File { path } => Some(path),
        _ => None,
    });
    for name in files {
        path(name)?;
    }
    let ids: BTreeSet<_> = layout.objects.iter().map(|o| o.id).collect();
    let unknown = layout.vmas.iter().filter_map(Vma::object).find(|id| !ids.contains(id));
    insist(unknown.is_none(), || "a mapping of an unknown memory object".to_owned())
}

fn spans(layout: &Layout, vdso: &Vdso) -> Checked {
    insist(layout.vmas.len() <= MAX_MAPPINGS, || format!("{} mappings", layout.vmas.len()))?;
    insist(layout.objects.len() <= MAX_OBJECTS, || format!("{} memory objects", layout.objects.len()))?;
    insist(layout.special.len() <= 16, || "too many special areas".to_owned())?;
    let mut last = 0;
    for vma in &layout.vmas {
        let apart =
            vdso.areas.iter().all(|(_, s, e)| vma.range().intersection(&PageRange::new(*s, *e)).is_empty());
        insist(vma.start >= last && apart && mapping(vma), || {
            format!("an impossible mapping {:#x}-{:#x}", vma.start, vma.end)
        })?;
        last = vma.end;
    }
    let ids: BTreeSet<_> = layout.objects.iter().map(|o| o.id).collect();
    insist(ids.len() == layout.objects.len(), || "two memory objects of one name".to_owned())?;
    for o in &layout.objects {
        let name = o.memfd_name.as_ref().map_or(&[][..], FilePath::as_bytes);
        let possible = o.size <= MAX_OBJECT
            && (!o.shm || shm_name(name))
            && page_size(o.page_size)
            && !name.contains(&0)
            && name.len() <= 249;
        insist(possible, || format!("an impossible memory object of {} bytes", o.size))?;
    }
    Ok(())
}

/// A file right in `/dev/shm`: it is made there, and its name taken away.
fn shm_name(path: &[u8]) -> bool {
    let name = path.strip_prefix(b"/dev/shm/").unwrap_or_default();
    !name.is_empty() && !name.contains(&b'/') && name != b"." && name != b".."
}

fn mapping(v: &Vma) -> bool {
    let aligned = page_size(v.page_size) && [v.start, v.end, v.offset].iter().all(|x| x % v.page_size == 0);
    let inside = v.start < v.end && v.end <= USER_END;
    let fits = v.offset.checked_add(v.end.saturating_sub(v.start)).is_some_and(|end| end <= i64::MAX as u64);
    aligned && inside && fits && v.prot <= 7 && !(v.shared && v.backing == Backing::Anonymous)
}

/// Absolute and short enough; where it leads to is another question.
pub fn path(path: &FilePath) -> Checked {
    let bytes = path.as_bytes();
    let possible = bytes.first() == Some(&b'/') && bytes.len() < MAX_PATH && !bytes.contains(&0);
    insist(possible, || "an impossible path".to_owned())
}

fn files(f: &FilesImage, tids: &BTreeSet<i32>, frozen: bool) -> Checked {
    let slots = f.slots().count();
    insist(f.files.len() <= MAX_FILES && slots <= MAX_FILES, || "too many open files".to_owned())?;
    for slot in f.slots() {
        let possible = (0..MAX_FD).contains(&slot.fd) && slot.file < f.files.len();
        insist(possible, || format!("the impossible descriptor {}", slot.fd))?;
    }
    let numbers: BTreeSet<i32> = f.slots().map(|slot| slot.fd).collect();
    insist(numbers.len() == slots, || "one descriptor twice".to_owned())?;
    for memfd in &f.memfds {
        let possible = memfd.size <= MAX_OBJECT && memfd.huge_page.is_none_or(page_size);
        insist(possible && !memfd.name.as_bytes().contains(&0), || "an impossible memfd".to_owned())?;
    }
    for (index, file) in f.files.iter().enumerate() {
        if let Some(owner) = &file.owner {
            let own = owner.id == 0 || owner.kind == OwnerKind::Group || tids.contains(&owner.id);
            insist(own && (0..=64).contains(&owner.signal), || {
                format!("descriptor {} that signals somebody else", file.fd)
            })?;
        }
        kind(f, index, &file.kind, file.flags, frozen.then_some(&numbers))?;
    }
    Ok(())
}

fn kind(f: &FilesImage, index: usize, kind: &FileKind, flags: u32, fds: Option<&BTreeSet<i32>>) -> Checked {
    const S_IFMT: u32 = 0o170_000;
    const S_IFREG: u32 = 0o100_000;
    const S_IFDIR: u32 = 0o040_000;
    const O_PATH: u32 = 0o10_000_000;
    let insist = |holds: bool, what: &str| insist(holds, || format!("{what} that cannot be"));
    match kind {
        FileKind::Regular { path: name, identity, .. } => {
            insist(identity.mode & S_IFMT == S_IFREG && flags & O_PATH == 0, "a regular file").and(path(name))
        }
        FileKind::Directory { path: name, identity, .. } => {
            insist(identity.mode & S_IFMT == S_IFDIR && flags & O_PATH == 0, "a directory").and(path(name))
        }
        FileKind::Place { path: name, .. } => insist(flags & O_PATH != 0, "a place").and(path(name)),
        FileKind::CharDevice { path: name, .. } => path(name),
        FileKind::Pipe { pipe } => insist(
            f.pipes.get(*pipe).is_some_and(|p| {
                let packets: usize = p.packets.iter().map(|length| usize::from(*length)).sum();
                let whole = p.packets.iter().all(|length| (1..=4096).contains(length));
                p.capacity <= 1 << 30
                    && p.data.len() <= p.capacity as usize
                    && whole
                    && packets <= p.data.len()
            }),
            "a pipe",
        ),
        FileKind::Unix(socket) => match socket.peer {
            UnixPeer::File(other) => {
                let mutual = f.files.get(other).is_some_and(|peer| {
                    peer.kind.unix().is_some_and(|back| back.peer == UnixPeer::File(index))
                });
                insist(mutual && other != index, "a socket pair")
            }
            UnixPeer::None | UnixPeer::Closed => Ok(()),
        },
        FileKind::Epoll { items, .. } => {
            insist(fds.is_none_or(|fds| items.iter().all(|item| fds.contains(&item.fd))), "an interest list")
        }
        FileKind::TimerFd(timer) => {
            let longest = MAX_SECONDS as u64 * 1_000_000_000;
            let possible = timer.remaining_ns <= longest && timer.interval_ns <= longest;
            insist(possible && timer.ticks <= longest, "a timer")
        }
        FileKind::MemFd { object, .. } => insist(f.memfds.iter().any(|m| m.object == *object), "a memfd"),
        FileKind::TcpListen(tcp) => {
            insist(tcp.backlog.is_none_or(|b| b <= i32::MAX as u32), "a listening socket")
        }
        FileKind::EventFd { .. } | FileKind::SignalFd { .. } | FileKind::TcpOver(_) | FileKind::Udp(_) => {
            Ok(())
        }
    }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
