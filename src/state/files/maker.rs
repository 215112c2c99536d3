//! The work of making open files again, in progress: what every kind's maker finds there and adds to.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use crate::image::files::{ContentHashes, FileOwner, FilesImage, OpenFile, OwnerKind, PeerCredentials};
use crate::image::{FilePath, Note, Obstacle};
use crate::sys::fds::{self, RawOwner};

use super::FilesError;
use super::identity::Vetted;
use super::tcp_place::Place;

/// Status flags that `F_SETFL` can change.
pub(super) const SETTABLE_FLAGS: i32 =
    libc::O_APPEND | libc::O_NONBLOCK | libc::O_ASYNC | libc::O_DIRECT | libc::O_NOATIME;

/// What preflight at the target found.
#[derive(Debug, Default)]
pub struct TargetCheck {
    /// All that stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// What will differ without standing in the way.
    pub notes: Vec<Note>,
    /// Paths whose content has to be compared: ask the source for [`super::content_hash`] of each and check
    /// again with the answers.
    pub needs_hash: Vec<FilePath>,
    /// Files that differ as files but have the source's content; [`RestoreContext::vetted`] takes them.
    pub vetted: Vec<Vetted>,
}

/// What `restore` needs beside the image.
#[derive(Debug, Default)]
pub struct RestoreContext {
    /// Memory files by [`crate::image::files::MemFd::object`]; they stay the caller's.
    pub memfds: BTreeMap<u64, OwnedFd>,
    /// From [`TargetCheck::vetted`].
    pub vetted: Vec<Vetted>,
    /// How long ago the image was captured; timers have run on meanwhile.
    pub since_capture: Duration,
    /// Process, thread and group numbers of the source as this process sees their successors; one that is
    /// missing is taken to be the same here.
    pub ids: BTreeMap<i32, i32>,
    /// Its process group here; 0: as at the source.
    pub group: i32,
    /// Pairs of unix sockets that the process made.
    pub pairs: Vec<UnixPair>,
    /// Where TCP connections that are over are made, if there are any.
    pub place: Option<Place>,
}

/// One `epoll_ctl(epfd, EPOLL_CTL_ADD, fd, {events, data})` to be made inside the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpollAdd {
    /// The epoll's slot.
    pub epfd: i32,
    /// The watched slot.
    pub fd: i32,
    /// Event mask.
    pub events: u32,
    /// The program's own word.
    pub data: u64,
}

/// Two connected sockets, made by the process itself: `SO_PEERCRED` names who called `socketpair`.
#[derive(Debug)]
pub struct UnixPair {
    /// `SOCK_STREAM` …
    pub socket_type: i32,
    /// As whom it was made.
    pub credentials: PeerCredentials,
    /// The two.
    pub ends: (OwnedFd, OwnedFd),
}

/// A pipe made again: the ends not yet handed out, and the path to open more of them.
#[derive(Debug)]
pub(super) struct PipeEnds {
    pub(super) reader: Option<OwnedFd>,
    pub(super) writer: Option<OwnedFd>,
    pub(super) path: String,
}

/// The work of one `restore`: what is shared between open files.
pub(super) struct Maker<'a> {
    pub(super) image: &'a FilesImage,
    pub(super) context: &'a RestoreContext,
    pub(super) hashes: Option<&'a ContentHashes>,
    /// Pipe ends that were made and not yet asked for, and one end of each pipe to open more from.
    pub(super) pipes: HashMap<usize, PipeEnds>,
    /// Ends of socket pairs that were made with their peers, by index of the file.
    pub(super) unix_ends: HashMap<usize, OwnedFd>,
    pub(super) pairs: Vec<UnixPair>,
    pub(super) epoll: Vec<EpollAdd>,
}

impl<'a> Maker<'a> {
    pub(super) fn new(image: &'a FilesImage, context: &'a RestoreContext) -> Self {
        Self {
            image,
            context,
            hashes: None,
            pipes: HashMap::new(),
            unix_ends: HashMap::new(),
            pairs: Vec::new(),
            epoll: Vec::new(),
        }
    }

    pub(super) fn set_owner(
        &self,
        file: &OpenFile,
        made: &OwnedFd,
        owner: &FileOwner,
    ) -> Result<(), FilesError> {
        let id = match owner.kind {
            OwnerKind::Group if self.context.group != 0 && owner.id != 0 => self.context.group,
            _ => self.context.ids.get(&owner.id).copied().unwrap_or(owner.id),
        };
        fds::set_owner(made, RawOwner { kind: owner.kind as i32, id }, owner.signal)
            .map_err(failed(file, "set the owner"))
    }
}

/// Gives a new descriptor the status flags of the source's; `O_ASYNC` comes in the process ([`super::Signalled`]).
pub(super) fn set_flags(file: &OpenFile, made: impl AsFd) -> Result<(), FilesError> {
    let flags = file.flags as i32 & SETTABLE_FLAGS & !libc::O_ASYNC;
    fds::set_status_flags(made.as_fd(), flags).map_err(failed(file, "set the flags"))
}

/// Turns the kernel's answer into an error that names the file and the step.
pub(super) fn failed<E: Into<io::Error>>(
    file: &OpenFile,
    step: &'static str,
) -> impl FnOnce(E) -> FilesError + use<E> {
    let object = file.object();
    move |source| FilesError::Make { object, step, source: source.into() }
}
