//! Guard pages and sealed memory, and what we have inherited ourselves: `PR_SET_MDWE`.
#![allow(unsafe_code)]

/// mseal(2), Linux 6.10.
pub const SYS_MSEAL: i64 = 462;
/// `PR_GET_MDWE`, Linux 6.3.
pub const PR_GET_MDWE: i32 = 66;

/// `MADV_GUARD_INSTALL`, Linux 6.13.
pub const MADV_GUARD_INSTALL: i32 = 102;

/// Whether guard pages can be made without a mapping of their own.
pub(super) fn can_guard() -> bool {
    // SAFETY: a range of no length: nothing is changed.
    unsafe { libc::madvise(std::ptr::null_mut(), 0, MADV_GUARD_INSTALL) == 0 }
}

/// Whether memory can be sealed.
pub(super) fn can_seal() -> bool {
    // SAFETY: a range of no length: nothing is sealed.
    unsafe { libc::syscall(SYS_MSEAL, 0, 0, 0) == 0 }
}

/// Whether we, and so all that we start, may make no memory executable (`PR_SET_MDWE`, `MemoryDenyWriteExecute=` of systemd).
pub fn denied_write_execute() -> bool {
    // SAFETY: no pointers.
    unsafe { libc::prctl(PR_GET_MDWE, 0, 0, 0, 0) > 0 }
}
