//! Remote system calls: a stopped thread is made to execute them, and afterwards is as it was.
//!
//! Two ways. A *single* call jumps to a `syscall` instruction of the process and is caught at its entry and
//! its exit (`PTRACE_SYSCALL`): no page of ours is needed. A *batch* runs a loop of ten instructions on a
//! scratch page over a table of calls: one round trip, however many calls.
//!
//! And two kinds of threads. One of a *running* process must survive us: it executes our calls from a shelter
//! ([`super::shelter`]), from where it finds home by itself if we are killed. The last call of its batch is a bell: a signal to
//! itself that is ignored there, which nobody hears but a tracer. Where every such signal is caught or blocked, the
//! batch is followed from call to call. One of a *skeleton* dies with us: its single calls use the vDSO's `syscall`, its
//! batches end in `int3`.
//!
//! While our code runs, signals are blocked and stay queued, but for the bell and those that the kernel forces on who makes a
//! mistake ([`super::ward`]), or for a skeleton's `SIGTRAP`. A skeleton that ignores that gets its batch as single calls.
//!
//! A thread must be handed back in a stop of the signal delivery path ([`Thread::to_trap`]): only there does
//! the kernel restart the system call that our stop interrupted.

use nix::errno::Errno;

use super::error::TraceeError;
use super::restart::Continued;
use super::scratch::{self, CALL_AT, PAGE, Place, RESTORE_AT, Scratch};
use super::shelter::{self, Bell, Code, NO_FLAGS, Own, Shelter};
use super::site::{SIGTRAP_BIT, Site, leave_critical_section};
use super::stop::Stop;
use super::thread::{Go, Thread};
use super::together::Plain;
use super::ward;
use crate::fault::Point;
use crate::sys::ptrace::{self, DispatchConfiguration, Regs};
use crate::sys::time::Deadline;

mod batches;

/// A stopped thread on loan: executes our calls and is given back by [`Remote::finish`].
#[derive(Debug)]
pub struct Remote<'a> {
    thread: Thread,
    site: &'a Site,
    saved: Regs,
    mask: u64,
    xstate: Vec<u8>,
    shelter: Option<Shelter>,
    bell: Option<Bell>,
    /// The thread's own; off while it is borrowed.
    dispatch: Option<DispatchConfiguration>,
    /// Registers or mask are ours.
    changed: bool,
    finished: bool,
    /// Threads that the calls made (`clone3`), in order.
    pub children: Vec<i32>,
}

impl<'a> Remote<'a> {
    /// Borrows a thread that is stopped in the signal delivery path, and that does not outlive us.
    pub fn borrow(thread: Thread, site: &'a Site) -> Result<Self, TraceeError> {
        let mut remote = Self::look(thread, site)?;
        remote.expose()?;
        Ok(remote)
    }

    /// Borrows a thread of a process that must run on if we are killed. Nothing of it is changed before
    /// [`Remote::shelter_on_stack`] or [`Remote::shelter_in`], which is to come next.
    pub fn approach(thread: Thread, site: &'a Site) -> Result<Self, TraceeError> {
        ward::insist_64_bit(thread)?;
        let mut remote = Self::look(thread, site)?;
        remote.dispatch = ward::dispatch(thread)?;
        remote.xstate = ptrace::xstate(thread.0).map_err(|source| TraceeError::Ptrace {
            tid: thread.0,
            step: "reading the extended state",
            source,
        })?;
        Ok(remote)
    }

    fn look(thread: Thread, site: &'a Site) -> Result<Self, TraceeError> {
        Ok(Remote {
            thread,
            site,
            saved: leave_critical_section(thread, site, thread.regs()?),
            mask: thread.sigmask()?,
            xstate: Vec::new(),
            shelter: None,
            bell: None,
            dispatch: None,
            changed: false,
            finished: false,
            children: Vec::new(),
        })
    }

    /// Without a shelter.
    fn expose(&mut self) -> Result<(), TraceeError> {
        self.changed = true;
        self.suspend_dispatch()?;
        self.thread.set_sigmask(if self.survives() { self.closed() } else { !SIGTRAP_BIT })
    }

    /// One of a running process.
    fn survives(&self) -> bool {
        !self.xstate.is_empty()
    }

    fn suspend_dispatch(&self) -> Result<(), TraceeError> {
        self.dispatch.map_or(Ok(()), |_| ward::set_dispatch(self.thread, None))
    }

    /// Gives the thread a shelter for single calls, on the main thread's stack. `plain`: it is about to be made urgent.
    pub fn shelter_on_stack(
        &mut self,
        continued: &Continued,
        plain: Option<&Plain>,
    ) -> Result<(), TraceeError> {
        let own = Own { continued, mask: self.mask, xstate: &self.xstate, plain };
        let found = match &self.site.ground {
            Some(ground) => Shelter::on_stack(ground, self.saved.rsp, &self.site.mem, &own),
            None => Ok(None),
        };
        match found.map_err(self.memory("putting up a shelter", self.saved.rsp))? {
            Some(shelter) => self.enter(shelter),
            None => {
                tracing::debug!(tid = self.thread.0, "no room for a shelter on the stack");
                self.expose()
            }
        }
    }

    /// Gives the thread a shelter for batches, in the scratch area. `bell`: how we hear of a batch's end.
    pub fn shelter_in(
        &mut self,
        scratch: &Scratch,
        continued: &Continued,
        plain: Option<&Plain>,
        bell: Option<Bell>,
    ) -> Result<(), TraceeError> {
        if scratch.shelter_len == 0 {
            return self.expose();
        }
        let own = Own { continued, mask: self.mask, xstate: &self.xstate, plain };
        let ours = Code { call: scratch.code + CALL_AT, restore: scratch.code + RESTORE_AT };
        let own_code = self.site.ground.as_ref().filter(|_| scratch.lent).map(|ground| ground.code);
        let code = own_code.unwrap_or(ours);
        let shelter = Shelter::build(code, scratch.shelter(), &self.site.mem, &own)
            .map_err(self.memory("putting up a shelter", scratch.shelter()))?;
        // single calls need none
        self.bell = bell.filter(|_| !scratch.lent);
        self.enter(shelter)
    }

    /// Registers first: a signal whose handler runs between the two finds its way back into the shelter, while a mask of ours
    /// without the shelter would stay.
    fn enter(&mut self, shelter: Shelter) -> Result<(), TraceeError> {
        self.changed = true;
        let inside = shelter.inside(&self.clean_regs());
        self.shelter = Some(shelter);
        self.suspend_dispatch()?;
        self.thread.set_regs(&inside)?;
        self.thread.set_sigmask(self.closed())
    }

    /// Signals that wait until a thread of a running process is given back.
    fn closed(&self) -> u64 {
        self.bell.map_or(u64::MAX, Bell::mask) & !ward::mistakes()
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.site.patience)
    }

    /// Registers for our code: those of the thread, with no system call to restart.
    fn clean_regs(&self) -> Regs {
        let mut regs = ward::in_64_bit(self.saved);
        regs.orig_rax = u64::MAX;
        regs.eflags &= !NO_FLAGS;
        regs
    }

    /// A fault may be asked for in the middle of a running process's remote calls: one that ends us, or makes us wait.
    fn point(&self, at: Point) {
        if self.shelter.is_some() {
            let _ = crate::fault::point(at);
        }
    }

    /// Sets the registers for one call.
    fn poise(&mut self, nr: i64, args: [u64; 6]) -> Result<(), TraceeError> {
        let mut regs = self.clean_regs();
        regs.rip = self.site.syscall;
        if let Some(shelter) = &self.shelter {
            (regs.rip, regs.rsp) = (shelter.code.call, shelter.at);
        }
        regs.rax = nr as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.thread.set_regs(&regs)
    }

    /// Executes one call and leaves the thread in the signal delivery path.
    pub fn single(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<i64, TraceeError> {
        self.poise(nr, args)?;
        self.point(Point::SourceCallSingle);
        // entry, then exit
        for step in ["entering a remote system call", "leaving a remote system call"] {
            self.thread.resume(Go::ToSyscall, 0)?;
            self.wait_for(step, Go::ToSyscall, |s| s == Stop::Syscall)?;
            self.point(Point::SourceCallSingle);
        }
        let result = self.thread.regs()?.rax as i64;
        self.thread.to_trap(self.deadline())?;
        if (-4095..0).contains(&result) {
            tracing::trace!(name, result, "remote call");
        }
        Ok(result)
    }

    /// Like [`Remote::single`], for a call that must succeed.
    pub fn must(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<u64, TraceeError> {
        let result = self.single(name, nr, args)?;
        if (-4095..0).contains(&result) {
            let detail = args.iter().map(|a| format!("{a:#x}")).collect::<Vec<_>>().join(", ");
            let source = Errno::from_raw(-(result as i32));
            return Err(TraceeError::RemoteCall { tid: self.thread.0, call: name, detail, source });
        }
        Ok(result as u64)
    }

    /// Waits for the stop that `wanted` accepts. Meanwhile new threads are noted, and traps that are not ours
    /// (a pending interrupt) are passed by.
    fn wait_for(
        &mut self,
        step: &'static str,
        how: Go,
        wanted: impl Fn(Stop) -> bool,
    ) -> Result<(), TraceeError> {
        loop {
            let stop = self.thread.wait(step, self.deadline())?;
            if wanted(stop) {
                return Ok(());
            }
            match stop {
                Stop::Clone => {
                    self.children.push(self.thread.event_message()? as i32);
                    self.thread.resume(how, 0)?;
                }
                // an interrupt that was still pending when we borrowed the thread
                Stop::Trap { .. } => self.thread.resume(how, 0)?,
                Stop::Signal(signal) if ward::is_mistake(signal) && self.was_sent()? => {
                    self.put_off(signal)?;
                    self.thread.resume(how, signal)?;
                }
                stop => return Err(TraceeError::UnexpectedStop { tid: self.thread.0, step, stop }),
            }
        }
    }

    fn was_sent(&self) -> Result<bool, TraceeError> {
        Ok(self.survives() && self.is_of_somebody()?)
    }

    /// Whether the signal of this stop was sent by somebody, not forced by the kernel.
    fn is_of_somebody(&self) -> Result<bool, TraceeError> {
        let info = ptrace::siginfo(self.thread.0).map_err(|source| TraceeError::Ptrace {
            tid: self.thread.0,
            step: "reading a signal",
            source,
        })?;
        // si_signo, si_errno, si_code
        Ok(i32::from_le_bytes([info[8], info[9], info[10], info[11]]) <= 0)
    }

    /// Closes the thread for a signal: one that is delivered now is queued again as it was (kernel/signal.c, `ptrace_signal`).
    fn put_off(&self, signal: i32) -> Result<(), TraceeError> {
        self.thread.set_sigmask(self.thread.sigmask()? | 1 << (signal - 1))
    }

    /// Maps a scratch area for batches.
    pub fn map_scratch(
        &mut self,
        place: Place,
        table_len: usize,
        data_len: usize,
    ) -> Result<Scratch, TraceeError> {
        let shelter_len = if self.shelter.is_some() { shelter::size() } else { 0 };
        let len = PAGE + (table_len + data_len + shelter_len) as u64;
        let (at, fixed) = match place {
            Place::Exactly(at) => (at, libc::MAP_FIXED_NOREPLACE),
            Place::Rather(at) => (at, 0),
        };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed) as u64;
        // all of it executable, and most of it then not: with `PR_SET_MDWE` nothing becomes executable that was not
        let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        let args = [at, len, exec, flags, u64::MAX, 0];
        let code = self.must("mmap of the scratch area", libc::SYS_mmap, args)?;
        let write = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let rest = [code + PAGE, len - PAGE, write, 0, 0, 0];
        if let Err(e) = self.must("mprotect of the scratch area", libc::SYS_mprotect, rest) {
            self.must("munmap of the scratch area", libc::SYS_munmap, [code, len, 0, 0, 0, 0])?;
            return Err(e);
        }
        for (at, piece) in scratch::pieces() {
            self.write("writing the loop", code + at, &piece)?;
        }
        let (table, data) = (code + PAGE, code + PAGE + table_len as u64);
        Ok(Scratch { code, table, table_len, data, data_len, shelter_len, lent: false })
    }

    /// Unmaps the scratch area.
    pub fn unmap_scratch(&mut self, scratch: Scratch) -> Result<(), TraceeError> {
        let (start, len) = scratch.range();
        self.must("munmap of the scratch area", libc::SYS_munmap, [start, len, 0, 0, 0, 0]).map(drop)
    }

    fn memory(&self, step: &'static str, addr: u64) -> impl FnOnce(std::io::Error) -> TraceeError + use<> {
        let pid = self.site.pid;
        move |source| TraceeError::Memory { pid, step, addr, source }
    }

    fn write(&self, step: &'static str, addr: u64, bytes: &[u8]) -> Result<(), TraceeError> {
        self.site.mem.write(addr, bytes).map_err(self.memory(step, addr))
    }

    fn read(&self, step: &'static str, addr: u64, bytes: &mut [u8]) -> Result<(), TraceeError> {
        self.site.mem.read(addr, bytes).map_err(self.memory(step, addr))
    }

    /// Makes the thread enter a blocking call and stops it there at once: the kernel then holds the state from
    /// which the call restarts. The result is what an interrupted call leaves (`-ERESTART…`), or its outcome if
    /// it had nothing to wait for.
    pub fn enter_and_stop(&mut self, nr: i64, args: [u64; 6]) -> Result<i64, TraceeError> {
        self.poise(nr, args)?;
        self.thread.resume(Go::ToSyscall, 0)?;
        self.wait_for("entering a blocking call", Go::ToSyscall, |s| s == Stop::Syscall)?;
        // with the interrupt pending, the call sets up its wait and returns at once
        self.thread.to_trap(self.deadline())?;
        Ok(self.thread.regs()?.rax as i64)
    }

    /// The thread's own registers, as they were when it was borrowed.
    pub fn saved(&self) -> &Regs {
        &self.saved
    }

    /// The thread's own signal mask.
    pub fn mask(&self) -> u64 {
        self.mask
    }

    /// The thread's own syscall user dispatch, if it is on; of one that was [approached](Remote::approach).
    pub fn dispatch(&self) -> Option<DispatchConfiguration> {
        self.dispatch
    }

    /// The thread's extended state; of one that was [approached](Remote::approach).
    pub fn xstate(&self) -> &[u8] {
        &self.xstate
    }

    /// Gives the thread back with its own registers and mask.
    pub fn finish(mut self) -> Result<(), TraceeError> {
        self.finished = true;
        self.give_back()
    }

    /// The mask first: in its shelter the thread may take a signal, and outside of it our mask would stay.
    fn give_back(&self) -> Result<(), TraceeError> {
        if !self.changed {
            return Ok(());
        }
        self.thread.set_sigmask(self.mask)?;
        self.thread.set_regs(&self.saved)?;
        if self.dispatch.is_some() {
            ward::set_dispatch(self.thread, self.dispatch)?;
        }
        self.shelter.as_ref().map_or(Ok(()), |shelter| {
            shelter.clear(&self.site.mem).map_err(|(at, e)| self.memory("clearing a shelter", at)(e))
        })
    }

    /// After a failure the thread may stand at the entry of a call. With its own registers there the kernel would execute what
    /// `orig_rax` names: the call that the thread had come from, once more. A child fresh from `fork` would fork again, and
    /// take itself for its parent.
    fn retreat(&self) -> Result<(), TraceeError> {
        if !self.changed {
            return Ok(());
        }
        let mut regs = self.thread.regs()?;
        regs.orig_rax = u64::MAX;
        self.thread.set_regs(&regs)?;
        self.thread.to_trap(self.deadline()).map(drop)
    }

    /// Gives the thread back as our code left it: its registers and mask will be set by the caller.
    pub fn abandon(mut self) -> Vec<i32> {
        self.finished = true;
        std::mem::take(&mut self.children)
    }
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let retreated = self.retreat();
        if let Err(e) = self.give_back().and(retreated)
            && !e.died()
        {
            tracing::error!(tid = self.thread.0, error = %e, "could not put a thread's registers back");
        }
    }
}

#[cfg(test)]
#[path = "remote_tests.rs"]
mod tests;
