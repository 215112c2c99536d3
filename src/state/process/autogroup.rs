//! Nice value of the task group that the kernel makes of a session (`CONFIG_SCHED_AUTOGROUP`): `/autogroup-7 nice 0`.

use serde::{Deserialize, Serialize};

use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{State, insist};

/// `None`: this kernel makes no such groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autogroup(pub Option<i32>);

fn nice(pid: i32) -> Option<i32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/autogroup")).ok()?;
    text.trim().rsplit_once(" nice ")?.1.parse().ok()
}

impl State for Autogroup {
    const NAME: &'static str = "autogroup";

    fn check(&self) -> Result<(), String> {
        insist(self.0.is_none_or(|nice| (-20..=19).contains(&nice)), "an impossible nice value")
    }
}

impl ProcessState for Autogroup {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Outside];

    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        Ok(Self(nice(seen.voice)))
    }

    /// For the session of its own that the process has here. The kernel lets an ordinary user do that ten times a second.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        if let (Some(want), Some(have)) = (self.0, nice(to.pid))
            && want != have
            && let Err(e) = std::fs::write(format!("/proc/{}/autogroup", to.pid), want.to_string())
        {
            let pid = to.pid;
            tracing::warn!(pid, error = %e, "the nice value of its session could not be set as it was at the source");
        }
        Ok(())
    }
}
