//! What stands in the way of moving a process: a named object, the reason and what the user can do.
//!
//! Preflight collects *all* of them, on the source and on the target, before anything is stopped.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::shown;

/// One thing that cannot be carried.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Obstacle {
    /// What it is, as the user knows it: `fd 7: /var/log/app.log`.
    pub object: String,
    /// Why it cannot be carried.
    pub why: String,
    /// What the user can do about it.
    pub advice: String,
}

impl Obstacle {
    /// An obstacle from its three parts.
    pub fn new(object: impl Into<String>, why: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { object: object.into(), why: why.into(), advice: advice.into() }
    }
}

/// One line, whatever the names in it are.
impl fmt::Display for Obstacle {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {} ({})", shown(&self.object), shown(&self.why), shown(&self.advice))
    }
}
