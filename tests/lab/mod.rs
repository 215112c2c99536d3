//! The test lab: two hosts from namespaces on this machine, `ulpm` in both, processes to move.
//!
//! Owns one temporary directory per lab (outputs, stop files) and the log of all that was run in it, which a
//! failing trial prints. Built on `ulpm::demo::hosts`; everything ends when the lab is dropped.

pub(crate) mod huge_pages;
pub(crate) mod live;
pub(crate) mod memory_group;
pub(crate) mod needs;
pub(crate) mod process;
pub(crate) mod recorded;
pub(crate) mod seats;
pub(crate) mod strays;
pub(crate) mod swap;
pub(crate) mod systemd;
pub(crate) mod times;
pub(crate) mod udp_proxy;
pub(crate) mod user;
pub(crate) mod victims;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ulpm::demo::hosts::{Host, HostOptions, Link, TimeOffsets};

use live::Live;
use process::{Ended, Proc};

/// The binary under test.
pub(crate) const ULPM: &str = env!("CARGO_BIN_EXE_ulpm");
/// The port of the contract.
pub(crate) const PORT: u16 = 3490;
/// Patience with what should come at once, on a machine that is slow and busy: what has not come by then never does.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// How a lab differs from the usual one.
#[derive(Debug, Clone, Default)]
pub(crate) struct LabOptions {
    /// Directories of which each host has a private, empty one.
    pub(crate) private: Vec<PathBuf>,
    /// No trust is exchanged.
    pub(crate) strangers: bool,
    /// What is in `ULPM_HOME` survives a power cut.
    pub(crate) disks: bool,
    /// The programs say what the machines of the hand-over hear, and what is carried out.
    pub(crate) recorded: bool,
}

/// Two hosts, `a` and `b`, joined by a wire. Their pids differ (a: from 2000, b: from 17000, since some victims take
/// thousands) and so do their clocks: b's are a day ahead, so that a clock that is not carried over is seen.
#[derive(Debug)]
pub(crate) struct Lab {
    dir: PathBuf,
    hosts: BTreeMap<String, Host>,
    pub(crate) link: Link,
    serves: BTreeMap<String, Proc>,
    options: LabOptions,
    count: Mutex<u32>,
    log: Mutex<Vec<String>>,
    /// Given back when all processes of the lab have ended.
    huge_pages: Vec<huge_pages::HugePages>,
}

impl Lab {
    /// The usual lab.
    pub(crate) fn two_hosts() -> Result<Self> {
        Self::with(&LabOptions::default())
    }

    pub(crate) fn with(options: &LabOptions) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ulpm-lab-").tempdir()?.keep();
        let a = Host::create("a", &host_options(options, &dir, "a"))?;
        let b = Host::create("b", &host_options(options, &dir, "b"))?;
        let link = Link::join(&a, &b)?;
        strays::watch(&a);
        strays::watch(&b);
        let hosts = BTreeMap::from([("a".to_owned(), a), ("b".to_owned(), b)]);
        let serves = BTreeMap::new();
        let (count, log) = (Mutex::new(0), Mutex::new(Vec::new()));
        let huge_pages = Vec::new();
        Ok(Self { dir, hosts, link, serves, options: options.clone(), count, log, huge_pages })
    }

    /// Cuts the power of a host and boots it again: all that ran there is gone, its disk is as it was, the kernel
    /// names another boot. Nothing is started in it.
    pub(crate) fn power_cut(&mut self, name: &str) -> Result<()> {
        if let Some(host) = self.hosts.remove(name) {
            strays::remember_processes(&host);
        }
        self.serves.remove(name);
        let host = Host::create(name, &host_options(&self.options, &self.dir, name))?;
        strays::watch(&host);
        self.hosts.insert(name.to_owned(), host);
        self.rejoin()?;
        let boot = self.dir.join(format!("boot-{name}"));
        fs::copy("/proc/sys/kernel/random/uuid", &boot)?;
        let boot = boot.display().to_string();
        let bound = self.run(name, &["mount", "--bind", &boot, "/proc/sys/kernel/random/boot_id"], SOON)?;
        ensure!(bound.exit == 0, "a new boot id: {bound:?}");
        Ok(())
    }

    /// A new wire, when the kernel has taken the old one's end away, and with it the old addresses.
    fn rejoin(&mut self) -> Result<()> {
        for host in self.hosts.values() {
            let path = host.home().join("hosts");
            let names = fs::read_to_string(&path)?;
            let own: Vec<&str> = names.lines().filter(|l| !l.ends_with(" a") && !l.ends_with(" b")).collect();
            // the file itself is mounted over /etc/hosts: no other may take its place
            fs::write(&path, own.join("\n") + "\n")?;
        }
        let deadline = Instant::now() + SOON;
        loop {
            match Link::join(self.host("a"), self.host("b")) {
                Ok(link) => {
                    self.link = link;
                    return Ok(());
                }
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Whether a host runs `ulpm serve`.
    pub(crate) fn is_serving(&mut self, name: &str) -> bool {
        self.serves.get_mut(name).is_some_and(|serve| matches!(serve.wait(Duration::ZERO), Ok(None)))
    }

    /// Keeps huge pages for as long as the lab lives.
    pub(crate) fn hold(&mut self, pages: huge_pages::HugePages) {
        self.huge_pages.push(pages);
    }

    /// Where the lab's files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn host(&self, name: &str) -> &Host {
        self.hosts.get(name).unwrap_or_else(|| panic!("no host {name} in this lab"))
    }

    /// The address at which a host's `ulpm serve` is reached from the other one.
    pub(crate) fn address(&self, name: &str) -> String {
        let ip = if name == "a" { self.link.a } else { self.link.b };
        format!("{ip}:{PORT}")
    }

    /// Starts `ulpm serve` in a host and waits until it is ready; exchanges trust both ways.
    pub(crate) fn serve(&mut self, name: &str) -> Result<()> {
        self.serve_under(name, &[])
    }

    /// The same, run by another program, which takes a command as its last arguments.
    pub(crate) fn serve_under(&mut self, name: &str, wrapper: &[&str]) -> Result<()> {
        if !self.options.strangers {
            self.trust("a", "b")?;
            self.trust("b", "a")?;
        }
        self.serve_untrusted(name, wrapper)
    }

    /// The same without an exchange of trust.
    pub(crate) fn serve_untrusted(&mut self, name: &str, wrapper: &[&str]) -> Result<()> {
        let listen = format!("0.0.0.0:{PORT}");
        let serve = self.spawn(name, &[wrapper, &[ULPM, "serve", "--listen", &listen]].concat())?;
        self.await_serve(name, serve)
    }

    /// The same with arguments of `ulpm serve`, and an exchange of trust.
    pub(crate) fn serve_with(&mut self, name: &str, args: &[&str]) -> Result<()> {
        self.trust("a", "b")?;
        self.trust("b", "a")?;
        let listen = format!("0.0.0.0:{PORT}");
        let serve = self.spawn(name, &[&[ULPM, "serve", "--listen", &listen], args].concat())?;
        self.await_serve(name, serve)
    }

    /// The same with one fault waiting in it; trust was exchanged before.
    pub(crate) fn serve_with_fault(&mut self, name: &str, fault: &str) -> Result<()> {
        let listen = format!("0.0.0.0:{PORT}");
        let serve = self.spawn(name, &[ULPM, "--fault", fault, "serve", "--listen", &listen])?;
        self.await_serve(name, serve)
    }

    fn await_serve(&mut self, name: &str, mut serve: Proc) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let said = serve.errors().to_lowercase();
            if said.contains("ready") || said.contains("listening") {
                break;
            }
            if let Some(status) = serve.wait(Duration::from_millis(20))? {
                bail!("ulpm serve in {name} ended early with {status}: {said}");
            }
            ensure!(Instant::now() < deadline, "ulpm serve in {name} does not say that it is ready: {said}");
        }
        self.serves.insert(name.to_owned(), serve);
        Ok(())
    }

    /// The running `ulpm serve` of a host, to be killed for instance.
    pub(crate) fn server(&mut self, name: &str) -> Result<&mut Proc> {
        self.serves.get_mut(name).with_context(|| format!("no ulpm serve was started in {name}"))
    }

    /// Lets `who` trust `whom`.
    pub(crate) fn trust(&self, who: &str, whom: &str) -> Result<()> {
        let shown = self.run(whom, &[ULPM, "trust", "show"], SOON)?;
        let fingerprint = shown.stdout.trim();
        ensure!(
            shown.exit == 0 && fingerprint.starts_with("SHA256:"),
            "ulpm trust show in {whom}: {shown:?}"
        );
        let added =
            self.run(who, &[ULPM, "trust", "add", fingerprint, "--name", whom, "--users", "any"], SOON)?;
        ensure!(added.exit == 0, "ulpm trust add in {who}: {added:?}");
        Ok(())
    }

    /// Starts a command in a host: own session, input from `/dev/null`, outputs into files of the lab.
    pub(crate) fn spawn(&self, name: &str, argv: &[&str]) -> Result<Proc> {
        self.spawn_with(name, argv, &BTreeMap::new())
    }

    pub(crate) fn spawn_with(
        &self,
        name: &str,
        argv: &[&str],
        env: &BTreeMap<String, String>,
    ) -> Result<Proc> {
        let number = {
            let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            *count
        };
        let label = Path::new(argv[0]).file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let label = format!("{number:02}-{name}-{label}");
        let process = Proc::start(self.host(name), argv, &self.dir, &label, env)?;
        self.note(format!("{name}: pid {} = {argv:?} ({label})", process.pid()));
        Ok(process)
    }

    /// Runs a command to its end, or kills it when its time is up.
    pub(crate) fn run(&self, name: &str, argv: &[&str], patience: Duration) -> Result<Ended> {
        let ended = self.spawn(name, argv)?.finish(patience)?;
        self.note(format!("{name}: {argv:?} ended: {ended:?}"));
        Ok(ended)
    }

    /// Limits what a host sends on the wire, by `tc`'s token bucket, e.g. `100mbit`.
    pub(crate) fn limit_rate(&self, name: &str, rate: &str) -> Result<()> {
        let device = if name == "a" { &self.link.a_device } else { &self.link.b_device };
        let argv = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "64kb"];
        let ended = self.run(name, &[&argv[..], &["latency", "50ms"]].concat(), SOON)?;
        ensure!(ended.exit == 0, "tc in {name}: {ended:?}");
        Ok(())
    }

    /// Moves a process from one host to another and waits for the outcome.
    pub(crate) fn live(&self, from: &str, pid: i32, to: &str, args: &[&str]) -> Result<live::LiveOutcome> {
        self.live_to(from, pid, &self.address(to), args)
    }

    /// The same to any address.
    pub(crate) fn live_to(&self, from: &str, pid: i32, to: &str, args: &[&str]) -> Result<live::LiveOutcome> {
        let outcome = self.start_live(from, pid, to, args)?.outcome()?;
        self.note(format!("live of {pid} from {from} to {to}: {outcome:?}"));
        Ok(outcome)
    }

    /// Begins a move without waiting for it.
    pub(crate) fn start_live(&self, from: &str, pid: i32, to: &str, args: &[&str]) -> Result<Live> {
        self.start_live_under(&[], from, pid, to, args)
    }

    /// The same, run by another program, which takes a command as its last arguments.
    pub(crate) fn start_live_under(
        &self,
        wrapper: &[&str],
        from: &str,
        pid: i32,
        to: &str,
        args: &[&str],
    ) -> Result<Live> {
        let pid = pid.to_string();
        let argv = [wrapper, &[ULPM, "live", "--pid", &pid, "--to", to, "--json"], args].concat();
        Ok(Live::new(self.spawn(from, &argv)?))
    }

    /// Waits until a process that says that it stops itself (a fault of the kind `stop`) has; a `SIGCONT` before that would be lost.
    /// Its pid outside.
    pub(crate) fn stopped(&self, name: &str, pid: &str) -> Result<Pid> {
        let outside = self.host(name).outside_pid(Pid::from_raw(pid.parse()?))?;
        wait_until("it has stopped itself", SOON, || {
            let stat = fs::read_to_string(format!("/proc/{outside}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
        })?;
        Ok(outside)
    }

    /// Lets it go on once it has.
    pub(crate) fn go_on(&self, name: &str, pid: &str) -> Result<()> {
        Ok(kill(self.stopped(name, pid)?, Signal::SIGCONT)?)
    }

    /// Remembers something for the case of failure.
    pub(crate) fn note(&self, line: String) {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// All that was run here and what it said: for a failing trial.
    pub(crate) fn dump(&self) -> String {
        let mut text = String::from("--- what the lab ran\n");
        for line in self.log.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(text, "{line}");
        }
        let mut files: Vec<_> = fs::read_dir(&self.dir).into_iter().flatten().flatten().collect();
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            let name = file.file_name().to_string_lossy().into_owned();
            if !(name.ends_with(".out") || name.ends_with(".err")) {
                continue;
            }
            let said = fs::read(file.path()).unwrap_or_default();
            if !said.is_empty() {
                let tail = String::from_utf8_lossy(&said[said.len().saturating_sub(4000)..]).into_owned();
                let _ = writeln!(text, "--- {name}\n{tail}");
            }
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for host in self.hosts.values() {
            strays::remember_processes(host);
        }
        self.serves.clear();
        self.hosts.clear();
        if std::env::var_os("ULPM_LAB_KEEP").is_none() {
            // A leftover is found and reported at the end of the run.
            let _ = fs::remove_dir_all(&self.dir);
        }
        strays::expect_gone(&self.dir);
    }
}

/// In the environment: how patient victims are, in seconds; for emulated processors.
pub(crate) const TOLERANCE: &str = "ULPM_VICTIM_TOLERANCE_S";

fn host_options(options: &LabOptions, dir: &Path, name: &str) -> HostOptions {
    let day = TimeOffsets { monotonic_s: 86_400, boottime_s: 172_800 };
    let (first_pid, time) = if name == "a" { (2000, None) } else { (17_000, Some(day)) };
    let mut env = BTreeMap::from([(strays::MARK.to_owned(), std::process::id().to_string())]);
    env.extend(std::env::var(TOLERANCE).map(|seconds| (TOLERANCE.to_owned(), seconds)));
    if options.disks {
        // a process may be stopped until somebody has recovered it
        env.insert(TOLERANCE.to_owned(), "900".to_owned());
        env.insert("ULPM_HOME".to_owned(), dir.join(format!("disk-{name}")).display().to_string());
    }
    if options.recorded {
        env.insert("ULPM_LOG".to_owned(), recorded::LOG.to_owned());
    }
    HostOptions {
        time,
        private: options.private.clone(),
        first_pid: Some(first_pid),
        program: Some(PathBuf::from(ULPM)),
        env,
    }
}

/// Waits until something holds; an error that names it after `patience`.
pub(crate) fn wait_until(what: &str, patience: Duration, mut holds: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + patience;
    while !holds() {
        ensure!(Instant::now() < deadline, "waited {patience:?} in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
