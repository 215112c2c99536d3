//! A virtual machine: QEMU with software emulation, its serial console in a file, its agent at a socket, its network
//! card at a socket of the other machine's.
//!
//! Three things end it, whatever becomes of the test: dropping it kills it by its id; the kernel kills it when the
//! thread that started it ends (`PR_SET_PDEATHSIG`); its agent powers it off when the channel is closed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

use super::channel::{Channel, Hello};
use super::wire::{Answer, Line, Place, Request, Sink};
use crate::lab::process::Ended;
use crate::lab::{SOON, strays};

/// Longest time from the start of QEMU to the agent's first word, on a busy machine.
const BOOT: Duration = Duration::from_secs(240);
/// What the kernel is told: a clock that needs no emulated device (both would read the host's counter), and nothing that
/// protects one tenant of a processor from the other.
const KERNEL_LINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check random.trust_cpu=on mitigations=off rcupdate.rcu_expedited=1";
/// All that emulation knows but `rep movsb` and `rep stosb` said to be fast: emulated they go byte by byte, and the kernel
/// takes them for every page it copies. Without them a move takes two thirds of the time.
const CPU: &str = "max,-erms,-fsrm";

/// What makes a machine.
#[derive(Debug)]
pub(super) struct MachineOptions<'a> {
    pub(super) name: &'static str,
    pub(super) address: Ipv4Addr,
    /// Its first process has a pid above that.
    pub(super) first_pid: i32,
    pub(super) kernel: &'a Path,
    pub(super) image: &'a Path,
    /// Where the console is written to.
    pub(super) dir: &'a Path,
    /// Its end of the wire.
    pub(super) wire: OwnedFd,
}

/// A running machine.
#[derive(Debug)]
pub(super) struct Machine {
    pub(super) name: &'static str,
    pub(super) address: Ipv4Addr,
    channel: Channel,
    hello: Mutex<Hello>,
    qemu: Child,
    console: PathBuf,
}

/// A command in the background of a machine.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) pid: i32,
    pub(super) place: Place,
}

impl Machine {
    /// Starts it; whoever wants to use it calls [`Machine::ready`] first. The calling thread must outlive it.
    pub(super) fn start(options: MachineOptions<'_>) -> Result<Self> {
        let MachineOptions { name, address, first_pid, kernel, image, dir, wire } = options;
        let console = dir.join(format!("{name}.console"));
        let said = File::create(dir.join(format!("{name}.qemu")))?;
        let (ours, theirs) = UnixStream::pair()?;
        let (channel, hello) = Channel::over(ours)?;
        let number = if name == "a" { 1 } else { 2 };
        // Its processors must keep up with the time limits of what runs on them, whatever else this machine does; where that
        // is not allowed, `nice` says so and goes on.
        let mut qemu = Command::new("nice");
        qemu.args(["-n", "-10", "setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"])
            .args(["-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", CPU, "-smp", "2", "-m", "1024"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(image)
            .arg("-append")
            .arg(format!("{KERNEL_LINE} ULPM_NAME={name} ULPM_ADDRESS={address} ULPM_PIDS={first_pid}"))
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent"])
            .arg("-chardev")
            .arg(format!("socket,id=agent,fd={}", theirs.as_raw_fd()))
            .arg("-device")
            .arg(format!("virtio-net-pci,netdev=wire,mac=52:54:00:00:00:0{number},romfile="))
            .arg("-netdev")
            .arg(format!("dgram,id=wire,local.type=fd,local.str={}", wire.as_raw_fd()))
            .env(strays::MARK, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        inherit(&theirs)?;
        inherit(&wire)?;
        let qemu = qemu.spawn().context("start QEMU by setpriv")?;
        Ok(Self { name, address, channel, hello: Mutex::new(hello), qemu, console })
    }

    /// Waits until its agent is there.
    pub(super) fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + BOOT;
        let hello = self.hello.get_mut().unwrap_or_else(PoisonError::into_inner);
        loop {
            let heard = hello.heard(Duration::from_millis(200));
            if matches!(heard, Ok(true)) {
                return Ok(());
            }
            if let Some(status) = self.qemu.try_wait()? {
                bail!("QEMU of machine {} ended with {status}: {}", self.name, tail(&self.console));
            }
            heard?;
            ensure!(Instant::now() < deadline, "machine {} is not ready: {}", self.name, tail(&self.console));
        }
    }

    /// The end of what it said on its console, and what QEMU said.
    pub(super) fn console(&self) -> String {
        tail(&self.console)
    }

    /// Runs a command to its end, or kills it after [`SOON`].
    pub(super) fn run(&self, argv: &[&str]) -> Result<Ended> {
        self.run_for(argv, SOON)
    }

    /// The same with another patience.
    pub(super) fn run_for(&self, argv: &[&str], patience: Duration) -> Result<Ended> {
        let answer = self.channel.ask(Request::Run { command: line(argv, &[]), patience })?;
        let Answer::Ended { exit, stdout, stderr } = answer else { bail!("answered by {answer:?}") };
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Ok(Ended { exit, stdout: text(stdout), stderr: text(stderr) })
    }

    /// Runs a command and insists on exit code 0; gives its standard output.
    pub(super) fn must(&self, argv: &[&str]) -> Result<String> {
        let ended = self.run(argv)?;
        ensure!(ended.exit == 0, "{argv:?} in machine {}: {ended:?}", self.name);
        Ok(ended.stdout)
    }

    /// Starts a command in the background.
    pub(super) fn start_job(&self, argv: &[&str], env: &[(&str, &str)], output: Sink) -> Result<Job> {
        match self.channel.ask(Request::Start { command: line(argv, env), output })? {
            Answer::Started { pid, place } => Ok(Job { pid, place }),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Waits until one of the words was said there, or the process has ended; gives all that was said.
    pub(super) fn until(&self, job: &Job, words: &[&str], patience: Duration) -> Result<String> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let (place, pid) = (job.place.clone(), Some(job.pid));
        match self.channel.ask(Request::Until { place, words, pid, patience })? {
            Answer::Said(said) => Ok(said),
            other => bail!("answered by {other:?}"),
        }
    }

    /// All that was said there so far.
    pub(super) fn said(&self, job: &Job) -> Result<String> {
        // No words at all: any text has them.
        self.until(job, &[""], Duration::ZERO)
    }

    /// Waits for the end of a command that was started here; gives its exit code.
    pub(super) fn wait(&self, pid: i32, patience: Duration) -> Result<i32> {
        match self.channel.ask(Request::Wait { pid, patience })? {
            Answer::Ended { exit, .. } => Ok(exit),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Whether the pid is a process that has not ended.
    pub(super) fn is_alive(&self, pid: i32) -> Result<bool> {
        match self.channel.ask(Request::Alive { pid })? {
            Answer::Alive(alive) => Ok(alive),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Makes a file.
    pub(super) fn write(&self, path: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.channel.ask(Request::Write { path: path.to_owned(), content: content.into() }).map(|_| ())
    }

    /// What a file holds from there on.
    pub(super) fn read(&self, path: &str, from: u64) -> Result<Vec<u8>> {
        match self.channel.ask(Request::Read { path: path.to_owned(), from })? {
            Answer::Bytes(bytes) => Ok(bytes),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Ends all that runs in it.
    pub(super) fn reset(&self) -> Result<()> {
        self.channel.ask(Request::Reset).map(|_| ())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

fn tail(console: &Path) -> String {
    let files = [console.to_owned(), console.with_extension("qemu")];
    let said: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap_or_default()).collect();
    String::from_utf8_lossy(&said[said.len().saturating_sub(4000)..]).into_owned()
}

fn line(argv: &[&str], env: &[(&str, &str)]) -> Line {
    let argv = argv.iter().map(|word| (*word).to_owned()).collect();
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Line { argv, env }
}

/// Lets the programs that are started from now on have the descriptor.
fn inherit(descriptor: impl AsFd) -> Result<()> {
    fcntl(descriptor, FcntlArg::F_SETFD(FdFlag::empty()))?;
    Ok(())
}
