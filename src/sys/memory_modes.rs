//! What this kernel can do with memory, and what we have inherited ourselves: locking on fault, sealing, `PR_SET_MDWE`.
#![allow(unsafe_code)]

use std::num::NonZeroUsize;

use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// mseal(2), Linux 6.10.
pub const SYS_MSEAL: i64 = 462;
/// `PR_GET_MDWE`, Linux 6.3.
pub const PR_GET_MDWE: i32 = 66;
const MLOCK_ONFAULT: u32 = 1;

/// Whether `VmFlags:` tells memory that is locked on fault from other locked memory: tried on a page of ours.
pub fn shows_lock_on_fault() -> bool {
    let Some(len) = NonZeroUsize::new(4096) else { return false };
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let Ok(page) = (unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ, flags) }) else { return false };
    // SAFETY: the page is ours.
    let locked = unsafe { libc::syscall(libc::SYS_mlock2, page.as_ptr(), 4096, MLOCK_ONFAULT) } == 0;
    let smaps = crate::sys::lossy("/proc/self/smaps").unwrap_or_default();
    // SAFETY: the page is ours, and no reference into it was ever given out.
    let _ = unsafe { munmap(page, 4096) };
    let begins = format!("{:x}-", page.as_ptr() as u64);
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begins));
    let shown = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    locked && shown.is_some_and(|words| words.split_ascii_whitespace().any(|word| word == "lf"))
}

/// `MADV_GUARD_INSTALL`, Linux 6.13.
pub const MADV_GUARD_INSTALL: i32 = 102;

/// Whether guard pages can be made without a mapping of their own.
pub fn can_guard() -> bool {
    // SAFETY: a range of no length: nothing is changed.
    unsafe { libc::madvise(std::ptr::null_mut(), 0, MADV_GUARD_INSTALL) == 0 }
}

/// Whether memory can be sealed.
pub fn can_seal() -> bool {
    // SAFETY: a range of no length: nothing is sealed.
    unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) == 0 }
}

/// Whether the kernel merges equal pages (`CONFIG_KSM`).
pub fn can_merge() -> bool {
    std::path::Path::new("/sys/kernel/mm/ksm").exists()
}

/// Whether we, and so all that we start, may make no memory executable (`PR_SET_MDWE`, `MemoryDenyWriteExecute=` of systemd).
pub fn denied_write_execute() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) > 0 }
}
