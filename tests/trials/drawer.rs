//! What changed while a process was in the drawer: its files, and what the host allows. What it relies on is refused by its name,
//! what merely differs is told of.

use std::fs::{self, File};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::checkpoint::{checkpoint, refused, restore, restored};
use super::trial;
use super::variants::at_work;
use super::victims::Victim;
use crate::lab::needs::Need;
use crate::lab::{Lab, SOON, ULPM, victims, wait_until};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("checkpoint whose files are changed", &[], files_changed),
        trial("checkpoint whose shared file is cut", &[], shared_file_cut),
        trial("checkpoint whose zombie stays", &[], zombie_stays),
        trial(
            "checkpoint with limits that cannot be given",
            &[Need::Program("setpriv"), Need::Program("prlimit")],
            lower_limits,
        ),
    ]
}

/// What it has mapped, or reads, must hold what it held, whatever its inode; where it writes, it is told what others wrote.
fn files_changed(lab: &mut Lab) -> Result<()> {
    let name = |name: &str| lab.dir().join(name).display().to_string();
    let [program, data, log] = ["program", "data", "log"].map(name);
    // by a process of its own: none of our children has it open for writing
    let copied = lab.run("a", &["cp", &victims::program("plain")?, &program], SOON)?;
    ensure!(copied.exit == 0, "{copied:?}");
    fs::write(&data, "apple")?;
    let place = lab.dir().join("place");
    fs::create_dir(&place)?;
    let command = format!("cd {} && exec {program} \"$0\" 7<{data} 8>>{log}", place.display());
    let victim = Victim::start_command(lab, &["sh", "-c", &command])?;
    at_work(lab, &victim)?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &[])?;
    ensure!(ended.exit == 0, "{ended:?}");
    let changed = "was changed since the checkpoint was made";
    let no = |object: &str, why: &str| refused(&restore(lab, &dir, &[])?, 3, &[object, changed, why]);
    let whole = fs::read(&program)?;
    let mut other = whole.clone();
    *other.last_mut().context("an empty program")? ^= 1;
    fs::write(&program, other)?;
    no(&format!("mapped file {program}"), "another content of the same length")?;
    fs::write(&program, &whole)?;
    for (content, why) in [
        ("grape", "another content"),
        ("apples", "it had 5 bytes and has 6"),
        ("", "it had 5 bytes and has 0"),
    ] {
        fs::write(&data, content)?;
        no(&format!("fd 7: {data}"), why)?;
    }
    fs::write(&data, "apple")?;
    fs::remove_dir(&place)?;
    fs::write(&place, "no directory")?;
    let object = format!("current directory {}: it is no directory here", place.display());
    refused(&restore(lab, &dir, &[])?, 3, &[&object])?;
    fs::remove_file(&place)?;
    fs::create_dir(&place)?;
    fs::write(&log, "others")?;
    let ended = restore(lab, &dir, &["--pid-mode", "same"])?;
    restored(&ended)?;
    let note = [&format!("fd 8: {log}, open for writing"), changed, "it had 0 bytes and has 6"];
    refused(&ended, 0, &note)?;
    at_work(lab, &victim)?;
    victim.finish()
}

/// Pages behind the end of a file would kill it.
fn shared_file_cut(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "memory")?;
    at_work(lab, &victim)?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &[])?;
    ensure!(ended.exit == 0, "{ended:?}");
    let found = fs::read_dir(lab.dir())?.filter_map(|entry| Some(entry.ok()?.path()));
    let shared = found.into_iter().find(|path| path.to_string_lossy().ends_with("shared"));
    let shared = File::options().write(true).open(shared.context("no shared file")?)?;
    shared.set_len(0)?;
    refused(&restore(lab, &dir, &[])?, 3, &["mapped file", "it had 65536 bytes and has 0", "has mapped more"])
}

/// Nobody has waited for the process that was ended: its pid is not free yet, which is said.
fn zombie_stays(lab: &mut Lab) -> Result<()> {
    let stop = lab.dir().join("stop");
    let command = format!(
        "{} {} & echo $!; exec sleep 1000 >/dev/null 2>&1",
        victims::program("plain")?,
        stop.display()
    );
    let parent = lab.spawn("a", &["sh", "-c", &command])?;
    let name = format!("/proc/{}/comm", parent.outside_pid());
    wait_until("both are what they are to be", SOON, || {
        let is_sleep = fs::read_to_string(&name).is_ok_and(|name| name == "sleep\n");
        is_sleep && parent.output().contains("ready")
    })?;
    let pid = parent.output().lines().find_map(|line| line.parse().ok()).context("no pid")?;
    let (of, mut victim) = (parent.pid(), Victim::of(parent, stop, pid));
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, pid, &dir, &[])?;
    ensure!(ended.exit == 0, "{ended:?}");
    let why =
        format!("pid {pid}: it is taken here (plain, which has ended, but its parent ({of}, sleep) has not");
    refused(&restore(lab, &dir, &["--pid-mode", "same"])?, 3, &[&why])?;
    victim.pid = restored(&restore(lab, &dir, &[])?)?;
    victim.finish()
}

/// A hard limit that may not be raised here is told of; one that the soft limit needs stands in the way.
fn lower_limits(lab: &mut Lab) -> Result<()> {
    let without = ["setpriv", "--bounding-set=-sys_resource", "prlimit"];
    let program = victims::program("plain")?;
    let mut victim = Victim::start_command(lab, &[&without[..], &["--nofile=200:900", &program]].concat())?;
    let dir = lab.dir().join("kept");
    let ended = checkpoint(lab, victim.pid, &dir, &[])?;
    ensure!(ended.exit == 0, "{ended:?}");
    let name = dir.display().to_string();
    let under =
        |limit: &str| lab.run("a", &[&without[..], &[limit, ULPM, "restore", "--dir", &name]].concat(), SOON);
    let words = ["resource limit nofile", "a soft limit of 200", "`ulpm restore`"];
    refused(&under("--nofile=150:150")?, 3, &words)?;
    let ended = under("--nofile=500:500")?;
    victim.pid = restored(&ended)?;
    refused(
        &ended,
        0,
        &["its hard limit nofile is 500 here and no more 900: ulpm restore may not raise it"],
    )?;
    victim.finish()
}
