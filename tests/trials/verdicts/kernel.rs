//! Whatever this kernel, or its headers, can enumerate of a process's state has a row in the table of verdicts.

use std::collections::BTreeSet;
use std::fs;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::{Failed, Trial};
use ulpm::state::verdicts::{Area, of, of_option, rows};

/// Directories of `/proc/PID`, whose contents have rows of their own, or are the network's.
const DIRECTORIES: [&str; 6] = ["attr", "fd", "fdinfo", "map_files", "ns", "task"];

pub(super) fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Result<()>| {
        Trial::test(name, move || run().map_err(|error| Failed::from(format!("{error:#}"))))
    };
    vec![
        trial("verdicts for lines of status", lines_of_status),
        trial("verdicts for files of proc", files_of_proc),
        trial("verdicts for namespaces and limits", namespaces_and_limits),
        trial("verdicts for flags of mappings", flags_of_mappings),
        trial("verdicts for prctl, ptrace and fcntl", headers),
        trial("verdicts for kcmp, scheduling and seals", kinds_in_headers),
        trial("verdicts for fields of stat", fields_of_stat),
        trial("verdicts for socket options", socket_options),
        trial("verdicts for kinds of descriptors", anonymous_inodes),
    ]
}

/// Fails with the names that have no row.
fn insist(area: Area, names: impl IntoIterator<Item = String>) -> Result<()> {
    let names: BTreeSet<String> = names.into_iter().collect();
    ensure!(!names.is_empty(), "{area:?}: nothing was enumerated");
    let missing: Vec<&String> = names.iter().filter(|name| of(area, name).is_none()).collect();
    ensure!(missing.is_empty(), "{area:?}: no verdict for {missing:?}");
    Ok(())
}

fn lines_of_status() -> Result<()> {
    let text = String::from_utf8_lossy(&fs::read("/proc/self/status")?).into_owned();
    insist(Area::Status, text.lines().filter_map(|line| Some(line.split_once(':')?.0.to_owned())))
}

fn files_of_proc() -> Result<()> {
    let own = format!("/proc/self/task/{}", nix::unistd::gettid());
    let mut names = BTreeSet::new();
    for place in ["/proc/self".to_owned(), own] {
        for entry in fs::read_dir(&place)? {
            names.insert(entry?.file_name().to_string_lossy().into_owned());
        }
        for entry in fs::read_dir(format!("{place}/attr")).into_iter().flatten().flatten() {
            names.insert(format!("attr/{}", entry.file_name().to_string_lossy()));
        }
    }
    insist(Area::ProcFiles, names.into_iter().filter(|name| !DIRECTORIES.contains(&name.as_str())))
}

fn namespaces_and_limits() -> Result<()> {
    let spaces = fs::read_dir("/proc/self/ns")?.flatten();
    insist(Area::Namespaces, spaces.map(|entry| entry.file_name().to_string_lossy().into_owned()))?;
    let limits = fs::read_to_string("/proc/self/limits")?;
    insist(Area::Limits, limits.lines().skip(1).map(|line| line[..26.min(line.len())].trim().to_owned()))
}

/// Of all processes that can be read; the victims of the suite are among them, by and by.
fn flags_of_mappings() -> Result<()> {
    let mut flags = BTreeSet::new();
    for entry in fs::read_dir("/proc")?.flatten() {
        let smaps = fs::read(entry.path().join("smaps")).unwrap_or_default();
        for line in String::from_utf8_lossy(&smaps).lines().filter_map(|line| line.strip_prefix("VmFlags:")) {
            flags.extend(line.split_whitespace().map(str::to_owned));
        }
    }
    insist(Area::VmFlags, flags)
}

/// Names that begin with one of `starts` and are defined in a header. Where there are no headers of the kernel, there is no C
/// compiler that could use them, and no victim was built.
fn defined(header: &str, starts: &[&str]) -> Result<Vec<String>> {
    let text = fs::read_to_string(header).with_context(|| format!("reading {header}"))?;
    let names = text.lines().filter_map(|line| {
        let rest = line.trim_start().strip_prefix('#')?.trim_start().strip_prefix("define")?;
        rest.split_whitespace().next().map(str::to_owned)
    });
    Ok(names.filter(|name| starts.iter().any(|start| name.starts_with(start))).collect())
}

fn headers() -> Result<()> {
    let prctl = defined("/usr/include/linux/prctl.h", &["PR_"])?;
    // getters, and modes that can be set and not asked for; what is left are values
    let getters = prctl.into_iter().filter(|name| {
        let other_machine = ["PR_SVE_", "PR_SME_", "PR_PPC_", "PR_RISCV_", "PR_PAC_"];
        let getter = name.contains("_GET_") || name.ends_with("_GET");
        getter && !other_machine.iter().any(|other| name.starts_with(other))
    });
    insist(Area::Prctl, getters)?;
    let ptrace = defined("/usr/include/linux/ptrace.h", &["PTRACE_GET", "PTRACE_PEEK"])?;
    // flags of another request
    insist(Area::Ptrace, ptrace.into_iter().filter(|name| !name.starts_with("PTRACE_PEEKSIGINFO_")))?;
    let mut fcntl = defined("/usr/include/linux/fcntl.h", &["F_GET", "F_DUPFD_QUERY"])?;
    fcntl.extend(defined("/usr/include/asm-generic/fcntl.h", &["F_GET"])?);
    insist(Area::Descriptors, fcntl)
}

/// Types of kcmp are an enumeration, whose last name counts them; of scheduling, requests ("keep what is there") are no state, and the two clamps
/// are one row.
fn kinds_in_headers() -> Result<()> {
    let header = "/usr/include/linux/kcmp.h";
    let text = fs::read_to_string(header).with_context(|| format!("reading {header}"))?;
    let types = text.lines().filter_map(|line| line.trim().strip_suffix(',')).map(str::to_owned);
    insist(Area::Kcmp, types.filter(|name| name.starts_with("KCMP_") && name != "KCMP_TYPES"))?;
    let seals = defined("/usr/include/linux/fcntl.h", &["F_SEAL_"])?;
    insist(Area::Descriptors, seals)?;
    let requests = ["SCHED_FLAG_KEEP", "SCHED_FLAG_ALL", "SCHED_FLAG_UTIL_CLAMP_M", "SCHED_RESET_ON_FORK"];
    let sched = defined("/usr/include/linux/sched.h", &["SCHED_"])?;
    let states = sched.into_iter().filter(|name| !requests.iter().any(|request| name.starts_with(request)));
    let names = states.map(|name| if name == "SCHED_NORMAL" { "SCHED_OTHER".to_owned() } else { name });
    insist(Area::Scheduling, names)
}

/// They have no names there, only places: each has a row, in the kernel's order. Not the first two, which are pid and name.
fn fields_of_stat() -> Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(") ").context("no name in stat")?;
    let (there, known) = (fields.split_whitespace().count(), rows(Area::Stat).len());
    ensure!(there == known, "/proc/self/stat has {there} fields behind the name, and {known} have a verdict");
    Ok(())
}

/// Asks a fresh socket of each kind for every number.
fn socket_options() -> Result<()> {
    let kinds = [
        (libc::AF_INET, libc::SOCK_STREAM, 0),
        (libc::AF_INET6, libc::SOCK_STREAM, 0),
        (libc::AF_INET, libc::SOCK_STREAM, 262),
        (libc::AF_INET, libc::SOCK_DGRAM, 0),
        (libc::AF_INET6, libc::SOCK_DGRAM, 0),
        (libc::AF_UNIX, libc::SOCK_STREAM, 0),
        (libc::AF_UNIX, libc::SOCK_DGRAM, 0),
        (libc::AF_UNIX, libc::SOCK_SEQPACKET, 0),
    ];
    let mut missing = BTreeSet::new();
    let mut asked = 0;
    for (domain, kind, protocol) in kinds {
        let Some(socket) = fresh(domain, kind, protocol) else { continue };
        for level in
            [libc::SOL_SOCKET, libc::IPPROTO_IP, libc::IPPROTO_IPV6, libc::IPPROTO_TCP, libc::IPPROTO_UDP]
        {
            for number in (1..=255).filter(|number| answers(&socket, level, *number)) {
                asked += 1;
                if of_option(level, number).is_none() {
                    missing.insert((level, number));
                }
            }
        }
    }
    ensure!(asked > 100, "only {asked} options were answered");
    ensure!(missing.is_empty(), "no verdict for the socket options (level, number) {missing:?}");
    Ok(())
}

#[allow(unsafe_code)]
fn fresh(domain: i32, kind: i32, protocol: i32) -> Option<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(domain, kind | libc::SOCK_CLOEXEC, protocol) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code)]
fn answers(socket: &OwnedFd, level: i32, number: i32) -> bool {
    let mut value = [0u8; 1024];
    let mut len = value.len() as libc::socklen_t;
    // SAFETY: value is valid for len bytes.
    unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, number, value.as_mut_ptr().cast(), &raw mut len) == 0
    }
}

/// Kinds of descriptors that have no file behind them, as this kernel names those that can be made here.
fn anonymous_inodes() -> Result<()> {
    let calls: [(libc::c_long, [libc::c_long; 4]); 9] = [
        (libc::SYS_eventfd2, [0, 0, 0, 0]),
        (libc::SYS_epoll_create1, [0, 0, 0, 0]),
        (libc::SYS_timerfd_create, [1, 0, 0, 0]),
        (libc::SYS_inotify_init1, [0, 0, 0, 0]),
        (libc::SYS_fanotify_init, [0, 0, 0, 0]),
        (libc::SYS_pidfd_open, [i64::from(std::process::id()), 0, 0, 0]),
        (libc::SYS_userfaultfd, [1, 0, 0, 0]),
        (libc::SYS_memfd_secret, [0, 0, 0, 0]),
        (libc::SYS_landlock_create_ruleset, [[1u64, 0, 0].as_ptr() as i64, 8, 0, 0]),
    ];
    let mut names = Vec::new();
    for (number, args) in calls {
        let Some(fd) = called(number, args) else { continue };
        let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?.to_string_lossy().into_owned();
        names.push(link.trim_end_matches(" (deleted)").to_owned());
    }
    insist(Area::Descriptors, names)
}

#[allow(unsafe_code)]
fn called(number: libc::c_long, [a, b, c, d]: [libc::c_long; 4]) -> Option<OwnedFd> {
    // SAFETY: the one pointer among the arguments is valid for the length given with it.
    let fd = unsafe { libc::syscall(number, a, b, c, d) };
    // SAFETY: a fresh descriptor that nobody else owns.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
