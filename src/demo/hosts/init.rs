//! The host's side: `ulpm __host-init` makes the namespaces and becomes the host's pid 1.
//!
//! Two processes: the *warden* stays outside (it must, because `unshare(CLONE_NEWPID)` takes effect
//! for children only), waits for init and ends with it; *init* sets the host up, starts commands,
//! reaps, and ends when the control socket closes, which kills all that lives in the host.
//! Both are single-threaded. The control socket comes as descriptor 0.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::process::{self, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{ForkResult, Pid};

use super::wire::{self, Reply, Request, Setup};
use crate::sys::namespaces::{close_on_exec_from, default_signals, fork_single_threaded, own_session};
use crate::sys::process::pidfd_open;

/// The hidden first argument that makes `ulpm` a host's init.
pub(super) const INIT_ARGUMENT: &str = "__host-init";

/// Becomes a host's init if the command line asks for it, and does not come back then.
///
/// To be called first thing in `main`, before any thread exists.
pub fn init_if_asked() {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == INIT_ARGUMENT) {
        process::exit(init_main());
    }
}

/// A step that failed, to be told to the caller.
type Step<T> = Result<T, (String, io::Error)>;

trait Named<T> {
    fn step(self, name: impl Into<String>) -> Step<T>;
}

impl<T, E: Into<io::Error>> Named<T> for Result<T, E> {
    fn step(self, name: impl Into<String>) -> Step<T> {
        self.map_err(|error| (name.into(), error.into()))
    }
}

fn init_main() -> i32 {
    let control = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => control,
        Err(_) => return 2,
    };
    match build(&control) {
        Ok(code) => code,
        Err((step, error)) => {
            // The caller may be gone; then there is nobody to tell.
            let _ = wire::send(&control, &Reply::failed(step, &error), &[]);
            1
        }
    }
}

/// Makes the namespaces and forks; returns the warden's exit code when the host has ended.
fn build(control: &OwnedFd) -> Step<i32> {
    close_on_exec_from(3).step("mark descriptors close-on-exec")?;
    default_signals();
    let Some((setup, _)) = wire::receive::<Setup>(control).step("receive the setup")? else {
        return Ok(0);
    };
    make_namespaces(&setup)?;
    match fork_single_threaded().step("fork the host's init")? {
        ForkResult::Parent { child } => {
            // Descriptor 0 and `control` stay open here: init's death is noticed by its pidfd instead.
            let code = wait_for(child);
            // The host's creator removes it too; this is for the case that it died.
            let _ = fs::remove_dir_all(&setup.home);
            Ok(code)
        }
        ForkResult::Child => {
            become_init(control, &setup)?;
            serve(control).step("serve requests")?;
            process::exit(0);
        }
    }
}

fn wait_for(child: Pid) -> i32 {
    use nix::sys::wait::{WaitStatus, waitpid};
    loop {
        match waitpid(child, None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Err(nix::Error::EINTR) | Ok(_) => {}
            Err(_) => return 1,
        }
    }
}

fn make_namespaces(setup: &Setup) -> Step<()> {
    let kinds = [
        (CloneFlags::CLONE_NEWNS, "mount"),
        (CloneFlags::CLONE_NEWNET, "network"),
        (CloneFlags::CLONE_NEWUTS, "host name"),
        (CloneFlags::CLONE_NEWIPC, "ipc"),
        (CloneFlags::CLONE_NEWPID, "pid"),
    ];
    for (flag, kind) in kinds {
        unshare(flag).step(format!("make a {kind} namespace"))?;
    }
    if let Some(time) = &setup.time {
        // nix has no name for CLONE_NEWTIME, which exists for unshare only.
        let flag = CloneFlags::from_bits_retain(libc::CLONE_NEWTIME);
        unshare(flag).step("make a time namespace")?;
        let lines = format!("monotonic {} 0\nboottime {} 0\n", time.monotonic_s, time.boottime_s);
        fs::write("/proc/self/timens_offsets", lines).step("set the clocks' offsets")?;
    }
    Ok(())
}

/// Sets up what needs to be pid 1, and tells the caller that the host is there.
fn become_init(control: &OwnedFd, setup: &Setup) -> Step<()> {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).step("bind init's life to the warden's")?;
    nix::unistd::sethostname(&setup.name).step("set the host name")?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).step("make mounts private")?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, none).step("mount the host's own /proc")?;
    mount_files(setup)?;
    if let Some(first) = setup.first_pid {
        fs::write("/proc/sys/kernel/ns_last_pid", (first - 1).to_string()).step("choose the first pid")?;
    }
    std::env::set_current_dir("/").step("change to /")?;
    let this = pidfd_open(std::process::id() as i32).map_err(io::Error::from).step("open init's pidfd")?;
    wire::send(control, &Reply::Ready, &[this.as_fd()]).step("report the host")
}

/// Mounts the host's names and its private directories; its home stays in sight wherever that is.
fn mount_files(setup: &Setup) -> Step<()> {
    let none = None::<&str>;
    if fs::exists("/etc/hosts").unwrap_or(false) {
        mount(Some(&setup.home.join("hosts")), "/etc/hosts", none, MsFlags::MS_BIND, none)
            .step("put the host's names over /etc/hosts")?;
    }
    let home = File::open(&setup.home).step("open the host's home")?;
    for path in &setup.private {
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("ulpm-host"), path, Some("tmpfs"), flags, Some("mode=1777"))
            .step(format!("mount an own file system over {}", path.display()))?;
    }
    if !setup.home.exists() {
        fs::create_dir_all(&setup.home).step("make the host's home in an own file system")?;
        let hidden = format!("/proc/self/fd/{}", home.as_raw_fd());
        mount(Some(hidden.as_str()), &setup.home, none, MsFlags::MS_BIND, none)
            .step("show the host's home")?;
    }
    Ok(())
}

/// Starts commands and reaps until the caller closes its end.
fn serve(control: &OwnedFd) -> io::Result<()> {
    let mut child_signal = SigSet::empty();
    child_signal.add(Signal::SIGCHLD);
    child_signal.thread_block()?;
    let children = SignalFd::with_flags(&child_signal, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut waiting: HashMap<i32, File> = HashMap::new();
    loop {
        let mut fds = [
            PollFd::new(control.as_fd(), PollFlags::POLLIN),
            PollFd::new(children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let asked = fds[0].any().unwrap_or(false);
        while let Ok(Some(_)) = children.read_signal() {}
        reap(&mut waiting);
        if asked {
            let Some((request, fds)) = wire::receive::<Request>(control)? else { return Ok(()) };
            answer(control, request, fds, &mut waiting)?;
        }
    }
}

fn reap(waiting: &mut HashMap<i32, File>) {
    let mut status = 0;
    while let Some(pid) = crate::sys::namespaces::wait_any(&mut status) {
        if let Some(mut report) = waiting.remove(&pid.as_raw()) {
            // Nobody may be interested any more; that is no failure of ours.
            let _ = report.write_all(&status.to_ne_bytes());
        }
    }
}

fn answer(
    control: &OwnedFd,
    request: Request,
    fds: Vec<OwnedFd>,
    waiting: &mut HashMap<i32, File>,
) -> io::Result<()> {
    let found = match request {
        // Said out of turn: there is nothing to answer.
        Request::Known => return Ok(()),
        Request::Find { pid } => {
            pidfd_open(pid).map(|fd| (pid, fd)).map_err(io::Error::from).step(format!("find {pid}"))
        }
        Request::Spawn { argv, env, cwd } => {
            let name = argv.first().cloned().unwrap_or_default();
            let mut command = Command::new(&name);
            command.args(argv.iter().skip(1)).env_clear().envs(env).current_dir(cwd);
            start(command, fds, waiting).step(format!("start {name}"))
        }
    };
    match found {
        Ok((pid, pidfd)) => {
            wire::send(control, &Reply::Process { pid }, &[pidfd.as_fd() as BorrowedFd<'_>])?;
            // The end of the conversation is noticed by the next receive.
            wire::receive::<Request>(control).map(drop)
        }
        Err((step, error)) => wire::send(control, &Reply::failed(step, &error), &[]),
    }
}

fn start(
    mut command: Command,
    fds: Vec<OwnedFd>,
    waiting: &mut HashMap<i32, File>,
) -> io::Result<(i32, OwnedFd)> {
    let fds: [OwnedFd; 4] = fds.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EBADMSG))?;
    let [stdin, stdout, stderr, status] = fds;
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
    let child = own_session(&mut command).spawn()?;
    let pid = child.id() as i32;
    let pidfd = pidfd_open(pid)?;
    waiting.insert(pid, File::from(status));
    Ok((pid, pidfd))
}
