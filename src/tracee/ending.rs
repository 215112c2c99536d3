//! The end of a traced process, with a last look at its queues that no signal slips past.
//!
//! Kernel facts (probed on 6.18; `prepare_signal`, `complete_signal`, `do_exit`): `SIGKILL` sets `SIGNAL_GROUP_EXIT` under the lock
//! under which signals are queued. From that instant until the process is reaped `kill` goes on saying 0, and the signal is dropped:
//! it enters no queue. With `PTRACE_O_TRACEEXIT` each thread stops once more on its way out; its queues are still there, and
//! `PTRACE_PEEKSIGINFO` reads them. So what that look finds is all that has ever been accepted:
//!
//! ```text
//! sender         kill = 0            kill = 0                   kill = 0 (dropped)    kill = ESRCH
//! queues      ── entered ─────────── entered ──┐ closed ──────────────────────────┐
//! us          look           look       SIGKILL   each thread at its exit: look   go on, death notices
//! its parent                                                                       SIGCHLD ── wait: gone
//! ```
//!
//! - *Sent before `SIGKILL`, after the look before it*: found at the exit. (Without that stop it went with the process.)
//! - *Sent after `SIGKILL`*: dropped by the kernel, whatever anybody does; as with any process that is killed. The stop at the exit
//!   makes that time longer by two switches a thread, some 20 µs; `kill -9` alone leaves nothing to be read afterwards, for a
//!   zombie's queues cannot be peeked at.
//! - *Sent to the zombie*: the same. How long one stays is up to its parent, which is not ours.
//! - `SYS_exit` of one thread after the other instead of `SIGKILL` changes nothing: the last of them sets the flag before it stops
//!   (`synchronize_group_exit`).
//! - *`SIGKILL` of somebody else, just before ours*: the two look the same.

use std::time::{Duration, Instant};

use super::stop::Stop;
use super::thread::{Go, Thread};
use super::together::{Urgent, UrgentTracee, go_to};
use crate::fault::{Point, point};
use crate::sys::process::{only, set_affinity};
use crate::sys::ptrace::Options;
use crate::sys::time::Deadline;

/// How long a killed thread may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills the process of these threads, all of them stopped or seized by us; `kill` sends the `SIGKILL`. `look` is called
/// when no signal enters a queue of it any more, and each can be read; what it does others wait for. `empty`: it has next to no memory
/// left. On return its parent has been told.
pub fn end<E>(
    threads: &[Thread],
    empty: bool,
    kill: impl FnOnce() -> Result<(), E>,
    look: impl FnOnce(),
) -> Result<(), E> {
    const STEP: &str = "ending the copy at the source";
    // while `kill` says 0 in vain nobody's time slice is waited for; to give much memory back takes too long for that
    let urgent = Urgent::begin();
    // across CPUs each stop would take longer
    let cpu = nix::sched::sched_getcpu().ok();
    cpu.into_iter().for_each(go_to);
    for thread in threads {
        if let Err(error) = thread.set_options(Options::ENDING) {
            tracing::debug!(%error, "a thread that does not stop at its exit");
        }
        if empty {
            UrgentTracee::begin(*thread).keep();
            let _ = cpu.map(|cpu| set_affinity(thread.0, &only(cpu)));
        }
    }
    // a fault that is no more than an error cannot keep it alive
    let _ = point(Point::SourceLooked);
    let begun = Instant::now();
    kill()?;
    let exits = |thread: &&Thread| {
        let deadline = Deadline::after(PATIENCE);
        loop {
            match thread.wait(STEP, deadline) {
                Ok(Stop::Event(libc::PTRACE_EVENT_EXIT)) => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        }
    };
    // the leader last: the notice of its death comes when all others have ended
    let at_exit: Vec<&Thread> = threads.iter().rev().filter(exits).collect();
    let exits = begun.elapsed();
    look();
    let looked = begun.elapsed();
    for thread in &at_exit {
        let _ = thread.resume(Go::Free, 0);
    }
    // the parent learns of the end only when its tracer has
    for thread in threads.iter().rev() {
        let deadline = Deadline::after(PATIENCE);
        while thread.wait(STEP, deadline).is_ok() {}
    }
    drop(urgent);
    tracing::debug!(?exits, ?looked, ended = ?begun.elapsed(), threads = threads.len(), "the copy's end");
    Ok(())
}
