//! The lazy phase of moves, and what may happen in it: post-copy from the start (`--lazy`) and after rounds (`--lazy-after`). Each
//! victim moved so is in `variants.rs`.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::faults::transitions;
use super::victims::Victim;
use super::{trial, trial_in};
use crate::lab::live::{Live, LiveOutcome};
use crate::lab::needs::Need;
use crate::lab::recorded::Records;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::user::{self, User};
use crate::lab::{Lab, LabOptions, PORT, SOON, ULPM, wait_until};

/// What is carried out of the hand-over is held against its machines.
const RECORDED: LabOptions =
    LabOptions { private: Vec::new(), strangers: false, disks: false, recorded: true };

/// The victim of the lazy phase.
const LATE: &str = "late";
/// How a victim is moved.
pub(super) const WAYS: [(&str, &[&str]); 2] =
    [("lazy", &["--verify", "--lazy"]), ("hybrid", &["--verify", "--lazy-after", "1"])];
/// Bytes per second through the proxy, so that the lazy phase lasts: the `late` victim has 100 MiB.
pub(super) const RATE: u64 = 25_000_000;

pub(super) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (way, args) in WAYS {
        trials.push(trial(&format!("late events {way}"), &[], move |lab| wild(lab, args)));
        trials.push(trial(&format!("late children {way}"), &[], move |lab| children(lab, args)));
        trials.push(trial(&format!("late exec {way}"), &[], move |lab| replaced(lab, args, "exec")));
        trials.push(trial(&format!("late exit {way}"), &[], move |lab| replaced(lab, args, "exit")));
        trials.push(trial(&format!("late cut {way}"), &[], move |lab| cut(lab, args)));
        trials
            .push(trial(&format!("late serve restarted {way}"), &[], move |lab| serve_restarted(lab, args)));
        let run = move |lab: &mut Lab| live_restarted(lab, args);
        trials.push(trial_in(RECORDED, &format!("late live restarted {way}"), &[], run));
    }
    trials.push(trial("late read first", &[], read_first));
    trials.push(trial("late holder killed", &[], holder_killed));
    trials.push(trial_in(RECORDED, "late source lost", &[], source_lost));
    trials.push(trial("late source lost alone", &[], source_lost_alone));
    trials.push(trial("late again", &[], again));
    let users = [Need::Program("setpriv"), Need::OtherUsers];
    trials.push(trial("lazy refused by a serve that may not", &users[..1], serve_may_not));
    trials.push(trial("lazy refused by an ordinary user's serve", &users, ordinary_serve));
    trials
}

/// A lazy move under way, in its lazy phase, through a slow wire.
pub(super) struct Phase {
    pub(super) victim: Victim,
    pub(super) live: Live,
    pub(super) proxy: UdpProxy,
    pub(super) before: i32,
}

impl Phase {
    pub(super) fn begin(lab: &mut Lab, args: &[&str]) -> Result<Self> {
        lab.serve("b")?;
        let victim = Victim::start(lab, LATE)?;
        let before = victim.outside_pid(lab)?;
        let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
        if args.contains(&"--lazy") {
            proxy.rate(RATE);
        }
        let mut live = lab.start_live("a", victim.pid, &proxy.address(), args)?;
        let mut early = false;
        wait_until("the lazy phase begins", SOON * 3, || {
            early = live.has_ended().unwrap_or(true);
            early || unfinished(lab, "b").is_some()
        })?;
        proxy.rate(RATE);
        ensure!(!early, "the move ended before its lazy phase: {}", live.errors());
        Ok(Phase { victim, live, proxy, before })
    }

    fn say(&self, lab: &Lab, word: &str) -> Result<()> {
        Ok(fs::write(lab.dir().join(format!("stop.{word}")), "")?)
    }

    /// The move ends well, and so does the victim.
    pub(super) fn ends(mut self, lab: &Lab) -> Result<LiveOutcome> {
        let outcome = self.live.outcome()?;
        lab.note(format!("{outcome:?}"));
        self.victim.moved(lab, &outcome, self.before, "b")?;
        ensure!(unfinished(lab, "b").is_none(), "something of the lazy phase is left at the target");
        self.victim.finish()?;
        Ok(outcome)
    }
}

/// What a host says of a process that is not whole.
pub(super) fn unfinished(lab: &Lab, host: &str) -> Option<serde_json::Value> {
    let dir = lab.host(host).home().join("ulpm").join("lazy");
    let files: Vec<_> = fs::read_dir(dir).ok()?.flatten().map(|e| e.path()).collect();
    let path = files.into_iter().find(|p| p.extension().is_some_and(|e| e == "json"))?;
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Somebody at the target reads all of its memory, its arguments and its environment before lazy memory is guarded: what was not there
/// yet must not stay zero.
fn read_first(lab: &mut Lab) -> Result<()> {
    lab.trust("a", "b")?;
    lab.trust("b", "a")?;
    lab.serve_with_fault("b", "target.state=stop")?;
    let mut victim = Victim::start(lab, LATE)?;
    let before = victim.outside_pid(lab)?;
    let of = |outside: i32, what: &str| fs::read(format!("/proc/{outside}/{what}"));
    let (arguments, environment) = (of(before, "cmdline")?, of(before, "environ")?);
    let live = lab.start_live("a", victim.pid, &lab.address("b"), &["--verify", "--lazy"])?;
    let serve = lab.server("b")?.outside_pid();
    wait_until("the target has the frozen state", SOON * 3, || is_stopped(serve))?;
    let skeleton = lab.host("b").outside_pid(Pid::from_raw(victim.pid))?;
    let read = read_all(skeleton.as_raw())?;
    nix::sys::signal::kill(Pid::from_raw(serve), Signal::SIGCONT)?;
    ensure!(read > 64 << 20, "only {read} bytes could be read");
    let outcome = live.outcome()?;
    victim.moved(lab, &outcome, before, "b")?;
    let after = victim.outside_pid(lab)?;
    ensure!(of(after, "cmdline")? == arguments, "its arguments are lost: {:?}", of(after, "cmdline")?);
    ensure!(of(after, "environ")? == environment, "its environment is lost: {:?}", of(after, "environ")?);
    victim.finish()
}

fn is_stopped(outside: i32) -> bool {
    fs::read_to_string(format!("/proc/{outside}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
}

/// Reads whatever a process has mapped, as a debugger would; how many bytes that were.
fn read_all(outside: i32) -> Result<u64> {
    let memory = fs::File::open(format!("/proc/{outside}/mem"))?;
    let maps = fs::read_to_string(format!("/proc/{outside}/maps"))?;
    let mut page = [0; 4096];
    let mut read = 0;
    for line in maps.lines() {
        let (start, end) =
            line.split(' ').next().and_then(|range| range.split_once('-')).context("no range")?;
        let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        // far ones (vsyscall) are no offsets of a file
        for at in (start..end.min(1 << 47)).step_by(page.len()) {
            read += memory.read_at(&mut page, at).unwrap_or(0) as u64;
        }
    }
    Ok(read)
}

fn wild(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let phase = Phase::begin(lab, args)?;
    phase.say(lab, "wild")?;
    let outcome = phase.ends(lab)?;
    ensure!(outcome.report["lazy"]["sent_twice"] == 0, "pages were sent twice: {}", outcome.report);
    Ok(())
}

/// It has children when it becomes whole, some of them just born: they are let be like their parent.
fn children(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let Phase { mut victim, live, proxy, before } = Phase::begin(lab, args)?;
    fs::write(lab.dir().join("stop.kin"), "")?;
    let outcome = live.outcome()?;
    drop(proxy);
    victim.moved(lab, &outcome, before, "b")?;
    // the holder lets go of the children before it says that the process is whole
    fs::write(lab.dir().join("stop.kin-end"), "")?;
    wait_until("its children end well", SOON, || victim.said().contains("kin"))?;
    victim.finish()
}

/// The process ends, or begins another program, before its memory has come.
fn replaced(lab: &mut Lab, args: &[&str], word: &str) -> Result<()> {
    let Phase { victim, live, proxy, before } = Phase::begin(lab, args)?;
    fs::write(lab.dir().join(format!("stop.{word}")), "")?;
    let outcome = live.outcome()?;
    drop(proxy);
    ensure!(outcome.exit == 0 && outcome.outcome() == "moved", "{outcome:?}");
    ensure!(super::victims::is_gone(before), "the source's copy still exists");
    victim.finish()
}

fn cut(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let phase = Phase::begin(lab, args)?;
    for span in [1, 5, 15] {
        std::thread::sleep(Duration::from_millis(300));
        phase.proxy.cut();
        std::thread::sleep(Duration::from_secs(span));
        phase.proxy.heal();
        ensure!(!phase.victim.said().contains("FAIL"), "the victim says: {}", phase.victim.said());
    }
    phase.ends(lab).map(drop)
}

fn serve_restarted(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let phase = Phase::begin(lab, args)?;
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(400));
        lab.server("b")?.signal(Signal::SIGKILL)?;
        std::thread::sleep(Duration::from_millis(400));
        lab.serve("b")?;
    }
    phase.ends(lab).map(drop)
}

/// `ulpm live` and its worker are killed; `ulpm recover` goes on where they were.
fn live_restarted(lab: &mut Lab, args: &[&str]) -> Result<()> {
    let Phase { mut victim, live, proxy, before } = Phase::begin(lab, args)?;
    std::thread::sleep(Duration::from_millis(300));
    live.kill_both()?;
    live.outcome()?;
    ensure!(!super::victims::is_gone(before), "the copy at the source is gone, and its memory with it");
    let recovered = lab.run("a", &[ULPM, "recover"], Duration::from_secs(100))?;
    ensure!(recovered.exit == 0, "ulpm recover: {recovered:?}");
    drop(proxy);
    ensure!(super::victims::is_gone(before), "the source's copy still exists");
    transitions::check(lab, &Records::default(), "late live restarted", false)?;
    victim.host = "b".to_owned();
    victim.check_running(lab)?;
    victim.finish()
}

/// Without its holder nobody knows what is outstanding: the process is ended, not left to wait or to run on zeroes.
fn holder_killed(lab: &mut Lab) -> Result<()> {
    let Phase { victim, live, proxy, .. } = Phase::begin(lab, WAYS[0].1)?;
    let holder = unfinished(lab, "b").and_then(|u| u["holder"].as_i64()).context("no holder")?;
    let holder = lab.host("b").outside_pid(nix::unistd::Pid::from_raw(holder as i32))?;
    nix::sys::signal::kill(holder, Signal::SIGKILL)?;
    let pid = nix::unistd::Pid::from_raw(victim.pid);
    wait_until("the process is ended", SOON, || lab.host("b").outside_pid(pid).is_err())?;
    ensure!(!victim.said().contains("FAIL"), "it saw wrong memory: {}", victim.said());
    drop((live, proxy));
    Ok(())
}

/// The copy at the source is killed: what is outstanding can never come.
fn source_lost(lab: &mut Lab) -> Result<()> {
    let Phase { victim, live, before, proxy } = Phase::begin(lab, WAYS[0].1)?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), Signal::SIGKILL)?;
    let pid = nix::unistd::Pid::from_raw(victim.pid);
    wait_until("the process is ended", SOON * 2, || lab.host("b").outside_pid(pid).is_err())?;
    ensure!(!victim.said().contains("FAIL"), "it saw wrong memory: {}", victim.said());
    let outcome = live.outcome()?;
    drop(proxy);
    ensure!(outcome.exit == 6 && outcome.outcome() == "lost", "{outcome:?}");
    ensure!(outcome.stderr.contains("cannot live without"), "{outcome:?}");
    transitions::check(lab, &Records::default(), "late source lost", true)?;
    let nothing = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(nothing.exit == 0 && nothing.stdout.contains("nothing is open"), "{nothing:?}");
    Ok(())
}

/// The same while neither `ulpm live` nor its worker is there: `ulpm recover` finds it, and says so once.
fn source_lost_alone(lab: &mut Lab) -> Result<()> {
    let Phase { victim, live, before, proxy } = Phase::begin(lab, WAYS[0].1)?;
    live.kill_both()?;
    live.outcome()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(before), Signal::SIGKILL)?;
    let recovered = lab.run("a", &[ULPM, "recover"], SOON * 2)?;
    ensure!(recovered.exit == 6 && recovered.stdout.contains("lost"), "{recovered:?}");
    drop(proxy);
    let pid = nix::unistd::Pid::from_raw(victim.pid);
    wait_until("the process is ended", SOON, || lab.host("b").outside_pid(pid).is_err())?;
    ensure!(!victim.said().contains("FAIL"), "it saw wrong memory: {}", victim.said());
    let nothing = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(nothing.exit == 0 && nothing.stdout.contains("nothing is open"), "{nothing:?}");
    Ok(())
}

/// A process that is not whole is not moved on, unless one waits.
fn again(lab: &mut Lab) -> Result<()> {
    lab.serve("a")?;
    let Phase { mut victim, live, proxy, before } = Phase::begin(lab, WAYS[0].1)?;
    let to = lab.address("a");
    let refused = lab.live_to("b", victim.pid, &to, &[])?;
    refused.refused(3, &["lazy", "--wait"])?;
    let check = lab.run("b", &[ULPM, "check", &victim.pid.to_string()], SOON)?;
    ensure!(check.exit == 3 && check.stdout.contains("has not all arrived"), "{check:?}");
    for said in [&refused.stderr, &check.stdout] {
        ensure!(!said.contains("userfaultfd"), "it is refused for what serves its own memory: {said}");
    }
    let waits = lab.start_live("b", victim.pid, &to, &["--wait", "--verify"])?;
    let first = live.outcome()?;
    drop(proxy);
    ensure!(first.exit == 0 && super::victims::is_gone(before), "{first:?}");
    victim.host = "b".to_owned();
    let outcome = waits.outcome()?;
    victim.pid = outcome.moved()?;
    victim.host = "a".to_owned();
    victim.check_running(lab)?;
    victim.finish()
}

/// Without CAP_SYS_PTRACE a userfaultfd that serves the kernel's own faults is not to be had where
/// `vm.unprivileged_userfaultfd` is 0, and one that follows `fork` nowhere.
fn serve_may_not(lab: &mut Lab) -> Result<()> {
    lab.serve_under("b", &["setpriv", "--bounding-set=-sys_ptrace"])?;
    let victim = Victim::start(lab, "threads")?;
    for how in [&["--lazy"][..], &["--lazy-after", "1"], &["--on-divergence", "lazy"]] {
        let refused = lab.live("a", victim.pid, "b", how)?;
        refused.refused(3, &["vm.unprivileged_userfaultfd", "CAP_SYS_PTRACE", "without --lazy"])?;
    }
    victim.check_running(lab)?;
    victim.finish()
}

fn ordinary_serve(lab: &mut Lab) -> Result<()> {
    let user = User::of(lab, "b")?;
    let words = user.words();
    user::trust(lab, ("b", &words), ("a", &[]))?;
    user::trust(lab, ("a", &[]), ("b", &words))?;
    lab.serve_untrusted("b", &words)?;
    let victim = Victim::start(lab, "threads")?;
    let refused = lab.live("a", victim.pid, "b", &["--lazy"])?;
    refused.refused(3, &["lazy memory", "vm.unprivileged_userfaultfd", "run `ulpm serve` as root"])?;
    victim.check_running(lab)?;
    victim.finish()
}
