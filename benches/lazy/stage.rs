//! Two hosts with `ulpm serve` in the second, commands in them, moves from the first to the second.

use std::fs::File;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ulpm::demo::hosts::{Host, HostOptions, HostProcess, Link, Stdio3};
use ulpm::report::MigrationReport;
use ulpm::sys::process::{sched_attr, set_sched_attr};
use ulpm::transport::DEFAULT_PORT;

use super::Wire;
use super::lab::udp_proxy::UdpProxy;

const ULPM: &str = env!("CARGO_BIN_EXE_ulpm");
const SOON: Duration = Duration::from_secs(30);
const MOVE: Duration = Duration::from_secs(600);
/// From one round trip to the next.
const PING: Duration = Duration::from_millis(2);
const PORT: u16 = 7777;

/// What a measurement takes place on.
pub(crate) struct Stage {
    // dropped in this order: what runs before where it runs, and the files last
    serve: Started,
    hosts: [Host; 2],
    link: Link,
    /// For moves, and for small packets.
    slow: Option<[UdpProxy; 2]>,
    dir: tempfile::TempDir,
}

/// A command that was started, and the file of its output.
pub(crate) struct Started {
    pub(crate) process: HostProcess,
    pub(crate) output: PathBuf,
}

impl Started {
    pub(crate) fn said(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// Waits until its output holds a word.
    pub(crate) fn says(&self, word: &str, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !self.said().contains(word) {
            ensure!(Instant::now() < deadline, "waited {patience:?} for {word:?}: {}", self.said());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Stage {
    pub(crate) fn set_up(wire: &Wire) -> Result<Self> {
        let dir = tempfile::tempdir().context("make a directory")?;
        let host = |name, first_pid| {
            let options = HostOptions {
                first_pid: Some(first_pid),
                program: Some(ULPM.into()),
                env: log_filter().map(|filter| (LOG.to_owned(), filter)).into_iter().collect(),
                ..HostOptions::default()
            };
            Host::create(name, &options)
        };
        let hosts = [host("host-a", 1000)?, host("host-b", 5000)?];
        let link = Link::join(&hosts[0], &hosts[1])?;
        for (host, device) in hosts.iter().zip([&link.a_device, &link.b_device]) {
            let (Some(rate), None) = (wire.rate, wire.delay) else { continue };
            let rate = format!("{rate}bit");
            let limit = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", &rate];
            let ended =
                run(host, dir.path(), &[&limit[..], &["burst", "256kb", "latency", "20ms"]].concat())?;
            ensure!(ended.0, "tc: {}", ended.1);
        }
        let shown = |host| run(host, dir.path(), &[ULPM, "trust", "show"]).map(|(_, said)| said);
        let prints = [shown(&hosts[0])?, shown(&hosts[1])?];
        for (host, print) in hosts.iter().zip(prints.iter().rev()) {
            let ended = run(
                host,
                dir.path(),
                &[ULPM, "trust", "add", print.lines().last().unwrap_or_default(), "--users", "any"],
            )?;
            ensure!(ended.0, "ulpm trust add: {}", ended.1);
        }
        let serve = start(&hosts[1], dir.path(), "serve", &[ULPM, "serve"])?;
        serve.says("ready", SOON)?;
        let slow = wire.delay.map(|delay| delayed(&hosts, delay, wire.rate)).transpose()?;
        Ok(Stage { serve, hosts, link, slow, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The hosts: where it was, where it goes.
    pub(crate) fn hosts(&self) -> &[Host; 2] {
        &self.hosts
    }

    /// Starts a command in the first host.
    pub(crate) fn start(&self, label: &str, argv: &[&str]) -> Result<Started> {
        start(&self.hosts[0], self.dir.path(), label, argv)
    }

    /// Moves a process of the first host.
    pub(crate) fn live(&self, pid: i32, args: &[&str]) -> Result<MigrationReport> {
        let to = self.slow.as_ref().map_or(self.link.b.to_string(), |[moves, _]| moves.address());
        let pid = pid.to_string();
        let argv = [&[ULPM, "live", "--pid", &pid, "--to", &to, "--json"], args].concat();
        let out = self.dir.path().join("live.json");
        let errors = File::create(self.dir.path().join("live.err"))?;
        let stdio = Stdio3::to_files(File::create(&out)?, errors)?;
        let mut live = self.hosts[0].spawn(&argv, self.dir.path(), stdio)?;
        let status = live.wait(MOVE)?.context("the move does not end")?;
        let said = || std::fs::read_to_string(self.dir.path().join("live.err")).unwrap_or_default();
        ensure!(status.success(), "{argv:?}: {status}: {}", said());
        Ok(serde_json::from_slice(&std::fs::read(&out)?)?)
    }

    /// Does something while small packets go to and fro on the link; how long each took, and when.
    pub(crate) fn pinging<T>(&self, act: impl FnOnce() -> T) -> Result<(T, Vec<(Instant, Duration)>)> {
        let any = Ipv4Addr::UNSPECIFIED;
        let echo = self.hosts[1].in_network(|| open((any, PORT).into()))??;
        let ping = self.hosts[0].in_network(|| open((any, 0).into()))??;
        match &self.slow {
            Some([_, small]) => ping.connect(small.address())?,
            None => ping.connect((self.link.b, PORT))?,
        }
        let stop = AtomicBool::new(false);
        let (done, trips) = std::thread::scope(|scope| {
            scope.spawn(|| answer(&echo, &stop));
            let trips = scope.spawn(|| ask(&ping, &stop));
            let done = act();
            stop.store(true, Ordering::Relaxed);
            (done, trips.join())
        });
        let trips = trips.map_err(|_| anyhow::anyhow!("the pinging thread panicked"))??;
        Ok((done, trips))
    }
}

/// Says what `ulpm serve` had to say, if it was asked to.
impl Drop for Stage {
    fn drop(&mut self) {
        if log_filter().is_some() {
            eprint!("{}", self.serve.said());
        }
    }
}

const LOG: &str = "ULPM_LOG";

fn log_filter() -> Option<String> {
    std::env::var(LOG).ok()
}

/// Two links with that delay. No cable waits for a CPU: their threads go ahead of all of ours, which they inherit from the one that
/// makes them.
fn delayed(hosts: &[Host; 2], delay: Duration, rate: Option<u64>) -> Result<[UdpProxy; 2]> {
    let make = |port| {
        let mut own = sched_attr(0)?;
        (own.policy, own.priority, own.nice) = (libc::SCHED_FIFO as u32, 9, 0);
        set_sched_attr(0, &own)?;
        let proxy = UdpProxy::between(&hosts[0], &hosts[1], port)?;
        proxy.delay(delay);
        if let Some(rate) = rate {
            proxy.rate(rate / 8);
        }
        Ok::<_, anyhow::Error>(proxy)
    };
    std::thread::scope(|scope| {
        let made = scope.spawn(|| Ok([make(DEFAULT_PORT)?, make(PORT)?]));
        made.join().map_err(|_| anyhow::anyhow!("the thread that makes the link panicked"))?
    })
}

fn open(at: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_read_timeout(Some(Duration::from_millis(500)))?;
    Ok(socket)
}

fn answer(echo: &UdpSocket, stop: &AtomicBool) {
    let mut buffer = [0; 64];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..n], from);
        }
    }
}

fn ask(ping: &UdpSocket, stop: &AtomicBool) -> Result<Vec<(Instant, Duration)>> {
    let (mut trips, mut buffer) = (Vec::new(), [0; 64]);
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let begun = Instant::now();
        ping.send(&number.to_le_bytes())?;
        let came = loop {
            match ping.recv(&mut buffer) {
                // an answer that came too late for its own round
                Ok(n) if buffer[..n] != number.to_le_bytes() => {}
                Ok(_) => break true,
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break false,
                Err(e) => return Err(e.into()),
            }
        };
        if came {
            trips.push((begun, begun.elapsed()));
        }
        std::thread::sleep(PING);
    }
    Ok(trips)
}

fn start(host: &Host, dir: &Path, label: &str, argv: &[&str]) -> Result<Started> {
    let output = dir.join(format!("{label}.out"));
    let file = File::options().create(true).append(true).open(&output)?;
    let stdio = Stdio3::to_files(file.try_clone()?, file)?;
    let process = host.spawn(argv, dir, stdio).with_context(|| format!("start {argv:?}"))?;
    Ok(Started { process, output })
}

/// Whether it ended well, and what it said.
fn run(host: &Host, dir: &Path, argv: &[&str]) -> Result<(bool, String)> {
    let label = format!("{}-{}", host.name(), argv.len());
    let mut started = start(host, dir, &label, argv)?;
    let status = started.process.wait(SOON)?.with_context(|| format!("{argv:?} does not end"))?;
    let said = started.said();
    std::fs::remove_file(&started.output)?;
    Ok((status.success(), said))
}

/// The loopback address of whatever network a socket is made in.
pub(crate) const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;
