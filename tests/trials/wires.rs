//! Sockets, pipes and queues in rare states (`tests/lab/tools/wires.c`): each is refused by its name, and the process goes on with it; or it
//! is there after moves there and back; or a note says what becomes of it.

use std::time::Duration;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, victims};

/// What the victim makes, and what the preflight says: one obstacle each.
const REFUSED: [(&str, &str); 8] = [
    ("credentials", "messages with credentials wait in its queue (SO_PASSCRED)"),
    ("rights", "descriptors are in flight in its queue (SCM_RIGHTS)"),
    ("urgent", "an urgent byte waits in its queue (MSG_OOB)"),
    ("group", "it is a member of the multicast group 239.1.2.3"),
    ("corked", "a datagram is being put together (UDP_CORK)"),
    ("filter", "a packet filter (SO_ATTACH_FILTER) is attached to the socket"),
    ("queue", "a POSIX message queue (mq_open) cannot be carried"),
    ("attribute", "its extended attribute security.ulpm cannot be carried"),
];

/// What only the stopped process shows: the move is given up.
const LATE: [(&str, &str); 4] = [
    ("peeked-later", "an empty message waits in it that was looked at before (MSG_PEEK)"),
    ("peeked", "an empty message waits in it that was looked at before (MSG_PEEK)"),
    ("hidden-credentials", "a message with credentials waits in it (SCM_CREDENTIALS)"),
    ("hidden-messages", "a message with credentials waits in it (SCM_CREDENTIALS)"),
];

/// What is carried, with these options, and what a note says of it.
const CARRIED: [(&str, &[&str], &[&str]); 8] = [
    ("asynchronous", &[], &["its signals (F_SETSIG) name its lowest number (si_fd)"]),
    (
        "datagrams",
        &[],
        &["unread datagrams (the next has 0 bytes) are dropped", "an error that the program has not seen"],
    ),
    ("half", &["--tcp", "close"], &["they cannot be taken apart"]),
    ("half6", &["--tcp", "close"], &["they cannot be taken apart"]),
    ("mptcp", &["--tcp", "close"], &["it is a Multipath TCP connection: plain TCP takes its place"]),
    ("packets", &[], &[]),
    ("full", &[], &[]),
    ("busy", &[], &[]),
];

/// What is carried, but not after an aborted move, which has looked at the empty message.
const ONCE: [&str; 3] = ["packets-shut", "packets-unread", "packets-closed"];

/// Ways in which each of those is moved.
const WAYS: [(&str, &[&str]); 3] =
    [("", &[]), (" lazily", &["--lazy"]), (" into a namespace", &["--pid-mode", "namespace"])];

pub(super) fn trials() -> Vec<Trial> {
    let named = |kind: &str| format!("wires {kind}");
    let refused =
        REFUSED.into_iter().map(|(kind, word)| trial(&named(kind), &[], move |lab| refuse(lab, kind, word)));
    let late = LATE.into_iter().map(|(kind, word)| {
        trial(&named(kind), &[], move |lab| {
            begin(lab, &[], kind).and_then(|victim| give_up(lab, victim, word))
        })
    });
    let carried = CARRIED.into_iter().flat_map(|(kind, args, notes)| {
        WAYS.into_iter().map(move |(way, how)| {
            let args = [args, how].concat();
            trial(&format!("wires {kind}{way}"), &[], move |lab| {
                abort(lab, kind, &[], &args).and_then(|victim| carry(lab, victim, &args, notes))
            })
        })
    });
    let once = ONCE.into_iter().flat_map(|kind| {
        WAYS.into_iter().map(move |(way, how)| {
            trial(&format!("wires {kind}{way}"), &[], move |lab| {
                begin(lab, &[], kind).and_then(|victim| carry(lab, victim, how, &[]))
            })
        })
    });
    let again = trial("wires packets-shut after an aborted move", &[], |lab| {
        let victim = abort(lab, "packets-shut", &[], &[])?;
        give_up(lab, victim, LATE[0].1)
    });
    let users = [Need::Program("setpriv"), Need::OtherUsers];
    let own = ["packets", "full", "busy", "asynchronous"].into_iter().map(|kind| {
        let user = ["setpriv", "--reuid=1234", "--regid=1234", "--clear-groups"];
        trial(&format!("wires {kind} of a user"), &users, move |lab| {
            abort(lab, kind, &user, &[]).and_then(|victim| carry(lab, victim, &[], &[]))
        })
    });
    let families = trial("wires families", &[], families);
    refused.chain(late).chain(carried).chain(once).chain(own).chain([again, families]).collect()
}

fn start(lab: &Lab, before: &[&str], kind: &str) -> Result<Victim> {
    Victim::start_command(lab, &[before, &[&*victims::tool("wires")?, kind]].concat())
}

/// By one obstacle, of the preflight.
fn refuse(lab: &mut Lab, kind: &str, word: &str) -> Result<()> {
    lab.serve("b")?;
    let victim = start(lab, &[], kind)?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(3, &[word, "nothing was touched"])?;
    let obstacles = outcome.report["obstacles"].as_array().map_or(0, Vec::len);
    ensure!(obstacles == 1, "{obstacles} obstacles: {}", outcome.report);
    victim.finish()
}

/// In the freeze; what was looked at is as it was.
fn give_up(lab: &mut Lab, victim: Victim, word: &str) -> Result<()> {
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    ensure!(outcome.exit == 4, "exit code {}: {outcome:?}", outcome.exit);
    let said = format!("{} {}", outcome.stderr, outcome.report);
    ensure!(said.contains(word), "the message does not say {word:?}: {said}");
    victim.finish()
}

fn begin(lab: &mut Lab, before: &[&str], kind: &str) -> Result<Victim> {
    lab.serve("a")?;
    lab.serve("b")?;
    start(lab, before, kind)
}

/// One whose first move was aborted.
fn abort(lab: &mut Lab, kind: &str, before: &[&str], args: &[&str]) -> Result<Victim> {
    let victim = begin(lab, before, kind)?;
    let abort = [args, &["--fault", "source.sent=memory"]].concat();
    if !args.contains(&"--lazy") {
        let aborted = lab.live("a", victim.pid, "b", &abort)?;
        ensure!(aborted.exit == 4, "the move was to be aborted in its freeze: {aborted:?}");
    }
    Ok(victim)
}

/// Moves there and back, and it finds all as it was.
fn carry(lab: &mut Lab, mut victim: Victim, args: &[&str], notes: &[&str]) -> Result<()> {
    for (nth, to) in ["b", "a"].into_iter().enumerate() {
        std::thread::sleep(Duration::from_millis(100));
        victim.check_running(lab)?;
        let outside = victim.outside_pid(lab)?;
        let outcome = lab.live(&victim.host, victim.pid, to, &[&["--verify"], args].concat())?;
        victim.moved(lab, &outcome, outside, to)?;
        let said = outcome.report["notes"].to_string();
        for note in notes.iter().filter(|_| nth == 0) {
            ensure!(said.contains(note), "no note says {note:?}: {said}");
        }
    }
    victim.finish()
}

/// Each by its name.
fn families(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let victim = start(lab, &[], "families")?;
    let said = victim.said();
    let names: Vec<&str> = said.lines().filter_map(|line| line.strip_prefix("family ")).collect();
    ensure!(names.len() >= 3, "this kernel has hardly any sockets: {said}");
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(3, &names)?;
    let obstacles = outcome.report["obstacles"].as_array().map_or(0, Vec::len);
    ensure!(obstacles == names.len(), "{obstacles} obstacles for {names:?}: {}", outcome.report);
    victim.finish()
}
