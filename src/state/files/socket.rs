//! Sockets: asks a duplicate what it is (`SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`) and hands over to the kind.
//! That works in every network namespace.

use std::os::fd::OwnedFd;

use crate::image::files::{FileKind, SocketOption};
use crate::sys::fds;

use super::source::{Descriptor, Source};
use super::{FilesError, refuse, socket_options, tcp_listen, udp, unix_socket};

/// A socket of the process, through our duplicate.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) domain: i32,
    pub(super) socket_type: i32,
    pub(super) protocol: i32,
}

/// Reads any socket.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    if let Some(FileKind::TcpReset { .. }) = source.known(file).map(|known| &known.kind)
        && source.stopped
    {
        // A connection does not become anything that had to be kept.
        return Ok(source.known(file).map(|known| known.kind.clone()));
    }
    let fd = source.duplicate(file)?;
    let ask = |name| {
        fds::socket_number(&fd, libc::SOL_SOCKET, name)
            .map_err(|error| source.failed(file, "ask the type", error))
    };
    let (domain, socket_type, protocol) =
        (ask(libc::SO_DOMAIN)?, ask(libc::SO_TYPE)?, ask(libc::SO_PROTOCOL)?);
    let socket = Socket { fd, domain, socket_type, protocol };
    let internet = domain == libc::AF_INET || domain == libc::AF_INET6;
    match (socket_type, protocol) {
        _ if domain == libc::AF_UNIX => unix_socket::read(source, file, &socket),
        (libc::SOCK_STREAM, libc::IPPROTO_TCP | libc::IPPROTO_MPTCP) if internet => {
            tcp_listen::read(source, file, &socket)
        }
        (libc::SOCK_DGRAM, libc::IPPROTO_UDP) if internet => udp::read(source, file, &socket),
        _ => {
            source.refuse(refuse::socket(file, domain, socket_type, protocol));
            Ok(None)
        }
    }
}

/// The options of a socket that differ from those of a fresh one; refuses packet filters.
pub(super) fn options(source: &mut Source<'_>, file: &Descriptor, socket: &Socket) -> Vec<SocketOption> {
    let kind = (socket.domain, socket.socket_type, socket.protocol);
    let fresh = source.fresh_options.entry(kind).or_insert_with(|| {
        fds::socket(kind.0, kind.1, kind.2)
            .map(|fresh| socket_options::all(&fresh, kind.0))
            .unwrap_or_default()
    });
    let mut options = socket_options::all(&socket.fd, kind.0);
    options.retain(|option| !fresh.contains(option));
    if fds::has_socket_filter(&socket.fd) {
        source.refuse(refuse::because(
            file,
            "a packet filter (SO_ATTACH_FILTER) is attached to the socket",
            "have the program detach it (SO_DETACH_FILTER) before the move",
        ));
    }
    options
}
