//! Slowing a process down while its memory goes ahead (`--on-divergence throttle`): what the round loop needs of it.

use super::MigrateError;
use crate::preload::agent::Agent;

/// Stops a process for a part of the time. Dropping it ends that.
pub trait Brake {
    /// For how many percent of the time the process is stopped from now on.
    fn set(&mut self, percent: u8);
    /// Lets it run freely again; the waits that were interrupted go back to the agent.
    fn end(self: Box<Self>, agent: &mut Agent);
}

/// Begins to slow a process down.
pub fn start(agent: &mut Agent) -> Result<Box<dyn Brake>, MigrateError> {
    let _ = agent;
    Err(MigrateError::NoBrake)
}
