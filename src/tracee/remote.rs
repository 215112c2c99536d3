//! Remote system calls: a stopped thread is made to execute them, and afterwards is as it was.
//!
//! Two ways. A *single* call jumps to the `syscall` instruction of the vDSO and is caught at its entry and
//! its exit (`PTRACE_SYSCALL`): no page of ours is needed. A *batch* runs a loop of ten instructions on a
//! scratch page over a table of calls and ends in `int3`: one round trip, however many calls.
//!
//! While it runs, every signal but `SIGTRAP` is blocked: one that arrives stays queued. `SIGTRAP` must not be:
//! `force_sig` on a blocked or ignored `SIGTRAP` resets its action (kernel/signal.c,
//! `force_sig_info_to_task`). A process that ignores `SIGTRAP` therefore gets its batch as single calls.
//!
//! A thread must be handed back in a stop of the signal delivery path ([`Thread::to_trap`]): only there does
//! the kernel restart the system call that our stop interrupted.

use nix::errno::Errno;

use super::batch::{Batch, ENTRY, Outcome};
use super::error::TraceeError;
use super::thread::{Go, Stop, Thread};
use crate::sys::process::ProcMem;
use crate::sys::ptrace::Regs;
use crate::sys::time::Deadline;

/// `rbx`: table, `rbp`: number of calls.
const LOOP: [u8; 43] = [
    0x48, 0x8b, 0x03, // mov rax,[rbx]
    0x48, 0x8b, 0x7b, 0x08, // mov rdi,[rbx+8]
    0x48, 0x8b, 0x73, 0x10, // mov rsi,[rbx+16]
    0x48, 0x8b, 0x53, 0x18, // mov rdx,[rbx+24]
    0x4c, 0x8b, 0x53, 0x20, // mov r10,[rbx+32]
    0x4c, 0x8b, 0x43, 0x28, // mov r8,[rbx+40]
    0x4c, 0x8b, 0x4b, 0x30, // mov r9,[rbx+48]
    0x0f, 0x05, // syscall
    0x48, 0x89, 0x43, 0x38, // mov [rbx+56],rax
    0x48, 0x83, 0xc3, 0x40, // add rbx,64
    0x48, 0xff, 0xcd, // dec rbp
    0x75, 0xd6, // jnz back to the start
    0xcc, // int3
];

const SIGTRAP_BIT: u64 = 1 << (libc::SIGTRAP - 1);
const PAGE: u64 = 4096;

/// The scratch area inside the tracee.
#[derive(Clone, Copy, Debug)]
pub struct Scratch {
    /// Address of the code page.
    pub code: u64,
    /// Address of the table of calls.
    pub table: u64,
    /// Its length in bytes.
    pub table_len: usize,
    /// Address of the data.
    pub data: u64,
    /// Its length in bytes.
    pub data_len: usize,
}

impl Scratch {
    /// First byte and length of the whole area.
    pub fn range(&self) -> (u64, u64) {
        (self.code, self.data + self.data_len as u64 - self.code)
    }
}

/// What remote calls need to know of a process.
#[derive(Debug)]
pub struct Site {
    /// The process, as the tracer sees it.
    pub pid: i32,
    /// Address of a `syscall` instruction; moves with the vDSO.
    pub syscall: u64,
    /// The code of the vDSO.
    vdso: std::ops::Range<u64>,
    /// `/proc/PID/mem`.
    pub mem: ProcMem,
    /// `SIGTRAP` is ignored there.
    pub sigtrap_ignored: bool,
    /// Time limit of each wait.
    pub patience: std::time::Duration,
}

impl Site {
    /// Looks for the vDSO and opens the memory of a process.
    pub fn of(pid: i32) -> Result<Self, TraceeError> {
        let proc_error = |file: &str| {
            let file = file.to_owned();
            move |source| TraceeError::Proc { pid, file, source }
        };
        let mem = ProcMem::open(pid).map_err(proc_error("mem"))?;
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).map_err(proc_error("maps"))?;
        let (start, end) = maps
            .lines()
            .find(|l| l.ends_with("[vdso]"))
            .and_then(|l| l.split_once(' ')?.0.split_once('-'))
            .and_then(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)))
            .ok_or(TraceeError::NoSyscallInstruction { pid })?;
        let mut image = vec![0; (end - start) as usize];
        mem.read(start, &mut image).map_err(|source| TraceeError::Memory {
            pid,
            step: "reading the vDSO",
            addr: start,
            source,
        })?;
        let at = image
            .windows(2)
            .position(|w| w == [0x0f, 0x05])
            .ok_or(TraceeError::NoSyscallInstruction { pid })?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(proc_error("status"))?;
        let ignored = status
            .lines()
            .find_map(|l| l.strip_prefix("SigIgn:"))
            .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
            .unwrap_or(0);
        Ok(Site {
            pid,
            syscall: start + at as u64,
            vdso: start..end,
            mem,
            sigtrap_ignored: ignored & SIGTRAP_BIT != 0,
            patience: std::time::Duration::from_secs(5),
        })
    }
}

/// A stopped thread on loan: executes our calls and is given back by [`Remote::finish`].
#[derive(Debug)]
pub struct Remote<'a> {
    thread: Thread,
    site: &'a Site,
    saved: Regs,
    mask: u64,
    finished: bool,
    /// Threads that the calls made (`clone3`), in order.
    pub children: Vec<i32>,
}

impl<'a> Remote<'a> {
    /// Borrows a thread that is stopped in the signal delivery path.
    pub fn borrow(thread: Thread, site: &'a Site) -> Result<Self, TraceeError> {
        let saved = leave_critical_section(thread, site, thread.regs()?);
        let mask = thread.sigmask()?;
        thread.set_sigmask(!SIGTRAP_BIT)?;
        Ok(Remote { thread, site, saved, mask, finished: false, children: Vec::new() })
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.site.patience)
    }

    /// Registers for our code: those of the thread, with no system call to restart.
    fn clean_regs(&self) -> Regs {
        let mut regs = self.saved;
        regs.orig_rax = u64::MAX;
        // a clear direction flag and no single-stepping
        regs.eflags &= !0x500;
        regs
    }

    /// Executes one call through the vDSO and leaves the thread in the signal delivery path.
    pub fn single(&mut self, name: &'static str, nr: i64, args: [u64; 6]) -> Result<i64, TraceeError> {
        let mut regs = self.clean_regs();
        regs.rip = self.site.syscall;
        regs.rax = nr as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.thread.set_regs(&regs)?;
        // entry, then exit
        for step in ["entering a remote system call", "leaving a remote system call"] {
            self.thread.resume(Go::ToSyscall, 0)?;
            self.wait_for(step, Go::ToSyscall, |s| s == Stop::Syscall)?;
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
                other => {
                    return Err(TraceeError::UnexpectedStop {
                        tid: self.thread.0,
                        step,
                        stop: format!("{other:?}"),
                    });
                }
            }
        }
    }

    /// Maps a scratch area for batches; at `hint` exactly if given, else where the kernel likes.
    pub fn map_scratch(
        &mut self,
        hint: Option<u64>,
        table_len: usize,
        data_len: usize,
    ) -> Result<Scratch, TraceeError> {
        let len = PAGE + table_len as u64 + data_len as u64;
        let fixed = if hint.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
        let flags = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed) as u64;
        let prot = (libc::PROT_READ | libc::PROT_WRITE) as u64;
        let args = [hint.unwrap_or(0), len, prot, flags, u64::MAX, 0];
        let code = self.must("mmap of the scratch area", libc::SYS_mmap, args)?;
        let exec = (libc::PROT_READ | libc::PROT_EXEC) as u64;
        if let Err(e) =
            self.must("mprotect of the code page", libc::SYS_mprotect, [code, PAGE, exec, 0, 0, 0])
        {
            self.must("munmap of the scratch area", libc::SYS_munmap, [code, len, 0, 0, 0, 0])?;
            return Err(e);
        }
        self.write("writing the loop", code, &LOOP)?;
        Ok(Scratch { code, table: code + PAGE, table_len, data: code + PAGE + table_len as u64, data_len })
    }

    /// Unmaps the scratch area.
    pub fn unmap_scratch(&mut self, scratch: Scratch) -> Result<(), TraceeError> {
        let (start, len) = scratch.range();
        self.must("munmap of the scratch area", libc::SYS_munmap, [start, len, 0, 0, 0, 0]).map(drop)
    }

    fn write(&self, step: &'static str, addr: u64, bytes: &[u8]) -> Result<(), TraceeError> {
        self.site.mem.write(addr, bytes).map_err(|source| TraceeError::Memory {
            pid: self.site.pid,
            step,
            addr,
            source,
        })
    }

    fn read(&self, step: &'static str, addr: u64, bytes: &mut [u8]) -> Result<(), TraceeError> {
        self.site.mem.read(addr, bytes).map_err(|source| TraceeError::Memory {
            pid: self.site.pid,
            step,
            addr,
            source,
        })
    }

    /// Executes a batch: one round trip.
    pub fn run(&mut self, scratch: &Scratch, batch: &Batch) -> Result<Outcome, TraceeError> {
        batch.check_fits(scratch)?;
        if !batch.data().is_empty() {
            self.write("writing call data", scratch.data, batch.data())?;
        }
        let results = if batch.is_empty() {
            Vec::new()
        } else if self.site.sigtrap_ignored {
            let calls: Vec<_> = batch.calls().collect();
            calls
                .into_iter()
                .map(|(nr, args)| self.single("a batched call", nr, args))
                .collect::<Result<_, _>>()?
        } else {
            self.run_loop(scratch, batch)?
        };
        let mut data = vec![0; batch.data().len()];
        if !data.is_empty() {
            self.read("reading call data", scratch.data, &mut data)?;
        }
        batch.outcome(self.thread.0, results, data)
    }

    fn run_loop(&mut self, scratch: &Scratch, batch: &Batch) -> Result<Vec<i64>, TraceeError> {
        self.start(scratch, batch)?;
        self.wait_for("executing a batch of system calls", Go::Free, |s| s == Stop::Signal(libc::SIGTRAP))?;
        let mut table = vec![0; batch.len() * ENTRY];
        self.read("reading results", scratch.table, &mut table)?;
        Ok(table
            .chunks_exact(ENTRY)
            .map(|e| i64::from_le_bytes([e[56], e[57], e[58], e[59], e[60], e[61], e[62], e[63]]))
            .collect())
    }

    fn start(&mut self, scratch: &Scratch, batch: &Batch) -> Result<(), TraceeError> {
        self.write("writing the table of calls", scratch.table, &batch.table())?;
        let mut regs = self.clean_regs();
        regs.rip = scratch.code;
        regs.rbx = scratch.table;
        regs.rbp = batch.len() as u64;
        self.thread.set_regs(&regs)?;
        self.thread.resume(Go::Free, 0)
    }

    /// Makes the thread enter a blocking call and stops it there at once: the kernel then holds the state from
    /// which the call restarts. The result is what an interrupted call leaves (`-ERESTART…`), or its outcome if
    /// it had nothing to wait for.
    pub fn enter_and_stop(&mut self, nr: i64, args: [u64; 6]) -> Result<i64, TraceeError> {
        let mut regs = self.clean_regs();
        regs.rip = self.site.syscall;
        regs.rax = nr as u64;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        self.thread.set_regs(&regs)?;
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

    /// Gives the thread back with its own registers and mask.
    pub fn finish(mut self) -> Result<(), TraceeError> {
        self.finished = true;
        self.thread.set_regs(&self.saved)?;
        self.thread.set_sigmask(self.mask)
    }

    /// Gives the thread back as our code left it: its registers and mask will be set by the caller.
    pub fn abandon(mut self) -> Vec<i32> {
        self.finished = true;
        std::mem::take(&mut self.children)
    }
}

/// Lets a thread that is reading a clock in the vDSO finish that, instruction by instruction. What it has read so
/// far belongs to this host: base and counter of one clock must not be mixed with those of another, and the
/// page of a time namespace, which the code may be about to read, need not exist at the target (`SIGBUS`).
pub fn leave_vdso(thread: Thread, site: &Site) -> Result<(), TraceeError> {
    const STEPS: usize = 4000;
    for _ in 0..STEPS {
        if site.sigtrap_ignored || !site.vdso.contains(&thread.regs()?.rip) {
            return Ok(());
        }
        let mask = thread.sigmask()?;
        thread.set_sigmask(!SIGTRAP_BIT)?;
        thread.resume(Go::Step, 0)?;
        let stop = thread.wait("leaving the vDSO", Deadline::after(site.patience))?;
        thread.set_sigmask(mask)?;
        if stop != Stop::Signal(libc::SIGTRAP) {
            tracing::debug!(tid = thread.0, ?stop, "while leaving the vDSO");
        }
    }
    Ok(())
}

/// A thread inside an rseq critical section continues at its abort handler: executing our calls makes the
/// kernel forget the section (`rseq_ip_fixup`: the instruction pointer lies outside of it), and what the section
/// had computed may be about another CPU.
///
/// `struct rseq`: …, `rseq_cs` at 8. `struct rseq_cs`: version, flags, start_ip at 8, post_commit_offset at 16,
/// abort_ip at 24.
fn leave_critical_section(thread: Thread, site: &Site, mut regs: Regs) -> Regs {
    let Ok(rseq) = crate::sys::ptrace::rseq(thread.0) else { return regs };
    let read = |addr: u64| {
        let mut bytes = [0; 8];
        site.mem.read(addr, &mut bytes).ok().map(|()| u64::from_le_bytes(bytes))
    };
    if rseq.address == 0 {
        return regs;
    }
    let Some(section) = read(rseq.address + 8).filter(|s| *s != 0) else { return regs };
    if let (Some(start), Some(length), Some(abort)) =
        (read(section + 8), read(section + 16), read(section + 24))
        && regs.rip.wrapping_sub(start) < length
    {
        regs.rip = abort;
    }
    regs
}

impl Drop for Remote<'_> {
    fn drop(&mut self) {
        if !self.finished {
            let back = self.thread.set_regs(&self.saved).and_then(|()| self.thread.set_sigmask(self.mask));
            if let Err(e) = back
                && !e.died()
            {
                tracing::error!(tid = self.thread.0, error = %e, "could not put a thread's registers back");
            }
        }
    }
}
