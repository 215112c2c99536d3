//! The trials, one file per kind. Each gets a lab of its own, which is gone when it ends, however it ends.

mod aborts;
mod advice;
mod bad_input;
mod busy;
mod checkpoint;
mod commands;
mod confined;
mod drawer;
mod example;
mod exit_codes;
pub(crate) mod faults;
mod half_way;
mod hostile;
mod hosts;
mod huge_pages;
mod interruptions;
mod killed;
mod lazy;
mod leaders;
mod limits;
pub(crate) mod oracle;
mod parents;
mod pid_modes;
mod policy;
mod profile;
mod programs;
pub(crate) mod rebuilt;
mod replaced;
mod round_trips;
mod serving;
mod sharing;
mod signals;
mod states;
mod trackers;
mod unit;
mod variants;
mod verdicts;
mod versions;
pub(crate) mod victims;
mod wires;
mod words;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::lab::needs::{self, Need};
use crate::lab::seats::{self, Seat};
use crate::lab::{Lab, LabOptions, times};

/// All trials; inside a virtual machine also those that only such a slow one needs.
pub(crate) fn all(in_a_machine: bool) -> Vec<Trial> {
    let mut trials = hosts::trials();
    if in_a_machine {
        trials.extend(victims::in_machines());
    }
    trials.extend(victims::trials());
    trials.extend(variants::trials());
    trials.extend(bad_input::trials());
    trials.extend(busy::trials());
    trials.extend(checkpoint::trials());
    trials.extend(drawer::trials());
    trials.extend(versions::trials());
    trials.extend(verdicts::trials());
    trials.extend(commands::trials());
    trials.extend(confined::trials());
    trials.extend(aborts::trials());
    trials.extend(hostile::trials());
    trials.extend(half_way::trials());
    trials.extend(huge_pages::trials());
    trials.extend(lazy::trials());
    trials.extend(leaders::trials());
    trials.extend(limits::trials());
    trials.extend(interruptions::trials());
    trials.extend(faults::trials());
    trials.extend(killed::trials());
    trials.extend(rebuilt::trials());
    trials.extend(replaced::trials());
    trials.extend(round_trips::trials());
    trials.extend(signals::trials());
    trials.extend(wires::trials());
    trials.extend(parents::trials());
    trials.extend(pid_modes::trials());
    trials.extend(serving::trials());
    trials.extend(sharing::trials());
    trials.extend(policy::trials());
    trials.extend(states::trials());
    trials.extend(trackers::trials());
    trials.extend(unit::trials());
    trials.extend(words::trials());
    trials.extend(example::trials());
    trials.extend(exit_codes::trials());
    trials.extend(advice::trials());
    trials.extend(profile::trials());
    trials.extend(programs::trials());
    trials.extend(oracle::trials());
    trials.sort_by_key(|trial| turn(trial.name()));
    trials
}

/// Those that take longest begin first, so that nothing waits for the last of them; those that need a calm machine come last.
fn turn(name: &str) -> u8 {
    const LONG: [&str; 7] = ["example ", "loop ", "oracle ", "late runs", "late cut", "fault ", "killed "];
    match name {
        name if ALONE.iter().any(|alone| name.starts_with(alone)) => 3,
        name if CALM.iter().any(|calm| name.starts_with(calm)) => 2,
        name if LONG.iter().any(|long| name.starts_with(long)) => 0,
        _ => 1,
    }
}

/// How names begin of trials that measure times or rates: beside few others, and after all that is not among them.
const CALM: [&str; 6] = ["control ", "hosts ", "policy ", "profile ", "proxy ", "slow link "];

/// How names begin of trials that take all of the one store of queued signals that a user has (`RLIMIT_SIGPENDING`): when it is
/// empty their neighbours can make no timer and queue no signal.
const ALONE: [&str; 1] = ["signals sent during"];

fn seat(name: &str) -> Seat {
    match turn(name) {
        3 => Seat::Alone,
        2 => Seat::Calm,
        _ => Seat::Any,
    }
}

/// A trial in the usual lab.
fn trial(name: &str, needs: &[Need], run: impl Fn(&mut Lab) -> Result<()> + Send + 'static) -> Trial {
    trial_in(LabOptions::default(), name, needs, run)
}

/// A trial in a lab with these options.
fn trial_in(
    options: LabOptions,
    name: &str,
    needs: &[Need],
    run: impl Fn(&mut Lab) -> Result<()> + Send + 'static,
) -> Trial {
    let (own_name, needs) = (name.to_owned(), needs.to_vec());
    Trial::ignorable_test(name, move || {
        let needs = needs.iter().chain(&[Need::Hosts]);
        let missing: Vec<String> = needs.filter_map(|need| need.missing()).collect();
        if missing.is_empty() {
            let _seat = seats::take(seat(&own_name));
            let done = times::taken(&own_name, || in_lab(&options, &run));
            return done.map(|()| Completion::Completed);
        }
        needs::skipped(&own_name, &missing.join("; "))
    })
}

fn in_lab(options: &LabOptions, run: &impl Fn(&mut Lab) -> Result<()>) -> Result<(), Failed> {
    let mut lab =
        Lab::with(options).map_err(|error| Failed::from(format!("cannot make the lab: {error:#}")))?;
    let Err(message) = needs::caught(|| run(&mut lab)) else { return Ok(()) };
    Err(Failed::from(format!("{message}\n{}", lab.dump())))
}
