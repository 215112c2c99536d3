//! State that cannot be carried: refused by name, and the process goes on with it.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, victims};

/// What only the process itself can tell: found when `live` attaches, or when it stops it.
const HIDDEN: [(&str, &str); 5] = [
    ("landlock", "it has confined itself with Landlock"),
    ("landlock-thread", "it has confined itself with Landlock"),
    ("ldt", "it has a local descriptor table"),
    ("keyring", "it has a process keyring"),
    ("numa-thread", "a NUMA policy (set_mempolicy, mbind) is not carried"),
];

/// What the victim makes, and what the refusal says.
const KINDS: [(&str, &[&str]); 8] = [
    ("namespace", &["thread ", "another uts namespace than its process"]),
    ("directories", &["it shares a current directory with thread"]),
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
    each.chain(hidden).collect()
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

fn refused(lab: &mut Lab, kind: &str, words: &[&str]) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start_command(lab, &[&victims::tool("states")?, kind])?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &[words, &["nothing was touched"]].concat())?;
    victim.finish()
}
