//! What this program does inside a machine, apart from being its agent: the trials of `tests/trials/`, with hosts from
//! namespaces on the machine's kernel; the oracle's moves.
//!
//! `__inside moves PREFIX` runs the trials whose names begin so; `__inside oracle TRACKER` runs the oracle's with that one.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use libtest_mimic::Arguments;

use super::mover::PATIENT;
use crate::lab::TOLERANCE;
use crate::lab::process::Ended;
use crate::lab::strays;
use crate::trials;
use crate::vm::machine::Machine;
use crate::vm::wire::{Place, Sink};

/// How often news are asked for.
const NEWS: Duration = Duration::from_millis(500);

/// Inside.
pub(crate) fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let chosen = match args[..] {
        ["moves", prefix] => {
            let mut chosen = trials::all(true);
            chosen.retain(|trial| trial.name().starts_with(prefix));
            chosen
        }
        ["oracle", "soft-dirty"] => vec![trials::oracle::under("soft-dirty")],
        ["oracle", "checksum"] => vec![trials::oracle::under("checksum")],
        _ => return ExitCode::from(2),
    };
    // Emulated processors are slow: one at a time keeps to the victims' time limits.
    let arguments = Arguments { test_threads: Some(1), ..Arguments::default() };
    let exit = libtest_mimic::run(&arguments, chosen).exit_code();
    let left = strays::left_over();
    for stray in &left {
        eprintln!("left over: {stray}");
    }
    if left.is_empty() { exit } else { ExitCode::FAILURE }
}

/// Outside: has a machine do that and shows what it says as it comes.
pub(super) fn run(
    machine: &Machine,
    args: &[&str],
    env: &[(&str, &str)],
    patience: Duration,
) -> Result<Ended> {
    let env = [&[(TOLERANCE, PATIENT)], env].concat();
    let job = machine.start_job(&[&["/agent", "__inside"], args].concat(), &env, Sink::File)?;
    let Place::Files(files) = &job.place else { bail!("its output is in no files") };
    let (mut said, deadline) = ([Vec::new(), Vec::new()], Instant::now() + patience);
    loop {
        let running = machine.is_alive(job.pid)?;
        for (file, said) in files.iter().zip(&mut said) {
            let more = machine.read(file, said.len() as u64)?;
            eprint!("{}", String::from_utf8_lossy(&more));
            said.extend(more);
        }
        if !running {
            let [stdout, stderr] = said.map(|said| String::from_utf8_lossy(&said).into_owned());
            return Ok(Ended { exit: machine.wait(job.pid, crate::lab::SOON)?, stdout, stderr });
        }
        if Instant::now() > deadline {
            bail!("not done after {patience:?}");
        }
        std::thread::sleep(NEWS);
    }
}
