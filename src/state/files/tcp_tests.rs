//! Tests of [`super`] and of `tcp_reset`.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};

use super::super::target::{RestoreContext, check_target, restore};
use super::super::testing::{
    captured, captured_with, describe_only, moved, only_kind, quiet, refusals, restored,
};
use super::*;

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

    let image = captured_with(&[&ours], true);
    let mut prepared = RestoreContext::default();
    prepared.prepare(&image).unwrap();
    assert_eq!(prepared.resets.len(), 1);
    for mut context in [RestoreContext::default(), prepared] {
        let made = restore(&image, &mut context).unwrap().files.remove(0);
        let asked = libc::POLLIN | libc::POLLRDHUP;
        assert_eq!(fds::poll_events(&made, asked, 0).unwrap(), asked | libc::POLLERR | libc::POLLHUP);
        let mut stream = TcpStream::from(made);
        assert_eq!(stream.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
        assert_eq!(stream.write(b"x").unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

#[test]
fn a_dead_connection_stays_dead_without_a_new_error() {
    let _quiet = quiet();
    let dead = super::super::tcp_reset::reset_connection(false).unwrap();
    let mut stream = TcpStream::from(dead);
    stream.read(&mut [0; 1]).unwrap_err();
    let (image, mut made) = moved(&[&stream]);
    assert_eq!(*only_kind(&image), FileKind::TcpReset { v6: false, error: false });
    assert_eq!(TcpStream::from(made.remove(0)).read(&mut [0; 1]).unwrap(), 0);
}
