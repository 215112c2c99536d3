//! A move: `ulpm live` running in a host, and its outcome.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::process::{Ended, Proc};

/// Longest time that a move may take before it is killed and the trial fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// How a move ended.
#[derive(Debug, Clone)]
pub(crate) struct LiveOutcome {
    /// The exit code; 128 + the signal if one killed it.
    pub(crate) exit: i32,
    /// The report; null if standard output was no JSON document.
    pub(crate) report: Value,
    pub(crate) stderr: String,
}

impl LiveOutcome {
    /// The report's outcome, or an empty text.
    pub(crate) fn outcome(&self) -> &str {
        self.report["outcome"].as_str().unwrap_or_default()
    }

    /// Insists on a verified move; gives the pid at the target as the target host sees it.
    pub(crate) fn moved(&self) -> Result<i32> {
        ensure!(self.exit == 0, "ulpm live ended with {}: {}", self.exit, self.stderr);
        ensure!(self.outcome() == "moved", "outcome {:?}: {}", self.outcome(), self.report);
        ensure!(self.report["verified"] == Value::Bool(true), "not verified: {}", self.report);
        let pid = self.report["target_pid"].as_i64().context("no target_pid in the report")?;
        Ok(i32::try_from(pid)?)
    }

    /// Insists on an exit code and on a message that names all of these.
    pub(crate) fn refused(&self, exit: i32, words: &[&str]) -> Result<()> {
        ensure!(self.exit == exit, "exit code {} instead of {exit}: {}", self.exit, self.stderr);
        let said = format!("{} {}", self.stderr, self.report).to_lowercase();
        for word in words {
            ensure!(said.contains(&word.to_lowercase()), "the message does not say {word:?}: {said}");
        }
        Ok(())
    }
}

/// A move that is under way.
#[derive(Debug)]
pub(crate) struct Live {
    process: Proc,
}

impl Live {
    /// Of any command that has a worker.
    pub(crate) fn of(process: Proc) -> Self {
        Self::new(process)
    }

    pub(super) fn new(process: Proc) -> Self {
        Self { process }
    }

    /// The pid, in its host, of the one that the user started.
    pub(crate) fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// What it said so far on standard error.
    pub(crate) fn errors(&self) -> String {
        self.process.errors()
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Kills it and its worker, which does the work, and waits until that is reaped: its locks go with the last of its
    /// threads, which may outlive the first by some milliseconds.
    pub(crate) fn kill_both(&self) -> Result<()> {
        let pid = self.process.outside_pid();
        let workers = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        // each ends without the other, and may have done so
        self.signal(Signal::SIGKILL)?;
        for worker in workers.split_whitespace() {
            match nix::sys::signal::kill(nix::unistd::Pid::from_raw(worker.parse()?), Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
                Err(e) => return Err(e.into()),
            }
        }
        for worker in workers.split_whitespace() {
            let worker = format!("/proc/{worker}");
            let gone = || !std::path::Path::new(&worker).exists();
            super::wait_until("the worker is gone", super::SOON, gone)?;
        }
        Ok(())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&mut self) -> Result<bool> {
        Ok(self.process.wait(Duration::ZERO)?.is_some())
    }

    /// Waits for the end, and keeps nothing of a move that went well: there may be thousands.
    pub(crate) fn outcome_of_many(mut self) -> Result<LiveOutcome> {
        let ended = self.process.finish(PATIENCE)?;
        if ended.exit == 0 {
            self.process.forget();
        }
        Ok(Self::read(ended))
    }

    /// Waits for the end.
    pub(crate) fn outcome(mut self) -> Result<LiveOutcome> {
        Ok(Self::read(self.process.finish(PATIENCE)?))
    }

    fn read(ended: Ended) -> LiveOutcome {
        let report = serde_json::from_str(&ended.stdout).unwrap_or(Value::Null);
        LiveOutcome { exit: ended.exit, report, stderr: ended.stderr }
    }
}
