//! Handing descriptors over a unix socket (`SCM_RIGHTS`), and starting a program with one at a known number.
#![allow(unsafe_code)]

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg, sendmsg,
    socketpair,
};

/// Most descriptors in one message (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// A pair of connected sockets, both close-on-exec, that keep messages apart.
pub fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
}

/// Sends up to [`MAX_FDS`] descriptors in one message.
pub fn send_fds(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"f")], &rights, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Receives one message: its text and its descriptors. An empty text: the other end is closed.
pub fn receive(socket: BorrowedFd<'_>) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut text = vec![0u8; 4096];
    let mut space = nix::cmsg_space!([i32; MAX_FDS]);
    let mut iov = [IoSliceMut::new(&mut text)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let mut fds = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(list) = control {
            // SAFETY: the kernel has just installed these descriptors for us; nobody else owns them.
            fds.extend(list.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    let bytes = message.bytes;
    text.truncate(bytes);
    Ok((text, fds))
}

/// Sends a text, and possibly one descriptor.
pub fn send(socket: BorrowedFd<'_>, text: &[u8], fd: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    let raw: Vec<i32> = fd.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let controls: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(text)], controls, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}

/// Makes `command` start with `fd` at number `at`, not close-on-exec.
pub fn give_fd(command: &mut Command, fd: OwnedFd, at: i32) {
    // SAFETY: between fork and exec only dup2 and fcntl are called, which are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            let r = if fd.as_raw_fd() == at {
                libc::fcntl(at, libc::F_SETFD, 0)
            } else {
                libc::dup2(fd.as_raw_fd(), at)
            };
            Errno::result(r)?;
            Ok(())
        });
    }
}

/// Takes over a descriptor that we were started with.
///
/// # Safety
/// Nothing else in this process may own the number.
pub unsafe fn adopt_fd(fd: i32) -> OwnedFd {
    // SAFETY: by the caller's promise.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from `first` on.
pub fn close_from(first: u32) {
    // SAFETY: no pointers; used in a freshly born process that owns nothing it will use above `first`.
    unsafe { libc::close_range(first, u32::MAX, 0) };
}
