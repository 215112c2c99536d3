//! A thread of the process, by which a tracker is installed.

use crate::tracee::{Remote, Scratch};

/// A thread of the process that executes calls for us.
#[derive(Debug)]
pub struct Inside<'r, 's> {
    /// The thread, in its shelter.
    pub remote: &'r mut Remote<'s>,
    /// Its scratch area.
    pub scratch: &'r Scratch,
    /// The process's id, as it knows it itself.
    pub pid: i32,
}
