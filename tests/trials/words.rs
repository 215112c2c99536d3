//! What ulpm says: names that are not ours stay names, many of a kind are one line, outcome and exit code agree.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::process::{Ended, Proc};
use crate::lab::{Lab, SOON, ULPM, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("words: names paint nothing", &[], names),
        trial("words: many of a kind are one line", &[Need::Program("python3")], many),
        trial("words: outcome and exit code agree", &[], outcomes),
        trial("words: verifying is a part of its own", &[], verifying),
        trial("words: who else is at work on it", &[], who_else),
        trial("words: that is this host", &[], this_host),
        trial("words: processes by their names", &[], by_name),
    ]
}

/// Begins a line that looks like ours, after clearing the screen.
const PAINT: &str = "x\x1b[2J\nulpm: moved";
const SEEN: &str = "x\\x1b[2J\\nulpm: mov";

/// A shell that waits, once it has done what the script says.
fn shell(lab: &Lab, script: &str, args: &[&str]) -> Result<Proc> {
    let script = format!("{script}\necho ready; exec sleep 1000");
    let process = lab.spawn("a", &[&["sh", "-c", &script, "sh"], args].concat())?;
    wait_until("the shell is ready", SOON, || process.output().contains("ready"))?;
    Ok(process)
}

fn run(lab: &Lab, args: &[&str]) -> Result<Ended> {
    lab.run("a", &[&[ULPM], args].concat(), SOON)
}

/// A process and a file of it, both with such a name.
fn names(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let file = lab.dir().join(PAINT).display().to_string();
    let program = lab.dir().join("bin").join(PAINT).display().to_string();
    fs::create_dir(lab.dir().join("bin"))?;
    fs::copy("/bin/sleep", &program)?;
    let shell = shell(lab, r#"exec 5>"$1"; rm "$1"; "$2" 1000 & "#, &[&file, &program])?;
    wait_until("the child has its name", SOON, || {
        run(lab, &["check", "--pid", &shell.pid().to_string()]).is_ok_and(|said| said.stdout.contains(SEEN))
    })?;
    let (pid, to) = (shell.pid().to_string(), lab.address("b"));
    for args in [
        &["check", "--pid", &pid, "--to", &to][..],
        &["check", "--pid", &pid, "--to", &to, "--json"],
        &["-vvv", "live", "--pid", &pid, "--to", &to],
        &["live", "--pid", &pid, "--to", &to, "--json"],
        &["profile", "--pid", &pid, "--seconds", "1"],
    ] {
        let said = run(lab, args)?;
        let all = format!("{}{}", said.stdout, said.stderr);
        ensure!(!all.contains('\x1b'), "{args:?}: an escape sequence: {all:?}");
        ensure!(!all.lines().any(|line| line.trim_start().starts_with("ulpm: mov")), "{args:?}: {all}");
        if args.last() == Some(&"--json") {
            let json: Value = serde_json::from_str(&said.stdout)?;
            let named = |o: &Value| o["object"].as_str().is_some_and(|object| object.contains(SEEN));
            ensure!(json["obstacles"].as_array().is_some_and(|all| all.iter().any(named)), "{json}");
        } else if args[0] != "profile" {
            ensure!(all.contains(&format!("/{SEEN}")), "{args:?}: the file is not named: {all}");
            ensure!(all.contains(&format!("({SEEN}")), "{args:?}: the child is not named: {all}");
        }
    }
    shell.signal(Signal::SIGKILL)
}

const HOLDER: &str = "
import os, sys, time
for name in sys.argv[1:]:
    os.open(name, os.O_CREAT | os.O_RDWR)
    os.unlink(name)
print('ready', flush=True)
time.sleep(1000)
";

fn many(lab: &mut Lab) -> Result<()> {
    let files: Vec<String> =
        (10..30).map(|n| lab.dir().join(format!("scratch-{n}")).display().to_string()).collect();
    let names: Vec<&str> = files.iter().map(String::as_str).collect();
    let process = lab.spawn("a", &[&["python3", "-c", HOLDER], &names[..]].concat())?;
    wait_until("the files are open", SOON, || process.output().contains("ready"))?;
    let pid = process.pid().to_string();
    let count = |text: &str| text.lines().filter(|line| line.contains("scratch-")).count();
    let short = run(lab, &["check", "--pid", &pid])?;
    ensure!(short.exit == 3 && count(&short.stdout) == 1, "{short:?}");
    let line = short.stdout.lines().find(|line| line.contains("scratch-")).unwrap_or_default();
    ensure!(line.contains("20 of one kind") && line.matches("scratch-").count() == 3, "{line}");
    let long = run(lab, &["-v", "check", "--pid", &pid])?;
    ensure!(count(&long.stdout) == 20, "{long:?}");
    lab.serve("b")?;
    let outcome = lab.live("a", process.pid(), "b", &[])?;
    ensure!(outcome.exit == 3 && count(&outcome.stderr) == 1, "{outcome:?}");
    let obstacles = outcome.report["obstacles"].as_array().context("no obstacles in the report")?;
    ensure!(obstacles.len() >= 20 && obstacles[0]["advice"].is_string(), "{}", outcome.report);
    ensure!(outcome.report["schema"] == 1 && outcome.report["notes"].is_array(), "{}", outcome.report);
    let check = run(lab, &["check", "--pid", &pid, "--json"])?;
    let check: Value = serde_json::from_str(&check.stdout)?;
    ensure!(check["schema"] == 1 && check["obstacles"].as_array().is_some_and(|o| o.len() >= 20), "{check}");
    process.signal(Signal::SIGKILL)
}

fn outcomes(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let agree = |outcome: &crate::lab::live::LiveOutcome, exit: i32, word: &str| {
        ensure!(outcome.exit == exit && outcome.outcome() == word, "{outcome:?}");
        Ok(())
    };
    agree(&lab.live("a", victim.pid, "b", &["--connect-timeout", "1"])?, 1, "failed")?;
    lab.serve("b")?;
    agree(&lab.live("a", 31_999, "b", &[])?, 1, "failed")?;
    // it ends in the first round
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--bandwidth", "20K"])?;
    wait_until("a round is under way", SOON, || live.errors().contains("round 0"))?;
    victim.finish()?;
    let ended = live.outcome()?;
    ensure!(ended.stderr.contains("ended by itself"), "{ended:?}");
    agree(&ended, 1, "failed")?;
    let shell = shell(lab, "sleep 1000 &", &[])?;
    agree(&lab.live("a", shell.pid(), "b", &[])?, 3, "refused")?;
    shell.signal(Signal::SIGKILL)
}

fn verifying(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "late")?;
    let outcome = lab.live("a", victim.pid, "b", &["--verify"])?;
    victim.pid = outcome.moved()?;
    victim.host = "b".to_owned();
    let part = |of: &str, name: &str| outcome.report[of][name].as_f64().unwrap_or_default();
    let verify = part("freeze_parts", "verify");
    // some 80 MiB are hashed
    ensure!(verify > 1.0, "{}", outcome.report);
    ensure!(part("predicted_freeze_parts", "verify") > 1.0, "{}", outcome.report);
    victim.finish()
}

/// A second `live` and `profile`, also by way of another `ULPM_HOME`.
fn who_else(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    let pid = victim.pid.to_string();
    let home = format!("ULPM_HOME={}", lab.dir().join("another").display());
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--bandwidth", "20K"])?;
    wait_until("a round is under way", SOON, || live.errors().contains("round 0"))?;
    let says = |verb: &str, command: &str, starter: i32| {
        let expected = format!("it is being {verb} by `ulpm {command}`, pid {starter}");
        for args in
            [&["check", "--pid", &pid][..], &["live", "--pid", &pid, "--to", "b:3490"], &["profile", &pid]]
        {
            let said = lab.run("a", &[&["env", &home, ULPM], args].concat(), SOON)?;
            let all = format!("{}{}", said.stdout, said.stderr);
            ensure!(said.exit == 3 && all.contains(&expected), "{args:?} does not say {expected}: {said:?}");
        }
        Ok(())
    };
    says("moved", "live", live.pid())?;
    live.signal(Signal::SIGINT)?;
    ensure!(live.outcome()?.exit == 4, "it was not ended");
    let mut profile = lab.spawn("a", &[ULPM, "profile", &pid, "--seconds", "600"])?;
    wait_until("it watches", SOON, || profile.errors().contains("watching process"))?;
    says("watched", "profile", profile.pid())?;
    profile.signal(Signal::SIGINT)?;
    profile.finish(SOON)?;
    let free = run(lab, &["check", "--pid", &pid])?;
    ensure!(free.exit == 0, "{free:?}");
    victim.check_running(lab)?;
    victim.finish()
}

fn this_host(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let own = lab.address("a");
    let silent = ["is an address of this host itself", "is `ulpm serve` running there?"];
    lab.live_to("a", victim.pid, &own, &["--connect-timeout", "2"])?.refused(1, &silent)?;
    lab.serve("a")?;
    lab.live_to("a", victim.pid, &own, &[])?.refused(1, &["is this host itself"])?;
    // also to one who trusts himself
    lab.trust("a", "a")?;
    lab.live_to("a", victim.pid, "localhost", &[])?.refused(1, &["localhost is this host itself"])?;
    victim.check_running(lab)?;
    victim.finish()
}

/// Leaves a child of that name behind when the shell is none any more.
const ENDS_AS_THREADS: &str =
    "sh -c 'printf threads >/proc/self/comm; until grep -q sleep /proc/$PPID/comm; do sleep 0.02; done' &";

fn by_name(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    // what has ended, and is never reaped, has its name and is no process
    let mut parent = shell(lab, ENDS_AS_THREADS, &[])?;
    let outside = parent.outside_pid();
    let zombie = || {
        let child = std::fs::read_to_string(format!("/proc/{outside}/task/{outside}/children"));
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.unwrap_or_default().trim()));
        stat.is_ok_and(|stat| stat.contains("(threads) Z"))
    };
    wait_until("it has ended", SOON, zombie)?;
    let found = run(lab, &["check", "threads", "b"])?;
    ensure!(
        found.exit == 0 && found.stdout.contains(&format!("process {} can be moved", victim.pid)),
        "{found:?}"
    );
    parent.signal(Signal::SIGKILL)?;
    parent.wait(SOON)?;
    let none = run(lab, &["check", "thread"])?;
    ensure!(none.exit == 1 && none.stderr.contains("no process is called thread"), "{none:?}");
    let other = Victim::start_until(lab, "stop-2", &[&crate::lab::victims::program("threads")?])?;
    let two = run(lab, &["live", "threads", "b"])?;
    let lists = [victim.pid, other.pid].iter().all(|pid| two.stderr.contains(&format!("; {pid}: ")));
    ensure!(two.exit == 2 && two.stderr.contains("2 processes are called threads") && lists, "{two:?}");
    other.finish()?;
    let moved = run(lab, &["live", "threads", "b", "--json"])?;
    let report: Value = serde_json::from_str(&moved.stdout)?;
    ensure!(moved.exit == 0 && report["outcome"] == "moved", "{moved:?}");
    victim.host = "b".to_owned();
    victim.pid = i32::try_from(report["target_pid"].as_i64().context("no target_pid")?)?;
    victim.check_running(lab)?;
    victim.finish()
}
