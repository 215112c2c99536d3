//! Types of kcmp(2): what a process or a thread may share with somebody who stays.

use super::row::{Row, carried, harmless, refused};

pub(super) const ROWS: &[Row] = &[
    carried(
        "KCMP_FILE",
        "open file descriptions, shared by descriptors of the process (refused: shared with a process that stays, unless \
         `--shared split`)",
        "victim fds, trial sharing of an open file",
    ),
    refused(
        "KCMP_VM",
        "address space (CLONE_VM without CLONE_THREAD)",
        "its memory is shared with a process that stays",
        "trial refuse state memory",
    ),
    refused(
        "KCMP_FILES",
        "descriptor table",
        "a thread has one of its own, or shares it with a process that stays",
        "trial refuse state descriptors",
    ),
    carried(
        "KCMP_FS",
        "directory, root and umask: the process's, or a thread's own (refused: shared with a process that stays, or \
         between two threads beside the process's)",
        "victim apart, trial refuse state directories",
    ),
    harmless(
        "KCMP_SIGHAND",
        "signal actions",
        "threads always share them, and another process only with the address space",
    ),
    harmless(
        "KCMP_IO",
        "I/O context (CLONE_IO)",
        "it holds the I/O priority, which is carried by thread, and nothing else that can be asked",
    ),
    refused(
        "KCMP_SYSVSEM",
        "System V semaphores that are given back at the end (SEM_UNDO)",
        "it uses the System V set of semaphores, which stays here",
        "trial refuse state semaphore",
    ),
    carried("KCMP_EPOLL_TFD", "what an epoll watches", "victim fds"),
];
