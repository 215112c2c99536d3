//! Modes that each thread has of its own, and only itself can tell and set: personality, access to the time stamp counter,
//! policy for memory errors, signal at the parent's death. The skeleton has those of `ulpm serve`, so each is put, whatever it is.

use crate::image::process::Modes;
use crate::tracee::{Batch, Outcome};

/// "Tell, and change nothing."
const ASK: u64 = 0xffff_ffff;

/// Where the answers of [`ask`] are.
#[derive(Debug)]
pub struct Question {
    personality: usize,
    mce_kill: usize,
    tsc: u64,
    parent_death: u64,
}

/// Asks the thread that executes the batch.
pub fn ask(batch: &mut Batch) -> Question {
    let [tsc, parent_death] = std::array::from_fn(|_| batch.space(4));
    let prctl = |batch: &mut Batch, option: i32, arg| {
        batch.attempt("prctl", libc::SYS_prctl, &[option as u64, arg, 0, 0, 0])
    };
    let question = Question {
        personality: batch.attempt("personality", libc::SYS_personality, &[ASK]),
        mce_kill: prctl(batch, libc::PR_MCE_KILL_GET, 0),
        tsc,
        parent_death,
    };
    prctl(batch, libc::PR_GET_TSC, tsc);
    prctl(batch, libc::PR_GET_PDEATHSIG, parent_death);
    question
}

/// Reads the answers.
pub fn answer(outcome: &Outcome, q: &Question) -> Modes {
    Modes {
        personality: outcome.results[q.personality] as u32,
        mce_kill: outcome.results[q.mce_kill] as i32,
        tsc: outcome.half(q.tsc) as i32,
        parent_death: outcome.half(q.parent_death) as i32,
    }
}

/// Sets them for the thread that executes the batch. After its credentials: a change of those resets the signal at the parent's
/// death.
pub fn put(batch: &mut Batch, want: Modes) {
    batch.call("personality", libc::SYS_personality, &[u64::from(want.personality)]);
    let mut prctl = |name, args: [u64; 3]| {
        batch.call(name, libc::SYS_prctl, &[args[0], args[1], args[2], 0, 0]);
    };
    let policy = [libc::PR_MCE_KILL as u64, libc::PR_MCE_KILL_SET as u64, want.mce_kill as u64];
    prctl("prctl(MCE_KILL)", policy);
    prctl("prctl(SET_TSC)", [libc::PR_SET_TSC as u64, want.tsc as u64, 0]);
    prctl("prctl(SET_PDEATHSIG)", [libc::PR_SET_PDEATHSIG as u64, want.parent_death as u64, 0]);
}
