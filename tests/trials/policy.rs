//! When to freeze, and what to do when rounds come to nothing: a process that writes more than the link carries, each
//! choice of `--on-divergence`, each limit, and the hand of a user who looks on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::trial;
use super::victims::Victim;
use crate::lab::live::{Live, LiveOutcome};
use crate::lab::process::Ended;
use crate::lab::udp_proxy::UdpProxy;
use crate::lab::{Lab, PORT, SOON, ULPM, wait_until};

/// Bytes per second of a link that the `wild` victim outruns; its 16 MiB take two seconds.
const SLOW: u64 = 8_000_000;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("policy diverging freezes nevertheless", &[], freezes),
        trial("policy diverging gives up", &[], gives_up),
        trial("policy diverging throttles", &[], throttles),
        trial("policy throttling leaves no trace", &[], throttling_ends),
        trial("policy a goal out of reach gives up", &[], out_of_reach),
        trial("policy a goal that is met", &[], met),
        trial("policy max-rounds and bandwidth", &[], rounds_and_bandwidth),
        trial("policy max-time freezes", &[], time_freezes),
        trial("policy max-time gives up within a round", &[], time_gives_up),
        trial("policy wrong limits are usage errors", &[], wrong_limits),
        trial("control a move by its socket", &[], by_socket),
        trial("control aborts", &[], abort_by_socket),
        trial("control with nobody there", &[], nobody_there),
        trial("control SIGUSR1 freezes", &[], by_signal),
    ]
}

/// The `wild` victim in host a, and a slow link.
struct Wild {
    victim: Victim,
    proxy: UdpProxy,
    outside: i32,
}

impl Wild {
    fn start(lab: &mut Lab) -> Result<Self> {
        lab.serve("b")?;
        let victim = Victim::start(lab, "wild")?;
        let proxy = UdpProxy::between(lab.host("a"), lab.host("b"), PORT)?;
        proxy.rate(SLOW);
        let outside = victim.outside_pid(lab)?;
        Ok(Wild { victim, proxy, outside })
    }

    fn begin(&self, lab: &Lab, args: &[&str]) -> Result<Live> {
        lab.start_live("a", self.victim.pid, &self.proxy.address(), &[&["--verify"], args].concat())
    }

    fn live(&self, lab: &Lab, args: &[&str]) -> Result<LiveOutcome> {
        let outcome = self.begin(lab, args)?.outcome()?;
        lab.note(format!("{args:?}: {outcome:?}"));
        Ok(outcome)
    }

    /// It was moved, and is whole.
    fn moved(mut self, lab: &Lab, outcome: &LiveOutcome) -> Result<()> {
        self.victim.moved(lab, outcome, self.outside, "b")?;
        self.victim.finish()
    }

    /// It runs on where it was, untouched, and can be moved by the usual link.
    fn unharmed(mut self, lab: &Lab, outcome: &LiveOutcome) -> Result<()> {
        ensure!(outcome.exit == 4 && outcome.outcome() == "aborted", "{outcome:?}");
        ensure!(outcome.stderr.contains("runs on here"), "it does not say where it is: {}", outcome.stderr);
        std::thread::sleep(Duration::from_millis(500));
        self.victim.check_running(lab)?;
        ensure!(self.victim.outside_pid(lab)? == self.outside, "it is another process");
        self.victim.move_to(lab, "b")?;
        self.victim.finish()
    }
}

fn rounds(outcome: &LiveOutcome) -> Result<&Vec<Value>> {
    outcome.report["rounds"].as_array().context("no rounds in the report")
}

fn last_why(outcome: &LiveOutcome) -> Result<&str> {
    rounds(outcome)?.last().and_then(|r| r["why_next"].as_str()).context("no reason in the report")
}

fn number(value: &Value, field: &str) -> Result<f64> {
    value[field].as_f64().with_context(|| format!("{field} is {}", value[field]))
}

fn freezes(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let outcome = wild.live(lab, &["--max-freeze", "50ms"])?;
    ensure!(last_why(&outcome)?.contains("frozen nevertheless"), "{}", last_why(&outcome)?);
    ensure!(last_why(&outcome)?.contains("goal 50.0 ms"), "{}", last_why(&outcome)?);
    ensure!(rounds(&outcome)?.len() >= 4, "{}", outcome.report);
    let predicted = number(&outcome.report, "predicted_freeze_ms")?;
    let parts = outcome.report["predicted_freeze_parts"].as_object().context("no predicted parts")?;
    let sum: f64 = parts.values().filter_map(Value::as_f64).sum();
    ensure!(predicted > 0.0 && (sum - predicted).abs() < 0.1, "{predicted} and {parts:?}");
    wild.moved(lab, &outcome)
}

fn gives_up(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let outcome = wild.live(lab, &["--on-divergence", "abort"])?;
    outcome
        .refused(4, &["given up", "it writes", "the link carries", "the freeze would take", "throttle"])?;
    ensure!(outcome.report["predicted_freeze_ms"].is_null(), "{}", outcome.report);
    wild.unharmed(lab, &outcome)
}

/// The percentages of the rounds, each with those before it as far as they differ.
fn throttled(outcome: &LiveOutcome) -> Result<Vec<u64>> {
    let mut steps: Vec<u64> =
        rounds(outcome)?.iter().filter_map(|r| r["throttle_percent"].as_u64()).collect();
    steps.dedup();
    Ok(steps)
}

/// A link that carries half of what the victim writes, and a freeze that is within reach once that is less.
const HALF: u64 = 40_000_000;
const THROTTLE: [&str; 6] = ["--on-divergence", "throttle", "--max-rounds", "60", "--max-freeze", "150ms"];

fn throttles(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    wild.proxy.rate(HALF);
    let outcome = wild.live(lab, &THROTTLE)?;
    let steps = throttled(&outcome)?;
    ensure!(steps.len() > 1 && steps[0] == 0 && steps.is_sorted(), "{steps:?}: {}", outcome.report);
    let said = rounds(&outcome)?.iter().filter_map(|r| r["why_next"].as_str());
    ensure!(said.clone().any(|why| why.contains("% of the time")), "{:?}", said.collect::<Vec<_>>());
    wild.moved(lab, &outcome)
}

/// A move that is given up while the process is slowed down.
fn throttling_ends(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    wild.proxy.rate(HALF);
    let live = wild.begin(lab, &THROTTLE)?;
    wait_until("it is slowed down", SOON, || live.errors().contains("% of the time"))?;
    live.signal(Signal::SIGINT)?;
    let outcome = live.outcome()?;
    let status = std::fs::read_to_string(format!("/proc/{}/status", wild.outside))?;
    ensure!(status.contains("TracerPid:\t0"), "it is still traced: {status}");
    wild.unharmed(lab, &outcome)
}

fn out_of_reach(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "threads")?;
    let args = ["--verify", "--max-freeze", "10us", "--on-divergence", "abort"];
    let outcome = lab.live("a", victim.pid, "b", &args)?;
    outcome.refused(4, &["given up", "goal 0.01 ms", "--max-freeze"])?;
    victim.check_running(lab)?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn met(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "dirty")?;
    let before = victim.outside_pid(lab)?;
    let outcome = lab.live("a", victim.pid, "b", &["--verify", "--max-freeze", "30s"])?;
    ensure!(last_why(&outcome)?.contains("(goal 30.0 s)"), "{}", last_why(&outcome)?);
    ensure!(!last_why(&outcome)?.contains("nevertheless"), "{}", last_why(&outcome)?);
    victim.moved(lab, &outcome, before, "b")?;
    victim.finish()
}

fn rounds_and_bandwidth(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "wild")?;
    let before = victim.outside_pid(lab)?;
    let begun = Instant::now();
    let args = ["--verify", "--max-rounds", "2", "--bandwidth", "64Mbit"];
    let outcome = lab.live("a", victim.pid, "b", &args)?;
    let took = begun.elapsed().as_secs_f64();
    let done = rounds(&outcome)?;
    ensure!(done.len() == 2, "{} rounds", done.len());
    ensure!(last_why(&outcome)?.contains("2 rounds are the limit"), "{}", last_why(&outcome)?);
    for round in done {
        let (bytes, ms) = (number(round, "bytes_on_wire")?, number(round, "ms")?);
        // a tenth of a second may go at once
        ensure!(bytes - 1e6 <= 8e6 * ms / 1e3, "{bytes} bytes in {ms} ms are more than 8 MB/s");
    }
    ensure!(took >= 2.0, "16 MiB at 8 MB/s took {took} s");
    victim.moved(lab, &outcome, before, "b")?;
    victim.finish()
}

fn time_freezes(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let outcome = wild.live(lab, &["--max-time", "1s"])?;
    // the round under way is finished
    ensure!(rounds(&outcome)?.len() == 1, "{}", outcome.report);
    ensure!(
        last_why(&outcome)?.contains("the time for the rounds (1.00 s) is up"),
        "{}",
        last_why(&outcome)?
    );
    wild.moved(lab, &outcome)
}

fn time_gives_up(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let outcome = wild.live(lab, &["--max-time", "0.5s", "--on-divergence", "abort"])?;
    outcome.refused(4, &["given up", "in the middle of round 0"])?;
    wild.unharmed(lab, &outcome)
}

fn wrong_limits(lab: &mut Lab) -> Result<()> {
    for (args, says) in [
        (["--max-freeze", "20"], "is not a time"),
        (["--max-freeze", "soon"], "is not a time"),
        (["--max-rounds", "0"], "not a number of rounds"),
        (["--bandwidth", "fast"], "is not a rate"),
        (["--bandwidth", "0"], "never end"),
        (["--on-divergence", "pray"], "possible values"),
    ] {
        lab.live("a", 1, "b", &args)?.refused(2, &[says])?;
    }
    Ok(())
}

/// A move that will take minutes, which listens.
fn controlled(lab: &Lab, wild: &Wild) -> Result<(Live, PathBuf)> {
    let socket = lab.dir().join("control");
    let path = socket.display().to_string();
    let live = wild.begin(lab, &["--control", &path, "--bandwidth", "100k"])?;
    let ready = || status(lab, &socket).is_ok_and(|s| s["phase"] == "rounds" && s["sent_bytes"] != 0);
    wait_until("the first round is under way", SOON, ready)?;
    Ok((live, socket))
}

fn control(lab: &Lab, socket: &std::path::Path, command: &[&str]) -> Result<Ended> {
    let path = socket.display().to_string();
    lab.run("a", &[&[ULPM, "control", &path], command].concat(), SOON)
}

fn status(lab: &Lab, socket: &std::path::Path) -> Result<Value> {
    let ended = control(lab, socket, &["status"])?;
    ensure!(ended.exit == 0 && ended.stdout.lines().count() == 1, "{ended:?}");
    Ok(serde_json::from_str(&ended.stdout)?)
}

fn by_socket(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let (mut live, socket) = controlled(lab, &wild)?;
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&socket)?.permissions());
    ensure!(mode & 0o777 == 0o600, "the socket's mode is {mode:o}");
    // a second move may not take it over
    let path = socket.display().to_string();
    let second = wild.live(lab, &["--control", &path])?;
    second.refused(1, &["another migration is controlled"])?;
    for (command, exit, says) in [
        (&["set", "max-freeze=50ms"][..], 0, "ok, max-freeze=50.0 ms"),
        (&["set", "max-rounds=5"], 0, "ok"),
        (&["set", "colour=red"], 2, "cannot be set"),
        (&["set", "max-freeze=20"], 2, "is not a time"),
        (&["dance"], 2, "is no command"),
        (&[], 2, "COMMAND"),
    ] {
        let ended = control(lab, &socket, command)?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        ensure!(ended.exit == exit && said.contains(says), "{command:?}: {ended:?}");
    }
    let now = status(lab, &socket)?;
    ensure!(now["max_freeze_ms"] == 50.0 && now["max_rounds"] == 5 && now["pid"] == wild.victim.pid, "{now}");
    ensure!(now["bandwidth_limit_bytes_per_s"] == 100 << 10 && now["round"] == 0, "{now}");
    ensure!(!live.has_ended()?, "it ended: {}", live.errors());
    // at 100 KiB/s it would take minutes
    ensure!(control(lab, &socket, &["set", "bandwidth=none"])?.exit == 0, "bandwidth=none");
    let outcome = live.outcome()?;
    lab.note(format!("{outcome:?}"));
    ensure!(rounds(&outcome)?.len() <= 5, "{}", outcome.report);
    ensure!(last_why(&outcome)?.contains("goal 50.0 ms"), "{}", last_why(&outcome)?);
    ensure!(outcome.stderr.contains("round 0: ") && outcome.stderr.contains(" sent, "), "{}", outcome.stderr);
    ensure!(!socket.exists(), "the socket is still there");
    wild.moved(lab, &outcome)
}

fn abort_by_socket(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let (live, socket) = controlled(lab, &wild)?;
    ensure!(control(lab, &socket, &["abort"])?.exit == 0, "abort");
    let outcome = live.outcome()?;
    ensure!(!socket.exists(), "the socket is still there");
    wild.unharmed(lab, &outcome)
}

fn nobody_there(lab: &mut Lab) -> Result<()> {
    let socket = lab.dir().join("control");
    let ended = control(lab, &socket, &["status"])?;
    ensure!(ended.exit == 1 && ended.stderr.contains("no migration is under way"), "{ended:?}");
    drop(std::os::unix::net::UnixListener::bind(&socket)?);
    let ended = control(lab, &socket, &["status"])?;
    ensure!(ended.exit == 1 && ended.stderr.contains("is over"), "{ended:?}");
    // a stale one is replaced
    let wild = Wild::start(lab)?;
    let (live, socket) = controlled(lab, &wild)?;
    ensure!(control(lab, &socket, &["freeze-now"])?.exit == 0, "freeze-now");
    let outcome = live.outcome()?;
    ensure!(last_why(&outcome)? == "asked to freeze now", "{}", last_why(&outcome)?);
    wild.moved(lab, &outcome)
}

fn by_signal(lab: &mut Lab) -> Result<()> {
    let wild = Wild::start(lab)?;
    let (live, _) = controlled(lab, &wild)?;
    live.signal(Signal::SIGUSR1)?;
    let outcome = live.outcome()?;
    ensure!(rounds(&outcome)?.len() == 1, "{}", outcome.report);
    ensure!(last_why(&outcome)? == "asked to freeze now", "{}", last_why(&outcome)?);
    wild.moved(lab, &outcome)
}
