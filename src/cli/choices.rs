//! Choices that several subcommands offer, as they are typed.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::dirty::{Choice, Kind};
use crate::state::files::FilesOptions;
use crate::transport::protocol::PidChoice;

/// What becomes of descriptors that lead to somebody else.
#[derive(Clone, Debug, Args)]
pub(crate) struct Descriptors {
    /// What becomes of established TCP connections
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Tcp::Refuse)]
    tcp: Tcp,
    /// What becomes of open files that another process, which stays, shares
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Shared::Refuse)]
    shared: Shared,
}

impl Descriptors {
    /// As preflight and capture take it.
    pub(crate) fn files(&self) -> FilesOptions {
        FilesOptions { tcp_close: self.tcp == Tcp::Close, shared_split: self.shared == Shared::Split }
    }
}

/// How a process is to be moved: what `live` does, and `check` judges by.
#[derive(Clone, Debug, Args)]
pub(crate) struct Manner {
    /// How its pid is kept
    #[arg(long, value_enum, value_name = "MODE", default_value_t = PidMode::Auto)]
    pub(crate) pid_mode: PidMode,
    #[command(flatten)]
    pub(crate) descriptors: Descriptors,
    /// How written pages are found
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Tracker::Auto)]
    pub(crate) tracker: Tracker,
    /// Time limit for reaching the target, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    connect_timeout: u64,
    /// Go although what started it (a supervisor, a unit of systemd) starts what was killed again: it has been told
    #[arg(long)]
    pub(crate) parent_knows: bool,
}

impl Manner {
    /// Time in which the target must answer.
    pub(crate) fn connect_limit(&self) -> Duration {
        Duration::from_secs(self.connect_timeout)
    }
}

/// How the pid is kept.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum PidMode {
    /// The same pid if it is free at the target, else a pid namespace of its own
    Auto,
    /// The same pid, or none
    Same,
    /// A pid namespace of its own
    Namespace,
}

impl From<PidMode> for PidChoice {
    fn from(mode: PidMode) -> Self {
        match mode {
            PidMode::Auto => PidChoice::Auto,
            PidMode::Same => PidChoice::Same,
            PidMode::Namespace => PidChoice::Namespace,
        }
    }
}

/// What becomes of established TCP connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tcp {
    /// A process that has any is refused
    Refuse,
    /// The process finds them reset by their peers; the peers see them closed
    Close,
}

/// What becomes of open files that another process, which stays, shares: position, flags, owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shared {
    /// A process that has any is refused
    Refuse,
    /// The two have a position of their own from the move on
    Split,
}

/// How written pages are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tracker {
    /// The best that works here
    Auto,
    /// Write-protect scans (Linux 6.7)
    WpScan,
    /// Soft-dirty bits (kernels with CONFIG_MEM_SOFT_DIRTY; needs CAP_SYS_ADMIN)
    SoftDirty,
    /// No tracking: the contents of all pages are compared in each round
    Checksum,
}

impl From<Tracker> for Choice {
    fn from(tracker: Tracker) -> Self {
        match tracker {
            Tracker::Auto => Choice::Auto,
            Tracker::WpScan => Choice::Forced(Kind::WpScan),
            Tracker::SoftDirty => Choice::Forced(Kind::SoftDirty),
            Tracker::Checksum => Choice::Forced(Kind::Checksum),
        }
    }
}
