//! One traced thread: the choke points through which every ptrace operation of ulpm goes.

use nix::errno::Errno;

use super::error::TraceeError;
use super::stop::Stop;
use crate::sys::ptrace::{self, Options, Regs, WaitStatus};
use crate::sys::stat::Stat;
use crate::sys::time::{Deadline, interruptible};

/// A seized thread, named by its tid in the tracer's pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Thread(pub i32);

/// How a thread goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Go {
    /// Until something stops it.
    Free,
    /// Until the next entry or exit of a system call.
    ToSyscall,
    /// One instruction; it then stops with `SIGTRAP`.
    Step,
}

impl Thread {
    fn error(self, step: &'static str, source: Errno) -> TraceeError {
        match source {
            Errno::ESRCH => TraceeError::Died { tid: self.0, step },
            source => TraceeError::Ptrace { tid: self.0, step, source },
        }
    }

    /// Attaches without stopping.
    pub fn seize(self, pid: i32, options: Options) -> Result<(), TraceeError> {
        match ptrace::seize(self.0, options) {
            Ok(()) => Ok(()),
            Err(Errno::EPERM) => {
                // a leader that ended after it was seized keeps its tracer
                if matches!(state_of(self.0), 'Z' | 'X' | '?') {
                    return Err(TraceeError::Died { tid: self.0, step: "attaching" });
                }
                let tracer = tracer_of(self.0);
                if tracer == std::process::id() as i32 {
                    // auto-attached since we looked (PTRACE_O_TRACECLONE)
                    return Ok(());
                }
                if tracer != 0 {
                    return Err(TraceeError::AlreadyTraced { pid, tracer });
                }
                Err(TraceeError::NotPermitted { pid })
            }
            Err(e) => Err(self.error("attaching", e)),
        }
    }

    /// Asks it to stop.
    pub fn interrupt(self) -> Result<(), TraceeError> {
        ptrace::interrupt(self.0).map_err(|e| self.error("interrupting", e))
    }

    /// Waits until it stops.
    pub fn wait(self, step: &'static str, deadline: Deadline) -> Result<Stop, TraceeError> {
        loop {
            if let Some(stop) = self.wait_a_tick(step, true)? {
                return Ok(stop);
            }
            if deadline.passed() {
                return Err(TraceeError::Timeout { tid: self.0, step, state: state_of(self.0) });
            }
        }
    }

    /// The one place that waits for a thread: until it stops, or the next tick, or not at all. `None`: it has not stopped.
    pub fn wait_a_tick(self, step: &'static str, block: bool) -> Result<Option<Stop>, TraceeError> {
        match interruptible(|| ptrace::wait(self.0, block)) {
            Ok(Some(WaitStatus::Gone)) | Err(Errno::ECHILD) => Err(TraceeError::Died { tid: self.0, step }),
            Ok(Some(status)) => Ok(Some(Stop::from(status))),
            Ok(None) | Err(Errno::EINTR) => Ok(None),
            Err(e) => Err(self.error(step, e)),
        }
    }

    /// The one place that lets a thread run.
    pub fn resume(self, how: Go, signal: i32) -> Result<(), TraceeError> {
        match how {
            Go::Free => ptrace::cont(self.0, signal),
            Go::ToSyscall => ptrace::cont_to_syscall(self.0, signal),
            Go::Step => ptrace::single_step(self.0),
        }
        .map_err(|e| self.error("resuming", e))
    }

    /// Lets it go for good, delivering `signal` (0: none).
    pub fn detach(self, signal: i32) -> Result<(), TraceeError> {
        ptrace::detach(self.0, signal).map_err(|e| self.error("detaching", e))
    }

    /// General-purpose registers.
    pub fn regs(self) -> Result<Regs, TraceeError> {
        ptrace::regs(self.0).map_err(|e| self.error("reading the registers", e))
    }

    /// Sets the general-purpose registers.
    pub fn set_regs(self, regs: &Regs) -> Result<(), TraceeError> {
        ptrace::set_regs(self.0, regs).map_err(|e| self.error("writing the registers", e))
    }

    /// The signal mask.
    pub fn sigmask(self) -> Result<u64, TraceeError> {
        ptrace::sigmask(self.0).map_err(|e| self.error("reading the signal mask", e))
    }

    /// Sets the signal mask.
    pub fn set_sigmask(self, mask: u64) -> Result<(), TraceeError> {
        ptrace::set_sigmask(self.0, mask).map_err(|e| self.error("writing the signal mask", e))
    }

    /// Changes the options.
    pub fn set_options(self, options: Options) -> Result<(), TraceeError> {
        ptrace::set_options(self.0, options).map_err(|e| self.error("setting options", e))
    }

    /// The message of an event stop.
    pub fn event_message(self) -> Result<u64, TraceeError> {
        ptrace::event_message(self.0).map_err(|e| self.error("reading the event message", e))
    }

    /// Brings the thread from any stop into one of the signal delivery path, without executing anything in
    /// user mode: from there an interrupted system call restarts by itself when the thread goes on. Returns
    /// a signal that was about to be delivered, which is now neither delivered nor queued.
    pub fn to_trap(self, deadline: Deadline) -> Result<Option<i32>, TraceeError> {
        self.interrupt()?;
        self.resume(Go::Free, 0)?;
        match self.wait("bringing it to rest", deadline)? {
            Stop::Trap { .. } => Ok(None),
            Stop::Signal(s) => Ok(Some(s)),
            stop => Err(TraceeError::UnexpectedStop { tid: self.0, step: "bringing it to rest", stop }),
        }
    }
}

/// The process that traces this thread; 0: nobody.
pub fn tracer_of(tid: i32) -> i32 {
    let status = crate::sys::lossy(format!("/proc/{tid}/status")).unwrap_or_default();
    status.lines().find_map(|l| l.strip_prefix("TracerPid:")).and_then(|v| v.trim().parse().ok()).unwrap_or(0)
}

/// The state letter of a thread; `?` when it is gone.
pub fn state_of(tid: i32) -> char {
    Stat::of(tid).map_or('?', |stat| stat.state())
}
