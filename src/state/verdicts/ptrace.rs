//! ptrace(2) requests that read state.

use super::{Row, carried};

pub(super) const ROWS: &[Row] = &[
    carried("PTRACE_GETREGS", "general-purpose registers", "registers"),
    carried(
        "PTRACE_GETREGSET (NT_X86_XSTATE)",
        "extended state: x87, SSE, AVX, protection keys",
        "registers",
    ),
    carried("PTRACE_GETSIGMASK", "blocked signals of each thread", "signals"),
    carried("PTRACE_PEEKSIGINFO", "queued signals of the process and of each thread", "signals"),
    carried("PTRACE_GET_RSEQ_CONFIGURATION", "restartable sequences of each thread", "rseq"),
];
