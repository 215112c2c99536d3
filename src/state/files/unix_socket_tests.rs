//! Tests of [`super`].

use super::super::testing::{captured, moved, quiet, refusals, restored};
use nix::sys::socket::recv;

use super::*;
use std::io::{IoSlice, Read, Write};
use std::os::fd::RawFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};

use nix::sys::socket::{ControlMessage, sendmsg};

fn receive(fd: &impl AsRawFd) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 300_000];
    let count = recv(fd.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT)?;
    buffer.truncate(count);
    Ok(buffer)
}

fn transmit(fd: &impl AsRawFd, data: &[u8]) -> Result<usize, Errno> {
    send(fd.as_raw_fd(), data, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL)
}

#[test]
fn streams_keep_their_bytes_both_ways() {
    let _quiet = quiet();
    let (mut here, mut there) = UnixStream::pair().unwrap();
    here.write_all(&[1; 100_000]).unwrap();
    here.write_all(b"end").unwrap();
    there.write_all(b"back").unwrap();
    here.set_nonblocking(true).unwrap();
    let (_, made) = moved(&[&here, &there]);
    let (mut new_here, mut new_there) =
        (UnixStream::from(made[0].try_clone().unwrap()), UnixStream::from(made[1].try_clone().unwrap()));
    for (here, there) in [(&mut here, &mut there), (&mut new_here, &mut new_there)] {
        let mut data = vec![0; 100_003];
        there.read_exact(&mut data).unwrap();
        assert!(data.ends_with(b"\x01end"));
        assert_eq!(receive(here).unwrap(), b"back");
        assert_eq!(receive(here), Err(Errno::EAGAIN));
    }
    new_there.write_all(b"alive").unwrap();
    assert_eq!(receive(&new_here).unwrap(), b"alive");
}

#[test]
fn messages_keep_their_limits() {
    let _quiet = quiet();
    for kind in [SockType::Datagram, SockType::SeqPacket] {
        let (here, there) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let messages: [&[u8]; 4] = [b"one", b"", b"three", &[4; 100_000]];
        for message in messages {
            assert_eq!(transmit(&here, message), Ok(message.len()));
        }
        let (image, made) = moved(&[&here, &there]);
        assert_eq!(image.files.len(), 2);
        for message in messages {
            assert_eq!(receive(&made[1]).unwrap(), message);
        }
        assert_eq!(receive(&made[1]), Err(Errno::EAGAIN));
        for message in messages {
            assert_eq!(receive(&there).unwrap(), message, "the source keeps its own");
        }
    }
}

#[test]
fn shutdown_and_options_travel() {
    let _quiet = quiet();
    let (here, there) = UnixStream::pair().unwrap();
    transmit(&here, b"last").unwrap();
    here.shutdown(std::net::Shutdown::Write).unwrap();
    fds::set_socket_option(&here, libc::SOL_SOCKET, libc::SO_SNDBUF, &20_000_i32.to_ne_bytes()).unwrap();
    fds::set_socket_option(&there, libc::SOL_SOCKET, libc::SO_PEEK_OFF, &2_i32.to_ne_bytes()).unwrap();
    let (_, made) = moved(&[&here, &there]);
    let option = |fd: &OwnedFd, name| fds::socket_number(fd, libc::SOL_SOCKET, name).unwrap();
    assert_eq!(option(&made[0], libc::SO_SNDBUF), 40_000);
    assert_eq!(option(&made[1], libc::SO_PEEK_OFF), 2);
    assert_eq!(fds::socket_number(&there, libc::SOL_SOCKET, libc::SO_PEEK_OFF).unwrap(), 2);
    assert_eq!(transmit(&made[0], b"x"), Err(Errno::EPIPE));
    assert_eq!(receive(&made[1]).unwrap(), b"last");
    assert_eq!(receive(&made[1]).unwrap(), b"");
    assert_eq!(transmit(&made[1], b"y"), Ok(1));
    assert_eq!(receive(&made[0]).unwrap(), b"y");
}

#[test]
fn a_closed_peer_leaves_its_words_and_its_error() {
    let _quiet = quiet();
    let (here, there) = UnixStream::pair().unwrap();
    transmit(&there, b"bye").unwrap();
    drop(there);
    let (_, made) = moved(&[&here]);
    assert_eq!((receive(&made[0]).unwrap(), receive(&made[0]).unwrap()), (b"bye".to_vec(), vec![]));
    assert_eq!(transmit(&made[0], b"x"), Err(Errno::EPIPE));

    let (here, there) = UnixStream::pair().unwrap();
    transmit(&there, b"bye").unwrap();
    transmit(&here, b"unread").unwrap();
    drop(there);
    let (_, made) = moved(&[&here]);
    for end in [made[0].as_raw_fd(), here.as_raw_fd()] {
        let end: RawFd = end;
        let mut data = [0; 8];
        let mut next = || recv(end, &mut data, MsgFlags::MSG_DONTWAIT);
        assert_eq!((next(), next(), next()), (Ok(3), Err(Errno::ECONNRESET), Ok(0)));
    }
}

#[test]
fn a_fresh_socket_travels() {
    let _quiet = quiet();
    let fresh = fds::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).unwrap();
    let (image, made) = moved(&[&fresh]);
    let FileKind::Unix(socket) = &image.files[0].kind else { panic!("{image:?}") };
    assert_eq!((socket.peer, socket.options.len()), (UnixPeer::None, 0));
    assert_eq!(transmit(&made[0], b"x"), Err(Errno::ENOTCONN));
}

#[test]
fn names_and_descriptors_in_flight_are_refused() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    let texts = refusals(&[&listener, &server, &client]);
    let its = format!("fd {}: ", listener.as_raw_fd());
    let text = texts.iter().find(|text| text.starts_with(&its));
    assert!(text.is_some_and(|text| text.contains("a unix socket that listens")), "{texts:?}");
    assert!(texts.iter().any(|text| text.contains("a unix socket with a name")), "{texts:?}");

    let (here, there) = UnixDatagram::pair().unwrap();
    let passed = [there.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&passed)];
    sendmsg::<()>(here.as_raw_fd(), &[IoSlice::new(b"x")], &control, MsgFlags::empty(), None).unwrap();
    let texts = refusals(&[&here, &there]);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(texts[0].contains("descriptors are in flight"), "{texts:?}");
}

#[test]
fn a_peer_outside_is_refused() {
    let _quiet = quiet();
    let (here, _there) = UnixStream::pair().unwrap();
    // The walk is told not to look at the other end, as if it were in a process it cannot see.
    let texts = refusals(&[&here]);
    assert_eq!(texts.len(), 1);
    assert!(texts[0].contains("its holder was not found"), "{texts:?}");
}

#[test]
fn an_image_that_does_not_fit_is_an_error_and_no_panic() {
    let _quiet = quiet();
    let (here, there) = UnixStream::pair().unwrap();
    let mut image = captured(&[&here, &there]);
    let _ = restored(&image);
    for wrong in [0, 7] {
        let FileKind::Unix(socket) = &mut image.files[0].kind else { panic!() };
        socket.peer = UnixPeer::File(wrong);
        let result = super::super::restore(&image, &mut super::super::RestoreContext::default());
        assert!(matches!(result, Err(FilesError::Inconsistent { .. })), "{result:?}");
    }
}

#[test]
fn an_urgent_byte_is_refused_and_a_mark_too() {
    let _quiet = quiet();
    let (here, there) = UnixStream::pair().unwrap();
    transmit(&here, b"before").unwrap();
    send(here.as_raw_fd(), b"!", MsgFlags::MSG_OOB).unwrap();
    let texts = refusals(&[&here, &there]);
    assert!(texts[0].contains("an urgent byte waits in its queue (MSG_OOB)"), "{texts:?}");
    transmit(&here, b"after").unwrap();
    recv(there.as_raw_fd(), &mut [0; 1], MsgFlags::MSG_OOB).unwrap();
    assert_eq!(refusals(&[&here, &there]), [""; 0]);
    assert!(queue(&OwnedFd::from(there), libc::SOCK_STREAM).unwrap_err().to_string().contains("a mark"));
}

#[test]
fn an_empty_message_that_was_looked_at_is_not_dropped_in_silence() {
    let (here, there) = UnixDatagram::pair().unwrap();
    transmit(&here, b"").unwrap();
    let there = OwnedFd::from(there);
    assert_eq!(queue(&there, libc::SOCK_DGRAM).unwrap(), [b""; 1]);
    // as after an aborted move
    let error = queue(&there, libc::SOCK_DGRAM).unwrap_err().to_string();
    assert!(error.contains("an empty message waits in it that was looked at before"), "{error}");
    assert_eq!(receive(&there).unwrap(), b"");
}

#[test]
fn an_empty_message_is_no_end() {
    let _quiet = quiet();
    for how in 0..4 {
        let kind = SockType::SeqPacket;
        let (here, there) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let messages: [&[u8]; 4] = [b"one", b"", b"", b"four"];
        for message in messages {
            assert_eq!(transmit(&here, message), Ok(message.len()));
        }
        match how {
            0 => shutdown(here.as_raw_fd(), Shutdown::Write).unwrap(),
            1 => shutdown(there.as_raw_fd(), Shutdown::Read).unwrap(),
            _ => {}
        }
        let (_, made) = match how {
            2 => {
                drop(here);
                moved(&[&there])
            }
            _ => moved(&[&there, &here]),
        };
        for message in messages {
            assert_eq!(receive(&made[0]).unwrap(), message, "{how}");
        }
        assert_eq!(receive(&made[0]), if how == 3 { Err(Errno::EAGAIN) } else { Ok(Vec::new()) });
    }
}

#[test]
fn an_empty_message_in_the_middle_is_not_dropped_in_silence() {
    let _quiet = quiet();
    for kind in [SockType::Datagram, SockType::SeqPacket] {
        let (here, there) = socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).unwrap();
        for message in [&b"one"[..], b"", &[3; 100_000]] {
            assert_eq!(transmit(&here, message), Ok(message.len()));
        }
        captured(&[&here, &there]);
        // as after an aborted move
        let error = super::super::testing::capture_error(&[&here, &there]);
        assert!(error.contains(LOOKED_AT), "{error}");
        assert_eq!((receive(&there).unwrap().len(), receive(&there).unwrap().len()), (3, 0));
        captured(&[&here, &there]);
    }
}

#[test]
fn the_name_of_a_peer_that_is_gone_is_noted() {
    let _quiet = quiet();
    let dir = tempfile::tempdir().unwrap();
    let server = UnixListener::bind(dir.path().join("s")).unwrap();
    let ours = UnixStream::connect(dir.path().join("s")).unwrap();
    drop(server.accept().unwrap());
    drop(server);
    let (image, obstacles) = super::super::testing::describe_only(&[&ours], false);
    assert_eq!(obstacles, []);
    assert!(image.notes.iter().any(|note| note.what.contains("had a name")), "{:?}", image.notes);
}
