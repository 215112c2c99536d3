//! Scheduling of each thread.

use super::row::{Row, carried, harmless, refused};

const CANNOT: &str = "ulpm serve cannot give it its scheduling here";

pub(super) const ROWS: &[Row] = &[
    carried(
        "sched_getattr",
        "policy, nice value, priority, slice, deadline, clamps, flags (refused where the target cannot give them)",
        "victim perthread",
    ),
    carried("SCHED_OTHER", "the usual policy, with nice value and slice", "victim process"),
    carried("SCHED_BATCH", "policy for batches", "victim process"),
    carried("SCHED_IDLE", "policy for when there is nothing else", "victim perthread"),
    refused(
        "SCHED_FIFO",
        "real-time policy, where the target may not give it (else carried)",
        CANNOT,
        "trial refuse real-time",
    ),
    refused("SCHED_RR", "the same in turns", CANNOT, "trial refuse real-time"),
    carried("SCHED_DEADLINE", "runtime, deadline and period", "victim perthread"),
    refused("SCHED_EXT", "policy of a BPF scheduler, where the target has none (else carried)", CANNOT, ""),
    carried("SCHED_FLAG_RESET_ON_FORK", "children begin with the usual policy", "victim perthread"),
    carried("SCHED_FLAG_RECLAIM", "takes over unused runtime of others", "victim perthread"),
    carried("SCHED_FLAG_DL_OVERRUN", "SIGXCPU when its runtime is over", ""),
    carried(
        "SCHED_FLAG_UTIL_CLAMP",
        "utilization clamps (CONFIG_UCLAMP_TASK)",
        "unit test clamps_are_named_only_where_they_differ",
    ),
    carried("sched_getaffinity", "CPUs", "victim process"),
    refused(
        "get_mempolicy",
        "NUMA policy of each thread; asked by remote call, that of the main thread seen in numa_maps",
        crate::state::numa::POLICY,
        "trial refuse state numa-thread",
    ),
    carried("ioprio", "I/O priority", "victim perthread"),
    carried("timer slack", "how late a wait may end", "victim perthread"),
    carried("autogroup", "nice value of the session's task group", "victim perthread"),
    refused(
        "PR_SCHED_CORE",
        "cookie of core scheduling",
        "it shares its core only with some (PR_SCHED_CORE), which is not carried",
        "",
    ),
    harmless("CPU", "the CPU that it runs on", "any of those that it may"),
];
