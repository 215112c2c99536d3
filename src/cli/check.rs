//! `ulpm check`: what this host, a process and a target can do; every obstacle at once.

use std::fmt::Write as _;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::home::Home;
use super::{Exit, Failure, say};
use crate::dirty::WpScan;
use crate::image::Obstacle;
use crate::precopy::link::Cancel;
use crate::precopy::{MigrateError, Migration, Options};
use crate::preload::describe::describe;
use crate::restore::session::chain;
use crate::state::files::FilesOptions;
use crate::transport::HostPort;
use crate::transport::protocol::PidChoice;

/// Arguments of `ulpm check`.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The process that would be moved
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..))]
    pid: Option<i32>,
    /// Where it would go
    #[arg(long, value_name = "HOST[:PORT]", requires = "pid")]
    to: Option<HostPort>,
    /// Count established TCP connections as no obstacle
    #[arg(long, value_enum, default_value_t = super::live::Tcp::Refuse)]
    tcp: super::live::Tcp,
    /// Print the findings as one JSON document
    #[arg(long)]
    json: bool,
}

/// One ability of this host.
#[derive(Debug, Serialize)]
struct Ability {
    name: &'static str,
    there: bool,
    why: String,
}

#[derive(Debug, Serialize)]
struct Findings {
    host: Vec<Ability>,
    pid: Option<i32>,
    target: Option<String>,
    obstacles: Vec<Obstacle>,
    notes: Vec<String>,
}

/// Prints what is found; exit code 3 if something stands in the way.
pub fn run(args: &CheckArgs) -> Result<Exit, Failure> {
    let mut findings = Findings {
        host: host(),
        pid: args.pid,
        target: args.to.as_ref().map(ToString::to_string),
        obstacles: Vec::new(),
        notes: Vec::new(),
    };
    let files = FilesOptions { tcp_close: args.tcp == super::live::Tcp::Close };
    if let Some(pid) = args.pid {
        let described = describe(pid, &files)?;
        findings.notes = described.image.files.notes.clone();
        findings.obstacles = described.obstacles;
    }
    if let (Some(pid), Some(to)) = (args.pid, &args.to) {
        let options = Options {
            pid,
            to: to.to_string(),
            pid_mode: PidChoice::Auto,
            verify: false,
            files,
            home: Home::open()?.path().to_owned(),
            connect_limit: Duration::from_secs(10),
        };
        match Migration::check(&options, &Cancel::default()) {
            Ok(_) => {}
            Err(MigrateError::Refused(all)) => findings.obstacles = all,
            Err(e) => return Err(Failure::from(e)),
        }
    }
    let clear = findings.obstacles.is_empty() && findings.host.iter().all(|a| a.there);
    if args.json {
        say(&(serde_json::to_string_pretty(&findings)? + "\n"))?;
    } else {
        say(&text(&findings))?;
    }
    Ok(if clear { Exit::Done } else { Exit::Refused })
}

fn host() -> Vec<Ability> {
    let probe = |name, result: Result<(), String>| Ability { name, there: result.is_ok(), why: result.err().unwrap_or_default() };
    let clone3 = crate::sys::spawn::clone3_works();
    let time = std::path::Path::new("/proc/self/timens_offsets").exists();
    let caps = crate::state::credentials_of_self().map(|c| c.caps[2]).unwrap_or(0);
    let cap = |bit: u32, what: &str| {
        if caps >> bit & 1 == 1 { Ok(()) } else { Err(format!("this user lacks {what}")) }
    };
    vec![
        probe("write tracking (userfaultfd, PAGEMAP_SCAN)", WpScan::probe().map_err(|e| chain(&e))),
        probe("chosen pids (clone3)", if clone3 { Ok(()) } else { Err("clone3 is missing or filtered".to_owned()) }),
        probe("chosen pids (rights)", cap(40, "CAP_CHECKPOINT_RESTORE").or_else(|e| cap(21, "").map_err(|_| e))),
        probe("time namespaces", if time { Ok(()) } else { Err("CONFIG_TIME_NS is missing".to_owned()) }),
        probe("tracing (CAP_SYS_PTRACE)", cap(19, "CAP_SYS_PTRACE: its own processes only")),
    ]
}

fn text(findings: &Findings) -> String {
    let mut out = String::from("this host\n");
    for a in &findings.host {
        let _ = writeln!(out, "  {} {}{}", if a.there { "yes" } else { "NO " }, a.name, reason(&a.why));
    }
    if let Some(pid) = findings.pid {
        let whither = findings.target.as_ref().map(|t| format!(" to {t}")).unwrap_or_default();
        if findings.obstacles.is_empty() {
            let _ = writeln!(out, "process {pid} can be moved{whither}");
        } else {
            let _ = writeln!(out, "process {pid} cannot be moved{whither}:");
        }
        findings.obstacles.iter().for_each(|o| {
            let _ = writeln!(out, "  - {o}");
        });
        findings.notes.iter().for_each(|n| {
            let _ = writeln!(out, "  note: {n}");
        });
    }
    out
}

fn reason(why: &str) -> String {
    if why.is_empty() { String::new() } else { format!(": {why}") }
}
