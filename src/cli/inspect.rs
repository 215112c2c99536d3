//! `ulpm inspect`: what a checkpoint holds.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;

use super::{Exit, Failure, Verbosity, say, say_json};
use crate::checkpoint::contents::Original;
use crate::checkpoint::core::write_core;
use crate::checkpoint::inspect::{Summary, inspect};
use crate::checkpoint::kept::Kept;
use crate::image::shown;
use crate::report::Size;
use crate::transport::permit::Moment;

/// Lines of a list, unless all are wanted.
const SOME: usize = 10;

/// Arguments of `ulpm inspect`.
#[derive(Clone, Debug, Args)]
#[command(after_help = super::EXIT_CODES)]
pub(crate) struct InspectArgs {
    /// The directory that `ulpm checkpoint` made
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Print it as one JSON document
    #[arg(long)]
    json: bool,
    /// Write an ELF core of the process into this file, which does not exist yet: gdb opens it
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    core: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(args: &InspectArgs, verbosity: Verbosity) -> Result<Exit, Failure> {
    if let Some(path) = &args.core {
        write_core(&Kept::open(&args.dir)?, path)?;
        return Ok(Exit::Done);
    }
    let summary = inspect(&args.dir)?;
    if args.json {
        say_json(&summary)?;
    } else {
        say(&text(&summary, verbosity.in_full))?;
    }
    Ok(Exit::Done)
}

fn text(summary: &Summary, in_full: bool) -> String {
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    let versions = &summary.versions;
    let (host, kernel) = (shown(&summary.host), shown(&summary.kernel));
    line(format!("checkpoint {}", shown(&summary.id)));
    line(format!(
        "  made      {} on {host} (Linux {kernel}) by ulpm {}",
        Moment(summary.made_s),
        shown(&versions.program)
    ));
    line(format!(
        "  versions  format {}, image {}, protocol {}",
        versions.format, versions.image, versions.protocol
    ));
    line(format!(
        "  size      {} with {} of pages; {} were in RAM",
        Size::bytes(summary.bytes),
        Size::bytes(summary.memory_bytes),
        Size::bytes(summary.resident_bytes)
    ));
    line(format!("  original  {}", original(summary)));
    for process in &summary.processes {
        line(format!("process {} ({}), {}", process.pid, process.name, process.program));
        let mut list = |what: &str, items: Vec<String>| {
            line(format!("  {what}: {}", items.len()));
            let most = if in_full { items.len() } else { SOME };
            items.iter().take(most).for_each(|item| line(format!("    {item}")));
            if items.len() > most {
                line(format!("    … and {} more (-v)", items.len() - most));
            }
        };
        list("threads", process.threads.iter().map(|(tid, name)| format!("{tid} {name}")).collect());
        list("descriptors", process.descriptors.iter().map(|(fd, link)| format!("{fd} {link}")).collect());
        list("mapped files", process.mapped_files.clone());
        line(format!("  mappings: {}", process.mappings));
    }
    text
}

/// What has become of the process that was there before.
fn original(summary: &Summary) -> String {
    let pid = summary.original_pid;
    match summary.original {
        Original::WentOn => "went on where it was".to_owned(),
        Original::Ended => "has ended".to_owned(),
        Original::Stopped => format!(
            "is still here, stopped (process {pid}); `ulpm recover` settles that if a hand-over is open"
        ),
        Original::Runs => format!("runs here (process {pid})"),
        Original::NotHere => "was not left running; this host, as it was booted, never had it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates() {
        assert_eq!(Moment(0).to_string(), "1970-01-01 00:00:00 UTC");
        assert_eq!(Moment(1_795_827_855).to_string(), "2026-11-28 01:04:15 UTC");
    }
}
