//! Which tracker to watch a process with.
//!
//! A process with a seccomp filter may be killed for a system call of ours: what has to be installed inside it is not
//! for such a one.

use crate::dirty::choice::Unavailable;
use crate::dirty::{Choice, Chosen, Kind, TrackError};
use crate::sys::status::Status;

const FILTERED: &str = "the process has a seccomp filter, which might kill it for a system call of ours";

/// Probes, and takes what the user asks for, or the best that works here and for this process.
pub fn choose(pid: i32, choice: Choice) -> Result<Chosen, Unavailable> {
    let chosen = choice.resolve()?;
    if !chosen.kind.needs_stop() || !filtered(pid) {
        return Ok(chosen);
    }
    let other = Kind::ALL.into_iter().find(|kind| !kind.needs_stop() && kind.probe().is_ok());
    match (choice, other) {
        (Choice::Auto, Some(kind)) => Ok(Chosen { kind, reason: format!("no {}: {FILTERED}", chosen.kind) }),
        _ => Err(Unavailable { kind: chosen.kind, source: TrackError::Lacking(FILTERED) }),
    }
}

/// Whether its first thread, the one that would be stopped, is under seccomp. In doubt it is.
fn filtered(pid: i32) -> bool {
    Status::of(pid).map_or(true, |status| status.seccomp != 0)
}
