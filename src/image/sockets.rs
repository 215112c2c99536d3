//! Sockets of a process, as data. No I/O: `state::files` fills and applies it.

use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};

use serde::{Deserialize, Serialize};

/// A unix socket without a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnixSocket {
    /// `SOCK_STREAM`, `SOCK_DGRAM` or `SOCK_SEQPACKET`.
    pub socket_type: i32,
    /// The other end.
    pub peer: UnixPeer,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub shutdown: u8,
    /// An error waits to be reported (`ECONNRESET` of a peer that went away without reading all).
    pub error: bool,
    /// `SO_PEERCRED` and its like, of a socket that is or was connected.
    pub credentials: Option<PeerCredentials>,
    /// What waits to be read: one entry for streams, else one per message. Empty in a preflight description.
    pub queue: Vec<Vec<u8>>,
    /// Options that differ from those of a fresh socket.
    pub options: Vec<SocketOption>,
}

/// Who connected a unix socket, or made the pair: `SO_PEERCRED`, `SO_PEERGROUPS`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PeerCredentials {
    /// Effective uid at that time.
    pub uid: u32,
    /// Effective gid at that time.
    pub gid: u32,
    /// Supplementary groups at that time.
    pub groups: Vec<u32>,
}

/// Owner and mode of an inode without a name (`fstat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its owner.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
}

/// Who is at the other end of a unix socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnixPeer {
    /// Never connected.
    None,
    /// It was closed.
    Closed,
    /// Another open file of the tree: index into `FilesImage::files`.
    File(usize),
}

/// A socket option as the kernel gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketOption {
    /// `SOL_SOCKET`, `IPPROTO_TCP` …
    pub level: i32,
    /// `SO_KEEPALIVE` …
    pub name: i32,
    /// The value's bytes.
    pub value: Vec<u8>,
}

/// The options that a fresh socket of a kind has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FreshSocket {
    /// `AF_INET` …
    pub domain: i32,
    /// `SOCK_STREAM` …
    pub kind: i32,
    /// `IPPROTO_TCP` …
    pub protocol: i32,
    /// All of them.
    pub options: Vec<SocketOption>,
}

/// An internet address with its port; a scope is an interface index (link-local addresses).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct InetAddress {
    /// The address.
    pub ip: IpAddr,
    /// The port; 0 when none was chosen.
    pub port: u16,
    /// Interface index of a link-local IPv6 address.
    pub scope: u32,
}

impl From<SocketAddr> for InetAddress {
    fn from(address: SocketAddr) -> Self {
        let scope = if let SocketAddr::V6(v6) = address { v6.scope_id() } else { 0 };
        Self { ip: address.ip(), port: address.port(), scope }
    }
}

impl From<InetAddress> for SocketAddr {
    fn from(address: InetAddress) -> Self {
        match address.ip {
            IpAddr::V4(ip) => Self::V4(SocketAddrV4::new(ip, address.port)),
            IpAddr::V6(ip) => Self::V6(SocketAddrV6::new(ip, address.port, 0, address.scope)),
        }
    }
}

/// A TCP (or MPTCP) socket without a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpListen {
    /// IPv6.
    pub v6: bool,
    /// Multipath TCP (`IPPROTO_MPTCP`), as Go listens by default.
    pub mptcp: bool,
    /// The address it is bound to, if it is.
    pub local: Option<InetAddress>,
    /// The backlog, when it listens.
    pub backlog: Option<u32>,
    /// Options that differ from those of a fresh socket.
    pub options: Vec<SocketOption>,
}

/// How a TCP connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TcpEnd {
    /// The peer reset it, and the program has to be told (`ECONNRESET`).
    Reset,
    /// The peer closed, then reset it when more was sent (`EPIPE`).
    Broken,
    /// It is closed, and the program will see an end of file.
    Over,
    /// The peer has closed, the program has not yet.
    Ended,
    /// There never was a connection: the peer refused it, and the program has to be told (`ECONNREFUSED`).
    Refused,
    /// There never was a connection, and the program knows.
    Failed,
}

impl TcpEnd {
    /// There was a connection.
    pub fn was_connected(self) -> bool {
        !matches!(self, Self::Refused | Self::Failed)
    }
}

/// A TCP connection that is over, or is closed by the move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TcpOver {
    /// IPv6.
    pub v6: bool,
    /// Its own address.
    pub local: Option<InetAddress>,
    /// The peer's, while the kernel tells it (not in state CLOSE).
    pub peer: Option<InetAddress>,
    /// How it ended.
    pub end: TcpEnd,
    /// What waits to be read; empty in a preflight description.
    pub data: Vec<u8>,
    /// Options that differ from those of a fresh socket, and those that a connection changes by itself.
    pub options: Vec<SocketOption>,
}

/// A UDP socket; what waits in its queue is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    /// IPv6.
    pub v6: bool,
    /// The address it is bound to, if it is.
    pub local: Option<InetAddress>,
    /// Where it is connected to, if it is.
    pub peer: Option<InetAddress>,
    /// Bit 0: reading is shut down; bit 1: writing.
    pub shutdown: u8,
    /// Options that differ from those of a fresh socket.
    pub options: Vec<SocketOption>,
}
