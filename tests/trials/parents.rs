//! Who started the process: named before anything is stopped, and told what it will see; one that starts a second copy is
//! in the way, and the advice helps.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::lab::needs::Need;
use crate::lab::process::Ended;
use crate::lab::systemd::Systemd;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("parent is a shell", &[], shell),
        trial("parent is a supervisor by name", &[], by_name),
        trial("parent is runit", &[Need::Program("runsv"), Need::Program("sv")], runit),
        trial("parent is systemd", &[Need::Systemd], systemd),
    ]
}

fn expect(ended: &Ended, exit: i32, words: &[&str]) -> Result<()> {
    ensure!(ended.exit == exit, "exit code {} instead of {exit}: {ended:?}", ended.exit);
    let said = format!("{} {}", ended.stdout, ended.stderr);
    words.iter().try_for_each(|word| {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
        Ok(())
    })
}

/// A command that starts the victim with files of its own, and leaves its pid in `pid`.
fn start(lab: &Lab) -> Result<String> {
    let (dir, program) = (lab.dir().display(), victims::program("threads")?);
    Ok(format!("sh -c 'echo $$ >{dir}/pid; exec {program} {dir}/stop' </dev/null >>{dir}/victim 2>&1"))
}

fn said(lab: &Lab, file: &str) -> String {
    fs::read_to_string(lab.dir().join(file)).unwrap_or_default()
}

fn ready(lab: &Lab) -> Result<String> {
    wait_until("the victim is ready", SOON, || said(lab, "victim").contains("ready"))
        .with_context(|| said(lab, "victim"))?;
    Ok(said(lab, "pid").trim().to_owned())
}

/// It passes there, and was started once.
fn finish(lab: &Lab) -> Result<()> {
    fs::write(lab.dir().join("stop"), "")?;
    wait_until("the victim's last word", SOON, || said(lab, "victim").contains("PASS"))?;
    ensure!(said(lab, "victim").matches("ready").count() == 1, "a second copy: {}", said(lab, "victim"));
    Ok(())
}

fn script(lab: &Lab, name: &str, text: &str) -> Result<String> {
    let path = lab.dir().join(name);
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.display().to_string())
}

fn shell(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let parent = lab.spawn("a", &["sh", "-c", &format!("{}\necho status $?", start(lab)?)])?;
    let (pid, address) = (ready(lab)?, lab.address("b"));
    let note = format!("note: parent {} (sh): a shell: it sees process {pid} killed", parent.pid());
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?, 0, &[&note, "if it loops"])?;
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid, "--to", &address], SOON)?, 0, &[&note])?;
    let outcome = lab.live("a", pid.parse()?, "b", &["--verify"])?;
    outcome.moved()?;
    let notes = outcome.report["notes"].to_string();
    ensure!(notes.contains("a shell") && notes.contains("status 137"), "{notes}");
    wait_until("the shell sees what was said", SOON, || parent.output().contains("status 137"))?;
    finish(lab)
}

fn by_name(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let supervisor = script(lab, "s6-supervise", &format!("#!/bin/sh\n{}\necho status $?\n", start(lab)?))?;
    lab.spawn("a", &[&supervisor])?;
    let pid = ready(lab)?;
    let words = ["(s6-supervise): a supervisor (s6)", "second copy", "--parent-knows"];
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?, 3, &words)?;
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid, "--parent-knows"], SOON)?, 0, &words[..2])?;
    lab.live("a", pid.parse()?, "b", &[])?.refused(3, &words)?;
    let outcome = lab.live("a", pid.parse()?, "b", &["--verify", "--parent-knows"])?;
    outcome.moved()?;
    ensure!(outcome.report["notes"].to_string().contains("a supervisor (s6)"), "{}", outcome.report);
    finish(lab)
}

/// The advice is followed.
fn runit(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let service = lab.dir().join("service");
    fs::create_dir(&service)?;
    script(lab, "service/run", &format!("#!/bin/sh\nexec {}\n", start(lab)?))?;
    let service = service.display().to_string();
    let runsv = lab.spawn("a", &["runsv", &service])?;
    let pid = ready(lab)?;
    let advice = format!("sv once {service}");
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?, 3, &["a supervisor (runit)", &advice])?;
    expect(&lab.run("a", &["sh", "-c", &advice], SOON)?, 0, &[])?;
    lab.live("a", pid.parse()?, "b", &["--verify", "--parent-knows"])?.moved()?;
    wait_until("runit has seen the end", SOON, || {
        lab.run("a", &["sv", "status", &service], SOON).is_ok_and(|said| said.stdout.starts_with("down:"))
    })?;
    finish(lab)?;
    runsv.signal(nix::sys::signal::Signal::SIGTERM)
}

/// The advice is followed, too.
fn systemd(lab: &mut Lab) -> Result<()> {
    const UNIT: &str = "tried.service";
    lab.serve("b")?;
    let command = script(lab, "start", &format!("#!/bin/sh\nexec {}\n", start(lab)?))?;
    let mark = format!("Environment={}={}", crate::lab::strays::MARK, std::process::id());
    let text = format!("[Service]\n{mark}\nExecStart={command}\nRestart=always\nRestartSec=10ms\n");
    let systemd = Systemd::boot(lab, "a", &[(UNIT, &text)])?;
    systemd.succeed(lab, &["systemctl", "start", UNIT])?;
    let (pid, address) = (ready(lab)?, lab.address("b"));
    let fingerprint = systemd.succeed(lab, &[ULPM, "trust", "show"])?;
    let trusted = lab.run("b", &[ULPM, "trust", "add", &fingerprint, "--users", "any"], SOON)?;
    expect(&trusted, 0, &[])?;
    let there = lab.run("b", &[ULPM, "trust", "show"], SOON)?.stdout;
    systemd.succeed(lab, &[ULPM, "trust", "add", there.trim()])?;
    let inside = ["nsenter", "--target", "1", "--ipc", "--uts", "--", ULPM];
    let check =
        |lab: &Lab| systemd.run(lab, &[&inside[..], &["check", "--pid", &pid, "--to", &address]].concat());
    let words = ["unit tried.service: Restart=always", "second copy", "RestartPreventExitStatus=SIGKILL"];
    expect(&check(lab)?, 3, &words)?;
    // what `systemctl edit` writes; here units lie elsewhere
    let drop_in = lab.dir().join(format!("units/{UNIT}.d"));
    fs::create_dir(&drop_in)?;
    fs::write(drop_in.join("override.conf"), "[Service]\nRestartPreventExitStatus=SIGKILL\n")?;
    systemd.succeed(lab, &["systemctl", "daemon-reload"])?;
    expect(
        &check(lab)?,
        0,
        &["note: parent 1 (systemd), unit tried.service: Restart=always", "no second copy"],
    )?;
    let live = ["live", "--pid", &pid, "--to", &address, "--verify"];
    let moved = systemd.run(lab, &[&inside[..], &live].concat())?;
    expect(&moved, 0, &[])?;
    let show = ["systemctl", "show", "-P", "NRestarts", UNIT];
    wait_until("the unit has failed", SOON, || {
        systemd.run(lab, &["systemctl", "is-failed", UNIT]).is_ok_and(|failed| failed.exit == 0)
    })?;
    ensure!(systemd.succeed(lab, &show)? == "0", "it was started again");
    finish(lab)
}
