//! What can go wrong while tracking.

use nix::errno::Errno;

use crate::tracee::TraceeError;

/// Tracking failed.
#[derive(Debug, thiserror::Error)]
pub enum TrackError {
    /// Installing it in the process.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
    /// The kernel lacks what the tracker needs.
    #[error(
        "this kernel cannot track writes with userfaultfd write-protection (Linux 6.7 or later is needed)"
    )]
    Unsupported(#[source] Errno),
    /// Whether it works could not be tried.
    #[error("whether this kernel has soft-dirty bits could not be tried")]
    Untried(#[source] Errno),
    /// Something else that the tracker needs is not there.
    #[error("{0}")]
    Lacking(&'static str),
    /// Soft-dirty bits could not be cleared.
    #[error("clearing the soft-dirty bits of process {pid} (/proc/{pid}/clear_refs)")]
    ClearRefs {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A kernel call failed.
    #[error("{step} of process {pid}{}", if *source == Errno::EBUSY { WATCHED } else { "" })]
    Kernel {
        /// The process.
        pid: i32,
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: Errno,
    },
    /// Its memory could not be opened.
    #[error("opening /proc/{pid}/mem")]
    Memory {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file of `/proc` could not be opened.
    #[error("opening /proc/{pid}/pagemap")]
    Pagemap {
        /// The process.
        pid: i32,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// One userfaultfd for a mapping is all that the kernel allows.
const WATCHED: &str = ", which another program watches (userfaultfd), perhaps another ulpm";

impl TrackError {
    /// Names the step that a kernel call was.
    pub(super) fn kernel(pid: i32, step: &str) -> impl FnOnce(Errno) -> Self {
        let step = step.to_owned();
        move |source| TrackError::Kernel { pid, step, source }
    }
}
