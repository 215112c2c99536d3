//! State that cannot be carried: refused by name, and the process goes on with it.

use anyhow::{Context as _, Result, bail, ensure};
use libtest_mimic::Trial;
use serde_json::Value;
use ulpm::state::verdicts::{Area, Row, Verdict, of};

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, SOON, ULPM, victims};

/// What only the process itself can tell: found when `live` attaches, or when it stops it.
const HIDDEN: [(&str, &str); 6] = [
    ("landlock", "it has confined itself with Landlock"),
    ("landlock-thread", "it has confined itself with Landlock"),
    ("ldt", "it has a local descriptor table"),
    ("keyring", "it has a process keyring"),
    ("denied", "executable may not be written (PR_SET_MDWE)"),
    ("numa-thread", "a NUMA policy (set_mempolicy, mbind) is not carried"),
];

/// What is gone here is not to be made at the target.
const ABSENT: &str = ulpm::state::program::ABSENT;

/// Why descriptors of many kinds are refused.
const NO_READER: &str = "cannot be carried";

/// What the victim makes, and what the refusal says.
const KINDS: [(&str, &[&str]); 10] = [
    ("namespace", &["thread ", "another uts namespace than its process"]),
    ("directories", &["it shares a current directory with thread"]),
    ("gone", &["current directory ", "it was deleted while thread ", "change to a directory that exists"]),
    ("descriptors", &["it has a descriptor table of its own"]),
    ("memory", &["its memory is shared with process", "CLONE_VM"]),
    ("children", &["its children would live in another pid namespace"]),
    ("queue", &["it uses the System V message queue"]),
    ("numa", &["mapping at 0x", "a NUMA policy (set_mempolicy, mbind) is not carried: bind:0; 1 mappings"]),
    ("mappings", &[" mappings, ", " are allowed", "vm.max_map_count"]),
    ("semaphore", &["it uses the System V set of semaphores"]),
];

pub(super) fn trials() -> Vec<Trial> {
    let named = |kind: &str| format!("refuse state {kind}");
    let each = KINDS.into_iter();
    let each = each.map(|(kind, words)| trial(&named(kind), &[], move |lab| refused(lab, kind, words)));
    let needs = [Need::Program("setpriv"), Need::OtherUsers];
    let hidden = HIDDEN.into_iter();
    let hidden = hidden.map(|(kind, word)| trial(&named(kind), &needs, move |lab| found(lab, kind, word)));
    let all = trial("refuse states by their names", &[], by_their_names);
    let flicker = trial("a descriptor that is opened and closed without pause", &[], flickering);
    let denied = trial("profile of a process in which nothing can be mapped", &[], unwatched);
    let real_time = trial("refuse real-time", &[Need::Program("chrt"), Need::OtherUsers], real_time);
    each.chain(hidden).chain([all, real_time, flicker, denied]).collect()
}

/// Once of root, and once of an ordinary user.
fn found(lab: &mut Lab, kind: &str, word: &str) -> Result<()> {
    lab.serve("b")?;
    let program = victims::tool("states")?;
    let user = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"];
    for (stop, before) in [("stop", &[][..]), ("stop-of-user", &user[..])] {
        let victim = Victim::start_until(lab, stop, &[before, &[&*program, kind]].concat())?;
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        ensure!(outcome.exit != 0 && outcome.stderr.contains(word), "{outcome:?}");
        victim.check_running(lab)?;
        victim.finish()?;
    }
    Ok(())
}

/// Policies that a target without the right to does not give.
fn real_time(lab: &mut Lab) -> Result<()> {
    let without = ["setpriv", "--bounding-set=-sys_nice"];
    lab.serve_under("b", &without)?;
    let program = victims::program("threads")?;
    for (policy, name) in [("-f", "SCHED_FIFO"), ("-r", "SCHED_RR")] {
        let victim =
            Victim::start_until(lab, name, &[&["chrt", policy, "10"], &without[..], &[&program]].concat())?;
        lab.live("a", victim.pid, "b", &[])?
            .refused(3, &["ulpm serve cannot give it its scheduling", name])?;
        victim.check_running(lab)?;
        victim.finish()?;
    }
    Ok(())
}

/// A process with very many of them at once: each is named as the table of verdicts has it.
fn by_their_names(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start_command(lab, &[&victims::tool("refused")?])?;
    let check = lab.run("a", &[ULPM, "check", &victim.pid.to_string(), "--json"], SOON)?;
    let document: Value = serde_json::from_str(&check.stdout)?;
    let obstacles = document["obstacles"].as_array().context("no obstacles")?;
    let whys: Vec<&str> = obstacles.iter().filter_map(|obstacle| obstacle["why"].as_str()).collect();
    let said = victim.said();
    let made = said.lines().filter_map(|line| line.strip_prefix("made ")?.split_once('\t'));
    let mut count = 0;
    for (area, name) in made {
        let row = in_area(area, name).with_context(|| format!("{area}: no verdict for {name}"))?;
        let Verdict::Refused(why) = row.verdict else { bail!("{name} has the verdict {:?}", row.verdict) };
        // where all of a kind share their reason, each is called by what it is
        let what = if why == NO_READER && area == "Descriptors" { row.what } else { "" };
        let names = whys.iter().any(|said| said.contains(why) && said.contains(what));
        ensure!(names, "{name}: nothing says {what:?}, {why:?}: {whys:#?}");
        count += 1;
    }
    ensure!(check.exit == 3 && count > 20, "only {count} were made: {said}");
    victim.finish()
}

fn in_area(area: &str, name: &str) -> Option<&'static Row> {
    let area = match area {
        "Descriptors" => Area::Descriptors,
        "Sockets" => Area::Sockets,
        "VmFlags" => Area::VmFlags,
        "Prctl" => Area::Prctl,
        _ => Area::Scheduling,
    };
    of(area, name)
}

fn refused(lab: &mut Lab, kind: &str, words: &[&str]) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start_command(lab, &[&victims::tool("states")?, kind])?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(3, &[words, &["nothing was touched"]].concat())?;
    ensure!(!outcome.stderr.contains(ABSENT), "to be made at the target: {outcome:?}");
    victim.finish()
}

/// One that is gone between the list of descriptors and a look at it is nothing in the way.
fn flickering(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    for kind in ["null", "file", "pipe", "memfd", "eventfd"] {
        let mut victim = Victim::start_until(lab, kind, &[&victims::tool("flicker")?, kind])?;
        for time in 0..20 {
            let check = lab.run("a", &[ULPM, "check", &victim.pid.to_string()], SOON)?;
            ensure!(check.exit == 0, "{kind}, {time}: {check:?}");
        }
        victim.move_to(lab, "b").with_context(|| kind.to_owned())?;
        victim.finish()?;
    }
    Ok(())
}

fn unwatched(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start_command(lab, &[&victims::tool("states")?, "denied"])?;
    let watched = lab.run("a", &[ULPM, "profile", &victim.pid.to_string(), "--seconds", "1"], SOON)?;
    ensure!(watched.exit == 3 && watched.stderr.contains("(READ_IMPLIES_EXEC)"), "{watched:?}");
    // from outside only the half of it is seen
    let check = lab.run("a", &[ULPM, "check", &victim.pid.to_string()], SOON)?;
    ensure!(check.exit == 0 && check.stdout.contains("(READ_IMPLIES_EXEC); should it deny"), "{check:?}");
    lab.live("a", victim.pid, "b", &[])?.refused(3, &["(READ_IMPLIES_EXEC)", "(PR_SET_MDWE)"])?;
    victim.check_running(lab)?;
    victim.finish()
}
