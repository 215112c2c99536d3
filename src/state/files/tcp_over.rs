//! TCP connections that are over: reset, broken or closed by the peer, or closed by the move (`--tcp close`), with what the
//! program has not read yet. It finds the same bytes, then the same end: end of file, or an error once.
//!
//! Kernel interface: `MSG_PEEK` for the bytes (never more than there are: at the end the kernel hands out, and forgets, the
//! pending error). Only `POLLERR` tells of that error without taking it; which one it is follows from `TCP_INFO` (no
//! round trip measured: never connected; retransmissions: perhaps a time-out) and `TCP_INQ` (one more than there is to read
//! when the peer closed first: a reset is EPIPE then). At the target it is a connection over loopback whose other end did
//! the same; a socket in state CLOSE has given its port back, so it can be bound once more, to the name that it had.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};

use crate::image::files::{FileKind, InetAddress, OpenFile, SocketOption, TcpEnd, TcpOver};
use crate::image::{Note, Obstacle};
use crate::sys::fds;
use crate::sys::process::{pidfd_getfd, pidfd_of_thread};
use crate::sys::voice;

use super::maker::{TargetCheck, failed, set_flags};
use super::socket::{Socket, options};
use super::socket_table::SO_BUF_LOCK;
use super::source::{Descriptor, Source};
use super::tcp_info::{Info, local_address, peer_address};
use super::tcp_place::{Names, PATIENCE, Place};
use super::{FilesError, refuse, socket_options};

/// `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`: the peer has said all.
const PEER_IS_DONE: [u8; 3] = [8, 9, 11];
const CLOSE_WAIT: u8 = 8;
const TCP_INQ: i32 = 36;
const TCP_REPAIR_OFF_NO_WP: i32 = -1;
/// Options that the kernel changes with a connection, or that making one changes.
const TUNED: &[(i32, i32)] = &[
    (libc::SOL_SOCKET, libc::SO_REUSEADDR),
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, SO_BUF_LOCK),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
];
/// Options that are not set on the connection itself: the largest segment follows from what its peer takes.
const SEGMENT: (i32, i32) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG);
/// Set when all are made.
const LAST: (i32, i32) = (libc::SOL_SOCKET, libc::SO_REUSEADDR);
const IP_LOCAL_PORT_RANGE: i32 = 51;
/// What the first packet leaves in a connection that was accepted (`mc_ttl`, `mc_index`). A stream sends to no group, and they
/// cannot be set on one.
const OF_GROUPS: &[(i32, i32)] = &[
    (libc::IPPROTO_IP, libc::IP_MULTICAST_TTL),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS),
    (libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF),
];

/// Reads a connection that is over, or that the move closes.
pub(super) fn read(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
    info: &Info,
    closed: bool,
) -> Result<Option<FileKind>, FilesError> {
    let fail = |step| move |error: io::Error| (step, error);
    let asked = libc::POLLRDHUP | libc::POLLPRI;
    let look = || -> Result<(i16, usize), (&'static str, io::Error)> {
        let events = fds::poll_events(&socket.fd, asked, 0).map_err(fail("ask what waits"))?;
        Ok((events, fds::readable_bytes(&socket.fd).map_err(fail("count what waits"))?))
    };
    let (events, waiting) = look().map_err(|(step, error)| source.failed(file, step, error))?;
    let try_again = "try again when the program has read it";
    if events & libc::POLLPRI != 0 && closed {
        source.refuse(refuse::because(file, "urgent data waits in it (MSG_OOB)", try_again));
        return Ok(None);
    }
    let error = events & libc::POLLERR != 0;
    if closed && error && !info.was_refused() && (!info.was_established() || info.has_retransmitted()) {
        let why = "a pending error (SO_ERROR) that cannot be told without taking it: not a plain reset";
        source.refuse(refuse::because(file, why, try_again));
        return Ok(None);
    }
    let end = match (closed, error) {
        (true, true) if info.was_refused() => TcpEnd::Refused,
        (true, true) => error_of(source, file, socket, info, waiting)?,
        (true, false) if !info.was_established() => TcpEnd::Failed,
        (true, false) => TcpEnd::Over,
        (false, _) if info.state == CLOSE_WAIT => TcpEnd::Ended,
        (false, _) if PEER_IS_DONE.contains(&info.state) => TcpEnd::Over,
        (false, _) => TcpEnd::Reset,
    };
    let mut data = Vec::new();
    if source.stopped && waiting != 0 {
        data = peek(&socket.fd, waiting).map_err(|error| source.failed(file, "read what waits", error))?;
    }
    let known = source.known(file).and_then(|known| known.kind.over());
    let options = match known {
        // many connections may be closed by one move: what they are set to is not asked again while it stands
        Some(known) if source.stopped => known.options.clone(),
        _ => {
            let differing = options(source, file, socket)?;
            socket_options::with(&socket.fd, differing, TUNED)
        }
    };
    if socket.protocol == libc::IPPROTO_MPTCP {
        source.note(file.object(), "it is a Multipath TCP connection: plain TCP takes its place");
    }
    let address = |address: Option<SocketAddr>| address.filter(|a| a.port() != 0).map(InetAddress::from);
    Ok(Some(FileKind::TcpOver(TcpOver {
        v6: socket.domain == libc::AF_INET6,
        local: address(local_address(&socket.fd)),
        peer: address(peer_address(&socket.fd)),
        end,
        data,
        options,
    })))
}

/// Which error a reset left. Where nothing waits to be read and the kernel delays acknowledgements (it does so after the peer
/// has closed, and at other times), it is taken to be the usual one.
fn error_of(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
    info: &Info,
    waiting: usize,
) -> Result<TcpEnd, FilesError> {
    let delays =
        fds::socket_number(&socket.fd, libc::IPPROTO_TCP, libc::TCP_QUICKACK).is_ok_and(|on| on == 0);
    if !delays || info.received == Some(0) {
        return Ok(TcpEnd::Reset);
    }
    if waiting != 0 {
        let hint = inq(&socket.fd).map_err(|error| source.failed(file, "ask how it ended", error))?;
        return Ok(if hint > waiting { TcpEnd::Broken } else { TcpEnd::Reset });
    }
    let what = "a pending error (SO_ERROR) that cannot be told without taking it becomes ECONNRESET";
    source.note(file.object(), what);
    Ok(TcpEnd::Reset)
}

/// What `TCP_INQ` says while something waits: a FIN counts as one byte.
fn inq(socket: &OwnedFd) -> io::Result<usize> {
    let before = fds::socket_option(socket, libc::IPPROTO_TCP, TCP_INQ, &[])?;
    fds::set_socket_option(socket, libc::IPPROTO_TCP, TCP_INQ, &1_i32.to_ne_bytes())?;
    let hint = peeked(socket, || fds::receive_queue_hint(socket));
    fds::set_socket_option(socket, libc::IPPROTO_TCP, TCP_INQ, &before)?;
    hint
}

/// What waits, left in place.
fn peek(socket: &OwnedFd, waiting: usize) -> io::Result<Vec<u8>> {
    peeked(socket, || {
        let mut data = vec![0; waiting];
        let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
        match recv(socket.as_raw_fd(), &mut data, flags)? {
            count if count == waiting => Ok(data),
            count => Err(io::Error::other(format!("{count} of {waiting} bytes could be read"))),
        }
    })
}

/// Peeks from the start, wherever the program's own peeking has come to (`SO_PEEK_OFF`).
fn peeked<T>(socket: &OwnedFd, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let offset = fds::socket_number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF).unwrap_or(-1);
    let set = |offset: i32| {
        fds::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &offset.to_ne_bytes())
    };
    if offset < 0 {
        return work();
    }
    set(-1)?;
    let done = work();
    set(offset)?;
    done
}

/// Makes it, for a moment.
pub(super) fn check(check: &mut TargetCheck, place: Option<&Place>, tcp: &TcpOver, file: &OpenFile) {
    match connection(tcp, place) {
        Err(error) => check.obstacles.push(Obstacle::new(
            file.object(),
            format!("a connection that is over cannot be made at the target: {error}"),
            "bring the loopback interface up at the target (ip link set lo up)",
        )),
        Ok(made) => {
            socket_options::apply_each(&made, settings(tcp));
            if let Err(error) = finish(&made, tcp) {
                let what = format!("its addresses cannot be given at the target: {error}");
                check.notes.push(Note::new(file.object(), what));
            }
            let other = socket_options::differing(&made, &tcp.options);
            let keys = other.iter().map(|option| (option.level, option.name));
            let keys = keys.filter(|key| !OF_GROUPS.contains(key));
            let names: Vec<_> = keys.filter_map(|(level, name)| socket_options::name(level, name)).collect();
            if !names.is_empty() {
                let what = format!("{} cannot be as at the source", names.join(", "));
                check.notes.push(Note::new(file.object(), what));
            }
        }
    }
}

/// Makes it; [`finish`] comes when all others are made.
pub(super) fn make(file: &OpenFile, place: Option<&Place>, tcp: &TcpOver) -> Result<OwnedFd, FilesError> {
    let made = connection(tcp, place).map_err(failed(file, "make a connection that is over"))?;
    // preflight has said which cannot be
    socket_options::apply_each(&made, settings(tcp));
    set_flags(file, &made)?;
    Ok(made)
}

fn settings(tcp: &TcpOver) -> impl Iterator<Item = &SocketOption> {
    tcp.options.iter().filter(|option| ![SEGMENT, LAST].contains(&(option.level, option.name)))
}

/// A connection that has ended in the same way: in a network of its own if there is one, else over loopback.
pub(super) fn connection(tcp: &TcpOver, place: Option<&Place>) -> io::Result<OwnedFd> {
    if !tcp.end.was_connected() {
        return attempt(tcp);
    }
    let (ours, peer) = pair(tcp, place)?;
    let mut rest = tcp.data.as_slice();
    let begun = Instant::now();
    let late = || if begun.elapsed() < PATIENCE { Ok(()) } else { Err(io::ErrorKind::TimedOut) };
    while !rest.is_empty() {
        match send(peer.as_raw_fd(), rest, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::EAGAIN) => {
                late()?;
                std::thread::yield_now();
            }
            Err(error) => return Err(error.into()),
        }
    }
    while fds::readable_bytes(&ours)? < tcp.data.len() {
        late()?;
        std::thread::yield_now();
    }
    if matches!(tcp.end, TcpEnd::Reset | TcpEnd::Over) {
        setsockopt(&peer, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    }
    drop(peer);
    match tcp.end {
        TcpEnd::Ended => wait(&ours, libc::POLLRDHUP)?,
        TcpEnd::Over => {
            wait(&ours, 0)?;
            TcpStream::from(ours.try_clone()?).take_error()?;
        }
        TcpEnd::Broken => {
            wait(&ours, libc::POLLRDHUP)?;
            send(ours.as_raw_fd(), b"x", MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
            wait(&ours, 0)?;
        }
        TcpEnd::Reset | TcpEnd::Refused | TcpEnd::Failed => wait(&ours, 0)?,
    }
    Ok(ours)
}

fn wait(socket: &OwnedFd, event: i16) -> io::Result<()> {
    match fds::poll_events(socket, event, PATIENCE.as_millis() as i32)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// An attempt to connect that was refused. Unbound, as it is at the source: a program may try again with the same socket. Its name
/// is what the kernel chooses for the attempt: its old port if that is free, its old address if this host has it.
fn attempt(tcp: &TcpOver) -> io::Result<OwnedFd> {
    let loopback: IpAddr = if tcp.v6 { Ipv6Addr::LOCALHOST.into() } else { Ipv4Addr::LOCALHOST.into() };
    let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped();
    let own = tcp.local.map(|local| local.ip).into_iter();
    let places = own.chain([loopback]).chain(tcp.v6.then_some(mapped.into()));
    let port = tcp.local.map(|local| u32::from(local.port));
    let mut error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for place in places {
        for range in [port.map(|port| port | port << 16), None] {
            match refused_at(tcp, place, range) {
                Ok(made) => return Ok(made),
                Err(found) => error = found,
            }
        }
    }
    Err(error)
}

/// `range`: the ports that the kernel may choose from (`IP_LOCAL_PORT_RANGE`).
fn refused_at(tcp: &TcpOver, place: IpAddr, range: Option<u32>) -> io::Result<OwnedFd> {
    let domain = if tcp.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = |kind| fds::socket(domain, libc::SOCK_STREAM | kind, libc::IPPROTO_TCP);
    // it has a port, and does not listen
    let (deaf, ours) = (socket(0)?, socket(libc::SOCK_NONBLOCK)?);
    fds::bind(&deaf, SocketAddr::new(place, 0))?;
    let closed = local_address(&deaf).ok_or(io::ErrorKind::AddrNotAvailable)?;
    if let Some(range) = range {
        fds::set_socket_option(&ours, libc::IPPROTO_IP, IP_LOCAL_PORT_RANGE, &range.to_ne_bytes())?;
    }
    if socket_options::number(&tcp.options, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) != 0 {
        fds::set_socket_option(&ours, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32.to_ne_bytes())?;
    }
    match fds::connect(&ours, closed) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
        Ok(()) => return Err(io::Error::other("somebody listens")),
    }
    wait(&ours, 0)?;
    if tcp.end == TcpEnd::Failed {
        TcpStream::from(ours.try_clone()?).take_error()?;
    }
    Ok(ours)
}

/// Two ends of a connection with the names that it had, or else of one over loopback.
fn pair(tcp: &TcpOver, place: Option<&Place>) -> io::Result<(OwnedFd, OwnedFd)> {
    let number = |(level, name)| socket_options::number(&tcp.options, level, name);
    let local = tcp.local.filter(|local| local.scope == 0);
    if let (Some(place), Some(local)) = (place, local) {
        let names = Names {
            v6: tcp.v6,
            local: local.into(),
            peer: tcp.peer.filter(|peer| peer.scope == 0).map(SocketAddr::from),
            v6only: number((libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)) != 0,
            room: room(tcp),
            segment: Some(number(SEGMENT)).filter(|size| *size > 0),
        };
        match place.pair(names) {
            Ok(pair) => return Ok(pair),
            Err(error) => tracing::debug!(%error, ?names, "a connection that is over gets other names"),
        }
    }
    over_loopback(tcp)
}

/// Bytes of the receive buffer while it is filled.
fn room(tcp: &TcpOver) -> Option<i32> {
    let size = tcp.data.len();
    (size != 0).then(|| size.saturating_mul(4).clamp(1 << 17, 1 << 29) as i32)
}

/// Two ends of a connection over loopback.
fn over_loopback(tcp: &TcpOver) -> io::Result<(OwnedFd, OwnedFd)> {
    let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mapped = SocketAddr::from((Ipv4Addr::LOCALHOST.to_ipv6_mapped(), 0));
    let places = if tcp.v6 { [SocketAddr::from((Ipv6Addr::LOCALHOST, 0)), mapped] } else { [v4; 2] };
    pair_at(tcp, places[0]).or_else(|_| pair_at(tcp, places[1]))
}

fn pair_at(tcp: &TcpOver, place: SocketAddr) -> io::Result<(OwnedFd, OwnedFd)> {
    let domain = if tcp.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = || fds::socket(domain, libc::SOCK_STREAM, libc::IPPROTO_TCP);
    let (listener, ours) = (socket()?, socket()?);
    fds::bind(&listener, place)?;
    fds::listen(&listener, 1)?;
    if let Some(room) = room(tcp) {
        let set = |name| fds::set_socket_option(&ours, libc::SOL_SOCKET, name, &room.to_ne_bytes());
        set(libc::SO_RCVBUFFORCE).or_else(|_| set(libc::SO_RCVBUF))?;
    }
    let listener = std::net::TcpListener::from(listener);
    fds::connect(&ours, listener.local_addr()?)?;
    let (peer, from) = listener.accept()?;
    if Some(from) != local_address(&ours) {
        return Err(io::Error::other("a stranger connected"));
    }
    Ok((ours, peer.into()))
}

/// What had to wait until all others are made: until then its port may be another's, and is shared.
pub(super) fn finish(made: &OwnedFd, tcp: &TcpOver) -> io::Result<()> {
    let named = name(made, tcp);
    socket_options::apply_each(made, tcp.options.iter().filter(|option| (option.level, option.name) == LAST));
    named
}

/// Gives it the name that it had, if it has another.
fn name(made: &OwnedFd, tcp: &TcpOver) -> io::Result<()> {
    let (local, peer) = (tcp.local.map(SocketAddr::from), tcp.peer.map(SocketAddr::from));
    let same = local == local_address(made) || local.is_none();
    let other = |why: &str| {
        let text = |address: Option<SocketAddr>| address.map_or("none".to_owned(), |at| at.to_string());
        Err(io::Error::other(format!("{} → {}: {why}", text(local), text(peer))))
    };
    match (local, tcp.end) {
        _ if same && (peer == peer_address(made) || peer.is_none()) => return Ok(()),
        (_, TcpEnd::Ended) => return other("the connection is half open"),
        (_, TcpEnd::Refused | TcpEnd::Failed) => return other("of an attempt to connect"),
        _ => {}
    }
    let Some(local) = local else { return Ok(()) };
    let (level, freebind) = match local.is_ipv6() {
        true => (libc::IPPROTO_IPV6, libc::IPV6_FREEBIND),
        false => (libc::IPPROTO_IP, libc::IP_FREEBIND),
    };
    let (free, reuse) = (
        fds::socket_option(made, level, freebind, &[])?,
        fds::socket_option(made, libc::SOL_SOCKET, libc::SO_REUSEADDR, &[])?,
    );
    fds::set_socket_option(made, level, freebind, &1_i32.to_ne_bytes())?;
    fds::set_socket_option(made, libc::SOL_SOCKET, libc::SO_REUSEADDR, &1_i32.to_ne_bytes())?;
    // in repair mode no other socket is in the way (its port is shared with the listening one); only root may
    let repair =
        |on: i32| fds::set_socket_option(made, libc::IPPROTO_TCP, libc::TCP_REPAIR, &on.to_ne_bytes());
    let repaired = repair(1).is_ok();
    let bound = fds::bind(made, local);
    if repaired {
        repair(TCP_REPAIR_OFF_NO_WP)?;
    }
    fds::set_socket_option(made, level, freebind, &free)?;
    fds::set_socket_option(made, libc::SOL_SOCKET, libc::SO_REUSEADDR, &reuse)?;
    bound
}

/// The process runs elsewhere, and its stopped copy stays for a while: peers of its connections are told that they are closed, and
/// nobody is let in any more.
pub fn hang_up(pid: i32) {
    let pid = voice::of(pid);
    let Ok(pidfd) = pidfd_of_thread(pid) else { return };
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
