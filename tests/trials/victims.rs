//! A self-checking victim under way. What is done to each of them is in `variants.rs`; here, for machines that are too slow for
//! all that, some of them go there and back.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::trial;
use crate::lab::huge_pages::HugePages;
use crate::lab::live::LiveOutcome;
use crate::lab::needs::Need;
use crate::lab::process::Proc;
use crate::lab::{Lab, SOON, victims, wait_until};

/// How long a victim works before, between and after moves.
const WORK: Duration = Duration::from_millis(1500);

/// Moved between two hosts inside a virtual machine (`tests/vm/trials/victims.rs`).
const MACHINES: [&str; 3] = ["memory", "net", "process"];

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("verify without map_files", &[Need::Program("setpriv")], without_map_files)]
}

/// There and back, for the machines alone: `variants.rs` does that and more.
pub(super) fn in_machines() -> Vec<Trial> {
    MACHINES
        .map(|name| trial(&format!("move {name}"), needs(name), move |lab| there_and_back(lab, name)))
        .into()
}

/// An ordinary user may not open `/proc/PID/map_files`: shared memory is read, and hashed, through the mappings.
fn without_map_files(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let mut victim = Victim::start(lab, "memory")?;
    let before = victim.outside_pid(lab)?;
    let wrapper = ["setpriv", "--bounding-set=-sys_admin,-checkpoint_restore"];
    let own = lab.run(
        "a",
        &[&wrapper[..], &["sh", "-c", "for f in /proc/$$/map_files/*; do cat $f >/dev/null; done"]].concat(),
        SOON,
    )?;
    ensure!(own.exit != 0 && own.stderr.contains("permitted"), "map_files can be opened after all: {own:?}");
    let outcome =
        lab.start_live_under(&wrapper, "a", victim.pid, &lab.address("b"), &["--verify"])?.outcome()?;
    victim.moved(lab, &outcome, before, "b")?;
    std::thread::sleep(WORK);
    victim.check_running(lab)?;
    victim.finish()
}

pub(super) fn needs(name: &str) -> &'static [Need] {
    match name {
        "hugetlb" => &[Need::HugePages],
        "guarded" => &[Need::Kernel(6, 15)],
        _ => &[],
    }
}

/// The `hugetlb` victim takes up to 28 huge pages, and during a move so does its copy.
pub(super) fn furnish(lab: &mut Lab, name: &str) -> Result<()> {
    if name == "hugetlb" {
        lab.hold(HugePages::add(72)?);
    }
    Ok(())
}

/// A victim under way, wherever it is.
pub(crate) struct Victim {
    process: Proc,
    stop: PathBuf,
    /// What ends it, if it looks for no stop file and has no last word.
    ended_by: Option<Signal>,
    /// Its pid as its present host sees it.
    pub(crate) pid: i32,
    /// Its present host.
    pub(crate) host: String,
}

impl Victim {
    /// Starts a victim in host `a` and waits until it is at work.
    pub(crate) fn start(lab: &Lab, name: &str) -> Result<Self> {
        Self::start_command(lab, &[&victims::program(name)?])
    }

    /// Starts any command that behaves as victims do: the stop file's path is its last argument.
    pub(crate) fn start_command(lab: &Lab, argv: &[&str]) -> Result<Self> {
        Self::start_until(lab, "stop", argv)
    }

    /// The same with a stop file of its own name: several victims in one lab.
    pub(crate) fn start_until(lab: &Lab, stop: &str, argv: &[&str]) -> Result<Self> {
        let stop = lab.dir().join(stop);
        let path = stop.display().to_string();
        let mut process = lab.spawn("a", &[argv, &[&path]].concat())?;
        wait_until("the victim is ready", SOON, || {
            process.output().contains("ready") || !matches!(process.wait(Duration::ZERO), Ok(None))
        })?;
        let said = format!("{} {}", process.output(), process.errors());
        ensure!(process.output().contains("ready"), "{argv:?} is not ready: {said}");
        let pid = process.pid();
        Ok(Self::of(process, stop, pid))
    }

    /// Takes what runs in host `a` already, by its pid there; its words are those of `process`.
    pub(crate) fn of(process: Proc, stop: PathBuf, pid: i32) -> Self {
        Self { process, stop, ended_by: None, pid, host: "a".to_owned() }
    }

    /// One that ends at a signal, without a last word.
    pub(crate) fn ended_by(self, signal: Signal) -> Self {
        Self { ended_by: Some(signal), ..self }
    }

    /// Its pid outside, as long as it runs.
    pub(crate) fn outside_pid(&self, lab: &Lab) -> Result<i32> {
        Ok(lab.host(&self.host).outside_pid(Pid::from_raw(self.pid))?.as_raw())
    }

    /// Moves it, verified, and checks from outside that exactly one copy is left.
    pub(crate) fn move_to(&mut self, lab: &Lab, to: &str) -> Result<()> {
        let before = self.outside_pid(lab)?;
        let outcome = lab.live(&self.host, self.pid, to, &["--verify"])?;
        self.moved(lab, &outcome, before, to)
    }

    /// Takes note of a verified move and checks from outside that exactly one copy is left.
    pub(crate) fn moved(&mut self, lab: &Lab, outcome: &LiveOutcome, before: i32, to: &str) -> Result<()> {
        self.pid = outcome.moved()?;
        self.host = to.to_owned();
        ensure!(is_gone(before), "the source's copy (outside pid {before}) still exists");
        self.check_running(lab)
    }

    /// What it said so far.
    pub(crate) fn said(&self) -> String {
        self.process.output()
    }

    /// The same on its standard error.
    pub(crate) fn errors(&self) -> String {
        self.process.errors()
    }

    /// Insists that it runs and found nothing wrong so far.
    pub(crate) fn check_running(&self, lab: &Lab) -> Result<()> {
        let said = self.process.output();
        ensure!(!said.contains("FAIL"), "the victim in {} says: {said}", self.host);
        let outside =
            self.outside_pid(lab).with_context(|| format!("the victim in {} has gone: {said}", self.host))?;
        ensure!(!is_gone(outside), "the victim in {} has ended: {said}", self.host);
        Ok(())
    }

    /// Ends it by its signal, or else as [`Victim::finish`] does.
    pub(crate) fn end(self, lab: &Lab) -> Result<()> {
        let Some(signal) = self.ended_by else { return self.finish() };
        let outside = self.outside_pid(lab)?;
        kill(Pid::from_raw(outside), signal)?;
        wait_until("the program ends", SOON, || is_gone(outside))
    }

    /// Tells it to check all one last time and to end; insists on its PASS.
    pub(crate) fn finish(self) -> Result<()> {
        fs::write(&self.stop, "")?;
        let ended = || ["PASS", "FAIL"].iter().any(|word| self.process.output().contains(word));
        wait_until("the victim's last word", 5 * SOON, ended)
            .with_context(|| format!("the victim said: {}", self.process.output()))?;
        let said = self.process.output();
        ensure!(said.contains("PASS") && !said.contains("FAIL"), "the victim says: {said}");
        Ok(())
    }
}

fn there_and_back(lab: &mut Lab, name: &str) -> Result<()> {
    furnish(lab, name)?;
    lab.serve("b")?;
    lab.serve("a")?;
    let mut victim = Victim::start(lab, name)?;
    for to in ["b", "a"] {
        std::thread::sleep(WORK);
        victim.check_running(lab)?;
        victim.move_to(lab, to)?;
    }
    std::thread::sleep(WORK);
    victim.check_running(lab)?;
    victim.finish()
}

/// Whether an outside pid is no running process any more; a zombie counts as gone, a main thread that others have outlived does not.
pub(crate) fn is_gone(outside: i32) -> bool {
    let tasks = fs::read_dir(Path::new("/proc").join(outside.to_string()).join("task"));
    let dead = |task: fs::DirEntry| {
        let stat = fs::read(task.path().join("stat")).map(|stat| String::from_utf8_lossy(&stat).into_owned());
        stat.map_or(true, |stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X'])))
    };
    tasks.into_iter().flatten().flatten().all(dead)
}
