//! State that cannot be seen from outside.

use super::row::{Row, carried, harmless, limited, refused};

pub(super) const ROWS: &[Row] = &[
    limited(
        "cgroup",
        "the control groups in which it lives",
        "it will be that of ulpm serve there, or one of its own (--slice, --cgroup); asked for: limits of memory and tasks",
        "serve in control groups",
    ),
    limited(
        "parent",
        "who started the process, and waits for it",
        "it sees process N killed by SIGKILL (status 137)",
        "parent is a shell",
    ),
    refused(
        "parent that starts it again",
        "a supervisor, or a unit of systemd whose Restart= covers SIGKILL",
        "it sees process N killed by SIGKILL (status 137), and starts a second copy here (unless --parent-knows)",
        "parent is systemd",
    ),
    carried(
        "main thread that has ended",
        "a zombie that other threads have outlived, with its name, credentials, scheduling and exit status",
        "victim leader; trials leader …",
    ),
    refused(
        "Landlock",
        "domain that a thread has confined itself to; asked by kcmp(2) with a witness outside of it",
        "it has confined itself with Landlock, which is not carried yet: it would be free at the target",
        "trials refuse state landlock, landlock-thread",
    ),
    refused(
        "memfd or shared anonymous memory, mapped privately and without a descriptor",
        "what a private page hides of it, where ulpm may not open /proc/PID/map_files (an ordinary user's)",
        crate::state::reasons::UNREADABLE,
        "trial variants hugetlb of a user",
    ),
    refused(
        "keyctl (thread, process)",
        "keyrings of a thread and of the process",
        "it has a keyring (keyctl(2)), whose keys stay in this kernel",
        "trial refuse state keyring",
    ),
    limited(
        "keyctl (session, user)",
        "keyrings of its session and of its user",
        "keys of its session and user stay in this kernel",
        "",
    ),
    refused(
        "modify_ldt",
        "local descriptor table",
        "it has a local descriptor table (modify_ldt(2)), which is not carried",
        "trial refuse state ldt",
    ),
    carried("membarrier", "registrations for membarrier(2)", "victim perthread"),
    carried("sigaltstack", "alternate signal stack of each thread, or that there is none", "signals, bare"),
    limited(
        "calls that are half done",
        "write, send, splice on a pipe or stream that blocks; recv with MSG_WAITALL",
        crate::state::half_done::LIMIT,
        "trial check names a half-done call",
    ),
    limited(
        "signals that come while it moves",
        "what others send to the stopped copy, until it is killed",
        "those that come once it runs at the target look like those of sigqueue, of the same sender; what is sent to the killed copy is dropped by the kernel",
        "signals sent during moves",
    ),
    limited(
        "signals to a process in the making",
        "what somebody at the target sends to its pid before it runs there",
        "they wait for it, and go with it if it never runs; SIGSTOP, SIGTRAP and SIGKILL end the move",
        "signals to a process in the making",
    ),
    limited(
        "timer_getoverrun",
        "overruns that the last signal of a POSIX timer told",
        crate::state::overruns::TOLD,
        "victim overruns",
    ),
    carried("rt_sigaction", "actions of signals", "victim signals"),
    carried("get_robust_list", "robust futex list of each thread", "robust, owned, bare"),
    refused(
        "System V message queues and semaphores",
        "objects that it used last",
        "it uses a System V object, which stays here",
        "trials refuse state queue, semaphore",
    ),
    harmless(
        "PR_SET_PTRACER",
        "who else may trace it, under Yama",
        "names a process of the source; forgotten there when that ends",
    ),
    harmless("PR_TASK_PERF_EVENTS", "its own perf events", "their descriptors are refused"),
];
