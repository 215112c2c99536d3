//! What spoils a freeze in passing: the process is let go, and frozen again some milliseconds later.

use super::MigrateError;
use crate::image::files::FilesImage;
use crate::image::memory::MemoryImage;
use crate::image::process::ProcessImage;
use crate::preload::PreloadError;
use crate::preload::agent::Agent;
use crate::state::verdicts::{self, Area, Verdict};
use crate::state::{StateError, memory_map, mm_fields};
use crate::tracee::TraceeError;

/// Freezes that a passing obstacle may spoil.
pub(super) const ATTEMPTS: u32 = 8;
pub(super) const PAUSE: std::time::Duration = std::time::Duration::from_millis(3);

/// Whether it may be gone in a moment: something that the process has open just now, or a thread that is about to sleep on.
pub(super) fn passing(e: &MigrateError) -> bool {
    use crate::state::files::FilesError;
    matches!(
        e,
        MigrateError::Source(
            PreloadError::Files(FilesError::Refused(_))
                | PreloadError::Tracee(TraceeError::Call32 { .. })
                | PreloadError::State(
                    StateError::Files(FilesError::Refused(_))
                        | StateError::Obstacles(_)
                        | StateError::UnknownWait { .. }
                        | StateError::NewMapping { .. }
                        | StateError::Tracee(TraceeError::Call32 { .. })
                )
        )
    )
}

/// A process with as little memory has the flags of all its mappings read in half a millisecond.
const LITTLE_MEMORY: u64 = 16 << 20;
/// So often it is let go to have them read while it runs.
const FLAGS_OUTSIDE: u32 = 3;

pub(super) fn is_new_mapping(e: &MigrateError) -> bool {
    matches!(e, MigrateError::Source(PreloadError::State(StateError::NewMapping { .. })))
}

/// Whether an obstacle is the write-protection of ours, which the flags of a mapping show, too.
fn is_our_tracking(why: &str) -> bool {
    let row = verdicts::of(Area::VmFlags, "uw").map(|row| row.verdict);
    matches!(row, Some(Verdict::Refused(refused)) if refused == why)
}

/// The layout as it is now, before our scratch area comes into it. The flags of a mapping are those that the last round has read. For
/// one that is new since, a process is let go again while they are read; if it always has a new one, they are read in the freeze.
pub(super) fn memory(
    pid: i32,
    agent: &mut Agent,
    described: &ProcessImage,
    attempt: u32,
) -> Result<MemoryImage, MigrateError> {
    let (mut survey, unknown) = memory_map::quick(pid, &agent.layout).map_err(PreloadError::from)?;
    if unknown && described.memory.resident > LITTLE_MEMORY && attempt <= FLAGS_OUTSIDE {
        return Err(PreloadError::from(StateError::NewMapping { pid }).into());
    }
    if unknown {
        let all = memory_map::survey(pid).map_err(PreloadError::from)?;
        survey.obstacles.extend(all.obstacles.into_iter().filter(|o| !is_our_tracking(&o.why)));
        survey.layout = all.layout;
    }
    let shared = crate::state::shared_memory::new_objects(pid, &described.memory.layout, &survey.layout);
    if !survey.obstacles.is_empty() || !shared.is_empty() {
        let list: Vec<String> = survey.obstacles.iter().chain(&shared).map(ToString::to_string).collect();
        return Err(PreloadError::from(StateError::Obstacles(list.join("; "))).into());
    }
    // the descriptors come later: those described before the freeze may be closed by now
    agent.take(survey.layout, &FilesImage::default());
    let mm = mm_fields::capture(pid).map_err(PreloadError::from)?;
    // it may have done so before it was attached to, too
    if mm.auxv != described.memory.mm.auxv {
        return Err(PreloadError::Exec(pid).into());
    }
    Ok(MemoryImage { mm, layout: agent.layout.clone(), ..described.memory.clone() })
}
