//! Tests of [`super`].

use super::super::target::check_target;
use super::super::testing::{captured, describe_only, quiet, restored};
use super::*;
use crate::image::files::FileKind;

fn fresh(domain: i32, kind: i32) -> std::os::fd::OwnedFd {
    fds::socket(domain, kind, 0).unwrap()
}

fn put(socket: &impl AsFd, level: i32, name: i32, value: i32) {
    fds::set_socket_option(socket, level, name, &value.to_ne_bytes()).unwrap();
}

#[test]
fn a_size_travels_with_its_lock_and_a_type_of_service_with_the_priority() {
    let _quiet = quiet();
    let ours = fresh(libc::AF_INET, libc::SOCK_DGRAM);
    put(&ours, SOL_SOCKET, libc::SO_RCVBUF, 50_000);
    put(&ours, SOL_SOCKET, SO_BUF_LOCK, 0);
    put(&ours, IPPROTO_IP, libc::IP_TOS, 0x10);
    put(&ours, SOL_SOCKET, libc::SO_PRIORITY, 0);
    let image = captured(&[&ours]);
    let made = restored(&image).files.remove(0);
    for (level, name) in [
        (SOL_SOCKET, libc::SO_RCVBUF),
        (SOL_SOCKET, SO_BUF_LOCK),
        (IPPROTO_IP, libc::IP_TOS),
        (SOL_SOCKET, libc::SO_PRIORITY),
    ] {
        let ask = |socket: &std::os::fd::OwnedFd| fds::socket_number(socket, level, name).unwrap();
        assert_eq!(ask(&made), ask(&ours), "{level} {name}");
    }
}

#[test]
fn interfaces_travel_by_name() {
    let _quiet = quiet();
    let ours = fresh(libc::AF_INET6, libc::SOCK_DGRAM);
    let lo = fds::interface_index(&ours, "lo").unwrap();
    assert_eq!(fds::interface_name(&ours, lo).unwrap(), "lo");
    put(&ours, IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, lo as i32);
    let image = captured(&[&ours]);
    let FileKind::Udp(udp) = &image.files[0].kind else { panic!("{image:?}") };
    assert_eq!(udp.options.len(), 1);
    assert_eq!(udp.options[0].value, b"lo");
    let made = restored(&image).files.remove(0);
    assert_eq!(fds::socket_number(&made, IPPROTO_IPV6, libc::IPV6_MULTICAST_IF).unwrap(), lo as i32);
}

#[test]
fn what_the_table_does_not_know_is_refused_where_it_is_set() {
    let ours = fresh(libc::AF_INET, libc::SOCK_DGRAM);
    let unknown =
        [SocketOption { level: IPPROTO_IP, name: libc::IP_TTL, value: 64_i32.to_ne_bytes().to_vec() }];
    assert_eq!(unknown_set(&ours, &unknown), None);
    put(&ours, IPPROTO_IP, libc::IP_TTL, 9);
    let text = unknown_set(&ours, &unknown).unwrap();
    assert_eq!(text, "socket option 2 of level 0 is set, which is unknown to ulpm");
}

#[test]
fn another_default_of_the_target_is_noted() {
    let _quiet = quiet();
    let ours = fresh(libc::AF_INET, libc::SOCK_DGRAM);
    let (mut image, obstacles) = describe_only(&[&ours], false);
    assert_eq!(obstacles, []);
    assert_eq!(check_target(&image, &Default::default()).notes, []);
    let ttl = image.fresh[0].options.iter_mut().find(|o| (o.level, o.name) == (IPPROTO_IP, libc::IP_TTL));
    ttl.unwrap().value = 99_i32.to_ne_bytes().to_vec();
    let notes = check_target(&image, &Default::default()).notes;
    assert_eq!(notes.len(), 1);
    assert_eq!(notes[0].what, "the default of IP_TTL is another at the target, and is taken there");
}

#[test]
fn a_corked_socket_is_refused() {
    let _quiet = quiet();
    let ours = fresh(libc::AF_INET, libc::SOCK_DGRAM);
    put(&ours, IPPROTO_UDP, 1, 1);
    let (_, obstacles) = describe_only(&[&ours], false);
    assert!(
        obstacles[0].to_string().contains("a datagram is being put together (UDP_CORK)"),
        "{obstacles:?}"
    );
}
