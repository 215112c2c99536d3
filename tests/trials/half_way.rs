//! What comes in between: a call that is half done, job control and a `kill` while memory goes ahead. What is said is plain, and
//! nothing is left to be recovered.

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::victims::{Victim, is_gone};
use super::{trial, trial_in};
use crate::lab::live::Live;
use crate::lab::needs::Need;
use crate::lab::{Lab, LabOptions, SOON, ULPM, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let disks = || LabOptions { disks: true, ..LabOptions::default() };
    vec![
        trial("check names a half-done call", &[Need::Program("python3")], half_done),
        trial_in(disks(), "stopped by somebody in the rounds", &[], stopped),
        trial_in(disks(), "killed by somebody in the rounds", &[], killed),
        trial_in(disks(), "nothing is left of what was given up before the freeze", &[], given_up),
        trial("a file that is no control socket", &[], no_socket),
        trial("recover a copy that somebody let go on", &[], let_go_on),
        trial("recover with force and no such migration", &[], no_migration),
    ]
}

/// It runs at the target, and somebody lets the copy here go on before that is settled: it is ended, and it is said that there were two.
fn let_go_on(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let outside = victim.outside_pid(lab)?;
    let live = lab.start_live("a", victim.pid, "b:3490", &["--fault", "source.answered=stop"])?;
    wait_until("it hangs", SOON, || live.errors().contains("fault source.answered=stop in process "))?;
    live.kill_both()?;
    lab.go_on("a", &victim.pid.to_string())?;
    let recovered = lab.run("a", &[ULPM, "recover"], SOON)?;
    let told = recovered.stdout.contains("somebody had let it go on after");
    ensure!(recovered.exit == 0 && told && is_gone(outside), "{recovered:?}");
    victim.host = "b".to_owned();
    victim.check_running(lab)?;
    victim.finish()
}

/// One thread waits to write the rest into a pipe, another for all of a message; a third for the first word of one.
const WRITER: &str = "
import os, socket, threading
r, w = os.pipe()
a, b = socket.socketpair()
c, d = socket.socketpair()
b.send(b'x' * 10)
threading.Thread(target=lambda: os.write(w, b'x' * (1 << 20))).start()
threading.Thread(target=lambda: a.recv(100, socket.MSG_WAITALL)).start()
threading.Thread(target=lambda: c.recv(100)).start()
print('ready', flush=True)
threading.Event().wait()
";

fn half_done(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let process = lab.spawn("a", &["python3", "-c", WRITER])?;
    let (pid, address) = (process.pid().to_string(), lab.address("b"));
    let mut said = String::new();
    wait_until("both are named", SOON, || {
        said = lab
            .run("a", &[ULPM, "check", "--pid", &pid, "--to", &address], SOON)
            .map_or(said.clone(), |e| e.stdout);
        said.contains("waits in write on descriptor") && said.contains("waits in recv on descriptor")
    })?;
    ensure!(said.matches("a part that is done already").count() == 2, "{said}");
    let outcome = lab.live("a", process.pid(), "b", &["--verify"])?;
    let moved = outcome.moved()?;
    let notes = outcome.report["notes"].to_string();
    ensure!(notes.matches("a part that is done already").count() == 2, "{notes}");
    kill(lab.host("b").outside_pid(Pid::from_raw(moved))?, Signal::SIGKILL)?;
    Ok(())
}

/// Its memory is on its way.
fn begin(lab: &Lab, victim: &Victim, bandwidth: &str) -> Result<Live> {
    let socket = lab.dir().join("control").display().to_string();
    let args = ["--verify", "--control", &socket, "--bandwidth", bandwidth];
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &args)?;
    wait_until("the first round is under way", SOON, || {
        let status = lab.run("a", &[ULPM, "control", &socket, "status"], SOON);
        status.is_ok_and(|ended| {
            ended.stdout.contains("\"rounds\"") && !ended.stdout.contains("\"sent_bytes\":0,")
        })
    })?;
    Ok(live)
}

fn entries(lab: &Lab) -> Vec<PathBuf> {
    let list = fs::read_dir(lab.dir().join("disk-a/journal")).into_iter().flatten().flatten();
    list.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "journal")).collect()
}

fn stopped(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "late")?;
    let outside = Pid::from_raw(victim.outside_pid(lab)?);
    let live = begin(lab, &victim, "8M")?;
    kill(outside, Signal::SIGSTOP)?;
    let outcome = live.outcome()?;
    outcome.refused(
        4,
        &["somebody stopped process", "stays here, and is stopped by job control", "kill -CONT"],
    )?;
    ensure!(!outcome.stderr.contains("unexpectedly"), "{}", outcome.stderr);
    ensure!(entries(lab).is_empty(), "an entry is left: {:?}", entries(lab));
    kill(outside, Signal::SIGCONT)?;
    // a stop that is over is none
    let live = begin(lab, &victim, "40M")?;
    kill(outside, Signal::SIGSTOP)?;
    kill(outside, Signal::SIGCONT)?;
    let outcome = live.outcome()?;
    victim.moved(lab, &outcome, outside.as_raw(), "b")?;
    victim.finish()
}

fn killed(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "late")?;
    let outside = Pid::from_raw(victim.outside_pid(lab)?);
    let live = begin(lab, &victim, "8M")?;
    kill(outside, Signal::SIGKILL)?;
    let outcome = live.outcome()?;
    outcome.refused(1, &["ended by itself, or was killed, before it could be moved"])?;
    for wrong in ["another program", "page map", "runs on here"] {
        ensure!(!outcome.stderr.contains(wrong), "{}", outcome.stderr);
    }
    ensure!(entries(lab).is_empty(), "an entry is left: {:?}", entries(lab));
    Ok(())
}

fn given_up(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &["--fault", "source.poised=memory"])?.refused(4, &["runs on here"])?;
    ensure!(entries(lab).is_empty(), "an entry is left: {:?}", entries(lab));
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn no_socket(lab: &mut Lab) -> Result<()> {
    let said = lab.run("a", &[ULPM, "control", "/etc/passwd", "status"], SOON)?;
    ensure!(said.exit == 1 && said.stderr.contains("is not the socket of a migration"), "{said:?}");
    Ok(())
}

fn no_migration(lab: &mut Lab) -> Result<()> {
    for force in ["--force-source", "--force-target"] {
        let said = lab.run("a", &[ULPM, "recover", force, "nonsense"], SOON)?;
        let words =
            said.stderr.contains("no migration nonsense") && !said.stderr.contains("taking your word");
        ensure!(said.exit == 1 && words, "{said:?}");
    }
    Ok(())
}
