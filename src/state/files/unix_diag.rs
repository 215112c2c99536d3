//! Who is connected to whom among unix sockets: `sock_diag(7)`, family `AF_UNIX`, one socket by inode.
//!
//! The answers cover one network namespace, so the netlink socket is opened in that of the process (by a
//! thread that enters it for a moment).

use std::fs::{self, File};
use std::io;
use std::thread;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr};
use nix::sched::{CloneFlags, setns};

use super::FilesError;

/// What the kernel knows about a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct UnixInfo {
    /// It has a name, in the file system or abstract.
    pub(super) named: bool,
    /// `None`: never connected; 0: the other end is closed; else its inode.
    pub(super) peer: Option<u64>,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub(super) shutdown: u8,
}

/// An open query socket.
pub(super) struct UnixDiag {
    socket: Socket,
}

impl UnixDiag {
    /// Opens it in the network namespace of `pid`.
    pub(super) fn open(pid: i32) -> Result<Self, FilesError> {
        let failed = |step| move |source| FilesError::UnixDiag { step, source };
        let namespace = format!("/proc/{pid}/ns/net");
        let own = fs::read_link("/proc/thread-self/ns/net").map_err(failed("read our network namespace"))?;
        let its = fs::read_link(&namespace).map_err(failed("read the network namespace"))?;
        let socket = if own == its {
            connect()
        } else {
            let namespace = File::open(&namespace).map_err(failed("open the network namespace"))?;
            let enter = move || {
                setns(&namespace, CloneFlags::CLONE_NEWNET)?;
                connect()
            };
            thread::spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")))
        };
        Ok(Self { socket: socket.map_err(failed("open the query socket"))? })
    }

    /// Looks a socket up; `None` when it is not (any more) there.
    pub(super) fn query(&self, ino: u64) -> Result<Option<UnixInfo>, FilesError> {
        self.ask(ino).map_err(|source| FilesError::UnixDiag { step: "look a socket up", source })
    }

    fn ask(&self, ino: u64) -> io::Result<Option<UnixInfo>> {
        let Ok(inode) = u32::try_from(ino) else { return Ok(None) };
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST;
        let request = UnixRequest {
            state_flags: StateFlags::all(),
            inode,
            show_flags: ShowFlags::NAME | ShowFlags::PEER,
            cookie: [0xff; 8],
        };
        let mut message = NetlinkMessage::new(header, SockDiagMessage::UnixRequest(request).into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;

        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(unix)) => Ok(Some(UnixInfo {
                named: unix.name().is_some(),
                peer: unix.peer().map(u64::from),
                shutdown: unix.shutdown_state().unwrap_or(0),
            })),
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok(None),
            NetlinkPayload::Error(error) => Err(io::Error::from_raw_os_error(-error.raw_code())),
            other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
        }
    }
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    fn inode(fd: &impl AsRawFd) -> u64 {
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    #[test]
    fn peers_are_found_until_they_close() {
        let diag = UnixDiag::open(i32::try_from(std::process::id()).unwrap()).unwrap();
        let (here, there) = UnixStream::pair().unwrap();
        let ask = || diag.query(inode(&here)).unwrap().unwrap();
        assert_eq!(ask(), UnixInfo { named: false, peer: Some(inode(&there)), shutdown: 0 });
        here.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ask().shutdown, 2);
        drop(there);
        assert_eq!(ask(), UnixInfo { named: false, peer: Some(0), shutdown: 3 });
        assert_eq!(diag.query(1).unwrap(), None);
    }
}
