//! Swap space for the time of a trial, by the little program `tools/swap.c`: it takes the space back when this process
//! ends, however it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::victims;

/// Gone when dropped.
#[derive(Debug)]
pub(crate) struct Swap {
    helper: Child,
    before: u64,
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
        let mut swap = Self { helper, before: swapped_out() };
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

    /// Pages that this kernel has written to swap space since this one was added. (Not: pages in it now. They come back
    /// when they are read, and another trial's space may have been preferred.)
    pub(crate) fn swapped_out(&self) -> u64 {
        swapped_out().saturating_sub(self.before)
    }
}

fn swapped_out() -> u64 {
    let counters = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let ours = counters.lines().find_map(|line| line.strip_prefix("pswpout "));
    ours.and_then(|pages| pages.parse().ok()).unwrap_or(0)
}

impl Drop for Swap {
    fn drop(&mut self) {
        drop(self.helper.stdin.take());
        let _ = self.helper.wait();
    }
}
