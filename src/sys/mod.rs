//! Thin safe wrappers of kernel interfaces that the crates lack. Nothing here knows what a migration is.
//!
//! | file | interface |
//! |---|---|
//! | [`ptrace`] | `PTRACE_SEIZE` and the register, mask, signal-queue and rseq requests |
//! | [`fds`] | descriptors of another process, seen and duplicated |
//! | [`hugetlb`] | huge pages: sizes, pools, files of them |
//! | [`handoff`] | descriptors over unix sockets |
//! | [`namespaces`] | entering and furnishing namespaces |
//! | [`pagemap`] | `PAGEMAP_SCAN` on `/proc/PID/pagemap` (Linux 6.7) |
//! | [`uffd`] | userfaultfd: handshake, registration |
//! | [`process`] | pidfds, `process_vm_*`, robust lists, `/proc/PID/mem` |
//! | [`spawn`] | `clone3` with `set_tid` |
//! | [`time`] | clocks, time-namespace offsets, the deadline ticker |
//! | [`xsave`] | which CPU state components exist |

pub mod fds;
pub mod handoff;
pub mod hugetlb;
pub mod namespaces;
pub mod pagemap;
pub mod process;
pub mod ptrace;
pub mod rights;
pub mod spawn;
pub mod time;
pub mod uffd;
pub mod xsave;

/// Whether the running kernel is at least this version (`uname -r`). For interfaces that cannot be probed without
/// side effects.
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map_while(|p| p.parse::<u32>().ok());
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
}

/// An error and its causes as one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
