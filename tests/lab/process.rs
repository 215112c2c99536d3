//! A process of the lab: started in a host, its outputs in files.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use ulpm::demo::hosts::{Host, HostProcess, Stdio3};

/// How a command ended and what it said.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    /// The exit code; 128 + the signal if one killed it.
    pub(crate) exit: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A process started in a host of the lab.
#[derive(Debug)]
pub(crate) struct Proc {
    process: HostProcess,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Proc {
    pub(super) fn start(
        host: &Host,
        argv: &[&str],
        dir: &Path,
        label: &str,
        env: &BTreeMap<String, String>,
    ) -> Result<Self> {
        let stdout = dir.join(format!("{label}.out"));
        let stderr = dir.join(format!("{label}.err"));
        let stdio = Stdio3::to_files(File::create(&stdout)?, File::create(&stderr)?)?;
        let process = host.spawn_with(argv, dir, stdio, env).with_context(|| format!("start {argv:?}"))?;
        Ok(Self { process, stdout, stderr })
    }

    /// Its pid in its host.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Its pid outside.
    pub(crate) fn outside_pid(&self) -> i32 {
        self.process.outside_pid().as_raw()
    }

    /// What it said so far on its standard output.
    pub(crate) fn output(&self) -> String {
        read(&self.stdout)
    }

    /// What it said so far on its standard error.
    pub(crate) fn errors(&self) -> String {
        read(&self.stderr)
    }

    /// Removes the files of its outputs.
    pub(super) fn forget(&self) {
        for file in [&self.stdout, &self.stderr] {
            let _ = fs::remove_file(file);
        }
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal).with_context(|| format!("send {signal} to {}", self.pid()))
    }

    /// Waits for its end; `None` if it still runs after that time.
    pub(crate) fn wait(&mut self, patience: Duration) -> Result<Option<ExitStatus>> {
        Ok(self.process.wait(patience)?)
    }

    /// Waits for its end and kills it when its time is up.
    pub(crate) fn finish(&mut self, patience: Duration) -> Result<Ended> {
        let status = match self.wait(patience)? {
            Some(status) => status,
            None => {
                self.signal(Signal::SIGKILL)?;
                self.wait(super::SOON)?.context("a killed process does not end")?
            }
        };
        let exit = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
        Ok(Ended { exit, stdout: self.output(), stderr: self.errors() })
    }
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
