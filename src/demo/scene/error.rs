//! What can go wrong on the scene, and what each says about what to do.

use std::fmt;
use std::io;
use std::process::ExitStatus;

use thiserror::Error;

use crate::demo::hosts::HostError;
use crate::demo::workload::Status;
use crate::report::{MigrationReport, Size};

/// Why a scene could not be set up, or a move on it not made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SceneError {
    /// A host could not be made, or not be asked.
    #[error(transparent)]
    Host(#[from] HostError),
    /// Something of this process's own failed.
    #[error("cannot {step}")]
    Own {
        /// What was tried.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Both copies of the workload's memory would not fit.
    #[error("two copies of {mem} are needed while it moves, and {available} of memory are free here")]
    NoMemory {
        /// Memory of the workload.
        mem: Size,
        /// What this machine has left.
        available: Size,
    },
    /// A command in a host ended otherwise than with success.
    #[error("{host}: '{command}' ended with {status}{stderr}")]
    Command {
        /// Where it ran.
        host: String,
        /// Its command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of what it said.
        stderr: Tail,
    },
    /// A command in a host did not do its part in time.
    #[error("{host}: '{command}' did not {what} within {seconds} s{stderr}")]
    TooSlow {
        /// Where it runs.
        host: String,
        /// Its command line.
        command: String,
        /// What was awaited.
        what: &'static str,
        /// For how long.
        seconds: u64,
        /// The end of what it said.
        stderr: Tail,
    },
    /// A command said something else than expected.
    #[error("{host}: '{command}' answered {answer:?}, which is not {expected}")]
    Answer {
        /// Where it ran.
        host: String,
        /// Its command line.
        command: String,
        /// What it said.
        answer: String,
        /// What was expected.
        expected: &'static str,
    },
    /// `ulpm live` did not move the process.
    #[error("'ulpm live' ended with exit code {code}{}{live}{serve}", because(report))]
    Move {
        /// Its exit code.
        code: i32,
        /// What it reported, if anything.
        report: Option<Box<MigrationReport>>,
        /// The end of what it said.
        live: Tail,
        /// The end of what `ulpm serve` said at the target.
        serve: Tail,
    },
    /// The workload is not as it should be.
    #[error("the workload {what}{serve}{threads}")]
    Workload {
        /// What is wrong with it.
        what: String,
        /// What it said of itself last.
        last: Box<Status>,
        /// The end of what `ulpm serve` said where it is.
        serve: Tail,
        /// What its threads were doing, if anybody looked.
        threads: Tail,
    },
    /// Someone asked to stop.
    #[error("interrupted; both hosts and all that ran in them are gone")]
    Interrupted,
}

impl SceneError {
    /// What the user can do about it, where the message itself does not say.
    pub fn advice(&self) -> Option<&'static str> {
        const SEE_MORE: &str = "to see more of what the hosts do, run it again with ULPM_LOG=ulpm=debug";
        match self {
            Self::Host(_) | Self::Interrupted => None,
            Self::Own { .. } => {
                Some("the scene's files are in the temporary directory: TMPDIR names another")
            }
            Self::NoMemory { .. } => Some("choose a smaller --mem"),
            Self::Command { .. } | Self::TooSlow { .. } | Self::Answer { .. } => Some(SEE_MORE),
            Self::Move { code: 3, .. } => Some(
                "preflight names what stands in the way and what can be done; 'ulpm check' shows it again",
            ),
            Self::Move { .. } => Some(SEE_MORE),
            Self::Workload { .. } => {
                Some("this should not happen: ULPM_LOG=ulpm=debug shows more for a bug report")
            }
        }
    }
}

/// The last lines of a command's standard error, shown indented below a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tail {
    /// Whose lines these are.
    pub(super) whose: String,
    /// The lines.
    pub(super) lines: Vec<String>,
}

impl fmt::Display for Tail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.lines.is_empty() {
            return Ok(());
        }
        write!(f, "\n  {} said:", self.whose)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n    {line}"))
    }
}

fn because(report: &Option<Box<MigrationReport>>) -> String {
    let error = report.as_ref().and_then(|report| report.error.as_deref());
    error.map(|error| format!(": {error}")).unwrap_or_default()
}

/// Gives an I/O error of this process the step it belongs to.
pub(super) fn own(step: &'static str) -> impl Fn(io::Error) -> SceneError {
    move |source| SceneError::Own { step, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_move_shows_both_sides() {
        let tail = |whose: &str, line: &str| Tail { whose: whose.into(), lines: vec![line.into()] };
        let error = SceneError::Move {
            code: 3,
            report: Some(Box::new(MigrationReport::refused(1, "b", "fd 5 is a perf event"))),
            live: tail("ulpm live", "refused"),
            serve: Tail::default(),
        };
        let expected =
            "'ulpm live' ended with exit code 3: fd 5 is a perf event\n  ulpm live said:\n    refused";
        assert_eq!(error.to_string(), expected);
    }
}
