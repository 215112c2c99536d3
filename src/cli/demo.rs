//! `ulpm demo`: two hosts on this machine, one workload moved between them, everything verified.
//!
//! Progress goes to stderr, the report to stdout. The hosts, the workload and all files are gone
//! afterwards, also after Ctrl-C. An ordinary user gets a user namespace of his own, where the kernel
//! allows it: so [`run`] must be called while the process has one thread only.

use std::io;
use std::path::PathBuf;
use std::thread;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{Exit, say, say_json};
use crate::demo::hosts;
use crate::demo::scene::{Scene, SceneError, SceneOptions, Watcher, WorkloadResult};
use crate::image::shown_lines;
use crate::report::{self, MigrationReport, Size};
use crate::sys::chain;

/// Moves a workload between two hosts made on this machine and verifies everything.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Memory the workload fills and checks.
    #[arg(long, value_name = "SIZE", default_value = "256M")]
    pub(crate) mem: Size,
    /// Pages of it rewritten per second, at random places.
    #[arg(long, value_name = "PAGES/S", default_value_t = 1000)]
    pub(crate) dirty_rate: u64,
    /// Threads that rewrite it (others keep files, pipes and timers busy).
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Times it is moved: there, back, there again …
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) moves: u32,
    /// Do not hash every page at both ends inside the freeze: shows the freeze of a plain move. The workload
    /// checks its memory all the same.
    #[arg(long)]
    pub(crate) no_verify: bool,
    /// Print the report as one JSON document (a list of reports if there are several moves).
    #[arg(long)]
    pub(crate) json: bool,
    /// Another build of ulpm to play it with.
    #[arg(long, value_name = "PATH", hide = true)]
    pub(crate) program: Option<PathBuf>,
    /// More arguments for `ulpm live`.
    #[arg(last = true, value_name = "LIVE ARGS")]
    pub(crate) live_args: Vec<String>,
}

/// Runs the demo. The process must have one thread only, and `hosts::init_if_asked` and the hidden
/// `__workload` must have been answered before.
pub(crate) fn run(args: DemoArgs) -> anyhow::Result<Exit> {
    let options = SceneOptions {
        mem: args.mem,
        dirty_rate: args.dirty_rate,
        threads: args.threads.into(),
        verify: !args.no_verify,
        live_args: args.live_args,
        program: args.program,
        ..SceneOptions::default()
    };
    let mut reports = vec![];
    let played = prepare().and_then(|watcher| play(&options, args.moves, &watcher, &mut reports));
    match played {
        Ok(result) => succeed(reports, &result, args.json),
        Err(error) => fail(reports, &error, args.json),
    }
}

/// Rights first, as they are given to a process of one thread only; then an ear for Ctrl-C.
fn prepare() -> Result<Watcher, SceneError> {
    hosts::become_able()?;
    let watcher = Watcher::new(|line| eprintln!("{}", shown_lines(line)));
    let own = |source| SceneError::Own { step: "listen for Ctrl-C", source };
    listen_for_signals(watcher.clone()).map_err(own)?;
    Ok(watcher)
}

/// Signals end the scene in good order; a second one ends this process at once (the hosts end with
/// it, some files may be left).
fn listen_for_signals(watcher: Watcher) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut int, mut term, mut hup) = {
        let _inside = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    let listen = move || {
        let mut next = || {
            runtime.block_on(async {
                tokio::select! { _ = int.recv() => {}, _ = term.recv() => {}, _ = hup.recv() => {} }
            });
        };
        next();
        watcher.stop();
        next();
        std::process::exit(i32::from(Exit::Failed as u8));
    };
    thread::Builder::new().name("signals".into()).spawn(listen).map(drop)
}

fn play(
    options: &SceneOptions,
    moves: u32,
    watcher: &Watcher,
    reports: &mut Vec<MigrationReport>,
) -> Result<WorkloadResult, SceneError> {
    let mut scene = Scene::set_up(options, watcher)?;
    scene.start_workload()?;
    for _ in 0..moves {
        reports.push(scene.move_workload()?);
    }
    scene.finish()
}

fn succeed(mut reports: Vec<MigrationReport>, result: &WorkloadResult, json: bool) -> anyhow::Result<Exit> {
    if !result.passed
        && let Some(last) = reports.last_mut()
    {
        last.error = Some(format!("the workload found errors: {}", wrong(result)));
    }
    if json {
        print_json(&reports)?;
    } else {
        let mut text: String = reports.iter().map(|report| report::render(report) + "\n").collect();
        text.push_str(&workload_text(result));
        say(&text)?;
    }
    Ok(if result.passed { Exit::Done } else { Exit::Failed })
}

fn fail(mut reports: Vec<MigrationReport>, error: &SceneError, json: bool) -> anyhow::Result<Exit> {
    let code = match error {
        SceneError::Move { code, .. } => exit_of(*code),
        _ => Exit::Failed,
    };
    if json {
        reports.push(report_of(error));
        print_json(&reports)?;
    } else {
        let mut text: String = reports.iter().map(|report| report::render(report) + "\n").collect();
        if let SceneError::Move { report: Some(report), .. } = error {
            text.push_str(&report::render(report));
        }
        say(&text)?;
    }
    eprintln!("ulpm demo: {}", shown_lines(&chain(error)));
    if let Some(advice) = error.advice() {
        eprintln!("  {advice}");
    }
    Ok(code)
}

/// What `ulpm live` reported, or, if it never came to that, a report of a move that was not tried.
fn report_of(error: &SceneError) -> MigrationReport {
    let told =
        chain(error).lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ");
    match error {
        SceneError::Move { report: Some(report), .. } => (**report).clone(),
        SceneError::Move { code, .. } if exit_of(*code) == Exit::Aborted => {
            MigrationReport::aborted(0, "", told)
        }
        // Moved or not: nobody reported it.
        SceneError::Move { .. } | SceneError::Workload { .. } => {
            MigrationReport { error: Some(told), ..MigrationReport::default() }
        }
        _ => MigrationReport::failed(0, "", told),
    }
}

fn exit_of(code: i32) -> Exit {
    [Exit::Usage, Exit::Refused, Exit::Aborted, Exit::Open, Exit::Lost]
        .into_iter()
        .find(|exit| i32::from(*exit as u8) == code)
        .unwrap_or(Exit::Failed)
}

fn workload_text(result: &WorkloadResult) -> String {
    let status = &result.status;
    let random = status.pages_checked - status.pages_checked_at_end;
    let verdict = if result.passed { "all right".to_owned() } else { format!("WRONG: {}", wrong(result)) };
    format!(
        "workload  {verdict}\n\
         \x20   memory   {} pages checked at the end, {random} at random meanwhile; {} rewritten\n\
         \x20   files    {} records appended and read back\n\
         \x20   pipes    {} hops of the token\n\
         \x20   timers   {} expirations, {} off the clock at most\n\
         \x20   clocks   {}; shifted by {:.3} ms against the wall clock\n",
        status.pages_checked_at_end,
        status.pages_written,
        status.file_records,
        status.token_hops,
        status.timer_ticks,
        report::human_ms(status.timer_drift_ms),
        if status.clock_backwards == 0 { "never ran backwards" } else { "RAN BACKWARDS" },
        status.clock_shift_ms,
    )
}

fn wrong(result: &WorkloadResult) -> String {
    let status = &result.status;
    let mut parts = status.first_errors.clone();
    if status.errors > parts.len() as u64 {
        parts.push(format!("{} more", status.errors - parts.len() as u64));
    }
    if !status.monotonic_consistent {
        parts.push(format!("its clocks shifted by {:.1} ms", status.clock_shift_ms));
    }
    if status.pages_checked_at_end != status.pages {
        parts.push(format!("{} of {} pages checked", status.pages_checked_at_end, status.pages));
    }
    parts.join("; ")
}

fn print_json(reports: &[MigrationReport]) -> anyhow::Result<()> {
    match reports {
        [report] => say_json(report),
        reports => say_json(&reports),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::demo::scene::Tail;
    use crate::demo::workload::Status;

    #[derive(Parser)]
    struct Alone {
        #[command(flatten)]
        demo: DemoArgs,
    }

    fn parsed(line: &str) -> Result<DemoArgs, clap::Error> {
        let words = std::iter::once("demo").chain(line.split_whitespace());
        Alone::try_parse_from(words).map(|alone| alone.demo)
    }

    #[test]
    fn arguments_have_the_promised_defaults() {
        let args = parsed("").unwrap();
        assert_eq!((args.mem, args.dirty_rate, args.threads, args.moves), (Size::mib(256), 1000, 4, 1));
        let args = parsed("--mem 1G --json --moves 3 -- --tcp close").unwrap();
        assert_eq!((args.mem, args.json, args.moves), (Size::mib(1024), true, 3));
        assert!(!args.no_verify && parsed("--no-verify").unwrap().no_verify);
        assert_eq!(args.live_args, ["--tcp", "close"]);
        for bad in ["--mem lots", "--threads 0", "--moves 0", "--dirty-rate -1"] {
            assert!(parsed(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exit_codes_of_live_are_passed_on() {
        assert_eq!(exit_of(3), Exit::Refused);
        assert_eq!(exit_of(4), Exit::Aborted);
        assert_eq!(exit_of(5), Exit::Open);
        assert_eq!(exit_of(101), Exit::Failed);
        let error =
            |code, report| SceneError::Move { code, report, live: Tail::default(), serve: Tail::default() };
        let reported = Box::new(MigrationReport::aborted(7, "b", "link cut"));
        assert_eq!(report_of(&error(4, Some(reported.clone()))), *reported);
        assert_eq!(report_of(&error(5, None)).outcome, report::Outcome::Unknown);
        assert_eq!(report_of(&SceneError::Interrupted).outcome, report::Outcome::Failed);
    }

    #[test]
    fn a_wrong_workload_says_what_is_wrong() {
        let status =
            Status { errors: 3, first_errors: vec!["page 1 is not …".into()], ..Status::default() };
        let result = WorkloadResult { passed: false, status };
        let text = workload_text(&result);
        assert!(text.starts_with("workload  WRONG: page 1 is not …; 2 more; its clocks shifted"), "{text}");
    }
}
