//! Every socket option that this kernel family can be asked for, as one table: from it options are read and set
//! (`socket_options`), and from it come the rows of the table of verdicts (`state::verdicts`).
//!
//! The order is that in which they are set: `IP_TOS` changes the priority, a low-water mark the receive buffer, a size its
//! lock. An option that a kernel answers and that is not here is an obstacle where it differs from that of a fresh socket.

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, SOL_SOCKET};

/// `SOL_MPTCP`
const MPTCP: i32 = 284;

/// One option.
#[derive(Clone, Copy, Debug)]
pub(in crate::state) struct Known {
    pub(in crate::state) level: i32,
    /// The kernel's number within the level.
    pub(in crate::state) number: i32,
    pub(in crate::state) name: &'static str,
    pub(in crate::state) what: &'static str,
    pub(in crate::state) treatment: Treatment,
}

/// What is done with an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Treatment {
    /// Its bytes are set again.
    Bytes,
    /// A size that the kernel reports doubled; set without regard to `net.core.*mem_max` by the second number.
    Buffer(i32),
    /// An interface index, in the byte order of the network (`true`) or of the host; it travels as the name.
    Interface(bool),
    /// Where it differs from a fresh socket's the socket is refused, for this reason.
    Refused(&'static str),
    /// The same, and it is asked for in another way (what `getsockopt` counts in is not bytes).
    Probed(&'static str),
    /// It is never asked for, and why that is right.
    Left(&'static str),
}

use Treatment::{Buffer, Bytes, Interface, Left, Probed, Refused};

const fn known(
    level: i32,
    number: i32,
    name: &'static str,
    what: &'static str,
    treatment: Treatment,
) -> Known {
    Known { level, number, name, what, treatment }
}

const fn socket(number: i32, name: &'static str, what: &'static str, treatment: Treatment) -> Known {
    known(SOL_SOCKET, number, name, what, treatment)
}

const fn ip(number: i32, name: &'static str, what: &'static str, treatment: Treatment) -> Known {
    known(IPPROTO_IP, number, name, what, treatment)
}

const fn ipv6(number: i32, name: &'static str, what: &'static str, treatment: Treatment) -> Known {
    known(IPPROTO_IPV6, number, name, what, treatment)
}

const fn tcp(number: i32, name: &'static str, what: &'static str, treatment: Treatment) -> Known {
    known(IPPROTO_TCP, number, name, what, treatment)
}

const fn udp(number: i32, name: &'static str, what: &'static str, treatment: Treatment) -> Known {
    known(IPPROTO_UDP, number, name, what, treatment)
}

const ALIAS: Treatment = Left("another name of an option that is carried");
const FIXED: Treatment = Left("it belongs to the kind of socket and cannot be changed");
const DERIVED: Treatment = Left("the kernel's own measurement, which begins anew");
const RAW: Treatment = Left("raw sockets only, which are refused");
const REQUEST: Treatment = Left("a request, not a state");
const FIREWALL: Treatment = Left("it asks the host's firewall");
const IN_REPAIR: &str = "another program holds it in repair mode (TCP_REPAIR)";

/// Why a socket with a packet filter is refused.
pub(super) const FILTER: &str = "a packet filter (SO_ATTACH_FILTER) is attached to the socket";

/// `SO_BUF_LOCK`
pub(super) const SO_BUF_LOCK: i32 = 72;
/// `SO_PASSPIDFD`
pub(super) const SO_PASSPIDFD: i32 = 76;

pub(in crate::state) const TABLE: &[Known] = &[
    socket(libc::SO_DEBUG, "SO_DEBUG", "debugging by the kernel", Bytes),
    socket(libc::SO_REUSEADDR, "SO_REUSEADDR", "address shared while nobody listens", Bytes),
    socket(libc::SO_TYPE, "SO_TYPE", "stream, datagram …", FIXED),
    socket(
        libc::SO_ERROR,
        "SO_ERROR",
        "pending error",
        Left("asking takes it away; see the kinds of sockets"),
    ),
    socket(libc::SO_DONTROUTE, "SO_DONTROUTE", "no gateways", Bytes),
    socket(libc::SO_BROADCAST, "SO_BROADCAST", "broadcasts allowed", Bytes),
    socket(libc::SO_KEEPALIVE, "SO_KEEPALIVE", "keep-alive probes", Bytes),
    socket(libc::SO_OOBINLINE, "SO_OOBINLINE", "urgent data in line", Bytes),
    socket(libc::SO_NO_CHECK, "SO_NO_CHECK", "no UDP checksums", Bytes),
    socket(libc::SO_LINGER, "SO_LINGER", "what close waits for", Bytes),
    socket(14, "SO_BSDCOMPAT", "none", Left("no effect since Linux 2.2")),
    socket(libc::SO_REUSEPORT, "SO_REUSEPORT", "port shared by several sockets", Bytes),
    socket(libc::SO_PASSCRED, "SO_PASSCRED", "credentials with messages", Bytes),
    socket(libc::SO_PASSSEC, "SO_PASSSEC", "security labels with messages", Bytes),
    socket(SO_PASSPIDFD, "SO_PASSPIDFD", "pidfds with messages", Bytes),
    socket(83, "SO_PASSRIGHTS", "descriptors with messages", Bytes),
    socket(libc::SO_PEERCRED, "SO_PEERCRED", "who connected it", Left("see the kinds of sockets")),
    socket(77, "SO_PEERPIDFD", "pidfd of who connected it", Left("it goes with SO_PEERCRED")),
    socket(59, "SO_PEERGROUPS", "groups of who connected it", Left("it goes with SO_PEERCRED")),
    socket(31, "SO_PEERSEC", "security label of who connected it", Left("it goes with SO_PEERCRED")),
    socket(28, "SO_PEERNAME", "getpeername", ALIAS),
    socket(libc::SO_RCVLOWAT, "SO_RCVLOWAT", "fewest bytes to be told of", Bytes),
    socket(libc::SO_SNDLOWAT, "SO_SNDLOWAT", "always 1", FIXED),
    socket(libc::SO_SNDBUF, "SO_SNDBUF", "size of the send buffer", Buffer(libc::SO_SNDBUFFORCE)),
    socket(libc::SO_RCVBUF, "SO_RCVBUF", "size of the receive buffer", Buffer(libc::SO_RCVBUFFORCE)),
    socket(SO_BUF_LOCK, "SO_BUF_LOCK", "which sizes the kernel leaves alone", Bytes),
    socket(libc::SO_RCVTIMEO, "SO_RCVTIMEO_OLD", "time limit of receiving", Bytes),
    socket(libc::SO_SNDTIMEO, "SO_SNDTIMEO_OLD", "time limit of sending", Bytes),
    socket(66, "SO_RCVTIMEO_NEW", "time limit of receiving", ALIAS),
    socket(67, "SO_SNDTIMEO_NEW", "time limit of sending", ALIAS),
    socket(libc::SO_BINDTODEVICE, "SO_BINDTODEVICE", "interface, by name", Bytes),
    socket(62, "SO_BINDTOIFINDEX", "interface, by index", ALIAS),
    socket(libc::SO_ATTACH_FILTER, "SO_ATTACH_FILTER", "packet filter", Probed(FILTER)),
    socket(libc::SO_TIMESTAMP, "SO_TIMESTAMP_OLD", "time stamps in µs", Bytes),
    socket(libc::SO_TIMESTAMPNS, "SO_TIMESTAMPNS_OLD", "time stamps in ns", Bytes),
    socket(63, "SO_TIMESTAMP_NEW", "time stamps in µs, 64 bits", Bytes),
    socket(64, "SO_TIMESTAMPNS_NEW", "time stamps in ns, 64 bits", Bytes),
    socket(libc::SO_TIMESTAMPING, "SO_TIMESTAMPING_OLD", "time stamps of network cards", Bytes),
    socket(65, "SO_TIMESTAMPING_NEW", "time stamps of network cards, 64 bits", Bytes),
    socket(libc::SO_ACCEPTCONN, "SO_ACCEPTCONN", "it listens", Left("carried with the socket itself")),
    socket(libc::SO_PROTOCOL, "SO_PROTOCOL", "TCP, UDP …", FIXED),
    socket(libc::SO_DOMAIN, "SO_DOMAIN", "address family", FIXED),
    socket(libc::SO_RXQ_OVFL, "SO_RXQ_OVFL", "number of lost packets with each", Bytes),
    socket(libc::SO_WIFI_STATUS, "SO_WIFI_STATUS", "whether a frame was acknowledged", Bytes),
    socket(libc::SO_PEEK_OFF, "SO_PEEK_OFF", "where MSG_PEEK reads", Bytes),
    socket(libc::SO_NOFCS, "SO_NOFCS", "checksum of the frame is the program's", Bytes),
    socket(libc::SO_SELECT_ERR_QUEUE, "SO_SELECT_ERR_QUEUE", "POLLPRI for the error queue", Bytes),
    socket(libc::SO_BUSY_POLL, "SO_BUSY_POLL", "busy polling, µs", Bytes),
    socket(69, "SO_PREFER_BUSY_POLL", "busy polling instead of interrupts", Bytes),
    socket(47, "SO_MAX_PACING_RATE", "bytes a second", Bytes),
    socket(48, "SO_BPF_EXTENSIONS", "of the kernel", FIXED),
    socket(libc::SO_INCOMING_CPU, "SO_INCOMING_CPU", "CPU of its packets", Bytes),
    socket(55, "SO_MEMINFO", "use of memory", DERIVED),
    socket(56, "SO_INCOMING_NAPI_ID", "queue of its packets", DERIVED),
    socket(57, "SO_COOKIE", "number of the socket", Left("each socket of a host has its own")),
    socket(71, "SO_NETNS_COOKIE", "number of its network", Left("each network namespace has its own")),
    socket(60, "SO_ZEROCOPY", "MSG_ZEROCOPY allowed", Bytes),
    socket(61, "SO_TXTIME", "time of sending with each packet", Bytes),
    socket(73, "SO_RESERVE_MEM", "reserved memory", Bytes),
    socket(74, "SO_TXREHASH", "another path after a time-out", Bytes),
    socket(75, "SO_RCVMARK", "mark with each packet", Bytes),
    socket(82, "SO_RCVPRIORITY", "priority with each packet", Bytes),
    ip(libc::IP_TOS, "IP_TOS", "type of service", Bytes),
    ip(libc::IP_TTL, "IP_TTL", "time to live", Bytes),
    ip(libc::IP_HDRINCL, "IP_HDRINCL", "own headers", RAW),
    ip(libc::IP_OPTIONS, "IP_OPTIONS", "options of each packet", Bytes),
    ip(libc::IP_ROUTER_ALERT, "IP_ROUTER_ALERT", "router alert", RAW),
    ip(libc::IP_RECVOPTS, "IP_RECVOPTS", "options with each packet", Bytes),
    ip(libc::IP_RETOPTS, "IP_RETOPTS", "raw options with each packet", Bytes),
    ip(libc::IP_PKTINFO, "IP_PKTINFO", "address and interface with each packet", Bytes),
    ip(libc::IP_PKTOPTIONS, "IP_PKTOPTIONS", "what the last packet brought", REQUEST),
    ip(libc::IP_MTU_DISCOVER, "IP_MTU_DISCOVER", "path MTU discovery", Bytes),
    ip(libc::IP_RECVERR, "IP_RECVERR", "error queue", Bytes),
    ip(26, "IP_RECVERR_RFC4884", "extended errors", Bytes),
    ip(libc::IP_RECVTTL, "IP_RECVTTL", "time to live with each packet", Bytes),
    ip(libc::IP_RECVTOS, "IP_RECVTOS", "type of service with each packet", Bytes),
    ip(libc::IP_MTU, "IP_MTU", "MTU of the path", DERIVED),
    ip(libc::IP_FREEBIND, "IP_FREEBIND", "addresses that the host has not", Bytes),
    ip(18, "IP_PASSSEC", "security label with each packet", Bytes),
    ip(libc::IP_TRANSPARENT, "IP_TRANSPARENT", "transparent proxy", Bytes),
    ip(libc::IP_RECVORIGDSTADDR, "IP_RECVORIGDSTADDR", "first destination with each packet", Bytes),
    ip(libc::IP_MINTTL, "IP_MINTTL", "least time to live", Bytes),
    ip(libc::IP_NODEFRAG, "IP_NODEFRAG", "no reassembly", RAW),
    ip(23, "IP_CHECKSUM", "checksum with each packet", Bytes),
    ip(libc::IP_BIND_ADDRESS_NO_PORT, "IP_BIND_ADDRESS_NO_PORT", "port chosen at connect", Bytes),
    ip(25, "IP_RECVFRAGSIZE", "size of fragments", Bytes),
    ip(51, "IP_LOCAL_PORT_RANGE", "own range of ports", Bytes),
    ip(52, "IP_PROTOCOL", "protocol of a raw socket", FIXED),
    ip(libc::IP_UNICAST_IF, "IP_UNICAST_IF", "interface of what it sends", Interface(true)),
    ip(libc::IP_MULTICAST_IF, "IP_MULTICAST_IF", "address of the interface for multicast", Bytes),
    ip(libc::IP_MULTICAST_TTL, "IP_MULTICAST_TTL", "time to live of multicast", Bytes),
    ip(libc::IP_MULTICAST_LOOP, "IP_MULTICAST_LOOP", "own multicast comes back", Bytes),
    ip(libc::IP_MULTICAST_ALL, "IP_MULTICAST_ALL", "groups of other sockets", Bytes),
    ip(libc::IP_MSFILTER, "IP_MSFILTER", "sources of a multicast group", Left("memberships are refused")),
    ip(48, "IP MCAST_MSFILTER", "sources of a multicast group", Left("memberships are refused")),
    ip(80, "SO_ORIGINAL_DST", "destination before translation", FIREWALL),
    ipv6(libc::IPV6_V6ONLY, "IPV6_V6ONLY", "no IPv4", Bytes),
    ipv6(1, "IPV6_ADDRFORM", "becomes an IPv4 socket", REQUEST),
    ipv6(libc::IPV6_UNICAST_HOPS, "IPV6_UNICAST_HOPS", "hop limit", Bytes),
    ipv6(libc::IPV6_MULTICAST_IF, "IPV6_MULTICAST_IF", "interface for multicast", Interface(false)),
    ipv6(libc::IPV6_MULTICAST_HOPS, "IPV6_MULTICAST_HOPS", "hop limit of multicast", Bytes),
    ipv6(libc::IPV6_MULTICAST_LOOP, "IPV6_MULTICAST_LOOP", "own multicast comes back", Bytes),
    ipv6(29, "IPV6_MULTICAST_ALL", "groups of other sockets", Bytes),
    ipv6(48, "IPV6 MCAST_MSFILTER", "sources of a multicast group", Left("memberships are refused")),
    ipv6(22, "IPV6_ROUTER_ALERT", "router alert", RAW),
    ipv6(30, "IPV6_ROUTER_ALERT_ISOLATE", "router alert of its namespace only", Bytes),
    ipv6(libc::IPV6_MTU_DISCOVER, "IPV6_MTU_DISCOVER", "path MTU discovery", Bytes),
    ipv6(24, "IPV6_MTU", "MTU of the path", DERIVED),
    ipv6(61, "IPV6_PATHMTU", "MTU of the path", DERIVED),
    ipv6(libc::IPV6_RECVERR, "IPV6_RECVERR", "error queue", Bytes),
    ipv6(31, "IPV6_RECVERR_RFC4884", "extended errors", Bytes),
    ipv6(32, "IPV6_FLOWLABEL_MGR", "leased flow labels", REQUEST),
    ipv6(33, "IPV6_FLOWINFO_SEND", "flow label of the address", Bytes),
    ipv6(11, "IPV6_FLOWINFO", "flow label with each packet", Bytes),
    ipv6(2, "IPV6_2292PKTINFO", "address with each packet, old form", Bytes),
    ipv6(3, "IPV6_2292HOPOPTS", "hop options with each packet, old form", Bytes),
    ipv6(4, "IPV6_2292DSTOPTS", "destination options with each packet, old form", Bytes),
    ipv6(5, "IPV6_2292RTHDR", "routing header with each packet, old form", Bytes),
    ipv6(6, "IPV6_2292PKTOPTIONS", "what the last packet brought", REQUEST),
    ipv6(8, "IPV6_2292HOPLIMIT", "hop limit with each packet, old form", Bytes),
    ipv6(libc::IPV6_RECVPKTINFO, "IPV6_RECVPKTINFO", "address and interface with each packet", Bytes),
    ipv6(libc::IPV6_RECVHOPLIMIT, "IPV6_RECVHOPLIMIT", "hop limit with each packet", Bytes),
    ipv6(53, "IPV6_RECVHOPOPTS", "hop options with each packet", Bytes),
    ipv6(54, "IPV6_HOPOPTS", "hop options of each packet", Bytes),
    ipv6(55, "IPV6_RTHDRDSTOPTS", "destination options before the routing header", Bytes),
    ipv6(56, "IPV6_RECVRTHDR", "routing header with each packet", Bytes),
    ipv6(57, "IPV6_RTHDR", "routing header of each packet", Bytes),
    ipv6(58, "IPV6_RECVDSTOPTS", "destination options with each packet", Bytes),
    ipv6(59, "IPV6_DSTOPTS", "destination options of each packet", Bytes),
    ipv6(60, "IPV6_RECVPATHMTU", "MTU of the path with each packet", Bytes),
    ipv6(libc::IPV6_DONTFRAG, "IPV6_DONTFRAG", "no fragments", Bytes),
    ipv6(63, "IPV6_USE_MIN_MTU", "smallest MTU", FIXED),
    ipv6(64, "IP6T_SO_GET_INFO", "firewall", FIREWALL),
    ipv6(65, "IP6T_SO_GET_ENTRIES", "firewall", FIREWALL),
    ipv6(libc::IPV6_RECVTCLASS, "IPV6_RECVTCLASS", "traffic class with each packet", Bytes),
    ipv6(libc::IPV6_TCLASS, "IPV6_TCLASS", "traffic class", Bytes),
    ipv6(libc::IPV6_AUTOFLOWLABEL, "IPV6_AUTOFLOWLABEL", "flow labels by the kernel", Bytes),
    ipv6(72, "IPV6_ADDR_PREFERENCES", "which own address", Bytes),
    ipv6(73, "IPV6_MINHOPCOUNT", "least hop limit", Bytes),
    ipv6(74, "IPV6_RECVORIGDSTADDR", "first destination with each packet", Bytes),
    ipv6(libc::IPV6_TRANSPARENT, "IPV6_TRANSPARENT", "transparent proxy", Bytes),
    ipv6(76, "IPV6_UNICAST_IF", "interface of what it sends", Interface(true)),
    ipv6(77, "IPV6_RECVFRAGSIZE", "size of fragments", Bytes),
    ipv6(libc::IPV6_FREEBIND, "IPV6_FREEBIND", "addresses that the host has not", Bytes),
    tcp(libc::TCP_NODELAY, "TCP_NODELAY", "no waiting for more to send", Bytes),
    tcp(libc::TCP_MAXSEG, "TCP_MAXSEG", "largest segment", Bytes),
    tcp(libc::TCP_CORK, "TCP_CORK", "full segments only", Bytes),
    tcp(libc::TCP_KEEPIDLE, "TCP_KEEPIDLE", "keep-alive: first probe", Bytes),
    tcp(libc::TCP_KEEPINTVL, "TCP_KEEPINTVL", "keep-alive: interval", Bytes),
    tcp(libc::TCP_KEEPCNT, "TCP_KEEPCNT", "keep-alive: probes", Bytes),
    tcp(libc::TCP_SYNCNT, "TCP_SYNCNT", "tries to connect", Bytes),
    tcp(libc::TCP_LINGER2, "TCP_LINGER2", "time in FIN_WAIT2", Bytes),
    tcp(libc::TCP_DEFER_ACCEPT, "TCP_DEFER_ACCEPT", "accept when data has come", Bytes),
    tcp(libc::TCP_WINDOW_CLAMP, "TCP_WINDOW_CLAMP", "largest window", Bytes),
    tcp(libc::TCP_INFO, "TCP_INFO", "counters and measurements", DERIVED),
    tcp(libc::TCP_QUICKACK, "TCP_QUICKACK", "acknowledge at once", Bytes),
    tcp(libc::TCP_CONGESTION, "TCP_CONGESTION", "congestion control", Bytes),
    tcp(16, "TCP_THIN_LINEAR_TIMEOUTS", "time-outs of thin streams", Bytes),
    tcp(17, "TCP_THIN_DUPACK", "none", Left("no effect since Linux 4.11")),
    tcp(libc::TCP_USER_TIMEOUT, "TCP_USER_TIMEOUT", "time for unacknowledged data", Bytes),
    tcp(libc::TCP_REPAIR, "TCP_REPAIR", "repair mode", Refused(IN_REPAIR)),
    tcp(libc::TCP_REPAIR_QUEUE, "TCP_REPAIR_QUEUE", "repair mode", Left("it goes with TCP_REPAIR")),
    tcp(libc::TCP_QUEUE_SEQ, "TCP_QUEUE_SEQ", "repair mode", Left("it goes with TCP_REPAIR")),
    tcp(29, "TCP_REPAIR_WINDOW", "repair mode", Left("it goes with TCP_REPAIR")),
    tcp(libc::TCP_FASTOPEN, "TCP_FASTOPEN", "queue of fast open", Bytes),
    tcp(33, "TCP_FASTOPEN_KEY", "key of fast open", Bytes),
    tcp(libc::TCP_FASTOPEN_CONNECT, "TCP_FASTOPEN_CONNECT", "fast open at connect", Bytes),
    tcp(34, "TCP_FASTOPEN_NO_COOKIE", "fast open without a cookie", Bytes),
    tcp(libc::TCP_TIMESTAMP, "TCP_TIMESTAMP", "clock of a connection", DERIVED),
    tcp(25, "TCP_NOTSENT_LOWAT", "unsent bytes to be told of", Bytes),
    tcp(26, "TCP_CC_INFO", "measurements", DERIVED),
    tcp(libc::TCP_SAVE_SYN, "TCP_SAVE_SYN", "first packets are kept", Bytes),
    tcp(
        28,
        "TCP_SAVED_SYN",
        "first packet of a connection",
        Left("of open connections, which are not carried"),
    ),
    tcp(
        31,
        "TCP_ULP",
        "protocol above (TLS)",
        Refused("the kernel speaks another protocol above it (TCP_ULP)"),
    ),
    tcp(35, "TCP_ZEROCOPY_RECEIVE", "reading by mapping", REQUEST),
    tcp(36, "TCP_INQ", "what is left with each read", Bytes),
    tcp(37, "TCP_TX_DELAY", "delay of what is sent", Bytes),
    tcp(43, "TCP_IS_MPTCP", "Multipath TCP", FIXED),
    tcp(44, "TCP_RTO_MAX_MS", "longest time to retransmit", Bytes),
    tcp(45, "TCP_RTO_MIN_US", "shortest time to retransmit", Bytes),
    tcp(46, "TCP_DELACK_MAX_US", "longest delay of an acknowledgement", Bytes),
    known(MPTCP, 1, "MPTCP_INFO", "counters", DERIVED),
    known(MPTCP, 2, "MPTCP_TCPINFO", "subflows", Left("of open connections, which are not carried")),
    known(MPTCP, 3, "MPTCP_SUBFLOW_ADDRS", "subflows", Left("of open connections, which are not carried")),
    known(MPTCP, 4, "MPTCP_FULL_INFO", "counters", DERIVED),
    udp(
        1,
        "UDP_CORK",
        "a datagram being put together",
        Refused("a datagram is being put together (UDP_CORK)"),
    ),
    udp(10, "UDPLITE_SEND_CSCOV", "UDP-Lite", FIXED),
    udp(11, "UDPLITE_RECV_CSCOV", "UDP-Lite", FIXED),
    udp(
        100,
        "UDP_ENCAP",
        "encapsulation",
        Refused("the kernel unpacks another protocol from it (UDP_ENCAP)"),
    ),
    udp(101, "UDP_NO_CHECK6_TX", "no checksums sent", Bytes),
    udp(102, "UDP_NO_CHECK6_RX", "no checksums asked for", Bytes),
    udp(libc::UDP_SEGMENT, "UDP_SEGMENT", "segmentation by the kernel", Bytes),
    udp(libc::UDP_GRO, "UDP_GRO", "merging by the kernel", Bytes),
    socket(libc::SO_PRIORITY, "SO_PRIORITY", "priority of its packets", Bytes),
    socket(libc::SO_MARK, "SO_MARK", "mark of its packets", Bytes),
    socket(libc::SO_LOCK_FILTER, "SO_LOCK_FILTER", "the packet filter stays", Bytes),
];

/// The row of an option.
pub(super) fn of(level: i32, number: i32) -> Option<&'static Known> {
    TABLE.iter().find(|known| (known.level, known.number) == (level, number))
}

/// Levels at which a kind of socket can be asked.
pub(super) const LEVELS: &[i32] = &[SOL_SOCKET, IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, MPTCP];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::sys::fds;

    #[test]
    fn each_option_has_one_row() {
        let numbers: HashSet<_> = TABLE.iter().map(|known| (known.level, known.number)).collect();
        let names: HashSet<_> = TABLE.iter().map(|known| known.name).collect();
        assert_eq!((numbers.len(), names.len()), (TABLE.len(), TABLE.len()));
    }

    /// What this kernel answers, of every kind of socket that is carried.
    #[test]
    fn every_option_of_this_kernel_has_a_row() {
        let kinds = [
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::AF_INET6, libc::SOCK_STREAM, libc::IPPROTO_TCP),
            (libc::AF_INET, libc::SOCK_STREAM, libc::IPPROTO_MPTCP),
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDP),
            (libc::AF_UNIX, libc::SOCK_STREAM, 0),
            (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
            (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
        ];
        let mut missing = Vec::new();
        for (domain, kind, protocol) in kinds {
            let Ok(fresh) = fds::socket(domain, kind, protocol) else { continue };
            for level in LEVELS {
                for number in 0..1024 {
                    let answers = fds::socket_option(&fresh, *level, number, &[]).is_ok();
                    if answers && of(*level, number).is_none() {
                        missing.push((*level, number, domain, kind));
                    }
                }
            }
        }
        assert_eq!(missing, []);
    }
}
