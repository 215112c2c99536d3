//! Kinds of memory that the kernel writes into a core (`/proc/PID/coredump_filter`, core(5)).

use serde::{Deserialize, Serialize};

use super::number;
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

/// One bit for each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoredumpFilter(pub u32);

impl State for CoredumpFilter {
    const NAME: &'static str = "coredump_filter";
}

impl ProcessState for CoredumpFilter {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Outside];

    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        Ok(Self(number::read(seen.voice, Self::NAME, 16).unwrap_or(0) as u32))
    }

    fn capture(seen: &SeenProcess<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Self::describe(seen).map(Captured::Seen)
    }

    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        number::put(to.pid, Self::NAME, 16, self.0.into());
        Ok(())
    }
}
