//! The texts for what cannot be carried: every kind by name, why, and what the user can do.

use crate::image::file_path::FilePath;
use crate::image::obstacle::Obstacle;

use super::source::Descriptor;

/// A descriptor whose link says what it is: the rows are `(start of the link, name, advice)`.
const BY_LINK: &[(&str, &str, &str)] = &[
    (
        "anon_inode:inotify",
        "an inotify instance (file watches)",
        "have the program stop watching files, or poll them",
    ),
    (
        "anon_inode:[inotify]",
        "an inotify instance (file watches)",
        "have the program stop watching files, or poll them",
    ),
    ("anon_inode:[fanotify]", "a fanotify group", "stop the file monitoring before the move"),
    (
        "anon_inode:[io_uring]",
        "an io_uring",
        "start the program with io_uring switched off (it will use epoll)",
    ),
    ("anon_inode:[perf_event]", "a perf event", "detach the profiler before the move"),
    (
        "anon_inode:bpf",
        "a BPF object",
        "BPF programs and maps belong to this kernel; unload them before the move",
    ),
    (
        "anon_inode:[bpf",
        "a BPF object",
        "BPF programs and maps belong to this kernel; unload them before the move",
    ),
    (
        "anon_inode:btf",
        "a BPF object",
        "BPF programs and maps belong to this kernel; unload them before the move",
    ),
    ("anon_inode:[userfaultfd]", "a userfaultfd", "switch off the memory manager that uses it"),
    ("anon_inode:kvm", "a KVM virtual machine", "migrate the virtual machine by its own means"),
    (
        "anon_inode:[pidfd]",
        "a pidfd (a handle of a process)",
        "have the program wait for its children by pid",
    ),
    ("pidfd:", "a pidfd (a handle of a process)", "have the program wait for its children by pid"),
    ("anon_inode:[landlock", "a Landlock ruleset", "have the program close it once it is enforced"),
    ("anon_inode:seccomp", "a seccomp listener", "move the supervisor's process by other means"),
    ("anon_inode:[fscontext]", "a mount under construction", "finish the mount before the move"),
    ("anon_inode:sync_file", "a GPU fence", "stop using the GPU before the move"),
    ("anon_inode:i915", "a GPU object", "stop using the GPU before the move"),
    ("anon_inode:[vfio", "a VFIO device", "give the device back before the move"),
    ("/dmabuf:", "a DMA buffer", "stop using the GPU or camera before the move"),
    ("/secretmem", "secret memory (memfd_secret)", "have the program close it"),
    ("/[aio]", "a kernel AIO ring", "start the program without libaio"),
    ("mnt:[", "a namespace descriptor", "have the program close it"),
    ("net:[", "a namespace descriptor", "have the program close it"),
    ("pid:[", "a namespace descriptor", "have the program close it"),
    ("user:[", "a namespace descriptor", "have the program close it"),
    ("uts:[", "a namespace descriptor", "have the program close it"),
    ("ipc:[", "a namespace descriptor", "have the program close it"),
    ("time:[", "a namespace descriptor", "have the program close it"),
    ("cgroup:[", "a namespace descriptor", "have the program close it"),
];

/// Anything without a reader of its own.
pub(super) fn unknown(file: &Descriptor) -> Obstacle {
    let known = BY_LINK.iter().find(|(start, ..)| file.link.starts_with(start));
    let (what, advice) = match known {
        Some((_, what, advice)) => ((*what).to_owned(), *advice),
        None => (format!("{} (unknown to ulpm)", file.link), "have the program close it before the move"),
    };
    Obstacle::new(file.object(), format!("{what} cannot be carried"), advice)
}

/// Is this path the name of something that is no file?
pub(super) fn is_special_path(link: &FilePath) -> bool {
    BY_LINK.iter().any(|(start, ..)| start.starts_with('/') && link.starts_with(start))
}

/// A device file.
pub(super) fn device(file: &Descriptor, block: bool, major: u32, minor: u32) -> Obstacle {
    let refused = |why: String, advice: &str| Obstacle::new(file.object(), why, advice);
    match (block, major) {
        (true, _) => refused(
            format!("the block device {major}:{minor} belongs to this host"),
            "have the program use a file on a shared file system",
        ),
        (false, 4 | 5 | 136..=143) => refused(
            "a terminal stays with this host".into(),
            "start the program without one: setsid PROGRAM </dev/null >/dev/null 2>&1 &",
        ),
        (false, 10) if minor == 200 => {
            refused("a tun/tap device stays here".into(), "close it before the move")
        }
        (false, 10) if minor == 229 => {
            refused("a FUSE connection stays here".into(), "unmount it before the move")
        }
        (false, 10) if minor == 232 => {
            refused("KVM cannot be carried".into(), "migrate the virtual machine by its own means")
        }
        (false, 195 | 226 | 235..=239 | 508..=511) => refused(
            format!("the GPU device {major}:{minor} cannot be carried"),
            "stop using the GPU before the move",
        ),
        _ => refused(
            format!("the character device {major}:{minor} belongs to this host"),
            "have the program close it before the move",
        ),
    }
}

pub(super) fn message_queue(file: &Descriptor) -> Obstacle {
    Obstacle::new(
        file.object(),
        "a POSIX message queue (mq_open) cannot be carried",
        "have the program close it before the move",
    )
}

pub(super) fn fifo(file: &Descriptor) -> Obstacle {
    Obstacle::new(
        file.object(),
        "a named pipe connects to processes of this host",
        "have the program close it before the move",
    )
}

/// `replaced`: another file has its name now, as after the rotation of a log. `names`: that it still has, of its number `ino`.
pub(super) fn deleted(file: &Descriptor, replaced: bool, names: u64, ino: u64) -> Obstacle {
    if replaced {
        let advice = "have the program open the new file (most reopen their logs on SIGHUP or SIGUSR1)";
        let why = "the file was replaced and cannot be opened again by its name";
        return Obstacle::new(file.object(), why, advice);
    }
    if names != 0 {
        let why = "the name by which it was opened was removed; the file itself is there by another name";
        let advice =
            format!("have the program open it by the name that it has now (find MOUNT -xdev -inum {ino})");
        return Obstacle::new(file.object(), why, advice);
    }
    let why = "the file was deleted and cannot be opened again by its name";
    Obstacle::new(file.object(), why, "try again when the program has closed it")
}

pub(super) fn unreachable(file: &Descriptor) -> Obstacle {
    Obstacle::new(
        file.object(),
        "its path does not lead to it from here (renamed over, mounted over, or another mount namespace)",
        "have the program open the file again, by its present path",
    )
}

pub(super) fn process_file(file: &Descriptor) -> Obstacle {
    Obstacle::new(
        file.object(),
        "a file about a process of this host",
        "have the program open it only while it reads it",
    )
}

/// `line` is a `lock:` line of fdinfo.
pub(super) fn lock(file: &Descriptor, line: &str) -> Obstacle {
    let (what, advice) = if line.contains("LEASE") {
        ("a lease on the file", "have the program give the lease back (F_UNLCK)")
    } else if line.contains("OFDLCK") {
        ("an open-file-description lock", "have the program release the lock before the move")
    } else if line.contains("FLOCK") {
        ("an flock", "have the program release the lock before the move")
    } else {
        ("a POSIX record lock", "have the program release the lock before the move")
    };
    Obstacle::new(file.object(), format!("{what} is held; locks do not travel"), advice)
}

pub(super) fn own_table(tid: i32) -> Obstacle {
    Obstacle::new(
        format!("thread {tid}"),
        "it has a descriptor table of its own (CLONE_FILES was undone)",
        "no workaround is known: move the program before it starts this thread",
    )
}

pub(super) fn foreign_owner(object: &str, id: i32) -> Obstacle {
    Obstacle::new(
        object,
        format!("its signals (F_SETOWN) go to process {id}, which stays here"),
        "have the program own its descriptors itself",
    )
}

/// `holder` is a process that has the same object open.
pub(super) fn held_elsewhere(object: &str, what: &str, holder: &str) -> Obstacle {
    Obstacle::new(
        object,
        format!("{what} is also held by {holder}, which stays here"),
        "start the program with /dev/null in its place, or end that process first",
    )
}

/// `holder` is a process that has the same open file, as `dup` and `fork` make it.
pub(super) fn shared_with(object: &str, what: &str, holder: &str) -> Obstacle {
    Obstacle::new(
        object,
        format!("{what} (its position and flags) is shared with {holder}, which stays here"),
        "with --shared split it goes, and each has a position of its own from then on; or end that process first",
    )
}

pub(super) fn peer_outside(object: &str) -> Obstacle {
    Obstacle::new(
        object,
        "the other end of this unix socket is outside the process and its holder was not found",
        "have the program close the connection before the move",
    )
}

pub(super) fn because(file: &Descriptor, why: &str, advice: &str) -> Obstacle {
    Obstacle::new(file.object(), why, advice)
}

/// A socket of a family or protocol without a reader.
pub(super) fn socket(file: &Descriptor, domain: i32, kind: i32, protocol: i32) -> Obstacle {
    let close = "have the program close it before the move";
    let (what, advice) = match domain {
        libc::AF_NETLINK => ("a netlink socket (it talks to this kernel)".to_owned(), close),
        libc::AF_PACKET => ("a packet socket".to_owned(), "stop the packet capture before the move"),
        libc::AF_VSOCK => ("a vsock socket".to_owned(), close),
        libc::AF_ALG => ("a kernel crypto (AF_ALG) socket".to_owned(), "switch off the kernel crypto engine"),
        libc::AF_XDP => ("an XDP socket".to_owned(), close),
        libc::AF_CAN => ("a CAN bus socket".to_owned(), close),
        libc::AF_BLUETOOTH => ("a Bluetooth socket".to_owned(), close),
        libc::AF_TIPC => ("a TIPC socket".to_owned(), close),
        43 => ("an SMC socket".to_owned(), "start the program without smc_run: it will use TCP"),
        libc::AF_INET | libc::AF_INET6 => match (kind, protocol) {
            (libc::SOCK_RAW, _) => ("a raw socket".to_owned(), close),
            (_, libc::IPPROTO_ICMP | libc::IPPROTO_ICMPV6) => ("a ping socket".to_owned(), close),
            (_, libc::IPPROTO_UDPLITE) => ("a UDP-Lite socket".to_owned(), close),
            (_, libc::IPPROTO_SCTP) => ("an SCTP socket".to_owned(), close),
            _ => (format!("an internet socket of type {kind}, protocol {protocol}"), close),
        },
        _ => (format!("a socket of family {domain}, type {kind}, protocol {protocol}"), close),
    };
    Obstacle::new(file.object(), format!("{what} cannot be carried"), advice)
}
