//! NUMA policies (`set_mempolicy(2)`, `mbind(2)`) of threads and of mappings: refused, since the target's nodes are others.
//!
//! `/proc/PID/numa_maps` names the policy of each mapping; for one that has none, that of the main thread. Those of the other
//! threads show nowhere: each is asked by `get_mempolicy`.

use crate::image::Obstacle;
use crate::tracee::{Batch, Outcome};

/// Why it is refused.
pub const POLICY: &str = "a NUMA policy (set_mempolicy, mbind) is not carried";
const ADVICE: &str = "start it without numactl, and without calls of libnuma";

/// Where the answer of [`ask`] is.
#[derive(Debug, Default)]
pub struct Question {
    call: usize,
    mode: u64,
}

/// One obstacle for all mappings that have a policy, or are under that of the main thread.
pub fn obstacle(pid: i32) -> Option<Obstacle> {
    // without NUMA in the kernel there is no such file
    let text = crate::sys::lossy(format!("/proc/{pid}/numa_maps")).ok()?;
    let policies: Vec<(&str, &str)> = text.lines().filter_map(policy).collect();
    let (start, first) = policies.first()?;
    let why = format!("{POLICY}: {first}; {} mappings in all", policies.len());
    Some(Obstacle::new(format!("mapping at 0x{start}"), why, ADVICE))
}

/// Start and policy of a line, if it has one.
fn policy(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split(' ');
    let (start, policy) = (words.next()?, words.next()?);
    (policy != "default").then_some((start, policy))
}

/// Asks the thread that executes the batch.
pub fn ask(batch: &mut Batch) -> Question {
    let mode = batch.space(8);
    Question { call: batch.attempt("get_mempolicy", libc::SYS_get_mempolicy, &[mode, 0, 0, 0, 0]), mode }
}

/// What its answer says.
pub fn answer(tid: i32, outcome: &Outcome, q: &Question) -> Option<Obstacle> {
    let mode = outcome.half(q.mode);
    (outcome.results[q.call] == 0 && mode != 0)
        .then(|| Obstacle::new(format!("thread {tid}"), format!("{POLICY}: mode {mode:#x}"), ADVICE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policies_are_seen_beside_the_default() {
        assert_eq!(policy("55ee93740000 default file=/usr/bin/head mapped=2 N0=2 kernelpagesize_kB=4"), None);
        assert_eq!(policy("7f00 interleave:0-1 anon=2 dirty=2 N0=2"), Some(("7f00", "interleave:0-1")));
        assert_eq!(policy("7f00 prefer (many):0 heap"), Some(("7f00", "prefer")));
    }
}
