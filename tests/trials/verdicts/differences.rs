//! Everything that can be seen of a process, before and after: a move, where each difference must have a row that says so; an aborted
//! move and a profile, where nothing may differ but what moves by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::snapshot::{Key, Reach, Snapshot, may_differ, row};
use crate::lab::{Lab, SOON, ULPM, victims};
use crate::trials::programs;
use crate::trials::trial;
use crate::trials::victims::{self as subjects, Victim};

/// Victims whose mappings, descriptors or memory are not the same from one moment to the next; the oracle of each checks more than
/// a snapshot could.
const RESTLESS: [&str; 13] = [
    "dirty",
    "fresh",
    "hugetlb",
    "late",
    // signals are under way; "leaderless" is calm
    "leader",
    "memory",
    "oracle",
    "remapping",
    "robust",
    "rseq",
    "threads",
    "ticking",
    "wild",
];
/// Victims that measure each wait, or to which the kernel says `EINTR`: a stop for a snapshot is one that they notice; and one that takes a snapshot's calls for its own
/// (syscall user dispatch).
const ON_THE_CLOCK: [&str; 7] = ["blocking", "clock", "foreign", "limits", "overruns", "restarts", "timers"];
/// Facts that time changes; the victims check these values themselves.
const MOVING: [&str; 4] = [
    "fdinfo eventfd-count",
    "fdinfo it_value",
    "fdinfo ticks",
    // SO_INCOMING_CPU, if nobody has set it: where the last packet came in
    "SOL_SOCKET 49",
];

/// How long it is left alone between two looks.
const CALM: Duration = Duration::from_millis(300);

pub(super) fn trials() -> Vec<Trial> {
    let calm = victims::names().into_iter().filter(|name| !RESTLESS.contains(&name.as_str()));
    let of_victims = calm.map(|name| {
        let (title, needs) = (format!("unchanged {name}"), subjects::needs(&name));
        trial(&title, needs, move |lab: &mut Lab| {
            subjects::furnish(lab, &name)?;
            let reach = if ON_THE_CLOCK.contains(&name.as_str()) { Reach::Outside } else { Reach::Inside };
            let victim = Victim::start(lab, &name)?;
            unchanged(lab, victim, (reach, false), ["b"].into_iter())
        })
    });
    let of_programs = programs::calm().into_iter().map(|(name, needs, start)| {
        trial(&format!("unchanged {name}"), needs, move |lab: &mut Lab| {
            let victim = start(lab)?;
            unchanged(lab, victim, (Reach::Inside, true), programs::moves(2))
        })
    });
    let leaderless = trial("unchanged leaderless", &[], |lab: &mut Lab| {
        let victim = Victim::start_command(lab, &[&victims::tool("leaderless")?])?;
        unchanged(lab, victim, (Reach::Inside, false), programs::moves(2))
    });
    of_victims.chain(of_programs).chain([leaderless]).collect()
}

/// A program and what is known of it before.
struct Before {
    victim: Victim,
    reach: Reach,
    /// It maps and unmaps, opens and closes as it likes (a runtime with a collector of garbage).
    collects: bool,
    seen: Snapshot,
    /// What was seen to change without us.
    restless: BTreeSet<Key>,
}

/// Profiles it, fails to move it, moves it to these hosts in turn.
fn unchanged(
    lab: &mut Lab,
    victim: Victim,
    (reach, collects): (Reach, bool),
    moves: impl Iterator<Item = &'static str>,
) -> Result<()> {
    lab.serve("b")?;
    let mut before = Before::of(lab, victim, reach, collects)?;
    let pid = before.victim.pid.to_string();
    let profile = lab.run("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "1"], SOON)?;
    ensure!(profile.exit == 0, "ulpm profile: {}", profile.stderr);
    before.insist(lab).context("after a profile, at the source")?;
    let aborted = lab.live("a", before.victim.pid, "b", &["--fault", "source.sent=memory"])?;
    ensure!(aborted.exit == 4, "the move was to be aborted in its freeze: {aborted:?}");
    before.insist(lab).context("after an aborted move, at the source")?;
    lab.serve("a")?;
    for to in moves {
        before.victim.move_to(lab, to)?;
        before.insist(lab).with_context(|| format!("after a move to {to}"))?;
    }
    before.victim.end(lab)
}

impl Before {
    fn of(lab: &Lab, victim: Victim, reach: Reach, collects: bool) -> Result<Self> {
        let look = || Snapshot::of(victim.outside_pid(lab)?, reach);
        // what it does first, and what a snapshot itself leaves
        std::thread::sleep(CALM);
        let first = look()?;
        std::thread::sleep(CALM);
        let second = look()?;
        std::thread::sleep(CALM);
        let seen = look()?;
        let restless = first.differences(&second).union(&second.differences(&seen)).cloned().collect();
        Ok(Before { victim, reach, collects, seen, restless })
    }

    /// Nothing differs now but what moves by itself, or what a row of the table says. What differs for a moment (a signal that the
    /// process has sent to itself, a mask while it is in a handler) does not the next time; what was changed still does.
    fn insist(&self, lab: &Lab) -> Result<()> {
        let (first, now) = self.unexpected(lab)?;
        if first.is_empty() {
            return Ok(());
        }
        std::thread::sleep(CALM);
        let (second, _) = self.unexpected(lab)?;
        let both: Vec<String> = first.intersection(&second).map(|key| told(key, &self.seen, &now)).collect();
        ensure!(both.is_empty(), "these differ without a verdict:\n{}", both.join("\n"));
        Ok(())
    }

    /// What differs at this moment and has no row, and what is seen now.
    fn unexpected(&self, lab: &Lab) -> Result<(BTreeSet<Key>, Snapshot)> {
        let now = Snapshot::of(self.victim.outside_pid(lab)?, self.reach)?;
        let moves = |key: &Key| {
            self.restless.contains(key)
                || MOVING.contains(&key.2.as_str())
                || self.collects && (key.1.starts_with("area ") || !self.seen.has(key) || !now.has(key))
        };
        let differences = self.seen.differences(&now);
        let without = |key: &&Key| !moves(key) && !may_differ(key, &self.seen);
        Ok((differences.iter().filter(without).cloned().collect(), now))
    }
}

fn told(key: &Key, before: &Snapshot, after: &Snapshot) -> String {
    let verdict = row(key).map_or("no row".to_owned(), |row| format!("{:?}", row.verdict));
    format!("{} of {}, {}: {} became {} ({verdict})", key.2, key.1, key.0, before.show(key), after.show(key))
}
