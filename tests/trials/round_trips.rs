//! Many moves of one process there and back: nothing may be lost and nothing may grow.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, SOON, wait_until};

/// How often the process with 64 blocked threads is moved; `ULPM_MOVES` overrides it.
const MANY: u32 = 200;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = ["process", "fds", "threads", "timers"]
        .map(|name| trial(&format!("loop 10 moves of {name}"), &[], move |lab| ten(lab, name)))
        .into();
    trials.push(trial("loop 200 moves of blocking", &[], many));
    trials.push(trial("loop 10 moves of restarts after job control", &[], after_job_control));
    trials.push(trial("loop 4 moves of restarts remembered before they run", &[], before_they_run));
    trials
}

/// What must not grow.
#[derive(Debug, PartialEq, Eq)]
struct Size {
    victim_fds: usize,
    victim_maps: usize,
    serve_fds: [usize; 2],
    serve_maps: [usize; 2],
    processes: usize,
    namespaces: usize,
}

fn ten(lab: &mut Lab, name: &str) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, name)?;
    let mut sizes = Vec::new();
    for number in 0..10 {
        std::thread::sleep(Duration::from_millis(300));
        victim.move_to(lab, if number % 2 == 0 { "b" } else { "a" })?;
        if number % 2 == 1 {
            // Servers may take a moment to close what belonged to the move.
            std::thread::sleep(Duration::from_millis(500));
            sizes.push(size(lab, &victim)?);
        }
    }
    // The first round trip may warm things up (threads, buffers); from then on nothing may be added.
    let (first, last) = (&sizes[1], &sizes[4]);
    ensure!(last.victim_fds == first.victim_fds, "descriptors of the process: {sizes:?}");
    ensure!(last.victim_maps == first.victim_maps, "mappings of the process: {sizes:?}");
    ensure!(last.serve_fds == first.serve_fds, "descriptors of ulpm serve: {sizes:?}");
    for (last, first) in last.serve_maps.iter().zip(&first.serve_maps) {
        ensure!(*last <= first + 4, "mappings of ulpm serve: {sizes:?}");
    }
    ensure!(last.processes == first.processes, "processes in the hosts: {sizes:?}");
    ensure!(last.namespaces == first.namespaces, "namespaces in the hosts: {sizes:?}");
    victim.finish()
}

fn many(lab: &mut Lab) -> Result<()> {
    let moves = std::env::var("ULPM_MOVES").ok().and_then(|text| text.parse().ok()).unwrap_or(MANY);
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "blocking")?;
    for number in 0..moves {
        victim.move_to(lab, if number % 2 == 0 { "b" } else { "a" })?;
        std::thread::sleep(Duration::from_millis(50));
    }
    victim.check_running(lab)?;
    victim.finish()
}

/// Waits that somebody else interrupted, just before the move: the kernel shows `restart_syscall` instead of the call, and nobody
/// has noted which one it is.
fn after_job_control(lab: &mut Lab) -> Result<()> {
    lab.serve("a")?;
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "restarts")?;
    for number in 0..10 {
        std::thread::sleep(Duration::from_millis(300));
        let stop = format!("kill -STOP {0}; sleep 0.02; kill -CONT {0}", victim.pid);
        let ended = lab.run(&victim.host, &["sh", "-c", &stop], SOON)?;
        ensure!(ended.exit == 0, "{stop}: {ended:?}");
        victim.move_to(lab, if number % 2 == 0 { "b" } else { "a" })?;
    }
    victim.check_running(lab)?;
    victim.finish()
}

/// Who hears that a process runs may move it on at once: the ends of its waits are on the disk before the first thread is let go.
fn before_they_run(lab: &mut Lab) -> Result<()> {
    let mut victim = Victim::start(lab, "restarts")?;
    lab.serve("a")?;
    for _ in 0..2 {
        lab.serve_with_fault("b", "target.outlives=stop")?;
        let before = victim.outside_pid(lab)?;
        let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--verify"])?;
        let serve = lab.server("b")?.outside_pid();
        wait_until("ulpm serve in b has stopped", SOON, || {
            let stat = fs::read_to_string(format!("/proc/{serve}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })?;
        let remembered = fs::read_dir(lab.host("b").home().join("ulpm").join("waits"))
            .is_ok_and(|mut files| files.any(|file| file.is_ok_and(|f| names(&f, victim.pid))));
        lab.server("b")?.signal(Signal::SIGCONT)?;
        let outcome = live.outcome()?;
        victim.moved(lab, &outcome, before, "b")?;
        ensure!(remembered, "process {} was about to run, and nothing said when its waits end", victim.pid);
        victim.move_to(lab, "a")?;
        std::thread::sleep(Duration::from_millis(1500));
        victim.check_running(lab)?;
        lab.server("b")?.signal(Signal::SIGKILL)?;
        wait_until("ulpm serve in b has ended", SOON, || !lab.is_serving("b"))?;
    }
    victim.finish()
}

/// Whether a file is that of a process's waits.
fn names(file: &fs::DirEntry, pid: i32) -> bool {
    file.file_name().to_string_lossy().starts_with(&format!("{pid}-"))
}

fn size(lab: &mut Lab, victim: &Victim) -> Result<Size> {
    let outside = victim.outside_pid(lab)?;
    let serves = [lab.server("a")?.outside_pid(), lab.server("b")?.outside_pid()];
    let inits = ["a", "b"].map(|name| lab.host(name).init_pid().as_raw());
    let mut inside: Vec<i32> = inits.to_vec();
    let mut at = 0;
    while at < inside.len() {
        let pid = inside[at];
        inside.extend(children(pid));
        at += 1;
    }
    let mut namespaces = BTreeSet::new();
    for pid in &inside {
        for entry in fs::read_dir(format!("/proc/{pid}/ns")).into_iter().flatten().flatten() {
            namespaces.insert(fs::read_link(entry.path()).unwrap_or_default());
        }
    }
    Ok(Size {
        victim_fds: lasting_fds(outside)?,
        victim_maps: maps(outside)?,
        serve_fds: serves.map(|pid| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)),
        serve_maps: serves.map(|pid| maps(pid).unwrap_or(0)),
        processes: inside.len(),
        namespaces: namespaces.len(),
    })
}

/// Descriptors that a process has all the time: `process` opens a file for a moment now and then.
fn lasting_fds(pid: i32) -> Result<usize> {
    let mut least = usize::MAX;
    for _ in 0..20 {
        least = least.min(fs::read_dir(format!("/proc/{pid}/fd"))?.count());
        std::thread::sleep(Duration::from_millis(7));
    }
    Ok(least)
}

fn maps(pid: i32) -> Result<usize> {
    Ok(fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count())
}

fn children(pid: i32) -> Vec<i32> {
    let mut all = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let list = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    all
}
