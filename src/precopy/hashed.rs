//! `--verify` at the source: hashes of the frozen process's memory.

use super::MigrateError;
use crate::image::PageOwner;
use crate::preload::PreloadError;
use crate::preload::agent::Agent;
use crate::preload::lazy::Later;
use crate::state::digest;
use crate::transport::protocol::AreaDigest;

/// Hashes of all memory but that which comes later, as the target computes them.
pub(super) fn digests(pid: i32, agent: &Agent, except: &Later) -> Result<Vec<AreaDigest>, MigrateError> {
    let mut all: Vec<AreaDigest> = digest::private(pid, &agent.layout, &except.private)
        .map_err(PreloadError::from)?
        .into_iter()
        .map(|(start, pages, hash)| AreaDigest { owner: PageOwner::Process(agent.of), start, pages, hash })
        .collect();
    for (id, (start, pages, hash)) in agent.object_digests(except)? {
        all.push(AreaDigest { owner: PageOwner::Object(id), start, pages, hash });
    }
    Ok(all)
}
