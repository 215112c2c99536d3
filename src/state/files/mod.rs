//! Descriptors: everything behind `/proc/PID/fd`, captured at the source and made again at the target.
//!
//! | you want | look in |
//! |---|---|
//! | the list of kinds: who reads, checks and makes which | [`kinds`] |
//! | the descriptor table, sharing by `dup`, the walk over a process | `walk`, `source` (what the kinds see of it) |
//! | the walk over an image at the target | `target`, `maker` (what the kinds see of it) |
//! | who else holds a pipe or socket | `holders` |
//! | the texts for what cannot be carried | `refuse` |
//! | one kind | its own file: [`regular`], [`pipe`], [`unix_socket`], [`eventfd`], [`epoll`], [`timerfd`], [`signalfd`], [`memfd`], [`tcp_listen`], [`tcp_over`] (in [`tcp_place`]), [`udp`] |
//! | is it the same file there? | [`identity`] |
//!
//! The source's state is never changed: contents are read from a duplicate (`pidfd_getfd`) by `tee` and
//! `MSG_PEEK`, everything else from `fdinfo`, `getsockopt` and `sock_diag`.
//!
//! ```text
//! source:  describe ──▶ image + obstacles      capture (stopped, reuses describe's image) ──▶ image
//! target:  check_target ──▶ obstacles, hashes wanted      restore ──▶ open files, epoll_ctl calls to make
//! ```

pub mod epoll;
pub mod eventfd;
mod holders;
pub mod identity;
pub mod kinds;
mod maker;
pub mod memfd;
pub mod pipe;
mod refuse;
pub mod regular;
pub mod signalfd;
mod socket;
mod socket_diag;
mod socket_kinds;
mod socket_options;
mod socket_table;
mod source;
mod target;
mod tcp_info;
pub mod tcp_listen;
pub mod tcp_over;
pub mod tcp_place;
#[cfg(test)]
mod testing;
pub mod timerfd;
pub mod udp;
pub mod unix_socket;
mod walk;

use std::io;

pub use identity::{Access, FileCheck, Vetted, check_file, content_hash};
pub use maker::{EpollAdd, RestoreContext, TargetCheck, UnixPair};
pub(in crate::state) use socket_options::TIME_LIMIT;
pub(in crate::state) use socket_table::{TABLE as SOCKET_OPTIONS, Treatment};
pub use target::{RestoredFiles, Signalled, check_target, restore};
pub use unix_socket::wanted_pairs;
pub use walk::{capture, describe};

use crate::image::obstacle::Obstacle;

/// What the user allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilesOptions {
    /// TCP connections are closed by the move instead of standing in its way (`--tcp close`).
    pub tcp_close: bool,
    /// Open files whose position and flags another process shares are split from it (`--shared split`).
    pub shared_split: bool,
}

/// Why descriptors could not be read or made. Nothing was changed at the source; at the target everything
/// that was made is closed again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FilesError {
    /// The process ended.
    #[error("process {pid} is gone")]
    Gone {
        /// Its number.
        pid: i32,
    },
    /// A step of reading failed.
    #[error("cannot {step} of descriptor {fd} of process {pid}")]
    Read {
        /// The process.
        pid: i32,
        /// The descriptor; -1 for the table itself.
        fd: i32,
        /// What was read.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// `fdinfo` holds something else than expected.
    #[error("fdinfo of descriptor {fd} has no readable '{field}'")]
    Fdinfo {
        /// The descriptor.
        fd: i32,
        /// The field that was looked for.
        field: &'static str,
    },
    /// The kernel did not tell what its table of sockets says.
    #[error("cannot query sockets: {step}")]
    SocketDiag {
        /// What was tried.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something appeared after preflight that cannot be carried.
    #[error("{} descriptor(s) cannot be carried, first: {}", .0.len(), .0.first().map(ToString::to_string).unwrap_or_default())]
    Refused(Vec<Obstacle>),
    /// A step of making failed.
    #[error("cannot make {object} again: {step}")]
    Make {
        /// The object as the user knows it.
        object: String,
        /// What was done.
        step: &'static str,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The file at the target is not the source's file.
    #[error("{object} is not the same file here")]
    OtherFile {
        /// The object as the user knows it.
        object: String,
    },
    /// The image does not fit together; it was damaged or made by something else.
    #[error("the image of {object} is inconsistent: {what}")]
    Inconsistent {
        /// The object as the user knows it.
        object: String,
        /// What does not fit.
        what: &'static str,
    },
}

impl FilesError {
    /// Whether there was no such descriptor at that moment: `ENOENT` from `/proc/PID/fd`, `EBADF` from `pidfd_getfd`.
    fn says_closed(&self) -> bool {
        let closed = |source: &io::Error| matches!(source.raw_os_error(), Some(libc::ENOENT | libc::EBADF));
        matches!(self, FilesError::Read { source, .. } if closed(source))
    }
}
