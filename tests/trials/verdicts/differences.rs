//! Everything that can be seen of a process, before and after: a move, where each difference must have a row that says so; an aborted
//! move and a profile, where nothing may differ but what moves by itself.

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::snapshot::{Reach, Snapshot, may_differ, row};
use crate::lab::{Lab, SOON, ULPM, victims};
use crate::trials::programs;
use crate::trials::trial;
use crate::trials::victims::{self as subjects, Victim};

/// Victims whose mappings, descriptors or memory are not the same from one moment to the next; the oracle of each checks more than
/// a snapshot could.
const RESTLESS: [&str; 8] = ["dirty", "hugetlb", "late", "memory", "oracle", "remapping", "threads", "wild"];
/// Victims that measure each wait: a stop for a snapshot is one that they notice; and one that takes a snapshot's calls for its own
/// (syscall user dispatch).
const ON_THE_CLOCK: [&str; 7] = ["blocking", "clock", "foreign", "restarts", "rseq", "ticking", "timers"];

pub(super) fn trials() -> Vec<Trial> {
    let calm = victims::names().into_iter().filter(|name| !RESTLESS.contains(&name.as_str()));
    let mut all = Vec::new();
    for name in calm {
        let needs = subjects::needs(&name);
        let run = move |lab: &mut Lab| {
            subjects::furnish(lab, &name)?;
            let reach = if ON_THE_CLOCK.contains(&name.as_str()) { Reach::Outside } else { Reach::Inside };
            let victim = Victim::start(lab, &name)?;
            unchanged(lab, victim, reach)
        };
        all.push((run, needs));
    }
    let names: Vec<String> =
        victims::names().into_iter().filter(|name| !RESTLESS.contains(&name.as_str())).collect();
    let mut trials: Vec<Trial> = names
        .iter()
        .zip(all)
        .map(|(name, (run, needs))| trial(&format!("unchanged {name}"), needs, run))
        .collect();
    trials.extend(programs::calm().into_iter().map(|(name, needs, start)| {
        trial(&format!("unchanged {name}"), needs, move |lab: &mut Lab| {
            let victim = start(lab)?;
            unchanged(lab, victim, Reach::Inside)
        })
    }));
    trials
}

/// Profiles it, fails to move it, moves it.
fn unchanged(lab: &mut Lab, mut victim: Victim, reach: Reach) -> Result<()> {
    lab.serve("b")?;
    // what it does first, and what a snapshot itself leaves
    std::thread::sleep(std::time::Duration::from_millis(500));
    let first = Snapshot::of(victim.outside_pid(lab)?, reach)?;
    std::thread::sleep(std::time::Duration::from_millis(500));
    let before = Snapshot::of(victim.outside_pid(lab)?, reach)?;
    let restless = first.differences(&before);

    let pid = victim.pid.to_string();
    let profile = lab.run("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "1"], SOON)?;
    ensure!(profile.exit == 0, "ulpm profile: {}", profile.stderr);
    here_again(lab, &victim, &before, &restless, reach).context("after a profile")?;

    let aborted = lab.live("a", victim.pid, "b", &["--fault", "source.sent=memory"])?;
    ensure!(aborted.exit == 4, "the move was to be aborted in its freeze: {aborted:?}");
    here_again(lab, &victim, &before, &restless, reach).context("after an aborted move")?;

    victim.move_to(lab, "b")?;
    let after = Snapshot::of(victim.outside_pid(lab)?, reach)?;
    let differs: Vec<String> = before
        .differences(&after)
        .into_iter()
        .filter(|key| !restless.contains(key) && !may_differ(key))
        .map(|key| told(&key, &before, &after))
        .collect();
    ensure!(differs.is_empty(), "after a move, without a verdict:\n{}", differs.join("\n"));
    victim.finish()
}

/// At the source nothing may differ but what moves by itself: counters, and what was seen to change without us.
fn here_again(
    lab: &Lab,
    victim: &Victim,
    before: &Snapshot,
    restless: &std::collections::BTreeSet<(String, String, String)>,
    reach: Reach,
) -> Result<()> {
    let after = Snapshot::of(victim.outside_pid(lab)?, reach)?;
    let differs: Vec<String> = before
        .differences(&after)
        .into_iter()
        .filter(|key| !restless.contains(key) && !may_differ(key))
        .map(|key| told(&key, before, &after))
        .collect();
    ensure!(differs.is_empty(), "changed at the source:\n{}", differs.join("\n"));
    Ok(())
}

fn told(key: &(String, String, String), before: &Snapshot, after: &Snapshot) -> String {
    let verdict = row(key).map_or("no row".to_owned(), |row| format!("{:?}", row.verdict));
    format!("{} of {}, {}: {} became {} ({verdict})", key.2, key.1, key.0, before.show(key), after.show(key))
}
