//! What stands between a thread and calls that are made in its name: seccomp, syscall user dispatch, 32-bit code, and signals that
//! the kernel forces on who makes a mistake.
//!
//! - **seccomp** looks at our calls as at the thread's own, and may kill the process for one. It is suspended where that is permitted
//!   (`PTRACE_O_SUSPEND_SECCOMP`), else such a thread makes no calls.
//! - **Syscall user dispatch** turns them into `SIGSYS`: it is off as long as a thread is borrowed.
//! - **32-bit code** is no hindrance: a borrowed thread gets the selectors of 64-bit code. But a *system call* of 32-bit code that our
//!   stop interrupted has other numbers and another way to restart: such a thread is let go on.
//! - **Forced signals**: `force_sig` on a signal that is blocked resets its action (kernel/signal.c, `force_sig_info_to_task`). So
//!   those of mistakes stay open while our code runs, and are taken from the thread when they come.

use nix::errno::Errno;

use super::error::TraceeError;
use super::thread::Thread;
use crate::sys::ptrace::{self, DispatchConfiguration, KernelSigset, Options, Regs};
use crate::sys::status::Status;

/// Selectors of 64-bit code and its stack (`__USER_CS`, `__USER_DS`).
const CODE: u64 = 0x33;
const STACK: u64 = 0x2b;

/// Signals of mistakes.
const MISTAKES: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGSYS, libc::SIGTRAP];

/// The bits of signals of mistakes.
pub(super) fn mistakes() -> KernelSigset {
    MISTAKES.iter().fold(0, |set, signal| set | 1 << (signal - 1))
}

/// Whether a signal is one that the kernel forces on who makes a mistake.
pub(super) fn is_mistake(signal: i32) -> bool {
    MISTAKES.contains(&signal)
}

/// Registers with the selectors of 64-bit code.
pub(super) fn in_64_bit(regs: Regs) -> Regs {
    Regs { cs: CODE, ss: STACK, ..regs }
}

/// Insists that a stopped thread may be borrowed; suspends seccomp where that is permitted.
pub fn permit(thread: Thread) -> Result<(), TraceeError> {
    if thread.set_options(Options::SOURCE_UNFILTERED).is_ok() {
        return Ok(());
    }
    let step = |source| TraceeError::Proc { pid: thread.0, file: "status".to_owned(), source };
    insist_unconfined(thread, Status::of(thread.0).map_err(step)?.seccomp != 0)
}

/// Insists that a thread is not under seccomp, as its status says.
pub fn insist_unconfined(thread: Thread, confined: bool) -> Result<(), TraceeError> {
    if confined { Err(TraceeError::Confined { tid: thread.0 }) } else { Ok(()) }
}

/// Insists that a stopped thread is in no system call of 32-bit code.
pub(super) fn insist_64_bit(thread: Thread) -> Result<(), TraceeError> {
    match ptrace::in_call_of_32_bit(thread.0) {
        Ok(true) => Err(TraceeError::Call32 { tid: thread.0 }),
        // a kernel that does not tell (before Linux 5.3)
        Ok(false) | Err(Errno::EIO | Errno::EINVAL) => Ok(()),
        Err(source) => Err(TraceeError::Ptrace { tid: thread.0, step: "asking for its system call", source }),
    }
}

/// The syscall user dispatch of a stopped thread, if it is on. Kernels before Linux 6.4 do not tell.
pub(super) fn dispatch(thread: Thread) -> Result<Option<DispatchConfiguration>, TraceeError> {
    match ptrace::dispatch(thread.0) {
        Ok(conf) => Ok(Some(conf).filter(|conf| conf.mode != 0)),
        Err(Errno::EIO | Errno::EINVAL) => Ok(None),
        Err(source) => {
            Err(TraceeError::Ptrace { tid: thread.0, step: "reading the syscall user dispatch", source })
        }
    }
}

/// Sets the syscall user dispatch of a stopped thread; nothing: off.
pub fn set_dispatch(thread: Thread, conf: Option<DispatchConfiguration>) -> Result<(), TraceeError> {
    let conf = conf.map(settable).unwrap_or_default();
    ptrace::set_dispatch(thread.0, &conf).map_err(|source| TraceeError::Ptrace {
        tid: thread.0,
        step: "setting the syscall user dispatch",
        source,
    })
}

/// Ends the syscall user dispatch of a stopped thread that never runs its own code again.
pub fn end_dispatch(thread: Thread) -> Result<(), TraceeError> {
    dispatch(thread)?.map_or(Ok(()), |_| set_dispatch(thread, None))
}

/// What is read as it has to be set: a range in which calls *are* dispatched is kept turned inside out, and read so
/// (`PR_SYS_DISPATCH_INCLUSIVE_ON`, Linux 6.17).
fn settable(conf: DispatchConfiguration) -> DispatchConfiguration {
    const INCLUSIVE: u64 = 2;
    let end = conf.offset.wrapping_add(conf.len);
    if conf.offset != 0 && end <= conf.offset {
        let len = conf.len.wrapping_neg();
        return DispatchConfiguration { mode: INCLUSIVE, offset: end, len, ..conf };
    }
    conf
}

/// Numbers of the segments of a thread's own in the GDT (`GDT_ENTRY_TLS_MIN` and what follows).
const SEGMENTS: std::ops::Range<u32> = 12..15;
/// Flags of one that is empty: read only, not present.
const EMPTY: u32 = 0x28;

/// The segments of a stopped thread's own that are in use; none on a kernel without them.
pub fn segments(thread: Thread) -> Result<Vec<ptrace::Segment>, TraceeError> {
    let mut all = Vec::new();
    for number in SEGMENTS {
        match ptrace::segment(thread.0, number) {
            Ok([_, 0, 0, EMPTY]) => {}
            Ok(segment) => all.push(segment),
            Err(Errno::EIO | Errno::EINVAL) => return Ok(Vec::new()),
            Err(source) => {
                return Err(TraceeError::Ptrace { tid: thread.0, step: "reading its segments", source });
            }
        }
    }
    Ok(all)
}

/// Sets segments of a stopped thread.
pub fn set_segments(thread: Thread, segments: &[ptrace::Segment]) -> Result<(), TraceeError> {
    let step = "setting its segments";
    let error = |source| TraceeError::Ptrace { tid: thread.0, step, source };
    segments.iter().try_for_each(|segment| ptrace::set_segment(thread.0, segment).map_err(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_turned_inside_out_is_set_as_it_was_asked_for() {
        let plain = DispatchConfiguration { mode: 1, selector: 7, offset: 0x1000, len: 0x200 };
        assert_eq!(settable(plain), plain);
        let all = DispatchConfiguration { offset: 0, len: 0, ..plain };
        assert_eq!(settable(all), all);
        let turned = DispatchConfiguration { offset: 0x1200, len: 0x200_u64.wrapping_neg(), ..plain };
        assert_eq!(settable(turned), DispatchConfiguration { mode: 2, ..plain });
    }
}
