//! Types of kcmp(2): what a process or a thread may share with somebody who stays.

use super::{Row, harmless, refused};

pub(super) const ROWS: &[Row] = &[
    refused(
        "KCMP_VM",
        "address space (CLONE_VM without CLONE_THREAD)",
        "its memory is shared with a process that stays",
        "",
    ),
    refused(
        "KCMP_FILES",
        "descriptor table",
        "a thread has one of its own, or shares it with a process that stays",
        "",
    ),
    harmless(
        "KCMP_SIGHAND",
        "signal actions",
        "threads always share them, and another process only with the address space",
    ),
];
