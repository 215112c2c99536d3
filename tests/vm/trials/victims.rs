//! The victims on the machines' kernel: from one machine to the other, and, as their files need, between two hosts
//! inside one machine (`tests/trials/victims.rs` does that there).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::inside;
use super::mover::Mover;
use super::trial;
use crate::lab::victims;
use crate::vm::pair::Pair;

/// Those that keep files open for writing, which two machines without a common file system cannot share.
const AT_HOME: [&str; 4] = ["fds", "memory", "net", "process"];
/// How long all victims may take inside a machine.
const PATIENCE: Duration = Duration::from_secs(1200);

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("vm victims", &[], across), trial("vm victims inside", &[], within)]
}

fn across(pair: &mut Pair) -> Result<()> {
    pair.serve()?;
    let names: Vec<String> =
        victims::names().into_iter().filter(|name| !AT_HOME.contains(&name.as_str())).collect();
    for name in names {
        one(pair, &name).with_context(|| format!("victim {name}"))?;
    }
    Ok(())
}

fn one(pair: &mut Pair, name: &str) -> Result<()> {
    let mut victim = Mover::start(pair, &[&victims::program(name)?])?;
    let outcome = victim.cross(pair, &[])?;
    eprintln!("{name}: {} moved it, freeze {} ms", outcome.report["tracker"], outcome.report["freeze_ms"]);
    // Works on for a while where it is now.
    std::thread::sleep(Duration::from_millis(500));
    victim.check_running(pair)?;
    victim.finish(pair)
}

fn within(pair: &mut Pair) -> Result<()> {
    let ended = inside::run(&pair.a, &["moves", "move "], &[("CI", "true")], PATIENCE)?;
    let passed = ended.stdout.lines().filter(|line| line.ends_with("... ok")).count();
    ensure!(ended.exit == 0 && passed == victims::names().len(), "{passed} passed: {ended:?}");
    Ok(())
}
