//! How a command ends, and what the shell is told of it.

use std::process::{ExitCode, Termination};

/// The exit codes, as `--help` lists them.
pub(super) const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, nothing was touched (or the process ended by itself); 2 wrong usage; 3 refused by preflight;
4 aborted, the process runs on at the source; 5 the outcome is open, `ulpm recover` settles it;
6 lost: the copy at the source was ended before all memory had followed (lazy moves), and the process with it.";

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// It failed, and nothing was touched.
    Failed = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// Preflight found obstacles; nothing was touched.
    Refused = 3,
    /// Given up; the process runs on at the source.
    Aborted = 4,
    /// Nobody knows where the process runs until `ulpm recover` has settled it.
    Open = 5,
    /// The process is gone: what it still needed of the copy at the source was lost (lazy moves).
    Lost = 6,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why a command did not end well, and what the shell is told.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub error: anyhow::Error,
    /// A result that says so is on stdout already.
    pub(super) told: bool,
}

impl Failure {
    /// `error`, and the exit code that it calls for.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), told: false }
    }

    /// What was typed turned out to be wrong after it was parsed.
    pub(crate) fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// The same, of which a result on stdout says all.
    pub(super) fn told(self) -> Self {
        Self { told: true, ..self }
    }
}

/// An error that says nothing else left everything untouched.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error)
    }
}
