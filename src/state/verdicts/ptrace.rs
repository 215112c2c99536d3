//! ptrace(2) requests that read state.

use super::row::{Row, carried, harmless, limited, refused};

pub(super) const ROWS: &[Row] = &[
    carried(
        "PTRACE_GETREGS",
        "general-purpose registers and selectors, of 32-bit code too",
        "registers, foreign",
    ),
    carried(
        "PTRACE_GETREGSET (NT_X86_XSTATE)",
        "extended state: x87, SSE, AVX, protection keys",
        "registers",
    ),
    carried("PTRACE_GETSIGMASK", "blocked signals of each thread", "signals"),
    carried("PTRACE_PEEKSIGINFO", "queued signals of the process and of each thread", "signals"),
    carried("PTRACE_GET_RSEQ_CONFIGURATION", "restartable sequences of each thread", "rseq"),
    carried("PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG", "syscall user dispatch of each thread", "foreign"),
    carried("PTRACE_GET_THREAD_AREA", "segments of a thread's own (set_thread_area)", "foreign"),
    refused(
        "PTRACE_GET_SYSCALL_INFO",
        "a system call of 32-bit code in which a thread waits",
        "it is in a system call of 32-bit code, which cannot be carried; tried again for a moment",
        "",
    ),
    refused(
        "PTRACE_SECCOMP_GET_FILTER",
        "seccomp of each thread, strict mode and filters",
        crate::state::seccomp::SECCOMP,
        "a thread under seccomp is left alone",
    ),
    carried(
        "get_robust_list",
        "robust futex list of each thread, or that there is none",
        "robust, owned, bare",
    ),
    carried("PTRACE_PEEKTEXT", "memory", "victim memory"),
    carried("PTRACE_PEEKDATA", "memory", "victim memory"),
    carried(
        "PTRACE_PEEKUSR",
        "registers one by one; debug registers belong to a tracer, which is refused",
        "victim registers",
    ),
    harmless("PTRACE_GETEVENTMSG", "message of a tracer's event", "a process that is traced is refused"),
    harmless("PTRACE_GETSIGINFO", "signal that a tracer holds back", "a process that is traced is refused"),
    carried("PTRACE_GETREGSET", "registers by sets", "victim registers"),
    carried("PTRACE_PEEKSIGINFO_SHARED", "queued signals of the process", "victim signals"),
    limited(
        "PTRACE_GETREGSET (NT_386_IOPERM)",
        "ports that it may use (ioperm(2), iopl(2))",
        "permission for ports (ioperm, iopl) is not carried: its next access is a SIGSEGV",
        "",
    ),
];
