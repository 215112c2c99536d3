//! The worker of `ulpm live` killed at any moment of attach and freeze: whatever it was doing inside the process, the
//! process goes on as it was. A kill that came too late, when the process had moved, is repeated after half the time, so that each
//! hits; the process at the target is looked at, and its copy is gone.
//!
//! `ULPM_KILLS=100 cargo test --test moves -- "killed at random"` kills it a hundred times under each workload, at moments
//! that `ULPM_SEED` (0 if not set) decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::aborts::trace_of;
use super::faults::{Case, End, serve, settle, whereabouts};
use super::trial_in;
use super::victims::{Victim, is_gone};
use crate::lab::{Lab, LabOptions, SOON, wait_until};

/// All registers, the extended ones too; threads that come and go; one in which nothing can be mapped.
const WORKLOADS: [&str; 3] = ["registers", "threads", "narrow"];
/// Points, and for how many microseconds what follows lasts.
const WINDOWS: [(&str, u64); 4] =
    [("source.ready", 1500), ("source.frozen", 600), ("source.frozen", 2500), ("source.furnished", 2500)];

pub(super) fn trials() -> Vec<Trial> {
    let number = |name: &str| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (kills, seed) = (number("ULPM_KILLS").unwrap_or(6), number("ULPM_SEED").unwrap_or(0));
    let one = |name: &'static str| {
        let options = LabOptions { disks: true, ..LabOptions::default() };
        trial_in(options, &format!("killed at random under {name}"), &[], move |lab| {
            at_random(lab, name, kills, seed)
        })
    };
    WORKLOADS.into_iter().map(one).collect()
}

fn at_random(lab: &mut Lab, workload: &str, kills: u64, seed: u64) -> Result<()> {
    serve(lab)?;
    let mut victim = Victim::start(lab, workload)?;
    let (mut hits, mut late) = (0, 0);
    let mut kills = (0..kills).map(|i| {
        let (point, most) = WINDOWS[(i % WINDOWS.len() as u64) as usize];
        (point, 1 + scattered(seed, i) % most)
    });
    let mut next = kills.next();
    while let Some((point, moment)) = next {
        let case = Case::some_time_after(point);
        let what = format!("{point}, {moment} us later");
        let outside = victim.outside_pid(lab)?;
        let mut before = trace_of(outside)?;
        // more is blocked in the moment in which it makes a thread
        for _ in 0..5 {
            let again = trace_of(outside)?;
            if again["SigBlk"] < before["SigBlk"] {
                before = again;
            }
        }
        let fault = if moment == 0 { format!("{point}=kill") } else { format!("{point}=late:{moment}") };
        let live = lab.start_live("a", victim.pid, "b:3490", &["--fault", &fault])?;
        let outcome = live.outcome()?;
        lab.note(format!("{what}: {outcome:?}"));
        settle(lab, case).context(what.clone())?;
        let end = whereabouts(lab, case, victim.pid).context(what.clone())?;
        if end == End::Target {
            late += 1;
            ensure!(moment > 0, "{what}: it was killed at once, and the process has moved");
            ensure!(is_gone(outside), "{what}: the copy at the source is still there");
            victim.host = "b".to_owned();
            victim.check_running(lab).context(what.clone())?;
            victim.finish().context(what)?;
            fs::remove_file(lab.dir().join("stop"))?;
            victim = Victim::start(lab, workload)?;
            next = Some((point, moment / 2));
            continue;
        }
        unharmed(lab, &victim, &before).context(what)?;
        hits += 1;
        next = kills.next();
    }
    println!("killed {hits} times under {workload}, each went on at the source; {late} more were too late");
    victim.finish()
}

/// A number for each seed and index (the finalizer of splitmix64).
fn scattered(seed: u64, index: u64) -> u64 {
    let mut x = (seed << 32 | index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

/// It checks its registers itself; we look at what it does not: descriptors, signals, mask and scheduling of each thread.
fn unharmed(lab: &Lab, victim: &Victim, before: &BTreeMap<String, String>) -> Result<()> {
    let outside = victim.outside_pid(lab)?;
    // the number of threads changes by itself; the scratch area may stay
    let ours = |key: &str| matches!(key, "maps" | "Threads");
    let mut after = trace_of(outside)?;
    let same = wait_until("the process is as before", SOON, || {
        after = trace_of(outside).unwrap_or_default();
        before.iter().all(|(key, was)| ours(key) || after.get(key) == Some(was))
            && policies(outside) == BTreeSet::from(["0".to_owned()])
    });
    same.with_context(|| format!("{before:?} has become {after:?}, policies {:?}", policies(outside)))?;
    let left: Vec<_> = after.iter().filter(|(key, _)| !before.contains_key(*key)).collect();
    ensure!(left.is_empty(), "{left:?} is left");
    std::thread::sleep(Duration::from_millis(60));
    victim.check_running(lab)
}

/// The scheduling policies of its threads.
fn policies(outside: i32) -> BTreeSet<String> {
    let tasks = fs::read_dir(format!("/proc/{outside}/task")).into_iter().flatten().flatten();
    let policy = |stat: String| stat.rsplit_once(") ")?.1.split_whitespace().nth(38).map(str::to_owned);
    tasks.filter_map(|task| policy(fs::read_to_string(task.path().join("stat")).ok()?)).collect()
}
