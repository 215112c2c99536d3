//! Current and root directory and umask of the process. Threads that share them with nobody have their own
//! ([`sharing`](crate::state::sharing)).

use serde::{Deserialize, Serialize};

use crate::image::{FilePath, Obstacle, check};
use crate::state::error::StateError;
use crate::state::seam::process::{ProcessPut, ProcessStage, ProcessState, SeenProcess};
use crate::state::seam::{Captured, NamedPath, State};
use crate::tracee::Batch;

/// What `CLONE_FS` shares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directories {
    /// Current directory.
    pub cwd: FilePath,
    /// Root directory.
    pub root: FilePath,
    /// `umask`.
    pub umask: u32,
}

impl Default for Directories {
    fn default() -> Self {
        Self { cwd: "/".into(), root: "/".into(), umask: 0o022 }
    }
}

impl State for Directories {
    const NAME: &'static str = "directories";

    fn check(&self) -> Result<(), String> {
        check::path(&self.cwd)?;
        check::path(&self.root)
    }
}

impl ProcessState for Directories {
    const STAGES: &'static [ProcessStage] = &[ProcessStage::AsUser];

    fn describe(seen: &SeenProcess<'_>) -> Result<Self, StateError> {
        let pid = seen.voice;
        let link = |name: &str| {
            std::fs::read_link(format!("/proc/{pid}/{name}"))
                .map(FilePath::from)
                .map_err(StateError::io(pid, format!("reading its {name}")))
        };
        Ok(Self { cwd: link("cwd")?, root: link("root")?, umask: seen.status.umask.unwrap_or(0o022) })
    }

    /// Current directories that have no name any more: that of the process, and of threads that have their own.
    fn obstacles(seen: &SeenProcess<'_>, tids: &[i32]) -> Vec<Obstacle> {
        use std::os::unix::fs::MetadataExt as _;
        let pid = seen.voice;
        let directory = |tid: i32| {
            let link = format!("/proc/{pid}/task/{tid}/cwd");
            std::fs::metadata(&link).ok().map(|cwd| ((cwd.dev(), cwd.ino()), cwd.nlink() == 0, link))
        };
        let common = directory(pid).map(|(id, ..)| id);
        let gone = |tid: i32| {
            let (id, gone, link) = directory(tid)?;
            if !gone || (tid != pid && Some(id) == common) {
                return None;
            }
            let path = std::fs::read_link(&link).map(FilePath::from).unwrap_or_default();
            let who = if tid == pid { "the process".to_owned() } else { format!("thread {tid}") };
            Some(Obstacle::new(
                format!("current directory {path}"),
                format!("it was deleted while {who} is in it"),
                "have the program change to a directory that exists",
            ))
        };
        tids.iter().filter_map(|tid| gone(*tid)).collect()
    }

    fn capture(seen: &SeenProcess<'_>, _batch: &mut Batch) -> Result<Captured<Self>, StateError> {
        Self::describe(seen).map(Captured::Seen)
    }

    fn paths(&self) -> Vec<NamedPath> {
        let root = (!self.root.is_root()).then(|| ("root directory", self.root.clone()));
        std::iter::once(("current directory", self.cwd.clone())).chain(root).collect()
    }

    fn powers(&self) -> Option<(&'static str, String)> {
        (!self.root.is_root()).then(|| ("root directory", format!("it is {}", self.root)))
    }

    /// The root needs privileges: early.
    fn put(&self, to: &mut ProcessPut<'_>) -> Result<(), StateError> {
        if !self.root.is_root() {
            let root = to.batch.string(&self.root);
            to.batch.call("chroot", libc::SYS_chroot, &[root]);
        }
        let cwd = to.batch.string(&self.cwd);
        to.batch.call("chdir", libc::SYS_chdir, &[cwd]);
        to.batch.call("umask", libc::SYS_umask, &[u64::from(self.umask)]);
        Ok(())
    }
}
