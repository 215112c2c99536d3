//! Socket options, from the table of [`super::socket_table`]: read all that a socket has, keep those that differ from a fresh
//! socket of the same kind, set those again in the order of the table.
//!
//! Kernel interface: `getsockopt`/`setsockopt`; values are the kernel's own bytes. Buffer sizes are reported
//! doubled and set with `SO_*BUFFORCE` so that they may pass `net.core.*mem_max`; setting one locks it, so the lock travels
//! with them. Interface indices travel as names (`SIOCGIFNAME` answers for the namespace of the socket).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use libc::{IPPROTO_IP, IPPROTO_IPV6, IPPROTO_TCP, IPPROTO_UDP, SOL_SOCKET};

use crate::image::files::{FilesImage, FreshSocket, OpenFile, SocketOption};
use crate::image::{Note, Obstacle};
use crate::sys::fds;

use super::FilesError;
use super::maker::{TargetCheck, failed};
use super::socket_table::{self, Known, LEVELS, SO_BUF_LOCK, TABLE, Treatment};

/// Numbers of a level that are tried when a kernel is asked for options that the table does not know.
const MAX_NUMBER: i32 = 128;

/// Options that change others when they are set: with the first the second is put, too.
const COUPLED: &[[(i32, i32); 2]] = &[
    [(SOL_SOCKET, libc::SO_SNDBUF), (SOL_SOCKET, SO_BUF_LOCK)],
    [(SOL_SOCKET, libc::SO_RCVBUF), (SOL_SOCKET, SO_BUF_LOCK)],
    [(IPPROTO_IP, libc::IP_TOS), (SOL_SOCKET, libc::SO_PRIORITY)],
];

/// Every option of the table that this socket has. IPv6 sockets have the IPv4 ones, too.
pub(super) fn all(socket: impl AsFd, domain: i32) -> Vec<SocketOption> {
    let socket = socket.as_fd();
    let applies = |level: i32| match level {
        SOL_SOCKET => true,
        IPPROTO_IPV6 => domain == libc::AF_INET6,
        _ => domain != libc::AF_UNIX,
    };
    TABLE.iter().filter(|known| applies(known.level)).filter_map(|known| read(socket, known)).collect()
}

/// Those of `options` that this socket has and that are not as there; what it does not have is not asked for.
pub(super) fn differing(socket: impl AsFd, fresh: &[SocketOption]) -> Vec<SocketOption> {
    let socket = socket.as_fd();
    let rows = fresh.iter().filter_map(|option| Some((option, socket_table::of(option.level, option.name)?)));
    let now: Vec<_> =
        rows.filter_map(|(option, known)| Some((read(socket, known)?, &option.value))).collect();
    let key = |option: &SocketOption| (option.level, option.name);
    let changed: Vec<_> =
        now.iter().filter(|(option, fresh)| option.value != **fresh).map(|(option, _)| key(option)).collect();
    let is_coupled =
        |option: &SocketOption| COUPLED.iter().any(|[one, two]| *two == key(option) && changed.contains(one));
    now.into_iter()
        .filter(|(option, fresh)| option.value != **fresh || is_coupled(option))
        .map(|(option, _)| option)
        .collect()
}

fn read(socket: BorrowedFd<'_>, known: &Known) -> Option<SocketOption> {
    let value = match known.treatment {
        Treatment::Left(_) | Treatment::Probed(_) => return None,
        Treatment::Interface(network) => {
            let raw = fds::socket_option(socket, known.level, known.number, &[]).ok()?;
            match index(&raw, network) {
                0 => Vec::new(),
                index => fds::interface_name(socket, index).ok()?.into_bytes(),
            }
        }
        _ => fds::socket_option(socket, known.level, known.number, &[]).ok()?,
    };
    Some(SocketOption { level: known.level, name: known.number, value })
}

fn index(raw: &[u8], network: bool) -> u32 {
    let bytes = raw.first_chunk::<4>().copied().unwrap_or_default();
    if network { u32::from_be_bytes(bytes) } else { u32::from_ne_bytes(bytes) }
}

/// The first of `options` with which a socket cannot be carried.
pub(super) fn refused(options: &[SocketOption]) -> Option<&'static str> {
    options.iter().find_map(|option| match socket_table::of(option.level, option.name)?.treatment {
        Treatment::Refused(why) => Some(why),
        _ => None,
    })
}

/// What becomes different where [`has_time_limit`]: the kernel answers `EINTR` to any stop of such a wait, and the call, issued again,
/// reads the limit anew.
pub(in crate::state) const TIME_LIMIT: &str = "a wait on it that the move interrupts begins again with all of its time limit \
     (SO_RCVTIMEO, SO_SNDTIMEO): it may end late, never early";

/// Whether waits on a socket end by themselves.
pub(super) fn has_time_limit(options: &[SocketOption]) -> bool {
    let limits = [libc::SO_RCVTIMEO, libc::SO_SNDTIMEO];
    let limits = options.iter().filter(|option| option.level == SOL_SOCKET && limits.contains(&option.name));
    limits.flat_map(|limit| &limit.value).any(|byte| *byte != 0)
}

/// Options that this kernel answers for a fresh socket and that the table does not know.
pub(super) fn unknown(fresh: impl AsFd) -> Vec<SocketOption> {
    let fresh = fresh.as_fd();
    let numbers = LEVELS.iter().flat_map(|level| (0..MAX_NUMBER).map(|number| (*level, number)));
    numbers
        .filter(|(level, number)| socket_table::of(*level, *number).is_none())
        .filter_map(|(level, name)| {
            let value = fds::socket_option(fresh, level, name, &[]).ok()?;
            Some(SocketOption { level, name, value })
        })
        .collect()
}

/// The first of those that is not as in a fresh socket, in words.
pub(super) fn unknown_set(socket: impl AsFd, unknown: &[SocketOption]) -> Option<String> {
    let socket = socket.as_fd();
    let set = unknown.iter().find(|option| {
        fds::socket_option(socket, option.level, option.name, &[]).is_ok_and(|now| now != option.value)
    })?;
    Some(format!("socket option {} of level {} is set, which is unknown to ulpm", set.name, set.level))
}

/// Sets the options, in the order in which they were read.
pub(super) fn apply<'a>(
    file: &OpenFile,
    socket: impl AsFd,
    options: impl IntoIterator<Item = &'a SocketOption>,
) -> Result<(), FilesError> {
    let socket = socket.as_fd();
    for option in options {
        // the kernel has others (packet filters, multicast routes) that no process brings along
        let known = socket_table::of(option.level, option.name);
        let Some(known) = known.filter(|known| is_set(known.treatment)) else {
            let error = io::Error::from_raw_os_error(libc::ENOPROTOOPT);
            return Err(failed(file, "set an unknown socket option")(error));
        };
        match set(socket, known, &option.value) {
            // MPTCP shows it and will not take it; setting the sizes has locked them already.
            Err(error) if option.name == SO_BUF_LOCK && error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
            result => result.map_err(failed(file, known.name))?,
        }
    }
    Ok(())
}

/// Sets what can be set.
pub(super) fn apply_each<'a>(socket: impl AsFd, options: impl IntoIterator<Item = &'a SocketOption>) {
    let socket = socket.as_fd();
    for option in options {
        let known = socket_table::of(option.level, option.name).filter(|known| is_set(known.treatment));
        if let Some(known) = known
            && read(socket, known).is_none_or(|now| now.value != option.value)
            && let Err(error) = set(socket, known, &option.value)
        {
            tracing::debug!(%error, option = known.name, "not set");
        }
    }
}

/// What the table calls an option.
pub(super) fn name(level: i32, number: i32) -> Option<&'static str> {
    Some(socket_table::of(level, number)?.name)
}

/// These options of a socket beside those in `options`, all in the order of the table.
pub(super) fn with(socket: impl AsFd, options: Vec<SocketOption>, these: &[(i32, i32)]) -> Vec<SocketOption> {
    let socket = socket.as_fd();
    let there = |known: &&Known| {
        let key = (known.level, known.number);
        these.contains(&key) || options.iter().any(|option| (option.level, option.name) == key)
    };
    TABLE.iter().filter(there).filter_map(|known| read(socket, known)).collect()
}

fn is_set(treatment: Treatment) -> bool {
    matches!(treatment, Treatment::Bytes | Treatment::Buffer(_) | Treatment::Interface(_))
}

fn set(socket: BorrowedFd<'_>, known: &Known, value: &[u8]) -> io::Result<()> {
    match known.treatment {
        Treatment::Buffer(force) => {
            let doubled =
                value.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes)).unwrap_or_default();
            let value = (doubled / 2).to_ne_bytes();
            fds::set_socket_option(socket, SOL_SOCKET, force, &value)
                .or_else(|_| fds::set_socket_option(socket, SOL_SOCKET, known.number, &value))
        }
        Treatment::Interface(network) => {
            let name = std::str::from_utf8(value).map_err(io::Error::other)?;
            let index = if name.is_empty() { 0 } else { fds::interface_index(socket, name)? };
            let value = if network { index.to_be_bytes() } else { index.to_ne_bytes() };
            fds::set_socket_option(socket, known.level, known.number, &value)
        }
        _ => fds::set_socket_option(socket, known.level, known.number, value),
    }
}

/// Preflight at the target: which of the options did not become what they were? (Without the right to pass it,
/// `net.core.*mem_max` cuts sizes in silence.)
pub(super) fn check(check: &mut TargetCheck, file: &OpenFile, socket: impl AsFd, options: &[SocketOption]) {
    let socket = socket.as_fd();
    for option in options {
        let Some(known) = socket_table::of(option.level, option.name) else { continue };
        if read(socket, known).is_none_or(|now| now.value == option.value) {
            continue;
        }
        let what = format!("{} ({}) cannot be as it is at the source", known.name, known.what);
        check.notes.push(Note::new(file.object(), what));
    }
}

/// Preflight at the target for kinds of which nothing else has to be tried: sets the options of a fresh socket.
pub(super) fn check_fresh(
    check_: &mut TargetCheck,
    file: &OpenFile,
    (domain, kind, protocol): (i32, i32, i32),
    options: &[SocketOption],
) {
    if options.is_empty() {
        return;
    }
    let made = fds::socket(domain, kind, protocol).map_err(failed(file, "make the socket"));
    match made.and_then(|made| apply(file, &made, options).map(|()| made)) {
        Ok(made) => check(check_, file, &made, options),
        Err(error) => check_.obstacles.push(cannot_set(file, &error)),
    }
}

fn cannot_set(file: &OpenFile, error: &FilesError) -> Obstacle {
    let FilesError::Make { step, source, .. } = error else {
        return Obstacle::new(file.object(), error.to_string(), "report this as a bug of ulpm");
    };
    let why = format!("{step} cannot be set at the target: {source}");
    Obstacle::new(
        file.object(),
        why,
        "make the target's network like the source's, or run ulpm serve as root",
    )
}

/// Preflight at the target: a socket whose option is as the host gives it takes what this host gives.
pub(super) fn check_defaults(check: &mut TargetCheck, image: &FilesImage) {
    for FreshSocket { domain, kind, protocol, options } in &image.fresh {
        let Ok(fresh) = fds::socket(*domain, *kind, *protocol) else { continue };
        let ours = differing(&fresh, options);
        let names: Vec<&str> = ours
            .iter()
            .filter_map(|option| Some(socket_table::of(option.level, option.name)?.name))
            .filter(|name| *name != "SO_BUF_LOCK")
            .collect();
        if !names.is_empty() {
            let object = format!("{} sockets", kind_name(*domain, *kind, *protocol));
            let what =
                format!("the default of {} is another at the target, and is taken there", names.join(", "));
            check.notes.push(Note::new(object, what));
        }
    }
}

fn kind_name(domain: i32, kind: i32, protocol: i32) -> &'static str {
    match (domain, kind, protocol) {
        (libc::AF_UNIX, libc::SOCK_STREAM, _) => "unix stream",
        (libc::AF_UNIX, libc::SOCK_DGRAM, _) => "unix datagram",
        (libc::AF_UNIX, ..) => "unix seqpacket",
        (_, _, IPPROTO_UDP) if domain == libc::AF_INET6 => "UDP over IPv6",
        (_, _, IPPROTO_UDP) => "UDP",
        (_, _, libc::IPPROTO_MPTCP) => "MPTCP",
        (_, _, IPPROTO_TCP) if domain == libc::AF_INET6 => "TCP over IPv6",
        (_, _, IPPROTO_TCP) => "TCP",
        _ => "other",
    }
}

/// The value of one option among `options`, as a number; 0 when it is not there.
pub(super) fn number(options: &[SocketOption], level: i32, name: i32) -> i32 {
    let option = options.iter().find(|option| (option.level, option.name) == (level, name));
    option.and_then(|option| option.value.first_chunk::<4>()).map_or(0, |bytes| i32::from_ne_bytes(*bytes))
}

#[cfg(test)]
#[path = "socket_options_tests.rs"]
mod tests;
