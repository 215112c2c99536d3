//! Why a migration did not end as wished, and what the process is doing now.

use crate::handover::Source;
use crate::image::Obstacle;
use crate::preload::PreloadError;
use crate::transport::{ConnectError, WireError};

/// A migration failed.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The target could not be reached, or the two do not trust each other.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Our own key.
    #[error(transparent)]
    Identity(#[from] crate::transport::identity::IdentityError),
    /// Preflight: what cannot be carried, or does not fit the target.
    #[error("{}", obstacles(.0))]
    Refused(Vec<Obstacle>),
    /// At the source.
    #[error(transparent)]
    Source(#[from] PreloadError),
    /// The connection broke.
    #[error("the connection to the target")]
    Wire(#[from] WireError),
    /// The target did not answer in time.
    #[error("the target did not answer for {seconds} s while {step}")]
    Silent {
        /// How long.
        seconds: u64,
        /// What was expected.
        step: &'static str,
    },
    /// At the target.
    #[error("the target failed: {0}")]
    Target(String),
    /// The target said something out of turn.
    #[error("the target sent {0} out of turn")]
    Nonsense(String),
    /// The user ended it.
    #[error("cancelled")]
    Cancelled,
    /// Our journal.
    #[error("writing the journal in {dir}")]
    Journal {
        /// Where.
        dir: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Nobody knows where the process runs.
    #[error(
        "the connection broke after the commit was sent: the copy here stays stopped until `ulpm recover --id {id}` has asked the target"
    )]
    Open {
        /// The migration.
        id: String,
    },
}

impl MigrateError {
    /// What an error before the commit point is to the state machine.
    pub fn event(&self) -> crate::handover::SourceEvent {
        use crate::handover::SourceEvent as E;
        match self {
            MigrateError::Target(_) => E::Failed,
            MigrateError::Wire(_) | MigrateError::Silent { .. } | MigrateError::Open { .. } => E::Lost,
            _ => E::Cancelled,
        }
    }

    /// For the journal in `dir`.
    pub fn journal(dir: &std::path::Path) -> impl FnOnce(std::io::Error) -> MigrateError {
        let dir = dir.display().to_string();
        move |source| MigrateError::Journal { dir, source }
    }
}

/// What the process is doing now, in words.
pub fn whereabouts(state: Source, pid: i32) -> String {
    match state {
        Source::Moving | Source::Resumed => format!("process {pid} runs on here"),
        Source::Done => "it runs at the target".to_owned(),
        Source::Committing | Source::Open => format!("process {pid} is stopped here"),
    }
}

fn obstacles(list: &[Obstacle]) -> String {
    let lines: Vec<String> = list.iter().map(|o| format!("\n  - {o}")).collect();
    format!("{} obstacle{} in the way:{}", list.len(), if list.len() == 1 { "" } else { "s" }, lines.concat())
}
