//! prctl(2) and arch_prctl(2) options that have a getter, and modes of the process that have none.

use super::{Row, carried, limited};

pub(super) const ROWS: &[Row] = &[
    limited(
        "PR_GET_DUMPABLE",
        "core dumps, and who may trace it",
        crate::state::attributes::CORE_FOR_ROOT,
        "bare",
    ),
    carried("PR_GET_PDEATHSIG", "signal at the parent's death, of each thread", "bare"),
    carried("PR_GET_TSC", "access to the time stamp counter, of each thread", "bare"),
    carried("PR_MCE_KILL_GET", "policy for memory errors, of each thread", "bare"),
    carried("PR_GET_TID_ADDRESS", "where the end of a thread is told", "threads"),
    carried("personality", "personality(2), of each thread", "bare"),
    carried("sigaltstack", "alternate signal stack of each thread, or that there is none", "signals, bare"),
];
