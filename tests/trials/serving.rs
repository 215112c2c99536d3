//! What `ulpm serve` keeps, says and asks for.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::victims::Victim;
use super::{trial, trial_in};
use crate::lab::memory_group::MemoryGroup;
use crate::lab::needs::Need;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, LabOptions, PORT, SOON, ULPM, wait_until};

/// How long a process is watched after what could have ended it.
const WORK: Duration = Duration::from_millis(500);

pub(super) fn trials() -> Vec<Trial> {
    let disks = || LabOptions { disks: true, ..LabOptions::default() };
    vec![
        trial_in(disks(), "serve forgets what is settled", &[], forgets),
        trial("serve says what arrives", &[], says),
        trial("serve ends without its processes", &[Need::Program("setpriv")], ends_alone),
        trial("serve in control groups", &[Need::MemoryGroup], groups),
        trial("serve out of memory", &[Need::MemoryGroup], out_of_memory),
        trial_in(disks(), "serve with a full disk", &[], full_disk),
        trial("serve hears nothing, or is not heard", &[], one_way),
    ]
}

/// Entries of the target's side at host `b`.
fn entries(lab: &Lab) -> usize {
    let list = fs::read_dir(lab.dir().join("disk-b/journal")).into_iter().flatten().flatten();
    list.filter(|f| f.file_name().to_string_lossy().ends_with(".target.journal")).count()
}

/// With the goodbye, which comes last of all; not without it.
fn forgets(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let moves =
        [(&["--verify"][..], 0), (&["--verify", "--lazy"], 0), (&["--fault", "source.closed=kill"], 1)];
    for (i, (args, left)) in moves.into_iter().enumerate() {
        let stop = format!("stop-{i}");
        let victim = Victim::start_until(lab, &stop, &[&crate::lab::victims::program("late")?])?;
        let outcome = lab.live("a", victim.pid, "b", args)?;
        ensure!(outcome.exit == if left == 0 { 0 } else { 5 }, "{outcome:?}");
        // the session has ended: the connection is gone
        wait_until("as many entries as expected", SOON, || entries(lab) == left)?;
        victim.finish()?;
    }
    Ok(())
}

fn check(lab: &Lab, pid: i32, exit: i32, words: &[&str]) -> Result<()> {
    let ended = lab.run("a", &[ULPM, "check", "--pid", &pid.to_string(), "--to", &lab.address("b")], SOON)?;
    ensure!(ended.exit == exit, "exit code {} instead of {exit}: {ended:?}", ended.exit);
    words.iter().try_for_each(|word| {
        ensure!(ended.stdout.contains(word), "it does not say {word:?}: {}", ended.stdout);
        Ok(())
    })
}

/// One line for each process, with the time; none for a question.
fn says(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let begun = lab.server("b")?.errors();
    check(lab, victim.pid, 0, &[])?;
    let mut live = lab.start_live("a", victim.pid, &lab.address("b"), &["--bandwidth", "20K"])?;
    wait_until("it is under way", SOON, || {
        live.errors().contains("round") || live.has_ended().unwrap_or(true)
    })?;
    live.signal(nix::sys::signal::Signal::SIGINT)?;
    let stayed = live.outcome()?;
    ensure!(stayed.exit == 4, "{stayed:?}");
    let (source, before) = (victim.pid, victim.outside_pid(lab)?);
    let outcome = lab.live("a", victim.pid, "b", &["--verify"])?;
    victim.moved(lab, &outcome, before, "b")?;
    let id = outcome.report["id"].as_str().context("no id")?.to_owned();
    let mut said = String::new();
    let of = format!("process {source} (threads) of {}", lab.link.a);
    wait_until("its arrival is told", SOON, || {
        said = lab.server("b").map(|s| s.errors()).unwrap_or_default()[begun.len()..].to_owned();
        said.lines().count() >= 2
    })?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines.len() == 2 && lines.iter().all(|l| l.contains(&of)), "{said}");
    // RFC 3339
    ensure!(lines.iter().all(|l| l.get(10..11) == Some("T") && l.contains(" INFO ")), "{said}");
    ensure!(lines[0].contains("does not come") && lines[0].contains("cancelled"), "{said}");
    let words = [&format!("has arrived: pid {} here, in ", victim.pid), "frozen for ", " ms", &id];
    ensure!(words.iter().all(|word| lines[1].contains(word)) && !said.contains('\x1b'), "{said}");
    victim.finish()
}

/// A group of its own, as long as the process lives; what it allows is asked for.
fn groups(lab: &mut Lab) -> Result<()> {
    let group = MemoryGroup::new(256 << 20)?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "late")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    if own.lines().any(|line| !line.ends_with(":/")) {
        check(lab, victim.pid, 0, &["note: control group: it will be that of ulpm serve there (/"])?;
    }
    stop(lab)?;
    let refused = lab.run("b", &[ULPM, "serve", "--cgroup", "/tmp"], SOON)?;
    ensure!(
        refused.exit == 1 && refused.stderr.contains("not the directory of a control group"),
        "{refused:?}"
    );
    lab.serve_with("b", &["--cgroup", &group.path()])?;
    group.limit(32 << 20)?;
    check(lab, victim.pid, 3, &["memory: the process needs ", " MiB more (/", "is 32.0 MiB"])?;
    group.limit(1 << 30)?;
    for mode in ["same", "namespace"] {
        let stop = format!("stop-{mode}");
        let mut next = Victim::start_until(lab, &stop, &[&crate::lab::victims::program("threads")?])?;
        let before = next.outside_pid(lab)?;
        let outcome = lab.live("a", next.pid, "b", &["--verify", "--pid-mode", mode])?;
        next.moved(lab, &outcome, before, "b")?;
        let id = outcome.report["id"].as_str().context("no id")?;
        let lives = fs::read_to_string(format!("/proc/{}/cgroup", next.outside_pid(lab)?))?;
        ensure!(lives.contains(&format!("/ulpm-{id}")), "it lives in {lives}");
        ensure!(group.below() == [format!("ulpm-{id}")], "{:?}", group.below());
        next.finish()?;
        wait_until("its group goes with it", SOON, || group.below().is_empty())?;
    }
    victim.move_to(lab, "b")?;
    // what is lived in stays, and its group
    stop(lab)?;
    lab.serve_with("b", &["--cgroup", &group.path()])?;
    ensure!(group.below().len() == 1, "{:?}", group.below());
    victim.check_running(lab)?;
    victim.finish()?;
    let outside = group.path();
    wait_until("nobody lives in it", SOON, || {
        group
            .below()
            .iter()
            .all(|b| fs::read_to_string(format!("{outside}/{b}/cgroup.procs")).is_ok_and(|p| p.is_empty()))
    })?;
    stop(lab)?;
    lab.serve_with("b", &["--cgroup", &group.path()])?;
    ensure!(group.below().is_empty(), "{:?}", group.below());
    Ok(())
}

/// Neither with the thread that saw it arrive, nor with the service, does a process end that is to be killed with its parent.
fn ends_alone(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let program = crate::lab::victims::program;
    let killed = ["setpriv", "--pdeathsig", "KILL", &program("threads")?];
    let mut victims = Vec::new();
    for (i, argv) in [&killed[..], &killed, &[&program("bare")?]].into_iter().enumerate() {
        let mut victim = Victim::start_until(lab, &format!("stop-{i}"), argv)?;
        let before = victim.outside_pid(lab)?;
        let mode = if i == 1 { "namespace" } else { "same" };
        let outcome = lab.live("a", victim.pid, "b", &["--verify", "--pid-mode", mode])?;
        victim.moved(lab, &outcome, before, "b")?;
        victims.push(victim);
    }
    std::thread::sleep(WORK);
    stop(lab)?;
    std::thread::sleep(WORK);
    victims.iter().try_for_each(|victim| victim.check_running(lab))?;
    lab.serve("b")?;
    victims.into_iter().try_for_each(Victim::finish)
}

fn stop(lab: &mut Lab) -> Result<()> {
    let server = lab.server("b")?;
    server.signal(nix::sys::signal::Signal::SIGTERM)?;
    server.wait(SOON)?.context("ulpm serve does not end")?;
    Ok(())
}

/// The limit falls while the memory is on its way.
fn out_of_memory(lab: &mut Lab) -> Result<()> {
    let group = MemoryGroup::new(1 << 30)?;
    lab.serve_with("b", &["--cgroup", &group.path()])?;
    let victim = Victim::start(lab, "late")?;
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--bandwidth", "40M"])?;
    wait_until("some of its memory is there", SOON, || group.used() > 16 << 20)?;
    group.limit(group.used().max(16 << 20) + (8 << 20))?;
    let outcome = live.outcome()?;
    let limit = ["killed there by the out-of-memory killer", "its control group allows", "runs on here"];
    outcome.refused(4, &limit)?;
    victim.check_running(lab)?;
    let said = lab.server("b")?.errors();
    ensure!(said.contains("out-of-memory killer"), "{said}");
    victim.finish()
}

/// `ULPM_HOME` is full at one side, and at the other; or cannot be written at all.
fn full_disk(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start(lab, "threads")?;
    for (host, whose) in [("a", "it cannot be written here"), ("b", "at the target")] {
        let journal = lab.dir().join(format!("disk-{host}/journal")).display().to_string();
        let fill = format!("dd if=/dev/zero of={journal}/filler bs=4k 2>/dev/null");
        let mount = format!("mkdir -p {journal} && mount -t tmpfs -o size=64k tmpfs {journal} && ! {fill}");
        for (make, why) in
            [(&*mount, "No space left"), (&*format!("mount -o remount,ro {journal}"), "Read-only")]
        {
            let made = lab.run(host, &["sh", "-c", make], SOON)?;
            ensure!(made.exit == 0, "{made:?}");
            check(lab, victim.pid, 3, &["journal", whose, why])?;
            lab.live("a", victim.pid, "b", &[])?.refused(3, &["journal", whose, why])?;
        }
        let unmounted = lab.run(host, &["umount", &journal], SOON)?;
        ensure!(unmounted.exit == 0, "{unmounted:?}");
    }
    check(lab, victim.pid, 0, &[])?;
    victim.finish()
}

/// Packets are lost one way: the side that hears nothing tells the other one. Both ways at once, in two moves.
fn one_way(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut moves = Vec::new();
    for forth in [true, false] {
        let stop = format!("stop-{forth}");
        let victim = Victim::start_until(lab, &stop, &[&crate::lab::victims::program("threads")?])?;
        let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
        let live = lab.start_live("a", victim.pid, &proxy.address(), &["--bandwidth", "20K"])?;
        // past preflight, in its first round
        wait_until("it is under way", SOON, || live.errors().contains("attaching"))?;
        proxy.lose_one_way(forth);
        moves.push((victim, proxy, live));
    }
    for (victim, _proxy, live) in moves {
        let outcome = live.outcome()?;
        outcome.refused(4, &["runs on here"])?;
        // the words of whoever heard nothing; a sender whose window is full falls silent, too
        let words = ["heard nothing from this host for 9 s", "did not answer within 10 s"];
        ensure!(words.iter().any(|words| outcome.stderr.contains(words)), "{}", outcome.stderr);
        victim.check_running(lab)?;
        victim.finish()?;
    }
    let mut said = String::new();
    wait_until("the target has noticed both", SOON, || {
        said = lab.server("b").map(|s| s.errors()).unwrap_or_default();
        said.matches("does not come").count() == 2
    })?;
    Ok(())
}
