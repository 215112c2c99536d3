//! What a process shares with one that stays is named, whoever it is and whatever it shares; the advice is followed.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::lab::needs::Need;
use crate::lab::process::Proc;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let python = &[Need::Program("python3")];
    vec![
        trial("sharing of anonymous memory", python, anonymous),
        trial("sharing with a process whose main thread has ended", &[], outlived),
        trial("sharing of an open file", &[], open_file),
        trial("sharing of a log that is appended to", &[], appended),
    ]
}

/// Starts a script; it says its child's pid.
fn family(lab: &Lab, script: &str) -> Result<(Proc, String)> {
    let parent = lab.spawn("a", &["python3", "-u", "-c", script])?;
    wait_until("the child is there", SOON, || parent.output().contains('\n'))
        .with_context(|| parent.errors())?;
    let pid = parent.output().trim().to_owned();
    Ok((parent, pid))
}

fn refused(lab: &Lab, pid: &str, words: &[&str]) -> Result<()> {
    let check = lab.run("a", &[ULPM, "check", "--pid", pid], SOON)?;
    ensure!(check.exit == 3, "{check:?}");
    words.iter().try_for_each(|word| {
        ensure!(check.stdout.contains(word), "it does not say {word:?}: {}", check.stdout);
        Ok(())
    })?;
    lab.live("a", pid.parse()?, "b", &[])?.refused(3, words)
}

/// Ends the other one; the rest may go.
fn alone(lab: &Lab, parent: &Proc, pid: &str) -> Result<()> {
    lab.run("a", &["kill", "-9", &parent.pid().to_string()], SOON)?;
    wait_until("the parent is gone", SOON, || {
        lab.run("a", &["cat", &format!("/proc/{}/maps", parent.pid())], SOON)
            .is_ok_and(|maps| maps.stdout.is_empty())
    })?;
    lab.live("a", pid.parse()?, "b", &["--verify"])?.moved()?;
    Ok(())
}

const QUIET: &str = "
f = os.open('/dev/null', os.O_RDWR)
for fd in (0, 1, 2): os.dup2(f, fd)
";

fn anonymous(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let child = QUIET.replace('\n', "\n  ");
    let script = format!(
        "import mmap, os, time\nm = mmap.mmap(-1, 4096)\npid = os.fork()\nif pid == 0:{child}\n  time.sleep(600)\n\
         print(pid)\ntime.sleep(600)"
    );
    let (parent, pid) = family(lab, &script)?;
    let holder =
        format!("this memory is also mapped by process {} (python3), which stays here", parent.pid());
    refused(lab, &pid, &["mapping 0x", &holder])?;
    alone(lab, &parent, &pid)
}

/// The other one lives on in another thread, and its pid shows nothing any more.
fn outlived(lab: &mut Lab) -> Result<()> {
    const KINDS: [(&str, &str); 3] = [
        ("memory", "this memory is also mapped by process {} (outlived), which stays here"),
        ("pipe", "this pipe is also held by process {} (outlived)"),
        ("clone", "its memory is shared with process {} (outlived), which stays here (CLONE_VM)"),
    ];
    lab.serve("b")?;
    for (kind, word) in KINDS {
        let other = lab.spawn("a", &[&victims::tool("outlived")?, kind])?;
        wait_until("the child is there", SOON, || other.output().contains('\n'))?;
        let pid = other.output().trim().to_owned();
        refused(lab, &pid, &[&word.replace("{}", &other.pid().to_string())]).with_context(|| kind)?;
        alone(lab, &other, &pid).with_context(|| kind)?;
    }
    Ok(())
}

fn shell(lab: &Lab, how: &str) -> Result<(Proc, String)> {
    let (dir, program) = (lab.dir().display(), victims::program("threads")?);
    let script = format!(
        "{{ sh -c 'echo $$ >{dir}/pid; exec {program} {dir}/stop'; echo ended; }} </dev/null {how}{dir}/log 2>&1"
    );
    let shell = lab.spawn("a", &["sh", "-c", &script])?;
    wait_until("the victim is ready", SOON, || said(lab).contains("ready"))?;
    Ok((shell, fs::read_to_string(lab.dir().join("pid"))?.trim().to_owned()))
}

fn said(lab: &Lab) -> String {
    fs::read_to_string(lab.dir().join("log")).unwrap_or_default()
}

fn finish(lab: &Lab) -> Result<()> {
    fs::write(lab.dir().join("stop"), "")?;
    wait_until("the victim's last word", SOON, || said(lab).contains("PASS"))
}

fn open_file(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let (shell, pid) = shell(lab, ">")?;
    let holder = format!("is shared with process {} (sh), which stays here", shell.pid());
    refused(lab, &pid, &["fd 1: ", "/log", "its position and flags", &holder, "--shared split"])?;
    let check = lab.run("a", &[ULPM, "check", "--pid", &pid, "--shared", "split"], SOON)?;
    ensure!(check.exit == 0 && check.stdout.contains(&holder), "{check:?}");
    let outcome = lab.live("a", pid.parse()?, "b", &["--verify", "--shared", "split"])?;
    outcome.moved()?;
    ensure!(outcome.report["notes"].to_string().contains(&holder), "{}", outcome.report);
    finish(lab)
}

fn appended(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let (shell, pid) = shell(lab, ">>")?;
    let outcome = lab.live("a", pid.parse()?, "b", &["--verify"])?;
    outcome.moved()?;
    let note = format!("is also held by process {} (sh)", shell.pid());
    ensure!(outcome.report["notes"].to_string().contains(&note), "{}", outcome.report);
    wait_until("the shell goes on", SOON, || said(lab).contains("ended"))?;
    finish(lab)?;
    ensure!(["ready", "ended", "PASS"].iter().all(|word| said(lab).contains(word)), "{}", said(lab));
    Ok(())
}
