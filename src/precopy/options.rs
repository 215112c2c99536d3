//! What the user wants of a migration, and what is told of it as it goes on.

use std::path::PathBuf;
use std::time::Duration;

use super::MigrateError;
use super::control::Status;
use crate::dirty::Choice;
use crate::image::Note;
use crate::report::Round;
use crate::state::files::FilesOptions;
use crate::transport::RemoteAddr;
use crate::transport::protocol::PidChoice;

/// Why a connection is closed of which nothing more is needed.
pub(crate) const MOVED: &str = "moved";

/// What the user wants.
#[derive(Clone, Debug)]
pub struct Options {
    /// The process, as we see it.
    pub pid: i32,
    /// The target; `None`: there is no other host, [`Migration::run_to`](super::Migration::run_to) is told to whom.
    pub to: Option<RemoteAddr>,
    /// `--pid-mode`.
    pub pid_mode: PidChoice,
    /// `--verify`.
    pub verify: bool,
    /// `--tcp close`.
    pub files: FilesOptions,
    /// `ULPM_HOME`.
    pub home: PathBuf,
    /// Time limit for connecting.
    pub connect_limit: Duration,
    /// `--tracker`.
    pub tracker: Choice,
    /// `--lazy` and the like.
    pub lazy: LazyOptions,
    /// `--wait`: for a process that still misses memory of an earlier move.
    pub wait: bool,
    /// `--parent-knows`: what started it may do so again.
    pub parent_knows: bool,
    /// Once the other end has everything the process goes on here, and there it is a copy.
    pub leave_running: bool,
}

impl Options {
    /// The target, where there must be one.
    pub(super) fn host(&self) -> Result<&RemoteAddr, MigrateError> {
        let unnamed = || std::io::Error::other("no host was named");
        self.to.as_ref().ok_or_else(|| MigrateError::Here { step: "connecting", source: unnamed() })
    }
}

/// What the user wants of the lazy phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LazyOptions {
    /// `--lazy`: nothing that can come later goes ahead.
    pub from_start: bool,
    /// `--lazy-after`.
    pub after: Option<usize>,
    /// `--lazy-patience`.
    pub patience: Duration,
    /// `--release-source`.
    pub release: bool,
}

impl Default for LazyOptions {
    fn default() -> Self {
        LazyOptions { from_start: false, after: None, patience: Duration::from_secs(600), release: false }
    }
}

/// Told as it happens.
#[derive(Clone, Debug)]
pub enum Progress<'a> {
    /// A step begins.
    Step(&'a str),
    /// Preflight found what will differ at the target.
    Notes(&'a [Note]),
    /// A round is under way: told several times a second.
    Now(&'a Status),
    /// A round is done.
    Round(usize, &'a Round),
}
