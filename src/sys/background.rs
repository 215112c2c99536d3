//! Our own threads in the background: behind ordinary work, for what nobody waits for (the rounds before a freeze).
//!
//! `SCHED_BATCH` threads do not preempt others when they wake up; a nice value of 10 gives them a tenth of the share of an ordinary
//! thread, so that a busy host can still be emptied; and a slice of 0.1 ms (`sched_attr.sched_runtime` of an ordinary policy,
//! Linux 6.12; ignored before) bounds for how long a thread that has become runnable waits for the end of ours (sched(7)).
//! With `sched_autogroup_enabled` nice values count within a session only, and sessions compete as one group each, however many threads
//! they have at work: there the nice value of the group counts ([`super::own_session`]). Control groups with the controller `cpu` compete in
//! the same way; their weights are the administrator's, and are left alone.

use nix::errno::Errno;

use super::kernel::Kernel;
use super::process::{SchedAttr, sched_attr, set_sched_attr};

pub(super) const NICE: i32 = 10;
/// The shortest that the kernel takes.
const SLICE_NS: u64 = 100_000;

/// The calling thread in the background; as it was when dropped. Threads that it starts meanwhile are there, too.
#[derive(Debug)]
pub struct Background {
    before: Option<SchedAttr>,
}

impl Background {
    /// Puts the calling thread there.
    pub fn begin() -> Self {
        Background { before: put(0).unwrap_or_default() }
    }

    /// Does something as if the calling thread were not there: a thread that it starts is none of the background's.
    pub fn without<T>(&self, work: impl FnOnce() -> T) -> T {
        let left = self.before.is_some_and(|before| set_sched_attr(0, &before).is_ok());
        let done = work();
        if left {
            let _ = put(0);
        }
        done
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(before) = &self.before
            && let Err(error) = set_sched_attr(0, before)
        {
            tracing::warn!(%error, "our own thread stays in the background");
        }
    }
}

/// Puts a thread of ours in the background. Returns how it was; `None`: under a real-time policy, and left there.
pub fn put(tid: i32) -> Result<Option<SchedAttr>, Errno> {
    let own = sched_attr(tid)?;
    if own.policy != libc::SCHED_OTHER as u32 && own.policy != libc::SCHED_BATCH as u32 {
        return Ok(None);
    }
    let nice = if Kernel::here().nice_returns { own.nice.max(NICE) } else { own.nice };
    set_sched_attr(tid, &SchedAttr { policy: libc::SCHED_BATCH as u32, nice, runtime: SLICE_NS, ..own })?;
    Ok(Some(own))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_are_behind_and_it_comes_back() {
        let attr = || sched_attr(0).unwrap();
        std::thread::spawn(move || {
            let before = attr();
            let background = Background::begin();
            let child = std::thread::spawn(attr).join().unwrap();
            for behind in [attr(), child] {
                assert_eq!(behind.policy, libc::SCHED_BATCH as u32);
                assert_eq!(behind.nice, if Kernel::here().nice_returns { NICE } else { before.nice });
            }
            drop(background);
            assert_eq!((attr().policy, attr().nice), (before.policy, before.nice));
        })
        .join()
        .unwrap();
    }
}
