//! Namespaces, of the process and of each thread, by the names of `/proc/PID/ns`.

use super::row::{Row, carried, harmless, limited, refused};

const OTHER: &str =
    "it lives in another namespace of this kind than this ulpm, or a thread in another than its process";
const SHOWN: &str = "trial refuse state namespace";

pub(super) const ROWS: &[Row] = &[
    refused("cgroup", "what it sees as the root of control groups", OTHER, SHOWN),
    refused("ipc", "System V objects and POSIX message queues", OTHER, SHOWN),
    limited(
        "mnt",
        "mounts",
        "in another one only if it has the same mounts (but for /proc)",
        "trials pid_modes",
    ),
    refused("net", "network", OTHER, SHOWN),
    carried("pid", "pids: the same, or a namespace of its own at the target", "trials pid_modes"),
    refused(
        "pid_for_children",
        "pids of its children",
        "its children would live in another pid namespace than itself",
        "trial refuse state children",
    ),
    carried("time", "clocks: one of its own at the target, so that they go on", "victim clock"),
    refused(
        "time_for_children",
        "clocks of its children",
        "its children would live in another time namespace than itself",
        "trial refuse state children",
    ),
    refused("user", "users and capabilities", OTHER, SHOWN),
    refused("uts", "name of the host", OTHER, SHOWN),
    harmless(
        "(of a later kernel)",
        "what this list does not know",
        "compared like the others, and refused where it differs",
    ),
];
