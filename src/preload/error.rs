//! What can go wrong at the source before the commit. In every case the process runs on.

use crate::dirty::TrackError;
use crate::image::Obstacle;
use crate::state::StateError;
use crate::state::files::FilesError;
use crate::tracee::TraceeError;

/// The agent failed.
#[derive(Debug, thiserror::Error)]
pub enum PreloadError {
    /// Attaching, freezing, remote calls.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
    /// Tracking.
    #[error(transparent)]
    Track(#[from] TrackError),
    /// Capturing state.
    #[error(transparent)]
    State(#[from] StateError),
    /// Capturing descriptors.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// There is no such process.
    #[error("no such process: no pid {0} here")]
    NoSuchProcess(i32),
    /// It was there, and is no more.
    #[error("process {0} ended while it was looked at")]
    Ended(i32),
    /// It called `execve`: nothing that was seen or sent of it holds any more.
    #[error("process {0} has begun another program meanwhile; move that")]
    Exec(i32),
    /// What it is rules it out; it was not looked at any further.
    #[error("{0}")]
    Unfit(Obstacle),
    /// It is not a thread-group leader.
    #[error("{0} is a thread, not a process; its process is {1}")]
    NotAProcess(i32, i32),
    /// Reading its memory.
    #[error("reading memory of process {pid} at {addr:#x}")]
    Memory {
        /// The process.
        pid: i32,
        /// Where.
        addr: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Slowing it down.
    #[error("process {pid} could not be slowed down")]
    Throttle {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Handing pages on.
    #[error("sending")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
}
