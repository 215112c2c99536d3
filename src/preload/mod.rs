//! The agent beside the source process: attaches, installs tracking, pushes memory ahead while the process runs;
//! at the freeze captures its state.
//!
//! | file | owns |
//! |---|---|
//! | [`agent`] | attaching, and what is known of the process between rounds |
//! | [`push`] | private pages: what to send, what to leave out |
//! | [`heat`] | pages that are written again and again |
//! | [`lazy`] | memory that may come after the process |
//! | [`look`] | reading pages, on all cores; zeroes, hashes |
//! | [`huge`] | huge pages (hugetlb) that were dropped |
//! | [`objects`] | shared memory objects |
//! | [`throttle`] | slowing the process down |
//! | [`capture`] | the frozen process, its state, and giving it back |
//! | [`claim`] | that nobody else is at work on the process |
//! | `queued` | one signal taken out of a queue |
//! | `ending` | the stopped copy once its process runs elsewhere |
//! | [`late_signals`] | signals that came after its state was read |
//! | `standing` | preflight: who the process is, before anything else is read |
//! | [`parent`] | preflight: who started the process, and what that will see |
//! | [`describe`] | preflight: the process from outside, without stopping it |

pub mod agent;
pub mod capture;
pub mod claim;
pub mod describe;
mod ending;
pub mod error;
pub mod heat;
pub mod huge;
pub mod late_signals;
pub mod lazy;
pub mod look;
pub mod objects;
pub mod parent;
pub mod push;
mod queued;
pub mod standing;
pub mod throttle;

#[cfg(test)]
mod lazy_tests;

pub use agent::Agent;
pub use error::PreloadError;

/// How long a thread may take to stop.
pub(crate) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
