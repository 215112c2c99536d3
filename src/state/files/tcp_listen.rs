//! TCP sockets without a connection: listening ones (IPv4, IPv6, MPTCP), bound and fresh ones. Connections
//! are refused by name, or handed to [`super::tcp_over`] when the user allows (`--tcp close`).
//!
//! What waits in the accept queue is closed with the source (the clients see a reset and come again).

use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use crate::image::files::{FileKind, InetAddress, OpenFile, SocketOption, TcpListen};
use crate::image::{Note, Obstacle};
use crate::sys::fds;

use super::maker::{TargetCheck, failed, set_flags};
use super::socket::{Socket, options};
use super::source::{Descriptor, Source};
use super::tcp_info::{CLOSED, Info, LISTENS, info, local_address, peer_address, was_connected};
use super::{FilesError, socket_options, tcp_over};

/// Reads a TCP socket of any state.
pub(super) fn read(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
) -> Result<Option<FileKind>, FilesError> {
    let v6 = socket.domain == libc::AF_INET6;
    let info = info(&socket.fd).map_err(|error| source.failed(file, "read TCP_INFO", error))?;
    if info.state == CLOSED && was_connected(&socket.fd) {
        return tcp_over::read(source, file, socket, &info, true);
    }
    if info.state != CLOSED && info.state != LISTENS {
        return read_connection(source, file, socket, &info);
    }
    if info.state == LISTENS && info.waiting != 0 {
        let count = info.waiting;
        source.note(file.object(), format!("{count} connection(s) not yet accepted will be closed"));
    }
    let local = local_address(&socket.fd).filter(|local| local.port() != 0).map(InetAddress::from);
    Ok(Some(FileKind::TcpListen(TcpListen {
        v6,
        mptcp: socket.protocol == libc::IPPROTO_MPTCP,
        local,
        backlog: (info.state == LISTENS).then_some(info.backlog),
        options: options(source, file, socket)?,
    })))
}

fn read_connection(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
    info: &Info,
) -> Result<Option<FileKind>, FilesError> {
    let text = |address: Option<SocketAddr>| address.map_or("?".into(), |address| address.to_string());
    let connection = format!("{} → {}", text(local_address(&socket.fd)), text(peer_address(&socket.fd)));
    if source.options.tcp_close {
        source.note(file.object(), format!("the TCP connection {connection} will be closed"));
        return tcp_over::read(source, file, socket, info, false);
    }
    source.refuse(Obstacle::new(
        file.object(),
        format!("the TCP connection {connection} is open"),
        "allow it to be closed with `--tcp close`, or close it before the move",
    ));
    Ok(None)
}

/// Binds it for a moment, without listening.
pub(super) fn check(check: &mut TargetCheck, tcp: &TcpListen, file: &OpenFile) {
    match open(file, tcp) {
        Ok((made, mptcp)) => {
            if mptcp != tcp.mptcp {
                let what = "the target has no Multipath TCP, plain TCP takes its place";
                check.notes.push(Note::new(file.object(), what));
            }
            socket_options::check(check, file, &made, &tcp.options);
        }
        Err(error) => check.obstacles.push(cannot_open(file, tcp.local, &error)),
    }
}

/// What stands in the way of a socket at the target.
pub(super) fn cannot_open(file: &OpenFile, local: Option<InetAddress>, error: &FilesError) -> Obstacle {
    let address = local.map_or("a socket".into(), |local| SocketAddr::from(local).to_string());
    let FilesError::Make { step, source, .. } = error else {
        return Obstacle::new(file.object(), error.to_string(), "report this as a bug of ulpm");
    };
    let advice = match source.raw_os_error() {
        Some(libc::EADDRINUSE) => "end the program that uses the port at the target",
        Some(libc::EADDRNOTAVAIL) => {
            "give the target this address, or have the program listen on 0.0.0.0 or [::]"
        }
        Some(libc::EPERM | libc::EACCES) => "run ulpm serve as root",
        Some(libc::ENODEV) => "make the network interface with this name at the target",
        _ => "make the target's network like the source's",
    };
    let why = format!("{address} cannot be used at the target ({step}): {source}");
    Obstacle::new(file.object(), why, advice)
}

/// Makes the socket and lets it listen.
pub(super) fn make(file: &OpenFile, tcp: &TcpListen) -> Result<OwnedFd, FilesError> {
    let (made, _) = open(file, tcp)?;
    if let Some(backlog) = tcp.backlog {
        fds::listen(&made, backlog).map_err(failed(file, "listen"))?;
        // which resets the state of acknowledgements
        let again =
            |option: &&SocketOption| (option.level, option.name) == (libc::IPPROTO_TCP, libc::TCP_QUICKACK);
        socket_options::apply(file, &made, tcp.options.iter().filter(again))?;
    }
    set_flags(file, &made)?;
    Ok(made)
}

/// A bound socket, and whether it is an MPTCP one.
fn open(file: &OpenFile, tcp: &TcpListen) -> Result<(OwnedFd, bool), FilesError> {
    let domain = if tcp.v6 { libc::AF_INET6 } else { libc::AF_INET };
    let socket = |protocol| fds::socket(domain, libc::SOCK_STREAM, protocol);
    let multipath = if tcp.mptcp { socket(libc::IPPROTO_MPTCP).ok() } else { None };
    let mptcp = multipath.is_some();
    let made = match multipath {
        Some(made) => made,
        None => socket(libc::IPPROTO_TCP).map_err(failed(file, "make the socket"))?,
    };
    socket_options::apply(file, &made, &tcp.options)?;
    if let Some(local) = tcp.local {
        fds::bind(&made, local.into()).map_err(failed(file, "bind"))?;
    }
    Ok((made, mptcp))
}

#[cfg(test)]
#[path = "tcp_tests.rs"]
mod tests;
