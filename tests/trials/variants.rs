//! One process of each victim in every way in which it can be handled, in turn: profiled, given up in the freeze, moved there and
//! back at once, into a pid namespace of its own, lazily and after a round; and one of an ordinary user's.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::{Victim, furnish, needs};
use crate::lab::needs::Need;
use crate::lab::user::{self, User};
use crate::lab::{Lab, SOON, ULPM, victims};

/// How long a victim works before, between and after what is done to it.
const WORK: Duration = Duration::from_millis(500);

/// Where a move is given up: before anything was captured, after it, and when all was put at the target.
const GIVEN_UP: [&str; 3] =
    ["source.furnished=memory", "source.captured=memory", "source.journal.committed=full"];

/// Victims of some 100 MiB: each time all of it goes ahead again.
const LARGE: [&str; 2] = ["dirty", "late"];

/// Where it goes in turn, and how.
const MOVES: [(&str, &[&str]); 4] =
    [("b", &[]), ("a", &["--lazy"]), ("b", &["--pid-mode", "namespace"]), ("a", &["--lazy-after", "1"])];

/// Victims that an ordinary user cannot start: one locks more than a user may, one gives files to others.
const ROOTS: [&str; 2] = ["locking", "nameless"];

/// What a user's own `ulpm` refuses, and why; root's moves it.
const REFUSED: [(&str, &str); 1] = [("hugetlb", "mapped privately")];

pub(super) fn trials() -> Vec<Trial> {
    let names = || victims::names().into_iter().filter(|name| name != super::oracle::VICTIM);
    let all =
        names().map(|name| trial(&format!("variants {name}"), needs(&name), move |lab| variants(lab, &name)));
    let users = names().filter(|name| !ROOTS.contains(&name.as_str())).map(|name| {
        let needs = [needs(&name), &[Need::Program("setpriv"), Need::OtherUsers]].concat();
        trial(&format!("variants {name} of a user"), &needs, move |lab| of_a_user(lab, &name))
    });
    let setpriv = [Need::Program("setpriv"), Need::OtherUsers, Need::Program("python3")];
    let nice = trial("variants at a target without CAP_SYS_NICE", &setpriv, without_nice);
    all.chain(users).chain([nice]).collect()
}

fn variants(lab: &mut Lab, name: &str) -> Result<()> {
    furnish(lab, name)?;
    lab.serve("b")?;
    lab.serve("a")?;
    let mut victim = Victim::start(lab, name)?;
    at_work(lab, &victim).context("at rest")?;
    let profile = lab.run("a", &[ULPM, "profile", &victim.pid.to_string(), "--seconds", "1"], SOON)?;
    ensure!(profile.exit == 0, "ulpm profile: {profile:?}");
    at_work(lab, &victim).context("after a profile")?;
    let faults = if LARGE.contains(&name) { &GIVEN_UP[2..] } else { &GIVEN_UP };
    for fault in faults {
        let aborted = lab.live("a", victim.pid, "b", &["--fault", fault])?;
        ensure!(aborted.exit == 4 && aborted.stderr.contains("runs on here"), "{fault}: {aborted:?}");
        victim.check_running(lab)?;
    }
    at_work(lab, &victim).context("after moves that were given up in the freeze")?;
    for (to, args) in MOVES {
        moved(lab, &mut victim, to, args).with_context(|| format!("moved to {to} with {args:?}"))?;
    }
    victim.finish()
}

fn moved(lab: &Lab, victim: &mut Victim, to: &str, args: &[&str]) -> Result<()> {
    let (pid, before) = (victim.pid, victim.outside_pid(lab)?);
    let outcome = lab.live(&victim.host, pid, to, &[&["--verify"], args].concat())?;
    victim.moved(lab, &outcome, before, to)?;
    let report = &outcome.report;
    ensure!(report["lazy"]["sent_twice"] == 0, "pages were sent twice: {report}");
    let namespace = args.contains(&"namespace");
    ensure!((report["pid_mode"] == "namespace") == namespace, "pid_mode: {report}");
    ensure!(
        (victim.pid != pid) == namespace || victim.host == "a",
        "the host sees the namespace's pid: {report}"
    );
    at_work(lab, victim)
}

pub(super) fn at_work(lab: &Lab, victim: &Victim) -> Result<()> {
    std::thread::sleep(WORK);
    victim.check_running(lab)
}

/// There lazily by its user's own `ulpm`, back by root's.
fn of_a_user(lab: &mut Lab, name: &str) -> Result<()> {
    furnish(lab, name)?;
    lab.serve("a")?;
    lab.serve("b")?;
    let user = user_in_a(lab)?;
    let words = user.words();
    let command = user.command(&victims::program(name)?);
    let mut victim = Victim::start_command(lab, &command.each_ref().map(String::as_str))?;
    at_work(lab, &victim).context("at rest")?;
    let before = victim.outside_pid(lab)?;
    let (pid, to) = (victim.pid, lab.address("b"));
    let by_user = |args: &[&str]| lab.start_live_under(&words, "a", pid, &to, args)?.outcome();
    let outcome = by_user(&["--fault", GIVEN_UP[2]])?;
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        outcome.refused(3, &[why, "run ulpm as root"])?;
        at_work(lab, &victim).context("refused")?;
        moved(lab, &mut victim, "b", &["--lazy"]).context("moved by root")?;
    } else {
        ensure!(outcome.exit == 4, "the move was to be given up in its freeze: {outcome:?}");
        at_work(lab, &victim).context("after a move of its user's that was given up")?;
        let outcome = by_user(&["--verify", "--lazy"])?;
        victim.moved(lab, &outcome, before, "b")?;
        at_work(lab, &victim).context("moved lazily by its user")?;
    }
    moved(lab, &mut victim, "a", &[]).context("moved back by root")?;
    victim.finish()
}

fn user_in_a(lab: &Lab) -> Result<User> {
    let user = User::of(lab, "a")?;
    user::trust(lab, ("a", &user.words()), ("b", &[]))?;
    user::trust(lab, ("b", &[]), ("a", &user.words()))?;
    Ok(user)
}

/// A target that may not set the timer slack of its own user's threads from outside, and of another user's nothing that is about
/// their scheduling.
fn without_nice(lab: &mut Lab) -> Result<()> {
    const SLACK: &str = "77777";
    const WITHOUT: [&str; 2] = ["setpriv", "--bounding-set=-sys_nice"];
    lab.serve_under("b", &WITHOUT)?;
    let set = "import ctypes, os, sys; ctypes.CDLL(None).prctl(29, int(sys.argv[1])); os.execv(sys.argv[2], sys.argv[2:])";
    let program = victims::program("threads")?;
    let mut victim =
        Victim::start_command(lab, &[&WITHOUT[..], &["python3", "-c", set, SLACK, &program]].concat())?;
    victim.move_to(lab, "b")?;
    let slack = std::fs::read_to_string(format!("/proc/{}/timerslack_ns", victim.outside_pid(lab)?))?;
    ensure!(slack.trim() == SLACK, "the timer slack was {SLACK} and is {slack}");
    victim.finish()?;
    let user = user_in_a(lab)?;
    let command = user.command(&program);
    let victim = Victim::start_until(lab, "stop-2", &command.each_ref().map(String::as_str))?;
    let refused = lab.live("a", victim.pid, "b", &[])?;
    refused.refused(3, &["CAP_SYS_NICE", "how another user's threads are scheduled"])?;
    victim.check_running(lab)?;
    victim.finish()
}
