//! What is said between a [`Host`](super::Host) and its init: one packet per message over a
//! sequenced-packet socketpair, descriptors beside it.
//!
//! ```text
//!   caller                              warden (outside)        init (pid 1 of the host)
//!     | --- Setup ----------------------->| unshare, fork --------->|
//!     | <-- Ready{} + pidfd of init ------------------------------- |
//!     | --- Spawn{} + stdin, stdout, stderr, status --------------->| fork, exec
//!     | <-- Process{pid} + pidfd ---------------------------------- |
//!     | --- Known (the pid outside was read) ---------------------->| may reap from here on
//!     |                                            (child ends) --> | writes wait status into `status`
//! ```

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::sys::namespaces::{receive_with_fds, send_with_fds};

/// Longest message; arguments and environment of a command must fit.
const MESSAGE_LIMIT: usize = 128 * 1024;

/// How far a host's clocks are ahead of this machine's, in seconds (may be negative).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeOffsets {
    /// Offset of CLOCK_MONOTONIC.
    pub monotonic_s: i64,
    /// Offset of CLOCK_BOOTTIME.
    pub boottime_s: i64,
}

/// The first message: how the host is to be built.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) name: String,
    pub(super) time: Option<TimeOffsets>,
    /// Paths over which an empty file system of the host's own is mounted.
    pub(super) private: Vec<PathBuf>,
    /// The host's directory: removed when the host ends, its `hosts` is mounted over `/etc/hosts`.
    pub(super) home: PathBuf,
    pub(super) first_pid: Option<i32>,
}

/// What the caller asks of a ready init.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Request {
    /// Start a command; four descriptors travel along: stdin, stdout, stderr, status.
    Spawn { argv: Vec<String>, env: BTreeMap<String, String>, cwd: PathBuf },
    /// Give a pidfd of the process with this pid in the host.
    Find { pid: i32 },
    /// The process last answered was looked at; only now may it be reaped, and vanish from `/proc`.
    Known,
}

/// What init answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// The host is there; init's pidfd travels along.
    Ready,
    /// The process exists; its pidfd travels along.
    Process { pid: i32 },
    /// A step failed.
    Failed { step: String, errno: i32 },
}

impl Reply {
    pub(super) fn failed(step: impl Into<String>, error: &io::Error) -> Self {
        Reply::Failed { step: step.into(), errno: error.raw_os_error().unwrap_or(libc::EIO) }
    }
}

pub(super) fn send<T: Serialize>(socket: impl AsFd, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let bytes = postcard::to_stdvec(message).map_err(io::Error::other)?;
    if bytes.len() > MESSAGE_LIMIT {
        return Err(io::Error::from_raw_os_error(libc::E2BIG));
    }
    send_with_fds(socket.as_fd(), &bytes, fds)
}

/// Receives one message; `None` when the other end has gone.
pub(super) fn receive<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let (bytes, fds) = match receive_with_fds(socket.as_fd(), MESSAGE_LIMIT) {
        Err(error) if error.raw_os_error() == Some(libc::ECONNRESET) => return Ok(None),
        other => other?,
    };
    if bytes.is_empty() {
        return Ok(None);
    }
    let message = postcard::from_bytes(&bytes).map_err(io::Error::other)?;
    Ok(Some((message, fds)))
}
