//! Swap space for the time of a trial, by the little program `tools/swap.c`: it takes the space back when this process
//! ends, however it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::victims;

/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct Swap {
    helper: Child,
    file: PathBuf,
}

impl Swap {
    /// Adds a file of so many MiB in that directory.
    pub(crate) fn add(directory: &Path, mib: u32) -> Result<Self> {
        let file = directory.join("swap");
        let mut helper = Command::new(victims::tool("swap")?)
            .arg(&file)
            .arg(mib.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(helper.stdout.take().context("no output")?).read_line(&mut line)?;
        let mut swap = Self { helper, file };
        if line.trim() != "ready" {
            let mut why = String::new();
            let _ = swap.helper.stderr.take().context("no errors")?.read_to_string(&mut why);
            ensure!(false, "no swap space: {}", why.trim());
        }
        Ok(swap)
    }

    /// Why that is not possible here; `None` if it is.
    pub(crate) fn missing() -> Option<String> {
        let directory = tempfile::tempdir().ok()?;
        Self::add(directory.path(), 1).err().map(|error| format!("{error:#}"))
    }

    /// Bytes in use of it.
    pub(crate) fn used(&self) -> u64 {
        let list = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
        let ours = |line: &&str| line.starts_with(&self.file.display().to_string());
        let kib =
            list.lines().find(ours).and_then(|line| line.split_whitespace().nth(3)?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Swap {
    fn drop(&mut self) {
        drop(self.helper.stdin.take());
        let _ = self.helper.wait();
    }
}
