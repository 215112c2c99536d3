//! A walk over the descriptors of a process in progress: what every kind's reader finds there and adds to.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::image::files::{FdSlot, FilesImage, OpenFile, SocketOption};
use crate::image::{FilePath, Note, Obstacle};
use crate::sys::process::pidfd_getfd;

use super::socket_diag::SocketDiag;
use super::{FilesError, FilesOptions};

/// One descriptor as `/proc` shows it.
#[derive(Debug, Clone)]
pub(super) struct Descriptor {
    pub(super) fd: i32,
    pub(super) link: FilePath,
    pub(super) pos: u64,
    /// Status flags and access mode, without `O_CLOEXEC`.
    pub(super) flags: u32,
    pub(super) cloexec: bool,
    pub(super) ino: u64,
    /// All of `fdinfo`.
    pub(super) info: String,
}

impl Descriptor {
    pub(super) fn object(&self) -> String {
        format!("fd {}: {}", self.fd, self.link)
    }

    /// The rest of the line `field:`.
    pub(super) fn field(&self, field: &'static str) -> Result<&str, FilesError> {
        line_value(&self.info, field).ok_or(FilesError::Fdinfo { fd: self.fd, field })
    }

    /// The number after `field:`, in the given base.
    pub(super) fn number(&self, field: &'static str, base: u32) -> Result<u64, FilesError> {
        u64::from_str_radix(self.field(field)?, base).map_err(|_| FilesError::Fdinfo { fd: self.fd, field })
    }
}

fn line_value<'a>(text: &'a str, field: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

/// A walk in progress; the kinds' readers add to it.
pub(super) struct Source<'a> {
    pub(super) pid: i32,
    pidfd: BorrowedFd<'a>,
    pub(super) options: &'a FilesOptions,
    /// Every thread is stopped: contents are read.
    pub(super) stopped: bool,
    /// What the preflight described, by descriptor.
    previous: HashMap<i32, &'a OpenFile>,
    links_met: HashSet<&'a FilePath>,
    /// The whole table.
    pub(super) descriptors: Vec<Descriptor>,
    /// The slots of its table.
    pub(super) table: Vec<FdSlot>,
    pub(super) image: FilesImage,
    pub(super) obstacles: Vec<Obstacle>,
    /// Index of a unix socket's file, inode of its peer.
    pub(super) unix_peers: Vec<(usize, u64)>,
    /// Those of them whose peer is no descriptor of the process.
    pub(super) outside_peers: Vec<(usize, u64)>,
    /// Options of a fresh socket, by domain, type and protocol.
    pub(super) fresh_options: HashMap<(i32, i32, i32), Vec<SocketOption>>,
    /// The way to ask about sockets, opened with the first one that it takes.
    diag: Option<SocketDiag>,
    /// Options that the table does not know, of fresh sockets: by domain, type and protocol.
    pub(super) unknown_options: HashMap<(i32, i32, i32), Vec<SocketOption>>,
    /// What was due when the table was read has expired by now.
    pub(super) due_timers_expired: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(
        pid: i32,
        pidfd: BorrowedFd<'a>,
        options: &'a FilesOptions,
        previous: Option<&'a FilesImage>,
        stopped: bool,
    ) -> Self {
        let known = |image: &'a FilesImage| image.files.iter().map(|file| (file.fd, file)).collect();
        let links = |image: &'a FilesImage| image.files.iter().map(|file| &file.link).collect();
        Self {
            pid,
            pidfd,
            options,
            stopped,
            previous: previous.map(known).unwrap_or_default(),
            links_met: previous.map(links).unwrap_or_default(),
            descriptors: Vec::new(),
            table: Vec::new(),
            image: FilesImage::default(),
            obstacles: Vec::new(),
            unix_peers: Vec::new(),
            outside_peers: Vec::new(),
            fresh_options: previous.map(fresh_options).unwrap_or_default(),
            diag: None,
            unknown_options: HashMap::new(),
            due_timers_expired: false,
        }
    }

    /// Our own duplicate of a descriptor of the process.
    pub(super) fn duplicate(&self, file: &Descriptor) -> Result<OwnedFd, FilesError> {
        pidfd_getfd(self.pidfd, file.fd).map_err(|error| self.failed(file, "make a duplicate", error.into()))
    }

    /// The magic link of a descriptor.
    pub(super) fn magic_link(&self, file: &Descriptor) -> String {
        format!("/proc/{}/fd/{}", self.pid, file.fd)
    }

    /// What preflight said about the same open file, if nothing shows that it is another one now.
    pub(super) fn known(&self, file: &Descriptor) -> Option<&'a OpenFile> {
        self.previous
            .get(&file.fd)
            .copied()
            .filter(|known| known.link == file.link && known.ino == file.ino && known.flags == file.flags)
    }

    /// The way to ask about sockets.
    pub(super) fn diag(&mut self) -> Result<&SocketDiag, FilesError> {
        if self.diag.is_none() {
            self.diag = Some(SocketDiag::open(self.pid)?);
        }
        // filled in just now
        self.diag.as_ref().ok_or(FilesError::Gone { pid: self.pid })
    }

    /// Is this walk the one that has to look at everything?
    pub(super) fn is_preflight(&self) -> bool {
        self.previous.is_empty()
    }

    /// Did preflight meet an object with this link?
    pub(super) fn was_met(&self, link: &FilePath) -> bool {
        self.links_met.contains(link)
    }

    pub(super) fn refuse(&mut self, obstacle: Obstacle) {
        if !self.obstacles.contains(&obstacle) {
            self.obstacles.push(obstacle);
        }
    }

    pub(super) fn note(&mut self, object: impl Into<String>, what: impl Into<String>) {
        self.image.notes.push(Note::new(object, what));
    }

    pub(super) fn failed(&self, file: &Descriptor, step: &'static str, source: io::Error) -> FilesError {
        FilesError::Read { pid: self.pid, fd: file.fd, step, source }
    }

    /// One descriptor as it is now.
    pub(super) fn read_descriptor(&self, fd: i32) -> Result<Descriptor, FilesError> {
        let pid = self.pid;
        let failed = |step| move |source| FilesError::Read { pid, fd, step, source };
        let link = fs::read_link(format!("/proc/{pid}/fd/{fd}")).map_err(failed("read the link"))?;
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).map_err(failed("read fdinfo"))?;
        let mut descriptor =
            Descriptor { fd, link: link.into(), pos: 0, flags: 0, cloexec: false, ino: 0, info };
        let flags = descriptor.number("flags", 8)? as u32;
        let cloexec = libc::O_CLOEXEC as u32;
        descriptor.cloexec = flags & cloexec != 0;
        descriptor.flags = flags & !cloexec;
        descriptor.pos = descriptor.number("pos", 10).unwrap_or(0);
        descriptor.ino = descriptor.number("ino", 10).unwrap_or(0);
        Ok(descriptor)
    }
}

/// By domain, type and protocol.
fn fresh_options(image: &FilesImage) -> HashMap<(i32, i32, i32), Vec<SocketOption>> {
    let kinds = image.fresh.iter();
    kinds.map(|fresh| ((fresh.domain, fresh.kind, fresh.protocol), fresh.options.clone())).collect()
}
