//! Something goes wrong while the process is frozen, before, at or after the commit: afterwards exactly one copy
//! runs, at the source or at the target, if need be after `ulpm recover`; and it can be moved again.
//!
//! The instant is told by what `ulpm live` says, and some milliseconds more. `--verify` makes the freeze long
//! enough to be met in its different parts.

use std::fs;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::trial;
use super::victims::{Victim, is_gone};
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, PORT, SOON, ULPM, wait_until};

/// After "freezing": the capture, the hashing at both ends, the commit, the end (about; a debug build).
const LATER: [u64; 4] = [0, 25, 90, 180];
/// How long it may take until one copy is left: a dead link has to be noticed, the target asked again.
const SETTLED: Duration = Duration::from_secs(90);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    CtrlC,
    KillLive,
    KillServe,
    CutLink,
}

pub(super) fn trials() -> Vec<Trial> {
    let causes = [
        ("ctrl-c", Cause::CtrlC),
        ("kill live", Cause::KillLive),
        ("kill serve", Cause::KillServe),
        ("cut link", Cause::CutLink),
    ];
    let mut trials = Vec::new();
    for (name, cause) in causes {
        for ms in LATER {
            let name = format!("frozen {name} after {ms} ms");
            trials.push(trial(&name, &[], move |lab| disturb(lab, cause, Duration::from_millis(ms))));
        }
    }
    trials
}

fn disturb(lab: &mut Lab, cause: Cause, later: Duration) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
    let mut live = lab.start_live("a", victim.pid, &proxy.address(), &["--verify"])?;
    wait_until("the freeze", Duration::from_secs(60), || {
        live.errors().contains("freezing") || live.has_ended().unwrap_or(true)
    })?;
    std::thread::sleep(later);
    match cause {
        Cause::CtrlC => live
            .signal(Signal::SIGINT)
            .or_else(|error| if live.has_ended()? { Ok(()) } else { Err(error) })?,
        Cause::KillLive => live
            .signal(Signal::SIGKILL)
            .or_else(|error| if live.has_ended()? { Ok(()) } else { Err(error) })?,
        Cause::KillServe => lab.server("b")?.signal(Signal::SIGKILL)?,
        Cause::CutLink => proxy.cut(),
    }
    let outcome = live.outcome()?;
    lab.note(format!("{cause:?} {later:?} after the freeze began: {outcome:?}"));
    proxy.heal();
    if cause == Cause::KillServe {
        lab.serve("b")?;
    }
    match (outcome.exit, outcome.outcome()) {
        (0, "moved") | (4, "aborted") => {}
        (5, "unknown") => {
            let recovered = lab.run("a", &[ULPM, "recover"], SOON)?;
            ensure!(recovered.exit == 0, "ulpm recover: {recovered:?}");
        }
        (137, _) if cause == Cause::KillLive => {}
        other => bail!("{other:?}: {}", outcome.stderr),
    }
    if outcome.exit == 4 {
        ensure!(outcome.stderr.contains("runs on here"), "it does not say where it is: {}", outcome.stderr);
    }
    victim.host = settled(lab, victim.pid)?;
    lab.note(format!("it runs in {}", victim.host));
    std::thread::sleep(Duration::from_millis(500));
    victim.check_running(lab)?;
    if victim.host == "a" {
        victim.move_to(lab, "b")?;
    }
    victim.finish()
}

/// The host in which the only copy runs. The source's copy may be ended, the target's destroyed, a moment later.
fn settled(lab: &Lab, pid: i32) -> Result<String> {
    let at = |host: &str| {
        let outside = lab.host(host).outside_pid(Pid::from_raw(pid)).ok()?.as_raw();
        (!is_gone(outside)).then_some(outside)
    };
    let runs = |outside: Option<i32>| {
        let stat =
            outside.and_then(|pid| fs::read_to_string(format!("/proc/{pid}/stat")).ok()).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['R', 'S', 'D']))
    };
    let both = || (at("a"), at("b"));
    wait_until("exactly one copy runs", SETTLED, || match both() {
        (a, None) => runs(a),
        (None, b) => runs(b),
        (Some(_), Some(_)) => false,
    })?;
    Ok(if at("a").is_some() { "a" } else { "b" }.to_owned())
}
