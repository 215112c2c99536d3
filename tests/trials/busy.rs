//! Hosts whose CPUs are all busy with something else can be emptied, too.

use anyhow::Result;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use super::victims::Victim;
use crate::lab::Lab;
use crate::lab::process::Proc;

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("hosts with two busy sessions for each CPU", &[], busy)]
}

fn busy(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let cpus = std::thread::available_parallelism()?.get();
    // each has a session of its own, as a scheduler's group that competes with ours
    let compute = |_| lab.spawn("a", &["sh", "-c", "while :; do :; done"]);
    let others: Vec<Proc> = (0..2 * cpus).map(compute).collect::<Result<_>>()?;
    let moved = victim.move_to(lab, "b");
    for other in others {
        other.signal(Signal::SIGKILL)?;
    }
    moved?;
    victim.finish()
}
