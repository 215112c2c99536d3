//! userfaultfd(2): handshake and registration of a descriptor made inside another process.
//!
//! The crate `userfaultfd` would serve, but its bindings need libclang at build time, which a fresh machine
//! lacks, and it knows neither `WP_ASYNC` nor a descriptor that was made elsewhere (docs/dependencies.md).
#![allow(unsafe_code)]

use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

/// Only faults from user mode are handled: allowed without privileges.
pub const UFFD_USER_MODE_ONLY: u64 = 1;

bitflags::bitflags! {
    /// Features of `UFFDIO_API`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
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

/// Makes a userfaultfd of our own process (probing what the kernel can do).
pub fn create_own(flags: u64) -> Result<std::os::fd::OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: plain system call without pointers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC as u64 | flags) })?;
    // SAFETY: the kernel has just given us this descriptor; nobody else owns it.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(fd as i32) })
}
