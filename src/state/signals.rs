//! Queued signals.
//!
//! They are copied by `PTRACE_PEEKSIGINFO` and queued again by the thread itself:
//! only to itself may a thread send a signal with any `si_code` (`do_rt_sigqueueinfo`).

use serde::{Deserialize, Serialize};

use super::error::StateError;
use crate::image::process::{ProcessImage, Siginfo};
use crate::sys::ptrace::{self, SiginfoBytes};
use crate::tracee::{Batch, TraceeError};

const SIGNALS: usize = 64;

const SI_KERNEL: i32 = 0x80;
const SI_SIGIO: i32 = -5;
/// `si_code` of a signal to one thread.
pub const SI_TKILL: i32 = -6;

/// Copies the signals queued to a stopped thread, or to its whole process.
pub fn queued(tid: i32, shared: bool) -> Result<Vec<Siginfo>, StateError> {
    let list = ptrace::queued_signals(tid, shared).map_err(|source| TraceeError::Ptrace {
        tid,
        step: "reading the queued signals",
        source,
    })?;
    Ok(list.into_iter().map(|info| info.to_vec()).collect())
}

/// Queues signals to the thread that executes the batch (`tid`: itself), or to its process (`tid`: 0).
pub fn put_queued(batch: &mut Batch, pid: i32, tid: i32, queued: &[Siginfo]) {
    for info in queued.iter().filter(|i| i.len() == 128) {
        let signal = number(info) as u64;
        let at = batch.bytes(info);
        if tid == 0 {
            batch.call("rt_sigqueueinfo", libc::SYS_rt_sigqueueinfo, &[pid as u64, signal, at]);
        } else {
            let args = [pid as u64, tid as u64, signal, at];
            batch.call("rt_tgsigqueueinfo", libc::SYS_rt_tgsigqueueinfo, &args);
        }
    }
}

/// Signals that are pending without an entry in the queue: `kill` of a real-time signal beyond `RLIMIT_SIGPENDING` sets no more
/// than the bit. The kernel delivers such a one with this `siginfo_t` (`collect_signal`).
pub fn without_entry(pending: u64, queued: &[Siginfo]) -> Vec<Siginfo> {
    (1..=SIGNALS as i32)
        .filter(|signal| pending >> (signal - 1) & 1 != 0 && !queued.iter().any(|i| number(i) == *signal))
        .map(|signal| [&signal.to_le_bytes()[..], &[0; 124]].concat())
        .collect()
}

/// The number of a queued signal; 0 if there is none.
pub fn number(info: &[u8]) -> i32 {
    word(info, 0)
}

/// Name and number, for people.
pub fn told(signal: i32) -> String {
    /// The C library keeps the first two for itself.
    const FIRST: i32 = 34;
    match nix::sys::signal::Signal::try_from(signal) {
        Ok(known) => format!("{known} ({signal})"),
        Err(_) if signal >= FIRST => format!("SIGRTMIN+{} ({signal})", signal - FIRST),
        Err(_) => format!("signal {signal}"),
    }
}

/// Whether the kernel takes it out of queues when another of its kind comes.
pub fn job_control(signal: i32) -> bool {
    matches!(signal, libc::SIGCONT | libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU)
}

fn word(info: &[u8], at: usize) -> i32 {
    info.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |b: &[u8; 4]| i32::from_le_bytes(*b))
}

/// The id of the POSIX timer that raised a signal; `None`: it was none.
pub fn timer_of(info: &[u8]) -> Option<i32> {
    (word(info, 8) == libc::SI_TIMER).then(|| word(info, 16))
}

/// Whether `setitimer` raised a signal, or the like: the kernel itself.
pub fn by_kernel(info: &[u8]) -> bool {
    word(info, 8) == SI_KERNEL
}

/// Tells signals that a process's own timers and descriptors raise from those of others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Origin {
    timers: Vec<i32>,
}

impl Origin {
    /// For this process.
    pub fn of(image: &ProcessImage) -> Self {
        Origin { timers: image.timers.posix.iter().map(|timer| timer.id).collect() }
    }

    /// Whether it is of its own making: what it has at the target raises it there.
    pub fn is_own(&self, info: &[u8]) -> bool {
        // with a positive code the kernel tells of the process's own descriptors (`POLL_*`), children and faults; without one
        // `setitimer`, `O_ASYNC` and `RLIMIT_CPU` signal like this, but so does a terminal
        let quiet = [
            libc::SIGALRM,
            libc::SIGVTALRM,
            libc::SIGPROF,
            libc::SIGIO,
            libc::SIGURG,
            libc::SIGXCPU,
            libc::SIGCHLD,
        ];
        match word(info, 8) {
            libc::SI_TIMER => self.timers.contains(&word(info, 16)),
            SI_KERNEL => quiet.contains(&number(info)),
            SI_SIGIO => true,
            code => code > 0,
        }
    }
}

/// `si_code`
pub fn code(info: &SiginfoBytes) -> i32 {
    i32::from_le_bytes([info[8], info[9], info[10], info[11]])
}

/// The same signal in a form in which somebody else than the process itself may queue it: by `sigqueue`, of the same sender.
pub fn sendable(info: &SiginfoBytes) -> SiginfoBytes {
    let mut info = *info;
    let code = code(&info);
    if code >= 0 || code == SI_TKILL {
        // pid and uid lie in the same place; a value there is none
        info[8..12].copy_from_slice(&libc::SI_QUEUE.to_le_bytes());
        info[24..].fill(0);
    }
    info
}
