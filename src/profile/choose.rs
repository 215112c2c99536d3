//! Which tracker to watch a process with.
//!
//! A process with a seccomp filter may be killed for a system call of ours: what has to be installed inside it is not
//! for such a one.

use crate::dirty::choice::Unavailable;
use crate::dirty::{Choice, Chosen};
use crate::sys::kernel::Kernel;
use crate::sys::limits;
use crate::sys::status::Status;

const FILTERED: &str = "the process has a seccomp filter, which might kill it for a system call of ours";

/// What the user asks for, or the best that works here and for this process.
pub(crate) fn choose(pid: i32, choice: Choice) -> Result<Chosen, Unavailable> {
    let kernel = Kernel::here();
    let chosen = choice.resolve(kernel)?;
    if !chosen.kind.needs_stop() {
        return Ok(chosen);
    }
    if filtered(pid) {
        return chosen.outside(kernel, choice, FILTERED);
    }
    match limits::no_descriptor(pid) {
        Some(why) => chosen.outside(kernel, choice, why),
        None => Ok(chosen),
    }
}

/// Whether its first thread, the one that would be stopped, is under seccomp. In doubt it is.
fn filtered(pid: i32) -> bool {
    Status::of(crate::sys::voice::of(pid)).map_or(true, |status| status.seccomp != 0)
}
