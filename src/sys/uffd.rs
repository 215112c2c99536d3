//! userfaultfd(2) on descriptors that were made elsewhere, mostly inside another process: the crate `userfaultfd` wraps them as
//! they are.
//!
//! The handshake is ours: the crate does not know features as young as `WP_ASYNC` (Linux 6.7), and would make the
//! descriptor itself, of our own memory.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use userfaultfd::{Error, EventBuffer, RegisterMode, Uffd};

/// Only faults from user mode are handled: allowed without privileges.
pub const UFFD_USER_MODE_ONLY: u64 = 1;

bitflags::bitflags! {
    /// Features of `UFFDIO_API`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// `fork` gives the child's copy of a registered area a userfaultfd of its own. Needs CAP_SYS_PTRACE.
        const EVENT_FORK = 1 << 1;
        /// `mremap` is told.
        const EVENT_REMAP = 1 << 2;
        /// `MADV_DONTNEED`, `MADV_FREE`, `MADV_REMOVE` are told, before they happen.
        const EVENT_REMOVE = 1 << 3;
        /// Missing pages of hugetlb memory.
        const MISSING_HUGETLBFS = 1 << 4;
        /// Missing pages of shared memory.
        const MISSING_SHMEM = 1 << 5;
        /// `munmap` is told, after it happened.
        const EVENT_UNMAP = 1 << 6;
        /// Write-protection on shmem and hugetlb.
        const WP_HUGETLBFS_SHMEM = 1 << 12;
        /// Markers for pages that are not populated.
        const WP_UNPOPULATED = 1 << 13;
        /// A write to a protected page is resolved by the kernel at once and only leaves a mark.
        const WP_ASYNC = 1 << 15;
    }
}

impl Features {
    /// What finds written pages without a fault that anybody must serve.
    pub const TRACKING: Self = Self::WP_ASYNC.union(Self::WP_UNPOPULATED).union(Self::WP_HUGETLBFS_SHMEM);
    /// What serves the faults of private memory from outside, and hears of every change of the mappings.
    pub const SERVING: Self = Self::SERVING_SHARED.union(Self::EVENT_REMOVE);
    /// The same of mappings of shared objects, where removing is not told.
    pub const SERVING_SHARED: Self = Self::EVENT_FORK
        .union(Self::EVENT_REMAP)
        .union(Self::EVENT_UNMAP)
        .union(Self::MISSING_HUGETLBFS)
        .union(Self::MISSING_SHMEM);
}

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const _: () = assert!(size_of::<ApiArg>() == 24);
const _: () =
    assert!(std::mem::offset_of!(ApiArg, features) == 8 && std::mem::offset_of!(ApiArg, ioctls) == 16);

/// Shakes hands; must be the first call on a fresh descriptor. `EINVAL`: a feature is missing.
pub fn handshake(uffd: BorrowedFd<'_>, features: Features) -> Result<(), Errno> {
    let mut arg = ApiArg { api: 0xaa, features: features.bits(), ioctls: 0 };
    // SAFETY: arg is valid for the size encoded in the request.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut arg) }).map(drop)
}

/// A descriptor as the crate's object, for one request: it stays its owner's.
fn wrapped(uffd: BorrowedFd<'_>) -> ManuallyDrop<Uffd> {
    // SAFETY: the borrow outlives the request, and what is never dropped never closes it.
    ManuallyDrop::new(unsafe { Uffd::from_raw_fd(uffd.as_raw_fd()) })
}

/// An address of the other process: never one of ours to be read or written.
fn address(of: u64) -> *mut c_void {
    std::ptr::without_provenance_mut(of as usize)
}

/// The kernel's answer behind an error of the crate.
fn errno(error: &Error) -> Errno {
    match error {
        // its own version of nix, with the same numbers
        Error::SystemError(e) | Error::CopyFailed(e) | Error::ZeropageFailed(e) => Errno::from_raw(*e as i32),
        Error::PartiallyCopied(_) => Errno::EAGAIN,
        Error::ReadEof
        | Error::IncompleteMsg { .. }
        | Error::UnrecognizedEvent(_)
        | Error::UnsupportedIoctls(_)
        | Error::OpenDevUserfaultfd(_) => Errno::EIO,
    }
}

/// Registers `[start, start + len)` for write-protection; ranges that already are stay as they are.
/// `EINVAL`: nothing is mapped there or the mapping cannot be tracked; `EBUSY`: another userfaultfd has it;
/// `ENOMEM`: the process is going away.
pub fn register_write_protect(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    register(uffd, start, len, RegisterMode::WRITE_PROTECT)
}

/// Registers a whole mapping for missing faults. Errors as of [`register_write_protect`].
pub fn register_missing(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    register(uffd, start, len, RegisterMode::MISSING)
}

fn register(uffd: BorrowedFd<'_>, start: u64, len: u64, mode: RegisterMode) -> Result<(), Errno> {
    wrapped(uffd).register_with_mode(address(start), len as usize, mode).map(drop).map_err(|e| errno(&e))
}

/// Takes the protection and its mark off all pages of a range (`UFFDIO_WRITEPROTECT`, mode 0).
pub fn unprotect(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    wrapped(uffd).remove_write_protection(address(start), len as usize, true).map_err(|e| errno(&e))
}

/// Ends the registration of a mapping, and wakes who waits there. `EINVAL`: it is of a kind that cannot be registered.
pub fn unregister(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    wrapped(uffd).unregister(address(start), len as usize).map_err(|e| errno(&e))
}

/// Whether the address space behind it is still there: once its process has ended or executed another program, every
/// request is answered with `ESRCH` (`mmget_not_zero`).
pub fn alive(uffd: BorrowedFd<'_>) -> bool {
    // nothing can be registered at address 0
    unregister(uffd, 0, 4096) != Err(Errno::ESRCH)
}

/// Places `data` at `to`, whole pages, each at once: no thread can see half of one; wakes who waits for them. Returns how many
/// bytes were placed, and what stopped it before the end. `EEXIST`: there is a page; `EAGAIN`: the mappings are about to
/// change, and an event tells how; `ENOENT`: nothing registered is there; `ESRCH`: see [`alive`].
pub fn copy(uffd: BorrowedFd<'_>, to: u64, data: &[u8]) -> (u64, Option<Errno>) {
    // SAFETY: the kernel reads `len` bytes that `data` owns, and writes only into registered memory of the address space
    // behind the descriptor: pages that nobody has seen yet.
    match unsafe { wrapped(uffd).copy(data.as_ptr().cast(), address(to), data.len(), true) } {
        Ok(done) => (done as u64, None),
        // bytes, or the negative error if there were none
        Err(Error::PartiallyCopied(done)) => ((done as i64).max(0) as u64, Some(Errno::EAGAIN)),
        Err(e) => (0, Some(errno(&e))),
    }
}

/// Maps zeroes at missing pages. Returns like [`copy`], but one that `EAGAIN` stopped in the middle does not say how far
/// it came: there is a page (`EEXIST`) when it is tried again. Not for hugetlb memory (`EINVAL`).
pub fn zero(uffd: BorrowedFd<'_>, start: u64, len: u64) -> (u64, Option<Errno>) {
    // SAFETY: as in `copy`, without a source.
    match unsafe { wrapped(uffd).zeropage(address(start), len as usize, true) } {
        Ok(done) => (done as u64, None),
        Err(e) => (0, Some(errno(&e))),
    }
}

/// Whether every change of the mappings that has begun has been told, and its thread goes on (`mmap_changing` is 0): the first thing
/// that any request asks.
pub fn is_settled(uffd: BorrowedFd<'_>) -> bool {
    // nothing can be placed at address 0
    zero(uffd, 0, 4096).1 != Some(Errno::EAGAIN)
}

/// Wakes who waits for a page of the range: they look again.
pub fn wake(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    wrapped(uffd).wake(address(start), len as usize).map_err(|e| errno(&e))
}

/// What a userfaultfd tells.
#[derive(Debug)]
pub enum Event {
    /// A thread waits for the page at this address (of hugetlb memory: its first byte).
    Fault(u64),
    /// The process has forked: the child's registered areas answer to this descriptor.
    Fork(OwnedFd),
    /// `len` bytes moved.
    Remap {
        /// From here.
        from: u64,
        /// To there.
        to: u64,
        /// Bytes.
        len: u64,
    },
    /// What is in this range is being dropped.
    Remove(u64, u64),
    /// This range is not mapped any more.
    Unmap(u64, u64),
}

/// Reads what it has to tell; empty if there is nothing just now. Faults come first, whenever they happened, then events in the order
/// in which their threads came to wait (`find_userfault_in` reads the far end of the queue). Reading an event lets its thread go on,
/// which may tell the next one before the read is done. The descriptor does not block.
pub fn events(uffd: BorrowedFd<'_>) -> Result<Vec<Event>, Errno> {
    const MOST: usize = 64;
    let (uffd, mut buffer) = (wrapped(uffd), EventBuffer::new(MOST));
    loop {
        match uffd.read_events(&mut buffer) {
            Ok(read) => return Ok(read.filter_map(|told| told.ok().map(event)).collect()),
            // a signal that is there is looked for before O_NONBLOCK (`userfaultfd_ctx_read`)
            Err(e) if errno(&e) == Errno::EINTR => {}
            Err(e) => return Err(errno(&e)),
        }
    }
}

fn event(told: userfaultfd::Event) -> Event {
    let number = |place: *mut c_void| place.addr() as u64;
    match told {
        userfaultfd::Event::Pagefault { addr, .. } => Event::Fault(number(addr)),
        userfaultfd::Event::Fork { uffd } => {
            // not `into_raw_fd`, which drops the object and so closes what it returns (0.9.0)
            let uffd = ManuallyDrop::new(uffd);
            // SAFETY: the kernel has just installed this descriptor for us; the object that held it is never dropped.
            Event::Fork(unsafe { OwnedFd::from_raw_fd(uffd.as_raw_fd()) })
        }
        userfaultfd::Event::Remap { from, to, len } => {
            Event::Remap { from: number(from), to: number(to), len: len as u64 }
        }
        userfaultfd::Event::Remove { start, end } => Event::Remove(number(start), number(end)),
        userfaultfd::Event::Unmap { start, end } => Event::Unmap(number(start), number(end)),
    }
}

/// Makes a userfaultfd of our own process.
pub fn create_own(flags: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: plain system call without pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC as u64 | flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
