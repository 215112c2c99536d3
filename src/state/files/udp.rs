//! UDP sockets: bound, connected and fresh ones. What waits in the receive queue is dropped, as a network may
//! do; the user is told when there is something at the time of the preflight.
//!
//! Kernel interface: `getsockname`, `getpeername`; multicast memberships cannot be listed by socket, so every
//! group of `/proc/PID/net/igmp` and `igmp6` is asked for with `MCAST_MSFILTER`.
//!
//! Refused: memberships, corked datagrams, encapsulation (IPsec, L2TP). Shut down directions are asked of `sock_diag`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{Shutdown, shutdown};

use crate::image::files::{FileKind, InetAddress, OpenFile, Udp};
use crate::sys::fds;

use super::maker::{TargetCheck, failed, set_flags};
use super::socket::{Socket, options};
use super::source::{Descriptor, Source};
use super::tcp_listen::cannot_open;
use super::{FilesError, refuse, socket_options};

/// Bits of a shut down direction.
const READ: u8 = 1;
const WRITE: u8 = 2;
const MCAST_MSFILTER: i32 = 48;

/// Reads a UDP socket.
pub(super) fn read(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
) -> Result<Option<FileKind>, FilesError> {
    if let Some(group) = membership(source.pid, socket) {
        let why = format!("it is a member of the multicast group {group}");
        source.refuse(refuse::because(file, &why, "have the program leave the group before the move"));
        return Ok(None);
    }
    let asked = libc::POLLIN | libc::POLLRDHUP;
    let events = fds::poll_events(&socket.fd, asked, 0)
        .map_err(|error| source.failed(file, "ask what waits", error))?;
    let waiting = fds::readable_bytes(&socket.fd).unwrap_or(0);
    // an empty datagram counts as well; a socket that is shut down is always readable
    if waiting != 0 || events & asked == libc::POLLIN {
        source.note(file.object(), format!("unread datagrams (the next has {waiting} bytes) are dropped"));
    }
    if events & libc::POLLERR != 0 {
        source.note(file.object(), "an error that the program has not seen yet (ICMP) is dropped");
    }
    let probe = UdpSocket::from(
        socket.fd.try_clone().map_err(|error| source.failed(file, "read the addresses", error))?,
    );
    let v6 = socket.domain == libc::AF_INET6;
    let local = probe.local_addr().ok().filter(|local| local.port() != 0);
    let peer = probe.peer_addr().ok();
    let known = match local {
        Some(local) => source.diag()?.udp_shutdown(file.ino, v6, local, peer)?,
        None => None,
    };
    // one without a port is in no table: it says itself when reading is shut down
    let shutdown = known.unwrap_or(match events & (libc::POLLRDHUP | libc::POLLHUP) {
        0 => 0,
        libc::POLLRDHUP => READ,
        _ => READ | WRITE,
    });
    Ok(Some(FileKind::Udp(Udp {
        v6,
        local: local.map(InetAddress::from),
        peer: peer.map(InetAddress::from),
        shutdown,
        options: options(source, file, socket)?,
    })))
}

/// A multicast group that the socket is a member of.
fn membership(pid: i32, socket: &Socket) -> Option<IpAddr> {
    let (table, level) = match socket.domain {
        libc::AF_INET => ("igmp", libc::IPPROTO_IP),
        _ => ("igmp6", libc::IPPROTO_IPV6),
    };
    let text = fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok()?;
    let groups = if table == "igmp" { groups_v4(&text) } else { groups_v6(&text) };
    let is_member = |(interface, group): &(u32, IpAddr)| {
        let filter = group_filter(*interface, *group);
        fds::socket_option(&socket.fd, level, MCAST_MSFILTER, &filter).is_ok()
    };
    groups.into_iter().find(is_member).map(|(_, group)| group)
}

/// `struct group_filter` without sources: interface, padding, `sockaddr_storage`, mode, count.
fn group_filter(interface: u32, group: IpAddr) -> [u8; 144] {
    let mut filter = [0; 144];
    filter[..4].copy_from_slice(&interface.to_ne_bytes());
    let family = if group.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u16;
    filter[8..10].copy_from_slice(&family.to_ne_bytes());
    match group {
        IpAddr::V4(group) => filter[12..16].copy_from_slice(&group.octets()),
        IpAddr::V6(group) => filter[16..32].copy_from_slice(&group.octets()),
    }
    filter
}

/// A line `2 eth0 : 2 V3` and, indented under it, lines `FB0000E0 1 0:00000000 0`.
fn groups_v4(text: &str) -> Vec<(u32, IpAddr)> {
    let mut interface = 0;
    let mut groups = Vec::new();
    for line in text.lines().skip(1) {
        let Some(first) = line.split_whitespace().next() else { continue };
        if line.starts_with(['\t', ' ']) {
            let group = u32::from_str_radix(first, 16).map(|raw| Ipv4Addr::from(raw.to_ne_bytes()));
            groups.extend(group.ok().map(|group| (interface, IpAddr::V4(group))));
        } else {
            interface = first.parse().unwrap_or(0);
        }
    }
    groups
}

/// `2 eth0 ff0200000000000000000001ff000001     1 00000004 0`
fn groups_v6(text: &str) -> Vec<(u32, IpAddr)> {
    let parse = |line: &str| {
        let mut words = line.split_whitespace();
        let interface = words.next()?.parse().ok()?;
        let group = u128::from_str_radix(words.nth(1)?, 16).ok()?;
        Some((interface, IpAddr::V6(Ipv6Addr::from(group))))
    };
    text.lines().filter_map(parse).collect()
}

/// Binds it for a moment.
pub(super) fn check(check: &mut TargetCheck, udp: &Udp, file: &OpenFile) {
    match make(file, udp) {
        Ok(made) => socket_options::check(check, file, &made, &udp.options),
        Err(error) => check.obstacles.push(cannot_open(file, udp.local, &error)),
    }
}

/// Makes the socket. The address of a connected one may have been chosen by the kernel for the route: where
/// the target does not have it, the port alone is kept.
pub(super) fn make(file: &OpenFile, udp: &Udp) -> Result<OwnedFd, FilesError> {
    let domain = if udp.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let made = fds::socket(domain, libc::SOCK_DGRAM, 0).map_err(failed(file, "make the socket"))?;
    socket_options::apply(file, &made, &udp.options)?;
    if let Some(local) = udp.local {
        let bound = fds::bind(&made, local.into());
        match bound {
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) && udp.peer.is_some() => {
                let any: IpAddr =
                    if udp.v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                fds::bind(&made, SocketAddr::new(any, local.port)).map_err(failed(file, "bind"))?;
            }
            bound => bound.map_err(failed(file, "bind"))?,
        }
    }
    if let Some(peer) = udp.peer {
        fds::connect(&made, peer.into()).map_err(failed(file, "connect"))?;
    }
    shut_down(file, &made, udp.shutdown)?;
    set_flags(file, &made)?;
    Ok(made)
}

/// A socket without a peer says ENOTCONN, and is shut down all the same.
fn shut_down(file: &OpenFile, made: &OwnedFd, directions: u8) -> Result<(), FilesError> {
    let how = match directions & (READ | WRITE) {
        0 => return Ok(()),
        READ => Shutdown::Read,
        WRITE => Shutdown::Write,
        _ => Shutdown::Both,
    };
    match shutdown(made.as_raw_fd(), how) {
        Ok(()) | Err(Errno::ENOTCONN) => Ok(()),
        Err(error) => Err(failed(file, "shut it down")(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::target::check_target;
    use super::super::testing::{captured, describe_only, moved, only_kind, quiet, refusals};
    use super::*;

    fn restored_elsewhere(socket: UdpSocket) -> (Udp, UdpSocket) {
        let image = captured(&[&socket]);
        let FileKind::Udp(udp) = only_kind(&image).clone() else { panic!("{image:?}") };
        drop(socket);
        let made = super::super::testing::restored(&image).files.remove(0);
        (udp, made.into())
    }

    #[test]
    fn addresses_and_options_travel() {
        let _quiet = quiet();
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        ours.connect(peer.local_addr().unwrap()).unwrap();
        ours.set_broadcast(true).unwrap();
        ours.set_ttl(9).unwrap();
        ours.set_nonblocking(true).unwrap();
        let local = ours.local_addr().unwrap();
        let (image, made) = restored_elsewhere(ours);
        assert_eq!(image.options.len(), 2, "{image:?}");
        assert_eq!(made.local_addr().unwrap(), local);
        assert_eq!(made.peer_addr().unwrap(), peer.local_addr().unwrap());
        assert!(made.broadcast().unwrap());
        assert_eq!(made.ttl().unwrap(), 9);
        assert_eq!(made.recv(&mut [0; 1]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        made.send(b"hello").unwrap();
        assert_eq!(peer.recv_from(&mut [0; 8]).unwrap(), (5, local));
    }

    #[test]
    fn v6_and_fresh_sockets_travel() {
        let _quiet = quiet();
        let ours = UdpSocket::bind("[::1]:0").unwrap();
        let local = ours.local_addr().unwrap();
        let (_, made) = restored_elsewhere(ours);
        assert_eq!(made.local_addr().unwrap(), local);
        let fresh = fds::socket(libc::AF_INET, libc::SOCK_DGRAM, 0).unwrap();
        let (image, _) = moved(&[&fresh]);
        assert_eq!(
            *only_kind(&image),
            FileKind::Udp(Udp { v6: false, local: None, peer: None, shutdown: 0, options: vec![] })
        );
    }

    #[test]
    fn unread_datagrams_are_noted_and_a_port_in_use_is_refused() {
        let _quiet = quiet();
        let ours = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = ours.local_addr().unwrap();
        ours.send_to(b"to myself", local).unwrap();
        let (image, obstacles) = describe_only(&[&ours], false);
        assert_eq!(obstacles, []);
        assert!(image.notes[0].what.contains("the next has 9 bytes"), "{:?}", image.notes);
        let text = check_target(&image, &Default::default()).obstacles[0].to_string();
        assert!(
            text.contains(&format!("{local} cannot be used at the target (bind): Address already in use"))
        );
    }

    #[test]
    fn memberships_are_refused() {
        let _quiet = quiet();
        let ours = UdpSocket::bind("0.0.0.0:0").unwrap();
        let group = Ipv4Addr::new(239, 1, 2, 3);
        if ours.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).is_err() {
            eprintln!("skipped: no multicast on the loopback interface");
            return;
        }
        let texts = refusals(&[&ours]);
        assert!(texts[0].contains("a member of the multicast group 239.1.2.3"), "{texts:?}");
        ours.leave_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
        assert_eq!(refusals(&[&ours]), [""; 0]);
    }
}
