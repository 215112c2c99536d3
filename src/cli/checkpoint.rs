//! `ulpm checkpoint`: writes a process down.
//!
//! Two processes, as of `ulpm live` ([`super::worker`]): what has its hands on the process is not cut short.

use std::io::{self, BufRead as _, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::choices::Descriptors;
use super::home::Home;
use super::process::Subject;
use super::progress::Display;
use super::worker::{self, Wish};
use super::{Exit, Failure, Verbosity, live, say, tell};
use crate::checkpoint::save::{SaveError, Saved, save, settle};
use crate::convergence::policy::Limits;
use crate::dirty::Choice;
use crate::image::shown;
use crate::precopy::{Control, MigrateError, Options, Progress};
use crate::report::{MigrationReport, Outcome, Size, human_ms};
use crate::transport::protocol::PidChoice;

/// Arguments of `ulpm checkpoint`.
#[derive(Clone, Debug, Args)]
#[command(after_help = format!("All of the process that `ulpm live` would move is written into DIR: memory, threads, descriptors. Not the files that it has open\n\
or mapped: they must be there when it is restored, and those that it reads be the same. It holds whatever was in the memory: keys, passwords.\n\
The process ends here when the checkpoint is whole and on the disk, not before; whatever fails until then leaves it running, and nothing in DIR.\n\
Memory is written once while the process runs; then it is frozen until what it wrote meanwhile is written, too. With --pre-copy that is\n\
repeated, as in a move, until the freeze will be short. Ctrl-C ends it (exit code 4): the process goes on as if nothing had been tried.\n\n{}", super::EXIT_CODES))]
pub(crate) struct CheckpointArgs {
    #[command(flatten)]
    subject: Subject,
    /// Where it is written: a directory that does not exist yet
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Let the process go on here afterwards: what is in DIR is a copy
    #[arg(long)]
    leave_running: bool,
    /// Write memory in rounds while the process runs, until the freeze will be short
    #[arg(long)]
    pre_copy: bool,
    #[command(flatten)]
    descriptors: Descriptors,
    /// End it here although what started it (a supervisor, a unit of systemd) starts what was killed again: it has been told
    #[arg(long)]
    parent_knows: bool,
}

/// Set in the worker's environment.
const WORKER: &str = "ULPM_CHECKPOINT_WORKER";
const CANCEL: Wish = ("cancel", "ending the checkpoint");

/// Runs the command, as the one that the user started or as its worker.
pub(crate) fn run(args: &CheckpointArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    if std::env::var_os(WORKER).is_some() { work(args, verbosity) } else { supervise(args) }
}

fn supervise(args: &CheckpointArgs) -> Result<Exit, Failure> {
    let worked = worker::supervise(WORKER, CANCEL, None)?;
    Ok(match worked.status.code() {
        Some(0) if worked.to_end && !args.leave_running => {
            tell(&format!("too late to end it: the process is in {}", args.dir.display()));
            Exit::Done
        }
        Some(0) => Exit::Done,
        Some(1) => Exit::Failed,
        Some(2) => Exit::Usage,
        Some(3) => Exit::Refused,
        Some(4) => Exit::Aborted,
        Some(5) => Exit::Open,
        _ => return settle_left(args, &worked.status.to_string()),
    })
}

/// The worker was killed: what it has left is settled at once.
fn settle_left(args: &CheckpointArgs, status: &str) -> Result<Exit, Failure> {
    let home = Home::open()?;
    let display = Display::new(Verbosity::default());
    tell(&format!("the worker ended by itself ({status}); settling what it has left"));
    let mut exit = Exit::Aborted;
    for one in settle(home.path(), &args.dir, &|progress| display.show(&progress))? {
        let text = match one.outcome {
            Ok(text) => text,
            Err(e) => {
                exit = Exit::Open;
                format!("still open: {}", crate::sys::chain(&e))
            }
        };
        tell(&format!("{}: {}", one.id, shown(&text)));
    }
    Ok(exit)
}

/// Hears from the one that the user started; its end is a wish to end, too.
fn listen(control: Control) {
    std::thread::spawn(move || {
        let _ = BufReader::new(io::stdin()).lines().next();
        control.cancel().cancel();
    });
}

fn work(args: &CheckpointArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    let home = Home::open()?;
    let options = Options {
        pid: args.subject.required()?,
        to: None,
        pid_mode: PidChoice::Auto,
        verify: false,
        files: args.descriptors.files(),
        home: home.path().to_owned(),
        connect_limit: Duration::ZERO,
        tracker: Choice::Auto,
        lazy: Default::default(),
        wait: false,
        parent_knows: args.parent_knows,
        leave_running: args.leave_running,
    };
    let control = Control::new(Limits::default());
    if !args.pre_copy {
        control.freeze_now();
    }
    listen(control.clone());
    let display = Display::new(verbosity);
    let show = |progress: Progress<'_>| display.show(&progress);
    let (report, saved) = save(&options, &args.dir, &control, &show);
    match saved {
        Ok(saved) => {
            told(&report, &saved, args.leave_running);
            Ok(Exit::Done)
        }
        Err(error) => Err(failure(&report, error)),
    }
}

/// The exit code is about the process: nobody may take it for one that was not written down because a disk was full.
fn told(report: &MigrationReport, saved: &Saved, left: bool) {
    let (pid, dir) = (report.pid, saved.dir.display());
    let what = if left { "goes on here" } else { "has ended here" };
    let (size, frozen) = (Size::bytes(saved.bytes), human_ms(report.freeze_ms));
    let text = format!("process {pid} is in {dir}: {size} of memory, frozen for {frozen}; it {what}\n");
    if let Err(error) = say(&text) {
        tell(&format!("{error:#}; process {pid} is in {dir}"));
    }
}

fn failure(report: &MigrationReport, error: SaveError) -> Failure {
    match error {
        SaveError::Checkpoint(error) => Failure::from(error),
        SaveError::Process(_, refused) if matches!(*refused, MigrateError::Refused(_)) => {
            Failure::new(Exit::Refused, *refused)
        }
        process @ SaveError::Process(..) => Failure::new(live::exit_code(report.outcome), process),
        open @ SaveError::Open { .. } => Failure::new(live::exit_code(Outcome::Unknown), open),
        left @ SaveError::Left(_) => Failure::new(Exit::Aborted, left),
    }
}
