//! Why there is no checkpoint, or no process of one.

use std::io;
use std::path::{Path, PathBuf};

use super::format::FormatError;
use crate::image::Obstacle;
use crate::restore::RestoreError;

/// Something about a checkpoint failed. Unless said otherwise nothing was made, and nothing changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckpointError {
    /// There is something already.
    #[error("{} exists already: name one that does not", .0.display())]
    Taken(PathBuf),
    /// It is never a new one.
    #[error("{} has no name of its own: name a directory that does not exist yet", .0.display())]
    Nameless(PathBuf),
    /// It cannot be named so in a journal.
    #[error("the name {} is no text (UTF-8); name another directory", .0.display())]
    Unnameable(PathBuf),
    /// Another ulpm writes it.
    #[error("another ulpm is writing {} at this moment; wait until it has ended", .0.display())]
    AtWork(PathBuf),
    /// An earlier one was interrupted when nobody but its journal knows what became of the process.
    #[error(
        "a checkpoint that was to become {} was interrupted, and its process may be stopped: run `ulpm recover`, then try again",
        .0.display()
    )]
    Open(PathBuf),
    /// There is nothing of that name.
    #[error("there is no checkpoint in {}", .0.display())]
    Nowhere(PathBuf),
    /// It was never finished.
    #[error(
        "{} was being written when that was interrupted: it is no whole checkpoint, and nothing is restored from it; it may be removed",
        .0.display()
    )]
    Unfinished(PathBuf),
    /// A file of it is not what it should be.
    #[error("{} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FormatError,
    },
    /// A page is not what was written.
    #[error(
        "{} is damaged: page {slot} of it has another checksum than was written down; nothing was restored, use another copy of the checkpoint",
        path.display()
    )]
    Page {
        /// The file.
        path: PathBuf,
        /// Which page.
        slot: u64,
    },
    /// The process is still here.
    #[error("process {pid} of this checkpoint {}", original(*runs, *open))]
    OriginalHere {
        /// Its pid.
        pid: i32,
        /// It does not stand still.
        runs: bool,
        /// Its hand-over is open.
        open: bool,
    },
    /// What is missing here for the process.
    #[error("{}", crate::precopy::error::refusal(.0.len()))]
    Refused(Vec<Obstacle>),
    /// Building it.
    #[error("the process was not restored, and nothing of it runs")]
    Restore(#[from] RestoreError),
    /// A system call.
    #[error("{step} {}", path.display())]
    Io {
        /// What was being done.
        step: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CheckpointError {
    /// For a step with a file or directory.
    pub(super) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| CheckpointError::Io { step, path, source }
    }
}

/// How the process that a checkpoint was made of stands in the way, and what to do about it.
fn original(runs: bool, open: bool) -> &'static str {
    match (runs, open) {
        (false, true) => {
            "is still on this host, stopped: it was not ended yet; run `ulpm recover`, then restore"
        }
        (true, true) => {
            "is still on this host, and somebody let it go on before it was ended; run `ulpm recover`, which says how to settle that"
        }
        (false, false) => "is still on this host, stopped, and would be there twice: end it, then restore",
        (true, false) => "still runs on this host, and would be there twice: end it, then restore",
    }
}
