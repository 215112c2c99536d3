//! Choices that several subcommands offer, as they are typed.

use clap::ValueEnum;

use crate::dirty::{Choice, Kind};
use crate::transport::protocol::PidChoice;

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
