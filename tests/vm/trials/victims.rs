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

/// Moved from one machine to the other. The others keep files open for writing, which machines without a common file
/// system cannot share, or expect more of a processor than an emulated one does in that time: `dirty` (96 MiB in some
/// seconds), `rseq` (millions of instructions between two ticks).
pub(super) const ACROSS: [&str; 7] =
    ["blocking", "clock", "registers", "robust", "signals", "threads", "timers"];
/// Moved between two hosts inside one machine. Not `fds`: whether an eventfd is a semaphore cannot be seen before Linux 6.5
/// (`src/state/files/eventfd.rs`), and becomes none.
const INSIDE: [&str; 3] = ["memory", "net", "process"];
/// How long all victims may take inside a machine.
const PATIENCE: Duration = Duration::from_secs(1200);

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("vm victims", &[], across), trial("vm victims inside", &[], within)]
}

fn across(pair: &mut Pair) -> Result<()> {
    pair.serve()?;
    for name in ACROSS {
        one(pair, name).with_context(|| format!("victim {name}"))?;
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
    for name in INSIDE {
        let ended = inside::run(&pair.a, &["moves", &format!("move {name}")], &[("CI", "true")], PATIENCE)?;
        ensure!(ended.exit == 0 && ended.stdout.contains(" 1 passed"), "{ended:?}");
    }
    Ok(())
}
