//! Open files and descriptors of a tree, as data. No I/O: `state::files` fills and applies it.
//!
//! ```text
//! process ─▶ tables[0]: fd 0 ─┐            files (open file descriptions)      objects behind them
//! process ─▶       [0]: fd 1 ─┼─────────▶  [0] Regular /var/log/app, O_APPEND
//! process ─▶       [1]: fd 2 ─┘ (dup)      [1] Pipe, O_RDONLY  ───────────────▶ pipes[0]  (capacity, data)
//!                       fd 3 ───────────▶  [1]                                  memfds[..]
//! ```
//! A table is one process's, or that of several (`CLONE_FILES`); an open file is that of all tables that have it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::file_path::FilePath;
use super::inode::Inode;
use super::memory::{MemoryObject, ObjectId};
use super::note::Note;

pub use super::file_identity::{FileIdentity, is_pseudo_fs, is_shared_fs};
pub use super::sockets::{
    FreshSocket, InetAddress, Node, PeerCredentials, SocketOption, TcpEnd, TcpListen, TcpOver, Udp, UnixPeer,
    UnixSocket,
};

/// The blake3 hash of a file's content.
pub type ContentHash = [u8; 32];

/// Content hashes of source files, by path.
pub type ContentHashes = BTreeMap<FilePath, ContentHash>;

/// All that the processes of a tree have open.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesImage {
    /// The descriptor tables.
    pub tables: Vec<DescriptorTable>,
    /// Open file descriptions; several slots, of one table or more, may share one.
    pub files: Vec<OpenFile>,
    /// Pipes whose ends are among `files`.
    pub pipes: Vec<Pipe>,
    /// Memory files that are among `files`; the content travels with the pages.
    pub memfds: Vec<MemFd>,
    /// Options of fresh sockets of the source, of the kinds that are among `files`; in a preflight description only.
    pub fresh: Vec<FreshSocket>,
    /// What will be lost or differ in a way that does not stand in the way; for the user.
    pub notes: Vec<Note>,
}

/// A descriptor table: its slots, ordered by number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DescriptorTable(pub Vec<FdSlot>);

impl FilesImage {
    /// The slots of all tables.
    pub fn slots(&self) -> impl Iterator<Item = &FdSlot> {
        self.tables.iter().flat_map(|table| &table.0)
    }

    /// The slots of one table; none if there is no such table.
    pub fn table(&self, index: usize) -> &[FdSlot] {
        self.tables.get(index).map_or(&[], |table| &table.0)
    }
}

/// One entry of a descriptor table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdSlot {
    /// The descriptor's number.
    pub fd: i32,
    /// Index into [`FilesImage::files`].
    pub file: usize,
    /// `FD_CLOEXEC`, which belongs to the slot.
    pub cloexec: bool,
}

/// One open file description: what `dup` shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFile {
    /// The lowest descriptor that leads here; for messages.
    pub fd: i32,
    /// What `/proc/PID/fd/N` says, such as `pipe:[4711]`; with `ino` the sign that nothing changed.
    pub link: FilePath,
    /// The inode number in `fdinfo`.
    pub ino: u64,
    /// `F_GETFL`: access mode and status flags.
    pub flags: u32,
    /// Who gets SIGIO or SIGURG (`F_SETOWN_EX`, `F_SETSIG`).
    pub owner: Option<FileOwner>,
    /// Owner and mode of a socket.
    pub node: Option<Node>,
    /// What it is.
    pub kind: FileKind,
}

impl OpenFile {
    /// The object as the user knows it: `fd 7: /var/log/app.log`.
    pub fn object(&self) -> String {
        format!("fd {}: {}", self.fd, self.link)
    }
}

/// The receiver of a file's signals.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileOwner {
    /// Thread, process or process group.
    pub kind: OwnerKind,
    /// Its number at the source; 0 for none.
    pub id: i32,
    /// `F_SETSIG`; 0 is the default (SIGIO).
    pub signal: i32,
}

/// What a [`FileOwner`] number means; discriminants are the kernel's `F_OWNER_*`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OwnerKind {
    /// One thread.
    Thread = 0,
    /// A process.
    Process = 1,
    /// A process group.
    Group = 2,
}

/// The kinds of open file that can be carried.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileKind {
    /// A file of a file system; opened again by its path at the target.
    Regular {
        /// Absolute path.
        path: FilePath,
        /// File position.
        pos: u64,
        /// Which file it was.
        identity: FileIdentity,
    },
    /// A directory.
    Directory {
        /// Absolute path.
        path: FilePath,
        /// Position in the listing (a cookie of the file system).
        pos: u64,
        /// Which directory it was.
        identity: FileIdentity,
    },
    /// Anything opened with `O_PATH`: a place, not an open file.
    Place {
        /// Absolute path.
        path: FilePath,
        /// What was there.
        identity: FileIdentity,
    },
    /// `/dev/null` and its like.
    CharDevice {
        /// The path it was opened by.
        path: FilePath,
        /// Major device number.
        major: u32,
        /// Minor device number.
        minor: u32,
    },
    /// One end of a pipe; which end follows from the access mode in the flags.
    Pipe {
        /// Index into [`FilesImage::pipes`].
        pipe: usize,
    },
    /// One end of a socket pair, or an unconnected unix socket.
    Unix(UnixSocket),
    /// `eventfd(2)`.
    EventFd {
        /// The counter.
        count: u64,
        /// `EFD_SEMAPHORE`.
        semaphore: bool,
    },
    /// `epoll(7)`: the interest list.
    Epoll {
        /// Entries; their descriptors are those of the table by which it is had.
        items: Vec<EpollItem>,
        /// Busy polling (`EPIOCGPARAMS`), where it is switched on.
        busy_poll: Option<BusyPoll>,
    },
    /// `timerfd_create(2)`.
    TimerFd(TimerFd),
    /// `signalfd(2)`.
    SignalFd {
        /// Bit n-1 stands for signal n.
        mask: u64,
    },
    /// `memfd_create(2)`.
    MemFd {
        /// [`MemFd::object`].
        object: u64,
        /// File position.
        pos: u64,
    },
    /// A TCP socket that listens, or was not connected yet.
    TcpListen(TcpListen),
    /// A TCP connection that is over, or is closed by the move (`--tcp close`).
    TcpOver(TcpOver),
    /// A UDP socket.
    Udp(Udp),
}

impl FileKind {
    /// The kind in one word, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Regular { .. } => "regular file",
            Self::Directory { .. } => "directory",
            Self::Place { .. } => "path descriptor",
            Self::CharDevice { .. } => "character device",
            Self::Pipe { .. } => "pipe",
            Self::Unix(_) => "unix socket",
            Self::EventFd { .. } => "eventfd",
            Self::Epoll { .. } => "epoll",
            Self::TimerFd(_) => "timerfd",
            Self::SignalFd { .. } => "signalfd",
            Self::MemFd { .. } => "memfd",
            Self::TcpListen(_) => "listening TCP socket",
            Self::TcpOver(_) => "TCP connection",
            Self::Udp(_) => "UDP socket",
        }
    }

    /// What it is open at in a file system, if it is opened again by a path.
    pub fn at_path(&self) -> Option<(AtPath, &FilePath)> {
        match self {
            Self::Regular { path, .. } => Some((AtPath::File, path)),
            Self::Directory { path, .. } => Some((AtPath::Directory, path)),
            Self::Place { path, .. } => Some((AtPath::Place, path)),
            Self::CharDevice { path, .. } => Some((AtPath::Device, path)),
            Self::Pipe { .. } | Self::Unix(_) | Self::TcpListen(_) | Self::TcpOver(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
            Self::MemFd { .. } => None,
        }
    }

    /// Which file it was at its path, where that is kept.
    pub fn identity(&mut self) -> Option<(&FilePath, &mut FileIdentity)> {
        match self {
            Self::Regular { path, identity, .. }
            | Self::Directory { path, identity, .. }
            | Self::Place { path, identity, .. } => Some((path, identity)),
            Self::CharDevice { .. } | Self::Pipe { .. } | Self::Unix(_) | Self::MemFd { .. } => None,
            Self::TcpListen(_) | Self::TcpOver(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
        }
    }

    /// Object of memory that it holds: [`MemFd::object`].
    pub fn memory(&self) -> Option<u64> {
        match self {
            Self::MemFd { object, .. } => Some(*object),
            Self::Regular { .. } | Self::Directory { .. } | Self::Place { .. } | Self::CharDevice { .. } => {
                None
            }
            Self::Pipe { .. } | Self::Unix(_) | Self::TcpListen(_) | Self::TcpOver(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
        }
    }

    /// Pipe that it is an end of: index into [`FilesImage::pipes`].
    pub fn pipe(&self) -> Option<usize> {
        match self {
            Self::Pipe { pipe } => Some(*pipe),
            Self::Regular { .. } | Self::Directory { .. } | Self::Place { .. } | Self::CharDevice { .. } => {
                None
            }
            Self::Unix(_) | Self::TcpListen(_) | Self::TcpOver(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
            Self::MemFd { .. } => None,
        }
    }

    /// Socket that was made in somebody's name (`SO_PEERCRED`), and may have its peer in the same image.
    pub fn unix(&self) -> Option<&UnixSocket> {
        match self {
            Self::Unix(socket) => Some(socket),
            Self::Regular { .. } | Self::Directory { .. } | Self::Place { .. } | Self::CharDevice { .. } => {
                None
            }
            Self::Pipe { .. } | Self::TcpListen(_) | Self::TcpOver(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
            Self::MemFd { .. } => None,
        }
    }

    /// The same, to be changed.
    pub fn unix_mut(&mut self) -> Option<&mut UnixSocket> {
        self.unix()?;
        if let Self::Unix(socket) = self { Some(socket) } else { None }
    }

    /// Connection that is dead, and made in a network of its own.
    pub fn over(&self) -> Option<&TcpOver> {
        match self {
            Self::TcpOver(tcp) => Some(tcp),
            Self::Regular { .. } | Self::Directory { .. } | Self::Place { .. } | Self::CharDevice { .. } => {
                None
            }
            Self::Pipe { .. } | Self::Unix(_) | Self::TcpListen(_) | Self::Udp(_) => None,
            Self::EventFd { .. } | Self::Epoll { .. } | Self::TimerFd(_) | Self::SignalFd { .. } => None,
            Self::MemFd { .. } => None,
        }
    }
}

/// What a descriptor that has a path is open at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtPath {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A place (`O_PATH`), whatever is there.
    Place,
    /// A harmless device: `/dev/null` and its like.
    Device,
}

/// A pipe with what waits in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pipe {
    /// Inode number at the source.
    pub ino: u64,
    /// `F_GETPIPE_SZ`.
    pub capacity: u32,
    /// Owner, mode, times.
    pub inode: Inode,
    /// What was written and not yet read; empty in a preflight description.
    pub data: Vec<u8>,
    /// Lengths of the packets (`O_DIRECT`) with which `data` begins.
    pub packets: Vec<u16>,
}

/// A memory file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemFd {
    /// Identifies the object: its inode number at the source.
    pub object: u64,
    /// Device number of its (internal) file system; `(dev, object)` finds its mappings in `/proc/PID/maps`.
    pub dev: u64,
    /// The name given to `memfd_create`.
    pub name: FilePath,
    /// Bytes.
    pub size: u64,
    /// `F_GET_SEALS`.
    pub seals: u32,
    /// Owner, mode, times.
    pub inode: Inode,
    /// A nameless file of `/dev/shm`; the name is the path that it had.
    pub shm: bool,
    /// Page size when made of huge pages.
    pub huge_page: Option<u64>,
}

impl MemFd {
    /// The object that is to be made.
    pub fn object(&self) -> MemoryObject {
        MemoryObject {
            id: ObjectId { dev: self.dev, ino: self.object },
            size: self.size,
            memfd_name: Some(self.name.clone()),
            seals: self.seals.cast_signed(),
            page_size: self.huge_page.unwrap_or(super::PAGE_SIZE),
            inode: Some(self.inode.clone()),
            shm: self.shm,
        }
    }
}

/// `struct epoll_params`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyPoll {
    /// Microseconds.
    pub usecs: u32,
    /// Packets at once.
    pub budget: u16,
    /// Instead of interrupts.
    pub prefer: bool,
}

/// An entry of an epoll interest list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpollItem {
    /// A descriptor that leads to the watched file *now*.
    pub fd: i32,
    /// The number under which it was registered; differs when that one was closed after a `dup`.
    pub registered: i32,
    /// Event mask.
    pub events: u32,
    /// The program's own word.
    pub data: u64,
}

/// A timer behind a descriptor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerFd {
    /// Which clock.
    pub clock: i32,
    /// Expirations that were counted and not read.
    pub ticks: u64,
    /// Nanoseconds to the next expiration; 0 when disarmed or expired.
    pub remaining_ns: u64,
    /// Period; 0 for a single shot.
    pub interval_ns: u64,
    /// `TFD_TIMER_ABSTIME` and `TFD_TIMER_CANCEL_ON_SET` as they were set.
    pub settime_flags: u32,
    /// For absolute wall-clock timers: when they expire, nanoseconds since 1970.
    pub expires_at_ns: Option<i64>,
}
