//! Scheduling policy, nice value, CPU affinity, I/O priority and timer slack of a thread. All of it is read and
//! set from outside, by tid; timer slack, for which that takes `CAP_SYS_NICE`, by the thread itself where we lack it.

use nix::errno::Errno;

use super::error::StateError;
use crate::image::Obstacle;
use crate::image::process::{Sched, ThreadImage};
use crate::sys::process::{self, SchedAttr};
use crate::tracee::{Batch, Outcome};

/// `SCHED_FLAG_UTIL_CLAMP_MIN` and `MAX`: the clamps are meant to be set.
const CLAMPS: u64 = 0x20 | 0x40;

/// Reads the attributes. An affinity of every CPU of this host is kept as "all": an empty mask.
pub fn capture(tid: i32, all_cpus: &[u8]) -> Result<Sched, StateError> {
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

/// Asks the thread that executes the batch for its timer slack, if that could not be read from outside (`timerslack_ns_show`). A
/// real-time thread has none, and so has one that we made urgent: but then it could be read.
pub fn ask_slack(batch: &mut Batch, known: &Sched) -> Option<usize> {
    let args = [libc::PR_GET_TIMERSLACK as u64, 0, 0, 0, 0];
    (known.timer_slack_ns == 0).then(|| batch.attempt("prctl(GET_TIMERSLACK)", libc::SYS_prctl, &args))
}

/// Reads the answer.
pub fn answer_slack(sched: &mut Sched, outcome: &Outcome, asked: Option<usize>) {
    if let Some(slack) = asked.and_then(|index| u64::try_from(outcome.results[index]).ok()) {
        sched.timer_slack_ns = slack;
    }
}

/// Sets it for the thread that executes the batch: [`put`] cannot without `CAP_SYS_NICE`.
pub fn put_slack(batch: &mut Batch, want: &Sched) {
    if want.timer_slack_ns != 0 {
        let args = [libc::PR_SET_TIMERSLACK as u64, want.timer_slack_ns, 0, 0, 0];
        batch.attempt("prctl(SET_TIMERSLACK)", libc::SYS_prctl, &args);
    }
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
pub fn can_run(sched: &Sched, cpus: &[u8]) -> bool {
    sched.affinity.is_empty() || sched.affinity.iter().zip(cpus).any(|(a, b)| a & b != 0)
}

/// Sets the attributes of a thread. CPUs first: a thread with a deadline may be on all of them or on none
/// (`__sched_setscheduler` compares with the root domain), and later keeps them.
pub fn put(tid: i32, want: &Sched, all_cpus: &[u8]) -> Result<(), StateError> {
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

/// Policies and clamps that this host does not give: each is tried, in a thread of ours that ends at once.
pub fn obstacles(threads: &[ThreadImage], all_cpus: &[u8]) -> Vec<Obstacle> {
    let mut tried: Vec<(&Sched, Result<(), Errno>)> = Vec::new();
    let mut found = Vec::new();
    for thread in threads {
        let want = &thread.sched;
        let known = tried.iter().find(|(sched, _)| *sched == want).map(|(_, result)| *result);
        let result = known.unwrap_or_else(|| {
            let result = try_here(want, all_cpus);
            tried.push((want, result));
            result
        });
        if let Err(e) = result {
            found.push(Obstacle::new(
                format!("thread {}", thread.tid),
                format!("ulpm serve cannot give it its scheduling ({}) here: {}", policy(want), e.desc()),
                "start `ulpm serve` with CAP_SYS_NICE, on a kernel that has this policy",
            ));
        }
    }
    found
}

fn try_here(want: &Sched, all_cpus: &[u8]) -> Result<(), Errno> {
    const PLAIN: (u32, u32) = (0, 1024);
    let fair = matches!(want.policy as i32, libc::SCHED_OTHER | libc::SCHED_BATCH | libc::SCHED_IDLE);
    let chosen = want.clamps != PLAIN && want.clamps != (0, 0);
    std::thread::scope(|scope| {
        let trial = scope.spawn(|| {
            if chosen && process::sched_attr(0)?.util_max == 0 {
                return Err(Errno::EOPNOTSUPP);
            }
            if fair && want.nice >= 0 && !chosen {
                return Ok(());
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
