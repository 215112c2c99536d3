//! Lazy moves, measured: `cargo bench --bench lazy [-- access | redis] [--json]`.
//!
//! * **access**: 1 GiB under random access from eight threads at full speed, which check every value, moved by `--lazy`; in
//!   turns with an idle process of 64 MiB moved plainly, and with the same 1 GiB asleep moved by `--lazy`. Every move has
//!   hosts, servers and a process of its own; the first turn is not counted.
//! * **redis**: redis-server with 500 MiB under load, moved by pre-copy, by `--lazy` and by hybrid over a link of
//!   1 Gbit/s; `--svg FILE` draws what its clients get over time.
//!
//! `--turns 1` shortens it (5 turns otherwise). Nothing is asserted about time; that every value is right is.

mod access;
/// A link with a delay: the kernel of the test machine has none.
#[path = "../../tests/lab"]
#[allow(dead_code, reason = "trials need more of it")]
mod lab {
    pub(crate) mod udp_proxy;
}
mod picture;
mod redis;
mod stage;
mod victim;

#[path = "../spread/mod.rs"]
mod spread;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, ValueEnum};
use ulpm::demo::hosts;
use ulpm::report::{Size, Span};

use spread::Spread;

/// Measures lazy moves.
#[derive(Debug, Parser)]
struct Args {
    /// Only this part
    #[arg(value_enum)]
    part: Option<Part>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
    /// Turns of the first part
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    turns: u32,
    /// Memory of the process under access
    #[arg(long, default_value = "1G")]
    mem: Size,
    /// Limit of the link in the first part, as `tc` says it, in gbit or mbit, e.g. 1gbit
    #[arg(long, value_parser = bits_per_s)]
    rate: Option<u64>,
    /// How long a packet takes each way in the first part, e.g. 250us; the link is a process that passes packets on then
    #[arg(long)]
    delay: Option<Span>,
    /// The picture of the second part goes here
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Requests per second that redis gets
    #[arg(long, default_value_t = redis::DEMAND)]
    demand: u32,
    /// Be the process under access
    #[arg(long, hide = true, num_args = 4)]
    victim: Option<Vec<String>>,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Access,
    Redis,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(options) = &args.victim {
        return victim::main(options);
    }
    // Before any thread exists: an ordinary user gets a user namespace.
    hosts::become_able()?;
    let wanted = |part| args.part.is_none_or(|only| only == part);
    let mut all = serde_json::Map::new();
    if wanted(Part::Access) {
        let findings = access::measure(args.turns as usize, args.mem, &args.wire())?;
        if !args.json {
            print!("{}", findings.text());
        }
        all.insert("access".to_owned(), serde_json::to_value(&findings)?);
    }
    if wanted(Part::Redis) {
        let findings = redis::measure(args.demand)?;
        if !args.json {
            print!("{}", redis::text(&findings));
        }
        if let Some(path) = &args.svg {
            std::fs::write(path, picture::draw(&findings)?)
                .with_context(|| format!("write {}", path.display()))?;
        }
        all.insert("redis".to_owned(), serde_json::to_value(&findings)?);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&all)?);
    }
    Ok(())
}

impl Args {
    fn wire(&self) -> Wire {
        Wire { rate: self.rate, delay: self.delay.map(|d| d.duration()) }
    }
}

/// What is between the hosts.
#[derive(Clone, Debug, Default)]
struct Wire {
    /// Bits per second.
    rate: Option<u64>,
    /// Of each packet, each way.
    delay: Option<std::time::Duration>,
}

impl std::fmt::Display for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.rate {
            Some(rate) => write!(f, "link of {} Mbit/s", rate / 1_000_000)?,
            None => f.write_str("link without limit")?,
        }
        self.delay.map_or(Ok(()), |delay| write!(f, ", a delay of {} us each way", delay.as_micros()))
    }
}

fn bits_per_s(text: &str) -> Result<u64, String> {
    let unit = [("gbit", 1_000_000_000), ("mbit", 1_000_000)].into_iter().find_map(|(name, unit)| {
        let number = text.strip_suffix(name)?.parse::<u64>().ok()?;
        number.checked_mul(unit).filter(|rate| *rate > 0)
    });
    unit.ok_or_else(|| format!("{text:?} is no rate, as 1gbit or 200mbit"))
}

/// What else the machine does.
fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}
