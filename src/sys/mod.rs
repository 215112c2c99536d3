//! Thin safe wrappers of kernel interfaces that the crates lack. Nothing here knows what a migration is.
//!
//! | file | interface |
//! |---|---|
//! | [`background`] | our own threads behind ordinary work |
//! | [`ptrace`] | `PTRACE_SEIZE` and the register, mask, signal-queue and rseq requests |
//! | [`regs`] | general-purpose registers as words |
//! | [`cgroup`] | control groups: where a process lives, and what they allow |
//! | [`fds`] | descriptors of another process, seen and duplicated |
//! | [`hugetlb`] | huge pages: sizes, pools, files of them |
//! | [`kcmp`] | what two tasks share |
//! | [`kernel`] | the record of what this kernel can do; [`probe`] fills it |
//! | [`limits`] | a resource limit raised for a moment |
//! | [`handoff`] | descriptors over unix sockets |
//! | [`memory_modes`] | guard pages, sealing, what may be executable |
//! | [`namespaces`] | entering and furnishing namespaces |
//! | [`maps`] | `/proc/PID/maps` and `smaps`, names by bytes |
//! | [`own_session`] | the scheduler's group of our session behind others |
//! | [`pagemap`] | `PAGEMAP_SCAN` on `/proc/PID/pagemap` (Linux 6.7) |
//! | [`uffd`] | userfaultfd: handshake, registration |
//! | [`process`] | pidfds, `process_vm_*`, robust lists, `/proc/PID/mem` |
//! | [`shared`] | shared anonymous memory of our own |
//! | [`spawn`] | `clone3` with `set_tid` |
//! | [`stat`] | `/proc/PID/stat`: start time, life; the boot id |
//! | [`status`] | `/proc/PID/status`, by bytes |
//! | [`sysv`] | who used a System V semaphore last |
//! | [`voice`] | a living thread by which a process is looked at |
//! | [`time`] | clocks, time-namespace offsets, the deadline ticker |
//! | [`timerfd`] | timerfd(2), and the number of its expirations |
//! | [`witness`] | a process to be looked at: whether another may tells about that one |
//! | [`xsave`] | which CPU state components exist |

pub mod background;
pub mod cgroup;
pub mod fds;
pub mod handoff;
pub mod hugetlb;
pub mod kcmp;
pub mod kernel;
pub mod limits;
pub mod maps;
pub mod memory_modes;
pub mod namespaces;
pub mod own_session;
pub mod pagemap;
pub mod probe;
pub mod process;
pub mod ptrace;
pub mod regs;
pub mod rights;
pub mod shared;
pub mod spawn;
pub mod stat;
pub mod status;
pub mod sysv;
pub mod time;
pub mod timerfd;
pub mod uffd;
pub mod voice;
pub mod witness;
pub mod xsave;

/// A file of `/proc` as text, for what stands beside the names in it: those may be any bytes, and are not told by this.
pub fn lossy(path: impl AsRef<std::path::Path>) -> std::io::Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(path)?).into_owned())
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
