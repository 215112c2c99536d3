//! `ulpm live`: moves a process.
//!
//! Two processes: the one that the user started, and a worker that does the work in a session of its own. A
//! terminal's Ctrl-C, or `kill -9`, hits the first; the worker hears of it through a pipe, puts the source
//! process back as it was, and ends. Nothing that is done to a tracee half-way may be left to chance.

use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::choices::Manner;
use super::control::Socket;
use super::home::Home;
use super::limits::LimitArgs;
use super::process::{Named, Subject, Target};
use super::progress::Display;
use super::worker::{self, Wish};
use super::{Exit, Failure, Verbosity, ending, say, say_json, tell};
use crate::precopy::control::rounds;
use crate::precopy::options::LazyOptions;
use crate::precopy::{Control, MigrateError, Migration, Options, Progress};
use crate::report::{MigrationReport, Outcome, Span, outcome_word, render};

/// Arguments of `ulpm live`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("`ulpm serve` must run on the target, and the two hosts must trust each other (`ulpm trust`).\n\
Ctrl-C ends a move (exit code 4); the process then goes on here as if nothing had been tried. After the commit it is too late:\n\
`live` says so, and that the process has moved (exit code 0). SIGUSR1 freezes it when the round under\n\
way is done, whatever is left. `ulpm control` does both, and more, with a move that was given a --control SOCKET.\n\
A link that is silent, one way or both, is given up by both sides within 10 s; within 1.5 s while the process is frozen.\n\n{}", super::EXIT_CODES))]
pub(crate) struct LiveArgs {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    manner: Manner,
    /// Compare every page at both ends while the process is frozen; lengthens the freeze
    #[arg(long)]
    verify: bool,
    /// Print the report as one JSON document
    #[arg(long)]
    json: bool,
    /// Listen at this unix socket for `ulpm control`
    #[arg(long, value_name = "SOCKET")]
    control: Option<PathBuf>,
    /// Wait while its memory of an earlier move has not all arrived here; else such a process is refused
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    lazy: LazyArgs,
}

/// The process first, its memory later.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "The process first, its memory later")]
pub(crate) struct LazyArgs {
    /// Freeze at once: memory follows the process while it runs there, what it waits for first
    #[arg(long)]
    lazy: bool,
    /// Freeze after that many rounds; what is left of its memory follows it
    #[arg(long, value_name = "ROUNDS", value_parser = rounds, conflicts_with = "lazy")]
    lazy_after: Option<usize>,
    /// How long the process may wait there for memory when this host cannot be reached, before it is given up
    #[arg(long, value_name = "TIME", default_value = "10min")]
    lazy_patience: Span,
    /// Free the memory here as it arrives there
    #[arg(long)]
    release_source: bool,
}

impl LazyArgs {
    fn options(&self) -> LazyOptions {
        LazyOptions {
            from_start: self.lazy,
            after: self.lazy_after,
            patience: self.lazy_patience.duration(),
            release: self.release_source,
        }
    }
}

/// Set in the worker's environment.
const WORKER: &str = "ULPM_LIVE_WORKER";

/// Runs the command, as the one that the user started or as its worker.
pub(crate) fn run(args: &LiveArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    let works = std::env::var_os(WORKER).is_some();
    let done = if works { work(args, verbosity) } else { supervise(args) };
    ending::document_as(done, args.json, |failure| unbegun(args, failure))
}

/// The report of a move that did not come so far as to have one.
fn unbegun(args: &LiveArgs, failure: &Failure) -> MigrationReport {
    let pid = match args.subject.named() {
        Some(Named::Pid(pid)) => *pid,
        _ => 0,
    };
    MigrationReport {
        outcome: ending::outcome(failure.exit),
        pid,
        target: args.target.named().map(ToString::to_string).unwrap_or_default(),
        error: Some(ending::error(failure)),
        ..MigrationReport::default()
    }
}

/// Starts the worker and passes the user's wishes on.
fn supervise(args: &LiveArgs) -> Result<Exit, Failure> {
    let worked = worker::supervise(WORKER, CANCEL, Some(FREEZE))?;
    let status = worked.status;
    Ok(match status.code() {
        Some(0) => {
            if worked.to_end {
                let there = args.target.named().map(|host| format!(" at {host}")).unwrap_or_default();
                tell(&format!("too late to end the migration: the process has moved, and lives{there}"));
            }
            Exit::Done
        }
        Some(1) => Exit::Failed,
        Some(2) => Exit::Usage,
        Some(3) => Exit::Refused,
        Some(4) => Exit::Aborted,
        Some(5) => Exit::Open,
        Some(6) => Exit::Lost,
        _ => {
            let error = anyhow::anyhow!(
                "the worker ended by itself ({status}); look after the process, and run `ulpm recover`"
            );
            return Err(Failure::new(Exit::Open, error));
        }
    })
}

const CANCEL: Wish = ("cancel", "ending the migration");
const FREEZE: Wish = ("freeze", "freezing when the round under way is done");

/// Hears from the one that the user started; its end is a wish to end, too.
fn listen(control: Control) {
    std::thread::spawn(move || {
        let mut lines = BufReader::new(io::stdin()).lines();
        while let Some(Ok(line)) = lines.next() {
            if line == FREEZE.0 {
                control.freeze_now();
            } else {
                break;
            }
        }
        control.cancel().cancel();
    });
}

/// The signal may hit the worker itself (`pkill -USR1 ulpm`), which it must not end.
fn heed_signal(control: Control) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut freeze = runtime.block_on(async { signal(SignalKind::user_defined1()) })?;
    std::thread::spawn(move || {
        while runtime.block_on(freeze.recv()).is_some() {
            control.freeze_now();
        }
    });
    Ok(())
}

fn work(args: &LiveArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    let home = Home::open()?;
    let options = options(args, &home)?;
    let control = Control::new(args.limits.limits());
    let lazy = args.lazy.lazy || args.lazy.lazy_after.is_some();
    let control = if lazy { control.lazily() } else { control };
    heed_signal(control.clone())?;
    listen(control.clone());
    let _socket = args.control.as_deref().map(|path| Socket::listen(path, control.clone())).transpose()?;
    let display = Display::new(verbosity);
    let show = |progress: Progress<'_>| display.show(&progress);
    let (report, error) = Migration::new(&options, &control, &show).run();
    let told = match args.json {
        true => say_json(&report),
        false if report.outcome == Outcome::Moved => say(&render(&report)),
        false => Ok(()),
    };
    // the exit code is about the process; nobody may take it for one that stayed because a disk was full
    if let Err(error) = told {
        let pid = report.target_pid.map(|pid| format!(", pid {pid} there")).unwrap_or_default();
        tell(&format!("{error:#}; outcome: {}{pid}", outcome_word(report.outcome)));
    }
    let Some(error) = error else { return Ok(Exit::Done) };
    let exit = exit_code(report.outcome);
    let failure = match error {
        refused @ MigrateError::Refused(_) => Failure::new(exit, refused),
        error => Failure::new(exit, anyhow::anyhow!(report.error.unwrap_or_else(|| error.to_string()))),
    };
    Err(failure.told())
}

fn options(args: &LiveArgs, home: &Home) -> Result<Options, Failure> {
    Ok(Options {
        pid: args.subject.required()?,
        to: Some(args.target.required()?.clone()),
        pid_mode: args.manner.pid_mode.into(),
        verify: args.verify,
        files: args.manner.descriptors.files(),
        home: home.path().to_owned(),
        connect_limit: args.manner.connect_limit(),
        tracker: args.manner.tracker.into(),
        lazy: args.lazy.options(),
        wait: args.wait,
        parent_knows: args.manner.parent_knows,
        leave_running: false,
    })
}

/// The documented exit code of a move that did not end well.
pub(crate) fn exit_code(outcome: Outcome) -> Exit {
    match outcome {
        Outcome::Failed => Exit::Failed,
        Outcome::Refused => Exit::Refused,
        Outcome::Aborted => Exit::Aborted,
        Outcome::Lost => Exit::Lost,
        Outcome::Usage => Exit::Usage,
        // moved, but not cleared up here: `ulpm recover` does the rest
        Outcome::Unknown | Outcome::Moved => Exit::Open,
    }
}
