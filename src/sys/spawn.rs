//! `clone3(2)` with a chosen pid (`set_tid`, Linux 5.5).
#![allow(unsafe_code)]

use std::os::fd::{FromRawFd, OwnedFd};

use nix::errno::Errno;

/// `struct clone_args` in the size of Linux 5.7.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneArgs {
    /// `CLONE_*`.
    pub flags: u64,
    /// Where the pidfd goes.
    pub pidfd: u64,
    /// Where the child's tid goes in the child.
    pub child_tid: u64,
    /// Where the child's tid goes in the parent.
    pub parent_tid: u64,
    /// Signal to the parent at exit.
    pub exit_signal: u64,
    /// Lowest byte of the stack; 0 to share the caller's.
    pub stack: u64,
    /// Its size in bytes.
    pub stack_size: u64,
    /// TLS.
    pub tls: u64,
    /// Address of an array of pids, innermost namespace first.
    pub set_tid: u64,
    /// Its length.
    pub set_tid_size: u64,
    /// Cgroup descriptor.
    pub cgroup: u64,
}
const _: () = assert!(size_of::<CloneArgs>() == 88);
const _: () = assert!(
    std::mem::offset_of!(CloneArgs, pidfd) == 8
        && std::mem::offset_of!(CloneArgs, exit_signal) == 32
        && std::mem::offset_of!(CloneArgs, stack) == 40
        && std::mem::offset_of!(CloneArgs, tls) == 56
);
const _: () = assert!(
    std::mem::offset_of!(CloneArgs, set_tid) == 64
        && std::mem::offset_of!(CloneArgs, set_tid_size) == 72
        && std::mem::offset_of!(CloneArgs, cgroup) == 80
);

/// What a fork returned.
#[derive(Debug)]
pub enum Forked {
    /// In the parent: the child's pid and a pidfd.
    Parent(i32, OwnedFd),
    /// In the child.
    Child,
}

/// Forks a child whose pid in this pid namespace is `pid`. `EEXIST`: the pid is taken; `EPERM`: needs
/// `CAP_CHECKPOINT_RESTORE`.
///
/// # Safety
/// The calling process must be single-threaded: the child continues with a copy of its memory.
pub unsafe fn fork_with_pid(pid: i32) -> Result<Forked, Errno> {
    let tids = [pid];
    let mut pidfd = -1i32;
    let args = CloneArgs {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: (&raw mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        set_tid: tids.as_ptr() as u64,
        set_tid_size: 1,
        ..CloneArgs::default()
    };
    // SAFETY: args and what it points to live on this stack; without CLONE_VM the child has its own copy.
    let r = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>()) };
    match Errno::result(r)? {
        0 => Ok(Forked::Child),
        // SAFETY: the kernel has just stored a fresh descriptor there.
        child => Ok(Forked::Parent(child as i32, unsafe { OwnedFd::from_raw_fd(pidfd) })),
    }
}

/// Forks; the child goes on with a copy of our memory.
///
/// # Safety
/// The calling process must be single-threaded.
pub unsafe fn fork() -> Result<Option<i32>, Errno> {
    // SAFETY: by the caller's promise.
    match unsafe { nix::unistd::fork() }? {
        nix::unistd::ForkResult::Parent { child } => Ok(Some(child.as_raw())),
        nix::unistd::ForkResult::Child => Ok(None),
    }
}

/// `CLONE_NEWTIME`, which libc knows only as a signed constant.
pub const CLONE_NEWTIME: i32 = 0x80;

/// `unshare(2)` with raw flags.
pub fn unshare(flags: i32) -> Result<(), Errno> {
    // SAFETY: no pointers; the caller is single-threaded or the flags allow it.
    Errno::result(unsafe { libc::unshare(flags) }).map(drop)
}

/// Whether `clone3(2)` exists and is let through: asked with arguments that cannot succeed.
pub(super) fn clone3_works() -> bool {
    // SAFETY: a size of 0 is refused before anything is read.
    let r = unsafe { libc::syscall(libc::SYS_clone3, std::ptr::null::<CloneArgs>(), 0) };
    r == -1 && Errno::last() == Errno::EINVAL
}

/// Tests that make children, or look who else holds something of theirs, must not overlap: between `fork` and `exec` a child holds
/// everything of ours.
#[cfg(test)]
pub(crate) fn quiet() -> std::sync::MutexGuard<'static, ()> {
    static QUIET: std::sync::Mutex<()> = std::sync::Mutex::new(());
    QUIET.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Makes a child of a test that is not [quiet] itself.
#[cfg(test)]
pub(crate) fn quietly(command: &mut std::process::Command) -> std::process::Child {
    // it is back when the program has been executed
    let _quiet = quiet();
    command.spawn().unwrap()
}
