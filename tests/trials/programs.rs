//! Real programs, from Debian's packages, moved while they work, and still right afterwards.
//!
//! `ULPM_PROGRAM_MOVES=50 cargo test --test moves -- program` moves each of them so often, and compares all that can be seen of the
//! calm ones after each move.

mod moved;
pub(super) mod redis;

use std::time::Duration;

use anyhow::{Context as _, Result};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use super::victims::Victim;
use crate::lab::Lab;
use crate::lab::needs::{Need, find_program};

const PYTHON: &str = include_str!("programs/python.py");
const NODE: &str = include_str!("programs/node.js");

pub(super) fn trials() -> Vec<Trial> {
    let python = |lab: &mut Lab| script(lab, "python3", &["-c", PYTHON]);
    // Node's own `-e` takes no stop file as script argument without `--`.
    let node = |lab: &mut Lab| script(lab, "node", &["-e", NODE, "--"]);
    vec![
        trial("program python3 with threads", &[Need::Program("python3")], python),
        trial("program node with timers and workers", &[Need::Program("node")], node),
        trial("program redis with 300 MiB", &[Need::Program("redis-server")], redis::quiet),
        trial("program redis with a writing client", &[Need::Program("redis-server")], redis::with_writer),
        trial(
            "program redis refuses established connections",
            &[Need::Program("redis-server")],
            redis::refused,
        ),
        trial("program python3 with handlers and a lock", PYTHON_NEEDS, moved::handlers),
        trial("program uvicorn with clients", UVICORN_NEEDS, moved::uvicorn),
        trial("program haproxy with clients", HAPROXY_NEEDS, moved::haproxy),
        trial("program java with threads", JVM_NEEDS, moved::jvm),
        trial("program python3 under runit", SUPERVISED_NEEDS, moved::supervised),
    ]
}

const PYTHON_NEEDS: &[Need] = &[Need::Program("python3")];
const UVICORN_NEEDS: &[Need] = &[Need::Program("uvicorn")];
const HAPROXY_NEEDS: &[Need] = &[Need::Program("haproxy")];
const JVM_NEEDS: &[Need] = &[Need::Program("java"), Need::Program("javac")];
const SUPERVISED_NEEDS: &[Need] = &[Need::Program("runsv"), Need::Program("sv"), Need::Program("python3")];

/// Where a program in host `a` goes in turn: as often as `ULPM_PROGRAM_MOVES` says, or else the usual number of times.
pub(super) fn moves(usual: usize) -> impl Iterator<Item = &'static str> {
    let count = std::env::var("ULPM_PROGRAM_MOVES").ok().and_then(|count| count.parse().ok());
    ["b", "a"].into_iter().cycle().take(count.unwrap_or(usual))
}

/// A real program that does the same all the time: name, needs, how it is started.
pub(super) type Calm = (&'static str, &'static [Need], fn(&Lab) -> Result<Victim>);

/// Those of which everything can be compared before and after. Not among them: the one with handlers, also under runit, whose signals
/// of timers are pending at one moment and not at the next; and redis, whose data its own digest compares better.
pub(super) fn calm() -> Vec<Calm> {
    vec![
        ("program python3", &[Need::Program("python3")], |lab| start(lab, "python3", &["-c", PYTHON])),
        ("program node", &[Need::Program("node")], |lab| start(lab, "node", &["-e", NODE, "--"])),
        ("program uvicorn", UVICORN_NEEDS, moved::start_uvicorn),
        ("program haproxy", HAPROXY_NEEDS, moved::start_haproxy),
        ("program java", JVM_NEEDS, moved::start_jvm),
    ]
}

fn start(lab: &Lab, program: &str, args: &[&str]) -> Result<Victim> {
    let program = find_program(program).unwrap_or_else(|| program.to_owned());
    Victim::start_command(lab, &[&[program.as_str()], args].concat())
}

fn script(lab: &mut Lab, program: &str, args: &[&str]) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = start(lab, program, args)?;
    for (count, to) in moves(2).enumerate() {
        std::thread::sleep(if count < 2 { Duration::from_secs(2) } else { Duration::from_millis(300) });
        victim.check_running(lab).context("before it is moved")?;
        victim.move_to(lab, to)?;
        moved::signalled(lab, &victim, Signal::SIGHUP, "signal SIGHUP")?;
    }
    std::thread::sleep(Duration::from_secs(2));
    victim.check_running(lab)?;
    victim.finish()
}
