//! A socket of the process, and its options that differ from those of a fresh one.

use std::os::fd::OwnedFd;

use crate::image::files::{FreshSocket, SocketOption};
use crate::sys::fds;

use super::socket_diag::in_network_of;
use super::socket_options::TIME_LIMIT;
use super::socket_table::FILTER;
use super::source::{Descriptor, Source};
use super::{FilesError, refuse, socket_options};

/// A socket of the process, through our duplicate.
pub(super) struct Socket {
    pub(super) fd: OwnedFd,
    pub(super) domain: i32,
    pub(super) socket_type: i32,
    pub(super) protocol: i32,
}

/// The options of a socket that differ from those of a fresh one; refuses packet filters and what cannot be set.
pub(super) fn options(
    source: &mut Source<'_>,
    file: &Descriptor,
    socket: &Socket,
) -> Result<Vec<SocketOption>, FilesError> {
    let kind = (socket.domain, socket.socket_type, socket.protocol);
    if !source.fresh_options.contains_key(&kind) {
        look_at_fresh(source, kind)?;
    }
    let fresh = source.fresh_options.get(&kind).map(Vec::as_slice).unwrap_or_default();
    let mut options = socket_options::differing(&socket.fd, fresh);
    let unknown = source.unknown_options.get(&kind).map(Vec::as_slice).unwrap_or_default();
    let close = "have the program switch it off, or close the socket";
    if let Some(why) = socket_options::unknown_set(&socket.fd, unknown) {
        source.refuse(refuse::because(file, &why, close));
    }
    if socket_options::has_time_limit(&options) {
        source.note(file.object(), TIME_LIMIT);
    }
    if let Some(why) = socket_options::refused(&options) {
        source.refuse(refuse::because(file, why, close));
        // nobody need try to set it
        options.retain(|option| socket_options::refused(std::slice::from_ref(option)).is_none());
    }
    if fds::has_socket_filter(&socket.fd) {
        source.refuse(refuse::because(
            file,
            FILTER,
            "have the program detach it (SO_DETACH_FILTER) before the move",
        ));
    }
    Ok(options)
}

/// What a fresh socket of a kind has, in the process's own network namespace (some defaults are the namespace's).
fn look_at_fresh(source: &mut Source<'_>, kind: (i32, i32, i32)) -> Result<(), FilesError> {
    let (domain, socket_type, protocol) = kind;
    let search = !source.stopped;
    let (options, unknown) = in_network_of(source.pid, move || {
        let fresh = fds::socket(domain, socket_type, protocol)?;
        let unknown = if search { socket_options::unknown(&fresh) } else { Vec::new() };
        Ok((socket_options::all(&fresh, domain), unknown))
    })?;
    if search {
        source.image.fresh.push(FreshSocket {
            domain,
            kind: socket_type,
            protocol,
            options: options.clone(),
        });
    }
    source.fresh_options.insert(kind, options);
    source.unknown_options.insert(kind, unknown);
    Ok(())
}
