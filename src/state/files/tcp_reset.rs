//! TCP connections that the move closes: at the target the program finds a socket whose peer has just reset
//! it: one `ECONNRESET`, then end of file; writing breaks the pipe; `epoll` reports it readable, in error and
//! hung up.
//!
//! Kernel interface: a connection over loopback whose other end closes with `SO_LINGER` 0.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};

use nix::sys::socket::{Shutdown, setsockopt, shutdown, sockopt};

use crate::image::files::OpenFile;
use crate::image::obstacle::Obstacle;
use crate::sys::fds;
use crate::sys::process::{pidfd_getfd, pidfd_open};

use super::FilesError;
use super::target::{Maker, TargetCheck, failed, set_flags};

/// Longer than the kernel ever takes for a reset over loopback.
const PATIENCE_MS: i32 = 1000;

/// A socket that was connected and then reset by its peer.
pub(super) fn reset_connection(v6: bool) -> io::Result<OwnedFd> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let listener = if v6 {
        TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, 0))).or_else(|_| TcpListener::bind(v4))?
    } else {
        TcpListener::bind(v4)?
    };
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let (peer, from) = listener.accept()?;
    if from != ours.local_addr()? {
        return Err(io::Error::other("a stranger connected"));
    }
    setsockopt(&peer, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    drop(peer);
    if fds::poll_events(&ours, 0, PATIENCE_MS)? == 0 {
        return Err(io::ErrorKind::TimedOut.into());
    }
    Ok(ours.into())
}

/// The process runs elsewhere, and its stopped copy stays for a while: peers of its connections are told that they are closed, and
/// nobody is let in any more.
pub fn hang_up(pid: i32) {
    let Ok(pidfd) = pidfd_open(pid) else { return };
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let is_socket =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok());
        let Some(socket) = number.filter(|_| is_socket).and_then(|n| pidfd_getfd(pidfd.as_fd(), n).ok())
        else {
            continue;
        };
        let protocol = fds::socket_option(&socket, libc::SOL_SOCKET, libc::SO_PROTOCOL, &[]).ok();
        let protocol = protocol.and_then(|raw| raw.first_chunk::<4>().copied()).map(i32::from_ne_bytes);
        if matches!(protocol, Some(libc::IPPROTO_TCP | libc::IPPROTO_MPTCP)) {
            // one that is not connected has nobody to tell
            let _ = shutdown(socket.as_raw_fd(), Shutdown::Both);
        }
    }
}

/// Does the target have a loopback to do it?
pub(super) fn check(check: &mut TargetCheck, v6: bool, file: &OpenFile) {
    if let Err(error) = reset_connection(v6) {
        check.obstacles.push(Obstacle::new(
            file.object(),
            format!("a closed connection cannot be made at the target: {error}"),
            "bring the loopback interface up at the target (ip link set lo up)",
        ));
    }
}

/// Makes the connection, or takes one that was prepared.
pub(super) fn make(
    maker: &mut Maker<'_>,
    file: &OpenFile,
    v6: bool,
    error: bool,
) -> Result<OwnedFd, FilesError> {
    let prepared = if error { maker.resets.pop() } else { None };
    let made = match prepared {
        Some(made) => made,
        None => reset_connection(v6).map_err(failed(file, "make a reset connection"))?,
    };
    if !error {
        let stream = TcpStream::from(made.try_clone().map_err(failed(file, "duplicate it"))?);
        stream.take_error().map_err(failed(file, "take the error"))?;
    }
    set_flags(file, &made)?;
    Ok(made)
}
