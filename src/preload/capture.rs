//! The frozen process: its state, and giving it back untouched when the move fails.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use super::late_signals::{Accounts, LateSignals};
use super::queued::take_one;
use super::{PATIENCE, PreloadError};
use crate::image::Obstacle;
use crate::image::files::FilesImage;
use crate::image::memory::MemoryImage;
use crate::image::process::{LateSignal, ProcessImage, ThreadImage};
use crate::state::files::{self, FilesOptions};
use crate::state::overruns::{self, Taker};
use crate::state::room::NoRoom;
use crate::state::seam::process::SeenProcess;
use crate::state::thread::scheduling;
use crate::state::{
    StateError, memory_modes, mm_fields, namespaces, process, program, room, sharing, signals, threads,
    timers, waits,
};
use crate::sys::process::{pidfd_of_thread, pidfd_open, pidfd_send_signal, tgkill};
use crate::sys::ptrace::Regs;
use crate::sys::status::Status;
use crate::sys::voice;
use crate::sys::witness::Witness;
use crate::tracee::freeze::{Armed, Frozen, Member, tids};
use crate::tracee::restart::Continued;
use crate::tracee::together::{Plain, UrgentTracee, go_to};
use crate::tracee::{Batch, Lent, Outcome, Place, Remote, Scratch, Site, TraceeError, ward};

/// Bytes of scratch memory inside the process while it is frozen.
const TABLE: usize = 64 * 1024;
const DATA: usize = 64 * 1024;

/// `pause()`, again and again: `mov eax, 34; syscall; jmp` back. And where it lies on the code page of the scratch area.
const SLEEP: [u8; 9] = [0xb8, 0x22, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7];
const SLEEP_AT: u64 = 256;

/// A process that is about to be frozen: all that can be done before is done.
#[derive(Debug)]
pub struct Poised {
    armed: Armed,
    site: Site,
    pidfd: OwnedFd,
    witness: Option<Arc<Witness>>,
}

/// What a thread may have done since preflight, and what takes too long to be looked at while it is stopped.
fn insist_unchanged(pid: i32) -> Result<(), PreloadError> {
    voice::by(pid, |voice| {
        let tids = tids(pid)?;
        let late = [
            namespaces::obstacles(voice, &tids),
            sharing::obstacles(pid, &tids),
            process::confinement::obstacles(voice, &tids),
        ];
        refuse_late(&late.concat())
    })
}

fn refuse_late(late: &[Obstacle]) -> Result<(), PreloadError> {
    if late.is_empty() {
        return Ok(());
    }
    let list: Vec<String> = late.iter().map(ToString::to_string).collect();
    Err(StateError::Obstacles(list.join("; ")).into())
}

impl Poised {
    /// Seizes every thread (they run on) and opens what the freeze needs. `witness`: for a capture.
    pub fn prepare(pid: i32, witness: Option<Arc<Witness>>) -> Result<Self, PreloadError> {
        let pidfd = pidfd_open(pid).map_err(StateError::errno(pid, "opening a pidfd"))?;
        let site = Site::of_running(pid)?;
        let armed = Armed::seize(pid)?.not_within(site.vdso.clone());
        insist_unchanged(pid)?;
        Ok(Poised { site, pidfd, armed, witness })
    }

    /// Stops every thread.
    pub fn freeze(self) -> Result<Captive, PreloadError> {
        let frozen = self.armed.stop(PATIENCE)?;
        Ok(Captive {
            frozen: Some(frozen),
            site: self.site,
            pidfd: self.pidfd,
            witness: self.witness,
            scratch: None,
            lent: None,
            status: None,
            speaker: None,
            held: false,
            retired: false,
            disabled: false,
            late: None,
        })
    }
}

/// The frozen process. Dropping it lets the process run on as if nothing had been.
#[derive(Debug)]
pub struct Captive {
    pub(super) frozen: Option<Frozen>,
    pub(super) site: Site,
    pidfd: OwnedFd,
    witness: Option<Arc<Witness>>,
    scratch: Option<Scratch>,
    /// What was where the scratch area is, if that is memory of the process's own.
    lent: Option<Lent>,
    /// `status` of the thread that speaks for it.
    status: Option<Status>,
    /// How that thread goes on by itself, from these registers.
    speaker: Option<(Regs, Continued)>,
    pub(super) held: bool,
    /// See [`Captive::retire`].
    pub(super) retired: bool,
    /// See [`Captive::disable`].
    pub(super) disabled: bool,
    /// What has been signalled to it, once its state was read.
    pub(super) late: Option<LateSignals>,
}

impl Captive {
    /// Maps the scratch area for remote calls. Before the final scan begins: that holds the lock which `mmap` wants, and the
    /// shelter of the thread that executes this lies on its stack.
    pub fn furnish(&mut self, waits: &waits::Memory) -> Result<(), PreloadError> {
        let Some(frozen) = &self.frozen else { return Err(PreloadError::NoSuchProcess(0)) };
        if let Some(cpu) = frozen.threads.first().and_then(Member::cpu) {
            go_to(cpu);
        }
        let status = threads::status_of(frozen.voice().0)?;
        ward::insist_unconfined(frozen.voice(), status.seccomp != 0)?;
        self.status = Some(status);
        let mut remote = Remote::approach(frozen.voice(), &self.site)?;
        let continued = waits::voice_continued(frozen, remote.saved(), waits);
        let plain = Plain::of(frozen.voice());
        remote.shelter_on_stack(&continued, Some(&plain))?;
        self.speaker = Some((*remote.saved(), continued));
        let urgent = UrgentTracee::from(plain);
        let mapped = remote.map_scratch(Place::Rather(0), TABLE, DATA);
        let rsp = remote.saved().rsp;
        drop(urgent);
        remote.finish()?;
        let (scratch, lent) = room::area(&self.site, rsp, mapped).map_err(|e| match e {
            NoRoom::Refused(obstacle) => StateError::Obstacles(obstacle.to_string()).into(),
            NoRoom::Failed(e) => PreloadError::from(e),
        })?;
        self.scratch = Some(scratch);
        self.lent = lent;
        Ok(())
    }

    /// Captures the state of process and threads, after [`Captive::furnish`]. `described` is what preflight saw.
    pub fn capture(
        &mut self,
        described: (&ProcessImage, &FilesImage),
        memory: MemoryImage,
        options: &FilesOptions,
        waits: &waits::Memory,
    ) -> Result<(ProcessImage, FilesImage), PreloadError> {
        let image = self.capture_all(described, memory, options, waits);
        // before its pages are read
        self.lent.take().map_or(Ok(()), |lent| lent.give_back(&self.site))?;
        image
    }

    fn capture_all(
        &mut self,
        described: (&ProcessImage, &FilesImage),
        memory: MemoryImage,
        options: &FilesOptions,
        waits: &waits::Memory,
    ) -> Result<(ProcessImage, FilesImage), PreloadError> {
        let Some(frozen) = &self.frozen else { return Err(PreloadError::NoSuchProcess(0)) };
        let pid = frozen.voice().0;
        let (Some(scratch), Some(status)) = (self.scratch, &self.status) else {
            return Err(PreloadError::State(StateError::Field { pid, file: "maps", field: "scratch area" }));
        };
        let begun = Instant::now();
        let cpus = scheduling::online_cpus();
        let context = threads::Context {
            frozen,
            site: &self.site,
            scratch: &scratch,
            cpus: &cpus,
            memory: waits,
            witness: self.witness.as_deref(),
        };
        let mut image = ProcessImage { memory, ..described.0.clone() };
        let (threads, numbers, pending) = capture_threads(frozen, &context, status, &mut image)?;
        image.threads = threads;
        let neither = program::without_both(frozen.leaderless(), !self.site.vdso.is_empty());
        refuse_late(&Vec::from_iter(neither))?;
        if frozen.leaderless() {
            image.threads.insert(0, threads::ended(frozen.pid, &cpus)?);
        }
        timers::settle_threads(&mut image.timers.posix, image.pid, &numbers);
        image.queued = signals::queued(pid, true)?;
        image.queued.extend(signals::without_entry(pending, &image.queued));
        self.late = Some(LateSignals::since(pid, &numbers, &mut image, begun.elapsed()));
        let threads_took = begun.elapsed();
        let by_voice = match frozen.leaderless() {
            true => {
                Some(pidfd_of_thread(pid).map_err(StateError::errno(pid, "opening a pidfd of a thread"))?)
            }
            false => None,
        };
        let pidfd = by_voice.as_ref().unwrap_or(&self.pidfd).as_fd();
        let files = files::capture(pid, pidfd, options, Some(described.1))?;
        tracing::debug!(threads = ?threads_took, files = ?begun.elapsed() - threads_took, "captured");
        Ok((image, files))
    }

    /// Makes the stop outlive us: from now on the process stays stopped when we end, until someone lets it go
    /// or kills it. `SIGSTOP` is queued to each thread; the first one to run takes it and stops all others before any of
    /// them executes an instruction (`get_signal` holds the lock from dequeueing it to `do_signal_stop`). Not to the process: there
    /// a `SIGSTOP` of somebody else would coalesce with it, and nobody would know of it.
    ///
    /// After [`Captive::tidy`]: no remote call gets past the queued signal. (Where [`Captive::retire`] comes next, the scratch area
    /// is needed.)
    pub fn hold(&mut self) -> Result<(), PreloadError> {
        let Some(frozen) = &self.frozen else { return Err(PreloadError::NoSuchProcess(0)) };
        for member in &frozen.threads {
            tgkill(frozen.pid, member.thread.0, libc::SIGSTOP)
                .map_err(StateError::errno(frozen.pid, "signalling"))?;
        }
        self.held = true;
        if let Some(late) = &mut self.late {
            late.holding();
        }
        Ok(())
    }

    /// Signals that have come since the state was read, or since this was last asked.
    pub fn signalled(&mut self) -> Result<Vec<LateSignal>, PreloadError> {
        self.late.as_mut().map_or_else(|| Ok(Vec::new()), |late| late.look(false))
    }

    /// What of its signals is accounted for.
    pub fn accounts(&self) -> Option<Accounts> {
        self.late.as_ref().map(LateSignals::accounts)
    }

    pub(super) fn signal(&self, signal: i32) -> Result<(), PreloadError> {
        let pid = self.frozen.as_ref().map_or(0, |f| f.pid);
        Ok(pidfd_send_signal(self.pidfd.as_fd(), signal).map_err(StateError::errno(pid, "signalling"))?)
    }

    /// The process runs elsewhere, and only the memory of this copy is of use: from now on its threads would sleep for ever,
    /// with every signal blocked, should they ever be let go. That holds it in the place of the `SIGSTOP`, which stands in the
    /// way of remote calls: one that is pending is taken before our code runs, and is gone then.
    pub fn retire(&mut self) -> Result<(), PreloadError> {
        let Some(frozen) = &self.frozen else { return Err(PreloadError::NoSuchProcess(0)) };
        let at = match self.scratch {
            Some(scratch) if !scratch.lent => {
                let at = scratch.code + SLEEP_AT;
                let failed = |source| PreloadError::Memory { pid: frozen.pid, addr: at, source };
                self.site.mem.write(at, &SLEEP).map_err(failed)?;
                at
            }
            // a `pause` that nothing interrupts, every signal being blocked, begins again by itself after a stop
            _ => self.site.syscall,
        };
        for member in &frozen.threads {
            let mut regs = member.thread.regs()?;
            regs.rip = at;
            regs.rax = libc::SYS_pause as u64;
            regs.orig_rax = u64::MAX;
            member.thread.set_sigmask(u64::MAX)?;
            member.thread.set_regs(&regs)?;
            ward::end_dispatch(member.thread)?;
        }
        self.retired = true;
        self.take_few();
        if self.held
            && let Err(e) = self.unhold()
        {
            self.hold()?;
            return Err(e);
        }
        Ok(())
    }

    /// Frees memory of a [retired](Captive::retire) process: addresses, lengths, `MADV_*`. What the kernel does not free stays.
    pub fn free(&mut self, calls: &[(u64, u64, i32)]) -> Result<(), PreloadError> {
        let (Some(frozen), Some(scratch)) = (&self.frozen, self.scratch) else {
            return Err(PreloadError::NoSuchProcess(0));
        };
        for some in calls.chunks(512) {
            let mut remote = Remote::borrow(frozen.voice(), &self.site)?;
            let mut batch = Batch::new(&scratch);
            for (start, len, advice) in some {
                batch.attempt("madvise", libc::SYS_madvise, &[*start, *len, *advice as u64]);
            }
            let outcome = remote.run(&scratch, &batch)?;
            remote.finish()?;
            let failed = outcome.results.iter().filter(|r| **r < 0).count();
            if failed > 0 {
                tracing::debug!(failed, "pieces of the stopped copy were not freed");
            }
        }
        Ok(())
    }

    /// Leaves the process stopped when we go: nobody knows where it runs.
    pub fn leave_stopped(mut self) {
        self.let_go();
    }

    /// Nothing of ours is left in it but the stop: no scratch area, no call that the stop made fail. Whoever lets it go on later, or
    /// ends it, need not know anything of it.
    pub fn tidy(&mut self) -> Result<(), TraceeError> {
        // once held, a remote call would take the queued `SIGSTOP`, and the process would run on; retired, it never runs again
        if self.held || self.retired {
            return Ok(());
        }
        let (Some(frozen), Some(scratch)) = (&self.frozen, self.scratch.take()) else { return Ok(()) };
        if scratch.lent {
            self.lent.take().map_or(Ok(()), |lent| lent.give_back(&self.site))?;
            frozen.mend();
            return Ok(());
        }
        let mut remote = Remote::approach(frozen.voice(), &self.site)?;
        // a wait may last longer by what the freeze did
        let same = |then: &Regs| {
            let place = |r: &Regs| (r.rip, r.rsp, r.rax, r.orig_rax);
            place(then) == place(remote.saved())
        };
        let continued = match &self.speaker {
            Some((then, continued)) if same(then) => *continued,
            _ => waits::voice_continued(frozen, remote.saved(), &waits::Memory::default()),
        };
        remote.shelter_on_stack(&continued, None)?;
        remote.unmap_scratch(scratch)?;
        remote.finish()?;
        frozen.mend();
        Ok(())
    }

    fn let_go(&mut self) {
        if let Err(e) = self.tidy()
            && !e.died()
        {
            tracing::error!(error = %e, "the scratch area could not be removed from the process");
        }
        let Some(frozen) = self.frozen.take() else { return };
        frozen.thaw();
    }

    /// Remembers the ends of the waits that our stop interrupted, for the next attempt.
    pub fn remember_waits(&self, memory: &mut waits::Memory) {
        if let Some(frozen) = &self.frozen {
            memory.note(frozen);
        }
    }

    /// Lets the process run on, after [`Captive::hold`] too: the pending stop is taken back by a `SIGCONT` that we
    /// intercept before the process sees it. `memory`: of the waits that our stop interrupted.
    pub fn resume(mut self, memory: &mut waits::Memory) {
        self.remember_waits(memory);
        if self.held {
            let _ = self.signalled();
            if let Err(e) = self.unhold() {
                tracing::error!(error = %e, "the pending stop could not be taken back: let the process go on with kill -CONT");
            }
            if let (Some(late), Some(frozen)) = (&mut self.late, &self.frozen) {
                late.put_back(frozen.pid, self.pidfd.as_fd());
            }
        }
        self.let_go();
    }

    fn unhold(&mut self) -> Result<(), PreloadError> {
        self.held = false;
        let Some(frozen) = &self.frozen else { return Ok(()) };
        // flushes the queued SIGSTOPs (prepare_signal); the SIGCONT itself is now pending in their place, all others stay
        self.signal(libc::SIGCONT)?;
        take_one(frozen.voice(), libc::SIGCONT, |_| ())
    }
}

impl Drop for Captive {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Threads by two numbers: as we know them, as they know themselves.
type Numbers = Vec<(i32, i32)>;

/// Captures all threads; the one that speaks for the process answers for the process in the same round trip. Each one's number, as we know it and as it
/// knows itself, and the signals that were pending to the process before.
fn capture_threads(
    frozen: &Frozen,
    context: &threads::Context<'_>,
    status: &Status,
    image: &mut ProcessImage,
) -> Result<(Vec<ThreadImage>, Numbers, u64), PreloadError> {
    let pid = frozen.voice().0;
    let posix = timers::list(pid)?;
    refuse_late(&timers::obstacles(&posix, image.pid, frozen.threads.len()))?;
    let seen = SeenProcess { pid: frozen.pid, voice: pid, status };
    let mut states = std::mem::take(&mut image.states);
    let mut all = Vec::with_capacity(frozen.threads.len());
    let mut tids = Vec::with_capacity(frozen.threads.len());
    let queued = overruns::Queued::look(frozen, &posix)?;
    let mut read = Instant::now();
    let mut posix = Some(posix);
    // that one first, the others CPU by CPU: going to another one costs more than a remote call
    let mut members: Vec<&Member> = frozen.threads.iter().collect();
    members.sort_by_key(|m| (m.thread != frozen.voice(), m.cpu()));
    for member in members {
        // where it ran last it will wake up
        if let Some(cpu) = member.cpu() {
            go_to(cpu);
        }
        if member.thread != frozen.voice() {
            let expired = |_: &Outcome, (): &(), mut taker: Taker<'_>| {
                overruns::count(&mut image.timers.posix, &queued, &mut taker, read)
            };
            let (thread, ..) = threads::capture(member, context, |_| (), expired)?;
            tids.push((member.thread.0, thread.tid));
            all.push(thread);
            continue;
        }
        let posix = posix.take().unwrap_or_default();
        let ask = |batch: &mut Batch| {
            (
                timers::ask(batch, posix),
                process::capture(&seen, batch, &mut states),
                mm_fields::ask(batch),
                memory_modes::ask(batch, context.scratch),
            )
        };
        let then = |outcome: &Outcome, (timer, ..): &(timers::Question, _, _, _), mut taker: Taker<'_>| {
            read = Instant::now();
            image.timers = timers::answer(outcome, timer);
            overruns::count(&mut image.timers.posix, &queued, &mut taker, read)
        };
        let (thread, outcome, (_, awaited, brk, modes)) = threads::capture(member, context, ask, then)?;
        awaited?.read(&outcome, &mut states)?;
        image.memory.mm.brk = mm_fields::answer(&outcome, brk);
        image.memory.modes = memory_modes::answer(&outcome, &modes);
        tids.push((member.thread.0, thread.tid));
        all.push(thread);
    }
    image.states = states;
    Ok((all, tids, status.shdpnd))
}
