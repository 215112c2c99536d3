//! The command line: one file per subcommand; text, progress, exit codes.
//!
//! Results go to stdout by `say` and `say_json`, everything else to stderr: all of it by `output.rs`. A subcommand returns an [`Exit`], or a
//! [`Failure`] that carries one; `main` prints the failure's chain of causes once.

mod abilities;
pub(crate) mod check;
pub(crate) mod checkpoint;
mod choices;
pub(crate) mod control;
pub(crate) mod demo;
mod ending;
mod exit;
pub(crate) mod home;
pub(crate) mod inspect;
pub(crate) mod limits;
pub(crate) mod live;
mod output;
pub(crate) mod process;
pub(crate) mod profile;
mod progress;
pub(crate) mod recover;
pub(crate) mod restore;
pub(crate) mod serve;
pub(crate) mod trust;
mod worker;

use clap::{ArgAction, Parser, Subcommand};

use crate::fault::{self, Fault};

pub use exit::{Exit, Failure};
pub use output::{Verbosity, complain, start_log};
pub(crate) use output::{say, say_json, tell};

use exit::EXIT_CODES;

/// Moves a running, unmodified Linux process to another machine.
#[derive(Debug, Parser)]
#[command(name = "ulpm", version, about, after_help = format!("{BEGIN}\n\n{EXIT_CODES}"), disable_help_subcommand = true)]
pub struct Cli {
    /// Say more; repeat for still more
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Fail at a point, for trials: `POINT=KIND`, or `POINT=KIND:N` for the Nth time
    #[arg(long, global = true, hide = true, value_name = "FAULT")]
    fault: Option<Fault>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Receive processes
    Serve(serve::ServeArgs),
    /// Move a running process to another host
    Live(live::LiveArgs),
    /// Write a running process into a directory
    Checkpoint(checkpoint::CheckpointArgs),
    /// Make a process of what `ulpm checkpoint` has written
    Restore(restore::RestoreArgs),
    /// Say what is in a directory that `ulpm checkpoint` has written
    Inspect(inspect::InspectArgs),
    /// Ask a move under way how it stands; tell it to freeze, to end, or other limits
    Control(control::ControlArgs),
    /// Say what this host, a process and a target can do; every obstacle at once
    Check(check::CheckArgs),
    /// Watch a process without moving it: dirty rate, working set, what a move would be like
    Profile(profile::ProfileArgs),
    /// Show this host's identity; say which peers are let in
    Trust(trust::TrustArgs),
    /// Settle migrations whose outcome a crash or a cut left open
    Recover(recover::RecoverArgs),
    /// Make two hosts on this machine and move a workload between them, everything verified
    Demo(demo::DemoArgs),
}

const BEGIN: &str = "\
To begin: run `ulpm trust show` on both hosts, `ulpm trust add` with the other one's fingerprint (at the target with
`--users any`, if processes of root shall come), `ulpm serve` on the target, and here `ulpm check PID HOST`, then `ulpm live PID HOST`.

Keys, trusted hosts and journals are in $ULPM_HOME (default /var/lib/ulpm for root, else ~/.local/share/ulpm).";

impl Cli {
    /// What was asked for.
    pub fn verbosity(&self) -> Verbosity {
        Verbosity { quiet: self.quiet, in_full: self.verbose > 0 }
    }
}

/// Runs what was typed.
pub fn run(cli: &Cli) -> Result<Exit, Failure> {
    start_log(cli.verbose, cli.quiet, matches!(cli.command, Command::Serve(_)));
    if let Some(fault) = &cli.fault {
        fault::want(fault.clone());
    }
    match &cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Live(args) => live::run(args, cli.verbosity()),
        Command::Checkpoint(args) => checkpoint::run(args, cli.verbosity()),
        Command::Restore(args) => restore::run(args, cli.verbosity()),
        Command::Inspect(args) => inspect::run(args, cli.verbosity()),
        Command::Control(args) => control::run(args),
        Command::Check(args) => check::run(args, cli.verbosity().in_full),
        Command::Profile(args) => profile::run(args, cli.quiet),
        Command::Trust(args) => trust::run(args),
        Command::Recover(args) => recover::run(args),
        Command::Demo(args) => Ok(demo::run(args.clone())?),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn bad_fingerprints_are_usage_errors_that_say_what_is_expected() {
        let error = Cli::try_parse_from(["ulpm", "trust", "add", "MD5:aa"]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("expected SHA256: and 43 base64 characters"), "{error}");
        assert!(Cli::try_parse_from(["ulpm", "-v", "trust", "show", "-v"]).is_ok());
    }
}
