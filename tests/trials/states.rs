//! State that cannot be carried: refused by name, and the process goes on with it.

use anyhow::Result;
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, victims};

/// What the victim makes, and what the refusal says.
const KINDS: [(&str, &[&str]); 6] = [
    ("namespace", &["thread ", "another uts namespace than its process"]),
    ("directories", &["it shares a current directory with thread"]),
    ("memory", &["its memory is shared with process", "CLONE_VM"]),
    ("children", &["its children would live in another pid namespace"]),
    ("queue", &["it uses the System V message queue"]),
    ("semaphore", &["it uses the System V set of semaphores"]),
];

pub(super) fn trials() -> Vec<Trial> {
    let each = KINDS.into_iter();
    each.map(|(kind, words)| {
        trial(&format!("refuse state {kind}"), &[], move |lab| refused(lab, kind, words))
    })
    .collect()
}

fn refused(lab: &mut Lab, kind: &str, words: &[&str]) -> Result<()> {
    lab.serve("b")?;
    let victim = Victim::start_command(lab, &[&victims::tool("states")?, kind])?;
    lab.live("a", victim.pid, "b", &[])?.refused(3, &[words, &["nothing was touched"]].concat())?;
    victim.finish()
}
