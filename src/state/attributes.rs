//! Attributes of a process as a whole: directories, umask, limits, prctl flags.

use procfs::process::{LimitValue, Process};

use super::error::StateError;
use super::scheduling;
use crate::image::process::Attributes;
use crate::image::{FilePath, Note, Obstacle};
use crate::sys::process::prlimit;
use crate::sys::status::Status;
use crate::tracee::{Batch, Outcome};

const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// `MEMBARRIER_CMD_REGISTER_*`: global, private, of cores, of restartable sequences.
const MEMBARRIER_REGISTER: u32 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;
const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
/// AMX's tiles, the one component that must be asked for.
const XTILE_DATA: u64 = 18;
const LIMIT_NAMES: [&str; 16] = [
    "cpu",
    "fsize",
    "data",
    "stack",
    "core",
    "rss",
    "nproc",
    "nofile",
    "memlock",
    "as",
    "locks",
    "sigpending",
    "msgqueue",
    "nice",
    "rtprio",
    "rttime",
];

/// Indexes of the calls of [`ask`].
#[derive(Debug)]
pub struct Question {
    dumpable: usize,
    subreaper: u64,
    membarrier: usize,
    xstate: u64,
}

/// Reads what is visible from outside.
pub fn capture(pid: i32, status: &Status) -> Result<Attributes, StateError> {
    let link = |name: &str| {
        std::fs::read_link(format!("/proc/{pid}/{name}"))
            .map(FilePath::from)
            .map_err(StateError::io(pid, format!("reading its {name}")))
    };
    let number = |name: &str, radix| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
        i64::from_str_radix(text.trim(), radix).unwrap_or(0)
    };
    let stat = Process::new(pid).and_then(|p| p.stat()).map_err(StateError::proc(pid, "stat"))?;
    Ok(Attributes {
        cwd: link("cwd")?,
        root: link("root")?,
        umask: status.umask.unwrap_or(0o022),
        limits: limits(pid)?,
        oom_score_adj: number("oom_score_adj", 10) as i32,
        coredump_filter: number("coredump_filter", 16) as u32,
        session_leader: stat.session == status.tgid,
        group_leader: stat.pgrp == status.tgid,
        ..Attributes::default()
    })
}

/// Current directories that have no name any more: that of the process, and of threads that have their own.
pub fn gone_directories(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = |tid: i32| {
        let link = format!("/proc/{pid}/task/{tid}/cwd");
        std::fs::metadata(&link).ok().map(|cwd| ((cwd.dev(), cwd.ino()), cwd.nlink() == 0, link))
    };
    let common = directory(pid).map(|(id, ..)| id);
    let gone = |tid: i32| {
        let (id, gone, link) = directory(tid)?;
        if !gone || (tid != pid && Some(id) == common) {
            return None;
        }
        let path = std::fs::read_link(&link).map(FilePath::from).unwrap_or_default();
        let who = if tid == pid { "the process".to_owned() } else { format!("thread {tid}") };
        Some(Obstacle::new(
            format!("current directory {path}"),
            format!("it was deleted while {who} is in it"),
            "have the program change to a directory that exists",
        ))
    };
    tids.iter().filter_map(|tid| gone(*tid)).collect()
}

/// `/proc/PID/limits` is readable where `prlimit` of another user's process is refused. Resources in the order of
/// their numbers.
fn limits(pid: i32) -> Result<Vec<(u64, u64)>, StateError> {
    let limits = Process::new(pid).and_then(|p| p.limits()).map_err(StateError::proc(pid, "limits"))?;
    let value = |v: LimitValue| match v {
        LimitValue::Unlimited => u64::MAX,
        LimitValue::Value(v) => v,
    };
    let l = limits;
    Ok([
        l.max_cpu_time,
        l.max_file_size,
        l.max_data_size,
        l.max_stack_size,
        l.max_core_file_size,
        l.max_resident_set,
        l.max_processes,
        l.max_open_files,
        l.max_locked_memory,
        l.max_address_space,
        l.max_file_locks,
        l.max_pending_signals,
        l.max_msgqueue_size,
        l.max_nice_priority,
        l.max_realtime_priority,
        l.max_realtime_timeout,
    ]
    .map(|limit| (value(limit.soft_limit), value(limit.hard_limit)))
    .to_vec())
}

/// Asks for what only the process can tell.
pub fn ask(batch: &mut Batch) -> Question {
    let get = |batch: &mut Batch, option: u64, arg| {
        batch.attempt("prctl", libc::SYS_prctl, &[option, arg, 0, 0, 0])
    };
    let subreaper = batch.space(4);
    let question = Question {
        dumpable: get(batch, libc::PR_GET_DUMPABLE as u64, 0),
        subreaper,
        membarrier: batch.attempt("membarrier", libc::SYS_membarrier, &[MEMBARRIER_GET_REGISTRATIONS, 0, 0]),
        xstate: batch.space(8),
    };
    batch.attempt("arch_prctl", libc::SYS_arch_prctl, &[ARCH_GET_XCOMP_PERM, question.xstate]);
    get(batch, libc::PR_GET_CHILD_SUBREAPER as u64, subreaper);
    question
}

/// Completes `attributes` with the answers.
pub fn answer(attributes: &mut Attributes, outcome: &Outcome, q: &Question) {
    attributes.dumpable = outcome.results[q.dumpable] as i32;
    attributes.subreaper = outcome.half(q.subreaper) != 0;
    attributes.membarrier = u32::try_from(outcome.results[q.membarrier]).ok();
    attributes.xstate_permission = outcome.word(q.xstate);
}

/// Sets directories, umask and flags inside the process. Early: needs privileges for a root directory.
pub fn put_early(batch: &mut Batch, want: &Attributes) {
    if !want.root.is_root() {
        let root = batch.string(&want.root);
        batch.call("chroot", libc::SYS_chroot, &[root]);
    }
    let cwd = batch.string(&want.cwd);
    batch.call("chdir", libc::SYS_chdir, &[cwd]);
    batch.call("umask", libc::SYS_umask, &[u64::from(want.umask)]);
    put_registrations(batch, want);
}

/// What a program asks for once, when it starts, and relies on. With other threads there the kernel takes a grace period for each
/// registration for `membarrier` (some milliseconds, in the freeze): only who has any pays. A source that does not
/// say gets all, which it may have had.
fn put_registrations(batch: &mut Batch, want: &Attributes) {
    for command in (0..9).map(|bit| 1u32 << bit).filter(|command| MEMBARRIER_REGISTER & command != 0) {
        match want.membarrier {
            Some(registered) if registered & command != 0 => {
                batch.call("membarrier", libc::SYS_membarrier, &[u64::from(command), 0, 0]);
            }
            None => drop(batch.attempt("membarrier", libc::SYS_membarrier, &[u64::from(command), 0, 0])),
            _ => {}
        }
    }
    if want.xstate_permission >> XTILE_DATA & 1 == 1 {
        batch.call("arch_prctl(REQ_XCOMP_PERM)", libc::SYS_arch_prctl, &[ARCH_REQ_XCOMP_PERM, XTILE_DATA]);
    }
}

/// Sets what a change of any thread's credentials resets: after them all, by the leader.
pub fn put_late(batch: &mut Batch, want: &Attributes) {
    let set = |batch: &mut Batch, name, option: u64, value: u64| {
        batch.call(name, libc::SYS_prctl, &[option, value, 0, 0, 0]);
    };
    // 2 (a core only root may read) cannot be asked for: in doubt none at all. To a tracer both are the same.
    set(batch, "prctl(SET_DUMPABLE)", libc::PR_SET_DUMPABLE as u64, u64::from(want.dumpable == 1));
    set(batch, "prctl(SET_CHILD_SUBREAPER)", libc::PR_SET_CHILD_SUBREAPER as u64, u64::from(want.subreaper));
}

/// Sets limits and scores from outside. A hard limit that we may not raise stays as it is here; preflight has
/// made sure that the soft one fits.
pub fn put_outside(pid: i32, want: &Attributes) -> Result<(), StateError> {
    for (r, &(soft, hard)) in want.limits.iter().enumerate() {
        let step = || StateError::errno(pid, format!("setting the resource limit {}", LIMIT_NAMES[r]));
        let (have_soft, have_hard) = prlimit(pid, r as u32, None).map_err(step())?;
        if (have_soft, have_hard) == (soft, hard) {
            continue;
        }
        if prlimit(pid, r as u32, Some((soft, hard))).is_err() {
            prlimit(pid, r as u32, Some((soft, hard.min(have_hard)))).map_err(step())?;
        }
    }
    scheduling::put_autogroup(pid, want.autogroup);
    put_score(pid, "oom_score_adj", i64::from(want.oom_score_adj), want.oom_score_adj.to_string());
    put_score(
        pid,
        "coredump_filter",
        i64::from(want.coredump_filter),
        format!("{:#x}", want.coredump_filter),
    );
    Ok(())
}

fn put_score(pid: i32, name: &str, value: i64, text: String) {
    let path = format!("/proc/{pid}/{name}");
    let radix = if name == "coredump_filter" { 16 } else { 10 };
    let have = std::fs::read_to_string(&path).ok().and_then(|t| i64::from_str_radix(t.trim(), radix).ok());
    if have != Some(value)
        && let Err(e) = std::fs::write(&path, text)
    {
        tracing::warn!(pid, name, error = %e, "could not be set as it was at the source");
    }
}

/// What of a process that dumps its core for root alone (`fs.suid_dumpable` 2, after a change of credentials) is not as before.
pub const CORE_FOR_ROOT: &str =
    "its core was for root alone (dumpable 2): no program can ask for that, so it leaves none at the target";

/// Notes on attributes. That a process is not dumpable makes root the owner of its files in `/proc`.
pub fn notes(pid: i32, status: &Status) -> Vec<Note> {
    use std::os::unix::fs::MetadataExt as _;
    let for_root =
        std::fs::read_to_string("/proc/sys/fs/suid_dumpable").is_ok_and(|value| value.trim() == "2");
    let hidden =
        || std::fs::metadata(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.uid() != status.uids[1]);
    let note = |object: String| Note::new(object, CORE_FOR_ROOT);
    (for_root && hidden()).then(|| note(format!("process {pid}"))).into_iter().collect()
}

/// Soft limits that are above what this host allows.
pub fn limit_obstacles(want: &Attributes) -> Vec<Obstacle> {
    let own = std::process::id() as i32;
    let may_raise = super::credentials_of_self().is_ok_and(|c| c.caps[2] >> 24 & 1 == 1);
    want.limits
        .iter()
        .enumerate()
        .filter_map(|(r, &(soft, _))| {
            let (_, hard) = prlimit(own, r as u32, None).ok()?;
            (soft > hard && !may_raise).then(|| {
                Obstacle::new(
                    format!("resource limit {}", LIMIT_NAMES[r]),
                    format!("the process has a soft limit of {soft}, this host allows ulpm serve {hard} at the most"),
                    "start `ulpm serve` with a higher hard limit",
                )
            })
        })
        .collect()
}
