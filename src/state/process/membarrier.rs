//! Commands of `membarrier(2)` for which the process is registered: what a program asks for once, when it starts, and relies on.

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

const MEMBARRIER_GET_REGISTRATIONS: u64 = 1 << 9;
/// `MEMBARRIER_CMD_REGISTER_*`: global, private, of cores, of restartable sequences.
const MEMBARRIER_REGISTER: u32 = 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;

/// `MEMBARRIER_CMD_GET_REGISTRATIONS`; `None`: the kernel does not say (before Linux 6.3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membarrier(pub Option<u32>);

impl State for Membarrier {
    const NAME: &'static str = "membarrier";
}

impl ProcessState for Membarrier {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Inside];

    fn capture(_seen: &SeenProcess<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let args = [MEMBARRIER_GET_REGISTRATIONS, 0, 0];
        let call = batch.attempt("membarrier", libc::SYS_membarrier, &args);
        Ok(Captured::told(move |outcome| Self(u32::try_from(outcome.results[call]).ok())))
    }

    /// With other threads there the kernel takes a grace period for each registration (some milliseconds, in the freeze): only who
    /// has any pays. A source that does not say gets all, which it may have had.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        for command in (0..9).map(|bit| 1u32 << bit).filter(|command| MEMBARRIER_REGISTER & command != 0) {
            let args = [u64::from(command), 0, 0];
            match self.0 {
                Some(registered) if registered & command != 0 => {
                    to.batch.call("membarrier", libc::SYS_membarrier, &args);
                }
                None => drop(to.batch.attempt("membarrier", libc::SYS_membarrier, &args)),
                Some(_) => {}
            }
        }
        Ok(())
    }
}
