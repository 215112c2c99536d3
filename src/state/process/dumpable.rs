//! Whether the process leaves a core, and who may look into it (`PR_GET_DUMPABLE`). A change of any thread's credentials resets it.

use serde::{Deserialize, Serialize};

use crate::image::Note;
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, State};
use crate::tracee::Batch;

/// 0: no; 1: yes; 2: for root alone (`fs.suid_dumpable` 2, after a change of credentials).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dumpable(pub i32);

/// What of a process that dumps its core for root alone is not as before.
pub const CORE_FOR_ROOT: &str =
    "its core was for root alone (dumpable 2): no program can ask for that, so it leaves none at the target";

impl Default for Dumpable {
    fn default() -> Self {
        Self(1)
    }
}

impl State for Dumpable {
    const NAME: &'static str = "dumpable";
}

impl ProcessState for Dumpable {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::Last];

    /// That a process is not dumpable makes root the owner of its files in `/proc`.
    fn notes(seen: &SeenProcess<'_>) -> Vec<Note> {
        use std::os::unix::fs::MetadataExt as _;
        let for_root =
            std::fs::read_to_string("/proc/sys/fs/suid_dumpable").is_ok_and(|value| value.trim() == "2");
        let voice = seen.voice;
        let hidden = || {
            std::fs::metadata(format!("/proc/{voice}/stat"))
                .is_ok_and(|stat| stat.uid() != seen.status.uids[1])
        };
        let note = || Note::new(format!("process {voice}"), CORE_FOR_ROOT);
        (for_root && hidden()).then(note).into_iter().collect()
    }

    fn capture(_seen: &SeenProcess<'_>, batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        let args = [libc::PR_GET_DUMPABLE as u64, 0, 0, 0, 0];
        let call = batch.attempt("prctl(GET_DUMPABLE)", libc::SYS_prctl, &args);
        Ok(Captured::told(move |outcome| Self(outcome.results[call] as i32)))
    }

    /// 2 cannot be asked for: in doubt none at all. To a tracer both are the same.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        let args = [libc::PR_SET_DUMPABLE as u64, u64::from(self.0 == 1), 0, 0, 0];
        to.batch.call("prctl(SET_DUMPABLE)", libc::SYS_prctl, &args);
        Ok(())
    }
}
