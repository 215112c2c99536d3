//! Checkpoints: the conversation of a move is written into a directory instead of sent to another host, and a process is built
//! from it there, later, as often as wanted. How it is laid out: `docs/checkpoint.md`.
//!
//! | file | owns |
//! |---|---|
//! | [`save`] | making one |
//! | [`kept`] | reading one |
//! | [`restore`] | making a process of one |
//! | [`changed`] | files that others changed meanwhile |
//! | [`inspect`] | what is in one, for people and programs |
//! | [`core`] | an ELF core of one, for debuggers |
//! | [`recorder`] | the destination that writes down |
//! | [`extents`] | where each page is |
//! | [`contents`] | what else there is, as data |
//! | [`mod@format`] | sections, versions, checksums |
//! | [`place`] | directories: made by one rename, what an interrupted one leaves |

mod changed;
pub(crate) mod contents;
pub(crate) mod core;
pub(crate) mod error;
pub(crate) mod extents;
pub(crate) mod format;
pub(crate) mod inspect;
pub(crate) mod kept;
pub(crate) mod place;
pub(crate) mod recorder;
pub(crate) mod restore;
pub(crate) mod save;

pub(crate) use error::CheckpointError;
