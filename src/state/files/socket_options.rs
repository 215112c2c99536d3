//! Socket options, as one table: read all of them, keep those that differ from a fresh socket of the same
//! kind, set those again in the order of the table (some change others: `IP_TOS` sets the priority).
//!
//! Kernel interface: `getsockopt`/`setsockopt`; values are the kernel's own bytes. Buffer sizes are reported
//! doubled and set with `SO_*BUFFORCE` so that they may pass `net.core.*mem_max`.

use std::io;
use std::os::fd::AsFd;

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, SOL_SOCKET};

use crate::image::files::{OpenFile, SocketOption};
use crate::sys::fds;

use super::FilesError;
use super::target::failed;

const SO_BUF_LOCK: i32 = 72;

/// `(level, name, text)`; where libc has no name for it the number is the kernel's.
const TABLE: &[(i32, i32, &str)] = &[
    (SOL_SOCKET, libc::SO_REUSEADDR, "SO_REUSEADDR"),
    (SOL_SOCKET, libc::SO_REUSEPORT, "SO_REUSEPORT"),
    (SOL_SOCKET, libc::SO_KEEPALIVE, "SO_KEEPALIVE"),
    (SOL_SOCKET, libc::SO_OOBINLINE, "SO_OOBINLINE"),
    (SOL_SOCKET, libc::SO_BROADCAST, "SO_BROADCAST"),
    (SOL_SOCKET, libc::SO_DONTROUTE, "SO_DONTROUTE"),
    (SOL_SOCKET, libc::SO_LINGER, "SO_LINGER"),
    (SOL_SOCKET, libc::SO_BINDTODEVICE, "SO_BINDTODEVICE"),
    (SOL_SOCKET, libc::SO_SNDBUF, "SO_SNDBUF"),
    (SOL_SOCKET, libc::SO_RCVBUF, "SO_RCVBUF"),
    (SOL_SOCKET, SO_BUF_LOCK, "SO_BUF_LOCK"),
    (SOL_SOCKET, libc::SO_RCVLOWAT, "SO_RCVLOWAT"),
    (SOL_SOCKET, libc::SO_RCVTIMEO, "SO_RCVTIMEO"),
    (SOL_SOCKET, libc::SO_SNDTIMEO, "SO_SNDTIMEO"),
    (SOL_SOCKET, libc::SO_PASSCRED, "SO_PASSCRED"),
    (SOL_SOCKET, libc::SO_PASSSEC, "SO_PASSSEC"),
    (SOL_SOCKET, 76, "SO_PASSPIDFD"),
    (SOL_SOCKET, libc::SO_TIMESTAMP, "SO_TIMESTAMP"),
    (SOL_SOCKET, libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS"),
    (SOL_SOCKET, libc::SO_TIMESTAMPING, "SO_TIMESTAMPING"),
    (SOL_SOCKET, libc::SO_PEEK_OFF, "SO_PEEK_OFF"),
    (SOL_SOCKET, libc::SO_RXQ_OVFL, "SO_RXQ_OVFL"),
    (SOL_SOCKET, libc::SO_NO_CHECK, "SO_NO_CHECK"),
    (SOL_SOCKET, libc::SO_BUSY_POLL, "SO_BUSY_POLL"),
    (SOL_SOCKET, 47, "SO_MAX_PACING_RATE"),
    (SOL_SOCKET, 60, "SO_ZEROCOPY"),
    (IPPROTO_IP, libc::IP_TOS, "IP_TOS"),
    (IPPROTO_IP, libc::IP_TTL, "IP_TTL"),
    (IPPROTO_IP, libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER"),
    (IPPROTO_IP, libc::IP_RECVERR, "IP_RECVERR"),
    (IPPROTO_IP, libc::IP_RECVTTL, "IP_RECVTTL"),
    (IPPROTO_IP, libc::IP_RECVTOS, "IP_RECVTOS"),
    (IPPROTO_IP, libc::IP_PKTINFO, "IP_PKTINFO"),
    (IPPROTO_IP, libc::IP_FREEBIND, "IP_FREEBIND"),
    (IPPROTO_IP, libc::IP_TRANSPARENT, "IP_TRANSPARENT"),
    (IPPROTO_IP, libc::IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR"),
    (IPPROTO_IP, libc::IP_MINTTL, "IP_MINTTL"),
    (IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT"),
    (IPPROTO_IP, 51, "IP_LOCAL_PORT_RANGE"),
    (IPPROTO_IP, libc::IP_MULTICAST_IF, "IP_MULTICAST_IF"),
    (IPPROTO_IP, libc::IP_MULTICAST_TTL, "IP_MULTICAST_TTL"),
    (IPPROTO_IP, libc::IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP"),
    (IPPROTO_IP, libc::IP_MULTICAST_ALL, "IP_MULTICAST_ALL"),
    (IPPROTO_IPV6, libc::IPV6_V6ONLY, "IPV6_V6ONLY"),
    (IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS"),
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF"),
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS"),
    (IPPROTO_IPV6, libc::IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP"),
    (IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER"),
    (IPPROTO_IPV6, libc::IPV6_RECVERR, "IPV6_RECVERR"),
    (IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO"),
    (IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT"),
    (IPPROTO_IPV6, libc::IPV6_TCLASS, "IPV6_TCLASS"),
    (IPPROTO_IPV6, libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS"),
    (IPPROTO_IPV6, libc::IPV6_FREEBIND, "IPV6_FREEBIND"),
    (IPPROTO_IPV6, libc::IPV6_TRANSPARENT, "IPV6_TRANSPARENT"),
    (IPPROTO_IPV6, libc::IPV6_DONTFRAG, "IPV6_DONTFRAG"),
    (IPPROTO_IPV6, libc::IPV6_AUTOFLOWLABEL, "IPV6_AUTOFLOWLABEL"),
    (IPPROTO_TCP, libc::TCP_NODELAY, "TCP_NODELAY"),
    (IPPROTO_TCP, libc::TCP_MAXSEG, "TCP_MAXSEG"),
    (IPPROTO_TCP, libc::TCP_CORK, "TCP_CORK"),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE, "TCP_KEEPIDLE"),
    (IPPROTO_TCP, libc::TCP_KEEPINTVL, "TCP_KEEPINTVL"),
    (IPPROTO_TCP, libc::TCP_KEEPCNT, "TCP_KEEPCNT"),
    (IPPROTO_TCP, libc::TCP_SYNCNT, "TCP_SYNCNT"),
    (IPPROTO_TCP, libc::TCP_LINGER2, "TCP_LINGER2"),
    (IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT"),
    (IPPROTO_TCP, libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP"),
    (IPPROTO_TCP, libc::TCP_CONGESTION, "TCP_CONGESTION"),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT"),
    (IPPROTO_TCP, libc::TCP_FASTOPEN, "TCP_FASTOPEN"),
    (IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT"),
    (IPPROTO_TCP, 34, "TCP_FASTOPEN_NO_COOKIE"),
    (IPPROTO_TCP, 25, "TCP_NOTSENT_LOWAT"),
    (IPPROTO_TCP, libc::TCP_SAVE_SYN, "TCP_SAVE_SYN"),
    (IPPROTO_UDP, 101, "UDP_NO_CHECK6_TX"),
    (IPPROTO_UDP, 102, "UDP_NO_CHECK6_RX"),
    (IPPROTO_UDP, libc::UDP_SEGMENT, "UDP_SEGMENT"),
    (IPPROTO_UDP, libc::UDP_GRO, "UDP_GRO"),
    (SOL_SOCKET, libc::SO_PRIORITY, "SO_PRIORITY"),
    (SOL_SOCKET, libc::SO_MARK, "SO_MARK"),
];

/// Every option of the table that this socket has. IPv6 sockets have the IPv4 ones, too.
pub(super) fn all(socket: impl AsFd, domain: i32) -> Vec<SocketOption> {
    let socket = socket.as_fd();
    let applies = |level: i32| match level {
        SOL_SOCKET => true,
        IPPROTO_IPV6 => domain == libc::AF_INET6,
        _ => domain != libc::AF_UNIX,
    };
    let known = TABLE.iter().filter(|(level, ..)| applies(*level));
    known
        .filter_map(|&(level, name, _)| {
            let value = fds::socket_option(socket, level, name, &[]).ok()?;
            Some(SocketOption { level, name, value })
        })
        .collect()
}

/// Sets the options, in the order in which they were read.
pub(super) fn apply(file: &OpenFile, socket: impl AsFd, options: &[SocketOption]) -> Result<(), FilesError> {
    let socket = socket.as_fd();
    for option in options {
        // the kernel has others (packet filters, multicast routes) that no process brings along
        if !TABLE.iter().any(|(level, name, _)| (*level, *name) == (option.level, option.name)) {
            let error = io::Error::from_raw_os_error(libc::ENOPROTOOPT);
            return Err(failed(file, "set an unknown socket option")(error));
        }
        match set(socket, option) {
            // MPTCP shows it and will not take it; setting the sizes has locked them already.
            Err(error) if option.name == SO_BUF_LOCK && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => result.map_err(failed(file, step(option)))?,
        }
    }
    Ok(())
}

/// The option's own name, as the step that fails.
fn step(option: &SocketOption) -> &'static str {
    let row = TABLE.iter().find(|(level, name, _)| (*level, *name) == (option.level, option.name));
    row.map_or("set a socket option", |(.., text)| text)
}

fn set(socket: impl AsFd, option: &SocketOption) -> io::Result<()> {
    let socket = socket.as_fd();
    let force = match (option.level, option.name) {
        (SOL_SOCKET, libc::SO_SNDBUF) => libc::SO_SNDBUFFORCE,
        (SOL_SOCKET, libc::SO_RCVBUF) => libc::SO_RCVBUFFORCE,
        _ => return fds::set_socket_option(socket, option.level, option.name, &option.value),
    };
    let doubled = option.value.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).unwrap_or_default();
    let value = (doubled / 2).to_ne_bytes();
    fds::set_socket_option(socket, SOL_SOCKET, force, &value)
        .or_else(|_| fds::set_socket_option(socket, SOL_SOCKET, option.name, &value))
}

/// The value of one option among `options`, as a number; 0 when it is not there.
pub(super) fn number(options: &[SocketOption], level: i32, name: i32) -> i32 {
    let option = options.iter().find(|option| (option.level, option.name) == (level, name));
    option.and_then(|option| option.value.first_chunk::<4>()).map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}
