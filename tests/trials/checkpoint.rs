//! Processes that are written into a directory, and made of what is there: victims and real programs, copies of what runs on,
//! interrupted and damaged checkpoints.
//!
//! `ULPM_CHECKPOINTS=100 cargo test --test moves -- "checkpoint of one that is left running"` makes so many of one process.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::Signal;

use super::aborts::trace_of;
use super::programs;
use super::trial;
use super::variants::at_work;
use super::victims::{Victim, furnish, is_gone, needs};
use crate::lab::live::Live;
use crate::lab::needs::Need;
use crate::lab::process::Ended;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

/// Checkpoints of the process that is left running, if nobody says how many.
const COPIES: usize = 4;

/// Victims of another kind: one has trials of its own; one counts the intervals of a timer, which have a rest when it is captured, by
/// the time of day, which goes on in the drawer.
const LEFT_OUT: [&str; 2] = [super::oracle::VICTIM, "overruns"];

/// Where the worker is killed, and whether the checkpoint is whole by then.
const KILLED: [(&str, bool); 8] = [
    ("source.ready", false),
    ("source.captured", false),
    ("source.prepared", false),
    ("source.held", false),
    ("checkpoint.written", false),
    ("checkpoint.whole", false),
    ("checkpoint.named", true),
    ("source.answered", true),
];

pub(super) fn trials() -> Vec<Trial> {
    let names = victims::names().into_iter().filter(|name| !LEFT_OUT.contains(&name.as_str()));
    let all =
        names.map(|name| trial(&format!("checkpoint {name}"), needs(&name), move |lab| drawn(lab, &name)));
    let python = &[Need::Program("python3")];
    let others = [
        trial("checkpoint of one that is left running", &[], left_running),
        trial("checkpoint restored twice", &[], twice),
        trial("checkpoint damaged", &[], damaged),
        trial("checkpoint opened by gdb", &[Need::Program("gdb")], opened_by_gdb),
        trial("checkpoint killed with its worker", &[], both_killed),
        trial("checkpoint whose process was let go on", &[], let_go_on),
        trial("checkpoint taken away", &[], taken_away),
        trial("checkpoint that fails", &[], fails),
        trial("checkpoint of redis", &[Need::Program("redis-server")], programs::redis::drawn),
        trial("checkpoint of python3", python, |lab| program(lab, 0)),
        trial("checkpoint of node", &[Need::Program("node")], |lab| program(lab, 1)),
    ];
    let killed = KILLED.map(|(point, whole)| {
        trial(&format!("checkpoint killed at {point}"), &[], move |lab| killed(lab, point, whole))
    });
    all.chain(others).chain(killed).collect()
}

/// `ulpm checkpoint` in host `a`.
pub(super) fn checkpoint(lab: &Lab, pid: i32, dir: &Path, args: &[&str]) -> Result<Ended> {
    let (pid, dir) = (pid.to_string(), dir.display().to_string());
    lab.run("a", &[&[ULPM, "checkpoint", "--pid", &pid, "--dir", &dir], args].concat(), SOON)
}

/// `ulpm restore` in host `a`.
pub(super) fn restore(lab: &Lab, dir: &Path, args: &[&str]) -> Result<Ended> {
    let dir = dir.display().to_string();
    lab.run("a", &[&[ULPM, "restore", "--dir", &dir], args].concat(), SOON)
}

/// The pid that `ulpm restore` tells.
pub(super) fn restored(ended: &Ended) -> Result<i32> {
    ensure!(ended.exit == 0, "not restored: {ended:?}");
    let pid = ended.stdout.strip_prefix("process ").and_then(|rest| rest.split(' ').next());
    Ok(pid.with_context(|| format!("no pid in {ended:?}"))?.parse()?)
}

pub(super) fn refused(ended: &Ended, exit: i32, words: &[&str]) -> Result<()> {
    let lacks: Vec<_> = words.iter().filter(|word| !ended.stderr.contains(**word)).collect();
    ensure!(ended.exit == exit && lacks.is_empty(), "expected exit {exit} and {lacks:?}: {ended:?}");
    Ok(())
}

/// Into the drawer, and out of it.
fn drawn(lab: &mut Lab, name: &str) -> Result<()> {
    furnish(lab, name)?;
    let victim = Victim::start(lab, name)?;
    there_and_back(lab, victim)
}

fn program(lab: &mut Lab, which: usize) -> Result<()> {
    let (_, _, start) = programs::calm().swap_remove(which);
    let victim = start(lab)?;
    std::thread::sleep(Duration::from_secs(1));
    there_and_back(lab, victim)
}

fn there_and_back(lab: &mut Lab, mut victim: Victim) -> Result<()> {
    at_work(lab, &victim)?;
    let (dir, before) = (lab.dir().join("kept"), victim.outside_pid(lab)?);
    let ended = checkpoint(lab, victim.pid, &dir, &["--pre-copy"])?;
    ensure!(ended.exit == 0 && ended.stdout.contains("has ended here"), "{ended:?}");
    ensure!(is_gone(before), "the copy at the source still exists");
    private(&dir)?;
    // time that counts for nobody but the clock on the wall
    std::thread::sleep(Duration::from_millis(300));
    let pid = restored(&restore(lab, &dir, &["--pid-mode", "same"])?)?;
    ensure!(pid == victim.pid, "another pid: {pid}");
    at_work(lab, &victim)?;
    victim.pid = pid;
    victim.end(lab)
}

fn private(dir: &Path) -> Result<()> {
    let mode = |path: &Path| Ok::<_, anyhow::Error>(fs::metadata(path)?.permissions().mode() & 0o777);
    ensure!(mode(dir)? == 0o700, "the directory has mode {:o}", mode(dir)?);
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        ensure!(mode(&path)? == 0o600, "{} has mode {:o}", path.display(), mode(&path)?);
    }
    Ok(())
}

/// It goes on untouched, every time, and nothing stays in it.
fn left_running(lab: &mut Lab) -> Result<()> {
    let count = std::env::var("ULPM_CHECKPOINTS").ok().and_then(|count| count.parse().ok());
    let victim = Victim::start(lab, "plain")?;
    at_work(lab, &victim)?;
    let outside = victim.outside_pid(lab)?;
    let before = trace_of(outside)?;
    for n in 0..count.unwrap_or(COPIES) {
        let dir = lab.dir().join(format!("kept-{n}"));
        let args: &[&str] =
            if n % 2 == 0 { &["--leave-running"] } else { &["--leave-running", "--pre-copy"] };
        let ended = checkpoint(lab, victim.pid, &dir, args)?;
        ensure!(ended.exit == 0 && ended.stdout.contains("goes on here"), "{ended:?}");
        victim.check_running(lab)?;
        fs::remove_dir_all(&dir)?;
    }
    unchanged(outside, &before)?;
    at_work(lab, &victim)?;
    victim.finish()
}

/// The same descriptors, mappings, signals, tracer as before.
fn unchanged(outside: i32, before: &BTreeMap<String, String>) -> Result<()> {
    let same = wait_until("it is as before", SOON, || trace_of(outside).is_ok_and(|now| now == *before));
    same.with_context(|| format!("something stays: it was {before:?}, and is {:?}", trace_of(outside)))
}

/// The second one gets a namespace, or is refused; the first one is not touched. Both live to their end.
fn twice(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "plain")?;
    at_work(lab, &victim)?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &[])?;
    ensure!(ended.exit == 0, "{ended:?}");
    restored(&restore(lab, &dir, &[])?)?;
    let taken = format!("pid {}: it is taken", victim.pid);
    refused(&restore(lab, &dir, &["--pid-mode", "same"])?, 3, &[&taken])?;
    let ended = restore(lab, &dir, &[])?;
    let why = format!("; pid {0} is taken here by process {0} (plain)\n", victim.pid);
    ensure!(ended.stdout.ends_with(&why), "{ended:?}");
    let again = restored(&ended)?;
    ensure!(again != victim.pid, "two processes of one pid");
    at_work(lab, &victim)?;
    let second = lab.host("a").outside_pid(nix::unistd::Pid::from_raw(again))?.as_raw();
    let first = victim.outside_pid(lab)?;
    fs::write(lab.dir().join("stop"), "")?;
    wait_until("both have ended", SOON, || is_gone(first) && is_gone(second))?;
    // each had the position of before in the file that both write
    ensure!(victim.said() == "ready\nPASS\n", "they say: {}", victim.said());
    Ok(())
}

/// Whatever is not a whole checkpoint of this version is refused by its name, and nothing is made of it.
fn damaged(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "plain")?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &["--leave-running"])?;
    ensure!(ended.exit == 0, "{ended:?}");
    inspected(lab, &victim, &dir)?;
    taken(lab, &victim, &dir)?;
    by_other_files(lab, &dir)?;
    let (state, pages) = (dir.join("state"), dir.join("pages"));
    let flip = |path: &Path, at: u64| -> Result<()> {
        let file = File::options().read(true).write(true).open(path)?;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at)?;
        file.write_all_at(&[byte[0] ^ 1], at)?;
        Ok(())
    };
    let no = |words: &[&str]| refused(&restore(lab, &dir, &["--pid-mode", "namespace"])?, 1, words);
    let last = fs::metadata(&pages)?.len();
    flip(&pages, last - 1)?;
    no(&["is damaged: page", "nothing was restored"])?;
    flip(&pages, last - 1)?;
    File::options().write(true).open(&pages)?.set_len(last - 4096)?;
    no(&["pages cannot be used", "bytes instead of"])?;
    let whole = fs::read(&state)?;
    flip(&state, whole.len() as u64 / 2)?;
    no(&["state cannot be used", "checksum"])?;
    fs::write(&state, &whole[..whole.len() - 1])?;
    no(&["state cannot be used", "bytes instead of"])?;
    fs::write(&state, another_version(&whole))?;
    no(&["state cannot be used", "install the same version"])?;
    fs::write(&state, "a shopping list")?;
    no(&["it does not begin as a checkpoint does"])?;
    fs::remove_file(&state)?;
    no(&["was being written when that was interrupted"])?;
    fs::remove_dir_all(&dir)?;
    no(&["there is no checkpoint in"])?;
    at_work(lab, &victim)?;
    victim.finish()
}

/// What is there is never replaced, not even an empty directory.
fn taken(lab: &Lab, victim: &Victim, dir: &Path) -> Result<()> {
    let empty = lab.dir().join("empty");
    fs::create_dir(&empty)?;
    let before = fs::metadata(&empty)?.ino();
    for dir in [dir, &empty] {
        let ended = checkpoint(lab, victim.pid, dir, &["--leave-running"])?;
        refused(&ended, 1, &["exists already: name one that does not"])?;
    }
    ensure!(fs::metadata(&empty)?.ino() == before, "it was replaced");
    Ok(fs::remove_dir(&empty)?)
}

/// Another name, or a pipe in place of a file at whose other end nobody is: refused at once. Afterwards all is as it was.
fn by_other_files(lab: &Lab, dir: &Path) -> Result<()> {
    let name = dir.display().to_string();
    let no = |words: &[&str]| {
        refused(&restore(lab, dir, &["--pid-mode", "namespace"])?, 1, words)?;
        refused(&lab.run("a", &[ULPM, "inspect", &name], SOON)?, 1, words)
    };
    let id = dir.join("id");
    let whole = fs::read(&id)?;
    let longer = [&whole[..], b"0"].concat();
    for other in [&b""[..], b"flipped", &whole[1..], &longer] {
        fs::write(&id, other)?;
        no(&["id cannot be used", "does not hold the name"])?;
    }
    fs::remove_file(&id)?;
    no(&["opening", "/id"])?;
    fs::write(&id, &whole)?;
    for file in ["state", "pages", "id"] {
        let (path, aside) = (dir.join(file), lab.dir().join("aside"));
        fs::rename(&path, &aside)?;
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR)?;
        no(&[&format!("{file} cannot be used"), "no regular file"])?;
        fs::remove_file(&path)?;
        std::os::unix::fs::symlink(&aside, &path)?;
        no(&[&format!("{file} cannot be used"), "no regular file"])?;
        fs::rename(&aside, &path)?;
    }
    Ok(())
}

fn inspected(lab: &Lab, victim: &Victim, dir: &Path) -> Result<()> {
    let dir = dir.display().to_string();
    let text = lab.run("a", &[ULPM, "inspect", &dir], SOON)?;
    let words = [
        format!("process {} (plain)", victim.pid),
        "threads: 1".to_owned(),
        "went on where it was".to_owned(),
    ];
    ensure!(text.exit == 0 && words.iter().all(|word| text.stdout.contains(word)), "{text:?}");
    let json = lab.run("a", &[ULPM, "inspect", &dir, "--json"], SOON)?;
    let summary: serde_json::Value = serde_json::from_str(&json.stdout)?;
    let process = &summary["processes"][0];
    ensure!(summary["left_running"] == true && process["pid"] == victim.pid, "{summary}");
    ensure!(process["threads"][0][1] == "plain" && process["descriptors"][0][1] == "/dev/null", "{summary}");
    Ok(())
}

/// A debugger sees every thread, and its stack down to where it began.
fn opened_by_gdb(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "perthread")?;
    at_work(lab, &victim)?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &["--leave-running"])?;
    ensure!(ended.exit == 0, "{ended:?}");
    let (dir, core) = (dir.display().to_string(), lab.dir().join("core").display().to_string());
    let json = lab.run("a", &[ULPM, "inspect", &dir, "--json"], SOON)?;
    let summary: serde_json::Value = serde_json::from_str(&json.stdout)?;
    let threads = summary["processes"][0]["threads"].as_array().context("no threads")?.clone();
    let written = lab.run("a", &[ULPM, "inspect", &dir, "--core", &core], SOON)?;
    ensure!(written.exit == 0, "{written:?}");
    let program = victims::program("perthread")?;
    let asked = ["-ex", "info proc", "-ex", "thread apply all bt", "-ex", "info registers rip xmm0"];
    let argv = [&["gdb", "-nx", "-batch", &program, &core][..], &asked].concat();
    let shown = lab.run("a", &argv, SOON)?;
    ensure!(shown.exit == 0, "{shown:?}");
    for thread in &threads {
        let named = format!("LWP {}", thread[0]);
        ensure!(shown.stdout.contains(&named), "no {named}: {shown:?}");
    }
    ensure!(threads.len() > 1 && shown.stdout.contains("main ("), "no stack of main: {shown:?}");
    let stacks = shown.stdout.matches("\n#1 ").count();
    ensure!(stacks == threads.len(), "{stacks} stacks of {} threads: {shown:?}", threads.len());
    victim.finish()
}

/// The header of a checkpoint with another image version, sound in itself.
fn another_version(whole: &[u8]) -> Vec<u8> {
    let mut other = whole.to_vec();
    other[12] = other[12].wrapping_add(1);
    let sum = xxhash_rust::xxh3::xxh3_64(&other[..56]);
    other[56..64].copy_from_slice(&sum.to_le_bytes());
    other
}

/// The worker is killed: either the process goes on as it was, and nothing can be restored; or it is gone, and can.
fn killed(lab: &mut Lab, point: &str, whole: bool) -> Result<()> {
    let mut victim = Victim::start(lab, "threads")?;
    at_work(lab, &victim)?;
    let (dir, outside) = (lab.dir().join("kept"), victim.outside_pid(lab)?);
    let ended = checkpoint(lab, victim.pid, &dir, &["--fault", &format!("{point}=kill")])?;
    ensure!(
        ended.stderr.contains(&format!("fault {point}=kill in process")),
        "nothing was killed: {ended:?}"
    );
    settled(lab, &mut victim, &dir, outside, whole).with_context(|| format!("{ended:?}"))?;
    at_work(lab, &victim)?;
    victim.finish()
}

/// Nobody is left to settle it: the process stands still, or goes on; afterwards `ulpm recover` says which.
fn both_killed(lab: &mut Lab) -> Result<()> {
    for (n, (point, whole)) in
        [("checkpoint.whole", false), ("checkpoint.named", true)].into_iter().enumerate()
    {
        let dir = lab.dir().join(format!("kept-{n}"));
        let mut victim = Victim::start_until(lab, &format!("stop-{n}"), &[&victims::program("threads")?])?;
        let outside = victim.outside_pid(lab)?;
        left_open(lab, &victim, &dir, point)?;
        if whole {
            refused(&restore(lab, &dir, &[])?, 1, &["is still on this host, stopped", "ulpm recover"])?;
            held(lab, &victim, &dir)?;
        } else {
            refused(&checkpoint(lab, victim.pid, &dir, &[])?, 1, &["was interrupted", "ulpm recover"])?;
        }
        let recovered = lab.run("a", &[ULPM, "recover"], SOON)?;
        let word = if whole { "it is kept in" } else { "was never whole" };
        ensure!(recovered.exit == 0 && recovered.stdout.contains(word), "{recovered:?}");
        settled(lab, &mut victim, &dir, outside, whole)?;
        at_work(lab, &victim)?;
        victim.finish()?;
    }
    Ok(())
}

/// Both of `ulpm checkpoint` are killed at this point.
fn left_open(lab: &Lab, victim: &Victim, dir: &Path, point: &str) -> Result<()> {
    let (pid, name) = (victim.pid.to_string(), dir.display().to_string());
    let argv = [ULPM, "checkpoint", "--pid", &pid, "--dir", &name, "--fault", &format!("{point}=stop")];
    let live = Live::of(lab.spawn("a", &argv)?);
    let hint = format!("fault {point}=stop in process ");
    wait_until("it hangs", SOON, || live.errors().contains(&hint))?;
    live.kill_both()
}

/// Nobody is told to let go on by hand what `ulpm recover` is to end.
fn held(lab: &Lab, victim: &Victim, dir: &Path) -> Result<()> {
    let (pid, name, other) =
        (victim.pid.to_string(), dir.display().to_string(), dir.with_extension("2").display().to_string());
    let commands: [&[&str]; 4] = [
        &["check", &pid],
        &["profile", &pid],
        &["checkpoint", &pid, "--dir", &other],
        &["live", &pid, "127.0.0.2"],
    ];
    for command in commands {
        let ended = lab.run("a", &[&[ULPM], command].concat(), SOON)?;
        let said = format!("{}{}", ended.stdout, ended.stderr);
        let words = ["is held by the hand-over", &format!("into {name}"), "ulpm recover"];
        let told = words.iter().all(|word| said.contains(word)) && !said.contains("job control");
        ensure!(ended.exit == 3 && told, "{command:?}: {ended:?}");
    }
    let text = lab.run("a", &[ULPM, "inspect", &name], SOON)?;
    ensure!(text.exit == 0 && text.stdout.contains("is still here, stopped"), "{text:?}");
    Ok(())
}

/// Somebody lets the process go on that `ulpm recover` was to end: it is not ended without the user's word.
fn let_go_on(lab: &mut Lab) -> Result<()> {
    for (n, force) in ["--force-source", "--force-target"].into_iter().enumerate() {
        let dir = lab.dir().join(format!("kept-{n}"));
        let mut victim = Victim::start_until(lab, &format!("stop-{n}"), &[&victims::program("threads")?])?;
        let outside = victim.outside_pid(lab)?;
        left_open(lab, &victim, &dir, "checkpoint.named")?;
        lab.go_on("a", &victim.pid.to_string())?;
        let recovered = lab.run("a", &[ULPM, "recover"], SOON)?;
        let words = ["still open", "both exist", "--force-source", "--force-target", " UTC"];
        let told = words.iter().all(|word| recovered.stdout.contains(word));
        ensure!(recovered.exit == 5 && told, "{recovered:?}");
        victim.check_running(lab)?;
        refused(&restore(lab, &dir, &[])?, 1, &["somebody let it go on", "ulpm recover"])?;
        let check = lab.run("a", &[ULPM, "check", &victim.pid.to_string()], SOON)?;
        ensure!(check.exit == 3 && check.stdout.contains("somebody let it go on"), "{check:?}");
        let id = fs::read_to_string(dir.join("id"))?;
        let forced = lab.run("a", &[ULPM, "recover", force, &id], SOON)?;
        ensure!(forced.exit == 0, "{forced:?}");
        if n == 0 {
            ensure!(forced.stdout.contains("goes on here") && dir.exists(), "{forced:?}");
            victim.check_running(lab)?;
            refused(&restore(lab, &dir, &[])?, 1, &["still runs on this host"])?;
        } else {
            ensure!(forced.stdout.contains("somebody had let it go on"), "{forced:?}");
            settled(lab, &mut victim, &dir, outside, true)?;
        }
        at_work(lab, &victim)?;
        victim.finish()?;
    }
    Ok(())
}

/// The directory is taken away: as long as the process is there it is the user's to decide, then there is nothing left to settle.
fn taken_away(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let (dir, outside) = (lab.dir().join("kept"), victim.outside_pid(lab)?);
    left_open(lab, &victim, &dir, "checkpoint.named")?;
    fs::remove_dir_all(&dir)?;
    let open = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(open.exit == 5 && open.stdout.contains("--force-source"), "{open:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(outside), Signal::SIGKILL)?;
    wait_until("it is gone", SOON, || is_gone(outside))?;
    let closed = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(closed.exit == 0 && closed.stdout.contains("nothing is left to settle"), "{closed:?}");
    let again = lab.run("a", &[ULPM, "recover"], SOON)?;
    ensure!(again.exit == 0 && again.stdout.contains("nothing is open"), "{again:?}");
    Ok(())
}

/// Exactly one: the process that was there before, or the one in the directory, which is restored.
fn settled(lab: &Lab, victim: &mut Victim, dir: &Path, outside: i32, whole: bool) -> Result<()> {
    let left: Vec<PathBuf> = fs::read_dir(lab.dir())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.to_string_lossy().contains(".ulpm-"))
        .collect();
    ensure!(left.is_empty(), "an unfinished checkpoint stays: {left:?}");
    if whole {
        ensure!(is_gone(outside), "the process is there, and a whole checkpoint");
        victim.pid = restored(&restore(lab, dir, &["--pid-mode", "same"])?)?;
    } else {
        ensure!(!dir.exists(), "the process is there, and a whole checkpoint");
        victim.check_running(lab)?;
        ensure!(victim.outside_pid(lab)? == outside, "another process");
    }
    Ok(())
}

/// The disk is full, or cannot be written, or the user thinks better of it: the process goes on, and nothing is there.
fn fails(lab: &mut Lab) -> Result<()> {
    let mut victim = Victim::start(lab, "plain")?;
    let (dir, outside) = (lab.dir().join("kept"), victim.outside_pid(lab)?);
    let before = trace_of(outside)?;
    for fault in ["checkpoint.written=full", "checkpoint.whole=full", "source.captured=memory"] {
        let ended = checkpoint(lab, victim.pid, &dir, &["--fault", fault])?;
        refused(&ended, 4, &["runs on here"])?;
        settled(lab, &mut victim, &dir, outside, false)?;
        let left = checkpoint(lab, victim.pid, &dir, &["--leave-running", "--fault", fault])?;
        refused(&left, 4, &[])?;
        settled(lab, &mut victim, &dir, outside, false)?;
    }
    let (pid, name) = (victim.pid.to_string(), dir.display().to_string());
    let argv = [ULPM, "checkpoint", "--pid", &pid, "--dir", &name, "--fault", "source.captured=stop"];
    let live = Live::of(lab.spawn("a", &argv)?);
    let hint = "fault source.captured=stop in process ";
    wait_until("it hangs", SOON, || live.errors().contains(hint))?;
    let worker = live.errors().split(hint).nth(1).and_then(|rest| Some(rest.lines().next()?.to_owned()));
    let worker = worker.context("no worker")?;
    lab.stopped("a", &worker)?;
    live.signal(Signal::SIGINT)?;
    wait_until("it was heard", SOON, || live.errors().contains("ending the checkpoint"))?;
    lab.go_on("a", &worker)?;
    let ended = live.outcome()?;
    ensure!(ended.exit == 4 && ended.stderr.contains("runs on here"), "{ended:?}");
    settled(lab, &mut victim, &dir, outside, false)?;
    unchanged(outside, &before)?;
    at_work(lab, &victim)?;
    victim.finish()
}
