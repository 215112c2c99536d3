//! A command that was started in a host: its two pids, its signals, its end.

use std::fs::File;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::sys::process::pidfd_send_signal;

/// The three standard descriptors of a command.
#[derive(Debug)]
pub struct Stdio3 {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

impl Stdio3 {
    /// `/dev/null` for input, these files for output: what can be migrated.
    pub fn to_files(stdout: File, stderr: File) -> io::Result<Self> {
        let stdin = File::open("/dev/null")?;
        Ok(Self { stdin: stdin.into(), stdout: stdout.into(), stderr: stderr.into() })
    }
}

/// A command that was started in a host. Dropping this leaves the process alone.
#[derive(Debug)]
pub struct HostProcess {
    pid: Pid,
    outside_pid: Pid,
    pidfd: OwnedFd,
    status: PipeReader,
    ended: Option<ExitStatus>,
}

impl HostProcess {
    pub(super) fn new(pid: Pid, outside_pid: Pid, pidfd: OwnedFd, status: PipeReader) -> Self {
        Self { pid, outside_pid, pidfd, status, ended: None }
    }

    /// Its pid in the host.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Its pid as the caller's `/proc` numbers it.
    pub fn outside_pid(&self) -> Pid {
        self.outside_pid
    }

    /// Sends it a signal, never to another process that was given its pid.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        pidfd_send_signal(self.pidfd.as_fd(), signal as i32).map_err(std::io::Error::from)
    }

    /// Waits for its end at most so long; `None` if it still runs then.
    pub fn wait(&mut self, patience: Duration) -> io::Result<Option<ExitStatus>> {
        let deadline = Instant::now() + patience;
        while self.ended.is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = PollTimeout::try_from(left.as_millis().min(1_000_000)).unwrap_or(PollTimeout::MAX);
            let mut fds = [PollFd::new(self.status.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(nix::Error::EINTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let mut raw = [0; 4];
            self.status.read_exact(&mut raw)?;
            self.ended = Some(ExitStatus::from_raw(i32::from_ne_bytes(raw)));
        }
        Ok(self.ended)
    }
}
