//! A main thread that has ended while others live, or that ends while its process is moved. The victim `leader` checks what the
//! process sees of itself, in every way (`variants leader`); here are more moments in which a move is given up, or its worker killed.
//!
//! `ULPM_LEAVING=300 cargo test --test moves -- "main threads that end"` moves that many processes, the main thread of each of which
//! ends at a bad moment (`tests/lab/tools/leaving.c`), and says how it went; 24 if it is not set.

use std::collections::BTreeMap;
use std::fs;
use std::io::IoSlice;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;

use super::confined::{given_up_at, profile, status};
use super::trial;
use super::victims::{Victim, is_gone};
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

/// Each a move that comes to nothing: before the stop, in it, after all was captured, when all was prepared, at the target.
const FAULTS: [&str; 4] = [
    "source.furnished=memory",
    "source.captured=memory",
    "source.sent=memory",
    "source.journal.committed=full",
];

pub(super) fn trials() -> Vec<Trial> {
    let moved = std::env::var("ULPM_LEAVING").ok().and_then(|n| n.parse().ok()).unwrap_or(24);
    let mut all = vec![
        trial("leader is watched, given up and moved", &[], given_up),
        trial("leader is settled by recover", &[], settled),
        trial("main threads that end while their processes move", &[], move |lab| leaving(lab, moved, &[])),
        trial("main threads that end while their processes move lazily", &[], move |lab| {
            leaving(lab, moved / 2, &["--lazy"])
        }),
    ];
    all.extend(
        ["wp-scan", "checksum"]
            .map(|tracker| trial(&format!("leader by {tracker}"), &[], move |lab| by_tracker(lab, tracker))),
    );
    all
}

/// Neither a profile nor a move that comes to nothing changes anything of it.
fn given_up(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "leader")?;
    let watched = profile(lab, victim.pid)?;
    ensure!(watched.exit == 0 && watched.stdout.contains("has ended"), "{watched:?}");
    victim.check_running(lab)?;
    let check = lab.run("a", &[ULPM, "check", "--pid", &victim.pid.to_string()], SOON)?;
    ensure!(check.exit == 0, "{check:?}");
    for fault in FAULTS {
        given_up_at(lab, &victim, fault)?;
        ensure!(status(victim.outside_pid(lab)?, "State")?.starts_with('Z'), "{fault}: its main thread");
    }
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn by_tracker(lab: &mut Lab, tracker: &str) -> Result<()> {
    lab.serve("b")?;
    lab.serve("a")?;
    let mut victim = Victim::start(lab, "leader")?;
    for to in ["b", "a"] {
        let before = victim.outside_pid(lab)?;
        let outcome = lab.live(&victim.host, victim.pid, to, &["--verify", "--tracker", tracker])?;
        victim.moved(lab, &outcome, before, to)?;
    }
    victim.finish()
}

/// `ulpm live` is gone in the middle: before the commit the process runs on, after it `ulpm recover` says where.
fn settled(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    for (point, moved) in [("source.held", false), ("source.commit.sent", true)] {
        let mut victim = Victim::start_until(lab, point, &[&victims::program("leader")?])?;
        let before = victim.outside_pid(lab)?;
        let (pid, to) = (victim.pid.to_string(), lab.address("b"));
        let fault = format!("{point}=kill");
        lab.run("a", &[ULPM, "--fault", &fault, "live", "--pid", &pid, "--to", &to], 3 * SOON)?;
        wait_until("ulpm recover settles it", SOON, || {
            lab.run("a", &[ULPM, "recover"], 3 * SOON).is_ok_and(|recovered| recovered.exit == 0)
        })?;
        ensure!(is_gone(before) == moved, "{point}: the copy at the source");
        if moved {
            victim.host = "b".to_owned();
        }
        victim.check_running(lab).context(point)?;
        victim.finish().context(point)?;
    }
    Ok(())
}

/// The main thread ends when it has been seized that many times, or not at all, and how many microseconds after that at most.
const MOMENTS: [(u32, u64); 6] = [(2, 60), (1, 60), (0, 400_000), (2, 600), (1, 1_000), (2, 5_000)];

/// Every process moves, or runs on where it was; none is harmed.
fn leaving(lab: &mut Lab, moved: u64, args: &[&str]) -> Result<()> {
    lab.serve("b")?;
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    for i in 0..moved {
        let (times, most) = MOMENTS[(i % MOMENTS.len() as u64) as usize];
        let later = 1 + (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % most;
        let what = format!("{later} us after it was seized {times} times");
        let stop = format!("stop-{i}");
        let mut victim = Victim::start_until(lab, &stop, &[&victims::tool("leaving")?])?;
        let before = victim.outside_pid(lab)?;
        let said = victim.said();
        let at =
            said.lines().find_map(|line| line.strip_prefix("leave 0x")).context("it does not say where")?;
        let at = usize::from_str_radix(at, 16)?;
        let done = AtomicBool::new(false);
        let outcome = std::thread::scope(|scope| {
            scope.spawn(|| tell_to_leave(before, at, (times, later), &done));
            let outcome = lab.live("a", victim.pid, "b", &[&["--verify"], args].concat());
            done.store(true, Relaxed);
            outcome
        })?;
        if outcome.outcome() == "moved" {
            victim.moved(lab, &outcome, before, "b").context(what.clone())?;
        } else {
            let said = format!("{what}: {outcome:?}");
            ensure!(said.contains("runs on here") || said.contains("nothing was touched"), "{said}");
            println!("not moved: {what}: {}", outcome.report["error"]);
        }
        let ended = status(victim.outside_pid(lab)?, "State")?.starts_with('Z');
        *ends.entry(format!("seized {times} times: {}, ended {ended}", outcome.outcome())).or_default() += 1;
        victim.check_running(lab).context(what.clone())?;
        victim.finish().context(what)?;
        fs::remove_file(lab.dir().join(stop))?;
    }
    for (end, count) in &ends {
        println!("{count:4} {end}");
    }
    let unmoved: u64 = ends.iter().filter(|(end, _)| !end.contains("moved")).map(|(_, count)| count).sum();
    ensure!(unmoved * 10 <= moved, "{unmoved} of {moved} did not move: {ends:?}");
    Ok(())
}

/// Sees the main thread seized that often, and writes to its memory how many microseconds later it shall end.
fn tell_to_leave(outside: i32, at: usize, (times, later): (u32, u64), done: &AtomicBool) {
    let seized = || status(outside, "TracerPid").is_ok_and(|tracer| tracer != "0");
    let (mut left, mut was) = (times, false);
    while left > 0 && !done.load(Relaxed) {
        let is = seized();
        left -= u32::from(is && !was);
        was = is;
    }
    let bytes = later.to_le_bytes();
    let remote = [RemoteIoVec { base: at, len: bytes.len() }];
    // it may have gone, or been moved: then it ends at its stop file
    let _ = process_vm_writev(Pid::from_raw(outside), &[IoSlice::new(&bytes)], &remote);
}
