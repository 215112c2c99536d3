//! Unix sockets without a name: both ends of a socket pair, one end whose peer is gone, or fresh ones;
//! stream, datagram and seqpacket, with what waits to be read and the limits of its messages.
//!
//! Kernel interface: `sock_diag` for peer, name and shutdown; `MSG_PEEK` on a duplicate for the queue, walked
//! with `SO_PEEK_OFF` where messages count (put back afterwards); `scm_fds:` in fdinfo for descriptors in
//! flight; `SIOCOUTQ` of the other end for messages that the walk does not see.
//!
//! Refused: names, listening sockets, descriptors or credentials in flight (hidden ones are found in the freeze), peers outside the
//! process.
//! Pairs are made by the process that is built ([`UnixPair`]): `SO_PEERCRED` names who called `socketpair`.
//! Refused in the freeze: an *empty* message that somebody peeked at before (the kernel skips it). Where the other end is closed and it is
//! not the first one, nothing tells of it: a note says so.

use std::collections::HashMap;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, Shutdown, SockFlag, SockType, UnixCredentials, recvmsg,
    send, shutdown, socketpair,
};

use crate::image::files::{FileKind, FilesImage, OpenFile, PeerCredentials, UnixPeer, UnixSocket};
use crate::sys::fds;

use super::maker::{Maker, TargetCheck, UnixPair, failed, set_flags};
use super::socket::{Socket, options};
use super::socket_table::SO_BUF_LOCK;
use super::source::{Descriptor, Source};
use super::{FilesError, refuse, socket_options};

/// Larger than any message a unix socket can hold by default; grows when one is larger.
const PEEK: usize = 256 * 1024;

const UNSEEN: &str = "its other end is closed: an empty message behind another that was looked at before (MSG_PEEK) cannot be seen and is left out";

const LOOKED_AT: &str = "an empty message waits in it that was looked at before (MSG_PEEK)";

/// Reads one end; the ends find each other when all are read.
pub(super) fn read(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
) -> Result<Option<FileKind>, FilesError> {
    let info = source.diag()?.unix(file.ino)?;
    let gone = || io::Error::from_raw_os_error(libc::ENOENT);
    let info = info.ok_or_else(|| source.failed(file, "find the peer", gone()))?;
    let listens =
        fds::socket_number(&socket.fd, libc::SOL_SOCKET, libc::SO_ACCEPTCONN).is_ok_and(|yes| yes != 0);
    if info.named || listens {
        let (what, advice) = match listens {
            true => ("a unix socket that listens", "have the program listen on a TCP port instead"),
            false => ("a unix socket with a name", "have the program close it before the move"),
        };
        source.refuse(refuse::because(file, &format!("{what} connects to processes of this host"), advice));
        return Ok(None);
    }
    let options = options(source, file, socket)?;
    let mut image = UnixSocket {
        socket_type: socket.socket_type,
        peer: if info.peer.is_some() { UnixPeer::Closed } else { UnixPeer::None },
        shutdown: info.shutdown,
        error: has_error(&socket.fd),
        credentials: credentials(source, file, socket)?,
        queue: Vec::new(),
        options,
    };
    if info.peer == Some(0) {
        note_named_peer(source, file, socket);
    }
    if in_flight(source, file, &image, socket) {
        return Ok(None);
    }
    if source.stopped {
        let fail = |error| source.failed(file, "look into the queue", error);
        image.queue = queue(&socket.fd, socket.socket_type).map_err(fail)?;
        // nobody knows any more what a peer has sent that is closed
        let counts = socket.socket_type != libc::SOCK_STREAM;
        let sender = match info.peer.filter(|peer| counts && *peer != 0) {
            Some(peer) => source.diag()?.unix(peer)?,
            None => None,
        };
        // one that sends to others, too, tells nothing
        let sender = sender.filter(|sender| sender.peer == Some(file.ino));
        if sender.is_some_and(|sender| hides_empty(&image, sender.unread)) {
            return Err(source.failed(file, "look into the queue", io::Error::other(LOOKED_AT)));
        }
    }
    let waits = !image.queue.is_empty() || fds::readable_bytes(&socket.fd).unwrap_or(0) != 0;
    if info.peer == Some(0) && socket.socket_type != libc::SOCK_STREAM && waits {
        source.note(file.object(), UNSEEN);
    }
    if let Some(peer) = info.peer.filter(|peer| *peer != 0) {
        source.unix_peers.push((source.image.files.len(), peer));
    }
    Ok(Some(FileKind::Unix(image)))
}

/// Who connected it. A process that stays cannot be named at the target.
fn credentials(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
) -> Result<Option<PeerCredentials>, FilesError> {
    let fail = |error| source.failed(file, "read SO_PEERCRED", error);
    let Some(peer) = fds::peer_credentials(&socket.fd).map_err(fail)? else { return Ok(None) };
    if peer.pid != source.pid {
        let what =
            format!("SO_PEERCRED names process {}; at the target it names the process itself", peer.pid);
        source.note(file.object(), what);
    }
    Ok(Some(PeerCredentials { uid: peer.uid, gid: peer.gid, groups: peer.groups }))
}

/// A peer that is gone is still known by its name, and so are its messages.
fn note_named_peer(source: &mut Source<'_>, file: &Descriptor, socket: &Socket) {
    let peer = socket.fd.try_clone().and_then(|copy| UnixStream::from(copy).peer_addr());
    if peer.is_ok_and(|peer| !peer.is_unnamed()) {
        source.note(file.object(), "its other end, which is closed, had a name; at the target it has none");
    }
}

/// Refuses what rides along with messages.
fn in_flight(source: &mut Source<'_>, file: &Descriptor, image: &UnixSocket, socket: &Socket) -> bool {
    let read_it = "try again when the program has read its messages";
    if file.number("scm_fds", 10).unwrap_or(0) != 0 {
        source.refuse(refuse::because(file, "descriptors are in flight in its queue (SCM_RIGHTS)", read_it));
        return true;
    }
    let urgent =
        fds::poll_events(&socket.fd, libc::POLLPRI, 0).is_ok_and(|events| events & libc::POLLPRI != 0);
    if urgent && image.socket_type == libc::SOCK_STREAM {
        source.refuse(refuse::because(file, "an urgent byte waits in its queue (MSG_OOB)", read_it));
        return true;
    }
    let stamps = |name: &i32| socket_options::number(&image.options, libc::SOL_SOCKET, *name) != 0;
    let waits = fds::readable_bytes(&socket.fd).unwrap_or(0) != 0;
    if waits && [libc::SO_TIMESTAMP, libc::SO_TIMESTAMPNS, 63, 64].iter().any(stamps) {
        source.note(file.object(), "messages that wait in its queue get a new time stamp (SO_TIMESTAMP)");
    }
    let credentials = [libc::SO_PASSCRED, libc::SO_PASSSEC, 76]
        .into_iter()
        .any(|name| socket_options::number(&image.options, libc::SOL_SOCKET, name) != 0);
    if credentials && fds::readable_bytes(&socket.fd).unwrap_or(0) != 0 {
        source.refuse(refuse::because(
            file,
            "messages with credentials wait in its queue (SO_PASSCRED)",
            read_it,
        ));
        return true;
    }
    if image.error && image.socket_type != libc::SOCK_STREAM {
        // Looking into its queue would take the error away from the program.
        let why = "its peer went away and the program has not seen the error yet";
        source.refuse(refuse::because(file, why, read_it));
        return true;
    }
    false
}

fn has_error(socket: &OwnedFd) -> bool {
    fds::poll_events(socket, 0, 0).is_ok_and(|events| events & libc::POLLERR != 0)
}

/// What waits to be read, left in place.
fn queue(socket: &OwnedFd, socket_type: i32) -> io::Result<Vec<Vec<u8>>> {
    let offset = fds::socket_number(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF)?;
    let set = |value: i32| {
        fds::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &value.to_ne_bytes())
    };
    let asked = fds::socket_option(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, &[])?;
    let ask = |on: &[u8]| fds::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_PASSCRED, on);
    set(0)?;
    ask(&1_i32.to_ne_bytes())?;
    let walked =
        if socket_type == libc::SOCK_STREAM { stream(socket) } else { messages(socket, socket_type) };
    ask(&asked)?;
    set(offset)?;
    walked
}

/// One look at the next bytes or message, at most as long as `buffer`: the length of all of it, and whether it is one. An error if it
/// was sent with credentials though the socket has not asked for any: it may yet. The kernel shows them to one who has (`SO_PASSCRED`), with pid 0
/// where there are none, and parts a stream where they change. At the end of a socket that is shut it shows none: so an end is told
/// from an empty message (probed on Linux 6.18; `unix_dgram_recvmsg` leaves before `scm_recv`).
fn look(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, bool)> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_TRUNC;
    let mut space = cmsg_space!(UnixCredentials, [u8; 256]);
    let mut part = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut part, Some(&mut space), flags)?;
    let mut is_one = false;
    for part in message.cmsgs()? {
        let ControlMessageOwned::ScmCredentials(who) = part else { continue };
        if who.pid() != 0 {
            return Err(io::Error::other("a message with credentials waits in it (SCM_CREDENTIALS)"));
        }
        is_one = true;
    }
    Ok((message.bytes, is_one))
}

fn stream(socket: &OwnedFd) -> io::Result<Vec<Vec<u8>>> {
    // Never ask for more than there is: at the end of the queue the kernel would hand out (and forget) the
    // pending error of a peer that went away.
    let waiting = fds::readable_bytes(socket)?;
    let mut data = vec![0; waiting];
    let (mut filled, mut looks) = (0, 0);
    while filled < waiting {
        match look(socket, &mut data[filled..])? {
            (0, _) => return Err(io::ErrorKind::UnexpectedEof.into()),
            (count, _) => filled += count,
        }
        looks += 1;
    }
    // all of it comes at once, but where a mark lies in it
    if looks > 1 {
        return Err(io::Error::other("a mark lies in it (MSG_OOB)"));
    }
    Ok(if data.is_empty() { Vec::new() } else { vec![data] })
}

fn messages(socket: &OwnedFd, socket_type: i32) -> io::Result<Vec<Vec<u8>>> {
    let waiting = fds::readable_bytes(socket)?;
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut buffer = vec![0; PEEK.max(waiting)];
    while let Some(count) = next_message(socket, &mut buffer)? {
        if count > buffer.len() {
            return Err(io::Error::other(format!("a message of {count} bytes")));
        }
        found.push(buffer[..count].to_vec());
    }
    if socket_type == libc::SOCK_SEQPACKET && found.iter().map(Vec::len).sum::<usize>() != waiting {
        return Err(io::Error::other(format!("of {waiting} bytes others were found")));
    }
    // An empty one that somebody looked at before is passed over from then on; the first one is shown without an offset.
    fds::set_socket_option(socket, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &(-1_i32).to_ne_bytes())?;
    let first = next_message(socket, &mut buffer)?;
    if first == Some(0) && found.first().is_none_or(|found| !found.is_empty()) {
        return Err(io::Error::other(LOOKED_AT));
    }
    Ok(found)
}

/// The length of the next message, `None` where there is none: nothing waits, or the end of a socket that is shut.
fn next_message(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match look(socket, buffer) {
        Ok((count, is_one)) => Ok(is_one.then_some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        // a seqpacket that was never connected
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether more waits than the walk has found: an empty message that somebody looked at before, which it passes over. What its
/// sender has sent and nobody has read is `unread`.
fn hides_empty(image: &UnixSocket, unread: usize) -> bool {
    let mut known = HashMap::new();
    let mut weigh = |length: usize| -> io::Result<usize> {
        if let Some(weight) = known.get(&length) {
            return Ok(*weight);
        }
        let weight = weight(image.socket_type, length)?;
        known.insert(length, weight);
        Ok(weight)
    };
    let found: io::Result<usize> = image.queue.iter().map(|message| weigh(message.len())).sum();
    match (found, weigh(0)) {
        (Ok(found), Ok(empty)) => unread >= found + empty,
        // larger than we may send: it is not known
        _ => false,
    }
}

/// What a message takes of its sender's buffer while nobody has read it.
fn weight(socket_type: i32, length: usize) -> io::Result<usize> {
    let socket_type = SockType::try_from(socket_type)?;
    let (from, _to) = socketpair(AddressFamily::Unix, socket_type, None, SockFlag::SOCK_CLOEXEC)?;
    let room = i32::try_from(length).unwrap_or(i32::MAX / 4).saturating_mul(2).saturating_add(1 << 16);
    let widen = |name| fds::set_socket_option(&from, libc::SOL_SOCKET, name, &room.to_ne_bytes()).is_ok();
    let _ = widen(libc::SO_SNDBUFFORCE) || widen(libc::SO_SNDBUF);
    send(from.as_raw_fd(), &vec![0; length], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)?;
    fds::unread_by_others(&from)
}

/// The pairs that an image takes: types, and as whom they are to be made.
pub fn wanted_pairs(image: &FilesImage) -> impl Iterator<Item = (i32, &PeerCredentials)> {
    image.files.iter().enumerate().filter_map(|(index, file)| {
        let socket = file.kind.unix()?;
        let is_first = match socket.peer {
            UnixPeer::None => false,
            UnixPeer::Closed => true,
            UnixPeer::File(other) => index < other,
        };
        is_first.then_some(())?;
        Some((socket.socket_type, socket.credentials.as_ref()?))
    })
}

/// It can always be made; can its options be set?
pub(super) fn check(check: &mut TargetCheck, socket: &UnixSocket, file: &OpenFile) {
    let kind = (libc::AF_UNIX, socket.socket_type, 0);
    socket_options::check_fresh(check, file, kind, &socket.options);
}

/// Makes one end; the first end of a pair makes the other one, too.
pub(super) fn make(
    maker: &mut Maker<'_>,
    index: usize,
    file: &OpenFile,
    socket: &UnixSocket,
) -> Result<OwnedFd, FilesError> {
    if let Some(made) = maker.unix_ends.remove(&index) {
        return Ok(made);
    }
    let made = match socket.peer {
        UnixPeer::None => {
            fds::socket(libc::AF_UNIX, socket.socket_type, 0).map_err(failed(file, "make it"))?
        }
        UnixPeer::Closed => {
            let (made, peer) = pair(maker, file, socket)?;
            fill(file, &peer, socket)?;
            if socket.error {
                // A peer that closes with something unread leaves ECONNRESET behind.
                send(made.as_raw_fd(), b"!", MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
                    .map_err(failed(file, "prepare the reset"))?;
            }
            made
        }
        UnixPeer::File(other) => {
            let wrong =
                || FilesError::Inconsistent { object: file.object(), what: "its peer is no unix socket" };
            let partner = maker.image.files.get(other).filter(|_| other != index).ok_or_else(wrong)?;
            let peer = partner.kind.unix().ok_or_else(wrong)?;
            if peer.peer != UnixPeer::File(index) || peer.socket_type != socket.socket_type {
                return Err(wrong());
            }
            let (made, end) = pair(maker, file, socket)?;
            fill(file, &end, socket)?;
            fill(partner, &made, peer)?;
            finish(partner, &end, peer)?;
            maker.unix_ends.insert(other, end);
            made
        }
    };
    finish(file, &made, socket)?;
    Ok(made)
}

/// A pair that the process has made itself, else one of ours.
fn pair(
    maker: &mut Maker<'_>,
    file: &OpenFile,
    socket: &UnixSocket,
) -> Result<(OwnedFd, OwnedFd), FilesError> {
    let is_it = |pair: &UnixPair| {
        pair.socket_type == socket.socket_type && Some(&pair.credentials) == socket.credentials.as_ref()
    };
    if let Some(at) = maker.pairs.iter().position(is_it) {
        return Ok(maker.pairs.swap_remove(at).ends);
    }
    let socket_type = socket.socket_type;
    let socket_type = SockType::try_from(socket_type).map_err(failed(file, "know the socket type"))?;
    let flags = SockFlag::SOCK_CLOEXEC;
    socketpair(AddressFamily::Unix, socket_type, None, flags).map_err(failed(file, "make the pair"))
}

/// Sends what waits for `socket` from its other end.
fn fill(file: &OpenFile, from: &OwnedFd, socket: &UnixSocket) -> Result<(), FilesError> {
    if socket.queue.is_empty() {
        return Ok(());
    }
    let total: usize = socket.queue.iter().map(|message| message.len() + 2048).sum();
    let room = i32::try_from(total).unwrap_or(i32::MAX / 4).saturating_mul(2);
    let before = fds::socket_option(from, libc::SOL_SOCKET, libc::SO_SNDBUF, &[]).unwrap_or_default();
    // setting a size locks it
    let lock = fds::socket_option(from, libc::SOL_SOCKET, SO_BUF_LOCK, &[]);
    let force = |value: i32| {
        fds::set_socket_option(from, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &value.to_ne_bytes())
    };
    let widened = force(room).is_ok();
    if !widened {
        tracing::debug!(object = file.object(), "no right to widen the send buffer");
    }
    for message in &socket.queue {
        let mut rest = message.as_slice();
        loop {
            let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
            let sent = send(from.as_raw_fd(), rest, flags).map_err(failed(file, "fill the queue"))?;
            rest = &rest[sent..];
            if rest.is_empty() {
                break;
            }
        }
    }
    if !widened {
        return Ok(());
    }
    let before = before.first_chunk::<4>().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
    let lock = lock.unwrap_or_default();
    let unlock = |()| match lock.is_empty() {
        // a kernel before 5.16, on which nobody can see it
        true => Ok(()),
        false => fds::set_socket_option(from, libc::SOL_SOCKET, SO_BUF_LOCK, &lock),
    };
    force(before / 2).and_then(unlock).map_err(failed(file, "put the send buffer back"))
}

fn finish(file: &OpenFile, made: &OwnedFd, socket: &UnixSocket) -> Result<(), FilesError> {
    socket_options::apply(file, made, &socket.options)?;
    let how = match socket.shutdown & 3 {
        1 => Some(Shutdown::Read),
        2 => Some(Shutdown::Write),
        3 => Some(Shutdown::Both),
        _ => None,
    };
    if let (Some(how), true) = (how, socket.peer != UnixPeer::None) {
        match shutdown(made.as_raw_fd(), how) {
            // A peer that is gone has shut both directions already.
            Ok(()) | Err(Errno::ENOTCONN) => {}
            Err(error) => return Err(failed(file, "shut it down")(error)),
        }
    }
    set_flags(file, made)
}

#[cfg(test)]
#[path = "unix_socket_tests.rs"]
mod tests;
