//! System V objects that are not mapped: message queues and semaphores are named by numbers, nothing in `/proc/PID` tells who uses
//! them. The kernel keeps who used each last; a process that is among them cannot do without it at the target. What it is to
//! give back when it ends (`SEM_UNDO`) stands nowhere, but it has operated on that semaphore.

use std::collections::BTreeSet;

use crate::image::Obstacle;
use crate::sys::sysv;

/// Columns of `/proc/sysvipc/msg`: id, last sender, last receiver.
const QUEUE: (usize, [usize; 2]) = (1, [5, 6]);
/// Columns of `/proc/sysvipc/sem`: id, number of semaphores.
const SET: (usize, usize) = (1, 3);
/// More semaphores than this are not asked one by one.
const MANY: u64 = 4096;

/// Objects that the process used last.
pub fn obstacles(pid: i32) -> Vec<Obstacle> {
    let mut found = BTreeSet::new();
    for line in lines("msg") {
        if QUEUE.1.iter().any(|column| line.get(*column) == Some(&i64::from(pid))) {
            found.extend(line.get(QUEUE.0).map(|id| ("message queue", *id)));
        }
    }
    for line in lines("sem") {
        let (Some(id), Some(count)) = (line.get(SET.0), line.get(SET.1)) else { continue };
        let (id, count) = (*id, count.unsigned_abs().min(MANY));
        if (0..count).any(|number| sysv::last_user(id as i32, number as i32) == Some(pid)) {
            found.insert(("set of semaphores", id));
        }
    }
    let obstacle = |(what, id)| {
        Obstacle::new(
            format!("process {pid}"),
            format!("it uses the System V {what} {id}, which stays here"),
            "have the program use POSIX queues and semaphores, or none of this kind",
        )
    };
    found.into_iter().map(obstacle).collect()
}

/// The numbers of each line but the first; the octal permissions are read as they stand.
fn lines(kind: &str) -> Vec<Vec<i64>> {
    let text = std::fs::read_to_string(format!("/proc/sysvipc/{kind}")).unwrap_or_default();
    let numbers = |line: &str| line.split_whitespace().map(|word| word.parse().unwrap_or(-1)).collect();
    text.lines().skip(1).map(numbers).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_seen_by_its_last_sender() {
        let own = std::process::id() as i32;
        let before = obstacles(own);
        let queue = sysv::tests_queue();
        let with = obstacles(own);
        drop(queue);
        assert!(before.is_empty() && with.len() == 1 && with[0].why.contains("message queue"), "{with:?}");
    }
}
