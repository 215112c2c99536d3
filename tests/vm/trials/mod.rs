//! The trials in virtual machines. Their names begin with `vm `; they take turns with the two machines.

pub(super) mod inside;

mod boot;
mod mover;
mod oracle;
mod programs;
mod reboot;
mod victims;

use anyhow::Result;
use libtest_mimic::{Completion, Failed, Trial};

use super::pair::{self, Pair};
use crate::lab::needs::{self, Need};
use crate::lab::times;

/// All trials.
pub(crate) fn all() -> Vec<Trial> {
    let mut trials = boot::trials();
    trials.extend(programs::trials());
    trials.extend(victims::trials());
    trials.extend(reboot::trials());
    trials.extend(oracle::trials());
    trials
}

/// A trial with both machines.
fn trial(name: &str, needs: &[Need], run: impl Fn(&mut Pair) -> Result<()> + Send + 'static) -> Trial {
    let (own_name, needs) = (name.to_owned(), needs.to_vec());
    Trial::ignorable_test(name, move || {
        let of_all = ["qemu-system-x86_64", "setpriv", "apt-get", "dpkg-deb"].map(Need::Program);
        let mut missing: Vec<String> =
            needs.iter().chain(&of_all).filter_map(|need| need.missing()).collect();
        if missing.is_empty() {
            missing.extend(pair::missing_packages());
        }
        if !missing.is_empty() {
            return needs::skipped(&own_name, &missing.join("; "));
        }
        let done = times::taken(&own_name, || pair::with(&run));
        done.map_err(Failed::from).map(|()| Completion::Completed)
    })
}
