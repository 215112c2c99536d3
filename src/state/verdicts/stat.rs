//! Fields of /proc/PID/stat (proc_pid_stat(5)), by their names there.

use super::row::{Row, carried, harmless, limited, refused};

const COUNTER: &str = "a counter of what this host's kernel did for it";
const CPU_TIME: &str = "CPU time counts from zero at the target";
const SESSION: &str = "it leads its own session and process group at the target";
const NEVER: &str = "no longer maintained: always 0";

pub(super) const ROWS: &[Row] = &[
    harmless("state", "what it is doing", "differs from moment to moment"),
    limited("ppid", "parent", "its parent stays: at the target that is init, or the namespace's", "parent"),
    limited("pgrp", "process group", SESSION, "process"),
    limited("session", "session", SESSION, "process"),
    refused("tty_nr", "controlling terminal", "a terminal stays with this host", "refused terminal"),
    harmless("tpgid", "foreground group of its terminal", "it has no terminal"),
    harmless(
        "flags",
        "the kernel's own flags (PF_*)",
        "bookkeeping of this host's kernel; what can be set has rows of its own",
    ),
    harmless("minflt", "minor page faults", COUNTER),
    harmless("cminflt", "those of its children", COUNTER),
    harmless("majflt", "major page faults", COUNTER),
    harmless("cmajflt", "those of its children", COUNTER),
    limited("utime", "CPU time in user mode", CPU_TIME, "cpu timers"),
    limited("stime", "CPU time in the kernel", CPU_TIME, "cpu timers"),
    limited("cutime", "CPU time of its children", CPU_TIME, "trials unchanged"),
    limited("cstime", "CPU time of its children", CPU_TIME, "trials unchanged"),
    carried("priority", "priority of the scheduler", "process"),
    carried("nice", "nice value", "process"),
    carried("num_threads", "threads", "threads"),
    harmless("itrealvalue", "next alarm", NEVER),
    limited(
        "starttime",
        "when it was started",
        "at the target it began when it was moved there",
        "trials unchanged",
    ),
    harmless("vsize", "mapped memory", "the sum of its mappings, which are carried"),
    harmless("rss", "resident memory", "a counter of pages that are present, and read lazily"),
    carried("rsslim", "RLIMIT_RSS", "process"),
    carried("startcode", "where its code begins", "process"),
    carried("endcode", "where its code ends", "process"),
    carried("startstack", "where its stack begins", "process"),
    harmless("kstkesp", "stack pointer", "shown of a process that is dumping core alone"),
    harmless("kstkeip", "instruction pointer", "shown of a process that is dumping core alone"),
    carried("signal", "pending signals", "signals"),
    carried("blocked", "blocked signals", "signals"),
    carried("sigignore", "ignored signals", "signals"),
    carried("sigcatch", "handled signals", "signals"),
    harmless("wchan", "where it sleeps in the kernel", "differs from moment to moment"),
    harmless("nswap", "pages swapped", NEVER),
    harmless("cnswap", "pages swapped", NEVER),
    carried("exit_signal", "what its parent is sent when it ends", "process"),
    harmless(
        "processor",
        "CPU on which it ran last",
        "differs from moment to moment; which it may use is carried",
    ),
    carried("rt_priority", "real-time priority", "process"),
    carried("policy", "scheduling policy", "process"),
    harmless("delayacct", "time spent waiting for block I/O", COUNTER),
    harmless("guest_time", "CPU time of a virtual machine", COUNTER),
    harmless("cguest_time", "that of its children", COUNTER),
    carried("start_data", "where its data begins", "process"),
    carried("end_data", "where its data ends", "process"),
    carried("start_brk", "where its heap begins", "process"),
    carried("arg_start", "where its arguments are", "process"),
    carried("arg_end", "where its arguments are", "process"),
    carried("env_start", "where its environment is", "process"),
    carried("env_end", "where its environment is", "process"),
    carried("exit_code", "exit status; of a main thread that has ended before the others", "victim leader"),
];
