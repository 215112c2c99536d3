//! Why a migration did not end as wished, and what the process is doing now.

use crate::handover::Source;
use crate::image::Obstacle;
use crate::preload::PreloadError;
use crate::state::StateError;
use crate::sys::voice;
use crate::tracee::TraceeError;
use crate::tracee::thread::state_of;
use crate::transport::{ConnectError, RemoteAddrError, WireError};

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
    Source(PreloadError),
    /// Something that this side needs for itself.
    #[error("{step}")]
    Here {
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A journal from which nobody can tell where the process was to go.
    #[error("the journal of the migration names no target")]
    Address(#[from] RemoteAddrError),
    /// The connection broke.
    #[error("the connection to the target broke")]
    Wire(#[from] WireError),
    /// The two do not speak the same language.
    #[error("the target cannot be talked to: {0}; install the same version of ulpm on both hosts")]
    Version(String),
    /// The target did not answer in time.
    #[error("the target did not answer within {seconds} s ({step})")]
    Silent {
        /// How long.
        seconds: u64,
        /// What was expected.
        step: &'static str,
    },
    /// The target has given up listening.
    #[error(
        "the target heard nothing from this host for {seconds} s ({step}): packets are lost on the way there, or this host \
         has no time for ulpm"
    )]
    Unheard {
        /// How long.
        seconds: u64,
        /// What was being done.
        step: &'static str,
    },
    /// Nothing at all came from the target while the process was frozen.
    #[error("no sign of life from the target for {ms} ms while the process was frozen ({step})")]
    NoSignOfLife {
        /// How long.
        ms: u128,
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
    /// The process writes faster than the link carries, or what was asked for is out of reach.
    #[error("given up (--on-divergence abort): {0}")]
    Diverged(String),
    /// The process came to its own end, or was killed.
    #[error("process {pid} ended by itself, or was killed, before it could be moved")]
    Ended {
        /// The process.
        pid: i32,
        /// How that was noticed; nothing for the user.
        noticed: Box<MigrateError>,
    },
    /// Somebody stopped it, or let it go on, just then.
    #[error(
        "somebody stopped process {pid} (SIGSTOP, Ctrl-Z), or let it go on, while it was about to be moved; try again when it runs"
    )]
    Stopped {
        /// The process.
        pid: i32,
        /// How that was noticed; nothing for the user.
        noticed: Box<MigrateError>,
    },
    /// What had not been sent of the memory of a process that runs at the target is lost.
    #[error("{0}: the process at the target cannot live without the rest of its memory and was ended there")]
    CopyLost(String),
    /// Our journal.
    #[error("the journal in {dir}")]
    Journal {
        /// Where.
        dir: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A record of a migration that cannot be read.
    #[error(
        "its record cannot be read; see whether the process runs at the target, then end the copy here \
         (kill -KILL) or let it go on (kill -CONT), and remove {}", path.display()
    )]
    Damaged {
        /// The record.
        path: std::path::PathBuf,
        /// What is wrong with it.
        source: std::io::Error,
    },
    /// Another ulpm is at work on this migration.
    #[error("`ulpm live` is still at work on it")]
    UnderWay,
    /// The target's host went down with the process.
    #[error(
        "it ran at the target and went down with that host; the copy here stays stopped, as it was at the hand-over: \
         `ulpm recover --force-source {id}` lets it go on from there, `ulpm recover --force-target {id}` ends it"
    )]
    Down {
        /// The migration.
        id: String,
    },
    /// The process of a checkpoint has worked on.
    #[error(
        "somebody let process {pid} go on after {since}, when it had been stopped for the checkpoint in {dir}, which is whole: both \
         exist, and which of them counts is for you to decide: `ulpm recover --force-source {id}` (the process goes on; what is in \
         the directory is a copy of what it was then), or `ulpm recover --force-target {id}` (the process is ended, with all that \
         it did since)"
    )]
    Both {
        /// It.
        pid: i32,
        /// The hand-over.
        id: String,
        /// The checkpoint.
        dir: String,
        /// When it was stopped.
        since: String,
    },
    /// Nobody knows whether a checkpoint was whole.
    #[error(
        "neither the checkpoint {dir} nor what was written of it is there any more; what became of it only you can know: \
         `ulpm recover --force-source {id}` lets the process go on, `ulpm recover --force-target {id}` ends it"
    )]
    TakenAway {
        /// The hand-over.
        id: String,
        /// The checkpoint.
        dir: String,
    },
    /// The user wants what is not so.
    #[error(
        "{peer} answers that {}; nothing was done: run `ulpm recover` without force",
        if *runs { "it runs there" } else { "it never will run there" }
    )]
    Known {
        /// The target.
        peer: String,
        /// What it says.
        runs: bool,
    },
    /// The user wants a copy that there cannot be.
    #[error("the commit was never sent: there is no copy at the target, and the one here stays")]
    NeverSent,
    /// Nobody knows where the process runs.
    #[error(
        "the target is out of reach since the commit was sent, and nobody here knows whether the process runs \
         there; the copy here stays stopped: run `ulpm recover --id {id}` when the target can be reached again"
    )]
    Open {
        /// The migration.
        id: String,
    },
}

impl MigrateError {
    /// What an error before the commit point is to the state machine.
    pub(crate) fn event(&self) -> crate::handover::SourceEvent {
        use crate::handover::SourceEvent as E;
        match self {
            MigrateError::Target(_) | MigrateError::Version(_) => E::Failed,
            MigrateError::Wire(_)
            | MigrateError::Silent { .. }
            | MigrateError::NoSignOfLife { .. }
            | MigrateError::Unheard { .. }
            | MigrateError::Down { .. }
            | MigrateError::Open { .. } => E::Lost,
            _ => E::Cancelled,
        }
    }

    /// Whether the process that was named is not there, or is no process.
    fn is_about_nobody(&self) -> bool {
        use PreloadError as P;
        matches!(
            self,
            MigrateError::Ended { .. }
                | MigrateError::Source(P::NoSuchProcess(_) | P::NotAProcess(..) | P::Ended(_))
        )
    }

    /// The same error, if the process here is gone although nobody has ended it for us.
    pub(super) fn of_ended(self, state: Source, pid: i32) -> Self {
        let ours = matches!(state, Source::Moving | Source::Resumed);
        match self {
            refused @ MigrateError::Refused(_) => refused,
            error if !ours || error.is_about_nobody() => error,
            error => MigrateError::Ended { pid, noticed: Box::new(error) },
        }
    }

    /// The same error in plain words, if job control came in between.
    pub(super) fn of_stopped(self, pid: i32) -> Self {
        if self.is_job_control() { MigrateError::Stopped { pid, noticed: Box::new(self) } } else { self }
    }

    pub(super) fn is_job_control(&self) -> bool {
        match self {
            MigrateError::Source(PreloadError::Tracee(e) | PreloadError::State(StateError::Tracee(e))) => {
                e.is_job_control()
            }
            _ => false,
        }
    }

    /// A point at which a fault may be asked for.
    pub(super) fn point(at: crate::fault::Point) -> Result<(), MigrateError> {
        use std::io::ErrorKind as K;
        crate::fault::point(at).map_err(|source| match source.kind() {
            K::ConnectionReset => MigrateError::Silent { seconds: 0, step: "cut by a fault" },
            _ => MigrateError::Here { step: "a fault was asked for", source },
        })
    }

    /// For the journal in `dir`.
    pub(crate) fn journal(dir: &std::path::Path) -> impl FnOnce(std::io::Error) -> MigrateError {
        let dir = dir.display().to_string();
        move |source| MigrateError::Journal { dir, source }
    }
}

impl From<PreloadError> for MigrateError {
    /// What the agent found at its door, and what its sink (us) told it, come out as what they are.
    fn from(error: PreloadError) -> Self {
        match error {
            PreloadError::Unfit(obstacle) => MigrateError::Refused(vec![obstacle]),
            PreloadError::Sink(inner) => match inner.downcast::<MigrateError>() {
                Ok(ours) => *ours,
                Err(inner) => MigrateError::Source(PreloadError::Sink(inner)),
            },
            other => MigrateError::Source(of_exec(other)),
        }
    }
}

/// Its memory was exchanged while it was looked at: what `/proc/PID/maps` said of the vDSO is of the program before.
fn of_exec(error: PreloadError) -> PreloadError {
    const STEP: &str = "reading the vDSO";
    let gone = |e: &std::io::Error| matches!(e.raw_os_error(), Some(libc::EFAULT | libc::EIO));
    match error {
        PreloadError::State(StateError::Io { pid, step, source }) if step == STEP && gone(&source) => {
            PreloadError::Exec(pid)
        }
        PreloadError::Tracee(TraceeError::Memory { pid, step: STEP, source, .. }) if gone(&source) => {
            PreloadError::Exec(pid)
        }
        other => other,
    }
}

/// What the user is told of where the process is now; `None` where the error says it all.
///
/// `touched`: the migration went further than looking.
pub(crate) fn whereabouts(error: &MigrateError, state: Source, touched: bool, pid: i32) -> Option<String> {
    let says_it = |e: &MigrateError| {
        matches!(
            e,
            MigrateError::Refused(_)
                | MigrateError::Open { .. }
                | MigrateError::Down { .. }
                | MigrateError::CopyLost(_)
        )
    };
    if error.is_about_nobody() || says_it(error) {
        return None;
    }
    Some(match state {
        Source::Moving | Source::Resumed if touched && state_of(voice::of(pid)) == 'T' => {
            format!(
                "process {pid} stays here, and is stopped by job control (`kill -CONT {pid}` lets it go on)"
            )
        }
        Source::Moving | Source::Resumed if touched => format!("process {pid} runs on here"),
        Source::Moving | Source::Resumed => format!("process {pid} was not touched"),
        Source::Following | Source::Done => {
            "the process runs at the target; `ulpm recover` clears up here".to_owned()
        }
        Source::Committing | Source::Open => {
            format!("process {pid} is stopped here until `ulpm recover` has asked the target")
        }
    })
}

fn obstacles(list: &[Obstacle]) -> String {
    let lines: Vec<String> = list.iter().map(|o| format!("\n  - {o}")).collect();
    format!("{}:{}", refusal(list.len()), lines.concat())
}

/// What a refusal begins with.
pub(crate) fn refusal(obstacles: usize) -> String {
    let many = if obstacles == 1 { "" } else { "s" };
    format!("refused, nothing was touched; {obstacles} obstacle{many} in the way")
}
