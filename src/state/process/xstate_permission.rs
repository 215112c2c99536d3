//! CPU state components that the process may use beyond the usual (`ARCH_GET_XCOMP_PERM`): AMX's tiles, the one that must be
//! asked for.

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

const ARCH_GET_XCOMP_PERM: u64 = 0x1022;
const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
const XTILE_DATA: u64 = 18;

/// One bit for each component.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct XstatePermission(pub u64);

impl State for XstatePermission {
    const NAME: &'static str = "xstate_permission";
}

impl ProcessState for XstatePermission {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Inside];

    fn capture(_seen: &SeenProcess<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let answer = batch.space(8);
        batch.attempt("arch_prctl", libc::SYS_arch_prctl, &[ARCH_GET_XCOMP_PERM, answer]);
        Ok(Captured::told(move |outcome| Self(outcome.word(answer))))
    }

    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        if self.0 >> XTILE_DATA & 1 == 1 {
            let args = [ARCH_REQ_XCOMP_PERM, XTILE_DATA];
            to.batch.call("arch_prctl(REQ_XCOMP_PERM)", libc::SYS_arch_prctl, &args);
        }
        Ok(())
    }
}
