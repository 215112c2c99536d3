//! Kernel interfaces about descriptors that nix lacks: `kcmp`, `F_*OWN_EX`, raw socket options, `signalfd` with real-time
//! signals; and by rustix sockets of any protocol, `poll` with any event, extended attributes.
//!
//! All functions are safe: they take borrowed descriptors and slices and return `io::Result`.
#![allow(unsafe_code)]

use std::cmp::Ordering;
use std::io;
use std::mem::{size_of, size_of_val};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};

use libc::{c_int, c_long, c_ulong};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::OFlags;
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType};

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
const _: () =
    assert!(std::mem::offset_of!(EpollSlot, tfd) == 4 && std::mem::offset_of!(EpollSlot, toff) == 8);
const _: () = assert!(std::mem::offset_of!(RawOwner, kind) == 0 && std::mem::offset_of!(RawOwner, id) == 4);

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
    let fd = fd.as_fd();
    let mut names = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Err(rustix::io::Errno::OPNOTSUPP) => return Ok(Vec::new()),
        done => done?,
    };
    let mut found = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0u8; 64 * 1024];
        let got = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())?;
        value.truncate(got);
        found.push((name.to_vec(), value));
    }
    Ok(found)
}

/// Sets an extended attribute.
pub fn set_attribute(fd: impl AsFd, name: &[u8], value: &[u8]) -> io::Result<()> {
    Ok(rustix::fs::fsetxattr(fd, name, value, rustix::fs::XattrFlags::empty())?)
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
    let wanted = PollFlags::from_bits_retain(events.cast_unsigned());
    let mut polled = [PollFd::from_borrowed_fd(fd.as_fd(), wanted)];
    let limit = u32::try_from(timeout_ms)
        .ok()
        .map(|ms| Timespec { tv_sec: i64::from(ms / 1000), tv_nsec: i64::from(ms % 1000) * 1_000_000 });
    rustix::event::poll(&mut polled, limit.as_ref())?;
    Ok(polled[0].revents().bits().cast_signed())
}

/// Bytes that wait in a pipe or socket.
pub fn readable_bytes(fd: impl AsFd) -> io::Result<usize> {
    Ok(usize::try_from(rustix::io::ioctl_fionread(fd)?).unwrap_or(0))
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
    /// Stands for the position of the open file.
    const ITS_OWN: u64 = u64::MAX;
    let fd = fd.as_fd();
    let mut word = [0u8; 8];
    let now = rustix::io::ReadWriteFlags::NOWAIT;
    let got = match rustix::io::preadv2(fd, &mut [io::IoSliceMut::new(&mut word)], ITS_OWN, now) {
        Err(rustix::io::Errno::OPNOTSUPP) => {
            if poll_events(fd, libc::POLLIN, 0)? & libc::POLLIN == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            rustix::io::read(fd, &mut word)?
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
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    let family = AddressFamily::from_raw(u16::try_from(domain).map_err(invalid)?);
    let kind = SocketType::from_raw(socket_type.cast_unsigned());
    let protocol = NonZeroU32::new(protocol.cast_unsigned()).map(Protocol::from_raw);
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, protocol)?)
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

/// `getsockopt(TCP_INFO)`, and how many bytes of it this kernel told: what lies beyond is zero.
pub fn tcp_info(socket: impl AsFd) -> io::Result<(libc::tcp_info, usize)> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    let raw = socket.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most `length` bytes, the size of what `info` holds.
    let result = unsafe {
        libc::getsockopt(raw, libc::IPPROTO_TCP, libc::TCP_INFO, info.as_mut_ptr().cast(), &mut length)
    };
    check(result.into())?;
    // SAFETY: numbers only, for which every byte is valid, and all were zero before.
    Ok((unsafe { info.assume_init() }, length as usize))
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
    Ok(rustix::net::netdevice::index_to_name(socket, index)?)
}

/// The index of an interface of the network namespace in which the socket is.
pub fn interface_index(socket: impl AsFd, name: &str) -> io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(socket, name)?)
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
    Ok(rustix::net::bind(fd, &address)?)
}

/// Connects an internet socket.
pub fn connect(fd: impl AsFd, address: SocketAddr) -> io::Result<()> {
    Ok(rustix::net::connect(fd, &address)?)
}

/// Listens with any backlog.
pub fn listen(fd: impl AsFd, backlog: u32) -> io::Result<()> {
    Ok(rustix::net::listen(fd, c_int::try_from(backlog).unwrap_or(c_int::MAX))?)
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
    Ok(rustix::fs::fcntl_setfl(fd, OFlags::from_bits_retain(flags.cast_unsigned()))?)
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
