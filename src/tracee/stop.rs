//! Where a traced thread stopped: what the kernel's wait status says, decoded once.

use std::fmt;

use crate::sys::ptrace::{EVENT_STOP, WaitStatus};

/// Where a thread stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// `PTRACE_INTERRUPT`, the initial stop of an auto-attached thread, or a group stop (`signal` is then a
    /// stop signal). All of these lie in the signal delivery path, where an interrupted call can restart.
    Trap {
        /// `SIGTRAP`, or the stop signal of a group stop.
        signal: i32,
    },
    /// About to receive a signal.
    Signal(i32),
    /// Entry or exit of a system call.
    Syscall,
    /// It made a new thread, whose tid is the event message.
    Clone,
    /// It has executed another program.
    Exec,
    /// Another event.
    Event(i32),
}

impl Stop {
    /// Whether somebody's job control is behind it: the thread stands still, or was about to.
    pub fn is_job_control(self) -> bool {
        match self {
            Stop::Trap { signal } => signal != libc::SIGTRAP,
            Stop::Signal(signal) => signal == libc::SIGSTOP,
            _ => false,
        }
    }
}

impl From<WaitStatus> for Stop {
    fn from(status: WaitStatus) -> Self {
        match status {
            WaitStatus::Syscall => Stop::Syscall,
            WaitStatus::Signal(s) => Stop::Signal(s),
            WaitStatus::Event(EVENT_STOP, signal) => Stop::Trap { signal },
            WaitStatus::Event(libc::PTRACE_EVENT_CLONE, _) => Stop::Clone,
            WaitStatus::Event(libc::PTRACE_EVENT_EXEC, _) => Stop::Exec,
            WaitStatus::Event(e, _) => Stop::Event(e),
            WaitStatus::Gone => Stop::Event(0),
        }
    }
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Stop::Trap { signal } if self.is_job_control() => write!(f, "job control: signal {signal}"),
            other => write!(f, "{other:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn job_control_is_a_stop_signal_on_its_way_or_in_effect() {
        let stopped = [Stop::Trap { signal: libc::SIGTSTP }, Stop::Signal(libc::SIGSTOP)];
        assert!(stopped.iter().all(|stop| stop.is_job_control()));
        let others = [Stop::Trap { signal: libc::SIGTRAP }, Stop::Signal(libc::SIGTRAP), Stop::Syscall];
        assert!(!others.iter().any(|stop| stop.is_job_control()));
        assert_eq!(stopped[0].to_string(), format!("job control: signal {}", libc::SIGTSTP));
    }
}
