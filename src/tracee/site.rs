//! What remote calls need to know of a process, and the two places in its code in which a thread is not to be borrowed: a
//! clock's code in the vDSO, and a restartable sequence.

use super::error::TraceeError;
use super::scratch::{PAGE, Place};
use super::shelter::{Ground, area};
use super::stop::Stop;
use super::thread::{Go, Thread};
use crate::sys::process::ProcMem;
use crate::sys::ptrace::Regs;
use crate::sys::time::Deadline;
use crate::sys::voice;

pub(super) const SIGTRAP_BIT: u64 = 1 << (libc::SIGTRAP - 1);

/// What remote calls need to know of a process.
#[derive(Debug)]
pub struct Site {
    /// The process, as the tracer sees it.
    pub pid: i32,
    /// Address of a `syscall` instruction: of the vDSO, with which it moves, or another.
    pub syscall: u64,
    /// The code of the vDSO; empty where there is none.
    pub vdso: std::ops::Range<u64>,
    /// `/proc/PID/mem`.
    pub mem: ProcMem,
    /// `SIGTRAP` is ignored there.
    pub sigtrap_ignored: bool,
    /// Time limit of each wait.
    pub patience: std::time::Duration,
    /// For shelters of borrowed threads.
    pub(super) ground: Option<Ground>,
    /// See [`Site::lonely`].
    lonely: u64,
}

impl Site {
    /// Of a process that must run on if we are killed.
    pub fn of_running(pid: i32) -> Result<Self, TraceeError> {
        let (mem, maps) = (memory(pid)?, maps(pid)?);
        let ground = Ground::of(pid, &maps, &mem);
        if ground.is_none() {
            tracing::info!(pid, "a thread that executes our calls would be lost if we were killed just then");
        }
        let lonely = middle_of_the_largest_gap(&maps);
        Ok(Site { lonely, ..Self::with(pid, mem, &maps, ground)? })
    }

    /// Of a process that dies with us. Looks for the vDSO and opens its memory.
    pub fn of(pid: i32) -> Result<Self, TraceeError> {
        Self::with(pid, memory(pid)?, &maps(pid)?, None)
    }

    /// A process that has unmapped its vDSO executes system calls by an instruction of its libc.
    fn with(pid: i32, mem: ProcMem, maps: &str, ground: Option<Ground>) -> Result<Self, TraceeError> {
        let vdso = maps
            .lines()
            .find(|l| l.ends_with("[vdso]"))
            .and_then(|l| l.split_once(' ')?.0.split_once('-'))
            .and_then(|(a, b)| Some((u64::from_str_radix(a, 16).ok()?, u64::from_str_radix(b, 16).ok()?)));
        let (start, end) = vdso.unwrap_or((0, 0));
        let mut image = vec![0; (end - start) as usize];
        mem.read(start, &mut image).map_err(|source| TraceeError::Memory {
            pid,
            step: "reading the vDSO",
            addr: start,
            source,
        })?;
        let at = image.windows(2).position(|w| w == [0x0f, 0x05]).map(|at| start + at as u64);
        let syscall = at
            .or(ground.as_ref().map(|ground| ground.code.call))
            .ok_or(TraceeError::NoSyscallInstruction { pid })?;
        let status = crate::sys::lossy(format!("/proc/{pid}/status")).map_err(proc_error(pid, "status"))?;
        let ignored = status
            .lines()
            .find_map(|l| l.strip_prefix("SigIgn:"))
            .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
            .unwrap_or(0);
        Ok(Site {
            pid,
            syscall,
            vdso: start..end,
            mem,
            sigtrap_ignored: ignored & SIGTRAP_BIT != 0,
            patience: std::time::Duration::from_secs(5),
            ground,
            lonely: 0,
        })
    }

    /// Whether the process has itself what a [lent](super::lent) area needs.
    pub fn can_lend(&self) -> bool {
        self.ground.is_some()
    }

    /// A place for what is mapped while other threads run, far from all that is mapped. Where the kernel likes may be a hole that
    /// one of them has just made, and is about to fill again with `MAP_FIXED`: under the feet of the thread that executes our calls.
    pub fn lonely(&self) -> Place {
        Place::Rather(self.lonely)
    }
}

fn proc_error(pid: i32, file: &str) -> impl FnOnce(std::io::Error) -> TraceeError {
    let file = file.to_owned();
    move |source| TraceeError::Proc { pid, file, source }
}

fn memory(pid: i32) -> Result<ProcMem, TraceeError> {
    ProcMem::of_process(pid).map_err(proc_error(pid, "mem"))
}

fn maps(pid: i32) -> Result<String, TraceeError> {
    voice::by(pid, |voice| crate::sys::lossy(format!("/proc/{voice}/maps"))).map_err(proc_error(pid, "maps"))
}

/// Of those below 2^47, where the kernel maps unless asked otherwise (Documentation/arch/x86/x86_64/mm.rst). Page-aligned.
fn middle_of_the_largest_gap(maps: &str) -> u64 {
    const END: u64 = 1 << 47;
    let areas = maps.lines().filter_map(area).map(|area| area.range).filter(|range| range.start < END);
    let mut from = 0;
    let gaps = areas
        .chain(std::iter::once(END..END))
        .map(|range| std::mem::replace(&mut from, range.end)..range.start);
    let largest = gaps.max_by_key(|gap| gap.end.saturating_sub(gap.start)).unwrap_or(0..0);
    (largest.start + (largest.end - largest.start) / 2) / PAGE * PAGE
}

/// Lets a thread that is reading a clock in the vDSO finish that, instruction by instruction. What it has read so
/// far belongs to this host: base and counter of one clock must not be mixed with those of another, and the
/// page of a time namespace, which the code may be about to read, need not exist at the target (`SIGBUS`).
///
/// The last resort, after [`super::freeze::Armed::not_within`]: a step that nobody waits for any more, because we were killed,
/// ends the process.
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
pub(super) fn leave_critical_section(thread: Thread, site: &Site, mut regs: Regs) -> Regs {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_largest_gap() {
        assert_eq!(middle_of_the_largest_gap(""), 1 << 46);
        let maps = "100000-102000 r-xp 00000000 00:00 0 \n\
            700000000000-7ffffffff000 rw-p 00000000 00:00 0    [stack]\n\
            ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0    [vsyscall]\n";
        assert_eq!(middle_of_the_largest_gap(maps), (0x102000 + 0x7000_0000_0000) / 2 / PAGE * PAGE);
        let own = std::fs::read_to_string("/proc/self/maps").unwrap();
        let place = middle_of_the_largest_gap(&own);
        assert!(own.lines().filter_map(area).all(|a| !(a.range.start..=a.range.end).contains(&place)));
    }
}
