//! How QUIC is set up for moving memory between two hosts: windows, timers, MTU, congestion control and
//! socket buffers, each number with its reason.
//!
//! Acknowledgements stay as frequent as they are: asking for one in ten packets (draft-ietf-quic-ack-frequency) gained 10 µs for a page
//! that a thread waits for, and a link that loses packets froze a process for seconds.
//!
//! GSO and GRO stay on, 0-RTT stays off (it could be replayed). The congestion controller is Cubic: on a
//! LAN its slow start reaches the full rate within a few milliseconds, it is fair to whatever else the
//! network carries, and on a long fat path it comes back faster than Reno. Quinn's BBR is marked
//! experimental, and a controller that ignores loss would harm the very services that are being moved.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, bind, getsockopt, setsockopt, socket, sockopt,
};
use quinn::congestion::CubicConfig;
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::way::Way;

/// The headers before a UDP packet's payload, without IP options.
const IPV4_AND_UDP: u32 = 20 + 8;

/// The parameters of one side. [`Default`] is what ulpm uses; tests and benches vary it.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// How much the other side may send on one stream, and on all, before it must wait for us. 32 MiB
    /// fills 10 Gbit/s over 25 ms; the restoring side may fall behind that much before it slows the sender.
    pub receive_window: u32,
    /// How much we keep for the other side that it has not acknowledged. As large as the receive window.
    pub send_window: u64,
    /// A sign of life when nothing else is sent: a frozen or idle phase must not look like a dead peer.
    pub keep_alive: Duration,
    /// Nothing heard for so long, and the peer counts as gone: five signs of life were lost.
    pub idle_timeout: Duration,
    /// What every path carries (RFC 9000); larger packets are found by probing.
    pub initial_mtu: u16,
    /// The largest packet that is probed for, where the network carries jumbo frames. Not 9000: quinn
    /// hands the kernel up to ten packets at once, and if those are more than the 65507 bytes of one UDP
    /// send, all ten are lost, which looks like a path that swallows large packets (measured on loopback:
    /// the MTU fell back to 1200 for a minute).
    pub max_mtu: u16,
    /// How long a path that seems to swallow large packets is spared them. Loss in a full buffer can look
    /// the same, so that quinn's 60 s would slow a whole migration for one hiccup.
    pub large_packets_again: Duration,
    /// What may be sent before the first acknowledgement, paced over one round trip. Ten times the
    /// internet's default, since migration hosts are neighbours.
    pub initial_window: u64,
    /// Streams that the other side may open both ways: the wire.
    pub bidi_streams: u32,
    /// Streams that the other side may open one way: its hello, and a few more.
    pub uni_streams: u32,
    /// Kernel buffers of the UDP socket. The default of 208 KiB loses packets whenever the receiver is not
    /// scheduled for a millisecond at 2 Gbit/s. Without CAP_NET_ADMIN the kernel grants what it likes.
    pub socket_buffer: usize,
    /// Which socket of the target's takes what a connecting side sends.
    pub way: Way,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            receive_window: 32 << 20,
            send_window: 32 << 20,
            keep_alive: Duration::from_millis(250),
            idle_timeout: Duration::from_secs(10),
            initial_mtu: 1200,
            max_mtu: 6500,
            large_packets_again: Duration::from_secs(2),
            initial_window: 10 * 14_720,
            bidi_streams: 1,
            uni_streams: 4,
            socket_buffer: 8 << 20,
            way: Way::Ordinary,
        }
    }
}

impl Tuning {
    /// The parameters in quinn's terms, for connections.
    pub fn transport(&self) -> Arc<TransportConfig> {
        let mut cubic = CubicConfig::default();
        cubic.initial_window(self.initial_window);
        let mut mtu = MtuDiscoveryConfig::default();
        mtu.upper_bound(self.max_mtu).black_hole_cooldown(self.large_packets_again);
        // A duration that does not fit in QUIC's 62 bits of milliseconds is the same as none.
        let idle = IdleTimeout::try_from(self.idle_timeout).ok();

        let mut config = TransportConfig::default();
        config
            .stream_receive_window(VarInt::from_u32(self.receive_window))
            .receive_window(VarInt::from_u32(self.receive_window))
            .send_window(self.send_window)
            .keep_alive_interval(Some(self.keep_alive))
            .max_idle_timeout(idle)
            .initial_mtu(self.initial_mtu)
            .mtu_discovery_config(Some(mtu))
            .max_concurrent_bidi_streams(VarInt::from_u32(self.bidi_streams))
            .max_concurrent_uni_streams(VarInt::from_u32(self.uni_streams))
            .datagram_receive_buffer_size(None)
            .congestion_controller_factory(Arc::new(cubic));
        Arc::new(config)
    }

    /// The parameters in quinn's terms, for a socket.
    pub fn endpoint(&self) -> EndpointConfig {
        let mut config = EndpointConfig::default();
        if let Err(error) = config.max_udp_payload_size(self.max_mtu.max(1200)) {
            tracing::warn!(%error, "packets stay at quinn's default size");
        }
        config
    }

    /// The same, with no larger packets than the route to `remote` lets out of this host. Probing beyond
    /// would only lose time: each size that does not fit takes three lost packets to find out.
    pub fn towards(&self, remote: SocketAddr) -> Self {
        let mut tuning = self.clone();
        if let Some(payload) = route_payload(remote) {
            tuning.max_mtu = self.max_mtu.min(payload).max(self.initial_mtu);
        }
        tuning
    }

    /// A UDP socket at `address` with large buffers.
    pub fn bind(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        self.enlarged(UdpSocket::bind(address)?)
    }

    /// The same at an address that has one already, which allows it (`SO_REUSEPORT`).
    pub(super) fn bind_shared(&self, address: SocketAddr) -> io::Result<UdpSocket> {
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let socket = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&socket, sockopt::ReusePort, &true)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(address))?;
        self.enlarged(socket.into())
    }

    fn enlarged(&self, socket: UdpSocket) -> io::Result<UdpSocket> {
        let size = &self.socket_buffer;
        // The forced form goes beyond net.core.[rw]mem_max and needs CAP_NET_ADMIN. Smaller buffers cost
        // speed, nothing else, so a refusal is no error.
        let received = setsockopt(&socket, sockopt::RcvBufForce, size)
            .or_else(|_| setsockopt(&socket, sockopt::RcvBuf, size));
        let sent = setsockopt(&socket, sockopt::SndBufForce, size)
            .or_else(|_| setsockopt(&socket, sockopt::SndBuf, size));
        if let Err(error) = received.and(sent) {
            tracing::debug!(%error, "the socket keeps its small buffers");
        }
        Ok(socket)
    }
}

/// What a UDP packet may carry on the first link towards `remote`. `None` where the kernel does not say,
/// and for IPv6, whose `IPV6_MTU` nix lacks.
fn route_payload(remote: SocketAddr) -> Option<u16> {
    if remote.is_ipv6() {
        return None;
    }
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Only looks up the route; UDP's connect sends nothing.
    socket.connect(remote).ok()?;
    let mtu = getsockopt(&socket, sockopt::IpMtu).ok()?;
    let payload = u32::try_from(mtu).ok()?.checked_sub(IPV4_AND_UDP)?;
    Some(u16::try_from(payload).unwrap_or(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_grow() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let plain = UdpSocket::bind(address).unwrap();
        let tuned = Tuning::default().bind(address).unwrap();
        let size = |socket: &UdpSocket| getsockopt(socket, sockopt::RcvBuf).unwrap();
        assert!(size(&tuned) >= size(&plain));
    }
}
