//! Timed waits that the freeze interrupted, carried with the time that is left.
//!
//! The kernel keeps the end of `nanosleep`, `poll` and relative `futex` waits in the thread's `restart_block`, which no
//! interface shows and which does not travel. At the source the time left is worked out from the arguments and
//! the age of the wait (`tracee::restart`), or read where the kernel was told to write it. At the target the fresh thread is made to issue the call with that
//! time, and is stopped inside it at once: so its own kernel fills its `restart_block`. Then it gets the
//! registers of the source, in which the call looks interrupted, and the kernel continues it by itself. No
//! register differs, no code is planted.
//!
//! A wait that was interrupted before has become `restart_syscall(2)`, whose registers still hold the *first*
//! timeout. What we interrupted ourselves we remember ([`Memory`]): within a session, and on the target in a
//! file, so that a process that is moved on and on does not sleep longer each time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::StateError;
use crate::image::process::Wait;
use crate::sys::process::{ProcMem, read_memory};
use crate::sys::ptrace::Regs;
use crate::tracee::freeze::{Frozen, Member, has_deliverable_signal};
use crate::tracee::restart::{self, Interrupted};

const TIMER_ABSTIME: u64 = 1;
const FUTEX_CMD_MASK: u64 = 127;

/// A wait whose end we know, because we interrupted it before.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Known {
    tid: i32,
    rip: u64,
    rsp: u64,
    args: [u64; 6],
    nr: i64,
    /// On `CLOCK_MONOTONIC` as this ulpm reads it.
    end_ns: i64,
}

/// The waits of one process that ulpm interrupted on this host.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Memory {
    known: Vec<Known>,
}

fn args(regs: &Regs) -> [u64; 6] {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

impl Memory {
    /// The file for a process: `HOME/waits/PID-STARTTIME`.
    fn path(home: &Path, pid: i32) -> Option<PathBuf> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let start = stat.rsplit_once(") ")?.1.split_whitespace().nth(19)?.to_owned();
        Some(home.join("waits").join(format!("{pid}-{start}")))
    }

    /// Reads what is known of a process; nothing when there is nothing.
    pub fn load(home: &Path, pid: i32) -> Self {
        Self::path(home, pid)
            .and_then(|p| std::fs::read(p).ok())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    /// Keeps it for the next move. Losing it only makes a wait longer, so failure is logged, not raised.
    pub fn save(&self, home: &Path, pid: i32) {
        let Some(path) = Self::path(home, pid) else { return };
        let written = path
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| std::fs::write(&path, serde_json::to_vec(self).unwrap_or_default()));
        if let Err(e) = written {
            tracing::warn!(path = %path.display(), error = %e, "the ends of sleeping threads' waits are not remembered");
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Remembers the end of a wait that had that much left at `at_ns` of `CLOCK_MONOTONIC`.
    pub fn remember(&mut self, tid: i32, regs: &Regs, wait: &Wait, at_ns: i64) {
        let end_ns = at_ns.saturating_add_unsigned(wait.left_ns);
        self.known.retain(|k| k.tid != tid);
        self.known.push(Known { tid, rip: regs.rip, rsp: regs.rsp, args: args(regs), nr: wait.nr, end_ns });
    }

    /// The call, and how long it has still to go.
    fn recall(&self, tid: i32, regs: &Regs, at_ns: i64) -> Option<(i64, Option<u64>)> {
        let known = self
            .known
            .iter()
            .find(|k| k.tid == tid && (k.rip, k.rsp, k.args) == (regs.rip, regs.rsp, args(regs)))?;
        // one that is over was another wait, or is about to end: in any case of the same call with the same arguments. What a
        // fresh thread would make of `restart_syscall` is `EINTR`
        Some((known.nr, u64::try_from(known.end_ns - at_ns).ok()))
    }
}

/// What a stopped thread takes along.
#[derive(Debug)]
pub struct Taken {
    /// Its registers.
    pub regs: Regs,
    /// The wait to be armed anew.
    pub wait: Option<Wait>,
    /// Bytes to be written into its memory first, and where.
    pub patch: Option<(u64, [u8; 16])>,
}

impl Taken {
    fn plain(regs: Regs) -> Self {
        Taken { regs, wait: None, patch: None }
    }
}

/// What a stopped thread takes along: registers, and the wait it was in.
pub fn capture(frozen: &Frozen, member: &Member, regs: &Regs, memory: &Memory) -> Result<Taken, StateError> {
    let pid = frozen.pid;
    let tid = member.thread.0;
    let waiting = |wait| Taken { wait: Some(wait), ..Taken::plain(*regs) };
    match Interrupted::of(regs) {
        Interrupted::No | Interrupted::ByKernel(_) => Ok(Taken::plain(*regs)),
        Interrupted::Eintr(_) if has_deliverable_signal(tid) => Ok(Taken::plain(*regs)),
        kind @ Interrupted::Eintr(_) => {
            let age = if kind.timed(regs) { frozen.age(member) } else { Duration::ZERO };
            let mem = ProcMem::open(pid).map_err(StateError::io(pid, "opening its memory"))?;
            let again = restart::reissue(regs, age, |at| mem.read_16(at));
            Ok(Taken { patch: again.patch, ..Taken::plain(again.regs) })
        }
        Interrupted::Block(nr) => {
            let restarted = nr == libc::SYS_restart_syscall;
            let recalled = memory.recall(tid, regs, frozen.stopped_ns()).filter(|_| restarted);
            let nr = match recalled {
                Some((nr, _)) => nr,
                None if restarted => hidden(member, pid, regs),
                None => nr,
            };
            let left = match (remainder(pid, nr, regs)?, recalled) {
                (Some(left), _) => Some(left),
                (None, Some((_, Some(left_ns)))) => Some(Duration::from_nanos(left_ns)),
                (None, _) => total(pid, nr, regs)?.map(|total| total.saturating_sub(frozen.age(member))),
            };
            Ok(left.map_or_else(
                || Taken::plain(restart::restart_by_kernel(regs, nr)),
                |left| {
                    let left_ns = u64::try_from(left.as_nanos()).unwrap_or(u64::MAX);
                    waiting(Wait { nr, args: args(regs), left_ns })
                },
            ))
        }
    }
}

/// The call behind `restart_syscall`.
fn hidden(member: &Member, pid: i32, regs: &Regs) -> i64 {
    let mut code = [0; 32];
    let in_code = read_memory(pid, regs.rip - 32, &mut code).ok().and_then(|()| restart::hidden_call(&code));
    match in_code.or_else(|| restart::call_of_wchan(member.wchan())) {
        // both sleep in the same function, but this one's first argument is no clock: it is an address
        Some(libc::SYS_clock_nanosleep) if !is_clock(regs.rdi) => libc::SYS_nanosleep,
        found => found.unwrap_or(libc::SYS_restart_syscall),
    }
}

/// Whether an argument can be a `clockid_t`: a small number, or a negative one of 32 bits.
fn is_clock(argument: u64) -> bool {
    let negative =
        u32::try_from(argument).is_ok_and(|low| low.cast_signed() < 0) || argument.cast_signed() < 0;
    argument <= 16 || negative
}

/// What is left of a sleep that was told where to write it (`rem` of `nanosleep`): our stop has just made the kernel write
/// it there (`nanosleep_copyout`). `sleep(3)` and Rust's `thread::sleep` name the place of the request itself, which
/// then does not tell any more how long the sleep was to be: the age of the wait would be taken off twice.
fn remainder(pid: i32, nr: i64, regs: &Regs) -> Result<Option<Duration>, StateError> {
    let place = match nr {
        libc::SYS_nanosleep => regs.rsi,
        libc::SYS_clock_nanosleep if regs.rsi & TIMER_ABSTIME == 0 => regs.r10,
        _ => 0,
    };
    if place == 0 { Ok(None) } else { timespec(pid, place).map(Some) }
}

/// How long the call was asked to wait; `None` when its end is absolute or never.
fn total(pid: i32, nr: i64, regs: &Regs) -> Result<Option<Duration>, StateError> {
    let timespec = |addr| timespec(pid, addr);
    match nr {
        libc::SYS_nanosleep => timespec(regs.rdi).map(Some),
        libc::SYS_clock_nanosleep if regs.rsi & TIMER_ABSTIME == 0 => timespec(regs.rdx).map(Some),
        libc::SYS_poll => Ok(u64::try_from(regs.rdx as i32).ok().map(Duration::from_millis)),
        libc::SYS_futex if regs.rsi & FUTEX_CMD_MASK == libc::FUTEX_WAIT as u64 && regs.r10 != 0 => {
            timespec(regs.r10).map(Some)
        }
        _ => Ok(None),
    }
}

fn timespec(pid: i32, addr: u64) -> Result<Duration, StateError> {
    let failed = || StateError::io(pid, "reading the timeout of a waiting thread");
    let mut bytes = [0u8; 16];
    ProcMem::open(pid).and_then(|mem| mem.read(addr, &mut bytes)).map_err(failed())?;
    Ok(restart::duration(bytes))
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
    fn addresses_are_no_clocks() {
        for clock in [0, 1, 7, 11, 0xffff_fffa, -6_i64 as u64] {
            assert!(is_clock(clock), "{clock:#x}");
        }
        for address in [0x40_4000, 0x7fff_b9a8_d998, 0x5555_8000_0000] {
            assert!(!is_clock(address), "{address:#x}");
        }
    }
}
