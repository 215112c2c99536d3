//! State that shows nowhere: asked by a remote call of the thread that has it, and refused.
//!
//! | state | what tells |
//! |---|---|
//! | Landlock domain | its tasks may not look at one outside of it (`hook_ptrace_access_check`): kcmp(2) with a [`Witness`] says `EPERM` |
//! | keyring of a thread, of a process | `KEYCTL_GET_KEYRING_ID` without creating: not `ENOKEY` |
//! | NUMA policy of a thread | `get_mempolicy` ([`super::numa`]) |
//! | local descriptor table | `modify_ldt` reads more than nothing |
//!
//! A thread of another user than the witness's may not look at it in any case, unless it has `CAP_SYS_PTRACE`: then it stays unknown.
//! The session's keyring is not asked for: the kernel makes one for who has none.

use crate::image::Obstacle;
use crate::image::process::Credentials;
use crate::sys::kernel::Kernel;
use crate::sys::stat::Stat;
use crate::sys::status::Status;
use crate::sys::witness::Witness;
use crate::tracee::{Batch, Outcome};

const KEYCTL_GET_KEYRING_ID: u64 = 0;
const THREAD_KEYRING: i64 = -1;
const PROCESS_KEYRING: i64 = -2;
const KCMP_VM: u64 = 1;
const CAP_SYS_PTRACE: u32 = 19;
const PR_SCHED_CORE: i32 = 62;

/// Where the answers of [`ask`] are.
#[derive(Debug, Default)]
pub struct Question {
    landlock: Option<usize>,
    thread_keys: usize,
    process_keys: usize,
    ldt: usize,
    numa: super::numa::Question,
}

/// Somebody to be looked at, where Landlock is to be asked about. `None`: there is no Landlock here, or no way to ask.
pub fn witness(pid: i32, creds: &Credentials) -> Option<Witness> {
    if !Kernel::here().landlock {
        return None;
    }
    Witness::start((creds.uids[0], creds.gids[0]), pid)
        .inspect_err(
            |e| tracing::info!(pid, error = %e, "whether it is confined by Landlock cannot be asked"),
        )
        .ok()
}

/// Whether this witness is what [`witness`] would start.
pub fn suits(witness: &Witness, creds: &Credentials) -> bool {
    witness.owner == (creds.uids[0], creds.gids[0])
}

/// Asks the thread that executes the batch; `tid` is its own idea of itself.
pub fn ask(batch: &mut Batch, tid: i32, creds: &Credentials, witness: Option<&Witness>) -> Question {
    let may = |witness: &&Witness| suits(witness, creds) || creds.caps[2] >> CAP_SYS_PTRACE & 1 == 1;
    let landlock = witness.filter(may).map(|witness| {
        let args = [tid as u64, witness.inner_pid as u64, KCMP_VM, 0, 0];
        batch.attempt("kcmp", libc::SYS_kcmp, &args)
    });
    let mut keys = |which: i64| {
        batch.attempt("keyctl", libc::SYS_keyctl, &[KEYCTL_GET_KEYRING_ID, which as u64, 0, 0, 0])
    };
    let (thread_keys, process_keys) = (keys(THREAD_KEYRING), keys(PROCESS_KEYRING));
    let entry = batch.space(8);
    Question {
        landlock,
        thread_keys,
        process_keys,
        ldt: batch.attempt("modify_ldt", libc::SYS_modify_ldt, &[0, entry, 8]),
        numa: super::numa::ask(batch),
    }
}

/// What the answers say.
pub fn obstacles(tid: i32, outcome: &Outcome, q: &Question) -> Vec<Obstacle> {
    let confined = |index: usize| outcome.results[index] == -i64::from(libc::EPERM);
    let mut found = Vec::new();
    let mut add = |why: &str, advice: &str| found.push(Obstacle::new(format!("thread {tid}"), why, advice));
    if q.landlock.is_some_and(confined) {
        add(
            "it has confined itself with Landlock, which is not carried yet: it would be free at the target",
            "move the program before it confines itself, or have it do without",
        );
    }
    for (index, whose) in [(q.thread_keys, "thread"), (q.process_keys, "process")] {
        if outcome.results[index] > 0 {
            add(
                &format!("it has a {whose} keyring (keyctl(2)), whose keys stay in this kernel"),
                "have the program keep its keys in memory, or drop the keyring",
            );
        }
    }
    if outcome.results[q.ldt] > 0 {
        add(
            "it has a local descriptor table (modify_ldt(2)), which is not carried",
            "none is known: 16-bit and some 32-bit code under Wine needs it",
        );
    }
    found.extend(super::numa::answer(tid, outcome, &q.numa));
    found
}

/// What shows from outside, but only one thread at a time, and cannot be carried.
pub fn outside(pid: i32, tid: i32) -> Vec<Obstacle> {
    const FLUSHER: u64 = 0x0008_0000 | 0x0010_0000; // PF_MEMALLOC_NOIO, PF_LOCAL_THROTTLE
    let mut found = Vec::new();
    let mut add = |why: String| {
        found.push(Obstacle::new(format!("thread {tid}"), why, "start the program without that"));
    };
    if Stat::of_thread(pid, tid).is_some_and(|stat| stat.flags() & FLUSHER == FLUSHER) {
        add("it cleans memory for others (PR_SET_IO_FLUSHER), which is not carried".to_owned());
    }
    if let Ok(status) = Status::of(tid) {
        if !status.features.is_empty() {
            add(format!("it has a shadow stack ({}), which is not carried", status.features.join(" ")));
        }
        if status.untag_mask.is_some_and(|mask| mask != u64::MAX) {
            add("it has tagged addresses (ARCH_ENABLE_TAGGED_ADDR), which are not carried".to_owned());
        }
    }
    if crate::sys::process::core_cookie(tid, PR_SCHED_CORE).is_some_and(|cookie| cookie != 0) {
        add("it shares its core only with some (PR_SCHED_CORE), which is not carried".to_owned());
    }
    found
}
