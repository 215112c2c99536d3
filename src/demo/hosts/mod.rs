//! Hosts from namespaces: each has its own network, pid, mount, host name and ipc namespaces (a time
//! namespace if wanted), a reaping init as pid 1, its own `/proc` and its own `ULPM_HOME`.
//!
//! * [`Host`]: makes one, starts commands in it, finds processes in it, tears it down on drop.
//! * [`Link`]: joins two hosts by a veth pair and lets them know each other's names.
//! * [`HostProcess`]: a command that was started in a host.
//! * [`init_if_asked`]: the other half, to be called first thing in `main`.
//! * [`become_able`]: what an ordinary user calls first: a user namespace of one's own.
//!
//! Nothing is left when a host is dropped, or when its creator dies however it dies: init ends as soon
//! as its control socket closes, and the kernel ends with it all that lives in its pid namespace.

mod error;
mod init;
mod link;
mod network;
mod process;
mod user;
mod wire;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::Pid;

pub use error::HostError;
pub use init::init_if_asked;
pub use link::Link;
pub use process::{HostProcess, Stdio3};
pub use user::become_able;
pub use wire::TimeOffsets;

use crate::sys::namespaces::pid_of_pidfd;
use crate::sys::process::pidfd_send_signal;
use wire::{Reply, Request, Setup};

/// How long a host may take to end before its init is killed.
const END_PATIENCE: Duration = Duration::from_secs(3);

/// How a host is to be made.
#[derive(Debug, Clone, Default)]
pub struct HostOptions {
    /// A time namespace of its own with these offsets.
    pub time: Option<TimeOffsets>,
    /// Existing directories over which an empty file system of the host's own is mounted.
    pub private: Vec<PathBuf>,
    /// The pid of the first command; keeps the pids of several hosts apart.
    pub first_pid: Option<i32>,
    /// The program to re-execute as init; this one if `None`.
    pub program: Option<PathBuf>,
    /// Environment of every command, beside `PATH`, `HOME`, `LANG` and `ULPM_HOME`.
    pub env: BTreeMap<String, String>,
}

/// A host made of namespaces. Dropping it kills all that runs in it.
#[derive(Debug)]
pub struct Host {
    name: String,
    home: PathBuf,
    env: BTreeMap<String, String>,
    control: Mutex<Option<OwnedFd>>,
    warden: Child,
    init: OwnedFd,
    init_pid: Pid,
    network: File,
}

impl Host {
    /// Makes a host; it is ready for commands on return.
    pub fn create(name: &str, options: &HostOptions) -> Result<Self, HostError> {
        let outside = |step| move |source| HostError::Outside { host: name.to_owned(), step, source };
        let home = make_home(name).map_err(outside("make its home directory"))?;
        let built = Self::build(name, options, &home);
        if built.is_err() {
            // The first error is the one to tell.
            let _ = fs::remove_dir_all(&home);
        }
        let host = built?;
        network::raise_loopback(name, host.network())?;
        Ok(host)
    }

    fn build(name: &str, options: &HostOptions, home: &Path) -> Result<Self, HostError> {
        let outside = |step| move |source| HostError::Outside { host: name.to_owned(), step, source };
        let program = options.program.clone().unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)
            .map_err(|errno| outside("make its control socket")(errno.into()))?;
        let warden = Command::new(program)
            .arg(init::INIT_ARGUMENT)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(outside("start its init"))?;
        let mut warden = Unready(Some(warden));
        let setup = Setup {
            name: name.to_owned(),
            time: options.time,
            private: options.private.clone(),
            home: home.to_owned(),
            first_pid: options.first_pid,
        };
        wire::send(&ours, &setup, &[]).map_err(outside("send its setup"))?;
        let (_, init) = expect_pidfd(name, wire::receive(&ours))?;
        let init_pid = visible_pid(name, init.as_fd())?;
        let network = File::open(format!("/proc/{init_pid}/ns/net")).map_err(outside("open its network"))?;
        let env = environment(home, options);
        let control = Mutex::new(Some(ours));
        let warden = warden.0.take().expect("taken once, here");
        let home = home.to_owned();
        Ok(Self { name: name.to_owned(), home, env, control, warden, init, init_pid, network })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The host's `ULPM_HOME`.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// Init's pid as seen from outside.
    pub fn init_pid(&self) -> Pid {
        self.init_pid
    }

    /// Starts a command in the host, in a session of its own, with the host's environment and these three
    /// descriptors; `cwd` is its working directory.
    pub fn spawn(&self, argv: &[&str], cwd: &Path, stdio: Stdio3) -> Result<HostProcess, HostError> {
        self.spawn_with(argv, cwd, stdio, &BTreeMap::new())
    }

    /// The same with more environment.
    pub fn spawn_with(
        &self,
        argv: &[&str],
        cwd: &Path,
        stdio: Stdio3,
        env: &BTreeMap<String, String>,
    ) -> Result<HostProcess, HostError> {
        let (status, report) = io::pipe().map_err(|source| HostError::Outside {
            host: self.name.clone(),
            step: "make a status pipe",
            source,
        })?;
        let mut all = self.env.clone();
        all.extend(env.clone());
        let argv = argv.iter().map(|argument| (*argument).to_owned()).collect();
        let request = Request::Spawn { argv, env: all, cwd: cwd.to_owned() };
        let fds = [stdio.stdin.as_fd(), stdio.stdout.as_fd(), stdio.stderr.as_fd(), report.as_fd()];
        let (pid, outside, pidfd) = self.ask(&request, &fds)?;
        Ok(HostProcess::new(Pid::from_raw(pid), outside, pidfd, status))
    }

    /// The outside pid of the process that the host knows as `pid`; an error if there is none.
    pub fn outside_pid(&self, pid: Pid) -> Result<Pid, HostError> {
        self.ask(&Request::Find { pid: pid.as_raw() }, &[]).map(|(_, outside, _)| outside)
    }

    /// Runs `work` in a thread that lives in the host's network: sockets made there belong to it.
    pub fn in_network<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        network::within(self.network(), work)
    }

    /// The network namespace itself, for setns(2).
    pub fn network(&self) -> BorrowedFd<'_> {
        self.network.as_fd()
    }

    /// Asks init for a process: its pid inside, its pid outside, its pidfd.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(i32, Pid, OwnedFd), HostError> {
        let outside = |source| HostError::Outside { host: self.name.clone(), step: "ask its init", source };
        let control = self.control.lock().unwrap_or_else(PoisonError::into_inner);
        let socket = control.as_ref().ok_or_else(|| HostError::Gone { host: self.name.clone() })?;
        wire::send(socket, request, fds).map_err(outside)?;
        let (pid, pidfd) = expect_pidfd(&self.name, wire::receive(socket))?;
        let seen = visible_pid(&self.name, pidfd.as_fd());
        wire::send(socket, &Request::Known, &[]).map_err(outside)?;
        Ok((pid, seen?, pidfd))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.control.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        let deadline = Instant::now() + END_PATIENCE;
        let mut ended = false;
        while !ended && Instant::now() < deadline {
            ended = !matches!(self.warden.try_wait(), Ok(None));
            std::thread::sleep(Duration::from_millis(if ended { 0 } else { 5 }));
        }
        if !ended {
            tracing::warn!(host = self.name, "init does not end; killing it");
            // Both may have ended meanwhile, which is what we want.
            let _ = pidfd_send_signal(self.init.as_fd(), libc::SIGKILL);
            let _ = self.warden.wait();
        }
        // The warden has done so already, unless it was killed.
        if let Err(error) = fs::remove_dir_all(&self.home)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(host = self.name, %error, "cannot remove the host's home");
        }
    }
}

/// A warden that is killed unless the host becomes ready.
struct Unready(Option<Child>);

impl Drop for Unready {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended by itself; init follows its warden.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn expect_pidfd(
    host: &str,
    received: io::Result<Option<(Reply, Vec<OwnedFd>)>>,
) -> Result<(i32, OwnedFd), HostError> {
    let host = || host.to_owned();
    let (reply, mut fds) = received
        .map_err(|source| HostError::Outside { host: host(), step: "hear from its init", source })?
        .ok_or_else(|| HostError::Gone { host: host() })?;
    let pid = match reply {
        Reply::Ready => 1,
        Reply::Process { pid } => pid,
        Reply::Failed { step, errno } => {
            return Err(HostError::Inside {
                host: host(),
                step,
                source: io::Error::from_raw_os_error(errno),
            });
        }
    };
    fds.pop().map(|fd| (pid, fd)).ok_or_else(|| HostError::Gone { host: host() })
}

fn visible_pid(host: &str, pidfd: BorrowedFd<'_>) -> Result<Pid, HostError> {
    pid_of_pidfd(pidfd)
        .and_then(|pid| pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH)))
        .map_err(|source| HostError::Outside { host: host.to_owned(), step: "find its process", source })
}

fn environment(home: &Path, options: &HostOptions) -> BTreeMap<String, String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), path.to_owned()),
        ("HOME".to_owned(), home.display().to_string()),
        ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ("ULPM_HOME".to_owned(), home.join("ulpm").display().to_string()),
    ]);
    env.extend(options.env.clone());
    env
}

fn make_home(name: &str) -> io::Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let home = std::env::temp_dir().join(format!("ulpm-host-{}-{count}-{name}", std::process::id()));
    fs::create_dir(&home)?;
    fs::create_dir(home.join("ulpm"))?;
    fs::write(home.join("hosts"), format!("127.0.0.1 localhost {name}\n::1 localhost\n"))?;
    Ok(home)
}
