//! The stopped copy once its process runs elsewhere: what it is signalled is taken out of it, then it ends.

use std::time::{Duration, Instant};

use super::PreloadError;
use super::agent::PATIENCE;
use super::capture::Captive;
use super::late_signals::LateSignals;
use crate::image::PAGE_SIZE;
use crate::image::check::USER_END;
use crate::image::process::LateSignal;
use crate::state::robust;
use crate::sys::process::prlimit;
use crate::sys::ptrace::SiginfoBytes;
use crate::tracee::Remote;
use crate::tracee::thread::Thread;
use crate::tracee::together::go_to;

/// How long the stopped copy goes on taking signals that come one after the other, once it has no room for more.
const FLOWING: Duration = Duration::from_millis(4);

impl Captive {
    /// As [`Captive::signalled`], of a process that runs elsewhere. `SIGKILL`, if somebody else has killed it here. A `SIGCONT` takes
    /// the stop away that outlives us: it is put up again.
    pub fn signalled_meanwhile(&mut self) -> Vec<LateSignal> {
        let found = match self.signalled().and_then(|found| self.drained(found)) {
            Ok(found) => found,
            Err(PreloadError::Tracee(e)) if e.died() => {
                self.late = None;
                vec![LateSignals::killed()]
            }
            Err(error) => {
                tracing::warn!(%error, "signals to the stopped copy cannot be read");
                Vec::new()
            }
        };
        if self.held
            && self.late.as_ref().is_some_and(|late| !late.is_held())
            && let Err(error) = self.hold(true)
        {
            tracing::debug!(%error, "the stop was not put up again");
        }
        found
    }

    /// The process runs elsewhere and needs nothing of this copy: none of its threads will run any more, whoever lets them. They have
    /// no code, and every signal is blocked, so that the fault ends it (`force_sig_info_to_task`) before anything of the program runs.
    pub fn disable(&mut self) -> Result<(), PreloadError> {
        let Some(frozen) = &self.frozen else { return Ok(()) };
        for member in &frozen.threads {
            let mut regs = member.thread.regs()?;
            regs.rip = 0;
            regs.orig_rax = u64::MAX;
            member.thread.set_sigmask(u64::MAX)?;
            member.thread.set_regs(&regs)?;
        }
        self.disabled = true;
        Ok(())
    }

    /// Takes plain signals out of the queue of a [disabled](Captive::disable) process, with those that have been `found`: another of
    /// their kind would coalesce with one that is long handled elsewhere.
    fn drained(&mut self, mut found: Vec<LateSignal>) -> Result<Vec<LateSignal>, PreloadError> {
        const PLAIN: u64 = 0x7fff_ffff;
        let (Some(frozen), Some(late), true) = (&self.frozen, &mut self.late, self.disabled) else {
            return Ok(found);
        };
        if !late.has_plain() {
            return Ok(found);
        }
        let leader = frozen.leader();
        leader.set_sigmask(!PLAIN)?;
        let taken = each_signal(leader, |info| found.extend(late.taken(info)));
        leader.set_sigmask(u64::MAX)?;
        taken.map(|()| found)
    }

    /// Ends the copy at the source: the process runs elsewhere. Returns the signals that it got until then. What is sent from the
    /// last look at its queues until its parent has taken note of its end is lost, as with any process that ends: to keep that short,
    /// its memory goes first; `sigqueue` is told by `EAGAIN`.
    pub fn kill(mut self) -> Result<Vec<LateSignal>, PreloadError> {
        if let Some(frozen) = &self.frozen {
            robust::disarm(frozen.pid);
        }
        if let Err(error) = self.empty()
            && !matches!(&error, PreloadError::Tracee(e) if e.died())
        {
            tracing::debug!(%error, "the copy's memory goes with it");
        }
        let pid = self.frozen.as_ref().map_or(0, |f| f.pid);
        let _ = prlimit(pid, libc::RLIMIT_SIGPENDING, Some((0, 0)));
        let (mut last, begun) = (Vec::new(), Instant::now());
        // whoever is sending signals one after the other shall be told before they can get lost
        while self.late.as_ref().is_some_and(LateSignals::flows) && begun.elapsed() < FLOWING {
            last.extend(self.signalled_meanwhile());
            std::thread::sleep(FLOWING / 8);
        }
        // across CPUs the end would take longer
        if let Some(cpu) = self.frozen.as_ref().and_then(|f| f.threads.first()?.cpu()) {
            go_to(cpu);
        }
        last.extend(self.signalled_meanwhile());
        self.signal(libc::SIGKILL)?;
        if let Some(frozen) = self.frozen.take() {
            let threads: Vec<_> = frozen.threads.iter().rev().map(|m| m.thread).collect();
            frozen.forget();
            // take the death notices: the parent learns of the end only when its tracer has
            for thread in threads {
                let deadline = crate::sys::time::Deadline::after(Duration::from_secs(2));
                while thread.wait("ending the copy at the source", deadline).is_ok() {}
            }
        }
        Ok(last)
    }

    /// Unmaps all memory of a process that never runs again.
    fn empty(&mut self) -> Result<(), PreloadError> {
        self.disable()?;
        let Some(frozen) = &self.frozen else { return Ok(()) };
        let mut remote = Remote::borrow(frozen.leader(), &self.site)?;
        // the kernel's own areas may be sealed, and hold the instruction that we use
        let (low, high) = kernels_own(frozen.pid);
        for (start, end) in [(high, USER_END - PAGE_SIZE), (0, low)] {
            remote.single("munmap of all memory", libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
        }
        remote.abandon();
        Ok(())
    }
}

/// Takes all unblocked signals out of a thread's queues.
pub(super) fn each_signal(leader: Thread, mut each: impl FnMut(&SiginfoBytes)) -> Result<(), PreloadError> {
    use crate::tracee::thread::{Go, Stop};
    let deadline = crate::sys::time::Deadline::after(PATIENCE);
    leader.interrupt()?;
    leader.resume(Go::Free, 0)?;
    loop {
        let stop = leader.wait("taking signals out of the queue", deadline)?;
        match stop {
            Stop::Trap { .. } => return Ok(()),
            Stop::Signal(_) => {
                if let Ok(info) = crate::sys::ptrace::siginfo(leader.0) {
                    each(&info);
                }
            }
            other => tracing::debug!(?other, "while signals are taken out of the queue"),
        }
        leader.interrupt()?;
        leader.resume(Go::Free, 0)?;
    }
}

/// From where to where the kernel's own areas of a process lie: vDSO and the data that its code reads.
fn kernels_own(pid: i32) -> (u64, u64) {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let own = maps.lines().filter(|l| ["[vvar]", "[vvar_vclock]", "[vdso]"].iter().any(|n| l.ends_with(n)));
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let span = |l: &str| {
        let (start, end) = l.split_once(' ')?.0.split_once('-')?;
        Some((hex(start)?, hex(end)?))
    };
    own.filter_map(span).reduce(|all, area| (all.0.min(area.0), all.1.max(area.1))).unwrap_or((0, 0))
}
