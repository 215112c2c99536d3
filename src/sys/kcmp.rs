//! kcmp(2): whether two tasks share something that clone(2) lets them share.
#![allow(unsafe_code)]

use nix::errno::Errno;

/// What may be shared; discriminants are the kernel's `enum kcmp_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shared {
    /// `CLONE_VM`
    Memory = 1,
    /// `CLONE_FILES`
    Descriptors = 2,
    /// `CLONE_FS`
    Directories = 3,
}

impl Shared {
    /// The flag of clone(2).
    pub fn flag(self) -> &'static str {
        match self {
            Shared::Memory => "CLONE_VM",
            Shared::Descriptors => "CLONE_FILES",
            Shared::Directories => "CLONE_FS",
        }
    }
}

/// Whether two tasks, threads or processes, share it; `None`: one of them is gone or may not be looked at. Two tasks that have none
/// (threads of the kernel have no memory) share nothing.
pub fn shared(one: i32, two: i32, what: Shared) -> Option<bool> {
    // SAFETY: no pointers with these types.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, one, two, what as i32, 0, 0) };
    Errno::result(result).ok().map(|order| order == 0)
}
