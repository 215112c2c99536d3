//! Files of /proc/PID and /proc/PID/task/TID.

use super::{Row, carried, harmless, limited, refused};

const OTHER_ROWS: &str =
    "its lines have rows of their own, or show what mappings, descriptors and threads hold";
const COUNT: &str = "counts what was done on this host";
const DOOR: &str = "a way to act on the process; it holds no state";
const LABEL: &str = "it is confined by a security module, and would not be at the target as it is here";
const LATER: &str = "it has asked for a security label of what it makes next";
const NAMESPACE: &str = "of its user namespace, which must be that of ulpm";

pub(super) const ROWS: &[Row] = &[
    harmless("arch_status", "when it last used AVX-512", COUNT),
    refused(
        "attr/current",
        "label of a security module (SELinux, AppArmor, Smack), of each thread",
        LABEL,
        "",
    ),
    harmless("attr/prev", "the label before that", "tells of the past"),
    refused("attr/exec", "label for the next program", LATER, ""),
    refused("attr/fscreate", "label for files that it makes", LATER, ""),
    refused("attr/keycreate", "label for keys that it makes", LATER, ""),
    refused("attr/sockcreate", "label for sockets that it makes", LATER, ""),
    harmless("attr/apparmor", "the same of one module", "see attr/current"),
    harmless("attr/smack", "the same of one module", "see attr/current"),
    carried("autogroup", "nice value of its session's task group", "victim perthread"),
    carried("auxv", "auxiliary vector", "victim process"),
    limited(
        "cgroup",
        "control group",
        "it is in the control group of `ulpm serve`, or in one of its own there",
        "",
    ),
    harmless("children", "child processes", "refused while there are any"),
    harmless("clear_refs", "resets marks of pages", DOOR),
    carried("cmdline", "arguments", "victim process"),
    carried("comm", "name of each thread, any bytes", "victim names"),
    carried("coredump_filter", "what a core dump holds", "victim process"),
    harmless("cpu_resctrl_groups", "cache and bandwidth allocation", "belongs to the host's administrator"),
    harmless("cpuset", "control group for CPUs", "that of `ulpm serve`"),
    carried("cwd", "current directory, of the process or of a thread apart", "victims process, names, apart"),
    carried("environ", "environment", "victim process"),
    carried("exe", "program", "victim process"),
    harmless("gid_map", "mapping of groups", NAMESPACE),
    harmless("io", "bytes read and written", COUNT),
    harmless("ksm_merging_pages", "pages merged with equal ones", "how memory is held just now"),
    harmless("ksm_stat", "the same in detail", "how memory is held just now"),
    harmless("latency", "where it waited", COUNT),
    carried("limits", "resource limits", "victim process"),
    limited(
        "loginuid",
        "login that the audit system counts it to",
        "it is counted to the login of ulpm serve",
        "",
    ),
    carried("maps", "mappings", "victim memory"),
    carried("mem", "memory", "victim memory"),
    harmless("mountinfo", "mounts", "those of its mount namespace"),
    harmless("mounts", "mounts", "those of its mount namespace"),
    harmless("mountstats", "mounts", "those of its mount namespace"),
    harmless("net", "network", "that of its network namespace; sockets have rows of their own"),
    harmless(
        "numa_maps",
        "nodes of its pages",
        "how memory is held just now; policies have rows of their own",
    ),
    harmless("oom_adj", "the old form of oom_score_adj", "see there"),
    harmless(
        "oom_score",
        "how likely it is killed when memory runs out",
        "follows from oom_score_adj and its size",
    ),
    carried("oom_score_adj", "the same as chosen", "victim process"),
    harmless("pagemap", "pages", "how memory is held just now"),
    harmless("patch_state", "live patching of the kernel", "belongs to the kernel"),
    carried("personality", "personality(2) of each thread", "victim perthread"),
    harmless("projid_map", "mapping of projects", NAMESPACE),
    refused("root", "root directory", "its root directory is not that of ulpm", ""),
    harmless("sched", "what the scheduler counts", COUNT),
    harmless("sched_group_id", "group of WALT", COUNT),
    harmless("schedstat", "time on and waiting for a CPU", COUNT),
    harmless(
        "seccomp_cache",
        "system calls that its filters always allow",
        "follows from its filters, which are refused",
    ),
    limited("sessionid", "session of the audit system", "it is counted to the login of ulpm serve", ""),
    harmless("setgroups", "whether setgroups(2) is allowed", NAMESPACE),
    harmless("smaps", "mappings with flags and sizes", OTHER_ROWS),
    harmless("smaps_rollup", "their sum", OTHER_ROWS),
    harmless("stack", "where it is in the kernel", "follows from the system call that it is in"),
    harmless("stat", "numbers of all kinds", OTHER_ROWS),
    harmless("statm", "sizes", OTHER_ROWS),
    harmless("status", "state of all kinds", OTHER_ROWS),
    harmless("syscall", "system call that it is in", "it is in the same again, or in restart_syscall of it"),
    harmless("timens_offsets", "clocks of its children", "chosen so that its clocks go on"),
    carried("timers", "POSIX timers", "victim timers"),
    carried("timerslack_ns", "timer slack of each thread", "victim perthread"),
    harmless("uid_map", "mapping of users", NAMESPACE),
    harmless(
        "wchan",
        "function of the kernel in which it waits",
        "follows from the system call that it is in",
    ),
];
