//! What the kernel tells of a TCP socket: its state and counters, its addresses.
//!
//! Kernel interface: `getsockopt(TCP_INFO)`: byte 0 is the state; of a listening socket `tcpi_unacked` is the
//! length of the accept queue and `tcpi_sacked` the backlog. Addresses by `getsockname`.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use crate::sys::fds;

/// `TCP_CLOSE`
pub(super) const CLOSED: u8 = 7;
/// `TCP_LISTEN`
pub(super) const LISTENS: u8 = 10;

/// What matters of `struct tcp_info`.
pub(super) struct Info {
    pub(super) state: u8,
    /// Of a listening socket: connections that wait for `accept`.
    pub(super) waiting: u32,
    pub(super) backlog: u32,
    retransmits: u8,
    probes: u8,
    backoff: u8,
    /// µs; all ones where none was measured.
    min_rtt: Option<u32>,
    /// Bytes that came, a FIN among them; `None` before Linux 4.1.
    pub(super) received: Option<u64>,
    /// Packets that came; `None` before Linux 4.2.
    segments: Option<u32>,
}

impl Info {
    /// A round trip was measured.
    pub(super) fn was_established(&self) -> bool {
        self.min_rtt.is_none_or(|us| us != u32::MAX)
    }

    /// An attempt to connect was answered, which can only have been by a reset.
    pub(super) fn was_refused(&self) -> bool {
        !self.was_established() && !self.has_retransmitted() && self.segments.is_some_and(|count| count != 0)
    }

    /// Something was sent again without an answer.
    pub(super) fn has_retransmitted(&self) -> bool {
        (self.retransmits, self.probes, self.backoff) != (0, 0, 0)
    }
}

/// `getsockopt(TCP_INFO)`
pub(super) fn info(socket: &OwnedFd) -> std::io::Result<Info> {
    let raw = fds::socket_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &[])?;
    let word = |at: usize| {
        raw.get(at..).and_then(|rest| rest.first_chunk::<4>()).map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    };
    let state = raw.first().copied().unwrap_or(CLOSED);
    let byte = |at: usize| raw.get(at).copied().unwrap_or(0);
    let long = |at: usize| raw.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied();
    Ok(Info {
        state,
        waiting: word(24),
        backlog: word(28),
        retransmits: byte(2),
        probes: byte(3),
        backoff: byte(4),
        min_rtt: (raw.len() >= 152).then(|| word(148)),
        received: long(128).map(u64::from_ne_bytes),
        segments: (raw.len() >= 144).then(|| word(140)),
    })
}

/// A closed socket that was connected once is shut down in both directions; a fresh one is not.
pub(super) fn was_connected(socket: &OwnedFd) -> bool {
    fds::poll_events(socket, libc::POLLRDHUP, 0).is_ok_and(|events| events & libc::POLLRDHUP != 0)
}

/// `getsockname`
pub(super) fn local_address(socket: &OwnedFd) -> Option<SocketAddr> {
    TcpListener::from(socket.try_clone().ok()?).local_addr().ok()
}

/// `getpeername`
pub(super) fn peer_address(socket: &OwnedFd) -> Option<SocketAddr> {
    TcpStream::from(socket.try_clone().ok()?).peer_addr().ok()
}
