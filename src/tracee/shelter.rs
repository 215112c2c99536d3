//! Where a borrowed thread is safe to run on: should we be killed in the middle of a remote call, the kernel lets the thread
//! go on with the registers that we gave it. It then comes, by itself, to a signal frame with all that is its own
//! (`sigframe.rs`), and takes it up with `rt_sigreturn`. Nothing of this runs as long as we live: we stop the thread
//! before, and put back everything from outside.
//!
//! ```text
//! a call      … syscall; ret ──▶ pretcode: mov eax, 15; syscall ──▶ its own registers, mask and extended state
//!                      rsp ──▶ | frame | frame | frame | extended state | time left, scheduling attributes |
//!                                  │       └── PR_SET_TIMERSLACK
//!                                  └── sched_setattr: what made the thread urgent is taken back first
//! ```
//!
//! Two pieces of code are needed, `syscall; ret` and `mov eax, 15; syscall` (a signal's restorer): on the code page of the
//! scratch area we bring our own. The first call, which makes that area, and the last, which removes it, use those of the
//! program; every libc has both. Their frames lie on the main thread's stack, far below what it uses, where the kernel puts its
//! own: below the stack pointer's red zone nobody keeps anything. The bytes there are put back.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::sync::{Mutex, PoisonError};

use super::restart::Continued;
use super::sigframe::{self, FRAME};
use super::together::Plain;
use super::ward::in_64_bit;
use crate::sys::process::ProcMem;
use crate::sys::ptrace::Regs;
use crate::sys::voice;

const PAGE: u64 = 4096;
const RED_ZONE: u64 = 128;
/// No single-stepping, and strings go upwards.
pub(super) const NO_FLAGS: u64 = 0x500;
/// Two calls and the thread itself.
const FRAMES: usize = 3;
/// A timespec and scheduling attributes.
const DATA: usize = 16 + 64;

const CALL: [u8; 3] = [0x0f, 0x05, 0xc3];
const RESTORERS: [&[u8]; 2] =
    [&[0xb8, 15, 0, 0, 0, 0x0f, 0x05], &[0x48, 0xc7, 0xc0, 15, 0, 0, 0, 0x0f, 0x05]];

/// Places that nobody had ever touched before we did: process, address. We left zeroes there.
static USED: Mutex<BTreeSet<(i32, u64)>> = Mutex::new(BTreeSet::new());

/// The two pieces of code.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    /// `syscall; ret`.
    pub call: u64,
    /// `mov eax, 15; syscall`.
    pub restore: u64,
}

/// How a thread in its shelter tells its tracer that a batch is done: a signal to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bell {
    pid: i32,
    tid: i32,
    pub(super) signal: i32,
}

impl Bell {
    /// A signal that means nothing to this thread: ignored, if only by default, and not blocked (for `sigwait` or a `signalfd`).
    /// `None`: the program has a use for all of them. Ids as the process itself knows them; `caught` as in its `SigCgt`.
    pub fn of(pid: i32, tid: i32, caught: u64, mask: u64) -> Option<Self> {
        let signal = [libc::SIGURG, libc::SIGWINCH, libc::SIGCHLD]
            .into_iter()
            .find(|signal| (caught | mask) >> (signal - 1) & 1 == 0)?;
        Some(Bell { pid, tid, signal })
    }

    /// All signals but this one.
    pub(super) fn mask(self) -> u64 {
        !(1 << (self.signal - 1))
    }

    pub(super) fn call(self) -> (i64, [u64; 6]) {
        (libc::SYS_tgkill, [self.pid as u64, self.tid as u64, self.signal as u64, 0, 0, 0])
    }
}

/// What a process has itself of what a shelter needs.
#[derive(Clone, Debug)]
pub struct Ground {
    pid: i32,
    pub(super) code: Code,
    stack: Range<u64>,
}

/// A shelter as it stands in the process.
#[derive(Debug)]
pub(super) struct Shelter {
    pub code: Code,
    /// Its first byte: the first frame.
    pub at: u64,
    /// What was there, if it was not ours.
    before: Vec<u8>,
}

/// Bytes of a shelter at most.
pub(super) fn size() -> usize {
    (FRAMES * FRAME + sigframe::most() + 16 + DATA).next_multiple_of(PAGE as usize)
}

impl Ground {
    /// Looks for both pieces of code in the mapped files of a process, and for its main thread's stack. `None`: remote calls
    /// are made without a shelter.
    pub fn of(pid: i32, maps: &str, mem: &ProcMem) -> Option<Self> {
        let status = crate::sys::lossy(format!("/proc/{}/status", voice::of(pid))).ok()?;
        // a shadow stack lets no `ret` go where it has not come from
        if status.lines().any(|l| l.starts_with("x86_Thread_features:") && l.contains("shstk")) {
            return None;
        }
        let areas = || maps.lines().filter_map(area);
        let stack = areas().find(|a| a.name == "[stack]")?.range;
        let (mut call, mut restore) = (None, None);
        let mut files: Vec<_> =
            areas().filter(|a| a.access.starts_with("r-x") && a.name.starts_with('/')).collect();
        // a libc is smaller than many a program
        files.sort_by_key(|a| a.range.end - a.range.start);
        for range in files.into_iter().map(|a| a.range) {
            search(range, mem, &mut call, &mut restore);
            if let (Some(call), Some(restore)) = (call, restore) {
                return Some(Ground { pid, code: Code { call, restore }, stack });
            }
        }
        None
    }

    /// A place on the main thread's stack that nobody uses: half-way below the stack pointer; or, if that points elsewhere, pages
    /// that were never touched.
    pub(super) fn place(&self, rsp: u64, len: u64, mem: &ProcMem) -> Option<u64> {
        let used = if self.stack.contains(&rsp) { rsp - RED_ZONE } else { self.stack.end };
        let highest = used.checked_sub(len).filter(|highest| *highest >= self.stack.start)?;
        let at = (self.stack.start + (highest - self.stack.start) / 2) / PAGE * PAGE;
        if at < self.stack.start {
            return None;
        }
        if used < self.stack.end {
            return Some(at);
        }
        let mut ours = USED.lock().unwrap_or_else(PoisonError::into_inner);
        let free = if ours.contains(&(self.pid, at)) { zero(mem, at, len) } else { self.untouched(at, len) };
        free.then(|| ours.insert((self.pid, at)));
        free.then_some(at)
    }

    /// Whether nobody has ever written there.
    fn untouched(&self, at: u64, len: u64) -> bool {
        const PRESENT_OR_SWAPPED: u64 = 3 << 62;
        let mut entries = vec![0; (len / PAGE * 8) as usize];
        let read = fs::File::open(format!("/proc/{}/pagemap", voice::of(self.pid)))
            .and_then(|pagemap| pagemap.read_exact_at(&mut entries, at / PAGE * 8));
        let words = entries.chunks_exact(8).map(|e| u64::from_le_bytes(std::array::from_fn(|i| e[i])));
        read.is_ok() && words.into_iter().all(|entry| entry & PRESENT_OR_SWAPPED == 0)
    }
}

fn zero(mem: &ProcMem, at: u64, len: u64) -> bool {
    let mut bytes = vec![0; len as usize];
    mem.read(at, &mut bytes).is_ok() && bytes.iter().all(|b| *b == 0)
}

/// Looks for what is not found yet, piece by piece.
fn search(range: Range<u64>, mem: &ProcMem, call: &mut Option<u64>, restore: &mut Option<u64>) {
    const PIECE: u64 = 256 * 1024;
    for start in range.clone().step_by(PIECE as usize) {
        let mut bytes = vec![0; (range.end - start).min(PIECE + 16) as usize];
        if mem.read(start, &mut bytes).is_err() {
            continue;
        }
        let syscalls = bytes.windows(2).enumerate().filter(|(_, w)| *w == &CALL[..2]);
        for at in syscalls.map(|(at, _)| at) {
            if bytes[at..].starts_with(&CALL) {
                call.get_or_insert(start + at as u64);
            }
            if let Some(found) = RESTORERS.iter().find(|r| bytes[..at + 2].ends_with(r)) {
                restore.get_or_insert(start + (at + 2 - found.len()) as u64);
            }
        }
        if call.is_some() && restore.is_some() {
            return;
        }
    }
}

pub(super) struct Area<'a> {
    pub range: Range<u64>,
    access: &'a str,
    name: &'a str,
}

/// One line of `/proc/PID/maps`.
pub(super) fn area(line: &str) -> Option<Area<'_>> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let range = u64::from_str_radix(start, 16).ok()?..u64::from_str_radix(end, 16).ok()?;
    Some(Area { range, access: words.next()?, name: words.nth(3)?.trim() })
}

/// What the thread is to be when it leaves its shelter by itself.
#[derive(Debug)]
pub(super) struct Own<'a> {
    pub continued: &'a Continued,
    pub mask: u64,
    pub xstate: &'a [u8],
    /// Its scheduling, if somebody is about to make it urgent.
    pub plain: Option<&'a Plain>,
}

impl Shelter {
    /// Puts up a shelter in memory of ours.
    pub(super) fn build(code: Code, at: u64, mem: &ProcMem, own: &Own<'_>) -> std::io::Result<Self> {
        mem.write(at, &bytes(code, at, own))?;
        Ok(Shelter { code, at, before: Vec::new() })
    }

    /// Puts up a shelter on the stack of the main thread, if there is room.
    pub(super) fn on_stack(
        ground: &Ground,
        rsp: u64,
        mem: &ProcMem,
        own: &Own<'_>,
    ) -> std::io::Result<Option<Self>> {
        let Some(at) = ground.place(rsp, size() as u64, mem) else { return Ok(None) };
        let bytes = bytes(ground.code, at, own);
        let mut before = vec![0; bytes.len()];
        mem.read(at, &mut before)?;
        mem.write(at, &bytes)?;
        Ok(Some(Shelter { code: ground.code, at, before }))
    }

    /// Registers with which the thread is in it: it goes home when it runs.
    pub(super) fn inside(&self, regs: &Regs) -> Regs {
        // as after the `ret` that took `pretcode`
        Regs { rip: self.code.restore, rsp: self.at + 8, ..*regs }
    }

    /// Registers with which the thread first closes a descriptor, and then goes home. The frame for that comes behind the shelter.
    pub(super) fn by_way_of_close(&self, fd: u64, regs: &Regs, mem: &ProcMem) -> std::io::Result<Regs> {
        let at = self.at + size() as u64;
        let state = self.at + (FRAMES * FRAME) as u64;
        let close = Regs { rip: self.code.call, rsp: self.at, rax: libc::SYS_close as u64, rdi: fd, ..*regs };
        mem.write(at, &sigframe::frame(self.code.restore, &close, u64::MAX, state))?;
        Ok(Regs { rip: self.code.restore, rsp: at + 8, ..*regs })
    }

    /// What was there before, when the thread is out of it.
    pub(super) fn clear(&self, mem: &ProcMem) -> Result<(), (u64, std::io::Error)> {
        if self.before.is_empty() {
            Ok(())
        } else {
            mem.write(self.at, &self.before).map_err(|e| (self.at, e))
        }
    }
}

/// Frames, extended state and data, for this address.
fn bytes(code: Code, at: u64, own: &Own<'_>) -> Vec<u8> {
    let state = sigframe::xstate(own.xstate);
    let state_at = at + (FRAMES * FRAME) as u64;
    let data_at = (state_at + state.len() as u64).next_multiple_of(16);
    let home = own.continued.regs_at(data_at);
    let mut all = Vec::new();
    for (nr, [rdi, rsi, rdx]) in own.plain.map_or(Vec::new(), |plain| plain.calls(data_at + 16)) {
        // it returns to the frame behind
        let rsp = at + (all.len() + FRAME) as u64;
        let eflags = home.eflags & !NO_FLAGS;
        let call = in_64_bit(Regs { rip: code.call, rsp, rax: nr as u64, rdi, rsi, rdx, eflags, ..home });
        all.extend(sigframe::frame(code.restore, &call, u64::MAX, state_at));
    }
    all.extend(sigframe::frame(code.restore, &home, own.mask, state_at));
    all.resize(FRAMES * FRAME, 0);
    all.extend_from_slice(&state);
    all.resize((data_at - at) as usize, 0);
    all.extend_from_slice(&own.continued.timespec.map_or([0; 16], |(_, timespec)| timespec));
    all.extend_from_slice(&own.plain.map(Plain::bytes).unwrap_or_default());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shelter_fits_its_room_and_lies_below_the_stack_in_use() {
        let mem = ProcMem::open(std::process::id() as i32).unwrap();
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let ground = Ground::of(std::process::id() as i32, &maps, &mem).unwrap();
        let mut code = [0; 3];
        mem.read(ground.code.call, &mut code).unwrap();
        assert_eq!(code, CALL);
        let Range { start, end } = ground.stack;
        let at = ground.place(end - 4096, size() as u64, &mem).unwrap();
        assert!(at >= start && at + size() as u64 <= end - 4096 - RED_ZONE && at.is_multiple_of(PAGE));
        assert_eq!(ground.place(start + 256, size() as u64, &mem), None, "no room below");
        let untouched = ground.place(0, size() as u64, &mem).unwrap();
        assert_eq!(ground.place(0, size() as u64, &mem), Some(untouched));
        mem.write(untouched, &[1]).unwrap();
        assert_eq!(ground.place(0, size() as u64, &mem), None, "somebody else has been there");
        mem.write(untouched, &[0]).unwrap();
        USED.lock().unwrap().clear();
        assert_eq!(ground.place(0, size() as u64, &mem), None, "somebody has been there");
    }

    #[test]
    fn a_bell_is_nothing_that_the_program_listens_to() {
        let bit = |signal: i32| 1_u64 << (signal - 1);
        let signal = |caught, mask| Bell::of(1, 2, caught, mask).map(|bell| bell.signal);
        assert_eq!(signal(0, 0), Some(libc::SIGURG));
        assert_eq!(signal(bit(libc::SIGURG), bit(libc::SIGCHLD)), Some(libc::SIGWINCH));
        assert_eq!(signal(u64::MAX, 0), None);
    }

    #[test]
    fn the_calls_on_the_way_home_lead_to_the_frame_behind() {
        let regs = crate::sys::regs::from_words(&[9; 27]).unwrap();
        let continued = Continued { regs, timespec: Some((0, [7; 16])) };
        let plain = Plain::of(crate::tracee::thread::Thread(nix::unistd::gettid().as_raw()));
        let own = Own { continued: &continued, mask: 5, xstate: &[0; 576], plain: Some(&plain) };
        let code = Code { call: 0x100, restore: 0x200 };
        let bytes = bytes(code, 0x10_000, &own);
        let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let (rdi, rsp, rip) = (48 + 64, 48 + 120, 48 + 128);
        for i in 0..FRAMES {
            assert_eq!(word(i * FRAME), 0x200, "pretcode");
        }
        assert_eq!((word(rip), word(rsp)), (0x100, 0x10_000 + FRAME as u64));
        assert_eq!((word(2 * FRAME + rip), word(2 * FRAME + rsp), word(2 * FRAME + 304)), (9, 9, 5));
        let timespec = (word(2 * FRAME + rdi) - 0x10_000) as usize;
        assert_eq!(bytes[timespec..timespec + 16], [7; 16]);
        assert!(bytes.len() <= size());
    }
}
