//! How willingly the kernel ends the process when memory runs out (`/proc/PID/oom_score_adj`).

use serde::{Deserialize, Serialize};

use super::number;
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

/// `-1000`: never, to `1000`: first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomScoreAdj(pub i32);

impl State for OomScoreAdj {
    const NAME: &'static str = "oom_score_adj";
}

impl ProcessState for OomScoreAdj {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Outside];

    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        Ok(Self(number::read(seen.voice, Self::NAME, 10).unwrap_or(0) as i32))
    }

    fn capture(seen: &SeenProcess<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Self::describe(seen).map(Captured::Seen)
    }

    fn powers(&self) -> Option<(&'static str, String)> {
        let ours = number::read(std::process::id() as i32, Self::NAME, 10).unwrap_or(0);
        (i64::from(self.0) < ours).then(|| (Self::NAME, "it is spared when memory runs out".to_owned()))
    }

    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        number::put(to.pid, Self::NAME, 10, self.0.into());
        Ok(())
    }
}
