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
        trial("pid namespace sees what is mounted later", &[], later_mounts),
    ]
}

fn namespace(lab: &mut Lab) -> Result<()> {
    let victim = prepare(lab)?;
    take(lab, victim.pid)?;
    move_into_namespace(lab, victim, &["--verify"])
}

/// What host `b` mounts while the process lives in a namespace there is mounted for the process, too, and no more when `b` unmounts it.
fn later_mounts(lab: &mut Lab) -> Result<()> {
    let victim = prepare(lab)?;
    let must = |argv: &[&str]| {
        let ended = lab.run("b", argv, SOON)?;
        ensure!(ended.exit == 0, "{argv:?}: {ended:?}");
        Ok(ended.stdout)
    };
    // as on a host under systemd; those of the lab are private
    must(&["mount", "--make-rshared", "/"])?;
    let outcome = lab.live("a", victim.pid, "b", &["--pid-mode", "namespace", "--verify"])?;
    let (pid, place) = (outcome.moved()?, lab.dir().join("mounted"));
    std::fs::create_dir(&place)?;
    let place = place.display().to_string();
    let seen = || Ok::<_, anyhow::Error>(must(&["cat", &format!("/proc/{pid}/mounts")])?.contains(&place));
    must(&["mount", "-t", "tmpfs", "none", &place])?;
    ensure!(seen()?, "it does not see what was mounted later");
    must(&["umount", &place])?;
    ensure!(!seen()?, "it holds what the host has unmounted");
    Ok(())
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
