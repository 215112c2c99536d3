//! The other commands, as a new user meets them: `check`, `recover`, `serve`.

use std::fs;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use serde_json::Value;

use super::trial;
use super::victims::Victim;
use crate::lab::process::Ended;
use crate::lab::{Lab, SOON, ULPM};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("check a process and a target", &[], check),
        trial("check names what is in the way", &[], check_obstacles),
        trial("recover without anything open", &[], recover_nothing),
        trial("recover with damaged records", &[], recover_damaged),
        trial("serve on a taken port", &[], taken_port),
    ]
}

fn expect(ended: &Ended, exit: i32, words: &[&str]) -> Result<()> {
    ensure!(ended.exit == exit, "exit code {} instead of {exit}: {ended:?}", ended.exit);
    let said = format!("{} {}", ended.stdout, ended.stderr);
    for word in words {
        ensure!(said.contains(word), "it does not say {word:?}: {said}");
    }
    Ok(())
}

fn check(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let (pid, address) = (victim.pid.to_string(), lab.address("b"));
    expect(
        &lab.run("a", &[ULPM, "check"], SOON)?,
        0,
        &["to send", "to receive", "this kernel has: ", "clone3"],
    )?;
    expect(&lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?, 0, &["can be moved"])?;
    let there = lab.run("a", &[ULPM, "check", "--pid", &pid, "--to", &address, "--json"], SOON)?;
    expect(&there, 0, &[])?;
    let findings: Value = serde_json::from_str(&there.stdout)?;
    ensure!(findings["obstacles"] == Value::Array(Vec::new()) && findings["error"].is_null(), "{findings}");
    expect(&lab.run("a", &[ULPM, "check", "--to", &address], SOON)?, 2, &["--pid"])?;
    victim.check_running(lab)?;
    victim.finish()
}

fn check_obstacles(lab: &mut Lab) -> Result<()> {
    let gone = lab.run("a", &[ULPM, "check", "--pid", "31999", "--json"], SOON)?;
    expect(&gone, 1, &["no such process"])?;
    serde_json::from_str::<Value>(&gone.stdout)?;
    let script = format!("{ULPM} check --pid $$; exit $?");
    expect(&lab.run("a", &["sh", "-c", &script], SOON)?, 3, &["child processes", "ulpm"])?;
    // Nothing is in the way here, and nobody can be asked there.
    let victim = Victim::start(lab, "threads")?;
    let (pid, address) = (victim.pid.to_string(), lab.address("b"));
    let absent = lab.run("a", &[ULPM, "check", "--pid", &pid, "--to", &address], SOON)?;
    expect(&absent, 1, &["is `ulpm serve` running there?"])?;
    victim.finish()
}

fn recover_nothing(lab: &mut Lab) -> Result<()> {
    expect(&lab.run("a", &[ULPM, "recover"], SOON)?, 0, &["nothing is open"])?;
    expect(&lab.run("a", &[ULPM, "recover", "--id", "nonsense"], SOON)?, 1, &["no migration nonsense"])
}

fn recover_damaged(lab: &mut Lab) -> Result<()> {
    expect(&lab.run("a", &[ULPM, "trust", "show"], SOON)?, 0, &["SHA256:"])?;
    let journal = lab.host("a").home().join("ulpm/journal");
    fs::create_dir(&journal)?;
    fs::write(journal.join("short.source.journal"), "x")?;
    fs::write(journal.join("zeroes.source.journal"), vec![0; 4096])?;
    // One of the target's side, and a stranger.
    fs::write(journal.join("other.target.journal"), "x")?;
    fs::write(journal.join("README"), "x")?;
    let both = lab.run("a", &[ULPM, "recover"], SOON)?;
    expect(&both, 5, &["short: still open", "zeroes: still open", "kill -CONT", "zeroes.source.journal"])?;
    ensure!(both.stdout.contains("other: its record cannot be read"), "{both:?}");
    expect(&lab.run("a", &[ULPM, "recover", "--id", "short"], SOON)?, 5, &["short: still open"])?;
    ensure!(journal.join("short.source.journal").exists(), "a record was removed");
    Ok(())
}

fn taken_port(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let second = lab.run("b", &[ULPM, "serve", "--listen", "0.0.0.0:3490"], SOON)?;
    expect(&second, 1, &["0.0.0.0:3490", "is `ulpm serve` running already?", "in use"])
}
