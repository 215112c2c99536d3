//! What a move changes without standing in its way: carried with a limit, or left behind knowingly. The user reads it in
//! preflight and again in the report; nothing is dropped in silence.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::shown;

/// One thing that will differ at the target.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Note {
    /// What it is, as the user knows it: `fd 7: socket:[4711]`, `process 4242`.
    pub object: String,
    /// What will differ.
    pub what: String,
}

impl Note {
    /// A note from its two parts.
    pub fn new(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self { object: object.into(), what: what.into() }
    }
}

/// One line, whatever the names in it are.
impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", shown(&self.object), shown(&self.what))
    }
}
