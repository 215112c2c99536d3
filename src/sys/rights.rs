//! Doing something with another user's rights, in a thread of our own.
//!
//! Linux keeps credentials per thread; only the C library's wrappers change them for all. So a thread takes the user's
//! groups and ids by bare system calls, which costs it every capability (credentials(7): the last uid of 0 goes),
//! does its work, and ends.
#![allow(unsafe_code)]

use std::io;

use nix::errno::Errno;

/// Who a user is to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rights {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl Rights {
    /// Runs `work` with these rights and no capabilities, and waits for it. What is already so is left as it is: an ordinary
    /// user cannot change anything.
    pub fn with<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || self.take().map(|()| work()))?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn take(&self) -> io::Result<()> {
        if !nix::unistd::geteuid().is_root() {
            let own =
                nix::unistd::geteuid().as_raw() == self.uid && nix::unistd::getegid().as_raw() == self.gid;
            return if own { Ok(()) } else { Err(Errno::EPERM.into()) };
        }
        let (uid, gid) = (self.uid, self.gid);
        // SAFETY: the list is valid for its length; the kernel copies it.
        Errno::result(unsafe {
            libc::syscall(libc::SYS_setgroups, self.groups.len(), self.groups.as_ptr())
        })?;
        // SAFETY: three numbers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
        // SAFETY: three numbers.
        Errno::result(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) })?;
        let header: [u32; 2] = [0x2008_0522, 0];
        let none = [0u32; 6];
        // SAFETY: a header of version 3 and its two sets of three words, all zero.
        Errno::result(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) })?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::net::TcpListener;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_file_that_the_user_may_not_read_is_not_read() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (secret, open) = (dir.path().join("secret"), dir.path().join("open"));
        for (path, mode) in [(&secret, 0o640), (&open, 0o644)] {
            fs::write(path, "x").unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
        let rights = Rights { uid: 1234, gid: 1234, groups: Vec::new() };
        let tried =
            rights.with(|| (fs::read(&open), fs::read(&secret), TcpListener::bind("127.0.0.1:1"))).unwrap();
        assert!(tried.0.is_ok());
        assert_eq!(tried.1.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(tried.2.unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        // the others have kept theirs
        assert!(nix::unistd::geteuid().is_root() && fs::read(&secret).is_ok());
        let group = Rights { groups: vec![0], ..rights };
        assert!(group.with(|| fs::read(&secret)).unwrap().is_ok(), "groups count");
    }
}
