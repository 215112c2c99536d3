//! The small single-threaded process from which a skeleton is born: `ulpm serve` runs threads, so it must not
//! fork itself.
//!
//! ```text
//! ulpm serve ── spawns ── ulpm __nursery ── clone3(set_tid) ── skeleton     (same pid namespace)
//!                              │
//!                              └─ unshare(PID, NS) ── init, pid 1 ── clone3(set_tid) ── skeleton   (new one)
//! ```
//! The nursery ends before anything is put into the skeleton, which is then a child of init (of a subreaper, where there is
//! one), which reaps it. It is not one of `ulpm serve`: the kernel sends the signal of `PR_SET_PDEATHSIG` when the *thread*
//! that a process is a child of ends, and with the service all its threads do. Put into a process whose parent stays, that
//! signal waits as it did. In a namespace of its own the parent is an init that mounts `/proc`, reaps, and ends when it has no
//! children any more.
//!
//! A time namespace can be entered by children only, and its offsets set only before the first one enters
//! (time_namespaces(7)): so it is made here. In which control group all this happens: [`super::quarters`].

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::RestoreError;
use super::quarters::Quarters;
use crate::fault::Point;
use crate::sys::handoff;
use crate::sys::spawn::{self, CLONE_NEWTIME, Forked};
use crate::sys::time::ClockOffsets;

/// The hidden argument that makes `ulpm` a nursery.
pub const ARGUMENT: &str = "__nursery";
/// The number of the socket to `ulpm serve`, in the nursery and in the skeleton.
pub const SOCKET: i32 = 3;

/// What is to be born.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Order {
    /// The pid it must have.
    pub pid: i32,
    /// In a new pid namespace.
    pub namespace: bool,
    /// Offsets of its time namespace against the initial one, if it needs its own.
    pub clocks: Option<ClockOffsets>,
    /// The control group in which it is born.
    pub group: Option<PathBuf>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Birth {
    Born,
    Failed { step: String, errno: i32 },
}

/// A newborn: its pid as we see it, a pidfd, and the socket that it holds as descriptor [`SOCKET`].
#[derive(Debug)]
pub struct Newborn {
    /// Pid as we see it.
    pub pid: i32,
    /// The process, whatever becomes of its number.
    pub pidfd: OwnedFd,
    /// Our end of the socket.
    pub socket: OwnedFd,
}

/// Has a skeleton born. It waits, untraced, and dies with us: at once if nobody holds the other end of its socket any more.
pub fn order(order: &Order, quarters: &Quarters<'_>) -> Result<Newborn, RestoreError> {
    let (ours, theirs) = handoff::pair().map_err(RestoreError::io("making a socket pair"))?;
    let text = serde_json::to_string(order).unwrap_or_default();
    let mut command = quarters.command(if order.namespace { "-namespace" } else { "" });
    command.arg(ARGUMENT).arg(text).stdin(Stdio::null()).stdout(Stdio::null());
    handoff::give_fd(&mut command, theirs, SOCKET);
    let mut child = command.spawn().map_err(RestoreError::io("starting the nursery"))?;
    // our copy of its end goes with the command: a dead nursery is then an end of file
    drop(command);
    let answer = RestoreError::point(Point::TargetOrdered)
        .and_then(|()| handoff::receive(ours.as_fd()).map_err(RestoreError::io("hearing from the nursery")));
    let ended = child.wait();
    let (text, mut fds) = answer?;
    match serde_json::from_slice(&text) {
        Ok(Birth::Born) if !fds.is_empty() => {
            let pidfd = fds.remove(0);
            let pid = pid_of(pidfd.as_fd())?;
            Ok(Newborn { pid, pidfd, socket: ours })
        }
        Ok(Birth::Failed { errno, .. }) if errno == libc::EEXIST => Err(RestoreError::PidTaken(order.pid)),
        Ok(Birth::Failed { step, errno }) => {
            Err(RestoreError::Io { step, source: std::io::Error::from_raw_os_error(errno) })
        }
        _ => Err(quarters.silence(ended.ok())),
    }
}

fn pid_of(pidfd: BorrowedFd<'_>) -> Result<i32, RestoreError> {
    let path = format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd());
    let text = std::fs::read_to_string(&path).map_err(RestoreError::io(format!("reading {path}")))?;
    text.lines()
        .find_map(|l| l.strip_prefix("Pid:"))
        .and_then(|v| v.trim().parse().ok())
        .ok_or_else(|| RestoreError::Nonsense(format!("{path} names no pid")))
}

/// The nursery itself. Never returns.
pub fn main(text: &str) -> ! {
    // SAFETY: ulpm serve started us with the socket at this number, and nothing else has been opened yet.
    #[allow(unsafe_code)]
    let socket = unsafe { handoff::adopt_fd(SOCKET) };
    let result = serde_json::from_str::<Order>(text)
        .map_err(|_| ("understanding the order", Errno::EINVAL))
        .and_then(|order| nurse(&order, &socket));
    if let Err((step, errno)) = result {
        let failed = Birth::Failed { step: step.to_owned(), errno: errno as i32 };
        let _ = handoff::send(socket.as_fd(), &serde_json::to_vec(&failed).unwrap_or_default(), None);
    }
    std::process::exit(0)
}

type Step = (&'static str, Errno);

fn nurse(order: &Order, socket: &OwnedFd) -> Result<(), Step> {
    if let Some(group) = &order.group {
        // 0: the one who writes
        std::fs::write(group.join("cgroup.procs"), "0")
            .map_err(|e| ("going into the control group of --cgroup", errno(&e)))?;
    }
    if let Some(clocks) = order.clocks {
        spawn::unshare(CLONE_NEWTIME).map_err(|e| ("making a time namespace", e))?;
        set_clocks(clocks)?;
    }
    if !order.namespace {
        return bear(order.pid, socket);
    }
    spawn::unshare(libc::CLONE_NEWPID | libc::CLONE_NEWNS).map_err(|e| ("making a pid namespace", e))?;
    // SAFETY: this process is single-threaded.
    #[allow(unsafe_code)]
    match unsafe { spawn::fork() }.map_err(|e| ("starting an init for the pid namespace", e))? {
        Some(_) => Ok(()),
        None => init(order.pid, socket),
    }
}

fn set_clocks(clocks: ClockOffsets) -> Result<(), Step> {
    let line =
        |name, ns: i64| format!("{name} {} {}\n", ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    let text = line("monotonic", clocks.monotonic_ns) + &line("boottime", clocks.boottime_ns);
    std::fs::write("/proc/self/timens_offsets", text)
        .map_err(|e| ("setting the offsets of the time namespace", errno(&e)))
}

fn errno(e: &std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}

/// Pid 1 of a new namespace.
fn init(pid: i32, socket: &OwnedFd) -> Result<(), Step> {
    // what the host mounts and unmounts later is so here, too; our /proc stays here
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)
        .map_err(|e| ("making the mounts follow the host's", e))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), None::<&str>)
        .map_err(|e| ("mounting /proc", e))?;
    bear(pid, socket)?;
    let _ = setsid();
    handoff::close_from(0);
    // ends with the last child
    while !matches!(waitpid(None::<Pid>, None), Err(Errno::ECHILD)) {}
    std::process::exit(0)
}

fn bear(pid: i32, socket: &OwnedFd) -> Result<(), Step> {
    // what somebody sends it waits until it is the process that was moved; its mask is put with its state
    let open = SigSet::thread_get_mask().map_err(|e| ("reading the signal mask", e))?;
    SigSet::all().thread_block().map_err(|e| ("blocking signals", e))?;
    // SAFETY: this process is single-threaded.
    #[allow(unsafe_code)]
    let forked = unsafe { spawn::fork_with_pid(pid) }.map_err(|e| ("making the process", e))?;
    match forked {
        Forked::Parent(_, pidfd) => {
            let _ = open.thread_set_mask();
            let born = serde_json::to_vec(&Birth::Born).unwrap_or_default();
            handoff::send(socket.as_fd(), &born, Some(pidfd.as_fd())).map_err(|e| ("reporting the birth", e))
        }
        Forked::Child => wait_for_tracer(socket),
    }
}

/// The newborn, until it is traced: from then on it dies with its tracer (`PTRACE_O_EXITKILL`).
fn wait_for_tracer(socket: &OwnedFd) -> ! {
    loop {
        // no events: a hang-up is told all the same
        let mut other_end = [PollFd::new(socket.as_fd(), PollFlags::empty())];
        let heard = poll(&mut other_end, PollTimeout::NONE);
        if heard.is_ok() && other_end[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP)) {
            std::process::exit(0);
        }
    }
}
