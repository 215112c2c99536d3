//! Modes of an address space as a whole: transparent huge pages switched off (`PR_SET_THP_DISABLE`), equal pages merged
//! (`PR_SET_MEMORY_MERGE`), no memory made executable (`PR_SET_MDWE`), mappings to come locked (`mlockall(MCL_FUTURE)`).
//!
//! The last has no getter, but our scratch area is such a mapping: `MADV_COLD` refuses one that is locked, and its pages are there
//! unless they are locked as they come.

use super::StateError;
use crate::image::memory::MemoryModes;
use crate::image::{Obstacle, PAGE_SIZE};
use crate::sys::memory_modes::PR_GET_MDWE;
use crate::tracee::{Batch, Outcome, Scratch};

const PR_SET_THP_DISABLE: u64 = 41;
const PR_GET_THP_DISABLE: u64 = 42;
const PR_SET_MDWE: u64 = 65;
const PR_SET_MEMORY_MERGE: u64 = 67;
const PR_GET_MEMORY_MERGE: u64 = 68;
const MCL_FUTURE: u32 = 2;
const MCL_ONFAULT: u32 = 4;
const EINVAL: i64 = -(libc::EINVAL as i64);

/// Indexes of the calls of [`ask`], and where an answer lies.
#[derive(Debug)]
pub struct Question {
    thp: usize,
    merge: usize,
    mdwe: usize,
    cold: Option<usize>,
    present: u64,
}

/// What is seen from outside (Linux 6.16).
pub fn describe(pid: i32) -> MemoryModes {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/ksm_stat")).unwrap_or_default();
    MemoryModes { merge: stat.lines().any(|line| line == "ksm_merge_any: yes"), ..MemoryModes::default() }
}

/// What cannot be carried.
pub fn obstacles(pid: i32) -> Result<Option<Obstacle>, StateError> {
    let status = crate::sys::lossy(format!("/proc/{pid}/status"))
        .map_err(StateError::io(pid, "reading the status"))?;
    let mask = status.lines().find_map(|line| line.strip_prefix("untag_mask:")).map(str::trim);
    Ok(mask.filter(|mask| *mask != "0xffffffffffffffff").map(|mask| {
        let why = format!("its addresses carry tags (LAM, untag_mask {mask}), which is not carried");
        Obstacle::new(format!("process {pid}"), why, "run it without tagged addresses")
    }))
}

/// Asks for what only the process can tell.
pub fn ask(batch: &mut Batch, scratch: &Scratch) -> Question {
    let get = |batch: &mut Batch, option: u64| batch.attempt("prctl", libc::SYS_prctl, &[option, 0, 0, 0, 0]);
    let present = batch.space(1);
    // one that the stack lends is no new mapping; then nothing of the process is locked (state/room.rs)
    let new = !scratch.lent;
    // no call lies there
    let untouched = scratch.table + scratch.table_len as u64 - PAGE_SIZE;
    let cold = [scratch.code, PAGE_SIZE, libc::MADV_COLD as u64];
    let question = Question {
        thp: get(batch, PR_GET_THP_DISABLE),
        merge: get(batch, PR_GET_MEMORY_MERGE),
        mdwe: get(batch, PR_GET_MDWE as u64),
        cold: new.then(|| batch.attempt("madvise(COLD)", libc::SYS_madvise, &cold)),
        present,
    };
    if new {
        batch.attempt("mincore", libc::SYS_mincore, &[untouched, PAGE_SIZE, present]);
    }
    question
}

/// Reads the answers.
pub fn answer(outcome: &Outcome, q: &Question) -> MemoryModes {
    let number = |index: usize| outcome.results[index].max(0) as u32;
    MemoryModes {
        thp_disable: number(q.thp),
        merge: outcome.results[q.merge] == 1,
        mdwe: number(q.mdwe),
        future_lock: match (
            q.cold.is_some_and(|cold| outcome.results[cold] == EINVAL),
            outcome.at(q.present, 1)[0] & 1 == 1,
        ) {
            (false, _) => 0,
            (true, true) => MCL_FUTURE,
            (true, false) => MCL_FUTURE | MCL_ONFAULT,
        },
    }
}

/// No transparent huge pages, until [`put_late`] says what the process wants: one that comes with a page that is placed holds
/// zeroes where others are missing.
pub fn without_huge_pages(batch: &mut Batch) {
    batch.call("prctl(SET_THP_DISABLE)", libc::SYS_prctl, &[PR_SET_THP_DISABLE, 1, 0, 0, 0]);
}

/// Locks mappings to come, and none that is there. Early: with the rights of `ulpm serve`, by whose limit it was checked.
pub fn put_early(batch: &mut Batch, want: &MemoryModes) {
    if want.future_lock != 0 {
        batch.call("mlockall", libc::SYS_mlockall, &[u64::from(want.future_lock)]);
    }
}

/// Sets the rest, when nothing is mapped any more.
pub fn put_late(batch: &mut Batch, want: &MemoryModes) {
    let (off, flags) = (u64::from(want.thp_disable & 1), u64::from(want.thp_disable & !1));
    batch.call("prctl(SET_THP_DISABLE)", libc::SYS_prctl, &[PR_SET_THP_DISABLE, off, flags, 0, 0]);
    if want.merge {
        batch.call("prctl(SET_MEMORY_MERGE)", libc::SYS_prctl, &[PR_SET_MEMORY_MERGE, 1, 0, 0, 0]);
    }
    if want.mdwe != 0 {
        batch.call("prctl(SET_MDWE)", libc::SYS_prctl, &[PR_SET_MDWE, u64::from(want.mdwe), 0, 0, 0]);
    }
}
