//! A process that is moved between the machines, and the checks around each move.
//!
//! It behaves as victims do (`tests/victims/victim.h`); its standard output is a UDP socket, so that it is heard in
//! whatever machine it is.

use anyhow::{Context as _, Result, ensure};

use crate::lab::live::LiveOutcome;
use crate::lab::{SOON, TOLERANCE};
use crate::vm::machine::Job;
use crate::vm::pair::Pair;
use crate::vm::wire::Sink;

/// Seconds that victims find acceptable between two looks at the clock, under emulation.
pub(super) const PATIENT: &str = "60";
pub(super) const STOP: &str = "/tmp/stop";

/// A process under way, wherever it is.
pub(super) struct Mover {
    job: Job,
    /// The machine in which it is.
    pub(super) at: &'static str,
    /// All that it said in machines that it left.
    said: String,
}

impl Mover {
    /// Starts it in machine `a` and waits until it is at work.
    pub(super) fn start(pair: &mut Pair, argv: &[&str]) -> Result<Self> {
        for machine in [&pair.a, &pair.b] {
            machine.must(&["rm", "-f", STOP])?;
        }
        let job = pair.a.start_job(&[argv, &[STOP]].concat(), &[(TOLERANCE, PATIENT)], Sink::Ear)?;
        let said = pair.a.until(&job, &["ready", "FAIL"], SOON * 3)?;
        ensure!(said.contains("ready"), "{argv:?} is not ready: {said:?}");
        pair.note(format!("a: {argv:?} is {job:?}"));
        Ok(Self { job, at: "a", said: String::new() })
    }

    /// It is moved by other means than [`Mover::cross`].
    pub(super) fn into_job(self) -> Job {
        self.job
    }

    pub(super) fn pid(&self) -> i32 {
        self.job.pid
    }

    /// Moves it to the other machine, verified, and checks that exactly one copy is left.
    pub(super) fn cross(&mut self, pair: &mut Pair, args: &[&str]) -> Result<LiveOutcome> {
        let to = if self.at == "a" { "b" } else { "a" };
        self.said += &self.heard(pair)?;
        let (from, pid) = (self.at, self.job.pid);
        let outcome = pair.live(from, pid, to, &[&["--verify"], args].concat())?;
        self.job.pid = outcome.moved()?;
        self.at = to;
        ensure!(!pair.machine(from).is_alive(pid)?, "the source's copy (pid {pid}) still exists");
        self.check_running(pair)?;
        Ok(outcome)
    }

    /// Insists that it runs and found nothing wrong so far.
    pub(super) fn check_running(&self, pair: &Pair) -> Result<()> {
        let said = self.heard(pair)?;
        ensure!(!said.contains("FAIL"), "it says in {}: {said}", self.at);
        let alive = pair.machine(self.at).is_alive(self.job.pid)?;
        ensure!(alive, "pid {} in {} has ended: {said}", self.job.pid, self.at);
        Ok(())
    }

    /// Tells it to check all one last time and to end; insists on its PASS.
    pub(super) fn finish(self, pair: &Pair) -> Result<()> {
        let machine = pair.machine(self.at);
        machine.write(STOP, "")?;
        let said = machine.until(&self.job, &["PASS", "FAIL"], SOON * 3).context("its last word")?;
        ensure!(
            said.contains("PASS") && !said.contains("FAIL"),
            "its last words: {said} (before: {})",
            self.said
        );
        Ok(())
    }

    /// What it said so far in the machine in which it is.
    fn heard(&self, pair: &Pair) -> Result<String> {
        pair.machine(self.at).said(&self.job)
    }
}
