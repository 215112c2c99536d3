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

use nix::sys::socket::{setsockopt, sockopt};

use super::tuning::Tuning;
use super::way::MARK;

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
    use std::time::Duration;

    use super::super::way::Way;
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
