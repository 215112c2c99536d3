//! `ulpm profile`: what it says of processes whose writes are known, that it leaves nothing behind, what it refuses, and
//! how its prediction compares with a real move.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use serde_json::Value;

use super::aborts::trace_of;
use super::programs::redis;
use super::trial;
use super::victims::Victim;
use crate::lab::needs::{Need, find_program};
use crate::lab::process::Ended;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

/// What the `dirty` victim rewrites in a second (tests/victims/dirty.c).
const DIRTY_PAGES_PER_S: f64 = 2000.0;
/// The size of the memory in which it does.
const DIRTY_BYTES: u64 = 96 << 20;
/// A watch of some seconds with what comes before and after.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long it is watched at least before something happens to it.
const WATCHED: Duration = Duration::from_millis(1500);

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("profile tells how fast a process writes, and where", &[], dirty),
        trial("profile by contents tells the same", &[], by_contents),
        trial("profile draws a picture and prints a table", &[], picture),
        trial("profile leaves no trace", &[], no_trace),
        trial("profile killed leaves no trace", &[], killed),
        trial("profile ends early with what it has", &[], interrupted),
        trial("profile of a process that ends", &[], process_ends),
        trial("profile of a process that begins another program", &[], other_program),
        trial("profile refuses", &[Need::Program("setpriv"), Need::OtherUsers], refused),
        trial("profile of a process with a seccomp filter", &[], filtered),
        trial(
            "profile of redis under load and a real move",
            &[Need::Program("redis-server"), Need::TokenBucket],
            redis_and_move,
        ),
    ]
}

fn profile(lab: &Lab, pid: i32, args: &[&str]) -> Result<Ended> {
    let pid = pid.to_string();
    lab.run("a", &[&[ULPM, "profile", "--pid", &pid][..], args].concat(), PATIENCE)
}

fn report(lab: &Lab, pid: i32, args: &[&str]) -> Result<Value> {
    let ended = profile(lab, pid, &[&["--json"], args].concat())?;
    ensure!(ended.exit == 0, "exit code {}: {}", ended.exit, ended.stderr);
    serde_json::from_str(&ended.stdout).with_context(|| format!("no JSON document: {}", ended.stdout))
}

fn number(of: &Value) -> Result<f64> {
    of.as_f64().with_context(|| format!("{of} is no number"))
}

/// The rate within the one mapping whose writes are known.
fn known_rate(report: &Value) -> Result<f64> {
    let mappings = report["mappings"].as_array().context("no mappings")?;
    let known = mappings
        .iter()
        .find(|m| {
            m["name"].as_str().is_some_and(|n| n.starts_with("anonymous")) && m["size_bytes"] == DIRTY_BYTES
        })
        .with_context(|| format!("the victim's memory is not among {mappings:?}"))?;
    number(&known["pages_per_s"])
}

fn window(report: &Value, ms: u64) -> Result<&Value> {
    let windows = report["working_set"].as_array().context("no working set")?;
    windows
        .iter()
        .find(|w| w["window_ms"] == ms as f64)
        .with_context(|| format!("no window of {ms} ms: {windows:?}"))
}

fn dirty(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "dirty")?;
    let report = report(lab, victim.pid, &["--seconds", "4"])?;
    let keys = [
        "pid",
        "name",
        "tracker",
        "tracker_reason",
        "ended",
        "seconds",
        "samples",
        "interval_ms",
        "longest_interval_ms",
        "threads",
        "resident_bytes",
        "present_pages",
        "dirty",
        "working_set",
        "mappings",
        "cost",
        "table",
        "recommendation",
        "notes",
        "outcome",
        "error",
        "schema",
    ];
    let object = report.as_object().context("no object")?;
    for key in keys {
        ensure!(object.contains_key(key), "the report has no {key}");
    }
    ensure!(object.len() == keys.len(), "the report has more keys than are documented: {:?}", object.keys());
    ensure!(report["ended"] == "time" && report["name"] == "dirty", "{report}");
    // it catches up when it was held up, so the rate holds on a busy machine, too
    let rate = known_rate(&report)?;
    let about = DIRTY_PAGES_PER_S * 0.8..DIRTY_PAGES_PER_S * 1.2;
    ensure!(about.contains(&rate), "{rate} pages/s instead of {DIRTY_PAGES_PER_S}");
    let second = number(&window(&report, 1000)?["mean_pages"])?;
    ensure!((1200.0..2600.0).contains(&second), "{second} pages within a second");
    let short = number(&window(&report, 30)?["mean_pages"])?;
    ensure!(short < second / 10.0, "{short} pages within 30 ms, {second} within a second");
    let faults = number(&report["cost"]["extra_faults_per_s"])?;
    ensure!(faults > 1000.0, "tracking cost {faults} faults/s: the victim writes {rate} pages/s");
    let table = report["table"].as_array().context("no table")?;
    ensure!(table.len() == 30, "{} cells", table.len());
    victim.check_running(lab)?;
    victim.finish()
}

fn by_contents(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "dirty")?;
    let report = report(lab, victim.pid, &["--seconds", "5", "--tracker", "checksum"])?;
    ensure!(report["tracker"] == "checksum" && report["cost"]["attach_ms"] == 0.0, "{report}");
    // samples are farther apart: pages written twice between two count once, and a page in the middle of being
    // written may count twice
    let rate = known_rate(&report)?;
    ensure!((1000.0..3000.0).contains(&rate), "{rate} pages/s instead of {DIRTY_PAGES_PER_S}");
    victim.finish()
}

fn picture(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "dirty")?;
    let file = lab.dir().join("profile.svg");
    let path = file.display().to_string();
    let ended = profile(lab, victim.pid, &["--seconds", "1", "--svg", &path])?;
    ensure!(ended.exit == 0, "{ended:?}");
    for word in ["dirty ", "working set", "hottest mappings", "--max-freeze", "1 Gbit/s", "advice"] {
        ensure!(ended.stdout.contains(word), "the text does not say {word:?}: {}", ended.stdout);
    }
    let svg = fs::read_to_string(&file)?;
    well_formed(&svg)?;
    for word in
        ["pages dirtied per second", "predicted freeze against bandwidth", "--max-freeze 20ms", "<polyline"]
    {
        ensure!(svg.contains(word), "the picture has no {word:?}");
    }
    let nowhere = profile(lab, victim.pid, &["--svg", "/nowhere/x.svg"])?;
    ensure!(nowhere.exit == 1 && nowhere.stderr.contains("/nowhere"), "{nowhere:?}");
    victim.finish()
}

/// Every element that is opened is closed, in order.
fn well_formed(svg: &str) -> Result<()> {
    let mut open: Vec<&str> = Vec::new();
    for piece in svg.split('<').skip(1) {
        let (tag, text) = piece.split_once('>').with_context(|| format!("<{piece} is not closed"))?;
        ensure!(
            !text.contains('&') || text.contains("&lt;") || text.contains("&amp;"),
            "unescaped text: {text}"
        );
        if let Some(name) = tag.strip_prefix('/') {
            ensure!(open.pop() == Some(name), "</{name}> closes another element");
        } else if !tag.ends_with('/') && !tag.starts_with(['?', '!']) {
            open.push(tag.split_whitespace().next().unwrap_or_default());
        }
    }
    ensure!(open.is_empty() && svg.trim_start().starts_with("<svg"), "left open: {open:?}");
    Ok(())
}

/// All that can be seen of a process from outside, the flags of its mappings included (`uw`: tracked).
fn seen(outside: i32) -> Result<BTreeMap<String, String>> {
    let mut seen = trace_of(outside)?;
    let smaps = fs::read_to_string(Path::new("/proc").join(outside.to_string()).join("smaps"))?;
    let flags: Vec<&str> = smaps.lines().filter(|l| l.starts_with("VmFlags:")).collect();
    seen.insert("flags".to_owned(), flags.join("\n"));
    Ok(seen)
}

fn tracked(outside: i32) -> bool {
    seen(outside).is_ok_and(|s| s["flags"].lines().any(|l| l.split(' ').any(|flag| flag == "uw")))
}

fn as_before(outside: i32, before: &BTreeMap<String, String>) -> Result<()> {
    let settled =
        wait_until("the process is as before", SOON, || seen(outside).is_ok_and(|now| now == *before));
    if settled.is_err() {
        let after = seen(outside)?;
        for key in before.keys().chain(after.keys()) {
            let (was, is) = (before.get(key), after.get(key));
            ensure!(was == is, "profile left a trace: {key} was {was:?} and is {is:?}");
        }
    }
    Ok(())
}

fn no_trace(lab: &mut Lab) -> Result<()> {
    for name in ["dirty", "blocking"] {
        let victim = Victim::start(lab, name)?;
        let outside = victim.outside_pid(lab)?;
        let before = seen(outside)?;
        profile(lab, victim.pid, &["--seconds", "1"])?;
        as_before(outside, &before)?;
        victim.check_running(lab)?;
        victim.finish()?;
        fs::remove_file(lab.dir().join("stop"))?;
    }
    Ok(())
}

fn killed(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "dirty")?;
    let outside = victim.outside_pid(lab)?;
    let before = seen(outside)?;
    let pid = victim.pid.to_string();
    let mut watching = lab.spawn("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "60"])?;
    wait_until("the process is tracked", SOON, || tracked(outside))?;
    watching.signal(Signal::SIGKILL)?;
    watching.wait(SOON)?.context("a killed process does not end")?;
    as_before(outside, &before)?;
    ensure!(watching.output().is_empty(), "nobody wants a report any more: {}", watching.output());
    victim.check_running(lab)?;
    victim.finish()
}

fn interrupted(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "dirty")?;
    let outside = victim.outside_pid(lab)?;
    let before = seen(outside)?;
    let pid = victim.pid.to_string();
    let mut watching = lab.spawn("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "600", "--json"])?;
    wait_until("the process is tracked", SOON, || tracked(outside))?;
    std::thread::sleep(WATCHED);
    watching.signal(Signal::SIGINT)?;
    let ended = watching.finish(SOON)?;
    let report: Value = serde_json::from_str(&ended.stdout).with_context(|| format!("{ended:?}"))?;
    ensure!(ended.exit == 0 && report["ended"] == "interrupted", "{ended:?}");
    let seconds = number(&report["seconds"])?;
    ensure!((0.5..600.0).contains(&seconds) && report["cost"]["after"].is_null(), "{report}");
    as_before(outside, &before)?;
    victim.finish()
}

/// Runs a shell until it is watched, and lets it do something then. What `ulpm profile` tells.
fn watched(lab: &Lab, then: &str) -> Result<Value> {
    let go = lab.dir().join("go");
    let script = format!("until [ -e {} ]; do :; done; {then}", go.display());
    let mut shell = lab.spawn("a", &["bash", "-c", &script])?;
    let (pid, outside) = (shell.pid().to_string(), shell.outside_pid());
    let mut watching = lab.spawn("a", &[ULPM, "profile", "--pid", &pid, "--seconds", "600", "--json"])?;
    wait_until("the process is tracked", SOON, || tracked(outside))?;
    std::thread::sleep(WATCHED);
    fs::write(&go, "")?;
    let ended = watching.finish(SOON)?;
    if shell.wait(Duration::ZERO)?.is_none() {
        shell.signal(Signal::SIGKILL)?;
        shell.wait(SOON)?;
    }
    fs::remove_file(&go)?;
    ensure!(ended.exit == 0, "exit code {}: {}", ended.exit, ended.stderr);
    serde_json::from_str(&ended.stdout).with_context(|| format!("no JSON document: {}", ended.stdout))
}

fn process_ends(lab: &mut Lab) -> Result<()> {
    let report = watched(lab, "exit")?;
    ensure!(report["ended"] == "process-ended", "{report}");
    ensure!((0.5..600.0).contains(&number(&report["seconds"])?), "{report}");
    // on a busy machine it may have ended before it is looked at
    let short = lab.spawn("a", &["sleep", "0.5"])?;
    let ended = profile(lab, short.pid(), &["--seconds", "600"])?;
    let told = ["ended", "no such process"].iter().any(|word| ended.stderr.contains(word));
    ensure!(ended.exit == 1 && told, "{ended:?}");
    Ok(())
}

fn other_program(lab: &mut Lab) -> Result<()> {
    let report = watched(lab, "exec sleep 300")?;
    ensure!(report["ended"] == "other-program" && report["name"] == "bash", "{report}");
    Ok(())
}

/// Nothing is executed in it: what it does not expect might kill it.
fn filtered(lab: &mut Lab) -> Result<()> {
    const UNUSED: &str = "461";
    let mut filtered = lab.spawn("a", &[&victims::tool("without")?, UNUSED, "sleep", "60"])?;
    let comm = format!("/proc/{}/comm", filtered.outside_pid());
    wait_until("it sleeps", SOON, || fs::read_to_string(&comm).is_ok_and(|name| name.trim() == "sleep"))?;
    let report = report(lab, filtered.pid(), &["--seconds", "1"])?;
    ensure!(report["tracker"] != "wp-scan", "{report}");
    ensure!(report["tracker_reason"].as_str().is_some_and(|why| why.contains("seccomp")), "{report}");
    let forced = profile(lab, filtered.pid(), &["--tracker", "wp-scan"])?;
    ensure!(forced.exit == 3 && forced.stderr.contains("seccomp"), "{forced:?}");
    filtered.signal(Signal::SIGSTOP)?;
    let stopped = profile(lab, filtered.pid(), &[])?;
    ensure!(stopped.exit == 3 && stopped.stderr.contains("kill -CONT"), "{stopped:?}");
    filtered.signal(Signal::SIGKILL)?;
    filtered.wait(SOON)?.context("a killed process does not end")?;
    Ok(())
}

fn refused(lab: &mut Lab) -> Result<()> {
    let expect = |ended: Ended, exit: i32, words: &[&str]| -> Result<()> {
        let said = ended.stderr.to_lowercase();
        ensure!(ended.exit == exit && words.iter().all(|word| said.contains(word)), "{ended:?}");
        ensure!(ended.stdout.is_empty(), "{ended:?}");
        Ok(())
    };
    expect(profile(lab, 31_999, &[])?, 1, &["no such process", "31999"])?;
    expect(profile(lab, 1, &[])?, 3, &["init"])?;
    expect(profile(lab, 0, &[])?, 2, &["--pid"])?;
    expect(profile(lab, 31_999, &["--seconds", "0"])?, 2, &["--seconds"])?;
    expect(profile(lab, 31_999, &["--tracker", "magic"])?, 2, &["--tracker"])?;
    let victim = Victim::start(lab, "dirty")?;
    let home = lab.dir().join("of-another");
    fs::create_dir(&home)?;
    nix::unistd::chown(&home, Some(1234.into()), Some(1234.into()))?;
    fs::set_permissions(lab.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let (pid, home) = (victim.pid.to_string(), format!("ULPM_HOME={}", home.display()));
    let setpriv = find_program("setpriv").context("no setpriv")?;
    let as_another = [&setpriv, "--reuid=1234", "--regid=1234", "--clear-groups", "env", &home];
    let other = lab.run("a", &[&as_another[..], &[ULPM, "profile", "--pid", &pid]].concat(), SOON)?;
    expect(other, 3, &["permi"])?;
    victim.check_running(lab)?;
    victim.finish()
}

/// The link of the comparison, slow enough for this machine to fill, in bits per second.
const LINK: f64 = 400e6;
/// How often the client overwrites a value.
const WRITES_PER_S: u64 = 2000;

/// What a profile predicts of redis while a client writes, beside the move that follows over a link of known bandwidth.
/// Printed for docs/profile.md. Times are judged with room for other trials: with a load of 20 on two cores the freeze took 3.4 times as
/// long as predicted, the whole move 2.2 times.
fn redis_and_move(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    lab.limit_rate("a", "400mbit")?;
    let redis = redis::start(lab)?;
    let (report, outcome) = redis::under_load(lab, WRITES_PER_S, || {
        std::thread::sleep(Duration::from_secs(1));
        let report = report(lab, redis.pid(), &["--seconds", "10", "--bandwidth", "400Mbit"])?;
        Ok((report, lab.live("a", redis.pid(), "b", &["--tcp", "close"])?))
    })?;
    ensure!(outcome.exit == 0 && outcome.outcome() == "moved", "{}", outcome.stderr);
    let real = &outcome.report;
    let rounds = real["rounds"].as_array().context("no rounds")?;
    let first = rounds.first().context("no round")?;
    let table = report["table"].as_array().context("no table")?;
    let here = |f: &&Value| f["max_freeze_ms"].is_null() && f["bandwidth_bits_per_s"].as_f64() == Some(LINK);
    let predicted = table.iter().find(here).context("no such cell")?;
    let line = |what: &str, predicted: f64, came: f64| {
        println!("  {what:<28} predicted {predicted:>10.1}  came {came:>10.1}");
    };
    println!("redis, {WRITES_PER_S} writes a second, link of {} Mbit/s:", LINK / 1e6);
    line("pages in the first round", number(&report["present_pages"])?, number(&first["pages"])?);
    line("rounds", number(&predicted["rounds"])?, rounds.len() as f64);
    let total = number(&real["precopy_ms"])? + number(&real["freeze_ms"])?;
    line("total ms", number(&predicted["total_ms"])?, total);
    line("freeze ms", number(&predicted["freeze_ms"])?, number(&real["freeze_ms"])?);
    let within = |what: &str, ratio: f64, most: f64| -> Result<()> {
        ensure!(
            (1.0 / most..most).contains(&ratio),
            "{what}: off by a factor of {ratio}: {predicted} {real}"
        );
        Ok(())
    };
    within("pages", number(&report["present_pages"])? / number(&first["pages"])?, 1.25)?;
    within("total", number(&predicted["total_ms"])? / total, 3.0)?;
    within("freeze", number(&predicted["freeze_ms"])? / number(&real["freeze_ms"])?, 5.0)
}
