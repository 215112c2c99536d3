//! `ulpm restore`: makes a process of a checkpoint.
//!
//! No worker is needed: until the process is let go it dies with whoever builds it, and nobody else has one.

use std::path::PathBuf;

use clap::Args;

use super::choices::PidMode;
use super::home::Home;
use super::progress::Display;
use super::{Exit, Failure, Verbosity, say};
use crate::checkpoint::CheckpointError;
use crate::checkpoint::restore::{Restoration, restore};
use crate::image::shown;
use crate::precopy::{MigrateError, Progress};

/// Arguments of `ulpm restore`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("Needs root, or CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE. The process runs when this has ended, as a child of init.\n\
What stands in its way is said all at once, and nothing is begun then (exit code 3): its pid is taken (--pid-mode same), files\n\
that it has open or mapped are missing, changed or others, a CPU or a kernel does not fit, the checkpoint is damaged (exit code 1).\n\
A checkpoint can be restored as often as wanted, each time from where it was made; what the process did since then with files and\n\
with others is not undone.\n\n{}", super::EXIT_CODES))]
pub(crate) struct RestoreArgs {
    /// The directory that `ulpm checkpoint` made
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How its pid is kept
    #[arg(long, value_enum, value_name = "MODE", default_value_t = PidMode::Auto)]
    pid_mode: PidMode,
}

/// Runs the command.
pub(crate) fn run(args: &RestoreArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    let home = Home::open()?;
    // as `ulpm serve` does: the preflight of a target insists that it can be written
    home.subdirectory("journal")?;
    let display = Display::new(verbosity);
    let show = |progress: Progress<'_>| display.show(&progress);
    let wish = Restoration { dir: &args.dir, pid_mode: args.pid_mode.into(), home: home.path() };
    let restored = restore(wish, &show).map_err(|error| match error {
        CheckpointError::Refused(obstacles) => Failure::new(Exit::Refused, MigrateError::Refused(obstacles)),
        other => Failure::from(other),
    })?;
    let own = match restored.namespace {
        true => format!(", and knows itself as {} in a pid namespace of its own", restored.own_pid),
        false => String::new(),
    };
    let why = restored.taken.map(|taken| format!("; {}", shown(&taken))).unwrap_or_default();
    say(&format!("process {} runs here{own}{why}\n", restored.pid))?;
    Ok(Exit::Done)
}
