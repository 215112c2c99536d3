//! The oracle on the machines' kernel: one victim moved again and again with `--verify`, there and back between two hosts
//! inside a machine, each move counted by how it ended.
//!
//! `ULPM_ORACLE_MOVES` and `ULPM_ORACLE_TRACKER` say how often and with which tracker.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::{inside, trial};
use crate::lab::live::LiveOutcome;
use crate::lab::{Lab, victims};
use crate::trials::victims::Victim;
use crate::vm::pair::Pair;

/// How many moves there are in the test command.
const MOVES: &str = "4";
/// Longest time that one move may take on a busy machine.
const ONE: Duration = Duration::from_secs(60);

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("vm oracle", &[], oracle)]
}

fn oracle(pair: &mut Pair) -> Result<()> {
    let moves = std::env::var("ULPM_ORACLE_MOVES").unwrap_or_else(|_| MOVES.to_owned());
    let tracker = std::env::var("ULPM_ORACLE_TRACKER").unwrap_or_else(|_| "auto".to_owned());
    let count: u32 = moves.parse().context("ULPM_ORACLE_MOVES")?;
    let env = [("ULPM_ORACLE_MOVES", moves.as_str()), ("ULPM_ORACLE_TRACKER", &tracker)];
    let ended = inside::run(&pair.a, &["oracle"], &env, ONE * (count + 2))?;
    ensure!(ended.exit == 0, "the oracle says: {ended:?}");
    ensure!(ended.stdout.contains(&format!("{count} moves: ")), "no result: {ended:?}");
    Ok(())
}

/// How often what happened.
#[derive(Debug, Default)]
struct Counts {
    moved: u32,
    refused: u32,
    aborted: u32,
    /// The hashes differed at both ends, or the victim found something wrong.
    wrong: u32,
    other: u32,
}

impl Counts {
    fn add(&mut self, outcome: &LiveOutcome) {
        let differs =
            outcome.stderr.contains("differ") || outcome.report["error"].to_string().contains("differ");
        match outcome.outcome() {
            _ if differs => self.wrong += 1,
            "moved" if outcome.moved().is_ok() => self.moved += 1,
            "refused" => self.refused += 1,
            "aborted" => self.aborted += 1,
            _ => self.other += 1,
        }
    }
}

/// Inside: moves it and says how it goes.
pub(super) fn inside() -> ExitCode {
    let mut counts = Counts::default();
    let lab = Lab::two_hosts();
    let result = lab.and_then(|mut lab| {
        let result = moves(&mut lab, &mut counts);
        if result.is_err() {
            println!("{}", lab.dump());
        }
        result
    });
    match result {
        Ok(()) if counts.wrong + counts.other + counts.refused + counts.aborted == 0 => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            println!("FAIL: {error:#} ({counts:?})");
            ExitCode::FAILURE
        }
    }
}

fn moves(lab: &mut Lab, counts: &mut Counts) -> Result<()> {
    let count: u32 = std::env::var("ULPM_ORACLE_MOVES").context("ULPM_ORACLE_MOVES")?.parse()?;
    let tracker = std::env::var("ULPM_ORACLE_TRACKER").context("ULPM_ORACLE_TRACKER")?;
    let name = if victims::names().contains(&"oracle".to_owned()) { "oracle" } else { "memory" };
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, name)?;
    let begin = Instant::now();
    for number in 1..=count {
        let to = if victim.host == "a" { "b" } else { "a" };
        let before = victim.outside_pid(lab)?;
        let outcome = lab.live(&victim.host, victim.pid, to, &["--verify", "--tracker", &tracker])?;
        counts.add(&outcome);
        if outcome.moved().is_ok() {
            victim.moved(lab, &outcome, before, to)?;
        } else {
            println!(
                "move {number} to {to}: exit code {}: {} {}",
                outcome.exit, outcome.report, outcome.stderr
            );
            // Whatever it was, the process must be unharmed.
            victim.check_running(lab)?;
        }
        if number % 20 == 0 || number <= 2 || number == count {
            let each = begin.elapsed().as_secs_f64() / f64::from(number);
            println!(
                "{number} of {count} moves of {name} by {}, {each:.2} s each: {counts:?}",
                outcome.report["tracker"]
            );
        }
    }
    victim.finish()?;
    println!("{count} moves: {counts:?}");
    Ok(())
}
