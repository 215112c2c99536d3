//! The oracle (`tests/trials/oracle.rs`) on the machines' kernel, which has soft-dirty bits: between two hosts from
//! namespaces inside one machine, since its memfds and files are shared with nobody else.
//!
//! | variable | |
//! |---|---|
//! | `ULPM_ORACLE_TRACKER` | `soft-dirty` or `checksum`; both, one after the other, if it is not set |
//! | `ULPM_ORACLE_MOVES`, `ULPM_ORACLE_SEED`, `ULPM_ORACLE_ARGS` | as for the oracle elsewhere |

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{inside, trial};
use crate::vm::pair::Pair;

/// Moves in the test command.
const MOVES: &str = "4";
/// At its usual pace an emulated link cannot keep up with it.
const ARGS: &str = "--intensity 10";
/// Longest time that one move may take on a busy machine.
const ONE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    let asked = std::env::var("ULPM_ORACLE_TRACKER").map(|tracker| vec![tracker]);
    asked
        .unwrap_or_else(|_| ["soft-dirty", "checksum"].map(str::to_owned).into())
        .into_iter()
        .map(|tracker| trial(&format!("vm oracle {tracker}"), &[], move |pair| oracle(pair, &tracker)))
        .collect()
}

fn oracle(pair: &mut Pair, tracker: &str) -> Result<()> {
    let set = |name| std::env::var(name).ok();
    let moves = set("ULPM_ORACLE_MOVES").unwrap_or_else(|| MOVES.to_owned());
    let count: u32 = moves.parse().context("ULPM_ORACLE_MOVES")?;
    let (seed, args) = (set("ULPM_ORACLE_SEED"), set("ULPM_ORACLE_ARGS").unwrap_or_else(|| ARGS.to_owned()));
    let mut env = vec![("ULPM_ORACLE_MOVES", moves.as_str())];
    env.extend(seed.as_deref().map(|seed| ("ULPM_ORACLE_SEED", seed)));
    env.push(("ULPM_ORACLE_ARGS", &args));
    let ended = inside::run(&pair.a, &["oracle", tracker], &env, ONE * (count + 4))?;
    ensure!(ended.exit == 0, "the oracle in machine a ended with {}: {}", ended.exit, ended.stdout);
    let enough = format!("{count} moved, ");
    ensure!(ended.stderr.contains(&enough), "no summary with {enough:?}: {}", ended.stderr);
    Ok(())
}
