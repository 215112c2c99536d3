//! `ulpm profile`: watches a process without moving it, and says what a move would be like.
//!
//! A worker does the watching: installing tracking makes a thread of the process execute calls of ours, and a `kill -9`
//! of what the user started must not hit that moment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::choices::Tracker;
use super::ending::{self, Ending};
use super::home::Home;
use super::process::Subject;
use super::worker::{Wishes, supervise};
use super::{Exit, Failure, say, say_json, tell};
use crate::precopy::held;
use crate::preload::claim::{self, Claim};
use crate::preload::{PreloadError, standing};
use crate::profile::outlook::{self, Beyond};
use crate::profile::{Plan, ProfileError, ProfileReport, choose, draw, render, watch};
use crate::report::{Rate, human_ms};
use crate::sys::voice;
use crate::tracee::TraceeError;
use crate::tracee::thread::state_of;

/// Arguments of `ulpm profile`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
The process runs on meanwhile; a thread of it is stopped for less than a millisecond to install tracking, and nothing is
left in it afterwards. It is also looked at without tracking for a while (a fifth of the time, at most 2 s) before and
after, to tell what tracking costs it. Ctrl-C ends early with a report of what was seen. How to read the report:
docs/profile.md.

Exit codes: 0 done, also if the process ended meanwhile; 1 failed: no such process, or it ended before anything was
seen; 2 wrong usage; 3 what it is, or your rights, rule it out.")]
pub(crate) struct ProfileArgs {
    #[command(flatten)]
    subject: Subject,
    /// For how long
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// How written pages are found
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Tracker::Auto)]
    tracker: Tracker,
    /// Predict for this bandwidth, too, e.g. 500Mbit (bits) or 60M (bytes) per second
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<Rate>,
    /// Print the report as one JSON document
    #[arg(long)]
    json: bool,
    /// Draw it, too: the dirty rate over time, the predicted freeze against bandwidth
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// Set in the worker's environment.
const WORKER: &str = "ULPM_PROFILE_WORKER";

/// Runs the command, as the one that the user started or as its worker.
pub(crate) fn run(args: &ProfileArgs, quiet: bool) -> Result<Exit, Failure> {
    let works = std::env::var_os(WORKER).is_some();
    ending::document(if works { work(args, quiet) } else { watched() }, args.json)
}

fn watched() -> Result<Exit, Failure> {
    let status = supervise(WORKER, ("end", "ending early"), None)?.status;
    Ok(match status.code() {
        Some(0) => Exit::Done,
        Some(2) => Exit::Usage,
        Some(3) => Exit::Refused,
        Some(_) => Exit::Failed,
        None => {
            return Err(
                anyhow::anyhow!("the worker ended by itself ({status}); look after the process").into()
            );
        }
    })
}

fn work(args: &ProfileArgs, quiet: bool) -> Result<Exit, Failure> {
    let wishes = Wishes::listen();
    if let Some(directory) = args.svg.as_ref().and_then(|file| file.parent())
        && !directory.as_os_str().is_empty()
        && !directory.is_dir()
    {
        return Err(anyhow::anyhow!("there is no directory {} to draw in", directory.display()).into());
    }
    let pid = args.subject.required()?;
    let _claim = Claim::take(pid);
    let home = Home::open()?;
    permitted(pid, home.path())?;
    let tracker = choose(pid, args.tracker.into()).map_err(|e| Failure::new(Exit::Refused, e))?;
    let plan = Plan::of(Duration::from_secs(args.seconds));
    if !quiet {
        let whole = plan.tracked + plan.untracked * 2;
        tell(&format!("watching process {pid} for {} …", human_ms(whole.as_secs_f64() * 1e3)));
    }
    let watched = watch(pid, tracker.kind, plan, home.path(), &|| wishes.end()).map_err(failure)?;
    if wishes.alone() {
        return Ok(Exit::Failed);
    }
    let (report, lines) =
        outlook::complete(&tracker, &watched, &Beyond { home: home.path(), bandwidth: args.bandwidth });
    // drawn first: the document is about that, too
    if let Some(file) = &args.svg {
        std::fs::write(file, draw(&report, &lines)?)
            .map_err(|e| anyhow::anyhow!("cannot write {}: {e}", file.display()))?;
        if !quiet {
            tell(&format!("drew {}", file.display()));
        }
    }
    let said = match args.json {
        true => say_json(&Document { report, ending: Ending::done() }),
        false => say(&render(&report)),
    };
    said.map_err(|e| Failure::from(e).told())?;
    Ok(Exit::Done)
}

/// The report, and how the command ended.
#[derive(Serialize)]
struct Document {
    #[serde(flatten)]
    report: ProfileReport,
    #[serde(flatten)]
    ending: Ending,
}

/// Whether it can be watched at all.
fn permitted(pid: i32, home: &Path) -> Result<(), Failure> {
    match standing::obstacles(pid) {
        Err(e @ PreloadError::Unfit(_)) => Err(Failure::new(Exit::Refused, e)),
        Err(e) => Err(e.into()),
        Ok(_) if state_of(voice::of(pid)) == 'T' => {
            if let Some(open) = held::obstacle(home, pid) {
                return Err(Failure::new(Exit::Refused, PreloadError::Unfit(open)));
            }
            let why = "it is stopped by job control, and so writes nothing: let it go on with `kill -CONT`";
            Err(Failure::new(Exit::Refused, anyhow::anyhow!("process {pid}: {why}")))
        }
        Ok(_) => match claim::obstacle(pid) {
            Some(other) => Err(Failure::new(Exit::Refused, PreloadError::Unfit(other))),
            None => Ok(()),
        },
    }
}

fn failure(e: ProfileError) -> Failure {
    let refused = matches!(
        e,
        ProfileError::Process(
            PreloadError::Unfit(_)
                | PreloadError::Tracee(TraceeError::AlreadyTraced { .. } | TraceeError::NotPermitted { .. })
        )
    );
    if refused { Failure::new(Exit::Refused, e) } else { e.into() }
}
