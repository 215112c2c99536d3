//! Scheduling policy, nice value, CPU affinity, I/O priority and timer slack of a thread. All of it is read and
//! set from outside, by tid.

use super::error::StateError;
use crate::image::process::Sched;
use crate::sys::process;

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

/// Nice value of the task group that the kernel makes of a session (`CONFIG_SCHED_AUTOGROUP`): `/autogroup-7 nice 0`.
pub fn autogroup(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()?;
    text.trim().rsplit_once(" nice ")?.1.parse().ok()
}

/// Sets it, for the session of its own that the process has here. The kernel lets an ordinary user do that ten times a second.
pub fn put_autogroup(pid: i32, want: Option<i32>) {
    let (Some(want), Some(have)) = (want, autogroup(pid)) else { return };
    if want != have
        && let Err(e) = std::fs::write(format!("/proc/{pid}/autogroup"), want.to_string())
    {
        tracing::warn!(pid, error = %e, "the nice value of its session could not be set as it was at the source");
    }
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

/// Sets the attributes where they differ from what the thread has.
pub fn put(tid: i32, want: &Sched, all_cpus: &[u8]) -> Result<(), StateError> {
    let step = |what: &'static str| StateError::errno(tid, format!("setting the {what}"));
    let have = process::sched_attr(tid).map_err(step("scheduling policy"))?;
    let mut attr = have;
    (attr.policy, attr.flags, attr.nice, attr.priority) = (want.policy, want.flags, want.nice, want.priority);
    (attr.runtime, attr.deadline, attr.period) = want.deadline;
    if attr != have {
        process::set_sched_attr(tid, &attr).map_err(step("scheduling policy"))?;
    }
    if want.ioprio != process::ioprio(tid).map_err(step("I/O priority"))? {
        process::set_ioprio(tid, want.ioprio).map_err(step("I/O priority"))?;
    }
    if want.timer_slack_ns != 0 {
        let path = format!("/proc/{tid}/timerslack_ns");
        let have = std::fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok());
        if have.is_some_and(|h| h != want.timer_slack_ns) {
            std::fs::write(&path, want.timer_slack_ns.to_string())
                .map_err(StateError::io(tid, "setting the timer slack"))?;
        }
    }
    let mask = if want.affinity.is_empty() { all_cpus } else { &want.affinity };
    process::set_affinity(tid, mask).map_err(step("CPU affinity"))
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
}
