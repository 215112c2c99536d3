//! userfaultfd(2): handshake and registration of a descriptor made inside another process.
//!
//! The crate `userfaultfd` would serve, but its bindings need libclang at build time, which a fresh machine
//! lacks, and it knows neither `WP_ASYNC` nor a descriptor that was made elsewhere (docs/dependencies.md).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;

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

#[repr(C)]
struct ApiArg {
    api: u64,
    features: u64,
    ioctls: u64,
}
#[repr(C)]
struct RegisterArg {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}
const _: () = assert!(size_of::<ApiArg>() == 24 && size_of::<RegisterArg>() == 32);
/// `_IOWR(0xaa, 0x3f, struct uffdio_api)`
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
/// `_IOWR(0xaa, 0x00, struct uffdio_register)`
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
/// `_IOWR(0xaa, 0x06, struct uffdio_writeprotect)`
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
const MODE_WP: u64 = 2;

/// Shakes hands; must be the first call on a fresh descriptor. `EINVAL`: a feature is missing.
pub fn handshake(uffd: BorrowedFd<'_>, features: Features) -> Result<(), Errno> {
    let mut arg = ApiArg { api: 0xaa, features: features.bits(), ioctls: 0 };
    // SAFETY: arg is valid for the size encoded in the request.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut arg) }).map(drop)
}

/// Registers `[start, start + len)` for write-protection; ranges that already are stay as they are.
/// `EINVAL`: nothing is mapped there or the mapping cannot be tracked; `EBUSY`: another userfaultfd has it;
/// `ENOMEM`: the process is going away.
pub fn register_write_protect(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    let mut arg = RegisterArg { start, len, mode: MODE_WP, ioctls: 0 };
    // SAFETY: arg is valid for the size encoded in the request.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &raw mut arg) }).map(drop)
}

/// Takes the protection and its mark off all pages of a range (`UFFDIO_WRITEPROTECT`, mode 0).
pub fn unprotect(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    let mut arg = [start, len, 0u64];
    // SAFETY: struct uffdio_writeprotect is three words: start, len, mode.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_WRITEPROTECT, arg.as_mut_ptr()) }).map(drop)
}

/// `_IOR(0xaa, 0x01, struct uffdio_range)`
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;
/// `_IOR(0xaa, 0x02, struct uffdio_range)`
const UFFDIO_WAKE: libc::c_ulong = 0x8010_aa02;
/// `_IOWR(0xaa, 0x03, struct uffdio_copy)`
const UFFDIO_COPY: libc::c_ulong = 0xc028_aa03;
/// `_IOWR(0xaa, 0x04, struct uffdio_zeropage)`
const UFFDIO_ZEROPAGE: libc::c_ulong = 0xc020_aa04;
const MODE_MISSING: u64 = 1;

/// Registers a whole mapping for missing faults. Errors as of [`register_write_protect`].
pub fn register_missing(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    let mut arg = RegisterArg { start, len, mode: MODE_MISSING, ioctls: 0 };
    // SAFETY: arg is valid for the size encoded in the request.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &raw mut arg) }).map(drop)
}

/// Ends the registration of a mapping, and wakes who waits there. `EINVAL`: it is of a kind that cannot be registered.
pub fn unregister(uffd: BorrowedFd<'_>, start: u64, len: u64) -> Result<(), Errno> {
    let mut arg = [start, len];
    // SAFETY: struct uffdio_range is two words.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_UNREGISTER, arg.as_mut_ptr()) }).map(drop)
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
    // dst, src, len, mode, copied
    let mut arg = [to, data.as_ptr() as u64, data.len() as u64, 0, 0];
    // SAFETY: struct uffdio_copy is five words; the kernel reads `len` bytes at `src`, which `data` owns.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_COPY, arg.as_mut_ptr()) };
    outcome(result, arg[4])
}

/// Maps zeroes at missing pages. Returns like [`copy`]. Not for hugetlb memory (`EINVAL`).
pub fn zero(uffd: BorrowedFd<'_>, start: u64, len: u64) -> (u64, Option<Errno>) {
    // start, len, mode, zeroed
    let mut arg = [start, len, 0, 0];
    // SAFETY: struct uffdio_zeropage is four words.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_ZEROPAGE, arg.as_mut_ptr()) };
    outcome(result, arg[3])
}

/// A request that did a part says how much, one that did nothing says the negative error in the same place.
fn outcome(result: libc::c_int, done: u64) -> (u64, Option<Errno>) {
    match Errno::result(result) {
        Ok(_) => (done, None),
        Err(Errno::EAGAIN) if (done as i64) > 0 => (done, Some(Errno::EAGAIN)),
        Err(e) => (0, Some(e)),
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
    let mut arg = [start, len];
    // SAFETY: struct uffdio_range is two words.
    Errno::result(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_WAKE, arg.as_mut_ptr()) }).map(drop)
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
    /// `struct uffd_msg`: event in the lowest byte, then three words.
    const WORDS: usize = 4;
    let mut buffer = [0u64; WORDS * 64];
    let bytes = loop {
        // SAFETY: the kernel writes at most the buffer's size into it.
        let read = unsafe {
            libc::read(uffd.as_raw_fd(), buffer.as_mut_ptr().cast(), std::mem::size_of_val(&buffer))
        };
        match Errno::result(read) {
            Ok(n) => break n as usize,
            Err(Errno::EAGAIN) => break 0,
            // a signal that is there is looked for before O_NONBLOCK (`userfaultfd_ctx_read`)
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    };
    Ok(buffer[..bytes / 8].chunks_exact(WORDS).filter_map(event).collect())
}

fn event(message: &[u64]) -> Option<Event> {
    Some(match message[0] as u8 {
        // flags, address, thread
        0x12 => Event::Fault(message[2]),
        // SAFETY: the kernel has just installed this descriptor for us; nobody else owns it.
        0x13 => Event::Fork(unsafe { OwnedFd::from_raw_fd(message[1] as u32 as i32) }),
        0x14 => Event::Remap { from: message[1], to: message[2], len: message[3] },
        0x15 => Event::Remove(message[1], message[2]),
        0x16 => Event::Unmap(message[1], message[2]),
        _ => return None,
    })
}

/// Makes a userfaultfd of our own process.
pub fn create_own(flags: u64) -> Result<OwnedFd, Errno> {
    // SAFETY: plain system call without pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC as u64 | flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
