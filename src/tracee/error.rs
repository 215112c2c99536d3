//! What can go wrong with a tracee. "It died" is a variant of its own.

use nix::errno::Errno;

use super::stop::Stop;

/// An operation on a traced thread failed.
#[derive(Debug, thiserror::Error)]
pub enum TraceeError {
    /// The thread or its process is gone.
    #[error("thread {tid} ended while {step}")]
    Died {
        /// Thread id as the tracer sees it.
        tid: i32,
        /// What was being done.
        step: &'static str,
    },
    /// Another tracer (debugger, strace, another ulpm) has it.
    #[error("process {pid} is already traced by process {tracer}")]
    AlreadyTraced {
        /// The process.
        pid: i32,
        /// Its tracer; 0 when unknown.
        tracer: i32,
    },
    /// We may not.
    #[error("not permitted to trace process {pid}: run as its owner or with CAP_SYS_PTRACE")]
    NotPermitted {
        /// The process.
        pid: i32,
    },
    /// A request failed.
    #[error("{step} of thread {tid}")]
    Ptrace {
        /// Thread id as the tracer sees it.
        tid: i32,
        /// What was being done.
        step: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// It did not stop in time: most likely in uninterruptible sleep (state D).
    #[error("thread {tid} did not stop within the time limit while {step}; its state is {state}")]
    Timeout {
        /// Thread id as the tracer sees it.
        tid: i32,
        /// What was being done.
        step: &'static str,
        /// State letter of `/proc/PID/stat`.
        state: char,
    },
    /// The process replaced its program under us.
    #[error("process {pid} called execve while {step}")]
    Exec {
        /// The process.
        pid: i32,
        /// What was being done.
        step: &'static str,
    },
    /// A system call executed in the process failed.
    #[error("{call} inside process {tid} ({detail})")]
    RemoteCall {
        /// Thread id as the tracer sees it.
        tid: i32,
        /// Which system call, and what for.
        call: &'static str,
        /// Its arguments.
        detail: String,
        /// What it returned.
        source: Errno,
    },
    /// Calls of ours might kill it.
    #[error("thread {tid} runs under a seccomp filter, which might end the process for a call of ours")]
    Confined {
        /// Thread id as the tracer sees it.
        tid: i32,
    },
    /// It was interrupted in a call whose numbers and ways to restart are others.
    #[error("thread {tid} is in a system call of 32-bit code, which cannot be carried")]
    Call32 {
        /// Thread id as the tracer sees it.
        tid: i32,
    },
    /// A stop that nobody expected here.
    #[error("thread {tid} stopped unexpectedly ({stop}) while {step}")]
    UnexpectedStop {
        /// Thread id as the tracer sees it.
        tid: i32,
        /// What was being done.
        step: &'static str,
        /// The stop.
        stop: Stop,
    },
    /// The process has no usable `syscall` instruction.
    #[error("process {pid} has no system call instruction, neither in a vDSO nor in a library")]
    NoSyscallInstruction {
        /// The process.
        pid: i32,
    },
    /// Its memory could not be accessed.
    #[error("{step} of process {pid} at {addr:#x}")]
    Memory {
        /// The process.
        pid: i32,
        /// What was being done.
        step: &'static str,
        /// Where.
        addr: u64,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// Something in `/proc` could not be read.
    #[error("reading /proc/{pid}/{file}")]
    Proc {
        /// The process.
        pid: i32,
        /// Which file.
        file: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A batch does not fit the scratch area.
    #[error("a batch of system calls needs {need} bytes of scratch memory, {have} are there")]
    ScratchFull {
        /// Bytes wanted.
        need: usize,
        /// Bytes there.
        have: usize,
    },
}

impl TraceeError {
    /// Whether the tracee is gone.
    pub fn died(&self) -> bool {
        matches!(self, TraceeError::Died { .. })
    }

    /// Whether job control came in between.
    pub fn is_job_control(&self) -> bool {
        matches!(self, TraceeError::UnexpectedStop { stop, .. } if stop.is_job_control())
    }
}
