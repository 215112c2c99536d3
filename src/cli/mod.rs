//! The command line: one file per subcommand; text, progress, exit codes.
//!
//! Results go to stdout by [`say`] and [`say_json`], everything else to stderr: all of it by `output.rs`. A subcommand returns an [`Exit`], or a
//! [`Failure`] that carries one; `main` prints the failure's chain of causes once.

mod abilities;
pub mod check;
pub mod control;
pub mod demo;
mod ending;
pub mod home;
pub mod limits;
pub mod live;
mod output;
pub mod process;
pub mod profile;
mod progress;
pub mod recover;
pub mod serve;
pub mod trust;
mod worker;

use std::process::{ExitCode, Termination};

use clap::{ArgAction, Parser, Subcommand};

use crate::fault::{self, Fault};

pub use output::{complain, say, say_json, start_log, tell};

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

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, nothing was touched (or the process ended by itself); 2 wrong usage; 3 refused by preflight;
4 aborted, the process runs on at the source; 5 the outcome is open, `ulpm recover` settles it;
6 lost: the copy at the source was ended before all memory had followed (lazy moves), and the process with it.";

/// How a command ended, as scripts see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All was done.
    Done = 0,
    /// It failed, and nothing was touched.
    Failed = 1,
    /// What was typed makes no sense.
    Usage = 2,
    /// Preflight found obstacles; nothing was touched.
    Refused = 3,
    /// Given up; the process runs on at the source.
    Aborted = 4,
    /// Nobody knows where the process runs until `ulpm recover` has settled it.
    Open = 5,
    /// The process is gone: what it still needed of the copy at the source was lost (lazy moves).
    Lost = 6,
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self as u8)
    }
}

/// Why a command did not end well, and what the shell is told.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What went wrong, with its causes.
    pub error: anyhow::Error,
    /// A result that says so is on stdout already.
    told: bool,
}

impl Failure {
    /// `error`, and the exit code that it calls for.
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into(), told: false }
    }

    /// What was typed turned out to be wrong after it was parsed.
    pub fn usage(error: impl Into<anyhow::Error>) -> Self {
        Self::new(Exit::Usage, error)
    }

    /// The same, of which a result on stdout says all.
    fn told(self) -> Self {
        Self { told: true, ..self }
    }
}

/// An error that says nothing else left everything untouched.
impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(Exit::Failed, error)
    }
}

/// How much is said besides the result.
#[derive(Debug, Clone, Copy)]
pub struct Verbosity {
    /// Nothing but errors.
    pub quiet: bool,
    /// Lists leave nothing out.
    pub in_full: bool,
}

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
