//! Sockets: asks a duplicate what it is (`SO_DOMAIN`, `SO_TYPE`, `SO_PROTOCOL`) and hands over to the kind.
//! That works in every network namespace.

use crate::image::files::FileKind;
use crate::sys::fds;

use super::socket::Socket;
use super::source::{Descriptor, Source};
use super::{FilesError, refuse, tcp_listen, udp, unix_socket};

/// Reads any socket.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
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
