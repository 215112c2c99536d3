//! Whether orphans among its descendants become its children (`PR_GET_CHILD_SUBREAPER`).

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

/// Whether they do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChildSubreaper(pub bool);

impl State for ChildSubreaper {
    const NAME: &'static str = "child_subreaper";
}

impl ProcessState for ChildSubreaper {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Last];

    fn capture(_seen: &SeenProcess<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let answer = batch.space(4);
        let args = [libc::PR_GET_CHILD_SUBREAPER as u64, answer, 0, 0, 0];
        batch.attempt("prctl(GET_CHILD_SUBREAPER)", libc::SYS_prctl, &args);
        Ok(Captured::told(move |outcome| Self(outcome.half(answer) != 0)))
    }

    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        let args = [libc::PR_SET_CHILD_SUBREAPER as u64, u64::from(self.0), 0, 0, 0];
        to.batch.call("prctl(SET_CHILD_SUBREAPER)", libc::SYS_prctl, &args);
        Ok(())
    }
}
