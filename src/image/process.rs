//! A process and its threads, as data.

use serde::{Deserialize, Serialize};

use super::files::FilesImage;
use super::memory::MemoryImage;
use super::process_index::ProcessIndex;
use super::states::States;
use crate::image::IMAGE_VERSION;

/// A queued signal: `siginfo_t` as the kernel keeps it (128 bytes).
pub type Siginfo = Vec<u8>;

/// A signal that came after the state was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LateSignal {
    /// Thread that it is for, as the process knows it; 0: for the process.
    pub tid: i32,
    /// The signal.
    pub info: Siginfo,
}

/// What one thread is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThreadImage {
    /// Thread id as the process itself sees it.
    pub tid: i32,
    /// The main thread has ended with this status, and others live on: nothing is known of it but name, credentials and scheduling.
    pub ended: Option<u8>,
    /// `user_regs_struct` as 27 words.
    pub regs: Vec<u64>,
    /// XSAVE area.
    pub xstate: Vec<u8>,
    /// Blocked signals.
    pub sigmask: u64,
    /// rseq: address, size, signature.
    pub rseq: (u64, u32, u32),
    /// Robust futex list: head, length.
    pub robust_list: (u64, u64),
    /// `set_tid_address`.
    pub clear_child_tid: u64,
    /// Signals queued to this thread.
    pub queued: Vec<Siginfo>,
    /// Name.
    pub comm: Vec<u8>,
    /// Credentials (they belong to the thread).
    pub creds: Credentials,
    /// What else it has of its own (`state/thread/`).
    pub states: States,
    /// Syscall user dispatch, where it is on.
    pub dispatch: Option<Dispatch>,
    /// Segments of its own (`struct user_desc`).
    pub segments: Vec<[u32; 4]>,
    /// The wait that must be armed anew, if the thread was stopped in one.
    pub wait: Option<Wait>,
    /// Bytes that its registers rely on (a shortened timeout below its stack), and where they go.
    pub patch: Option<(u64, Vec<u8>)>,
}

/// A timed wait whose end the source's kernel kept: issued anew at the target with the time left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wait {
    /// System call number.
    pub nr: i64,
    /// Its arguments.
    pub args: [u64; 6],
    /// Time left in nanoseconds when the process was frozen.
    pub left_ns: u64,
}

/// Syscall user dispatch (`struct ptrace_sud_config`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// `PR_SYS_DISPATCH_*`.
    pub mode: u64,
    /// Address of the byte that says whether calls are let through; 0: none.
    pub selector: u64,
    /// First byte of the range whose calls are not dispatched.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

/// Credentials of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// Real, effective, saved, file system uid.
    pub uids: [u32; 4],
    /// Real, effective, saved, file system gid.
    pub gids: [u32; 4],
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Inheritable, permitted, effective, bounding, ambient capabilities.
    pub caps: [u64; 5],
    /// `PR_GET_SECUREBITS`.
    pub securebits: u32,
    /// `PR_GET_NO_NEW_PRIVS`.
    pub no_new_privs: bool,
}

/// Interval timers and POSIX timers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timers {
    /// `ITIMER_REAL`, `VIRTUAL`, `PROF`: interval s, µs, value s, µs.
    pub itimers: Vec<[i64; 4]>,
    /// POSIX timers.
    pub posix: Vec<PosixTimer>,
}

/// One POSIX timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PosixTimer {
    /// Its id in the process.
    pub id: i32,
    /// `CLOCK_*`.
    pub clock: i32,
    /// `SIGEV_*`, with `SIGEV_THREAD_ID` as 4.
    pub notify: i32,
    /// Signal number.
    pub signal: i32,
    /// `sigev_value`.
    pub value: u64,
    /// Receiving thread for `SIGEV_THREAD_ID`.
    pub thread: i32,
    /// Interval s, ns, time left s, ns.
    pub setting: [i64; 4],
    /// Expirations that its queued signal will tell; 0: none is queued, or it travels as it is.
    pub expired: i32,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProcessImage {
    /// Pid as the process itself sees it.
    pub pid: i32,
    /// Address space.
    pub memory: MemoryImage,
    /// Threads, the leader first.
    pub threads: Vec<ThreadImage>,
    /// Signals queued to the process.
    pub queued: Vec<Siginfo>,
    /// Timers.
    pub timers: Timers,
    /// What else it has as a whole (`state/process/`).
    pub states: States,
    /// Its descriptor table: index into [`FilesImage::tables`]. Processes that share one (`CLONE_FILES`) have the same.
    pub table: usize,
    /// What it is to the other processes.
    pub relations: Relations,
    /// It has ended with this status (as `wait` tells it), and nobody has waited for it: nothing else is known of it.
    pub ended: Option<i32>,
}

/// What a process is to the others of its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relations {
    /// Its parent, which stands before it in the list. `None`: the tree's root.
    pub parent: Option<ProcessIndex>,
    /// What its parent is sent when it ends.
    pub exit_signal: i32,
    /// Its session, by the number that the process itself sees.
    pub session: i32,
    /// Its process group, likewise.
    pub group: i32,
    /// Whose directories and umask are its own, too (`CLONE_FS`): a process before it in the list.
    pub directories_of: Option<ProcessIndex>,
}

impl Relations {
    /// Of a process that moves alone: at the target it leads a session and a group, whatever it was in at the source.
    pub fn alone(pid: i32) -> Self {
        Relations { parent: None, exit_signal: libc::SIGCHLD, session: pid, group: pid, directories_of: None }
    }
}

/// A tree of processes, parents before children, and what they share. Today it holds one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TreeImage {
    /// [`IMAGE_VERSION`].
    pub version: u32,
    /// The processes. The first is the root.
    pub processes: Vec<ProcessImage>,
    /// Open files, pipes, sockets and memory files, and the tables by which processes have them.
    pub files: FilesImage,
}

impl TreeImage {
    /// A tree of these processes in the current version.
    pub fn new(processes: Vec<ProcessImage>, files: FilesImage) -> Self {
        TreeImage { version: IMAGE_VERSION, processes, files }
    }

    /// The process of that name.
    pub fn process(&self, of: ProcessIndex) -> Option<&ProcessImage> {
        self.processes.get(of.at())
    }
}
