//! Modes that each thread has of its own, and only itself can tell and set: personality, access to the time stamp counter,
//! policy for memory errors, signal at the parent's death, speculation, `cpuid`. The skeleton has those of `ulpm serve`, so each is put, whatever it is.

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::thread::{SeenThread, ThreadPut, ThreadStage, ThreadState};
use crate::state::seam::{Captured, State};
use crate::tracee::{Batch, Outcome};

/// "Tell, and change nothing."
const ASK: u64 = 0xffff_ffff;

const ARCH_GET_CPUID: u64 = 0x1011;
const ARCH_SET_CPUID: u64 = 0x1012;
/// `PR_SPEC_PRCTL`: this thread decides.
const DECIDES: i32 = 1;
/// `PR_SPEC_ENABLE`, `DISABLE`, `FORCE_DISABLE`, `DISABLE_NOEXEC`: what it decided.
const DECISIONS: i32 = 2 | 4 | 8 | 16;

/// Modes that each thread has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Modes {
    /// `personality(2)`.
    pub personality: u32,
    /// `PR_MCE_KILL_GET`.
    pub mce_kill: i32,
    /// `PR_GET_TSC`.
    pub tsc: i32,
    /// `PR_GET_PDEATHSIG`.
    pub parent_death: i32,
    /// `PR_GET_SPECULATION_CTRL` of store bypass, indirect branches and the flush of the first cache; negative: not known there.
    pub speculation: [i32; 3],
    /// `ARCH_GET_CPUID`: `cpuid` may be executed. `None`: the CPU cannot forbid it.
    pub cpuid: Option<bool>,
}

impl State for Modes {
    const NAME: &'static str = "modes";
}

impl ThreadState for Modes {
    const STAGES: &'static [ThreadStage] = &[ThreadStage::AfterCredentials];

    fn capture(_seen: &SeenThread<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let question = ask(batch);
        Ok(Captured::told(move |outcome| answer(outcome, &question)))
    }

    /// A change of credentials resets the signal at the parent's death.
    fn put(&self, to: &mut ThreadPut<'_>) -> Result<(), StateError> {
        put(to.batch, *self);
        Ok(())
    }
}

/// Where the answers of [`ask`] are.
#[derive(Debug)]
struct Question {
    personality: usize,
    mce_kill: usize,
    tsc: u64,
    parent_death: u64,
    speculation: [usize; 3],
    cpuid: usize,
}

/// Asks the thread that executes the batch.
fn ask(batch: &mut Batch) -> Question {
    let [tsc, parent_death] = std::array::from_fn(|_| batch.space(4));
    let prctl = |batch: &mut Batch, option: i32, arg| {
        batch.attempt("prctl", libc::SYS_prctl, &[option as u64, arg, 0, 0, 0])
    };
    let question = Question {
        personality: batch.attempt("personality", libc::SYS_personality, &[ASK]),
        mce_kill: prctl(batch, libc::PR_MCE_KILL_GET, 0),
        tsc,
        parent_death,
        speculation: std::array::from_fn(|which| prctl(batch, libc::PR_GET_SPECULATION_CTRL, which as u64)),
        cpuid: batch.attempt("arch_prctl", libc::SYS_arch_prctl, &[ARCH_GET_CPUID, 0]),
    };
    prctl(batch, libc::PR_GET_TSC, tsc);
    prctl(batch, libc::PR_GET_PDEATHSIG, parent_death);
    question
}

/// Reads the answers.
fn answer(outcome: &Outcome, q: &Question) -> Modes {
    Modes {
        personality: outcome.results[q.personality] as u32,
        mce_kill: outcome.results[q.mce_kill] as i32,
        tsc: outcome.half(q.tsc) as i32,
        parent_death: outcome.half(q.parent_death) as i32,
        speculation: q.speculation.map(|index| outcome.results[index] as i32),
        cpuid: match outcome.results[q.cpuid] {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        },
    }
}

/// Sets them for the thread that executes the batch.
fn put(batch: &mut Batch, want: Modes) {
    batch.call("personality", libc::SYS_personality, &[u64::from(want.personality)]);
    let mut prctl = |name, args: [u64; 3]| {
        batch.call(name, libc::SYS_prctl, &[args[0], args[1], args[2], 0, 0]);
    };
    let policy = [libc::PR_MCE_KILL as u64, libc::PR_MCE_KILL_SET as u64, want.mce_kill as u64];
    prctl("prctl(MCE_KILL)", policy);
    prctl("prctl(SET_TSC)", [libc::PR_SET_TSC as u64, want.tsc as u64, 0]);
    prctl("prctl(SET_PDEATHSIG)", [libc::PR_SET_PDEATHSIG as u64, want.parent_death as u64, 0]);
    for (which, have) in want.speculation.into_iter().enumerate() {
        // what nobody decides here, or decided there, is as the CPU has it
        if have >= 0 && have & DECIDES != 0 && have & DECISIONS != 0 {
            let decision = (have & DECISIONS) as u64;
            // one that is already so for good cannot be said again (EPERM); a CPU that needs nothing of it knows none (ENXIO)
            let args = [libc::PR_SET_SPECULATION_CTRL as u64, which as u64, decision, 0, 0];
            batch.attempt("prctl(SET_SPECULATION_CTRL)", libc::SYS_prctl, &args);
        }
    }
    if want.cpuid == Some(false) {
        batch.call("arch_prctl(SET_CPUID)", libc::SYS_arch_prctl, &[ARCH_SET_CPUID, 0]);
    }
}
