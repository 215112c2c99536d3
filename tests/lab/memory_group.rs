//! A control group with a limit of memory, of either version.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result};

/// A control group with a limit of memory; removed on drop, when what was in it has ended or was moved out.
#[derive(Debug)]
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    pub(crate) fn new(bytes: u64) -> Result<Self> {
        let root = super::needs::memory_groups().context("no control groups")?;
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let group = Self(root.join(format!("ulpm-lab-{}-{number}", std::process::id())));
        fs::create_dir(&group.0)?;
        group.limit(bytes)?;
        Ok(group)
    }

    pub(crate) fn limit(&self, bytes: u64) -> Result<()> {
        let one = ["memory.limit_in_bytes", "memory.max"].map(|name| self.0.join(name));
        let limit =
            one.iter().find(|path| path.exists()).context("no limit of memory in this control group")?;
        Ok(fs::write(limit, bytes.to_string())?)
    }

    /// What is in use.
    pub(crate) fn used(&self) -> u64 {
        let one =
            ["memory.usage_in_bytes", "memory.current"].map(|name| fs::read_to_string(self.0.join(name)));
        one.into_iter().flatten().find_map(|text| text.trim().parse().ok()).unwrap_or(0)
    }

    pub(crate) fn path(&self) -> String {
        self.0.display().to_string()
    }

    /// Its own groups, by their names.
    pub(crate) fn below(&self) -> Vec<String> {
        let all = fs::read_dir(&self.0).into_iter().flatten().flatten();
        all.filter(|e| e.path().is_dir()).map(|e| e.file_name().to_string_lossy().into_owned()).collect()
    }

    pub(crate) fn add(&self, outside: i32) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), outside.to_string())?)
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        let parent = self.0.parent().map(|parent| parent.join("cgroup.procs"));
        for pid in fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines() {
            // One that ended meanwhile is out already.
            let _ = parent.as_ref().map(|parent| fs::write(parent, pid));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("cannot remove {}: {error}", self.0.display());
        }
    }
}
