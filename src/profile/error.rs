//! Why a process cannot be watched.

use nix::errno::Errno;

use crate::dirty::TrackError;
use crate::preload::PreloadError;
use crate::state::StateError;
use crate::tracee::TraceeError;

/// Watching failed; nothing is left in the process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProfileError {
    /// What the process is rules it out, or nobody has that pid.
    #[error(transparent)]
    Process(#[from] PreloadError),
    /// It cannot be held.
    #[error("opening process {pid}")]
    Gone {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: Errno,
    },
    /// It ended before anything was seen.
    #[error("process {0} ended before tracking was installed")]
    Ended(i32),
    /// Somebody asked for the end before anything was seen.
    #[error("interrupted before tracking was installed")]
    Interrupted,
    /// Stopping it to install tracking.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
    /// Tracking.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// Reading its mappings.
    #[error(transparent)]
    State(#[from] StateError),
    /// A timer of our own.
    #[error("starting a timer")]
    Timer(#[source] std::io::Error),
}
