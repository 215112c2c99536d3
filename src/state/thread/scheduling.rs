//! Scheduling policy, nice value, CPU affinity, I/O priority and timer slack of a thread. All of it is read and
//! set from outside, by tid; timer slack, for which that takes `CAP_SYS_NICE`, by the thread itself where we lack it.

use nix::errno::Errno;

use serde::{Deserialize, Serialize};

use crate::image::Obstacle;
use crate::state::error::StateError;
use crate::state::seam::thread::{SeenThread, ThreadPut, ThreadStage, ThreadState};
use crate::state::seam::{Captured, State, TargetHost, insist};
use crate::sys::process::{self, SchedAttr};
use crate::tracee::Batch;

/// `SCHED_FLAG_UTIL_CLAMP_MIN` and `MAX`: the clamps are meant to be set.
const CLAMPS: u64 = 0x20 | 0x40;

/// Scheduling attributes of a thread.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sched {
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// Nice value.
    pub nice: i32,
    /// Real-time priority.
    pub priority: u32,
    /// Deadline: runtime, deadline, period in nanoseconds. Of the fair policies the runtime is the slice (Linux 6.12).
    pub deadline: (u64, u64, u64),
    /// Utilization clamps, least and most of 1024; both 0: the kernel has none.
    pub clamps: (u32, u32),
    /// Allowed CPUs, the kernel's bit mask.
    pub affinity: Vec<u8>,
    /// `ioprio_get`.
    pub ioprio: i32,
    /// Timer slack in nanoseconds.
    pub timer_slack_ns: u64,
}

impl Sched {
    /// One of the policies that share a CPU.
    fn is_fair(&self) -> bool {
        matches!(self.policy as i32, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE)
    }
}

impl State for Sched {
    const NAME: &'static str = "scheduling";

    fn check(&self) -> Result<(), String> {
        insist(self.affinity.len() <= 8192, "an impossible CPU mask")
    }
}

impl ThreadState for Sched {
    const STAGES: &'static [ThreadStage] = &[ThreadStage::Itself, ThreadStage::Outside];
    const OUTLIVES: bool = true;

    fn describe(seen: &SeenThread<'_>) -> Result<Self, StateError> {
        read(seen.tid, seen.cpus)
    }

    /// Asks the thread for its timer slack, if that could not be read from outside (`timerslack_ns_show`). A real-time thread has none,
    /// and so has one that we made urgent: but then it could be read.
    fn capture(seen: &SeenThread<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let seen = read(seen.tid, seen.cpus)?;
        if seen.timer_slack_ns != 0 {
            return Ok(Captured::Seen(seen));
        }
        let args = [libc::PR_GET_TIMERSLACK as u64, 0, 0, 0, 0];
        let call = batch.attempt("prctl(GET_TIMERSLACK)", libc::SYS_prctl, &args);
        Ok(Captured::told(move |outcome| {
            let timer_slack_ns = u64::try_from(outcome.results[call]).unwrap_or(0);
            Self { timer_slack_ns, ..seen }
        }))
    }

    fn obstacles_here(&self, tid: i32, host: &TargetHost) -> Vec<Obstacle> {
        let mut found = Vec::new();
        let mut add = |why: String, advice: &str| {
            found.push(Obstacle::new(format!("thread {tid}"), why, advice));
        };
        if !can_run(self, &host.cpus) {
            let why = "it may run only on CPUs that the target does not have";
            add(why.to_owned(), "widen its affinity with taskset");
        }
        if let Err(e) = try_here(self, &host.cpus) {
            let what = policy(self);
            let why = format!("ulpm serve cannot give it its scheduling ({what}) here: {}", e.desc());
            add(why, "start `ulpm serve` with CAP_SYS_NICE, on a kernel that has this policy");
        }
        found
    }

    fn powers(&self) -> Option<String> {
        const IOPRIO_RT: i32 = 1;
        let ahead = !self.is_fair() || self.nice < 0 || self.ioprio >> 13 == IOPRIO_RT;
        ahead.then(|| "it runs ahead of others".to_owned())
    }

    /// The slack by the thread itself: from outside it cannot be set without `CAP_SYS_NICE`.
    fn put(&self, to: &mut ThreadPut<'_>) -> Result<(), StateError> {
        if to.stage == ThreadStage::Outside {
            return put(to.tid, self, to.cpus);
        }
        if self.timer_slack_ns != 0 && !to.ended {
            let args = [libc::PR_SET_TIMERSLACK as u64, self.timer_slack_ns, 0, 0, 0];
            to.batch.attempt("prctl(SET_TIMERSLACK)", libc::SYS_prctl, &args);
        }
        Ok(())
    }
}

/// Reads them. An affinity of every CPU of this host is kept as "all": an empty mask.
fn read(tid: i32, all_cpus: &[u8]) -> Result<Sched, StateError> {
    let step = |what: &'static str| StateError::errno(tid, format!("reading the {what}"));
    let attr = process::sched_attr(tid).map_err(step("scheduling policy"))?;
    let affinity = process::affinity(tid).map_err(step("CPU affinity"))?;
    Ok(Sched {
        policy: attr.policy,
        flags: attr.flags,
        nice: attr.nice,
        priority: attr.priority,
        deadline: (attr.runtime, attr.deadline, attr.period),
        clamps: (attr.util_min, attr.util_max),
        affinity: if covers(&affinity, all_cpus) { Vec::new() } else { affinity },
        ioprio: process::ioprio(tid).map_err(step("I/O priority"))?,
        timer_slack_ns: std::fs::read_to_string(format!("/proc/{tid}/timerslack_ns"))
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0),
    })
}

fn covers(mask: &[u8], all: &[u8]) -> bool {
    all.iter().enumerate().all(|(i, byte)| mask.get(i).copied().unwrap_or(0) & byte == *byte)
}

/// The CPUs that are online here, as the kernel's bit mask.
pub fn online_cpus() -> Vec<u8> {
    let text = std::fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    parse_cpu_list(&text).unwrap_or_else(|| vec![1])
}

fn parse_cpu_list(text: &str) -> Option<Vec<u8>> {
    let mut mask = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        for cpu in first.parse::<usize>().ok()?..=last.parse::<usize>().ok()? {
            mask.resize(mask.len().max(cpu / 8 + 1), 0u8);
            mask[cpu / 8] |= 1 << (cpu % 8);
        }
    }
    (!mask.is_empty()).then_some(mask)
}

/// Whether a thread with this affinity can run on any of `cpus`.
fn can_run(sched: &Sched, cpus: &[u8]) -> bool {
    sched.affinity.is_empty() || sched.affinity.iter().zip(cpus).any(|(a, b)| a & b != 0)
}

/// Sets the attributes of a thread. CPUs first: a thread with a deadline may be on all of them or on none
/// (`__sched_setscheduler` compares with the root domain), and later keeps them.
fn put(tid: i32, want: &Sched, all_cpus: &[u8]) -> Result<(), StateError> {
    let step = |what: &'static str| StateError::errno(tid, format!("setting the {what}"));
    let mask = if want.affinity.is_empty() { all_cpus } else { &want.affinity };
    process::set_affinity(tid, mask).map_err(step("CPU affinity"))?;
    put_policy(tid, want).map_err(step("scheduling policy"))?;
    process::set_ioprio(tid, want.ioprio).map_err(step("I/O priority"))?;
    let path = format!("/proc/{tid}/timerslack_ns");
    let have = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok());
    // 0 is what the real-time policies have, and the kernel takes it for "the usual"
    if want.timer_slack_ns != 0 && have.is_some_and(|h| h != want.timer_slack_ns) {
        std::fs::write(&path, want.timer_slack_ns.to_string())
            .map_err(StateError::io(tid, "setting the timer slack"))?;
    }
    Ok(())
}

fn put_policy(tid: i32, want: &Sched) -> Result<(), Errno> {
    let have = process::sched_attr(tid)?;
    let attr = wanted(want, &have);
    // without this an ordinary user, who may not raise anything, could not say what is so already
    if (SchedAttr { flags: attr.flags & !CLAMPS, ..attr }) == have {
        return Ok(());
    }
    process::set_sched_attr(tid, &attr)
}

/// What to ask of the kernel. Clamps are named only where they differ: one that is named counts as chosen.
fn wanted(want: &Sched, have: &SchedAttr) -> SchedAttr {
    let mut attr = *have;
    (attr.policy, attr.flags, attr.nice, attr.priority) = (want.policy, want.flags, want.nice, want.priority);
    (attr.runtime, attr.deadline, attr.period) = want.deadline;
    if have.util_max != 0 && want.clamps.1 != 0 && want.clamps != (have.util_min, have.util_max) {
        attr.flags |= CLAMPS;
        (attr.util_min, attr.util_max) = want.clamps;
    }
    attr
}

/// Whether this host gives it such a policy, in a thread of ours that ends at once. What every thread may have is not tried.
fn try_here(want: &Sched, all_cpus: &[u8]) -> Result<(), Errno> {
    const PLAIN: (u32, u32) = (0, 1024);
    let chosen = want.clamps != PLAIN && want.clamps != (0, 0);
    if want.is_fair() && want.nice >= 0 && !chosen {
        return Ok(());
    }
    std::thread::scope(|scope| {
        let trial = scope.spawn(|| {
            if chosen && process::sched_attr(0)?.util_max == 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            process::set_affinity(0, all_cpus)?;
            put_policy(0, want)
        });
        trial.join().unwrap_or(Ok(()))
    })
}

fn policy(sched: &Sched) -> String {
    let names = [
        "SCHED_OTHER",
        "SCHED_FIFO",
        "SCHED_RR",
        "SCHED_BATCH",
        "",
        "SCHED_IDLE",
        "SCHED_DEADLINE",
        "SCHED_EXT",
    ];
    let name = names.get(sched.policy as usize).copied().unwrap_or_default();
    format!(
        "{name}, nice {}, priority {}, clamps {} to {}",
        sched.nice, sched.priority, sched.clamps.0, sched.clamps.1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list("0-1\n"), Some(vec![3]));
        assert_eq!(parse_cpu_list("0,9-10"), Some(vec![1, 6]));
        assert_eq!(parse_cpu_list("x"), None);
        assert!(covers(&[3, 0, 0], &[3]));
        assert!(!covers(&[1], &[3]));
    }

    #[test]
    fn clamps_are_named_only_where_they_differ() {
        let have = SchedAttr { util_max: 1024, ..SchedAttr::default() };
        let plain = Sched { clamps: (0, 1024), ..Sched::default() };
        assert_eq!(wanted(&plain, &have), have);
        let chosen = Sched { clamps: (200, 700), flags: 1, ..Sched::default() };
        let attr = wanted(&chosen, &have);
        assert_eq!((attr.flags, attr.util_min, attr.util_max), (1 | CLAMPS, 200, 700));
        let kernel_without = SchedAttr::default();
        assert_eq!(wanted(&chosen, &kernel_without).flags, 1);
    }
}
