//! Shared anonymous memory of our own.
#![allow(unsafe_code)]

use nix::errno::Errno;

/// Shared anonymous memory of our own, unmapped when dropped.
#[derive(Debug)]
pub struct SharedAnonymous {
    start: std::ptr::NonNull<libc::c_void>,
    len: usize,
}

impl SharedAnonymous {
    /// Maps `size` bytes (rounded up to pages of `page_size`) without touching or reserving them.
    pub fn new(size: u64, page_size: u64) -> Result<Self, Errno> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous};
        let len = (size as usize).next_multiple_of(page_size as usize);
        let len = std::num::NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
        let huge = if page_size > 4096 { super::hugetlb::map_flags(page_size) } else { 0 };
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE | MapFlags::from_bits_retain(huge);
        // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
        let start = unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ, flags) }?;
        Ok(SharedAnonymous { start, len: len.get() })
    }

    /// First byte and the one past the last.
    pub fn range(&self) -> (u64, u64) {
        let start = self.start.as_ptr() as u64;
        (start, start + self.len as u64)
    }
}

impl Drop for SharedAnonymous {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference into it was ever given out.
        let _ = unsafe { nix::sys::mman::munmap(self.start, self.len) };
    }
}
