//! ulpm, User-Level Process Migration: moves a running Linux process, unmodified, to another
//! machine, with a freeze so short that its users do not notice.
//!
//! The rooms and what each may use are described in `docs/design.md`; arrows point down only.

pub(crate) mod checkpoint;
pub mod cli;
pub mod convergence;
pub mod demo;
pub mod dirty;
pub mod fault;
#[doc(hidden)]
pub mod fuzzing;
pub mod handover;
pub mod image;
pub mod precopy;
pub mod preload;
pub(crate) mod profile;
pub mod report;
pub mod restore;
pub mod state;
pub mod sys;
pub mod tracee;
pub mod transport;
