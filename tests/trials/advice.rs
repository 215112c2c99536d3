//! The advice of a refusal, followed word for word: then the process moves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::victims::Victim;
use super::{trial, trial_in};
use crate::lab::live::LiveOutcome;
use crate::lab::needs::Need;
use crate::lab::{Lab, LabOptions, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    let private = || LabOptions { private: vec!["/srv".into()], ..LabOptions::default() };
    let strangers = LabOptions { strangers: true, ..LabOptions::default() };
    let util_linux = &[Need::Program("setsid"), Need::Program("script")];
    vec![
        trial_in(private(), "advice: a file that is not there", &[], copied),
        trial_in(private(), "advice: a log that is written", &[Need::Program("bash")], no_log),
        trial_in(private(), "advice: a file without a name", &[Need::Program("bash")], nameless),
        trial("advice: a terminal", util_linux, no_terminal),
        trial("advice: a namespace", &[Need::Program("unshare"), Need::Program("nsenter")], entered),
        trial_in(strangers, "advice: users", &[], users),
        trial("advice: java", &[Need::Program("java")], java),
    ]
}

/// Insists on a refusal with one obstacle whose object or reason names `what`; gives its advice.
fn advice(outcome: &LiveOutcome, what: &str) -> Result<String> {
    ensure!(outcome.exit == 3, "{outcome:?}");
    let obstacles = outcome.report["obstacles"].as_array().context("no obstacles")?;
    let text =
        |obstacle: &serde_json::Value, field: &str| obstacle[field].as_str().unwrap_or_default().to_owned();
    let about = obstacles.iter().find(|o| text(o, "object").contains(what) || text(o, "why").contains(what));
    Ok(text(about.with_context(|| format!("nothing about {what}: {}", outcome.report))?, "advice"))
}

fn says(advice: &str, words: &str) -> Result<()> {
    ensure!(advice.contains(words), "the advice is: {advice}");
    Ok(())
}

/// A script that has its file open, and goes on until the stop file is there.
fn holding(lab: &Lab, open: &str) -> Result<Victim> {
    let script =
        format!("{open}; echo ready; while [ ! -e \"$1\" ]; do read -t 1 x </dev/null; done; echo PASS");
    Victim::start_command(lab, &["bash", "-c", &script, "bash"])
}

fn moves(lab: &Lab, mut victim: Victim) -> Result<()> {
    victim.move_to(lab, "b")?;
    victim.check_running(lab)?;
    victim.finish()
}

fn copied(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    ensure!(lab.run("a", &["sh", "-c", "echo text >/srv/text"], SOON)?.exit == 0, "no file");
    let victim = holding(lab, "exec 5</srv/text")?;
    says(&advice(&lab.live("a", victim.pid, "b", &[])?, "/srv/text")?, "copy the file to the target")?;
    ensure!(lab.run("b", &["sh", "-c", "echo text >/srv/text"], SOON)?.exit == 0, "no copy");
    moves(lab, victim)
}

fn no_log(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = holding(lab, "exec 5>>/srv/log")?;
    let advice = advice(&lab.live("a", victim.pid, "b", &[])?, "/srv/log")?;
    ensure!(!advice.contains("copy"), "{advice}");
    says(&advice, "start the program with /dev/null in its place")?;
    victim.finish()?;
    fs::remove_file(lab.dir().join("stop"))?;
    moves(lab, holding(lab, "exec 5>>/dev/null")?)
}

/// One that was deleted, one that was replaced, as by the rotation of a log, and one that has another name.
fn nameless(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let scratch = "exec 5>/srv/scratch; rm /srv/scratch; trap 'exec 5>&-' USR1";
    let linked = "echo new >/srv/one; exec 7</srv/one; ln /srv/one /srv/two; rm /srv/one";
    let rotated = format!(
        "exec 6</srv/log; echo new >/srv/fresh; mv /srv/fresh /srv/log; {scratch}; {linked}; \
         trap 'exec 6</srv/log 7</srv/two' HUP"
    );
    ensure!(lab.run("a", &["sh", "-c", "echo old >/srv/log"], SOON)?.exit == 0, "no log");
    let victim = holding(lab, &rotated)?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    says(&advice(&outcome, "/srv/scratch")?, "try again when the program has closed it")?;
    says(&advice(&outcome, "/srv/log")?, "open the new file (most reopen their logs on SIGHUP")?;
    let find = advice(&outcome, "/srv/one")?;
    says(&find, "have the program open it by the name that it has now (find MOUNT -xdev -inum ")?;
    let (_, find) = find.trim_end_matches(')').split_once("(find MOUNT ").context("no command")?;
    let found = lab.run("a", &["sh", "-c", &format!("find /srv {find}")], SOON)?;
    ensure!(found.stdout.trim() == "/srv/two", "{found:?}");
    ensure!(lab.run("b", &["sh", "-c", "echo new | tee /srv/log >/srv/two"], SOON)?.exit == 0, "no copy");
    let pid = victim.pid.to_string();
    for signal in ["-HUP", "-USR1"] {
        ensure!(lab.run("a", &["kill", signal, &pid], SOON)?.exit == 0, "no signal");
    }
    wait_until("both are open anew, or closed", SOON, || {
        let open = lab.run("a", &["sh", "-c", &format!("readlink /proc/{pid}/fd/*")], SOON);
        open.is_ok_and(|open| !open.stdout.contains("(deleted)"))
    })?;
    moves(lab, victim)
}

fn no_terminal(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let (program, stop) = (victims::program("threads")?, lab.dir().join("stop").display().to_string());
    let command = format!("{program} {stop}");
    let script = lab.spawn("a", &["script", "-qc", &format!("exec {command}"), "/dev/null"])?;
    let find = || -> Result<i32> {
        let found = lab.run("a", &["pgrep", "-x", "threads"], SOON)?;
        found.stdout.trim().parse().with_context(|| format!("{found:?}"))
    };
    wait_until("it runs at a terminal", SOON, || find().is_ok() && script.output().contains("ready"))?;
    let advice = advice(&lab.live("a", find()?, "b", &["--parent-knows"])?, "terminal")?;
    let (_, way) = advice.split_once(": ").with_context(|| advice.clone())?;
    fs::write(&stop, "")?;
    wait_until("it has ended", SOON, || find().is_err())?;
    fs::remove_file(&stop)?;
    // the shell is there until the end of the lab: it tells nobody that its child is gone
    let way = format!("{} wait", way.replace("PROGRAM", &command));
    let shell = lab.spawn("a", &["sh", "-c", &way])?;
    let open = |pid: i32| lab.run("a", &["sh", "-c", &format!("readlink /proc/{pid}/fd/1")], SOON);
    wait_until("it runs without one", SOON, || {
        find().and_then(open).is_ok_and(|open| open.stdout.trim() == "/dev/null")
    })?;
    let pid = find()?;
    lab.live("a", pid, "b", &["--parent-knows", "--verify"])?.moved()?;
    fs::write(&stop, "")?;
    shell.signal(Signal::SIGKILL).or(Ok(()))
}

/// The whole command is in the advice, but for the rest of its own arguments.
fn entered(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let program = victims::program("threads")?;
    let mut victim = Victim::start_command(lab, &["unshare", "--uts", "--ipc", &program])?;
    let advice = advice(&lab.live("a", victim.pid, "b", &[])?, "uts namespace")?;
    let way = advice.strip_suffix(" ulpm live …").with_context(|| advice.clone())?;
    ensure!(way == format!("nsenter --target {} --ipc --uts", victim.pid), "{advice}");
    let before = victim.outside_pid(lab)?;
    let wrapper: Vec<&str> = way.split(' ').collect();
    let live = lab.start_live_under(&wrapper, "a", victim.pid, &lab.address("b"), &["--verify"])?;
    victim.moved(lab, &live.outcome()?, before, "b")?;
    victim.finish()
}

fn users(lab: &mut Lab) -> Result<()> {
    let shown = |host: &str| -> Result<String> {
        Ok(lab.run(host, &[ULPM, "trust", "show"], SOON)?.stdout.trim().to_owned())
    };
    let (a, b) = (shown("a")?, shown("b")?);
    for (host, peer) in [("a", &b), ("b", &a)] {
        let added = lab.run(host, &[ULPM, "trust", "add", peer], SOON)?;
        ensure!(added.exit == 0, "{added:?}");
    }
    lab.serve_untrusted("b", &[])?;
    let victim = Victim::start(lab, "threads")?;
    let advice = advice(&lab.live("a", victim.pid, "b", &[])?, "user root")?;
    let way = advice.strip_prefix("at the target: ulpm ").with_context(|| advice.clone())?;
    let argv: Vec<&str> = [ULPM].into_iter().chain(way.split(' ')).collect();
    let followed = lab.run("b", &argv, SOON)?;
    ensure!(followed.exit == 0, "{argv:?}: {followed:?}");
    moves(lab, victim)
}

/// A JVM maps a file of figures about itself, which no other host has.
fn java(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let source = lab.dir().join("Sleeper.java");
    let text = "class Sleeper { public static void main(String[] a) throws Exception { System.out.println(\"ready\"); Thread.sleep(1000000); } }";
    fs::write(&source, text)?;
    let source = source.display().to_string();
    let start = |options: &[&str]| {
        let argv = [&["java", "-Xmx64m"], options, &[&source]].concat();
        let process = lab.spawn_with("a", &argv, &BTreeMap::new())?;
        wait_until("the JVM is ready", SOON * 3, || process.output().contains("ready"))?;
        Ok::<_, anyhow::Error>(process)
    };
    // the hosts share /tmp: there it is made another's file
    let first = start(&[])?;
    let figures = format!("/tmp/hsperfdata_root/{}", first.pid());
    ensure!(Path::new(&figures).exists(), "{figures} is not there");
    let empty = lab.dir().join("empty").display().to_string();
    fs::write(&empty, "")?;
    ensure!(lab.run("b", &["mount", "--bind", &empty, &figures], SOON)?.exit == 0, "no mount");
    let outcome = lab.live("a", first.pid(), "b", &["--parent-knows"])?;
    says(&advice(&outcome, "hsperfdata")?, "-XX:-UsePerfData, or with -XX:+PerfDisableSharedMem")?;
    first.signal(Signal::SIGKILL)?;
    for option in ["-XX:-UsePerfData", "-XX:+PerfDisableSharedMem"] {
        let process = start(&[option])?;
        let outcome = lab.live("a", process.pid(), "b", &["--verify", "--parent-knows"])?;
        let said = format!("{}", outcome.report);
        ensure!(!said.contains("hsperfdata"), "{option}: {said}");
        outcome.moved().with_context(|| option.to_owned())?;
    }
    Ok(())
}
