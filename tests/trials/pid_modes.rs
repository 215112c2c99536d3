//! A pid that is taken at the target: a pid namespace of its own, or a refusal where the same pid is insisted on.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, SOON};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("pid taken leads to a namespace", &[], namespace),
        trial("pid taken refuses the same pid", &[], refused),
    ]
}

fn namespace(lab: &mut Lab) -> Result<()> {
    let victim = prepare(lab)?;
    take(lab, victim.pid)?;
    move_into_namespace(lab, victim, &["--verify"])
}

fn refused(lab: &mut Lab) -> Result<()> {
    let victim = prepare(lab)?;
    take(lab, victim.pid)?;
    lab.live("a", victim.pid, "b", &["--pid-mode", "same"])?.refused(3, &["pid", &victim.pid.to_string()])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn prepare(lab: &mut Lab) -> Result<Victim> {
    lab.serve("a")?;
    lab.serve("b")?;
    Victim::start(lab, "process")
}

/// Moves there, where the process sees its old pid (it checks that) and the host another, and back.
fn move_into_namespace(lab: &Lab, mut victim: Victim, args: &[&str]) -> Result<()> {
    let (pid, before) = (victim.pid, victim.outside_pid(lab)?);
    let outcome = lab.live("a", pid, "b", args)?;
    ensure!(outcome.report["pid_mode"] == "namespace", "pid_mode: {}", outcome.report);
    victim.moved(lab, &outcome, before, "b")?;
    ensure!(victim.pid != pid, "the host sees the namespace's pid");
    victim.move_to(lab, "a")?;
    victim.finish()
}

/// Lets another process of host `b` have this pid.
fn take(lab: &Lab, pid: i32) -> Result<()> {
    let script = format!("echo {} > /proc/sys/kernel/ns_last_pid; sleep 1000 & echo $!", pid - 1);
    let taken = lab.run("b", &["sh", "-c", &script], SOON)?;
    ensure!(taken.stdout.trim() == pid.to_string(), "cannot take pid {pid}: {taken:?}");
    Ok(())
}
