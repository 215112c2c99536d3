//! Tests of [`super`] and of `tcp_over`.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::super::target::check_target;
use super::super::testing::{
    captured, captured_with, describe_only, moved, only_kind, quiet, refusals, restored,
};
use super::*;
use crate::image::files::TcpEnd;

fn listener(domain: i32, protocol: i32, address: &str, backlog: u32) -> OwnedFd {
    let made = fds::socket(domain, libc::SOCK_STREAM, protocol).unwrap();
    let on = 1_i32.to_ne_bytes();
    fds::set_socket_option(&made, libc::SOL_SOCKET, libc::SO_REUSEADDR, &on).unwrap();
    fds::bind(&made, address.parse().unwrap()).unwrap();
    fds::listen(&made, backlog).unwrap();
    made
}

/// Captured, closed here, made again.
fn moved_away(ours: OwnedFd) -> (TcpListen, OwnedFd) {
    let image = captured(&[&ours]);
    let FileKind::TcpListen(tcp) = only_kind(&image).clone() else { panic!("{image:?}") };
    drop(ours);
    (tcp, restored(&image).files.remove(0))
}

#[test]
fn listeners_travel() {
    let _quiet = quiet();
    for (domain, address) in [(libc::AF_INET, "127.0.0.1:0"), (libc::AF_INET6, "[::1]:0")] {
        for protocol in [libc::IPPROTO_TCP, libc::IPPROTO_MPTCP] {
            let ours = listener(domain, protocol, address, 77);
            let set = |level, name, value: i32| {
                fds::set_socket_option(&ours, level, name, &value.to_ne_bytes()).unwrap();
            };
            set(libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
            set(libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
            set(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 33);
            set(libc::SOL_SOCKET, libc::SO_RCVBUF, 50_000);
            let local = local_address(&ours).unwrap();
            let (image, made) = moved_away(ours);
            assert_eq!((image.backlog, image.mptcp), (Some(77), protocol == libc::IPPROTO_MPTCP));
            let option = |level, name| fds::socket_number(&made, level, name).unwrap();
            assert_eq!(option(libc::SOL_SOCKET, libc::SO_PROTOCOL), protocol);
            assert_eq!(option(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
            assert_eq!(option(libc::SOL_SOCKET, libc::SO_RCVBUF), 100_000);
            assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
            assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 33);
            assert_eq!(info(&made).unwrap().backlog, 77);
            let made = TcpListener::from(made);
            assert_eq!(made.local_addr().unwrap(), local);
            let mut client = TcpStream::connect(local).unwrap();
            client.write_all(b"hello").unwrap();
            let mut data = [0; 5];
            made.accept().unwrap().0.read_exact(&mut data).unwrap();
            assert_eq!(&data, b"hello");
        }
    }
}

#[test]
fn fresh_and_bound_sockets_travel() {
    let _quiet = quiet();
    let fresh = fds::socket(libc::AF_INET6, libc::SOCK_STREAM, 0).unwrap();
    let (tcp, made) = moved_away(fresh);
    assert_eq!(tcp, TcpListen { v6: true, mptcp: false, local: None, backlog: None, options: vec![] });
    assert!(!was_connected(&made));
    let bound = fds::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
    fds::bind(&bound, "127.0.0.1:0".parse().unwrap()).unwrap();
    let local = local_address(&bound);
    let (tcp, made) = moved_away(bound);
    assert_eq!((tcp.backlog, local_address(&made)), (None, local));
}

#[test]
fn both_families_on_one_port_travel() {
    let _quiet = quiet();
    let v4 = listener(libc::AF_INET, 0, "0.0.0.0:0", 5);
    let port = local_address(&v4).unwrap().port();
    let v6 = fds::socket(libc::AF_INET6, libc::SOCK_STREAM, 0).unwrap();
    fds::set_socket_option(&v6, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, &1_i32.to_ne_bytes()).unwrap();
    fds::bind(&v6, format!("[::]:{port}").parse().unwrap()).unwrap();
    fds::listen(&v6, 5).unwrap();
    let image = captured(&[&v4, &v6]);
    drop((v4, v6));
    assert_eq!(restored(&image).files.len(), 2);
}

#[test]
fn a_port_in_use_and_waiting_clients_are_told() {
    let _quiet = quiet();
    let ours = listener(libc::AF_INET, 0, "127.0.0.1:0", 5);
    let local = local_address(&ours).unwrap();
    let _client = TcpStream::connect(local).unwrap();
    let (image, obstacles) = describe_only(&[&ours], false);
    assert_eq!(obstacles, []);
    assert!(image.notes[0].what.contains("1 connection(s) not yet accepted"), "{:?}", image.notes);
    let check = check_target(&image, &Default::default());
    assert_eq!(check.obstacles.len(), 1);
    assert!(check.obstacles[0].to_string().contains("Address already in use"), "{:?}", check.obstacles);
    drop(ours);
    assert_eq!(check_target(&image, &Default::default()).obstacles, []);
}

#[test]
fn connections_are_refused_or_reset() {
    let _quiet = quiet();
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    let name = format!("{} → {}", ours.local_addr().unwrap(), ours.peer_addr().unwrap());
    let texts = refusals(&[&ours]);
    assert_eq!(texts.len(), 1);
    assert!(texts[0].contains(&format!("the TCP connection {name} is open (allow it")), "{texts:?}");
    assert!(texts[0].contains("--tcp close"));

    let mut peer = server.accept().unwrap().0;
    peer.write_all(b"hello").unwrap();
    let local = ours.local_addr().unwrap();
    let image = captured_with(&[&ours], true);
    drop(ours);
    let made = restored(&image).files.remove(0);
    assert_eq!(local_address(&made), Some(local));
    check_end(made, b"hello", Some(ErrorKind::ConnectionReset));
}

/// `data`, then the error once, then the end.
fn check_end(made: OwnedFd, data: &[u8], error: Option<ErrorKind>) {
    let asked = libc::POLLIN | libc::POLLRDHUP;
    let expected = asked | libc::POLLHUP | if error.is_some() { libc::POLLERR } else { 0 };
    assert_eq!(fds::poll_events(&made, asked, 0).unwrap(), expected);
    let mut stream = TcpStream::from(made);
    let mut got = vec![0; data.len()];
    stream.read_exact(&mut got).unwrap();
    assert!(got == data);
    if let Some(error) = error {
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), error);
    }
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
}

/// Two ends over loopback.
fn pair(address: &str) -> (TcpStream, TcpStream) {
    let server = TcpListener::bind(address).unwrap();
    let ours = TcpStream::connect(server.local_addr().unwrap()).unwrap();
    (ours, server.accept().unwrap().0)
}

fn reset(peer: TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&peer, nix::sys::socket::sockopt::Linger, &linger).unwrap();
}

#[test]
fn unread_bytes_and_the_error_behind_them_travel_twice() {
    let _quiet = quiet();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for size in [0, 5, 40_000] {
            let (ours, mut peer) = pair(address);
            let data: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
            peer.write_all(&data).unwrap();
            while fds::readable_bytes(&ours).unwrap() < size as usize {}
            reset(peer);
            fds::poll_events(&ours, 0, 1000).unwrap();
            let local = ours.local_addr().unwrap();
            let image = captured(&[&ours]);
            // the source has lost nothing
            check_end(ours.into(), &data, Some(ErrorKind::ConnectionReset));
            let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
            assert_eq!((tcp.end, tcp.data.len(), tcp.peer), (TcpEnd::Reset, size as usize, None));
            let made = restored(&image).files.remove(0);
            let (_, mut again) = moved(&[&made]);
            assert_eq!(local_address(&again[0]), Some(local));
            check_end(again.remove(0), &data, Some(ErrorKind::ConnectionReset));
        }
    }
}

#[test]
fn a_peer_that_closed_first_leaves_an_end_and_a_broken_pipe() {
    let _quiet = quiet();
    let (mut ours, mut peer) = pair("127.0.0.1:0");
    peer.write_all(b"bye").unwrap();
    drop(peer);
    fds::poll_events(&ours, libc::POLLRDHUP, 1000).unwrap();
    let half_open = captured_with(&[&ours], true);
    let FileKind::TcpOver(tcp) = only_kind(&half_open) else { panic!("{half_open:?}") };
    assert_eq!(tcp.end, TcpEnd::Ended);
    let mut made = TcpStream::from(restored(&half_open).files.remove(0));
    let mut all = Vec::new();
    made.read_to_end(&mut all).unwrap();
    assert_eq!(all, b"bye");

    ours.write_all(b"x").unwrap();
    fds::poll_events(&ours, 0, 1000).unwrap();
    // the kernel forgets that it delays acknowledgements when it had to send one late (40 ms after the peer's end, on a busy machine);
    // of a connection that is over it forgets nothing more
    let delays = fds::socket_number(&ours, libc::IPPROTO_TCP, libc::TCP_QUICKACK).unwrap() == 0;
    let image = captured(&[&ours]);
    let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
    assert_eq!(tcp.end, if delays { TcpEnd::Broken } else { TcpEnd::Reset });
    let made = TcpStream::from(restored(&image).files.remove(0));
    let told = if delays { ErrorKind::BrokenPipe } else { ErrorKind::ConnectionReset };
    for (mut stream, error) in [(ours, ErrorKind::BrokenPipe), (made, told)] {
        let mut all = vec![0; 3];
        stream.read_exact(&mut all).unwrap();
        assert_eq!(all, b"bye");
        if error == ErrorKind::BrokenPipe {
            assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        }
        assert_eq!(stream.take_error().unwrap().unwrap().kind(), error);
    }
}

/// A failed attempt, its port, and where it went.
fn attempt(address: &str) -> (OwnedFd, SocketAddr, SocketAddr) {
    let gone = TcpListener::bind(address).unwrap().local_addr().unwrap();
    let domain = if gone.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let ours = fds::socket(domain, libc::SOCK_STREAM | libc::SOCK_NONBLOCK, 0).unwrap();
    assert_eq!(fds::connect(&ours, gone).unwrap_err().raw_os_error(), Some(libc::EINPROGRESS));
    assert_ne!(fds::poll_events(&ours, 0, 1000).unwrap(), 0);
    let local = local_address(&ours).unwrap();
    (ours, local, gone)
}

#[test]
fn an_attempt_that_was_refused_travels_twice_and_may_be_made_again() {
    let _quiet = quiet();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (ours, local, gone) = attempt(address);
        let events = fds::poll_events(&ours, libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP, 0).unwrap();
        let image = captured(&[&ours]);
        let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
        assert_eq!(tcp.end, TcpEnd::Refused);
        let made = restored(&image).files.remove(0);
        let (_, mut again) = moved(&[&made]);
        let again = again.remove(0);
        assert_eq!(local_address(&again), Some(local));
        assert_eq!(
            fds::poll_events(&again, libc::POLLIN | libc::POLLOUT | libc::POLLRDHUP, 0).unwrap(),
            events
        );
        for socket in [ours, again] {
            assert_eq!(fds::connect(&socket, gone).unwrap_err().raw_os_error(), Some(libc::ECONNREFUSED));
            let server = TcpListener::bind(gone).unwrap();
            let _ = fds::connect(&socket, gone);
            assert_eq!(fds::poll_events(&socket, libc::POLLOUT, 1000).unwrap(), libc::POLLOUT);
            drop((server, socket));
        }
    }
}

#[test]
fn a_failed_attempt_that_the_program_knows_is_no_connection() {
    let _quiet = quiet();
    let (ours, _, gone) = attempt("127.0.0.1:0");
    let stream = TcpStream::from(ours);
    assert_eq!(stream.take_error().unwrap().unwrap().kind(), ErrorKind::ConnectionRefused);
    let (image, mut made) = moved(&[&stream]);
    let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
    assert_eq!(tcp.end, TcpEnd::Failed);
    for socket in [stream.into(), made.remove(0)] {
        let answers = [libc::ECONNABORTED, libc::EINPROGRESS];
        for answer in answers {
            assert_eq!(fds::connect(&socket, gone).unwrap_err().raw_os_error(), Some(answer));
        }
    }
}

#[test]
fn a_half_open_connection_keeps_its_names_and_options() {
    let _quiet = quiet();
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (ours, mut peer) = pair(address);
        peer.write_all(b"bye").unwrap();
        drop(peer);
        fds::poll_events(&ours, libc::POLLRDHUP, 1000).unwrap();
        let names = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let image = captured_with(&[&ours], true);
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        // theirs is still taken: it is no port of this host
        let made = restored(&image).files.remove(0);
        assert_eq!((local_address(&made), peer_address(&made)), (Some(names.0), Some(names.1)));
        let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
        assert_eq!(socket_options::differing(&made, &tcp.options), []);
        let mut stream = TcpStream::from(made);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        assert_eq!(all, b"bye");
    }
}

#[test]
fn a_dead_connection_stays_dead_without_a_new_error() {
    let _quiet = quiet();
    let (mut ours, peer) = pair("127.0.0.1:0");
    reset(peer);
    fds::poll_events(&ours, 0, 1000).unwrap();
    ours.read(&mut [0; 1]).unwrap_err();
    let (image, mut made) = moved(&[&ours]);
    let FileKind::TcpOver(tcp) = only_kind(&image) else { panic!("{image:?}") };
    assert_eq!(tcp.end, TcpEnd::Over);
    check_end(made.remove(0), b"", None);
}
