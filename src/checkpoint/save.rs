//! Makes a checkpoint: the session of a move with a [`Recorder`] at its other end.

use std::path::{Path, PathBuf};

use super::error::CheckpointError;
use super::place::{free, full_name, sweep};
use super::recorder::Recorder;
use crate::handover::drawer;
use crate::handover::journal::Journal;
use crate::precopy::settle::{Settled, recover};
use crate::precopy::{Control, MigrateError, Migration, Options, Progress};
use crate::report::MigrationReport;

/// What was made.
#[derive(Debug)]
pub(crate) struct Saved {
    /// The directory.
    pub dir: PathBuf,
    /// Bytes of the pages in it.
    pub bytes: u64,
}

/// Why nothing was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SaveError {
    /// The directory.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The process, with the report's words on where it is now.
    #[error("{0}")]
    Process(String, Box<MigrateError>),
    /// It is written, or not: nobody here knows.
    #[error(
        "nobody here knows whether {} became a whole checkpoint ({why}); the process stays stopped: run `ulpm recover`, or, if you \
         know it, `ulpm recover --force-source {id}` (it goes on) or `--force-target {id}` (it is ended)",
        dir.display()
    )]
    Open {
        /// The directory.
        dir: PathBuf,
        /// The hand-over.
        id: String,
        /// What failed.
        why: String,
    },
    /// The process goes on, and there is no checkpoint.
    #[error("the process goes on as if nothing had been tried")]
    Left(#[source] CheckpointError),
}

/// Settles what a worker has left that was killed: its process goes on, or is ended since the checkpoint is whole.
pub(crate) fn settle(
    home: &Path,
    dir: &Path,
    tell: &dyn Fn(Progress<'_>),
) -> Result<Vec<Settled>, SaveError> {
    let (journal, dir) = (home.join("journal"), full_name(dir)?);
    let peer = drawer::peer(&dir).unwrap_or_default();
    let entries = Journal::list(&journal).map_err(CheckpointError::io("reading", &journal))?;
    let ours =
        entries.into_iter().flatten().filter(|entry| entry.entry().source && entry.entry().peer == peer);
    let mut settled = Vec::new();
    for id in ours.map(|entry| entry.entry().id.clone()) {
        let failed = |e: MigrateError| SaveError::Process(crate::sys::chain(&e), Box::new(e));
        settled.extend(recover(home, Some(&id), tell).map_err(failed)?);
    }
    sweep(&dir, &journal)?;
    Ok(settled)
}

/// Makes one of `options.pid` in `dir`; the report is that of the session.
pub(crate) fn save(
    options: &Options,
    dir: &Path,
    control: &Control,
    tell: &dyn Fn(Progress<'_>),
) -> (MigrationReport, Result<Saved, SaveError>) {
    let prepared = free(dir).and_then(|dir| {
        let left = sweep(&dir, &options.home.join("journal"))?;
        for path in left {
            let what = format!("{} was left by one that was interrupted: it is removed", path.display());
            tell(Progress::Step(&what));
        }
        Ok(dir)
    });
    let dir = match prepared {
        Ok(dir) => dir,
        Err(e) => return (MigrationReport::default(), Err(e.into())),
    };
    let mut recorder =
        Recorder::new(dir.clone(), options.pid, options.leave_running, control.cancel().clone());
    let (report, error) = Migration::new(options, control, tell).run_to(&mut recorder);
    let done = match error {
        None if options.leave_running => recorder.finish().map_err(SaveError::Left),
        None => Ok(()),
        Some(MigrateError::Open { id }) => {
            let why = report.error.clone().unwrap_or_default();
            Err(SaveError::Open { dir: dir.clone(), id, why })
        }
        Some(error) => {
            let text = report.error.clone().unwrap_or_else(|| error.to_string());
            Err(SaveError::Process(text, Box::new(error)))
        }
    };
    let bytes = recorder.stored();
    (report, done.map(|()| Saved { dir, bytes }))
}
