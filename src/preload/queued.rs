//! One signal taken out of the queue of a stopped thread or of its process.

use std::time::Duration;

use super::{PATIENCE, PreloadError};
use crate::sys::ptrace::SiginfoBytes;
use crate::sys::time::Deadline;
use crate::tracee::TraceeError;
use crate::tracee::stop::Stop;
use crate::tracee::thread::{Go, Thread};

/// Lets a stopped thread take one signal of this number, which is queued to it or to its process. All other signals stay, but
/// `SIGSTOP`, which cannot be blocked. It executes nothing.
pub(super) fn take_one(
    thread: Thread,
    signal: i32,
    each: impl FnMut(&SiginfoBytes),
) -> Result<(), PreloadError> {
    let mask = thread.sigmask()?;
    thread.set_sigmask(!(1 << (signal - 1)))?;
    let taken = take(thread, signal, each);
    thread.set_sigmask(mask)?;
    taken
}

fn take(thread: Thread, signal: i32, mut each: impl FnMut(&SiginfoBytes)) -> Result<(), PreloadError> {
    const STEP: &str = "taking a signal out of the queue";
    let fault = |info: &SiginfoBytes| i32::from_le_bytes([info[8], info[9], info[10], info[11]]) > 0;
    // interrupted already, it would stop before it takes one (`get_signal` looks for `JOBCTL_TRAP_MASK` first)
    let mut deadline = Deadline::after(Duration::from_millis(50));
    let mut interrupted = false;
    thread.resume(Go::Free, 0)?;
    loop {
        match thread.wait(STEP, deadline) {
            Ok(Stop::Signal(found)) => {
                let info = crate::sys::ptrace::siginfo(thread.0).ok();
                // it has run into nowhere: there was none
                if found != signal && info.as_ref().is_some_and(fault) {
                    break;
                }
                info.iter().for_each(&mut each);
                if found == signal {
                    break;
                }
            }
            Ok(Stop::Trap { .. }) if interrupted => return Ok(()),
            Ok(other) => tracing::debug!(?other, "while a signal is taken out of the queue"),
            // somebody else has taken it out, with another one; or the thread waits for a busy CPU, and may take it yet
            Err(TraceeError::Timeout { .. }) if !interrupted => {
                thread.interrupt()?;
                (interrupted, deadline) = (true, Deadline::after(PATIENCE));
                continue;
            }
            Err(error) => return Err(error.into()),
        }
        thread.resume(Go::Free, 0)?;
    }
    thread.interrupt()?;
    let deadline = Deadline::after(PATIENCE);
    loop {
        thread.resume(Go::Free, 0)?;
        match thread.wait(STEP, deadline)? {
            Stop::Trap { .. } => return Ok(()),
            // the next of its kind, which has come since
            Stop::Signal(found) => {
                let info = crate::sys::ptrace::siginfo(thread.0).ok();
                info.iter().filter(|info| found == signal || !fault(info)).for_each(&mut each);
            }
            _ => {}
        }
    }
}
