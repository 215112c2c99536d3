//! Resource limits (getrlimit(2)), by the names of `/proc/PID/limits`. A hard limit that the target may not raise stays lower.

use super::row::{Row, carried, limited, refused};

const HARD: &str = "a hard limit that `ulpm serve` may not raise stays as it is there, as long as the soft one fits; preflight says so";

pub(super) const ROWS: &[Row] = &[
    limited("Max cpu time", "CPU seconds", "the CPU time used so far counts from 0 at the target", "process"),
    carried("Max file size", "size of files written", "process"),
    carried("Max data size", "data segment, also one below what is in use", "victim narrow"),
    carried("Max stack size", "stack of the first thread", "victim narrow"),
    carried("Max core file size", "core dumps", "process"),
    carried("Max resident set", "no effect since Linux 2.4.30", "process"),
    carried("Max processes", "threads of its user", "process"),
    limited("Max open files", "descriptors", HARD, "process"),
    carried("Max locked memory", "mlock", "victim narrow"),
    refused(
        "Max locked memory (mlockall)",
        "no room left, of a process whose mappings to come are locked",
        crate::state::room::NO_MORE_LOCKED,
        "",
    ),
    carried("Max address space", "mappings in all, also with no room left", "victim narrow"),
    refused(
        "Max address space (locked memory)",
        "no room left, and memory that is locked",
        crate::state::room::UNTOLD,
        "",
    ),
    carried("Max file locks", "no effect since Linux 2.4.25", "process"),
    carried("Max pending signals", "queued signals of its user", "process"),
    carried("Max msgqueue size", "POSIX message queues of its user", "process"),
    carried("Max nice priority", "how far nice may be raised", "process"),
    carried("Max realtime priority", "real-time priority", "process"),
    carried("Max realtime timeout", "CPU time without a blocking call under a real-time policy", "process"),
];
