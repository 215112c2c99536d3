//! The stopped copy once its process runs elsewhere: what it is signalled is taken out of it, then it ends.

use std::time::{Duration, Instant};

use super::capture::Captive;
use super::late_signals::{LastLook, LateSignals};
use super::queued::take_one;
use super::{PATIENCE, PreloadError};
use crate::image::PAGE_SIZE;
use crate::image::check::USER_END;
use crate::image::process::LateSignal;
use crate::state::robust;
use crate::sys::process::prlimit;
use crate::sys::time::Deadline;
use crate::sys::voice;
use crate::tracee::Remote;
use crate::tracee::ending;
use crate::tracee::thread::Thread;

/// How long the stopped copy goes on taking signals that come one after the other, once it has no room for more.
const FLOWING: Duration = Duration::from_millis(4);

/// How many more signals are queued to a copy while its memory follows. To read each the kernel walks from the first one on
/// (`ptrace_peek_siginfo`): of more of them more would come than are read meanwhile.
const MANY: u64 = 2048;

/// Where no program has anything: the half of the addresses that is the kernel's. Whatever runs from there on, or returns to there,
/// is a fault.
const NOWHERE: u64 = 0xffff_8000_0000_0000;

impl Captive {
    /// As [`Captive::signalled`], of a process that runs elsewhere. `SIGKILL`, if somebody else has killed it here. A `SIGCONT` takes
    /// the stop away that outlives us: it is put up again.
    pub fn signalled_meanwhile(&mut self) -> Vec<LateSignal> {
        let looked = self.late.as_mut().map_or_else(|| Ok(Vec::new()), |late| late.look(true));
        let found = match looked.and_then(|found| self.drained(found)) {
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
            && !self.disabled
            && self.late.as_ref().is_some_and(|late| !late.is_held())
            && let Err(error) = self.hold()
        {
            tracing::debug!(%error, "the stop was not put up again");
        }
        found
    }

    /// `sigqueue` to a copy that never runs again is answered by `EAGAIN` once this many more are queued. (The limit is the process's,
    /// what counts is all that its user has queued: `SigQ`.)
    pub(super) fn take_at_most(&self, more: u64) {
        let Some(frozen) = &self.frozen else { return };
        let status = crate::sys::lossy(format!("/proc/{}/status", frozen.pid)).unwrap_or_default();
        let of_user = status.lines().find_map(|line| line.strip_prefix("SigQ:")?.trim().split_once('/'));
        let queued: u64 = of_user.and_then(|(queued, _)| queued.parse().ok()).unwrap_or(0);
        let Ok((soft, _)) = prlimit(frozen.pid, libc::RLIMIT_SIGPENDING, None) else { return };
        let most = if more == 0 { 0 } else { soft.min(queued + more) };
        let _ = prlimit(frozen.pid, libc::RLIMIT_SIGPENDING, Some((most, most)));
    }

    /// As [`Captive::take_at_most`], while its memory follows.
    pub(super) fn take_few(&self) {
        self.take_at_most(MANY);
    }

    /// The process runs elsewhere and needs nothing of this copy: none of its threads will run any more, whoever lets them. They
    /// lead nowhere and every signal is blocked, so that the fault ends it (`force_sig_info_to_task`) before anything of the
    /// program runs. A copy that is gone already is none to disable.
    pub fn disable(&mut self) -> Result<(), PreloadError> {
        match self.lead_nowhere() {
            Err(PreloadError::Tracee(e)) if e.died() => Ok(()),
            done => done,
        }
    }

    fn lead_nowhere(&mut self) -> Result<(), PreloadError> {
        // a long queue takes longer to be read than it takes others to fill it
        self.take_at_most(0);
        let Some(frozen) = &self.frozen else { return Ok(()) };
        for member in &frozen.threads {
            let mut regs = member.thread.regs()?;
            (regs.rip, regs.rsp, regs.rbp, regs.orig_rax) = (NOWHERE, NOWHERE, NOWHERE, u64::MAX);
            member.thread.set_sigmask(u64::MAX)?;
            member.thread.set_regs(&regs)?;
        }
        self.disabled = true;
        // in the way of remote calls, and of no use any more
        if self.held {
            let (voice, late) = (frozen.voice(), &mut self.late);
            take_one(voice, libc::SIGSTOP, |info| {
                late.as_mut().and_then(|late| late.taken(voice.0, info));
            })?;
        }
        Ok(())
    }

    /// Takes plain signals out of the queues of a process that never runs again, with those that have been `found`: another of
    /// their kind would coalesce with one that is long handled elsewhere.
    fn drained(&mut self, mut found: Vec<LateSignal>) -> Result<Vec<LateSignal>, PreloadError> {
        let (Some(frozen), Some(late)) = (&self.frozen, &mut self.late) else { return Ok(found) };
        if !self.disabled && (!self.retired || self.held) {
            return Ok(found);
        }
        for (asked, signal) in late.plain() {
            let Some(member) = frozen.threads.iter().find(|m| m.thread.0 == asked) else { continue };
            take_one(member.thread, signal, |info| found.extend(late.taken(asked, info)))?;
        }
        Ok(late.keep_stuck(found))
    }

    /// Ends the copy at the source: the process runs elsewhere. Returns all signals that it was sent until it was killed. What is
    /// sent to it between that and the moment in which its parent takes note of its end is lost, as with any process that ends
    /// ([`ending`]): to keep that short, its memory goes first; who uses `sigqueue` again and again is told by `EAGAIN`.
    pub fn kill(mut self) -> Result<Vec<LateSignal>, PreloadError> {
        let pid = self.frozen.as_ref().map_or(0, |f| f.pid);
        robust::disarm(pid);
        let emptied = self.empty();
        if let Err(error) = &emptied {
            tracing::debug!(%error, "the copy's memory goes with it");
        }
        let (mut last, begun) = (self.signalled_meanwhile(), Instant::now());
        if self.late.as_ref().is_some_and(LateSignals::flows) {
            while begun.elapsed() < FLOWING {
                last.extend(self.signalled_meanwhile());
                std::thread::sleep(FLOWING / 8);
            }
        }
        let Some(frozen) = self.frozen.take() else { return Ok(last) };
        let threads: Vec<_> = frozen.threads.iter().map(|m| m.thread).collect();
        let (late, mut seen) = (self.late.take(), LastLook::default());
        let look = || seen = late.as_ref().map(LateSignals::last_look).unwrap_or_default();
        let killed = ending::end(&threads, emptied.is_ok(), || self.signal(libc::SIGKILL), look);
        last.extend(late.map(|late| late.last(seen)).unwrap_or_default());
        // one that ended when we had seized it keeps its parent waiting for our notice
        if frozen.leaderless() {
            let _ = Thread(pid).wait("ending the copy at the source", Deadline::after(PATIENCE));
        }
        frozen.forget();
        match killed {
            Err(error) if voice::lives(pid) => Err(error),
            _ => Ok(last),
        }
    }

    /// Unmaps all memory of a process that never runs again.
    fn empty(&mut self) -> Result<(), PreloadError> {
        self.disable()?;
        let Some(frozen) = &self.frozen else { return Ok(()) };
        let mut remote = Remote::borrow(frozen.voice(), &self.site)?;
        // the kernel's own areas may be sealed, and hold the instruction that we use
        let (low, high) = kernels_own(frozen.voice().0);
        for (start, end) in [(high, USER_END - PAGE_SIZE), (0, low)] {
            remote.single("munmap of all memory", libc::SYS_munmap, [start, end - start, 0, 0, 0, 0])?;
        }
        remote.abandon();
        Ok(())
    }
}

/// From where to where the kernel's own areas of a process lie: vDSO and the data that its code reads.
fn kernels_own(pid: i32) -> (u64, u64) {
    let maps = crate::sys::lossy(format!("/proc/{pid}/maps")).unwrap_or_default();
    let own = maps.lines().filter(|l| ["[vvar]", "[vvar_vclock]", "[vdso]"].iter().any(|n| l.ends_with(n)));
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let span = |l: &str| {
        let (start, end) = l.split_once(' ')?.0.split_once('-')?;
        Some((hex(start)?, hex(end)?))
    };
    own.filter_map(span).reduce(|all, area| (all.0.min(area.0), all.1.max(area.1))).unwrap_or((0, 0))
}
