//! The one place where kinds of open file are listed: who reads them at the source (`read`), who checks
//! them at the target (`check`), who makes them again (`make`). A new kind is a new file beside this one
//! and a line in each of the three.

use std::os::fd::OwnedFd;

use crate::image::files::{FileKind, OpenFile};

use super::maker::{Maker, TargetCheck};
use super::source::{Descriptor, Source};
use super::{
    FilesError, epoll, eventfd, memfd, pipe, refuse, regular, signalfd, socket_kinds, tcp_listen, tcp_over,
    timerfd, udp, unix_socket,
};

/// Reads one open file of the source; `None` when it is refused, with the obstacle noted in `source`.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    if file.flags & libc::O_PATH as u32 != 0 && !file.link.starts_with("/") {
        source.refuse(refuse::unknown(file));
        return Ok(None);
    }
    // only the beginning counts, and that is of the kernel's own making
    match &*String::from_utf8_lossy(file.link.as_bytes()) {
        "anon_inode:[eventfd]" => eventfd::read(source, file),
        "anon_inode:[eventpoll]" => epoll::read(source, file),
        "anon_inode:[timerfd]" => timerfd::read(source, file),
        "anon_inode:[signalfd]" => signalfd::read(file),
        link if link.starts_with("pipe:[") => pipe::read(source, file),
        link if link.starts_with("socket:[") => socket_kinds::read(source, file),
        link if link.starts_with("/memfd:") => memfd::read(source, file),
        link if link.starts_with("/dev/shm/") && link.ends_with(" (deleted)") => memfd::read(source, file),
        link if link.starts_with('/') => regular::read(source, file),
        _ => {
            source.refuse(refuse::unknown(file));
            Ok(None)
        }
    }
}

/// Checks at the target, leaving nothing behind, whether `file` can be made there.
pub(super) fn check(check: &mut TargetCheck, maker: &Maker<'_>, file: &OpenFile) {
    match &file.kind {
        FileKind::Regular { path, identity, .. } => {
            regular::check_regular(check, maker, file, path, identity);
        }
        FileKind::Directory { path, pos, identity } => {
            regular::check_directory(check, file, path, *pos, identity);
        }
        FileKind::Place { path, .. } => regular::check_open(check, file, path),
        FileKind::CharDevice { path, major, minor } => {
            regular::check_device(check, file, path, (*major, *minor));
        }
        FileKind::Pipe { pipe } => pipe::check(check, maker.image, *pipe, file),
        FileKind::TimerFd(timer) => timerfd::check(check, timer, file),
        FileKind::TcpListen(tcp) => tcp_listen::check(check, tcp, file),
        FileKind::TcpOver(tcp) => tcp_over::check(check, maker.context.place.as_ref(), tcp, file),
        FileKind::Udp(socket) => udp::check(check, socket, file),
        // Made of nothing but memory: they can always be made.
        FileKind::Unix(socket) => unix_socket::check(check, socket, file),
        FileKind::EventFd { .. } | FileKind::SignalFd { .. } => {}
        FileKind::Epoll { busy_poll, .. } => epoll::check(check, file, *busy_poll),
        FileKind::MemFd { object, .. } => memfd::check(check, &maker.image.memfds, *object, file),
    }
}

/// Makes the open file `index` of the image.
pub(super) fn make(maker: &mut Maker<'_>, index: usize) -> Result<OwnedFd, FilesError> {
    let file = &maker.image.files[index];
    match &file.kind {
        FileKind::Regular { path, pos, identity } | FileKind::Directory { path, pos, identity } => {
            regular::make(maker, file, path, identity, Some(*pos))
        }
        FileKind::Place { path, identity } => regular::make(maker, file, path, identity, None),
        FileKind::CharDevice { path, major, minor } => regular::make_device(file, path, (*major, *minor)),
        FileKind::Pipe { pipe } => pipe::make(maker, file, *pipe),
        FileKind::Unix(socket) => unix_socket::make(maker, index, file, socket),
        FileKind::EventFd { count, semaphore } => eventfd::make(file, *count, *semaphore),
        FileKind::Epoll { items, busy_poll } => epoll::make(maker, index, file, (items, *busy_poll)),
        FileKind::TimerFd(timer) => timerfd::make(maker, file, timer),
        FileKind::SignalFd { mask } => signalfd::make(file, *mask),
        FileKind::MemFd { object, pos } => memfd::make(maker, file, *object, *pos),
        FileKind::TcpListen(tcp) => tcp_listen::make(file, tcp),
        FileKind::TcpOver(tcp) => tcp_over::make(file, maker.context.place.as_ref(), tcp),
        FileKind::Udp(socket) => udp::make(file, socket),
    }
}
