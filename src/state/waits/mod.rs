//! Timed waits that the freeze interrupted, carried with the time that is left.
//!
//! The kernel keeps the end of `nanosleep`, `poll` and relative `futex` waits in the thread's `restart_block`, which no
//! interface shows and which does not travel. At the source the time left is worked out from the arguments and
//! the age of the wait (`tracee::restart`), or read where the kernel was told to write it. At the target the fresh thread is made to issue the call with that
//! time, and is stopped inside it at once: so its own kernel fills its `restart_block`. Then it gets the
//! registers of the source, in which the call looks interrupted, and the kernel continues it by itself. No
//! register differs, no code is planted.
//!
//! A wait that was interrupted before has become `restart_syscall(2)`, whose number hides the call and whose registers still hold
//! the *first* timeout. What we interrupted ourselves we remember ([`Memory`]): within a session, and on the target in a
//! file that is there before the process runs, so that a process that is moved on and on does not sleep longer each time. What
//! somebody else interrupted (job control, a debugger) is told by what is left to see (`hidden`). A thread never goes to the target with
//! `restart_syscall`: nothing there knows of its wait, and the answer would be `EINTR`.

mod hidden;
mod memory;

use std::time::Duration;

pub use memory::Memory;

use super::error::StateError;
use crate::image::process::Wait;
use crate::sys::process::ProcMem;
use crate::sys::ptrace::Regs;
use crate::tracee::freeze::{Frozen, Member, caught_signal_waits, has_deliverable_signal};
use crate::tracee::restart::{self, Continued, Interrupted};

/// The instruction `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
const TIMER_ABSTIME: u64 = 1;
const FUTEX_CMD_MASK: u64 = 127;

fn args(regs: &Regs) -> [u64; 6] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

/// What a stopped thread takes along.
#[derive(Debug)]
pub struct Taken {
    /// Its registers.
    pub regs: Regs,
    /// The wait to be armed anew.
    pub wait: Option<Wait>,
    /// The call, if the kernel holds the end of it.
    call: Option<i64>,
    /// Bytes to be written into its memory first, and where.
    pub patch: Option<(u64, [u8; 16])>,
}

impl Taken {
    fn plain(regs: Regs) -> Self {
        Taken { regs, wait: None, call: None, patch: None }
    }
}

impl Taken {
    /// How the thread goes on from here if its kernel has forgotten the call: should we be killed.
    pub fn continued(&self, tid: i32) -> Continued {
        if let Some(wait) = &self.wait {
            let again = Rearm::new(wait, Duration::ZERO);
            let timespec = again.timespec_arg.map(|arg| (arg, again.timespec));
            return Continued::anew(&self.regs, again.nr, again.args, timespec);
        }
        let mut continued = Continued::of(&self.regs, || caught_signal_waits(tid));
        if let Some((at, bytes)) = self.patch {
            let arg = args(&self.regs).iter().position(|arg| *arg == at);
            continued.timespec = arg.map(|arg| (arg, bytes));
        }
        continued
    }
}

/// How the leader, which is about to be borrowed, goes on if we are killed meanwhile. In doubt its call is issued again as it was.
pub fn voice_continued(frozen: &Frozen, regs: &Regs, memory: &Memory) -> Continued {
    let tid = frozen.voice().0;
    let taken = frozen.threads.first().map(|leader| capture(frozen, leader, regs, memory));
    match taken {
        Some(Ok(taken)) => taken.continued(tid),
        _ => Continued::of(regs, || caught_signal_waits(tid)),
    }
}

/// What a stopped thread takes along: registers, and the wait it was in.
pub fn capture(frozen: &Frozen, member: &Member, regs: &Regs, memory: &Memory) -> Result<Taken, StateError> {
    let (pid, tid) = (frozen.voice().0, member.thread.0);
    let interrupted = Interrupted::of(regs);
    let by_itself = matches!(interrupted, Interrupted::No | Interrupted::ByKernel(_));
    let deliverable = matches!(interrupted, Interrupted::Eintr(_)) && has_deliverable_signal(tid);
    if deliverable || (by_itself && regs.rax != libc::SYS_restart_syscall as u64) {
        return Ok(Taken::plain(*regs));
    }
    let mem = ProcMem::open(pid).map_err(StateError::io(pid, "opening its memory"))?;
    if let Some(before) = before_restart(regs, |at| mem.read_16(at)) {
        let held = Held { frozen, member, mem: &mem, regs: &before, in_it: false };
        return held.capture(libc::SYS_restart_syscall, memory);
    }
    match interrupted {
        Interrupted::No | Interrupted::ByKernel(_) => Ok(Taken::plain(*regs)),
        Interrupted::Block(nr) => Held { frozen, member, mem: &mem, regs, in_it: true }.capture(nr, memory),
        Interrupted::Eintr(_) => {
            let age = if interrupted.timed(regs) { frozen.age(member) } else { Duration::ZERO };
            let again = restart::reissue(regs, age, |at| mem.read_16(at));
            Ok(Taken { patch: again.patch, ..Taken::plain(again.regs) })
        }
    }
}

/// A thread that was stopped when the kernel had already rewritten its registers to `restart_syscall` and it had not yet executed
/// that: it was woken by the end of another stop and had to give up its CPU on the way to user mode. Nothing in `orig_rax` tells. Its
/// registers as that other stop left them.
fn before_restart(regs: &Regs, read: impl Fn(u64) -> Option<[u8; 16]>) -> Option<Regs> {
    let restart = libc::SYS_restart_syscall as u64;
    let at_syscall = regs.rax == restart && read(regs.rip).is_some_and(|code| code.starts_with(&SYSCALL));
    at_syscall.then(|| Regs {
        rip: regs.rip + SYSCALL.len() as u64,
        ..restart::restart_from_block(regs, libc::SYS_restart_syscall)
    })
}

/// A thread in a wait whose end the kernel holds.
struct Held<'a> {
    frozen: &'a Frozen,
    member: &'a Member,
    mem: &'a ProcMem,
    regs: &'a Regs,
    /// Our stop interrupted the wait itself; else an earlier stop did.
    in_it: bool,
}

impl Held<'_> {
    fn capture(&self, nr: i64, memory: &Memory) -> Result<Taken, StateError> {
        let regs = self.regs;
        let restarted = nr == libc::SYS_restart_syscall;
        let recalled =
            memory.recall(self.member.thread.0, regs, self.frozen.stopped_ns()).filter(|_| restarted);
        let nr = match recalled {
            Some((nr, _)) => nr,
            None if restarted => self.hidden()?,
            None => nr,
        };
        let left = self.left(nr, recalled.and_then(|(_, left)| left))?;
        let wait = left.map(|left| {
            let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
            Wait { nr, args: args(regs), left_ns }
        });
        let regs = if wait.is_some() { *regs } else { restart::restart_by_kernel(regs, nr) };
        Ok(Taken { wait, call: Some(nr), ..Taken::plain(regs) })
    }

    /// How long it is to go on; `None`: its end is absolute, or never.
    fn left(&self, nr: i64, recalled: Option<Duration>) -> Result<Option<Duration>, StateError> {
        let remainder = self.remainder(nr)?;
        // one that an earlier stop wrote is no longer true, but never too short
        let (written, old) = if self.in_it { (remainder, None) } else { (None, remainder) };
        match written.or(recalled).or(old) {
            Some(left) => Ok(Some(left)),
            None => Ok(self.total(nr)?.map(|total| total.saturating_sub(self.frozen.age(self.member)))),
        }
    }

    /// What is left of a sleep that was told where to write it (`rem` of `nanosleep`): the stop has made the kernel write
    /// it there (`nanosleep_copyout`). `sleep(3)` and Rust's `thread::sleep` name the place of the request itself, which
    /// then does not tell any more how long the sleep was to be: the age of the wait would be taken off twice.
    fn remainder(&self, nr: i64) -> Result<Option<Duration>, StateError> {
        let place = match nr {
            libc::SYS_nanosleep => self.regs.rsi,
            libc::SYS_clock_nanosleep if self.regs.rsi & TIMER_ABSTIME == 0 => self.regs.r10,
            _ => 0,
        };
        if place == 0 { Ok(None) } else { self.timespec(place).map(Some) }
    }

    /// How long the call was asked to wait; `None` when its end is absolute or never.
    fn total(&self, nr: i64) -> Result<Option<Duration>, StateError> {
        let regs = self.regs;
        match nr {
            libc::SYS_nanosleep => self.timespec(regs.rdi).map(Some),
            libc::SYS_clock_nanosleep if regs.rsi & TIMER_ABSTIME == 0 => self.timespec(regs.rdx).map(Some),
            libc::SYS_poll => Ok(u64::try_from(regs.rdx as i32).ok().map(Duration::from_millis)),
            libc::SYS_futex if regs.rsi & FUTEX_CMD_MASK == libc::FUTEX_WAIT as u64 && regs.r10 != 0 => {
                self.timespec(regs.r10).map(Some)
            }
            _ => Ok(None),
        }
    }

    fn timespec(&self, addr: u64) -> Result<Duration, StateError> {
        let failed = StateError::io(self.frozen.pid, "reading the timeout of a waiting thread");
        let mut bytes = [0; 16];
        self.mem.read(addr, &mut bytes).map_err(failed)?;
        Ok(restart::duration(bytes))
    }

    /// The call behind `restart_syscall`.
    fn hidden(&self) -> Result<i64, StateError> {
        let (pid, tid) = (self.frozen.pid, self.member.thread.0);
        hidden::call(self.regs, self.member.wchan(), |at| self.mem.read_16(at))
            .ok_or(StateError::UnknownWait { pid, tid })
    }
}

/// The call with which a fresh thread takes up a wait: arguments, and a timespec to be placed for it.
#[derive(Debug)]
pub struct Rearm {
    /// System call number.
    pub nr: i64,
    /// Arguments; the one at `timespec_arg` is to be the address of `timespec`.
    pub args: [u64; 6],
    /// The time left, as the kernel reads it.
    pub timespec: [u8; 16],
    /// Which argument points to it.
    pub timespec_arg: Option<usize>,
}

impl Rearm {
    /// Plans it, when `passed` more has gone by since the freeze.
    pub fn new(wait: &Wait, passed: Duration) -> Self {
        let left = Duration::from_nanos(wait.left_ns).saturating_sub(passed);
        let timespec = restart::timespec_bytes(left);
        let mut args = wait.args;
        let timespec_arg = match wait.nr {
            libc::SYS_nanosleep => Some(0),
            libc::SYS_clock_nanosleep => Some(2),
            libc::SYS_futex => Some(3),
            _ => {
                // poll: milliseconds, rounded up so that it never ends early
                args[2] = left.as_nanos().div_ceil(1_000_000) as u64;
                None
            }
        };
        Rearm { nr: wait.nr, args, timespec, timespec_arg }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_on_its_way_into_a_restart_is_in_the_wait() {
        let mut regs = crate::sys::regs::from_words(&[0; 27]).unwrap();
        (regs.rax, regs.orig_rax, regs.rip, regs.rdi) =
            (libc::SYS_restart_syscall as u64, u64::MAX, 0x400, 7);
        let code = |word: [u8; 2]| {
            move |at: u64| {
                let mut bytes = [0x90; 16];
                bytes[..2].copy_from_slice(&word);
                (at == 0x400).then_some(bytes)
            }
        };
        let before = before_restart(&regs, code(SYSCALL)).unwrap();
        assert_eq!((before.rip, before.rdi), (0x402, 7));
        assert_eq!(Interrupted::of(&before), Interrupted::Block(libc::SYS_restart_syscall));
        assert!(before_restart(&regs, code([0x90, 0x90])).is_none());
        assert!(before_restart(&Regs { rax: 218, ..regs }, code(SYSCALL)).is_none());
    }
}
