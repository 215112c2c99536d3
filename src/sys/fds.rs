//! Kernel interfaces about descriptors that nix lacks: `kcmp`, `F_*OWN_EX`,
//! raw socket options, `socket`/`bind`/`connect`/`listen` for any protocol, `signalfd` with real-time signals, `FIONREAD`.
//!
//! All functions are safe: they take borrowed descriptors and slices and return `io::Result`.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::io;
use std::mem::{size_of, size_of_val};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_ulong};

const KCMP_FILE: c_int = 0;
const KCMP_FILES: c_int = 2;
const KCMP_EPOLL_TFD: c_int = 7;
const F_SETOWN_EX: c_int = 15;
const F_GETOWN_EX: c_int = 16;
const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;
/// `EPIOCSPARAMS` and `EPIOCGPARAMS` (Linux 6.9): `_IOW(0x8a, 1, struct epoll_params)`, `_IOR(0x8a, 2, …)`
const EPIOCSPARAMS: c_ulong = 0x4008_8a01;
const EPIOCGPARAMS: c_ulong = 0x8008_8a02;

/// `struct f_owner_ex`
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawOwner {
    /// `F_OWNER_TID`, `F_OWNER_PID` or `F_OWNER_PGRP`.
    pub kind: c_int,
    /// The number; 0 for none.
    pub id: libc::pid_t,
}

/// `struct kcmp_epoll_slot`
#[repr(C)]
struct EpollSlot {
    efd: u32,
    tfd: u32,
    toff: u32,
}

const _: () = assert!(size_of::<RawOwner>() == 8);
const _: () = assert!(size_of::<EpollSlot>() == 12);

pub(super) fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn owned(result: c_long) -> io::Result<OwnedFd> {
    let raw = check(result)?;
    let raw = RawFd::try_from(raw).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the caller passes the result of a system call that has just made this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

fn kcmp(pids: (i32, i32), kind: c_int, one: c_ulong, two: c_ulong) -> io::Result<Ordering> {
    // SAFETY: integers, but for KCMP_EPOLL_TFD, where `two` is the address of a live `EpollSlot` of the caller.
    match check(unsafe { libc::syscall(libc::SYS_kcmp, pids.0, pids.1, kind, one, two) })? {
        0 => Ok(Ordering::Equal),
        1 => Ok(Ordering::Less),
        _ => Ok(Ordering::Greater),
    }
}

/// Orders two open file descriptions, `(pid, fd)` each; equal means that they are one.
pub fn compare_files(one: (i32, i32), two: (i32, i32)) -> io::Result<Ordering> {
    kcmp((one.0, two.0), KCMP_FILE, raw_number(one.1)?, raw_number(two.1)?)
}

/// Do two threads share one descriptor table?
pub fn same_descriptor_table(one: i32, two: i32) -> io::Result<bool> {
    Ok(kcmp((one, two), KCMP_FILES, 0, 0)?.is_eq())
}

/// Is the `nth` entry registered as `registered` in the epoll `epfd` of `pid` the file behind `fd`?
pub fn is_epoll_target(pid: i32, fd: i32, epfd: i32, registered: i32, nth: u32) -> io::Result<bool> {
    let number = |fd: i32| u32::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF));
    let slot = EpollSlot { efd: number(epfd)?, tfd: number(registered)?, toff: nth };
    let address = std::ptr::from_ref(&slot) as c_ulong;
    Ok(kcmp((pid, pid), KCMP_EPOLL_TFD, raw_number(fd)?, address)?.is_eq())
}

fn raw_number(fd: i32) -> io::Result<c_ulong> {
    c_ulong::try_from(fd).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))
}

/// The extended attributes of an open file, as far as we may see them; none where the file system has none.
pub fn attributes(fd: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let raw = fd.as_fd().as_raw_fd();
    let mut names = vec![0u8; 64 * 1024];
    // SAFETY: `names` is valid for its length.
    let length = check(unsafe { libc::flistxattr(raw, names.as_mut_ptr().cast(), names.len()) } as c_long);
    let length = match length {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return Ok(Vec::new()),
        done => usize::try_from(done?).unwrap_or(0),
    };
    let mut found = Vec::new();
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let mut value = vec![0u8; 64 * 1024];
        // SAFETY: `name` ends with a NUL, `value` is valid for its length.
        let got =
            unsafe { libc::fgetxattr(raw, name.as_ptr().cast(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(usize::try_from(check(got as c_long)?).unwrap_or(0));
        found.push((name[..name.len() - 1].to_vec(), value));
    }
    Ok(found)
}

/// Sets an extended attribute.
pub fn set_attribute(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    let name = std::ffi::CString::new(name).map_err(io::Error::other)?;
    let (raw, at) = (fd.as_fd().as_raw_fd(), value.as_ptr().cast());
    // SAFETY: `name` ends with a NUL, `value` is valid for its length.
    check(unsafe { libc::fsetxattr(raw, name.as_ptr(), at, value.len(), 0) }.into())?;
    Ok(())
}

/// Who gets the file's signals, and which signal (0: SIGIO).
pub fn owner(fd: impl AsFd) -> io::Result<(RawOwner, i32)> {
    let raw = fd.as_fd().as_raw_fd();
    let mut owner = RawOwner { kind: 0, id: 0 };
    // SAFETY: F_GETOWN_EX writes one `struct f_owner_ex`, which `owner` is.
    check(unsafe { libc::fcntl(raw, F_GETOWN_EX, &mut owner) }.into())?;
    // SAFETY: F_GETSIG takes no argument.
    let signal = check(unsafe { libc::fcntl(raw, F_GETSIG) }.into())?;
    Ok((owner, i32::try_from(signal).unwrap_or(0)))
}

/// Sets who gets the file's signals, and which.
pub fn set_owner(fd: impl AsFd, owner: RawOwner, signal: i32) -> io::Result<()> {
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: F_SETOWN_EX reads one `struct f_owner_ex`, which `owner` is.
    check(unsafe { libc::fcntl(raw, F_SETOWN_EX, &owner) }.into())?;
    // SAFETY: F_SETSIG takes an integer.
    check(unsafe { libc::fcntl(raw, F_SETSIG, signal) }.into())?;
    Ok(())
}

/// What `poll(2)` says about a descriptor, with the events that nix does not know (`POLLRDHUP`); waits at most
/// `timeout_ms`.
pub fn poll_events(fd: impl AsFd, events: i16, timeout_ms: i32) -> io::Result<i16> {
    let mut polled = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events, revents: 0 };
    // SAFETY: the kernel reads and writes one `pollfd`, which `polled` is.
    check(unsafe { libc::poll(&mut polled, 1, timeout_ms) }.into())?;
    Ok(polled.revents)
}

/// Bytes that wait in a pipe or socket.
pub fn readable_bytes(fd: impl AsFd) -> io::Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: FIONREAD writes one int, which `count` is.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::FIONREAD, &mut count) }.into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What a unix socket has sent and nobody has read, in the kernel's own sizes (`SIOCOUTQ`).
pub fn unread_by_others(fd: impl AsFd) -> io::Result<usize> {
    let mut count: c_int = 0;
    // SAFETY: TIOCOUTQ (the number of SIOCOUTQ) writes one int, which `count` is.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), libc::TIOCOUTQ, &mut count) }.into())?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Reads one word without waiting, whatever the flags of the open file say. (`RWF_NOWAIT` on an eventfd: since Linux 5.8;
/// before, `poll` tells whether the read would wait.)
pub fn read_word_now(fd: impl AsFd) -> io::Result<u64> {
    let mut word = [0u8; 8];
    let part = libc::iovec { iov_base: word.as_mut_ptr().cast(), iov_len: word.len() };
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: one iovec, which is `word`; offset -1 stands for the file's own.
    let got = unsafe { libc::preadv2(raw, &raw const part, 1, -1, libc::RWF_NOWAIT) };
    let got = match check(got as c_long) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            let mut ready = libc::pollfd { fd: raw, events: libc::POLLIN, revents: 0 };
            // SAFETY: one pollfd.
            check(unsafe { libc::poll(&raw mut ready, 1, 0) }.into())?;
            if ready.revents & libc::POLLIN == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            // SAFETY: `word` is valid for its length.
            check(unsafe { libc::read(raw, word.as_mut_ptr().cast(), word.len()) } as c_long)?
        }
        done => done?,
    };
    if got != 8 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(u64::from_ne_bytes(word))
}

/// A socket of any family, type and protocol, close-on-exec.
pub fn socket(domain: i32, socket_type: i32, protocol: i32) -> io::Result<OwnedFd> {
    // SAFETY: three integers.
    owned(unsafe { libc::socket(domain, socket_type | libc::SOCK_CLOEXEC, protocol) }.into())
}

/// The raw value of a socket option, at most 256 bytes; `value` is what the kernel may read from the
/// buffer beforehand (only `*_MSFILTER` do), else empty.
pub fn socket_option(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<Vec<u8>> {
    let mut buffer = [0_u8; 256];
    let head = value.len().min(buffer.len());
    buffer[..head].copy_from_slice(&value[..head]);
    let mut length = if head == 0 { size_of_val(&buffer) } else { head } as libc::socklen_t;
    let raw = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, which is no more than the buffer's size.
    check(unsafe { libc::getsockopt(raw, level, name, buffer.as_mut_ptr().cast(), &mut length) }.into())?;
    Ok(buffer[..(length as usize).min(buffer.len())].to_vec())
}

/// An integer socket option.
pub fn socket_number(fd: impl AsFd, level: i32, name: i32) -> io::Result<i32> {
    let value = socket_option(fd, level, name, &[])?;
    let bytes = value.first_chunk::<4>().ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
    Ok(i32::from_ne_bytes(*bytes))
}

/// Who connected a unix socket, or made the pair (`SO_PEERCRED`, `SO_PEERGROUPS`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawPeer {
    /// As we see it.
    pub pid: i32,
    /// Effective uid.
    pub uid: u32,
    /// Effective gid.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Who connected it; `None` where nobody has.
pub fn peer_credentials(socket: impl AsFd) -> io::Result<Option<RawPeer>> {
    const MOST: usize = 1 << 16;
    let raw = socket_option(&socket, libc::SOL_SOCKET, libc::SO_PEERCRED, &[])?;
    let word = |at: usize| raw.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_ne_bytes);
    let (Some(pid), Some(uid), Some(gid)) = (word(0), word(4), word(8)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    if uid == u32::MAX {
        return Ok(None);
    }
    let mut groups = vec![0_u32; 64];
    let raw = socket.as_fd().as_raw_fd();
    loop {
        let mut length = size_of_val(groups.as_slice()) as libc::socklen_t;
        let at = groups.as_mut_ptr().cast();
        // SAFETY: the kernel writes at most `length` bytes, the size of the list.
        let result = unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, libc::SO_PEERGROUPS, at, &mut length) };
        match check(result.into()) {
            Ok(_) => groups.truncate(length as usize / size_of::<u32>()),
            Err(error) if error.raw_os_error() == Some(libc::ERANGE) && groups.len() < MOST => {
                groups.resize(MOST, 0);
                continue;
            }
            Err(error) => return Err(error),
        }
        return Ok(Some(RawPeer { pid: pid as i32, uid, gid, groups }));
    }
}

/// What `TCP_INQ` says beside a byte that is looked at and left: how much waits.
pub fn receive_queue_hint(socket: impl AsFd) -> io::Result<usize> {
    const TCP_CM_INQ: c_int = 36;
    let mut byte = [0_u8; 1];
    let mut part = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let mut control = [0_u64; 16];
    // SAFETY: all-zero is a valid `msghdr`.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one part of one byte and a control buffer of the size that it says, both alive.
    check(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, flags) } as c_long)?;
    // SAFETY: the kernel has filled in the message.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !at.is_null() {
        // SAFETY: a header within the control buffer, which is aligned for one.
        let header = unsafe { *at };
        if (header.cmsg_level, header.cmsg_type) == (libc::IPPROTO_TCP, TCP_CM_INQ) {
            // SAFETY: this kind holds one int.
            let hint = unsafe { libc::CMSG_DATA(at).cast::<c_int>().read_unaligned() };
            return Ok(usize::try_from(hint).unwrap_or(0));
        }
        // SAFETY: the same message.
        at = unsafe { libc::CMSG_NXTHDR(&raw const message, at) };
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// The name of an interface of the network namespace in which the socket is.
pub fn interface_name(socket: impl AsFd, index: u32) -> io::Result<String> {
    let index = c_int::try_from(index).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_ifru.ifru_ifindex = index;
    // SAFETY: SIOCGIFNAME reads and writes one `ifreq`, which `request` is.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFNAME, &mut request) }.into())?;
    let name = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8(name).map_err(io::Error::other)
}

/// The index of an interface of the network namespace in which the socket is.
pub fn interface_index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    // SAFETY: all-zero is a valid `ifreq`.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: SIOCGIFINDEX reads and writes one `ifreq`, which `request` is.
    check(unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::SIOCGIFINDEX, &mut request) }.into())?;
    // SAFETY: the kernel has filled in this member.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// Is a packet filter (classic or BPF) attached? Its length is asked for, not the filter itself.
pub fn has_socket_filter(fd: impl AsFd) -> bool {
    let mut length: libc::socklen_t = 0;
    let raw = fd.as_fd().as_raw_fd();
    let name = libc::SO_ATTACH_FILTER; // SO_GET_FILTER is the same number
    // SAFETY: with length 0 the kernel writes nothing but the length.
    let result = unsafe { libc::getsockopt(raw, libc::SOL_SOCKET, name, std::ptr::null_mut(), &mut length) };
    match check(result.into()) {
        Ok(_) => length != 0,
        // A BPF program has no classic form to show.
        Err(error) => error.raw_os_error() == Some(libc::EACCES),
    }
}

/// Sets a socket option from raw bytes.
pub fn set_socket_option(fd: impl AsFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `value`.
    let result =
        unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    check(result.into())?;
    Ok(())
}

/// Binds an internet socket.
pub fn bind(fd: impl AsFd, address: SocketAddr) -> io::Result<()> {
    let (storage, length) = raw_address(address);
    // SAFETY: `storage` lives across the call and is at least `length` bytes.
    check(unsafe { libc::bind(fd.as_fd().as_raw_fd(), (&raw const storage).cast(), length) }.into())?;
    Ok(())
}

/// Connects an internet socket.
pub fn connect(fd: impl AsFd, address: SocketAddr) -> io::Result<()> {
    let (storage, length) = raw_address(address);
    // SAFETY: `storage` lives across the call and is at least `length` bytes.
    check(unsafe { libc::connect(fd.as_fd().as_raw_fd(), (&raw const storage).cast(), length) }.into())?;
    Ok(())
}

/// Listens with any backlog.
pub fn listen(fd: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = c_int::try_from(backlog).unwrap_or(c_int::MAX);
    // SAFETY: two integers.
    check(unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) }.into())?;
    Ok(())
}

fn raw_address(address: SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid `sockaddr_storage`.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: `sockaddr_storage` is made to hold and aligned for every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
            (storage, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: `sockaddr_storage` is made to hold and aligned for every socket address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
            (storage, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

/// A signal descriptor for the signals of `mask` (bit n-1 is signal n), close-on-exec.
pub fn signalfd(mask: u64, flags: i32) -> io::Result<OwnedFd> {
    let flags = flags | libc::SFD_CLOEXEC;
    // SAFETY: the kernel reads 8 bytes at `mask`, the size it is told.
    owned(unsafe { libc::syscall(libc::SYS_signalfd4, -1, &mask, size_of::<u64>(), flags) })
}

/// `struct epoll_params` of an epoll, its 8 bytes; an error before Linux 6.9.
pub fn epoll_params(epoll: impl AsFd) -> io::Result<[u8; 8]> {
    let mut params = [0; 8];
    let raw = epoll.as_fd().as_raw_fd();
    // SAFETY: the request is for 8 bytes, which `params` has.
    check(unsafe { libc::ioctl(raw, EPIOCGPARAMS, params.as_mut_ptr()) }.into())?;
    Ok(params)
}

/// Sets them.
pub fn set_epoll_params(epoll: impl AsFd, params: [u8; 8]) -> io::Result<()> {
    // SAFETY: the request is for 8 bytes, which `params` has.
    check(unsafe { libc::ioctl(epoll.as_fd().as_raw_fd(), EPIOCSPARAMS, params.as_ptr()) }.into())?;
    Ok(())
}

/// The process status flags of a file (`F_SETFL`), all bits.
pub fn set_status_flags(fd: impl AsFd, flags: i32) -> io::Result<()> {
    // SAFETY: F_SETFL takes an integer.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETFL, flags) }.into())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kcmp_tells_dup_from_reopen() {
        let me = i32::try_from(std::process::id()).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        let twin = file.try_clone().unwrap();
        let other = std::fs::File::open("/dev/null").unwrap();
        let compare = |fd: RawFd| compare_files((me, file.as_raw_fd()), (me, fd)).unwrap();
        assert!(compare(twin.as_raw_fd()).is_eq());
        assert!(compare(other.as_raw_fd()).is_ne());
        assert!(same_descriptor_table(me, me).unwrap());
    }

    #[test]
    fn owner_round_trip() {
        let me = i32::try_from(std::process::id()).unwrap();
        let (reader, _writer) = io::pipe().unwrap();
        set_owner(&reader, RawOwner { kind: 1, id: me }, libc::SIGUSR1).unwrap();
        assert_eq!(owner(&reader).unwrap(), (RawOwner { kind: 1, id: me }, libc::SIGUSR1));
    }
}
