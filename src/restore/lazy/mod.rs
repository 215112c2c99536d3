//! Lazy moves at the target: the process runs, and its memory follows.
//!
//! ```text
//!  source                        target
//!  page server ══ QUIC ══ ulpm serve ── unix socket ── holder ── userfaultfd ── the process, its children
//!                         (relay: bytes)               (pager)
//! ```
//! The **holder** ([`holder`]) is a small process that keeps the userfaultfds, knows what is outstanding, asks for it and places it.
//! `ulpm serve` only passes bytes on ([`relay`]): when it ends or is started anew, threads that fault wait, nothing else. When the
//! holder dies, the kernel kills the process (`PTRACE_O_EXITKILL`, [`guard`]): without it missing pages would read as zeroes.
//!
//! | file | owns |
//! |---|---|
//! | [`adopt`] | making the userfaultfds in the skeleton, starting the holder, handing over |
//! | [`holder`] | the holder's loop |
//! | `held` | what it holds: the process, and letting it be when it is whole |
//! | `wire` | its ends of the lanes |
//! | `pager` | events of userfaultfds, who waits; in `pager::arrivals` pages that arrive |
//! | `gather` | huge pages that arrive in parts (pure) |
//! | `plan` | what to ask for next (pure) |
//! | `places` | where in an address space outstanding pages belong (pure) |
//! | `space` | placing |
//! | `stats` | what is counted |
//! | [`guard`] | the process must not outlive the holder |
//! | [`relay`] | lanes between QUIC and the holder |
//! | [`carriers`] | the threads of `ulpm serve` that carry them, ahead of others |

pub mod adopt;
pub mod carriers;
pub mod guard;
pub mod holder;
pub mod relay;

mod gather;
mod held;
mod pager;
#[cfg(test)]
mod pager_tests;
mod places;
mod plan;
mod space;
mod stats;
mod wire;

use std::path::{Path, PathBuf};

/// `ULPM_HOME/lazy`: a socket `ID.sock` for each holder, and `ID.json` about its process.
pub fn directory(home: &Path) -> PathBuf {
    home.join("lazy")
}

/// A migration's id as a file name: nothing but hex digits and dashes, which leads nowhere else.
pub fn is_plain(id: &str) -> bool {
    !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-')
}

/// Whether the process of a migration runs here and is not whole. A holder that has told nobody yet that it is counts, too.
pub fn is_outstanding(home: &Path, id: &str) -> bool {
    is_plain(id) && directory(home).join(format!("{id}.json")).exists()
}

/// What `ID.json` says of a process that is not whole.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Unfinished {
    /// The migration.
    pub id: String,
    /// The process, as this host sees it.
    pub pid: i32,
    /// Start time of it (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// The holder.
    pub holder: i32,
    /// Start time of it.
    pub holder_start: u64,
}
