//! What becomes of the system call that our stop interrupted. The program must never see an `EINTR` that no
//! handler of its own explains, nor wait longer than it asked.
//!
//! | the kernel left | meaning | source goes on | target |
//! |---|---|---|---|
//! | `-ERESTARTSYS`, `-ERESTARTNOINTR`, `-ERESTARTNOHAND` | issue again with the same arguments | by itself | by itself, from the registers |
//! | `-ERESTART_RESTARTBLOCK` | the kernel holds the absolute end of the wait | by itself | the wait is armed anew (`state::waits`) with the time left |
//! | `-EINTR` from a call that signal(7) lists as interrupted by a mere stop | `epoll_wait` and others | issued again by us | issued again by us |
//!
//! `select` and `ppoll` write the time left into user memory, so they are right when issued again. A call on a socket with a time
//! limit (`SO_RCVTIMEO`, `SO_SNDTIMEO`) has no argument that says less: issued again it waits for all of it, late and never early.
//! (The option itself could say what is left while the call begins; a worker that is killed then would leave it so.)
//!
//! How long a thread has been waiting is not told by the kernel directly. `/proc/TID/sched` shows when the
//! scheduler last accounted it (`se.exec_start`) and how often it went to sleep (`nr_voluntary_switches`): read
//! before the stop and after it, with one more sleep in between (the stop itself), it was one and the same
//! wait, and it began when the first sample says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use nix::time::ClockId;

use crate::sys::process::on_each_cpu;
use crate::sys::ptrace::Regs;
use crate::sys::stat::Stat;
use crate::sys::time::now_ns;

const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const EINTR: i64 = -(libc::EINTR as i64);

/// Calls that return `EINTR` when the thread is merely stopped and continued (signal(7)), and that can be
/// issued again without harm.
const EINTR_BY_STOP: &[i64] = &[
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_io_getevents,
    333, // io_pgetevents
    // sockets with SO_RCVTIMEO or SO_SNDTIMEO (`sock_intr_errno`), which begin again with all of their limit
    libc::SYS_connect,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_preadv2,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_sendmmsg,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwritev2,
    libc::SYS_sendfile,
    libc::SYS_splice,
];

/// A system call in which a thread was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// It was not in a call, or the call is done.
    No,
    /// The kernel issues it again from the registers.
    ByKernel(i64),
    /// It continues from kernel state that does not travel.
    Block(i64),
    /// It would return `EINTR` to the program.
    Eintr(i64),
}

impl Interrupted {
    /// Reads it off the registers of a stop in the signal delivery path.
    pub fn of(regs: &Regs) -> Self {
        let nr = regs.orig_rax as i64;
        if nr < 0 {
            return Interrupted::No;
        }
        match regs.rax as i64 {
            ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Interrupted::ByKernel(nr),
            ERESTART_RESTARTBLOCK => Interrupted::Block(nr),
            EINTR if EINTR_BY_STOP.contains(&nr) => Interrupted::Eintr(nr),
            _ => Interrupted::No,
        }
    }

    /// Whether the age of the wait matters.
    pub fn timed(self, regs: &Regs) -> bool {
        match self {
            Interrupted::Block(_) => true,
            Interrupted::Eintr(nr) => (is_epoll(nr) && (regs.r10 as i32) > 0) || timespec_arg(regs, nr) != 0,
            _ => false,
        }
    }
}

fn is_epoll(nr: i64) -> bool {
    nr == libc::SYS_epoll_wait || nr == libc::SYS_epoll_pwait
}

/// The argument of a call that points to a relative timeout (`struct timespec`).
fn timespec_arg(regs: &Regs, nr: i64) -> u64 {
    match nr {
        libc::SYS_rt_sigtimedwait => regs.rdx,
        libc::SYS_semtimedop | libc::SYS_epoll_pwait2 => regs.r10,
        libc::SYS_io_getevents => regs.r8,
        _ => 0,
    }
}

/// Registers with which a thread goes on by itself, when nothing of the kernel's own memory of an interrupted call is left:
/// it issues the call again.
#[derive(Clone, Copy, Debug)]
pub struct Continued {
    /// The registers.
    pub regs: Regs,
    /// The time left of the wait, and which argument is to point to it.
    pub timespec: Option<(usize, [u8; 16])>,
}

impl Continued {
    /// From registers as they stand in a stop. `caught`: whether a signal is queued whose handler will run first; the calls
    /// that always end with `EINTR` then do.
    pub fn of(regs: &Regs, caught: impl FnOnce() -> bool) -> Self {
        let mut regs = *regs;
        let restarts = regs.orig_rax as i64 >= 0
            && matches!(
                regs.rax as i64,
                ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK
            );
        if restarts && regs.rax as i64 == ERESTARTNOHAND && caught() {
            regs.rax = EINTR as u64;
        } else if restarts {
            regs.rax = regs.orig_rax;
            regs.rip -= 2;
        }
        regs.orig_rax = u64::MAX;
        Continued { regs, timespec: None }
    }

    /// From registers that issue a call with these arguments once more.
    pub fn anew(regs: &Regs, nr: i64, args: [u64; 6], timespec: Option<(usize, [u8; 16])>) -> Self {
        let mut regs = *regs;
        regs.rax = nr as u64;
        regs.rip -= 2;
        regs.orig_rax = u64::MAX;
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        Continued { regs, timespec }
    }

    /// The registers, when the timespec lies at `place`.
    pub fn regs_at(&self, place: u64) -> Regs {
        let mut regs = self.regs;
        if let Some((arg, _)) = self.timespec {
            let r = &mut regs;
            *[&mut r.rdi, &mut r.rsi, &mut r.rdx, &mut r.r10, &mut r.r8, &mut r.r9][arg] = place;
        }
        regs
    }
}

/// How a call is issued again.
#[derive(Clone, Copy, Debug)]
pub struct Again {
    /// The thread's registers.
    pub regs: Regs,
    /// Bytes to be written first, and where: a shorter timeout.
    pub patch: Option<(u64, [u8; 16])>,
}

/// Issues a call again that returned `EINTR` because of our stop, with the time left. A timeout in a register (the fourth
/// argument of `epoll_wait`) is replaced there; one in memory may be a constant of the program, so the new one
/// is placed below the stack's red zone, where the ABI lets nobody keep anything, and the kernel reads it at
/// once. Only registers that no C function preserves differ. `read`: 16 bytes of the thread's memory.
pub fn reissue(regs: &Regs, age: Duration, read: impl Fn(u64) -> Option<[u8; 16]>) -> Again {
    const RED_ZONE: u64 = 128;
    let nr = regs.orig_rax as i64;
    let mut again = Again { regs: *regs, patch: None };
    again.regs.rax = regs.orig_rax;
    again.regs.rip -= 2;
    let timeout = regs.r10 as i32;
    if is_epoll(nr) && timeout > 0 {
        let passed = i32::try_from(age.as_millis()).unwrap_or(i32::MAX);
        again.regs.r10 = timeout.saturating_sub(passed).max(0) as u64;
    }
    let pointer = timespec_arg(regs, nr);
    let place = (regs.rsp - RED_ZONE - 64) & !15;
    if pointer != 0
        && let (Some(timespec), Some(_)) = (read(pointer), read(place))
    {
        let left = duration(timespec).saturating_sub(age);
        again.patch = Some((place, timespec_bytes(left)));
        match nr {
            libc::SYS_rt_sigtimedwait => again.regs.rdx = place,
            libc::SYS_io_getevents => again.regs.r8 = place,
            _ => again.regs.r10 = place,
        }
    }
    again
}

/// A `struct timespec` as a duration.
pub fn duration(timespec: [u8; 16]) -> Duration {
    let word = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| timespec[at + i]));
    Duration::from_secs(word(0)).saturating_add(Duration::from_nanos(word(8)))
}

/// A duration as a `struct timespec`.
pub fn timespec_bytes(span: Duration) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&span.as_secs().to_le_bytes());
    bytes[8..].copy_from_slice(&u64::from(span.subsec_nanos()).to_le_bytes());
    bytes
}

/// Registers with which the kernel itself issues the call again (`-ERESTARTNOHAND`: `EINTR` only if a handler
/// runs first). For waits whose end is absolute or never.
pub fn restart_by_kernel(regs: &Regs, nr: i64) -> Regs {
    let mut again = *regs;
    again.orig_rax = nr as u64;
    again.rax = ERESTARTNOHAND as u64;
    again
}

/// Registers as a stop in that call leaves them: it continues from what the kernel holds.
pub fn restart_from_block(regs: &Regs, nr: i64) -> Regs {
    let mut again = *regs;
    again.orig_rax = nr as u64;
    again.rax = ERESTART_RESTARTBLOCK as u64;
    again
}

/// When a thread last went to sleep, and how often it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SleepSample {
    /// On the clock of the CPU it ran on.
    exec_start_ns: i64,
    sleeps: u64,
    cpu: usize,
}

impl SleepSample {
    /// Reads `/proc/TID/sched` and `stat`; `None` where the kernel does not show them. In this order: a thread that
    /// moves to another CPU in between has slept once more by then, which [`SleepSample::wait_began`] notices.
    pub fn of(tid: i32) -> Option<Self> {
        let sched = crate::sys::lossy(format!("/proc/{tid}/sched")).ok()?;
        let cpu = Stat::of(tid)?.cpu()?;
        Self::parse(&sched, cpu)
    }

    fn parse(text: &str, cpu: usize) -> Option<Self> {
        let field = |name: &str| {
            text.lines().find(|l| l.starts_with(name)).and_then(|l| l.rsplit_once(':')).map(|(_, v)| v.trim())
        };
        let (ms, fraction) = field("se.exec_start")?.split_once('.')?;
        let exec_start_ns = ms.parse::<i64>().ok()? * 1_000_000 + fraction.parse::<i64>().ok()?;
        // forgotten when the scheduler took the sleeping thread to another CPU (`migrate_task_rq_fair`)
        if exec_start_ns == 0 {
            return None;
        }
        Some(SleepSample { exec_start_ns, sleeps: field("nr_voluntary_switches")?.parse().ok()?, cpu })
    }

    /// The CPU on which it last ran.
    pub fn cpu(&self) -> usize {
        self.cpu
    }

    /// When the wait began in which the thread was stopped, on `CLOCK_MONOTONIC`, given the sample before the stop
    /// and the one after it. `None`: it is not the same wait, so it began after the first sample.
    pub fn wait_began(before: Self, after: Self, clocks: &CpuClocks) -> Option<i64> {
        let ahead = clocks.ahead(before.cpu)?;
        (after.sleeps == before.sleeps + 1).then_some(before.exec_start_ns - ahead)
    }
}

/// How far the scheduler's clock of each CPU is ahead of `CLOCK_MONOTONIC`. They differ between CPUs: time that
/// interrupts and the hypervisor took is left out of them (`rq_clock_task`).
#[derive(Clone, Debug, Default)]
pub struct CpuClocks {
    ahead_ns: BTreeMap<usize, i64>,
}

impl CpuClocks {
    /// Measures it for these CPUs, by running on each for a moment.
    pub fn measure(cpus: impl IntoIterator<Item = usize>) -> Self {
        let mut clocks = CpuClocks::default();
        let tid = nix::unistd::gettid().as_raw();
        let cpus: BTreeSet<usize> = cpus.into_iter().collect();
        on_each_cpu(cpus, |cpu| {
            // going to sleep there and waking up brings our own account up to date
            std::thread::sleep(Duration::from_micros(1));
            if let Some(own) = SleepSample::of(tid) {
                // read afterwards: whatever comes between makes waits look younger, never older
                let now = now_ns(ClockId::CLOCK_MONOTONIC);
                clocks.ahead_ns.insert(cpu, own.exec_start_ns - now);
            }
        });
        clocks
    }

    fn ahead(&self, cpu: usize) -> Option<i64> {
        self.ahead_ns.get(&cpu).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_wait_is_known_only_if_it_was_one_wait() {
        let sample = |text: &str| SleepSample::parse(text, 1).unwrap();
        let before = sample("se.exec_start   :   1000.500000\nnr_voluntary_switches  :   7\n");
        let same = sample("se.exec_start   :   1250.750000\nnr_voluntary_switches  :   8\n");
        let other = sample("se.exec_start   :   1250.750000\nnr_voluntary_switches  :   9\n");
        let clocks = CpuClocks { ahead_ns: [(1, 500_000)].into() };
        assert_eq!(SleepSample::wait_began(before, same, &clocks), Some(1_000_000_000));
        assert_eq!(SleepSample::wait_began(before, other, &clocks), None);
        assert_eq!(SleepSample::wait_began(before, same, &CpuClocks::default()), None);
    }

    #[test]
    fn a_timeout_in_memory_is_shortened_beside_it() {
        let words: Vec<u64> = vec![0; 27];
        let mut regs = crate::sys::regs::from_words(&words).unwrap();
        (regs.orig_rax, regs.rdx, regs.rsp, regs.rip) =
            (libc::SYS_rt_sigtimedwait as u64, 0x5000, 0x9000, 0x402);
        let again = reissue(&regs, Duration::from_millis(300), |at| {
            (at == 0x5000 || at < 0x9000 - 128).then(|| timespec_bytes(Duration::from_secs(1)))
        });
        let (place, bytes) = again.patch.unwrap();
        assert_eq!((again.regs.rdx, again.regs.rip), (place, 0x400));
        assert_eq!(duration(bytes), Duration::from_millis(700));
        assert!(place + 16 <= 0x9000 - 128);
    }

    #[test]
    fn a_thread_that_goes_on_by_itself_issues_its_call_again() {
        let mut regs = crate::sys::regs::from_words(&[0; 27]).unwrap();
        (regs.orig_rax, regs.rax, regs.rip) = (libc::SYS_pause as u64, ERESTARTNOHAND as u64, 0x402);
        let again = Continued::of(&regs, || false).regs;
        assert_eq!((again.rax, again.rip, again.orig_rax), (libc::SYS_pause as u64, 0x400, u64::MAX));
        let handled = Continued::of(&regs, || true).regs;
        assert_eq!((handled.rax, handled.rip), (EINTR as u64, 0x402));
        let sleep = Continued::anew(&regs, libc::SYS_nanosleep, [1, 2, 0, 0, 0, 0], Some((0, [0; 16])));
        let asleep = sleep.regs_at(0x7000);
        assert_eq!((asleep.rax, asleep.rdi, asleep.rsi), (libc::SYS_nanosleep as u64, 0x7000, 2));
        (regs.orig_rax, regs.rax) = (u64::MAX, ERESTARTSYS as u64);
        assert_eq!(Continued::of(&regs, || false).regs.rip, 0x402, "it was in no call");
    }
}
