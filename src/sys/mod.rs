//! Thin safe wrappers of kernel interfaces that the crates lack. Nothing here knows what a migration is.
//!
//! | file | interface |
//! |---|---|
//! | [`ptrace`] | `PTRACE_SEIZE` and the register, mask, signal-queue and rseq requests |
//! | [`pagemap`] | `PAGEMAP_SCAN` on `/proc/PID/pagemap` (Linux 6.7) |
//! | [`uffd`] | userfaultfd: handshake, registration |
//! | [`process`] | pidfds, `process_vm_*`, robust lists, `/proc/PID/mem` |
//! | [`spawn`] | `clone3` with `set_tid` |
//! | [`time`] | clocks, time-namespace offsets, the deadline ticker |
//! | [`xsave`] | which CPU state components exist |

pub mod pagemap;
pub mod process;
pub mod ptrace;
pub mod spawn;
pub mod time;
pub mod uffd;
pub mod xsave;
