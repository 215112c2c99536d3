//! What the process does at each signal (`rt_sigaction`, asked and set inside the process).

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State, insist};
use crate::tracee::Batch;

const SIGNALS: usize = 64;
const ACTION: usize = 32;

/// An action of a signal, `struct kernel_sigaction` as four words: handler, flags, restorer, mask.
pub type SigAction = [u64; 4];

/// Actions of signals 1 to 64; none: not asked yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignalActions(pub Vec<SigAction>);

impl State for SignalActions {
    const NAME: &'static str = "signal_actions";

    fn check(&self) -> Result<(), String> {
        insist(self.0.len() <= SIGNALS, &format!("{} signal actions", self.0.len()))
    }
}

impl ProcessState for SignalActions {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Inside];

    fn capture(_seen: &SeenProcess<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let at = batch.space(SIGNALS * ACTION);
        for signal in 1..=SIGNALS as u64 {
            let old = at + (signal - 1) * ACTION as u64;
            batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal, 0, old, 8]);
        }
        Ok(Captured::told(move |outcome| {
            let action = |i| std::array::from_fn(|w| outcome.word(at + i * ACTION as u64 + w as u64 * 8));
            Self((0..SIGNALS as u64).map(action).collect())
        }))
    }

    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        for (i, action) in self.0.iter().enumerate().take(SIGNALS) {
            let signal = i as i32 + 1;
            if signal == libc::SIGKILL || signal == libc::SIGSTOP {
                continue;
            }
            let bytes: Vec<u8> = action.iter().flat_map(|w| w.to_le_bytes()).collect();
            let at = to.batch.bytes(&bytes);
            to.batch.call("rt_sigaction", libc::SYS_rt_sigaction, &[signal as u64, at, 0, 8]);
        }
        Ok(())
    }
}
