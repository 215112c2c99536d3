//! What only the kernel's table of sockets tells: who is connected to whom among unix sockets, and whether a UDP socket is
//! shut down for writing. `sock_diag(7)`, one socket at a time.
//!
//! The answers cover one network namespace, so the netlink socket is opened in that of the process (by a
//! thread that enters it for a moment).

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::inet::nlas::Nla;
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags as InetStates,
};
use netlink_packet_sock_diag::unix::nlas::Nla as UnixNla;
use netlink_packet_sock_diag::unix::{ShowFlags, StateFlags, UnixRequest, UnixResponse};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
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
    /// What it has sent and nobody has read, in the kernel's own sizes (`SIOCOUTQ`).
    pub(super) unread: usize,
}

/// An open query socket.
pub(super) struct SocketDiag {
    socket: Socket,
}

/// Does something in the network namespace of `pid`: there sockets have that namespace's defaults.
pub(super) fn in_network_of<T: Send + 'static>(
    pid: i32,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, FilesError> {
    let failed = |step| move |source| FilesError::SocketDiag { step, source };
    let namespace = format!("/proc/{pid}/ns/net");
    let own = fs::read_link("/proc/thread-self/ns/net").map_err(failed("read our network namespace"))?;
    let its = fs::read_link(&namespace).map_err(failed("read the network namespace"))?;
    if own == its {
        return work().map_err(failed("ask the kernel"));
    }
    let namespace = File::open(&namespace).map_err(failed("open the network namespace"))?;
    let enter = move || {
        setns(&namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    };
    let thread = thread::Builder::new().spawn(enter).map_err(failed("start a thread"))?;
    let done = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked")));
    done.map_err(failed("ask the kernel in its network namespace"))
}

impl SocketDiag {
    /// Opens it in the network namespace of `pid`.
    pub(super) fn open(pid: i32) -> Result<Self, FilesError> {
        Ok(Self { socket: in_network_of(pid, connect)? })
    }

    /// Looks a unix socket up; `None` when it is not (any more) there.
    pub(super) fn unix(&self, ino: u64) -> Result<Option<UnixInfo>, FilesError> {
        self.ask_unix(ino).map_err(|source| FilesError::SocketDiag { step: "look a unix socket up", source })
    }

    fn ask_unix(&self, ino: u64) -> io::Result<Option<UnixInfo>> {
        let Ok(inode) = u32::try_from(ino) else { return Ok(None) };
        let request = UnixRequest {
            state_flags: StateFlags::all(),
            inode,
            show_flags: ShowFlags::NAME | ShowFlags::PEER | ShowFlags::RQLEN,
            cookie: [0xff; 8],
        };
        self.send(SockDiagMessage::UnixRequest(request), NLM_F_REQUEST)?;
        let (answer, _) = self.socket.recv_from_full()?;
        let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&answer).map_err(io::Error::other)?;
        match answer.payload {
            NetlinkPayload::InnerMessage(SockDiagMessage::UnixResponse(unix)) => Ok(Some(UnixInfo {
                named: unix.name().is_some(),
                peer: unix.peer().map(u64::from),
                shutdown: unix.shutdown_state().unwrap_or(0),
                unread: unread(&unix),
            })),
            NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => Ok(None),
            NetlinkPayload::Error(error) => Err(io::Error::from_raw_os_error(-error.raw_code())),
            other => Err(io::Error::other(format!("unexpected answer {other:?}"))),
        }
    }

    /// The directions in which a bound UDP socket is shut down (bit 0: reading; bit 1: writing); `None` when it is not there.
    pub(super) fn udp_shutdown(
        &self,
        ino: u64,
        v6: bool,
        local: SocketAddr,
        peer: Option<SocketAddr>,
    ) -> Result<Option<u8>, FilesError> {
        let failed = |source| FilesError::SocketDiag { step: "look a UDP socket up", source };
        let any: IpAddr = if v6 { [0_u16; 8].into() } else { [0_u8; 4].into() };
        let peer = peer.unwrap_or(SocketAddr::new(any, 0));
        // The kernel looks for the socket that would receive a packet: its peer is the source.
        let one = SocketId {
            source_port: peer.port(),
            destination_port: local.port(),
            source_address: peer.ip(),
            destination_address: local.ip(),
            interface_id: 0,
            cookie: [0xff; 8],
        };
        let is_it = |found: &InetResponse| u64::from(found.header.inode) == ino;
        let mut found = self.ask_udp(v6, one.clone(), NLM_F_REQUEST).map_err(failed)?.into_iter().find(is_it);
        if found.is_none() {
            // another one has this address, too (SO_REUSEPORT, SO_BINDTODEVICE)
            let all = SocketId {
                source_port: 0,
                destination_port: 0,
                source_address: any,
                destination_address: any,
                ..one
            };
            let list = self.ask_udp(v6, all, NLM_F_REQUEST | NLM_F_DUMP).map_err(failed)?;
            found = list.into_iter().find(is_it);
        }
        Ok(found.and_then(|found| {
            found.nlas.iter().find_map(|nla| if let Nla::Shutdown(how) = nla { Some(*how) } else { None })
        }))
    }

    fn ask_udp(&self, v6: bool, socket_id: SocketId, flags: u16) -> io::Result<Vec<InetResponse>> {
        let request = InetRequest {
            family: if v6 { libc::AF_INET6 } else { libc::AF_INET } as u8,
            protocol: libc::IPPROTO_UDP as u8,
            extensions: ExtensionFlags::empty(),
            states: InetStates::all(),
            socket_id,
        };
        self.send(SockDiagMessage::InetRequest(request), flags)?;
        let mut found = Vec::new();
        loop {
            let (answer, _) = self.socket.recv_from_full()?;
            let mut rest = answer.as_slice();
            while !rest.is_empty() {
                let message =
                    NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
                rest = rest
                    .get((message.header.length as usize).next_multiple_of(4).max(16)..)
                    .unwrap_or_default();
                match message.payload {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                        found.push(*socket);
                        if flags & NLM_F_DUMP == 0 {
                            return Ok(found);
                        }
                    }
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) if error.raw_code() == -libc::ENOENT => return Ok(found),
                    NetlinkPayload::Error(error) => {
                        return Err(io::Error::from_raw_os_error(-error.raw_code()));
                    }
                    other => return Err(io::Error::other(format!("unexpected answer {other:?}"))),
                }
            }
        }
    }

    fn send(&self, request: SockDiagMessage, flags: u16) -> io::Result<()> {
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        let mut message = NetlinkMessage::new(header, request.into());
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }
}

/// `udiag_wqueue`, which the answer's own methods give for listening ones only.
fn unread(unix: &UnixResponse) -> usize {
    let lengths = unix.nlas.iter().find_map(|nla| match nla {
        UnixNla::ReceiveQueueLength(_, sent) => Some(*sent as usize),
        _ => None,
    });
    lengths.unwrap_or(0)
}

fn connect() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::sys::socket::{Shutdown, shutdown};

    fn inode(fd: &impl AsRawFd) -> u64 {
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
        link.to_str().unwrap().trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
    }

    fn diag() -> SocketDiag {
        SocketDiag::open(i32::try_from(std::process::id()).unwrap()).unwrap()
    }

    #[test]
    fn peers_are_found_until_they_close() {
        let diag = diag();
        let (here, there) = UnixStream::pair().unwrap();
        let ask = || diag.unix(inode(&here)).unwrap().unwrap();
        assert_eq!(ask(), UnixInfo { named: false, peer: Some(inode(&there)), shutdown: 0, unread: 0 });
        assert_eq!(nix::unistd::write(&here, b"unread"), Ok(6));
        assert_eq!(ask().unread, crate::sys::fds::unread_by_others(&here).unwrap());
        assert!(ask().unread > 6);
        assert_eq!(nix::unistd::read(&there, &mut [0; 6]), Ok(6));
        here.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(ask().shutdown, 2);
        drop(there);
        assert_eq!(ask(), UnixInfo { named: false, peer: Some(0), shutdown: 3, unread: 0 });
        assert_eq!(diag.unix(1).unwrap(), None);
    }

    #[test]
    fn directions_of_udp_sockets_are_found() {
        let diag = diag();
        for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let peer = UdpSocket::bind(address).unwrap();
            for connected in [false, true] {
                let ours = UdpSocket::bind(address).unwrap();
                if connected {
                    ours.connect(peer.local_addr().unwrap()).unwrap();
                }
                let local = ours.local_addr().unwrap();
                let ask = || {
                    let v6 = local.is_ipv6();
                    diag.udp_shutdown(inode(&ours), v6, local, ours.peer_addr().ok()).unwrap()
                };
                assert_eq!(ask(), Some(0), "{local} {connected}");
                // says ENOTCONN where there is no peer, and does it all the same
                let _ = shutdown(ours.as_raw_fd(), Shutdown::Write);
                assert_eq!(ask(), Some(2), "{local} {connected}");
            }
        }
    }

    #[test]
    fn one_of_several_with_one_address_is_found() {
        let diag = diag();
        let first = fs_socket();
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        crate::sys::fds::bind(&first, local).unwrap();
        let first = UdpSocket::from(first);
        let local = first.local_addr().unwrap();
        let others: Vec<UdpSocket> = (0..3)
            .map(|_| {
                let other = fs_socket();
                crate::sys::fds::bind(&other, local).unwrap();
                UdpSocket::from(other)
            })
            .collect();
        let _ = shutdown(others[1].as_raw_fd(), Shutdown::Both);
        let ask = |socket| diag.udp_shutdown(inode(socket), false, local, None).unwrap();
        assert_eq!((ask(&first), ask(&others[1]), ask(&others[2])), (Some(0), Some(3), Some(0)));
    }

    fn fs_socket() -> std::os::fd::OwnedFd {
        let made = crate::sys::fds::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let on = 1_i32.to_ne_bytes();
        crate::sys::fds::set_socket_option(&made, libc::SOL_SOCKET, libc::SO_REUSEPORT, &on).unwrap();
        made
    }
}
