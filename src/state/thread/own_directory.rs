//! Directory and umask of a thread that shares them with nobody (`unshare(CLONE_FS)`); its root directory is the process's.

use serde::{Deserialize, Serialize};

use crate::image::{FilePath, check};
use crate::state::error::StateError;
use crate::state::seam::thread::{SeenThread, ThreadPut, ThreadStage, ThreadState};
use crate::state::seam::{NamedPath, State};
use crate::sys::kcmp::{self, Shared};

/// Current directory and umask; `None`: those of its process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnDirectory(Option<(FilePath, u32)>);

impl OwnDirectory {
    /// Of a thread that has left its process's.
    pub fn at(cwd: FilePath, umask: u32) -> Self {
        Self(Some((cwd, umask)))
    }
}

/// Whether a thread has left the directories of its process. `pid`: the process, by a thread that lives.
pub fn is_apart(pid: i32, tid: i32) -> bool {
    let differs = || kcmp::shared(pid, tid, Shared::Directories) == Some(false);
    tid != pid && differs() && has_directories(pid, pid) && has_directories(pid, tid)
}

fn has_directories(pid: i32, tid: i32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/task/{tid}/cwd")).is_ok()
}

impl State for OwnDirectory {
    const NAME: &'static str = "own_directory";

    fn check(&self) -> Result<(), String> {
        self.0.as_ref().map_or(Ok(()), |(cwd, _)| check::path(cwd))
    }
}

impl ThreadState for OwnDirectory {
    const STAGES: &'static [ThreadStage] = &[ThreadStage::AsUser];

    fn describe(seen: &SeenThread<'_>) -> Result<Self, StateError> {
        let (pid, tid) = (seen.voice, seen.tid);
        if !is_apart(pid, tid) {
            return Ok(Self(None));
        }
        let link = |name: &str| {
            std::fs::read_link(format!("/proc/{pid}/task/{tid}/{name}"))
                .map(FilePath::from)
                .map_err(StateError::io(pid, format!("reading the {name} of thread {tid}")))
        };
        // a thread that is ending has none
        let (Some(umask), Ok(cwd)) = (seen.status.umask, link("cwd")) else { return Ok(Self(None)) };
        let root = link("root")?;
        if !root.is_root() {
            let why = format!("thread {tid}: it has a root directory of its own, {root}");
            return Err(StateError::Obstacles(why));
        }
        Ok(Self::at(cwd, umask))
    }

    fn paths(&self) -> Vec<NamedPath> {
        self.0.iter().map(|(cwd, _)| ("current directory", cwd.clone())).collect()
    }

    fn put(&self, to: &mut ThreadPut<'_>) -> Result<(), StateError> {
        if let Some((cwd, umask)) = &self.0 {
            to.batch.call("unshare(CLONE_FS)", libc::SYS_unshare, &[libc::CLONE_FS as u64]);
            let cwd = to.batch.string(cwd);
            to.batch.call("chdir", libc::SYS_chdir, &[cwd]);
            to.batch.call("umask", libc::SYS_umask, &[u64::from(*umask)]);
        }
        Ok(())
    }
}
