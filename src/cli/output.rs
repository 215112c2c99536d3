//! All that the command says, to people and to programs: the one place that writes to the terminal.
//!
//! Texts hold names of files and processes, which are not ours: a terminal gets them with whatever it would obey made
//! visible ([`shown`]), so that no name can paint over our lines, or add one. JSON has escapes of its own.

use std::io::{self, IsTerminal as _, Write as _};

use anyhow::Context as _;
use serde::Serialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::exit::Failure;
use crate::image::shown::{is_unseen, shown, shown_lines};
use crate::precopy::MigrateError;
use crate::report::listed;

/// How much is said besides the result.
#[derive(Debug, Default, Clone, Copy)]
pub struct Verbosity {
    /// Nothing but errors.
    pub quiet: bool,
    /// Lists leave nothing out.
    pub in_full: bool,
}

/// Writes a result to stdout. A reader that has had enough (`ulpm … | head`) is no error.
pub(crate) fn say(text: &str) -> anyhow::Result<()> {
    write_out(&shown_lines(text))
}

/// Writes a result to stdout as one JSON document.
pub(crate) fn say_json(result: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(result).context("cannot write the report as JSON")?;
    write_out(&(harmless_json(&text) + "\n"))
}

/// A line to stderr.
pub(crate) fn tell(text: &str) {
    // if even stderr is gone, the exit code still tells
    let _ = writeln!(io::stderr(), "ulpm: {}", shown(text));
}

/// Why a command did not end well: the error with its causes in one line, each obstacle in one of its own.
pub fn complain(failure: &Failure, in_full: bool) {
    let text = match failure.error.downcast_ref::<MigrateError>() {
        Some(MigrateError::Refused(all)) => {
            let lines: String =
                listed::obstacles(all, in_full).iter().map(|line| format!("\n  - {line}")).collect();
            format!("{}:{lines}", crate::precopy::error::refusal(all.len()))
        }
        _ => shown(&format!("{:#}", failure.error)).into_owned(),
    };
    let _ = writeln!(io::stderr(), "ulpm: error: {text}");
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write to stdout"),
    }
}

/// A document may be looked at on a terminal, too. What is escaped here can stand in its texts only.
fn harmless_json(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c != '\n' && is_unseen(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out
}

/// Sends what the library traces to stderr. `ULPM_LOG` overrides the options, in the syntax of
/// tracing's `EnvFilter`. `serves`: for a long time, and with the time of each line.
pub fn start_log(verbose: u8, quiet: bool, serves: bool) {
    let default = match (quiet, verbose) {
        (true, _) => "error",
        (false, 0) => "warn,ulpm::arrivals=info",
        (false, 1) => "warn,ulpm=info",
        (false, 2) => "info,ulpm=debug",
        (false, _) => "debug,ulpm=trace",
    };
    let filter = EnvFilter::try_from_env("ULPM_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(OneLine)
        .with_ansi(io::stderr().is_terminal() && !no_color())
        .with_target(verbose > 1);
    // A second logger in one process (tests) is refused; the first one stays.
    let _ = if verbose > 1 || serves { log.try_init() } else { log.without_time().try_init() };
}

/// <https://no-color.org>: set to anything.
fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// Stderr, where each event is one line.
#[derive(Clone, Copy, Debug)]
struct OneLine;

impl<'a> MakeWriter<'a> for OneLine {
    type Writer = OneLine;

    fn make_writer(&'a self) -> OneLine {
        OneLine
    }
}

impl io::Write for OneLine {
    /// Called once for each event, with all of it. Colours are the log's own.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().write_all(one_line(&String::from_utf8_lossy(event)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// An event with the line break at its end and colours, and nothing else that a terminal obeys.
fn one_line(event: &str) -> String {
    let mut out = String::new();
    let mut parts = event.trim_end_matches('\n').split("\x1b[");
    out.push_str(&shown(parts.next().unwrap_or_default()));
    for part in parts {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(part.len());
        let colour = part[digits..].starts_with('m');
        out.push_str(if colour { "\x1b[" } else { "\\x1b[" });
        out.push_str(&shown(part));
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_stays_json() {
        let name = "a\u{9b}1A\x7f\u{202e}\u{e0001}\nb";
        let text = harmless_json(&serde_json::to_string_pretty(&[name]).unwrap());
        assert!(!text.contains(|c| c != '\n' && is_unseen(c)), "{text:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&text).unwrap(), [name]);
    }

    #[test]
    fn an_event_is_one_line() {
        let event = "\x1b[32m INFO\x1b[0m moved \x1b[2J\nulpm: moved\r\n";
        assert_eq!(one_line(event), "\x1b[32m INFO\x1b[0m moved \\x1b[2J\\nulpm: moved\\r\n");
    }
}
