//! Both machines, `a` and `b`, joined by a wire: booted once, used by one trial after another.
//!
//! Their kernels are two, with clocks, pids and file systems of their own: what a file says must be said in both.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::image;
use super::machine::{Job, Machine, MachineOptions};
use super::packages::Packages;
use super::wire::Sink;
use crate::lab::live::LiveOutcome;
use crate::lab::{PORT, SOON, ULPM, strays};

/// Longest time that a move may take before it is killed and the trial fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// The machines, once a trial has needed them; why there are none.
static PAIR: Mutex<Option<Result<Pair, String>>> = Mutex::new(None);

/// Why packages cannot be had here; `None` if they can.
pub(crate) fn missing_packages() -> Option<String> {
    let cache = cache().and_then(|cache| Packages::fetched(&cache));
    cache.err().map(|error| format!("no kernel for virtual machines: {error:#}"))
}

/// Does something with the machines, which are booted first if need be. Nothing runs in them before or afterwards.
pub(super) fn with(run: impl FnOnce(&mut Pair) -> Result<()>) -> Result<(), String> {
    let mut pair = PAIR.lock().unwrap_or_else(PoisonError::into_inner);
    let pair = pair.get_or_insert_with(|| Pair::boot().map_err(|error| format!("{error:#}")));
    let pair = pair.as_mut().map_err(|error| format!("the machines did not boot: {error}"))?;
    pair.log.clear();
    let result = crate::lab::needs::caught(|| run(pair));
    // Asked for first: what the trial left behind is part of what went wrong.
    let dump = result.is_err().then(|| pair.dump());
    let reset = pair.reset().map_err(|error| format!("after the trial: {error:#}"));
    match result {
        Ok(()) => reset,
        Err(message) => Err(format!("{message}\n{}", dump.unwrap_or_default())),
    }
}

/// Ends the machines, if there are any.
pub(crate) fn shut_down() {
    *PAIR.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// Two machines.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) a: Machine,
    pub(super) b: Machine,
    /// How long both took from nothing to their agents' first words.
    pub(super) boot: Duration,
    /// How large their first root is.
    pub(super) image_bytes: u64,
    /// The kernel's version.
    pub(super) release: String,
    kernel: PathBuf,
    dir: PathBuf,
    log: Vec<String>,
    keeper: Keeper,
}

/// The thread that started the machines: they end with it.
#[derive(Debug)]
struct Keeper {
    stay: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pair {
    fn boot() -> Result<Self> {
        let cache = cache()?;
        let packages = Packages::fetched(&cache)?;
        let dir = tempfile::Builder::new().prefix("ulpm-vm-").tempdir()?.keep();
        strays::expect_gone(&dir);
        let image = dir.join("image");
        let booted = image::write(&image, &packages, &cache)
            .context("make the image")
            .and_then(|()| start_both(&dir, &image, &packages));
        let begin = Instant::now();
        let booted = booted.and_then(|(mut a, mut b, keeper)| {
            a.ready()?;
            b.ready()?;
            Ok((a, b, keeper))
        });
        let (a, b, keeper) = match booted {
            Ok(all) => all,
            Err(error) => {
                let _ = fs::remove_dir_all(&dir);
                return Err(error);
            }
        };
        let (boot, image_bytes) = (begin.elapsed(), fs::metadata(&image)?.len());
        let (release, kernel) = (packages.release(), packages.kernel.clone());
        let pair = Self { a, b, boot, image_bytes, release, kernel, dir, log: Vec::new(), keeper };
        pair.trust("a", "b")?;
        pair.trust("b", "a")?;
        Ok(pair)
    }

    pub(super) fn machine(&self, name: &str) -> &Machine {
        if name == "a" { &self.a } else { &self.b }
    }

    /// The address at which a machine's `ulpm serve` is reached from the other one.
    pub(super) fn address(&self, name: &str) -> String {
        format!("{}:{PORT}", self.machine(name).address)
    }

    fn trust(&self, who: &str, whom: &str) -> Result<()> {
        let fingerprint = self.machine(whom).must(&[ULPM, "trust", "show"])?;
        self.machine(who)
            .must(&[ULPM, "trust", "add", fingerprint.trim(), "--name", whom, "--users", "any"])
            .map(|_| ())
    }

    /// Starts `ulpm serve` in both machines and waits until they are ready.
    pub(super) fn serve(&mut self) -> Result<[Job; 2]> {
        let listen = format!("0.0.0.0:{PORT}");
        let mut jobs = Vec::new();
        for machine in [&self.a, &self.b] {
            let argv = [ULPM, "serve", "--listen", &listen];
            let job = machine.start_job(&argv, &[("ULPM_LOG", "ulpm=debug")], Sink::File)?;
            let said = machine.until(&job, &["ulpm: ready"], SOON)?;
            ensure!(said.contains("ulpm: ready"), "ulpm serve in machine {}: {said}", machine.name);
            jobs.push(job);
        }
        for (name, job) in ["a", "b"].iter().zip(&jobs) {
            self.log.push(format!("{name}: ulpm serve is {job:?}"));
        }
        jobs.try_into().map_err(|_| anyhow::anyhow!("not two"))
    }

    /// Moves a process from one machine to the other and waits for the outcome.
    pub(super) fn live(&mut self, from: &str, pid: i32, to: &str, args: &[&str]) -> Result<LiveOutcome> {
        let (pid, address) = (pid.to_string(), self.address(to));
        let argv = [&[ULPM, "live", "--pid", &pid, "--to", &address, "--json"][..], args].concat();
        let ended = self.machine(from).run_for(&argv, PATIENCE)?;
        let report = serde_json::from_str(&ended.stdout).unwrap_or(Value::Null);
        let outcome = LiveOutcome { exit: ended.exit, report, stderr: ended.stderr };
        self.log.push(format!("{from}: {argv:?}: {outcome:?}"));
        Ok(outcome)
    }

    /// Machine `a` as it is after another boot, without a wire, beside the first one: it ends with the calling thread at the latest.
    pub(super) fn booted_again(&self) -> Result<Machine> {
        let dir = self.dir.join("again");
        fs::create_dir_all(&dir)?;
        let (wire, _nobody) = UnixDatagram::pair()?;
        let mut machine = Machine::start(MachineOptions {
            name: "a",
            address: self.a.address,
            // what comes back has its old pid: nobody has it yet
            first_pid: 20_000,
            kernel: &self.kernel,
            image: &self.dir.join("image"),
            dir: &dir,
            wire: OwnedFd::from(wire),
        })?;
        machine.ready()?;
        Ok(machine)
    }

    /// Remembers something for the case of failure.
    pub(super) fn note(&mut self, line: String) {
        self.log.push(line);
    }

    fn reset(&self) -> Result<()> {
        self.a.reset()?;
        self.b.reset()
    }

    /// All that was run and what the machines said.
    fn dump(&self) -> String {
        let mut text = String::from("--- what was run\n");
        for line in &self.log {
            let _ = writeln!(text, "{line}");
        }
        for machine in [&self.a, &self.b] {
            let _ = writeln!(text, "--- console of {}\n{}", machine.name, machine.console());
            let outputs = machine.run(&["sh", "-c", "for said in /run/outputs/*.err; do echo \"== $said\"; tail -n 60 $said; done; dmesg | tail -n 8"]);
            let outputs = outputs.map_or_else(|error| format!("{error:#}"), |ended| ended.stdout);
            let _ = writeln!(text, "--- outputs in {}\n{outputs}", machine.name);
        }
        text
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.keeper.stay = None;
        if let Some(thread) = self.keeper.thread.take() {
            let _ = thread.join();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where packages and stripped programs are kept between runs.
fn cache() -> Result<PathBuf> {
    Ok(Path::new(ULPM).ancestors().nth(2).context("no target directory")?.join("vm"))
}

/// Starts both on a thread that stays until it is told to end.
fn start_both(dir: &Path, image: &Path, packages: &Packages) -> Result<(Machine, Machine, Keeper)> {
    let (dir, image, kernel) = (dir.to_owned(), image.to_owned(), packages.kernel.clone());
    let (started, machines) = channel();
    let (stay, gone) = channel::<()>();
    let thread = thread::Builder::new().name("keeper".to_owned()).spawn(move || {
        let start = |name, number, wire| {
            let address = Ipv4Addr::new(10, 77, 0, number);
            let first_pid = 2000 * i32::from(number);
            Machine::start(MachineOptions {
                name,
                address,
                first_pid,
                kernel: &kernel,
                image: &image,
                dir: &dir,
                wire,
            })
        };
        let both = UnixDatagram::pair()
            .map_err(anyhow::Error::from)
            .and_then(|(a, b)| Ok((start("a", 1, OwnedFd::from(a))?, start("b", 2, OwnedFd::from(b))?)));
        if started.send(both).is_ok() {
            // An error is the end of the other side.
            let _ = gone.recv();
        }
    })?;
    let (a, b) = machines.recv().context("the keeper of the machines ended")??;
    Ok((a, b, Keeper { stay: Some(stay), thread: Some(thread) }))
}
