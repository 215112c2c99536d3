//! Our own threads in the background: behind ordinary work, for what nobody waits for (the rounds before a freeze).
//!
//! `SCHED_BATCH` threads do not preempt others when they wake up; a nice value of 10 gives them a tenth of the share of an ordinary
//! thread, so that a busy host can still be emptied; and a slice of 0.1 ms (`sched_attr.sched_runtime` of an ordinary policy,
//! Linux 6.12; ignored before) bounds for how long a thread that has become runnable waits for the end of ours (sched(7)).
//! With `sched_autogroup_enabled` nice values count within a session only, and sessions compete as one group each, however many threads
//! they have at work: there the nice value of the group counts ([`OwnSession`]). Control groups with the controller `cpu` compete in
//! the same way; their weights are the administrator's, and are left alone.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::unistd::{getpid, getsid};

use super::limits::own_capability;
use super::process::{SchedAttr, sched_attr, set_sched_attr};

const NICE: i32 = 10;
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
    let nice = if may_return() { own.nice.max(NICE) } else { own.nice };
    set_sched_attr(tid, &SchedAttr { policy: libc::SCHED_BATCH as u32, nice, runtime: SLICE_NS, ..own })?;
    Ok(Some(own))
}

/// Whether a thread of ours may lower its nice value again (`CAP_SYS_NICE`, `RLIMIT_NICE`): tried, once, by one that ends then.
fn may_return() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    let tried = || {
        let own = sched_attr(0)?;
        set_sched_attr(0, &SchedAttr { nice: own.nice.max(NICE), ..own })?;
        set_sched_attr(0, &own)
    };
    *MAY.get_or_init(|| std::thread::spawn(tried).join().is_ok_and(|done| done.is_ok()))
}

const AUTOGROUP: &str = "/proc/self/autogroup";
/// Without it the kernel takes ten changes of a group a second, from all users together: ours might come too late in a freeze.
const CAP_SYS_ADMIN: u32 = 21;

/// The scheduler's group of our session, as a whole behind other sessions; as it was when dropped.
///
/// Only if the session is ours (we lead it) and `CAP_SYS_ADMIN` lets us take it back at any moment. Threads of one session on two
/// CPUs kept a sleeper of another one waiting for up to 40 ms while each of them was behind. With a value of 10 for the group the
/// longest silences in ten first rounds of 4 GiB, both hosts on one machine, had a median of 16 ms; with 19 of 9, but then two busy
/// threads on each CPU left us 12 KiB a second, and connections were lost.
///
/// Where others compute on every CPU that would be a standstill, and a busy host must be emptied, too: see [`Starving`].
#[derive(Debug)]
pub struct OwnSession {
    before: Option<i32>,
}

/// Whether a thread gets next to nothing of the CPUs: ready to run for ten times as long as it ran, for a quarter of a second.
#[derive(Debug)]
pub struct Starving {
    looked: Instant,
    ran: u64,
    waited: u64,
}

impl Starving {
    const WINDOW: Duration = Duration::from_millis(250);
    const TIMES: u64 = 10;

    /// Of the calling thread, from now on.
    pub fn begin() -> Self {
        let (ran, waited) = ran_and_waited().unwrap_or_default();
        Starving { looked: Instant::now(), ran, waited }
    }

    /// To be asked by the same thread now and then.
    pub fn look(&mut self) -> bool {
        let window = self.looked.elapsed();
        if window < Self::WINDOW {
            return false;
        }
        let Some((ran, waited)) = ran_and_waited() else { return false };
        let (runs, waits) = (ran.saturating_sub(self.ran), waited.saturating_sub(self.waited));
        *self = Starving { looked: Instant::now(), ran, waited };
        // a thread that has little to do waits little
        waits > runs.saturating_mul(Self::TIMES) && u128::from(waits) * 2 > window.as_nanos()
    }
}

/// For how long the calling thread has run, and been ready to run, in nanoseconds: `RAN WAITED SLICES`. Nothing without
/// `CONFIG_SCHED_INFO`.
fn ran_and_waited() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut fields = text.split_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

impl OwnSession {
    /// Puts the group there.
    pub fn behind() -> Self {
        let ours = getsid(None) == Ok(getpid()) && own_capability(CAP_SYS_ADMIN);
        let before = ours.then(group_nice).flatten().filter(|nice| *nice < NICE);
        OwnSession { before: before.filter(|_| fs::write(AUTOGROUP, NICE.to_string()).is_ok()) }
    }

    /// Puts it back already.
    pub fn end(&mut self) {
        drop(OwnSession { before: self.before.take() });
    }
}

impl Drop for OwnSession {
    fn drop(&mut self) {
        if let Some(before) = self.before
            && let Err(error) = fs::write(AUTOGROUP, before.to_string())
        {
            tracing::warn!(%error, "our own session stays in the background");
        }
    }
}

/// The nice value of our group: `/autogroup-25 nice 0`. `None` without autogroups.
fn group_nice() -> Option<i32> {
    let text = fs::read_to_string(AUTOGROUP).ok()?;
    text.split_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::sys::namespaces::own_session;

    #[test]
    fn a_thread_and_its_children_are_behind_and_it_comes_back() {
        let attr = || sched_attr(0).unwrap();
        std::thread::spawn(move || {
            let before = attr();
            let background = Background::begin();
            let child = std::thread::spawn(attr).join().unwrap();
            for behind in [attr(), child] {
                assert_eq!(behind.policy, libc::SCHED_BATCH as u32);
                assert_eq!(behind.nice, if may_return() { NICE } else { before.nice });
            }
            drop(background);
            assert_eq!((attr().policy, attr().nice), (before.policy, before.nice));
        })
        .join()
        .unwrap();
    }

    #[test]
    fn who_waits_for_a_cpu_most_of_the_time_starves() {
        let ago = Instant::now().checked_sub(Starving::WINDOW).unwrap();
        let (ran, waited) = ran_and_waited().unwrap();
        let mut busy = Starving { looked: ago, ran: 0, waited };
        assert!(!busy.look());
        // as if it had waited for all of the window just now
        let mut starving = Starving { looked: ago, ran, waited: waited.saturating_sub(1_000_000_000) };
        assert_eq!(starving.look(), waited >= 1_000_000_000);
        let mut starving = Starving { looked: Instant::now(), ran, waited: 0 };
        assert!(!starving.look(), "too soon");
    }

    #[test]
    fn a_session_that_is_ours_is_behind_as_a_whole_and_comes_back() {
        const LEADER: &str = "ULPM_TEST_SESSION_LEADER";
        if std::env::var_os(LEADER).is_none() {
            // the tests' own session is the user's
            let mut again = Command::new("/proc/self/exe");
            again.args([
                "--exact",
                "sys::background::tests::a_session_that_is_ours_is_behind_as_a_whole_and_comes_back",
            ]);
            assert!(own_session(again.env(LEADER, "1")).status().unwrap().success());
            let before = group_nice();
            drop(OwnSession::behind());
            assert_eq!(group_nice(), before);
            return;
        }
        let Some(before) = group_nice() else { return eprintln!("no autogroups here") };
        let behind = if own_capability(CAP_SYS_ADMIN) { NICE } else { before };
        let session = OwnSession::behind();
        assert_eq!(group_nice(), Some(behind));
        drop(session);
        assert_eq!(group_nice(), Some(before));
    }
}
