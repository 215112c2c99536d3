//! Two hosts on this machine that trust each other, a workload in one of them, and its moves
//! between them by the real `ulpm serve` and `ulpm live`. The stage of `ulpm demo` and of benches.
//!
//! [`move_once`] does it all; [`Scene`] is the same step by step:
//!
//! ```text
//! Scene::set_up ──► hosts, link, trust ──► start_workload ──► move_workload ──► … ──► finish
//!                                                 host-a ──────► host-b ──► host-a
//! ```
//!
//! The caller's `main` must have called [`init_if_asked`](super::hosts::init_if_asked), or
//! `SceneOptions::program` must be a `ulpm` that does. Dropping a scene ends all that runs on it.

mod autopsy;
mod command;
mod error;
mod subject;
mod watcher;

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

pub use error::{SceneError, Tail};
pub use subject::Subject;
pub use watcher::Watcher;

use super::hosts::{Host, HostOptions, Link};
use super::workload::{self, Status};
use crate::report::{MigrationReport, Outcome, Size};
use command::{Invocation, Running};
use error::own;

const SHORT_COMMAND: Duration = Duration::from_secs(20);
const SERVE_READY: Duration = Duration::from_secs(20);
const MOVE_DONE: Duration = Duration::from_secs(600);
const SOURCE_GONE: Duration = Duration::from_secs(3);
/// Far apart, so that a pid of one host is free in the other.
const FIRST_PIDS: [i32; 2] = [1000, 2000];

/// What is to be played.
#[derive(Debug, Clone)]
pub struct SceneOptions {
    /// Memory the workload fills.
    pub mem: Size,
    /// Pages it rewrites per second.
    pub dirty_rate: u64,
    /// Threads that rewrite them.
    pub threads: usize,
    /// Whether every page is compared at both ends inside the freeze.
    pub verify: bool,
    /// More arguments for `ulpm live`.
    pub live_args: Vec<String>,
    /// The ulpm binary; this one if `None`.
    pub program: Option<PathBuf>,
    /// What the source has learned about its predictions, from scene to scene: hosts are new each time.
    pub predictions: Option<PathBuf>,
    /// How long the workload runs on after a move before its gap is read.
    pub settle: Duration,
}

impl Default for SceneOptions {
    fn default() -> Self {
        Self {
            mem: Size::mib(256),
            dirty_rate: 1000,
            threads: 4,
            verify: true,
            live_args: vec![],
            program: None,
            predictions: None,
            settle: Duration::from_secs(1),
        }
    }
}

/// What the workload found out about itself at the end.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkloadResult {
    /// Whether every page and everything else was right.
    pub passed: bool,
    /// Its last status, with the errors in words.
    pub status: Status,
}

/// Sets a scene up, moves the workload once, lets it check itself, and clears everything away.
pub fn move_once(
    options: &SceneOptions,
    watcher: &Watcher,
) -> Result<(MigrationReport, WorkloadResult), SceneError> {
    let mut scene = Scene::set_up(options, watcher)?;
    scene.start_workload()?;
    let report = scene.move_workload()?;
    Ok((report, scene.finish()?))
}

/// Two hosts and what runs in them.
pub struct Scene {
    // Dropped in this order: what runs before where it runs, and the files last.
    servers: [Option<Running>; 2],
    subject: Option<Subject>,
    hosts: [Host; 2],
    link: Link,
    dir: SceneDir,
    program: PathBuf,
    options: SceneOptions,
    watcher: Watcher,
    /// The index of the host that the workload is in.
    here: usize,
}

impl Scene {
    /// Makes the hosts, joins them and lets them trust each other.
    pub fn set_up(options: &SceneOptions, watcher: &Watcher) -> Result<Self, SceneError> {
        memory_for_two(options.mem)?;
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(own("find the ulpm binary"))?,
        };
        let dir = SceneDir::make().map_err(own("make a directory for the scene"))?;
        let host = |name, first_pid| {
            let program = Some(program.clone());
            let env = std::env::var("ULPM_LOG").map(|filter| ("ULPM_LOG".to_owned(), filter));
            let env = env.into_iter().collect();
            Host::create(
                name,
                &HostOptions { first_pid: Some(first_pid), program, env, ..HostOptions::default() },
            )
        };
        let hosts = [host("host-a", FIRST_PIDS[0])?, host("host-b", FIRST_PIDS[1])?];
        watcher.go_on()?;
        let link = Link::join(&hosts[0], &hosts[1])?;
        watcher.say(&format!(
            "host-a ({}) and host-b ({}): two hosts on this machine, each with its own network, processes, mounts and name",
            link.a, link.b
        ));
        let scene = Self {
            servers: [None, None],
            subject: None,
            hosts,
            link,
            dir,
            program,
            options: options.clone(),
            watcher: watcher.clone(),
            here: 0,
        };
        scene.exchange_trust()?;
        Ok(scene)
    }

    /// Starts the workload in the first host; returns when it is ready.
    pub fn start_workload(&mut self) -> Result<&mut Subject, SceneError> {
        let options = workload::Options {
            mem: self.options.mem.as_bytes(),
            dirty_rate: self.options.dirty_rate,
            threads: self.options.threads,
            dir: self.dir.0.join("workload"),
        };
        let program = self.program.to_string_lossy();
        let subject = Subject::start(&self.hosts[self.here], &program, &options, &self.watcher)?;
        self.watcher.say(&format!(
            "{}: a workload runs as pid {}: {} of memory, {} pages/s rewritten by {}; files, pipes and timers busy",
            self.hosts[self.here].name(),
            subject.pid,
            self.options.mem,
            self.options.dirty_rate,
            if options.threads == 1 { "1 thread".to_owned() } else { format!("{} threads", options.threads) }
        ));
        Ok(self.subject.insert(subject))
    }

    /// Moves the workload to the other host; the report has the gap that it saw.
    pub fn move_workload(&mut self) -> Result<MigrationReport, SceneError> {
        let (from, to) = (self.here, 1 - self.here);
        self.serve(to)?;
        let watcher = self.watcher.clone();
        let subject = self.subject()?;
        subject.reset_gap(&watcher)?;
        let (pid, before) = (subject.pid, subject.status().clone());
        let learned = self.hosts[from].home().join("ulpm/predictions.json");
        let kept = self.options.predictions.clone();
        if let Some(kept) = kept.as_ref().filter(|kept| kept.exists()) {
            fs::copy(kept, &learned).map_err(own("hand over what was learned of predictions"))?;
        }
        let mut report = self.live(pid, from, to)?;
        if let Some(kept) = &kept {
            fs::copy(&learned, kept).map_err(own("keep what was learned of predictions"))?;
        }
        let there = report.target_pid.unwrap_or(pid);
        self.see_it_there(pid, from, there, to)?;
        self.here = to;
        let subject = self.subject()?;
        subject.pid = there;
        let gone_on = subject.see_it_go_on(&before, &watcher);
        gone_on.map_err(|error| self.looked_at(error, there, to))?;
        watcher.say(&format!("{}: the workload goes on as pid {there}", self.hosts[to].name()));
        self.settle()?;
        report.observed_gap_ms = Some(self.subject()?.status().longest_gap_ms);
        Ok(report)
    }

    /// Ends the workload with a check of all its memory, then the scene.
    pub fn finish(mut self) -> Result<WorkloadResult, SceneError> {
        self.watcher.say("the workload checks all its memory");
        let watcher = self.watcher.clone();
        let status = self.subject()?.stop(&watcher)?;
        Ok(WorkloadResult { passed: status.passed == Some(true), status })
    }

    /// The running workload.
    pub fn subject(&mut self) -> Result<&mut Subject, SceneError> {
        let none = || own("find the workload")(io::Error::from(io::ErrorKind::NotFound));
        self.subject.as_mut().ok_or_else(none)
    }

    fn invocation(&self, host: usize, args: &[&str]) -> Invocation<'_> {
        Invocation {
            host: &self.hosts[host],
            program: &self.program,
            args: args.iter().map(|arg| (*arg).to_owned()).collect(),
            dir: &self.dir.0,
            relayed: false,
        }
    }

    fn exchange_trust(&self) -> Result<(), SceneError> {
        let mut prints = vec![];
        for (index, host) in self.hosts.iter().enumerate() {
            let shown = self.invocation(index, &["trust", "show"]).answer(SHORT_COMMAND, &self.watcher)?;
            if !shown.starts_with("SHA256:") || shown.contains(char::is_whitespace) {
                let (host, command) = (host.name().into(), "ulpm trust show".into());
                return Err(SceneError::Answer { host, command, answer: shown, expected: "one fingerprint" });
            }
            prints.push(shown);
        }
        for (index, other) in [(0, 1), (1, 0)] {
            let name = self.hosts[other].name();
            let add = ["trust", "add", &prints[other], "--name", name, "--users", "any"];
            self.invocation(index, &add).answer(SHORT_COMMAND, &self.watcher)?;
        }
        self.watcher.say(&format!("each trusts the other's key: {}, {}", prints[0], prints[1]));
        Ok(())
    }

    fn serve(&mut self, at: usize) -> Result<(), SceneError> {
        if self.servers[at].is_some() {
            return Ok(());
        }
        let mut server = self.invocation(at, &["serve"]).start(&self.watcher)?;
        server.wait_for_line("become ready", says_ready, SERVE_READY, &self.watcher)?;
        self.watcher.say(&format!("{}: ulpm serve is ready", self.hosts[at].name()));
        self.servers[at] = Some(server);
        Ok(())
    }

    fn live(&self, pid: i32, from: usize, to: usize) -> Result<MigrationReport, SceneError> {
        let (pid, address) = (pid.to_string(), [self.link.a, self.link.b][to].to_string());
        let mut args = vec!["live", "--pid", &pid, "--to", &address, "--json"];
        args.extend(self.options.verify.then_some("--verify"));
        args.extend(self.options.live_args.iter().map(String::as_str));
        self.watcher.say(&format!("{}$ ulpm {}", self.hosts[from].name(), args.join(" ")));
        let live = Invocation { relayed: true, ..self.invocation(from, &args) };
        let ended = live.run(MOVE_DONE, &self.watcher)?;
        let report = serde_json::from_str::<MigrationReport>(&ended.stdout);
        match report {
            Ok(report) if ended.status.success() && report.outcome == Outcome::Moved => Ok(report),
            Err(_) if ended.status.success() => Err(SceneError::Answer {
                host: self.hosts[from].name().into(),
                command: "ulpm live --json".into(),
                answer: ended.stdout,
                expected: "the report of a migration",
            }),
            report => Err(SceneError::Move {
                code: ended.status.code().unwrap_or(1),
                report: report.ok().map(Box::new),
                // Shown already to whoever watches.
                live: if self.watcher.is_silent() { ended.stderr } else { Tail::default() },
                serve: self.servers[to].as_ref().map(Running::tail).unwrap_or_default(),
            }),
        }
    }

    /// Exactly one: there at the target, gone at the source.
    fn see_it_there(&mut self, pid: i32, from: usize, there: i32, to: usize) -> Result<(), SceneError> {
        let exists = |host: &Host, pid| host.outside_pid(nix::unistd::Pid::from_raw(pid)).is_ok();
        let wrong = |scene: &mut Self, what: String| {
            let last = Box::new(scene.subject()?.status().clone());
            let serve = scene.servers[to].as_ref().map(Running::tail).unwrap_or_default();
            Err(SceneError::Workload { what, last, serve, threads: Tail::default() })
        };
        if !exists(&self.hosts[to], there) {
            let host = self.hosts[to].name();
            let what = format!("is not on {host} as pid {there}, though 'ulpm live' reported it moved");
            return wrong(self, what);
        }
        let deadline = Instant::now() + SOURCE_GONE;
        while exists(&self.hosts[from], pid) {
            self.watcher.go_on()?;
            if Instant::now() >= deadline {
                let host = self.hosts[from].name();
                let what = format!("is still on {host} as pid {pid} after it was moved");
                return wrong(self, what);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// An error about the workload, with what its threads are doing.
    fn looked_at(&self, error: SceneError, there: i32, to: usize) -> SceneError {
        match error {
            SceneError::Workload { what, last, serve, .. } => {
                let outside = self.hosts[to].outside_pid(nix::unistd::Pid::from_raw(there));
                let threads = outside.map_or_else(
                    |_| Tail { whose: "/proc".into(), lines: vec!["the process has ended".into()] },
                    |pid| autopsy::look_at(pid.as_raw()),
                );
                SceneError::Workload { what, last, serve, threads }
            }
            other => other,
        }
    }

    fn settle(&self) -> Result<(), SceneError> {
        let end = Instant::now() + self.options.settle;
        while Instant::now() < end {
            self.watcher.go_on()?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// Source and target stand beside each other in this machine's memory. Where it cannot be told how
/// much there is, the attempt will show.
fn memory_for_two(mem: Size) -> Result<(), SceneError> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    let available = Size::bytes(kib.unwrap_or(u64::MAX).saturating_mul(1024));
    if mem.as_bytes().saturating_mul(2) > available.as_bytes() {
        return Err(SceneError::NoMemory { mem, available });
    }
    Ok(())
}

/// `ulpm serve` says on stderr when it is ready.
fn says_ready(line: &str) -> bool {
    let line = line.to_lowercase();
    line.split(|c: char| !c.is_alphanumeric()).any(|word| word == "ready" || word == "listening")
}

/// The directory of a scene, removed with all that is in it.
struct SceneDir(PathBuf);

impl SceneDir {
    fn make() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ulpm-scene-{}-{count}", std::process::id()));
        fs::create_dir(&path)?;
        Ok(Self(path))
    }
}

impl Drop for SceneDir {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(dir = %self.0.display(), %error, "cannot remove the scene's directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused() {
        assert!(memory_for_two(Size::mib(1)).is_ok());
        let error = memory_for_two(Size::bytes(1 << 60)).unwrap_err();
        assert!(matches!(error, SceneError::NoMemory { .. }) && error.advice().is_some(), "{error}");
    }

    #[test]
    fn readiness_is_a_word_of_its_own() {
        assert!(says_ready("ready: listening on 0.0.0.0:3490"));
        assert!(says_ready("INFO ulpm: Ready."));
        assert!(!says_ready("already running"));
    }
}
