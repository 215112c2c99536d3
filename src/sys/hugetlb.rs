//! Huge pages that are set aside for those who ask for them (hugetlb): sizes, pools, files made of them.
//!
//! Kernel facts this relies on:
//! - For each size there is one internal file system, whose device number all such mappings and memfds show; an empty
//!   memfd takes no page, so making one of each size tells both.
//! - Their files cannot be written with `write(2)`, only through a mapping; a page that cannot be had is a `SIGBUS`
//!   there, but an error of `fallocate` and of `process_vm_writev`.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::fs::{self, File};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::ptr::NonNull;

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

use super::process::write_memory;

/// A size of huge page that the running kernel offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Bytes of a page.
    pub bytes: u64,
    /// The device that mappings and memfds of it show.
    pub dev: u64,
}

/// All sizes, smallest first: each is tried.
pub(super) fn sizes() -> Vec<Size> {
    const SMALLEST: u32 = 16;
    const LARGEST: u32 = 34;
    let probe = |shift: u32| {
        let bytes = 1u64 << shift;
        let fd = memfd_create("ulpm-probe", MFdFlags::MFD_CLOEXEC | memfd_flags(bytes)).ok()?;
        Some(Size { bytes, dev: File::from(fd).metadata().ok()?.dev() })
    };
    (SMALLEST..=LARGEST).filter_map(probe).collect()
}

/// What `memfd_create` wants for pages of this size.
pub fn memfd_flags(page_size: u64) -> MFdFlags {
    MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(page_size.ilog2() << libc::MFD_HUGE_SHIFT)
}

/// What `mmap` of anonymous memory wants for pages of this size.
pub fn map_flags(page_size: u64) -> i32 {
    libc::MAP_HUGETLB | (page_size.ilog2() as i32) << libc::MAP_HUGE_SHIFT
}

/// The pages of one size, in numbers of pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// All that exist now.
    pub total: u64,
    /// Not in use; those that are promised count, too.
    pub free: u64,
    /// Promised to mappings that have not used them yet.
    pub reserved: u64,
    /// Exist beyond what the administrator set aside.
    pub surplus: u64,
    /// How many may be made beyond that, on demand.
    pub overcommit: u64,
}

impl Pool {
    /// The pool of this size, as far as `/sys` (or, for the usual size, `/proc/meminfo`) shows it.
    pub fn read(page_size: u64) -> Option<Self> {
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page_size / 1024);
        let number = |name: &str| fs::read_to_string(format!("{dir}/{name}")).ok()?.trim().parse().ok();
        let read = || {
            Some(Pool {
                total: number("nr_hugepages")?,
                free: number("free_hugepages")?,
                reserved: number("resv_hugepages")?,
                surplus: number("surplus_hugepages")?,
                overcommit: number("nr_overcommit_hugepages")?,
            })
        };
        read().or_else(|| if page_size == usual_size()? { Self::of_meminfo() } else { None })
    }

    fn of_meminfo() -> Option<Self> {
        let overcommit = fs::read_to_string("/proc/sys/vm/nr_overcommit_hugepages").unwrap_or_default();
        Some(Pool {
            total: meminfo("HugePages_Total")?,
            free: meminfo("HugePages_Free")?,
            reserved: meminfo("HugePages_Rsvd")?,
            surplus: meminfo("HugePages_Surp")?,
            overcommit: overcommit.trim().parse().unwrap_or(0),
        })
    }

    /// How many a newcomer can have, those included that the kernel would make on demand.
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved) + self.overcommit.saturating_sub(self.surplus)
    }
}

/// The size that `vm.nr_hugepages` means.
pub fn usual_size() -> Option<u64> {
    meminfo("Hugepagesize").map(|kib| kib * 1024)
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Writes into a file of huge pages. A page that cannot be had is an error (`ENOSPC`, `ENOMEM`, `EFAULT`).
pub fn write_at(file: &File, page_size: u64, offset: u64, data: &[u8]) -> io::Result<()> {
    let first = offset / page_size * page_size;
    let len = (offset + data.len() as u64).next_multiple_of(page_size) - first;
    fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, first as i64, len as i64)?;
    let window = Window::new(file, first, len)?;
    let at = window.start.as_ptr() as u64 + (offset - first);
    Ok(write_memory(std::process::id() as i32, at, data)?)
}

/// A part of a file, mapped here; unmapped when dropped. Nothing but the kernel ever looks through it.
struct Window {
    start: NonNull<c_void>,
    len: usize,
}

impl Window {
    fn new(file: &File, offset: u64, len: u64) -> io::Result<Self> {
        let len = NonZeroUsize::new(len as usize).ok_or(nix::errno::Errno::EINVAL)?;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap(None, len, prot, flags, file, offset as i64) }?;
        Ok(Window { start, len: len.get() })
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it was ever given out.
        let _ = unsafe { munmap(self.start, self.len) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_told_by_their_devices() {
        for size in sizes() {
            assert!(Pool::read(size.bytes).is_some(), "{size:?}");
        }
        if let Some(usual) = usual_size() {
            assert!(sizes().iter().any(|s| s.bytes == usual), "{usual} is not among {:?}", sizes());
        }
        let ordinary = fs::metadata("/proc/self/exe").unwrap();
        assert!(sizes().iter().all(|s| s.dev != ordinary.dev()));
    }

    #[test]
    fn what_is_promised_is_not_available() {
        let pool = Pool { total: 10, free: 7, reserved: 3, surplus: 1, overcommit: 2 };
        assert_eq!(pool.available(), 5);
        assert_eq!(Pool { free: 1, reserved: 3, ..Pool::default() }.available(), 0);
    }

    /// Without a page to be had it must be an error, never a signal.
    #[test]
    fn a_page_that_cannot_be_had_is_an_error() {
        let Some(size) =
            sizes().into_iter().find(|s| Pool::read(s.bytes).is_some_and(|p| p.available() == 0))
        else {
            eprintln!("every pool has a free page: nothing to be seen");
            return;
        };
        let fd = memfd_create("ulpm-test", MFdFlags::MFD_CLOEXEC | memfd_flags(size.bytes)).unwrap();
        let file = File::from(fd);
        file.set_len(size.bytes).unwrap();
        let error = write_at(&file, size.bytes, 4096, &[1; 4096]).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENOSPC | libc::ENOMEM | libc::EFAULT)), "{error}");
    }
}
