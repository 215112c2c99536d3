//! Two sockets behind one port: what a thread waits for does not queue behind bulk data in a buffer of the target's, nor behind
//! those who decrypt it.
//!
//! ```text
//!                       ┌ ordinary socket ── the runtime's workers
//! UDP port ── a filter ─┤
//!                       └ express socket ─── a thread of its own
//! ```
//! The highest bit of the first byte of a connection's ID says where it belongs (the idea of QUIC-LB). The connecting side
//! chooses the first ID of a connection, the listening side all others (RFC 9000, 5.1); a filter of the kernel's looks at that bit
//! (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)). So nothing depends on addresses, and a NAT changes nothing. Either socket serves any
//! connection: where the target has no second one, all of them go the ordinary way.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::ring;

use super::tuning::Tuning;

/// Whether packets of a connection go ahead of others at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They do not.
    Ordinary,
    /// They do: for little data that is waited for.
    Express,
}

/// Where the bit is.
const MARK: u8 = 0x80;

impl Way {
    /// A fresh ID of a connection: eight bytes, of which all but one bit are random, as RFC 9000 wants them at least (7.2).
    pub(super) fn connection_id(self) -> ConnectionId {
        let mut id = [0; 8];
        if ring::default_provider().secure_random.fill(&mut id).is_err() {
            // without randomness there would have been no key either
            tracing::error!("no random numbers: an ID of a connection can be guessed");
        }
        id[0] = match self {
            Way::Ordinary => id[0] & !MARK,
            Way::Express => id[0] | MARK,
        };
        ConnectionId::new(&id)
    }
}

impl ConnectionIdGenerator for Way {
    fn generate_cid(&mut self) -> ConnectionId {
        self.connection_id()
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The filter: whose packet has the mark goes to the second socket. Of a packet with a long header (its first bit is set) the ID
/// begins at byte 6, otherwise at byte 1 (RFC 8999). One that is too short goes to the first.
const FILTER: [libc::sock_filter; 8] = {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16;
    const HAS_BIT: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const JUMP: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    const fn step(code: u16, jt: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf: 0, k }
    }
    [
        step(LOAD, 0, 0),
        step(HAS_BIT, 2, 0x80),
        step(LOAD, 0, 1),
        step(JUMP, 0, 1),
        step(LOAD, 0, 6),
        step(HAS_BIT, 1, MARK as u32),
        step(RETURN, 0, 0),
        step(RETURN, 0, 1),
    ]
};

/// A second socket on the port of the first, for what is marked.
///
/// The first was bound alone, so nobody else has the port; and nobody else gets it now, but processes of the same user that ask for
/// sharing.
pub(super) fn beside(first: &UdpSocket, tuning: &Tuning) -> io::Result<UdpSocket> {
    setsockopt(first, sockopt::ReusePort, &true)?;
    let second = tuning.bind_shared(first.local_addr()?)?;
    let mut filter = FILTER;
    let program = libc::sock_fprog { len: FILTER.len() as u16, filter: filter.as_mut_ptr() };
    setsockopt(first, sockopt::AttachReusePortCbpf, &program)?;
    Ok(second)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::*;

    #[test]
    fn the_kernel_sorts_packets_by_the_mark() {
        let tuning = Tuning::default();
        let first = tuning.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port: SocketAddr = first.local_addr().unwrap();
        let second = beside(&first, &tuning).unwrap();
        for socket in [&first, &second] {
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        }
        for (way, socket) in [(Way::Ordinary, &first), (Way::Express, &second)] {
            let id = way.connection_id();
            let short = [&[0x40], &id[..], b"rest"].concat();
            let long = [&[0xc0, 0, 0, 0, 1, 8], &id[..], b"rest"].concat();
            for packet in [short, long] {
                for _ in 0..8 {
                    // from many addresses: without the filter the kernel would scatter them
                    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().send_to(&packet, port).unwrap();
                    let mut buffer = [0; 64];
                    let n = socket.recv(&mut buffer).unwrap();
                    assert_eq!(buffer[..n], packet, "{way:?}");
                }
            }
        }
        assert!(tuning.bind(port).is_err(), "the port is taken");
    }
}
