//! The one JSON document of a command that was asked for it (`--json`) and failed before it had a report of its own.

use serde::Serialize;

use super::{Exit, Failure, say_json, tell};
use crate::report::{Outcome, Schema};

/// How a command ended: what the documents of all commands have in common.
#[derive(Debug, Serialize)]
pub(super) struct Ending {
    /// Goes with the exit code.
    pub(super) outcome: &'static str,
    /// Why it did not end as wished, as one line.
    pub(super) error: Option<String>,
    /// Version of the document.
    pub(super) schema: Schema,
}

impl Ending {
    /// Of a command that has done what was wished.
    pub(super) fn done() -> Self {
        Ending { outcome: "done", error: None, schema: Schema::default() }
    }

    fn of(failure: &Failure) -> Self {
        Ending {
            outcome: crate::report::outcome_word(outcome(failure.exit)),
            error: Some(error(failure)),
            schema: Schema::default(),
        }
    }
}

/// Prints the document of a failure that nothing on stdout has told yet, if one is wanted.
pub(super) fn document(done: Result<Exit, Failure>, json: bool) -> Result<Exit, Failure> {
    document_as(done, json, Ending::of)
}

/// The same with a document of the command's own kind.
pub(super) fn document_as<D: Serialize>(
    done: Result<Exit, Failure>,
    json: bool,
    of: impl FnOnce(&Failure) -> D,
) -> Result<Exit, Failure> {
    match done {
        Err(failure) if json && !failure.told => {
            if let Err(error) = say_json(&of(&failure)) {
                tell(&format!("{error:#}"));
            }
            Err(failure.told())
        }
        done => done,
    }
}

/// The word that goes with an exit code.
pub(super) fn outcome(exit: Exit) -> Outcome {
    match exit {
        Exit::Done => Outcome::Moved,
        Exit::Failed => Outcome::Failed,
        Exit::Usage => Outcome::Usage,
        Exit::Refused => Outcome::Refused,
        Exit::Aborted => Outcome::Aborted,
        Exit::Open => Outcome::Unknown,
        Exit::Lost => Outcome::Lost,
    }
}

/// What went wrong, with its causes, as one line.
pub(super) fn error(failure: &Failure) -> String {
    format!("{:#}", failure.error)
}
