//! Signal actions and queued signals.
//!
//! Actions are read and set by `rt_sigaction` inside the process (`struct kernel_sigaction`: handler, flags,
//! restorer, mask). Queued signals are copied by `PTRACE_PEEKSIGINFO` and queued again by the thread itself:
//! only to itself may a thread send a signal with any `si_code` (`do_rt_sigqueueinfo`).

use super::error::StateError;
use crate::image::process::{SigAction, Siginfo};
use crate::sys::ptrace;
use crate::tracee::{Batch, Outcome, TraceeError};

const SIGNALS: usize = 64;
const ACTION: usize = 32;

/// Asks for all actions; the answer lies at the returned address.
pub fn ask(batch: &mut Batch) -> u64 {
    let at = batch.space(SIGNALS * ACTION);
    for signal in 1..=SIGNALS as u64 {
        let old = at + (signal - 1) * ACTION as u64;
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal, 0, old, 8]);
    }
    at
}

/// Reads the answer.
pub fn answer(outcome: &Outcome, at: u64) -> Vec<SigAction> {
    (0..SIGNALS as u64)
        .map(|i| std::array::from_fn(|w| outcome.word(at + i * ACTION as u64 + w as u64 * 8)))
        .collect()
}

/// Sets all actions.
pub fn put_actions(batch: &mut Batch, actions: &[SigAction]) {
    for (i, action) in actions.iter().enumerate().take(SIGNALS) {
        let signal = i as i32 + 1;
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        let bytes: Vec<u8> = action.iter().flat_map(|w| w.to_le_bytes()).collect();
        let at = batch.bytes(&bytes);
        batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal as u64, at, 0, 8]);
    }
}

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

/// The number of a queued signal; 0 if there is none.
pub fn number(info: &Siginfo) -> i32 {
    info.first_chunk().map_or(0, |b: &[u8; 4]| i32::from_le_bytes(*b))
}
