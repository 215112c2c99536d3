//! Alternate signal stack of a thread, or that it has none (`sigaltstack(2)`).

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::thread::{SeenThread, ThreadPut, ThreadStage, ThreadState};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

const SS_ONSTACK: i32 = 1;

/// `stack_t`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AlternateStack {
    /// Its lowest address.
    pub sp: u64,
    /// `SS_*`.
    pub flags: i32,
    /// Bytes.
    pub size: u64,
}

impl State for AlternateStack {
    const NAME: &'static str = "alternate_stack";
}

impl ThreadState for AlternateStack {
    const STAGES: &'static [ThreadStage] = &[ThreadStage::Itself];

    fn capture(_seen: &SeenThread<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let at = batch.space(24);
        batch.call("sigaltstack", libc::SYS_sigaltstack, &[0, at]);
        Ok(Captured::told(move |outcome| Self {
            sp: outcome.word(at),
            flags: outcome.half(at + 8) as i32,
            size: outcome.word(at + 16),
        }))
    }

    /// Whatever it is: a skeleton has one of its own, that of `ulpm serve`, which a handler with `SA_ONSTACK` would use.
    fn put(&self, to: &mut ThreadPut<'_>) -> Result<(), StateError> {
        let mut stack = self.sp.to_le_bytes().to_vec();
        // "on the stack" is told by the stack pointer, it is not set
        stack.extend_from_slice(&u64::from((self.flags & !SS_ONSTACK) as u32).to_le_bytes());
        stack.extend_from_slice(&self.size.to_le_bytes());
        let at = to.batch.bytes(&stack);
        to.batch.call("sigaltstack", libc::SYS_sigaltstack, &[at, 0]);
        Ok(())
    }
}
