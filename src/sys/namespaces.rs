//! Kernel calls around namespaces and the processes in them: a checked `fork`, the pid behind a pidfd,
//! descriptor passing over unix sockets, a session of its own for a spawned command.
//!
//! Owns no policy: who forks what, and why, is in [`crate::demo::hosts`].
//! Kernel interfaces: clone(2), close_range(2), unix(7) SCM_RIGHTS.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use nix::unistd::{ForkResult, Pid};

/// Most descriptors that one message carries.
pub const MAX_PASSED_FDS: usize = 8;

/// Forks a process that has exactly one thread; refuses otherwise, because the child of a
/// many-threaded process may not even allocate memory.
pub fn fork_single_threaded() -> io::Result<ForkResult> {
    let threads = fs::read_dir("/proc/self/task")?.count();
    if threads != 1 {
        return Err(io::Error::other(format!("fork refused: the process has {threads} threads")));
    }
    // SAFETY: there is no other thread that could hold a lock or change memory across the fork.
    unsafe { nix::unistd::fork() }.map_err(io::Error::from)
}

/// Marks every descriptor from `first` on as close-on-exec, so that nothing leaks into commands.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    // SAFETY: the call changes descriptor flags only; no memory is passed.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC as libc::c_uint,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The pid of the process behind a pidfd as the caller's `/proc` numbers it; `None` when it was
/// reaped or is not visible there.
pub fn pid_of_pidfd(pidfd: BorrowedFd<'_>) -> io::Result<Option<Pid>> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:")?.trim().parse::<i32>().ok());
    Ok(pid.filter(|pid| *pid > 0).map(Pid::from_raw))
}

/// Gives every signal its default action, as a login would find it. Signals that cannot be changed stay.
pub fn default_signals() {
    for signal in Signal::iterator() {
        // SAFETY: no handler is installed, only the default action.
        // Errors are SIGKILL's and SIGSTOP's.
        let _ = unsafe { nix::sys::signal::signal(signal, nix::sys::signal::SigHandler::SigDfl) };
    }
}

/// Reaps one child that has ended, if there is one: its pid, and its raw wait status in `status`.
pub fn wait_any(status: &mut i32) -> Option<Pid> {
    // SAFETY: `status` is a valid int for the time of the call.
    let pid = unsafe { libc::waitpid(-1, status, libc::WNOHANG) };
    (pid > 0).then(|| Pid::from_raw(pid))
}

/// Lets `command` start in a session of its own (no controlling terminal).
pub fn own_session(command: &mut Command) -> &mut Command {
    // SAFETY: between fork and exec only setsid runs, which is async-signal-safe.
    unsafe { command.pre_exec(|| nix::unistd::setsid().map(drop).map_err(io::Error::from)) }
}

/// Sends one message with descriptors beside it over a sequenced-packet unix socket.
pub fn send_with_fds(socket: BorrowedFd<'_>, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let raw: Vec<RawFd> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    loop {
        let slices = [IoSlice::new(message)];
        match sendmsg::<()>(socket.as_raw_fd(), &slices, control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(_) => return Ok(()),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message and its descriptors; an empty message means that the peer has gone.
pub fn receive_with_fds(socket: BorrowedFd<'_>, limit: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut buffer = vec![0; limit];
    let mut space = nix::cmsg_space!([RawFd; MAX_PASSED_FDS]);
    let (length, fds) = loop {
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags) {
            Ok(message) => break (message.bytes, passed_fds(message.cmsgs()?)),
            Err(nix::Error::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    };
    buffer.truncate(length);
    Ok((buffer, fds))
}

fn passed_fds(control: impl Iterator<Item = ControlMessageOwned>) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    for message in control {
        if let ControlMessageOwned::ScmRights(raw) = message {
            for fd in raw {
                // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    fds
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
    use std::os::fd::AsFd;

    #[test]
    fn message_and_descriptor_arrive_together() {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (a, b) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("socketpair");
        let null = fs::File::open("/dev/null").expect("open");
        send_with_fds(a.as_fd(), b"hello", &[null.as_fd()]).expect("send");
        let (message, fds) = receive_with_fds(b.as_fd(), 64).expect("receive");
        assert_eq!((message.as_slice(), fds.len()), (b"hello".as_slice(), 1));
        drop(a);
        assert!(receive_with_fds(b.as_fd(), 64).expect("end").0.is_empty());
    }

    #[test]
    fn pidfd_names_its_process() {
        let fd = crate::sys::process::pidfd_open(Pid::this().as_raw()).expect("pidfd");
        assert_eq!(pid_of_pidfd(fd.as_fd()).expect("fdinfo"), Some(Pid::this()));
    }
}
