//! The target's side: a warm skeleton that already has the memory of the process when the freeze begins.
//!
//! | file | owns |
//! |---|---|
//! | [`nursery`] | the small process from which a skeleton is born under its own pid |
//! | [`skeleton`] | the skeleton: emptied, driven by remote calls |
//! | [`mapper`] | making its mappings those of the source, by differences |
//! | `locking` | locked memory |
//! | [`pages`] | placing pages as they arrive |
//! | [`objects`] | shared memory objects |
//! | [`descriptors`] | its open files, and room for them |
//! | [`activate`] | all other state, at the end |
//! | [`permission`] | how far the peer may go |
//! | [`quarters`] | among which control groups they live |
//! | [`arrivals`] | what `ulpm serve` says of them |
//! | `guards` | guard pages without a mapping of their own |
//! | [`guests`] | who is here already |
//! | [`reservation`] | preflight: what is missing here |
//! | [`room`] | preflight: memory, control groups and disk; the out-of-memory killer |
//! | [`huge_pages`] | preflight: whether this host has huge pages enough |
//! | `memory_modes` | preflight: kinds of memory that this kernel may not know, locked memory |
//! | [`verify`] | comparing every page with the source |
//! | [`late_signals`] | signals that reached the copy at the source |
//! | [`lazy`] | memory that comes after the process |
//! | [`incoming`] | frames as they arrive, made calls of the builder; how much of them |
//! | [`session`] | the conversation with the source |
//! | [`urgency`] | how urgent the network threads are, by where the sessions stand |
//! | [`construction`] | of that, from `Begin` to the moment in which the process runs: frames become calls of the builder |
//! | `executor` | the hand-over as it is carried out here |
//! | `work` | what a session has in hand meanwhile |
//! | [`builder`] | building processes from mappings, pages and state, whoever says them |

pub mod activate;
pub mod arrivals;
pub mod builder;
pub mod construction;
pub mod descriptors;
pub mod error;
mod executor;
mod guards;
pub mod guests;
pub mod huge_pages;
pub mod incoming;
pub mod late_signals;
pub mod lazy;
mod locking;
pub mod mapper;
mod memory_modes;
pub mod nursery;
pub mod objects;
pub mod pages;
mod pairs;
pub mod permission;
pub mod quarters;
pub mod reservation;
pub mod room;
pub mod session;
pub mod settle;
pub mod skeleton;
pub mod urgency;
pub mod verify;
mod work;

pub use error::RestoreError;
