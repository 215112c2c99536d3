//! What can go wrong when state is captured or put back.

use crate::tracee::TraceeError;

/// Capturing or restoring a kind of state failed.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An operation on the traced process.
    #[error(transparent)]
    Tracee(#[from] TraceeError),
    /// Something in `/proc` could not be read.
    #[error("reading /proc/{pid}/{file}")]
    Proc {
        /// The process.
        pid: i32,
        /// Which file.
        file: String,
        /// What the kernel or the parser said.
        source: procfs::ProcError,
    },
    /// A file of `/proc` could not be read or written.
    #[error("{step} of process {pid}")]
    Io {
        /// The process.
        pid: i32,
        /// What was being done.
        step: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// A file of `/proc` says something we do not understand.
    #[error("/proc/{pid}/{file} has no usable {field}")]
    Field {
        /// The process.
        pid: i32,
        /// Which file.
        file: &'static str,
        /// Which field.
        field: &'static str,
    },
    /// A state in an image is missing, or is nothing that its kind can be.
    #[error("the state `{name}` of an image: {why}")]
    Nonsense {
        /// Which kind.
        name: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The process has something that cannot be carried, and that was not there at preflight.
    #[error("the process has changed since it was checked: {0}")]
    Obstacles(String),
    /// A thread is about to take up again a wait that somebody else interrupted, and nothing tells which call it is.
    #[error(
        "thread {tid} of process {pid} was just woken in a timed wait that shows no more which call it is: the process goes on as it was, try again"
    )]
    UnknownWait {
        /// The process.
        pid: i32,
        /// The thread.
        tid: i32,
    },
    /// The flags of a mapping are read with those of all others, which takes long while the process is stopped.
    #[error(
        "process {pid} has just made a mapping whose flags are not known yet: it goes on as it was, try again"
    )]
    NewMapping {
        /// The process.
        pid: i32,
    },
    /// Descriptors.
    #[error(transparent)]
    Files(#[from] crate::state::files::FilesError),
}

impl StateError {
    /// For `/proc/PID/FILE`.
    pub fn proc(pid: i32, file: &str) -> impl FnOnce(procfs::ProcError) -> StateError {
        let file = file.to_owned();
        move |source| StateError::Proc { pid, file, source }
    }

    /// For a step on a process.
    pub fn io(pid: i32, step: impl Into<String>) -> impl FnOnce(std::io::Error) -> StateError {
        let step = step.into();
        move |source| StateError::Io { pid, step, source }
    }

    /// For a step that a raw system call failed.
    pub fn errno(pid: i32, step: impl Into<String>) -> impl FnOnce(nix::errno::Errno) -> StateError {
        let step = step.into();
        move |e| StateError::Io { pid, step, source: e.into() }
    }
}
