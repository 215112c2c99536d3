//! `ulpm check`: what this host, a process and a target can do; every obstacle at once.

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use super::abilities::{self, Ability, Needed, Tracking};
use super::choices::Manner;
use super::ending::{self, Ending};
use super::home::Home;
use super::process::{Subject, Target};
use super::{Exit, Failure, say, say_json};
use crate::convergence::policy::Limits;
use crate::image::{Note, Obstacle, shown};
use crate::precopy::options::LazyOptions;
use crate::precopy::{self, Control, MigrateError, Migration, Options};
use crate::report::{Schema, listed, outcome_word};
use crate::sys::chain;
use crate::sys::kernel::{Capability, Kernel};
use crate::transport::RemoteAddr;

/// Arguments of `ulpm check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Stops and changes nothing. Exit codes: 0 nothing is in the way; 1 no such process, or the target cannot be
asked; 2 wrong usage; 3 something is in the way (all of it is listed)."
)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    subject: Subject,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    manner: Manner,
    /// Ask the target whether memory may come after the process
    #[arg(long)]
    lazy: bool,
    /// Print the findings as one JSON document
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Findings {
    host: Vec<Ability>,
    trackers: Vec<Tracking>,
    kernel: Vec<Capability>,
    pid: Option<i32>,
    target: Option<String>,
    obstacles: Vec<Obstacle>,
    notes: Vec<Note>,
    outcome: &'static str,
    error: Option<String>,
    schema: Schema,
}

/// Prints what is found; exit code 3 if something stands in the way.
pub(crate) fn run(args: &CheckArgs, in_full: bool) -> Result<Exit, Failure> {
    ending::document(find(args, in_full), args.json)
}

fn find(args: &CheckArgs, in_full: bool) -> Result<Exit, Failure> {
    let (pid, to) = (args.subject.find()?, args.target.named());
    let usage = |what: &'static str| Err(Failure::usage(anyhow::anyhow!(what)));
    match (pid, to) {
        (None, Some(_)) => return usage("which process would go there? name its pid (--pid)"),
        (_, None) if args.lazy => {
            return usage("which target would let its memory come later? name it (--to)");
        }
        _ => {}
    }
    let kernel = Kernel::here();
    let mut findings = Findings {
        host: abilities::here(kernel),
        trackers: abilities::trackers(kernel),
        kernel: kernel.lines(),
        pid,
        target: to.map(ToString::to_string),
        obstacles: Vec::new(),
        notes: Vec::new(),
        outcome: Ending::done().outcome,
        error: None,
        schema: Schema::default(),
    };
    let error = match pid {
        Some(pid) => look(args, pid, to, &mut findings)?.err(),
        None => None,
    };
    findings.error = error.as_ref().map(|e| chain(e));
    // of a process, what stands in its way decides; what this host could do besides is only told
    let clear = match pid {
        Some(_) => findings.obstacles.is_empty(),
        None => findings.host.iter().all(|ability| ability.there),
    };
    let exit = match (&error, clear) {
        (Some(_), _) => Exit::Failed,
        (None, false) => Exit::Refused,
        (None, true) => Exit::Done,
    };
    if exit != Exit::Done {
        findings.outcome = outcome_word(ending::outcome(exit));
    }
    let said = if args.json { say_json(&findings) } else { say(&text(&findings, in_full)) };
    said.map_err(|e| Failure::from(e).told())?;
    match error {
        Some(error) => Err(Failure::new(exit, error).told()),
        None => Ok(exit),
    }
}

/// What stands in the way of a process, here and at the target.
fn look(
    args: &CheckArgs,
    pid: i32,
    to: Option<&RemoteAddr>,
    findings: &mut Findings,
) -> Result<Result<(), MigrateError>, Failure> {
    let files = args.manner.descriptors.files();
    let home = Home::open()?;
    let mut checked = precopy::session::look(
        home.path(),
        pid,
        &files,
        args.manner.tracker.into(),
        Some(args.manner.parent_knows),
    )
    .map(|described| {
        findings.notes = described.notes;
        findings.obstacles = described.obstacles;
    });
    if let (Ok(()), Some(to)) = (&checked, to) {
        let options = Options {
            pid,
            to: Some(to.clone()),
            pid_mode: args.manner.pid_mode.into(),
            verify: false,
            files,
            home: home.path().to_owned(),
            connect_limit: args.manner.connect_limit(),
            tracker: args.manner.tracker.into(),
            lazy: LazyOptions { from_start: args.lazy, ..LazyOptions::default() },
            wait: false,
            parent_knows: args.manner.parent_knows,
            leave_running: false,
        };
        let control = Control::new(Limits::default());
        let control = if args.lazy { control.lazily() } else { control };
        (findings.notes, checked) = Migration::check(&options, &control);
    }
    Ok(match checked {
        Err(MigrateError::Refused(all)) => {
            findings.obstacles = all;
            Ok(())
        }
        other => other,
    })
}

fn text(findings: &Findings, in_full: bool) -> String {
    let mut out = String::new();
    for (title, needed) in [("to send", Needed::Send), ("to receive", Needed::Receive)] {
        let _ = writeln!(out, "this host, {title} processes:");
        for a in findings.host.iter().filter(|a| a.needed_to == needed) {
            let _ = writeln!(out, "  {} {}{}", if a.there { "yes" } else { "NO " }, a.name, reason(&a.why));
        }
    }
    let _ = writeln!(out, "written pages are found by:");
    for t in &findings.trackers {
        let _ = writeln!(out, "  {} {}{}", if t.there { "yes" } else { "no " }, t.name, reason(&t.why));
    }
    out.push_str(&of_kernel(&findings.kernel));
    if let Some(pid) = findings.pid.filter(|_| findings.error.is_none()) {
        let whither = findings.target.as_ref().map(|t| format!(" to {t}")).unwrap_or_default();
        if findings.obstacles.is_empty() {
            let _ = writeln!(out, "process {pid} can be moved{whither}");
        } else {
            let _ = writeln!(out, "process {pid} cannot be moved{whither}:");
        }
        for line in listed::obstacles(&findings.obstacles, in_full) {
            let _ = writeln!(out, "  - {line}");
        }
        for line in listed::notes(&findings.notes, in_full) {
            let _ = writeln!(out, "  note: {line}");
        }
    }
    out
}

/// What the kernel has and what it lacks, a line each.
fn of_kernel(all: &[Capability]) -> String {
    let names = |there: bool| all.iter().filter(move |c| c.there == there);
    let has: Vec<&str> = names(true).map(|c| c.name).collect();
    let lacks: Vec<String> = names(false).map(|c| format!("{} ({})", c.name, c.since)).collect();
    let mut out = format!("this kernel has: {}\n", has.join(", "));
    if !lacks.is_empty() {
        let _ = writeln!(out, "this kernel lacks: {}", lacks.join(", "));
    }
    out
}

fn reason(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {}", shown(why)) }
}
