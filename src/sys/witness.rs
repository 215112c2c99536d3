//! A process that is nobody: without rights beyond a user's, without any confinement of its own, waiting to be looked at. Whether
//! somebody else may look at it tells something about *them*.
//!
//! It is forked from us though we have threads: between `clone` and its end it does nothing but system calls, and waits
//! for the end of a pipe that only we hold.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::status::Status;

/// The process; it ends with this value.
#[derive(Debug)]
pub struct Witness {
    pid: i32,
    /// Its pid in its own, innermost namespace.
    pub inner_pid: i32,
    /// Its user and group.
    pub owner: (u32, u32),
    hold: Option<OwnedFd>,
}

impl Witness {
    /// Starts one that belongs to this user and group, in the pid namespace of process `beside`.
    pub fn start(owner: (u32, u32), beside: i32) -> io::Result<Self> {
        let (until, hold) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let (ready, say) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        let space = foreign_pids(beside);
        // a thread that enters a pid namespace for its children is of no use for anything else
        let born = std::thread::scope(|scope| {
            let birth = scope.spawn(|| {
                if let Some(space) = &space {
                    nix::sched::setns(space, nix::sched::CloneFlags::CLONE_NEWPID)?;
                }
                bear(owner, until.as_raw_fd(), say.as_raw_fd())
            });
            birth.join().unwrap_or(Err(Errno::EAGAIN))
        });
        let pid = born?;
        let mut witness = Witness { pid, inner_pid: pid, owner, hold: Some(hold) };
        drop((say, until));
        let mut word = [0];
        File::from(ready).read_exact(&mut word)?;
        witness.inner_pid = Status::of(pid)?.nspid.last().copied().unwrap_or(pid);
        Ok(witness)
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        drop(self.hold.take());
        let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(self.pid), None);
    }
}

/// The pid namespace of a process, if it is not ours.
fn foreign_pids(pid: i32) -> Option<File> {
    let path = format!("/proc/{}/ns/pid", super::voice::of(pid));
    let same = std::fs::read_link(&path).ok() == std::fs::read_link("/proc/self/ns/pid").ok();
    if same { None } else { File::open(path).ok() }
}

fn bear(owner: (u32, u32), until: i32, say: i32) -> Result<i32, Errno> {
    // SAFETY: a fork. The child shares no memory with us, returns from nothing and calls nothing but the kernel.
    let pid = Errno::result(unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) })?;
    if pid == 0 {
        live(owner, until, say);
    }
    Ok(pid as i32)
}

/// All that the child does: bare system calls, since a lock of the C library may be held by a thread that it does not have.
fn live((uid, gid): (u32, u32), until: i32, say: i32) -> ! {
    let header: [u32; 2] = [0x2008_0522, 0];
    let none = [0u32; 6];
    let mut byte = [0u8];
    // SAFETY: numbers, and pointers to values of this frame. What fails leaves it with rights that do not match, which the caller hears
    // as "unknown": it says so by ending before its word.
    unsafe {
        let failed = libc::syscall(libc::SYS_setresgid, gid, gid, gid) != 0
            || libc::syscall(libc::SYS_setresuid, uid, uid, uid) != 0
            || libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) != 0
            || libc::syscall(libc::SYS_prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0) != 0
            || libc::syscall(libc::SYS_dup3, until, 0, 0) < 0
            || libc::syscall(libc::SYS_write, say, byte.as_ptr(), 1) != 1
            || libc::syscall(libc::SYS_close_range, 1, u32::MAX, 0) != 0;
        if !failed {
            libc::syscall(libc::SYS_read, 0, byte.as_mut_ptr(), 1);
        }
        loop {
            libc::syscall(libc::SYS_exit_group, 0);
        }
    }
}

/// Whether this kernel knows Landlock.
pub(super) fn knows_landlock() -> bool {
    const VERSION: u32 = 1;
    // SAFETY: with this flag the call takes no memory and makes nothing.
    unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<u8>(), 0, VERSION) > 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::kcmp::{Shared, shared};

    #[test]
    fn it_may_be_looked_at_and_ends_with_its_value() {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let witness = Witness::start(own, std::process::id() as i32).unwrap();
        let pid = witness.pid;
        assert_eq!(shared(std::process::id() as i32, pid, Shared::Memory), Some(false));
        assert_eq!(Status::of(pid).unwrap().caps[1], 0);
        drop(witness);
        assert!(Status::of(pid).is_err());
    }
}
