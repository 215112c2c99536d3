//! A network namespace of its own for TCP connections that are over: there every address is local, so that such a connection has
//! the names that it had, and takes no port from this host.
//!
//! Kernel interface: `unshare(CLONE_NEWNET)` in a thread of ours, rtnetlink: `lo` up, and a default route of type
//! `local` through it. A socket belongs for ever to the network in which it was made, and keeps that alive. It needs no other: it
//! cannot be connected anew (`EISCONN`) unless the program takes it apart first (`connect` to `AF_UNSPEC`).
//!
//! Ours is the *accepted* end. One that connects would have to be bound to its address first, and `bind` to an IPv6 address sets
//! `IPV6_V6ONLY` and keeps the port.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr as NetlinkAddr};
use nix::sched::{CloneFlags, unshare};

use crate::image::files::FilesImage;
use crate::sys::fds;

/// Longer than the kernel ever takes for anything over loopback.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// What becomes different.
pub(in crate::state) const NEVER_ANEW: &str =
    "they cannot be taken apart (connect to AF_UNSPEC) and connected anew at the target";

/// Our end and the peer's.
type Made = io::Result<(OwnedFd, OwnedFd)>;

/// A thread in a network of its own.
#[derive(Debug)]
pub struct Place {
    jobs: Sender<(Names, Sender<Made>)>,
}

/// One connection to be made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Ours is an IPv6 socket.
    pub(super) v6: bool,
    pub(super) local: SocketAddr,
    /// `None`: anyone.
    pub(super) peer: Option<SocketAddr>,
    pub(super) v6only: bool,
    /// Bytes of the receive buffer, if it has to hold something.
    pub(super) room: Option<i32>,
    /// Largest segment that the peer takes.
    pub(super) segment: Option<i32>,
}

impl Place {
    /// A place, if this image has something for it and we may have one.
    pub fn wanted(image: &FilesImage) -> Option<Self> {
        let over = image.files.iter().filter_map(|file| file.kind.over());
        over.map(|tcp| tcp.end).any(|end| end.was_connected()).then_some(())?;
        Self::new().inspect_err(|error| tracing::debug!(%error, "no network for dead connections")).ok()
    }

    fn new() -> io::Result<Self> {
        let (jobs, todo) = channel::<(Names, Sender<Made>)>();
        let (tell, told) = channel();
        thread::Builder::new().name("dead connections".into()).spawn(move || {
            let _ = tell.send(enter());
            for (names, tell) in todo {
                // if nobody listens any more, nobody needs it
                let _ = tell.send(pair(names));
            }
        })?;
        told.recv().map_err(io::Error::other)??;
        Ok(Self { jobs })
    }

    /// Makes one.
    pub(super) fn pair(&self, names: Names) -> Made {
        let (tell, told) = channel();
        self.jobs.send((names, tell)).map_err(|_| io::ErrorKind::BrokenPipe)?;
        told.recv().map_err(io::Error::other)?
    }
}

fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&NetlinkAddr::new(0, 0))?;
    ask(&socket, libc::RTM_NEWLINK, &LO_UP)?;
    ask(&socket, libc::RTM_NEWROUTE, &all_local(libc::AF_INET))?;
    if let Err(error) = ask(&socket, libc::RTM_NEWROUTE, &all_local(libc::AF_INET6)) {
        tracing::debug!(%error, "no IPv6 for dead connections");
    }
    Ok(())
}

/// `struct ifinfomsg` of the interface 1: flags and their mask.
const LO_UP: [u8; 16] = {
    let mut message = [0; 16];
    (message[4], message[8], message[12]) = (1, libc::IFF_UP as u8, libc::IFF_UP as u8);
    message
};

/// `struct rtmsg` of a route to everywhere, and `RTA_OIF`.
fn all_local(family: i32) -> [u8; 20] {
    const PROTOCOL: u8 = 4; // RTPROT_STATIC
    let (table, scope) = (libc::RT_TABLE_LOCAL, libc::RT_SCOPE_HOST);
    let mut message = [0; 20];
    message[0] = family as u8;
    message[4..8].copy_from_slice(&[table, PROTOCOL, scope, libc::RTN_LOCAL]);
    message[12..14].copy_from_slice(&8_u16.to_ne_bytes());
    message[14..16].copy_from_slice(&libc::RTA_OIF.to_ne_bytes());
    message[16..].copy_from_slice(&1_u32.to_ne_bytes());
    message
}

/// One request of rtnetlink, and its acknowledgement.
fn ask(socket: &Socket, kind: u16, body: &[u8]) -> io::Result<()> {
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE) as u16;
    let mut message = Vec::with_capacity(16 + body.len());
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    // `struct nlmsgerr` behind the header begins with 0 or -errno
    match answer.get(16..).and_then(|rest| rest.first_chunk::<4>()).map(|raw| i32::from_ne_bytes(*raw)) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn pair(names: Names) -> Made {
    let domain = |v6: bool| if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let stream = |v6: bool| fds::socket(domain(v6), libc::SOCK_STREAM, libc::IPPROTO_TCP);
    let on = |socket: &OwnedFd, level, name, value: i32| {
        fds::set_socket_option(socket, level, name, &value.to_ne_bytes())
    };
    let listener = stream(names.v6)?;
    // others of this port are here already; the accepted end inherits it, until all are made
    on(&listener, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    let mut all = IpAddr::from(Ipv4Addr::UNSPECIFIED);
    if names.v6 {
        on(&listener, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, names.v6only.into())?;
        all = Ipv6Addr::UNSPECIFIED.into();
    }
    if let Some(room) = names.room {
        on(&listener, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room)?;
    }
    fds::bind(&listener, SocketAddr::new(all, names.local.port()))?;
    fds::listen(&listener, 1)?;
    let local = SocketAddr::new(names.local.ip().to_canonical(), names.local.port());
    let peer = stream(local.is_ipv6())?;
    on(&peer, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if let Some(named) = names.peer {
        if local.is_ipv6() {
            on(&peer, libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, 1)?;
        }
        fds::bind(&peer, SocketAddr::new(named.ip().to_canonical(), named.port()))?;
    }
    if let Some(segment) = names.segment {
        // a time stamp in each takes twelve bytes of it; one of loopback's size cannot be asked for, and comes by itself
        let _ = on(&peer, libc::IPPROTO_TCP, libc::TCP_MAXSEG, segment + 12);
    }
    let peer = std::net::TcpStream::from(peer);
    // also the longest time that connect(2) takes
    peer.set_write_timeout(Some(PATIENCE))?;
    fds::connect(&peer, local)?;
    accepted(listener).map(|ours| (ours, peer.into()))
}

fn accepted(listener: OwnedFd) -> io::Result<OwnedFd> {
    match fds::poll_events(&listener, libc::POLLIN, Duration::as_millis(&PATIENCE) as i32)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(TcpListener::from(listener).accept()?.0.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tcp_info::{local_address, peer_address};
    use super::*;

    #[test]
    fn a_connection_has_the_names_of_any_host() {
        let Ok(place) = Place::new() else {
            eprintln!("skipped: no right to a network of one's own");
            return;
        };
        let mut kept = Vec::new();
        for (v6, local, peer) in [
            (false, "192.0.2.7:80", "198.51.100.9:4711"),
            (false, "192.0.2.7:80", "198.51.100.9:4712"),
            (true, "[2001:db8::7]:80", "[2001:db8::9]:4711"),
            (true, "[2001:db8::7]:80", "[2001:db8::9]:4712"),
            (true, "[::ffff:192.0.2.8]:80", "[::ffff:198.51.100.9]:4711"),
            (false, "127.0.0.1:4711", "127.0.0.1:80"),
        ] {
            let (local, peer) = (local.parse().unwrap(), peer.parse().unwrap());
            let names = Names { v6, local, peer: Some(peer), v6only: false, room: None, segment: Some(1400) };
            let pair = place.pair(names).unwrap_or_else(|error| panic!("{local} {peer}: {error}"));
            assert_eq!((local_address(&pair.0), peer_address(&pair.0)), (Some(local), Some(peer)));
            let segment = fds::socket_number(&pair.0, libc::IPPROTO_TCP, libc::TCP_MAXSEG).unwrap();
            assert_eq!(segment, 1400);
            if v6 {
                assert_eq!(fds::socket_number(&pair.0, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY).unwrap(), 0);
            }
            kept.push(pair);
        }
    }
}
