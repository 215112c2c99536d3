//! The trials, one file per kind. Each gets a lab of its own, which is gone when it ends, however it ends.

mod aborts;
mod bad_input;
mod commands;
mod freezes;
mod hosts;
mod oracle;
mod pid_modes;
mod policy;
mod profile;
mod programs;
mod round_trips;
mod trackers;
mod versions;
mod victims;

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use crate::lab::needs::{self, Need};
use crate::lab::{Lab, LabOptions};

/// All trials.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = hosts::trials();
    trials.extend(victims::trials());
    trials.extend(bad_input::trials());
    trials.extend(versions::trials());
    trials.extend(commands::trials());
    trials.extend(aborts::trials());
    trials.extend(freezes::trials());
    trials.extend(round_trips::trials());
    trials.extend(pid_modes::trials());
    trials.extend(policy::trials());
    trials.extend(trackers::trials());
    trials.extend(profile::trials());
    trials.extend(programs::trials());
    trials.extend(oracle::trials());
    trials
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
            return in_lab(&options, &run).map(|()| Completion::Completed);
        }
        let reason = missing.join("; ");
        let in_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        if in_ci && !needs::may_skip(&own_name) {
            return Err(Failed::from(format!("cannot run here and is not in tests/skips.txt: {reason}")));
        }
        eprintln!("skipped {own_name}: {reason}");
        Ok(Completion::ignored_with(reason))
    })
}

fn in_lab(options: &LabOptions, run: &impl Fn(&mut Lab) -> Result<()>) -> Result<(), Failed> {
    let mut lab =
        Lab::with(options).map_err(|error| Failed::from(format!("cannot make the lab: {error:#}")))?;
    let result = catch_unwind(AssertUnwindSafe(|| run(&mut lab)));
    let message = match result {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => format!("{error:#}"),
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(text) => format!("panic: {text}"),
            None => format!("panic: {}", panic.downcast_ref::<&str>().unwrap_or(&"of another kind")),
        },
    };
    Err(Failed::from(format!("{message}\n{}", lab.dump())))
}
