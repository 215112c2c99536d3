//! What the kernel tells of a TCP socket: its state and counters, its addresses.
//!
//! Kernel interface: `getsockopt(TCP_INFO)`; of a listening socket `tcpi_unacked` is the
//! length of the accept queue and `tcpi_sacked` the backlog. Addresses by `getsockname`.

use std::mem::offset_of;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use libc::tcp_info;

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
    let (raw, length) = fds::tcp_info(socket)?;
    Ok(Info {
        state: raw.tcpi_state,
        waiting: raw.tcpi_unacked,
        backlog: raw.tcpi_sacked,
        retransmits: raw.tcpi_retransmits,
        probes: raw.tcpi_probes,
        backoff: raw.tcpi_backoff,
        min_rtt: told(length, offset_of!(tcp_info, tcpi_min_rtt), raw.tcpi_min_rtt),
        received: told(length, offset_of!(tcp_info, tcpi_bytes_received), raw.tcpi_bytes_received),
        segments: told(length, offset_of!(tcp_info, tcpi_segs_in), raw.tcpi_segs_in),
    })
}

/// A field at this offset, if the kernel has told so many bytes.
fn told<T>(length: usize, offset: usize, value: T) -> Option<T> {
    (length >= offset + size_of::<T>()).then_some(value)
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
