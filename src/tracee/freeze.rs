//! Stopping every thread of a process, and letting them go as if nothing had been.
//!
//! Interleavings, and what is done about each:
//! 1. *A thread appears after `/proc/PID/task` was listed, its parent not yet seized*: the list is read again
//!    until it has nothing new.
//! 2. *…its parent already seized*: the kernel attaches it (`PTRACE_O_TRACECLONE`); the parent reports `Clone`,
//!    the child its own first stop. Seizing it again gives `EPERM` with us as its tracer: fine.
//! 3. *A thread exits before we seize it, or while we wait for it*: it is left out. The process has ended if none is left.
//!    The leader stays as a zombie until the others have ended: nothing tells its tracer before, and nothing detaches from it
//!    but the end of the thread that traces. So it is waited for last, and looked at again and again; on its way out it may still
//!    write to its memory, so it must have got there (`exit_mm` comes before the zombie).
//! 4. *A signal arrives between seize and stop*: the thread stops to have it delivered. Any stop clears the
//!    pending interrupt (`ptrace_stop`), so we interrupt again and let the signal in: its handler's frame is
//!    built, then the thread stops before the handler's first instruction.
//! 5. *execve*: all other threads vanish and the leader changes its program: the freeze fails, naming it.
//! 6. *Job control stops the process*: the freeze fails; detached threads stay stopped, as they would have.
//! 7. *A thread is in uninterruptible sleep*: the deadline passes, everything is let go.

use std::ops::Range;
use std::time::Duration;

use nix::time::ClockId;

use super::error::TraceeError;
use super::restart::{CpuClocks, Interrupted, SleepSample, reissue};
use super::stop::Stop;
use super::thread::{Go, Thread, state_of};
use crate::sys::process::ProcMem;
use crate::sys::ptrace::{Options, Regs};
use crate::sys::time::{Deadline, now_ns};
use crate::sys::voice::{self, Life};

/// How often, and for how long, a thread goes on that was stopped where it should not be.
const TRIES: u32 = 64;
const MOMENT: Duration = Duration::from_micros(10);
/// How often a leader is looked at before each look waits for a tick.
const LOOKS: u32 = 100;
const STEP: &str = "freezing the process";

/// Seized threads that still run: the step before the freeze, outside of it.
#[derive(Debug)]
pub struct Armed {
    pid: i32,
    threads: Vec<Member>,
    clocks: CpuClocks,
    /// See [`Armed::not_within`].
    apart: Range<u64>,
}

/// A thread of a frozen process.
#[derive(Debug)]
pub struct Member {
    /// The thread.
    pub thread: Thread,
    before: Option<SleepSample>,
    wchan: String,
}

impl Member {
    fn new(tid: i32) -> Self {
        Member {
            thread: Thread(tid),
            before: SleepSample::of(tid),
            wchan: std::fs::read_to_string(format!("/proc/{tid}/wchan")).unwrap_or_default(),
        }
    }

    /// The CPU on which it ran last before we looked.
    pub fn cpu(&self) -> Option<usize> {
        self.before.map(|s| s.cpu())
    }

    /// The kernel function in which it slept before the stop.
    pub fn wchan(&self) -> &str {
        &self.wchan
    }
}

/// The clocks of the CPUs on which these threads went to sleep.
fn clocks(threads: &[Member]) -> CpuClocks {
    CpuClocks::measure(threads.iter().filter_map(|m| m.before).map(|s| s.cpu()))
}

/// A process of which every thread is stopped.
#[derive(Debug)]
pub struct Frozen {
    /// The process.
    pub pid: i32,
    /// Its threads, the leader first, if it has not ended.
    pub threads: Vec<Member>,
    /// When the last of them had stopped, on `CLOCK_MONOTONIC`.
    stopped_ns: i64,
    clocks: CpuClocks,
    thawed: bool,
}

impl Armed {
    /// Seizes all threads without stopping them.
    pub fn seize(pid: i32) -> Result<Self, TraceeError> {
        let mut armed = Armed { pid, threads: Vec::new(), clocks: CpuClocks::default(), apart: 0..0 };
        match armed.seize_new() {
            Ok(_) => {
                armed.clocks = clocks(&armed.threads);
                Ok(armed)
            }
            Err(e) => {
                // a seized running thread can only be detached from when stopped
                let _ = armed.stop(Duration::from_secs(2)).map(Frozen::thaw);
                Err(e)
            }
        }
    }

    /// No thread shall be stopped in this code, if it can be helped: one that is goes on for a moment.
    pub fn not_within(self, apart: Range<u64>) -> Self {
        Armed { apart, ..self }
    }

    /// Seizes threads that are not yet; returns how many there were.
    fn seize_new(&mut self) -> Result<usize, TraceeError> {
        let mut found = 0;
        for tid in tids(self.pid)? {
            if self.threads.iter().any(|m| m.thread.0 == tid) {
                continue;
            }
            match Thread(tid).seize(self.pid, Options::SOURCE) {
                Ok(()) => self.threads.push(Member::new(tid)),
                Err(e) if e.died() => continue,
                Err(e) => return Err(e),
            }
            found += 1;
        }
        self.some_left()?;
        Ok(found)
    }

    fn some_left(&self) -> Result<(), TraceeError> {
        match self.threads.is_empty() {
            true => Err(TraceeError::Died { tid: self.pid, step: STEP }),
            false => Ok(()),
        }
    }

    /// Stops every thread; on failure the process runs on, detached from.
    pub fn stop(mut self, patience: Duration) -> Result<Frozen, TraceeError> {
        let deadline = Deadline::after(patience);
        let mut stopped = 0;
        let failure = loop {
            if let Err(e) = self.stop_from(&mut stopped, deadline) {
                break Some(e);
            }
            match self.seize_new() {
                Ok(0) => break None,
                Ok(_) => {}
                Err(e) => break Some(e),
            }
        };
        self.threads.sort_by_key(|m| m.thread.0 != self.pid);
        let stopped_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let frozen =
            Frozen { pid: self.pid, threads: self.threads, stopped_ns, clocks: self.clocks, thawed: false };
        match failure {
            None => Ok(frozen),
            Some(e) => {
                frozen.thaw();
                Err(e)
            }
        }
    }

    /// Stops the threads from index `stopped` on; more may join while we wait.
    fn stop_from(&mut self, stopped: &mut usize, deadline: Deadline) -> Result<(), TraceeError> {
        for member in &self.threads[*stopped..] {
            match member.thread.interrupt() {
                Err(e) if !e.died() => return Err(e),
                _ => {}
            }
        }
        let mut ended = false;
        while *stopped < self.threads.len() {
            // the leader last, if others are left: by then it stands, or has ended
            if self.threads[*stopped].thread.0 == self.pid {
                let last = self.threads.len() - 1;
                self.threads.swap(*stopped, last);
            }
            let thread = self.threads[*stopped].thread;
            match self.await_stop(thread, deadline) {
                Ok(()) => *stopped += 1,
                Err(e) if e.died() => {
                    ended |= thread.0 == self.pid;
                    self.threads.remove(*stopped);
                }
                Err(e) => return Err(e),
            }
        }
        if ended && self.threads.is_empty() {
            // for a thread that executes another program all others end, and it takes the leader's number
            self.threads.push(Member::new(self.pid));
            return match self.await_stop(Thread(self.pid), deadline) {
                Err(e) if e.died() => Err(TraceeError::Died { tid: self.pid, step: STEP }),
                stopped => stopped,
            };
        }
        self.some_left()
    }

    /// Waits for a thread to stop, or to have ended: for a leader the kernel tells the former alone.
    fn wait_for(&self, thread: Thread, deadline: Deadline) -> Result<Stop, TraceeError> {
        if thread.0 != self.pid {
            return thread.wait(STEP, deadline);
        }
        for look in 1.. {
            if let Some(stop) = thread.wait_a_tick(STEP, look > LOOKS)? {
                return Ok(stop);
            }
            if voice::life(self.pid, thread.0) == Life::Ended {
                break;
            }
            if deadline.passed() {
                return Err(TraceeError::Timeout { tid: thread.0, step: STEP, state: state_of(thread.0) });
            }
            if look <= LOOKS {
                std::thread::sleep(MOMENT);
            }
        }
        Err(TraceeError::Died { tid: thread.0, step: STEP })
    }

    fn await_stop(&mut self, thread: Thread, deadline: Deadline) -> Result<(), TraceeError> {
        let mut tries = 0..TRIES;
        loop {
            match self.wait_for(thread, deadline)? {
                Stop::Trap { signal: libc::SIGTRAP } => {
                    let apart = !self.apart.is_empty() && self.apart.contains(&thread.regs()?.rip);
                    if !apart || tries.next().is_none() {
                        return Ok(());
                    }
                    thread.resume(Go::Free, 0)?;
                    // it may need the CPU on which we are
                    std::thread::sleep(MOMENT);
                    thread.interrupt()?;
                }
                stop @ Stop::Trap { .. } => {
                    return Err(TraceeError::UnexpectedStop { tid: thread.0, step: STEP, stop });
                }
                Stop::Signal(signal) => {
                    thread.interrupt()?;
                    thread.resume(Go::Free, signal)?;
                }
                Stop::Clone => {
                    let child = thread.event_message()? as i32;
                    if !self.threads.iter().any(|m| m.thread.0 == child) {
                        self.threads.push(Member::new(child));
                    }
                    thread.interrupt()?;
                    thread.resume(Go::Free, 0)?;
                }
                Stop::Exec => return Err(TraceeError::Exec { pid: self.pid, step: STEP }),
                Stop::Syscall | Stop::Event(_) => {
                    thread.interrupt()?;
                    thread.resume(Go::Free, 0)?;
                }
            }
        }
    }
}

impl Frozen {
    /// Seizes and stops in one go.
    pub fn freeze(pid: i32, patience: Duration) -> Result<Self, TraceeError> {
        Armed::seize(pid)?.stop(patience)
    }

    /// Stops one thread alone (and threads that it makes meanwhile); the others run. It is the leader, unless that has ended.
    pub fn stop_one(pid: i32, patience: Duration) -> Result<Self, TraceeError> {
        let deadline = Deadline::after(patience);
        loop {
            match Self::try_stop_one(pid, deadline) {
                // any thread may end, and leave the process to the others
                Err(e) if e.died() && voice::lives(pid) && !deadline.passed() => {}
                done => return done,
            }
        }
    }

    fn try_stop_one(pid: i32, deadline: Deadline) -> Result<Self, TraceeError> {
        let voice = voice::of(pid);
        Thread(voice).seize(pid, Options::SOURCE)?;
        let threads = vec![Member::new(voice)];
        let clocks = clocks(&threads);
        let mut armed = Armed { pid, threads, clocks: CpuClocks::default(), apart: 0..0 };
        let stopped = armed.stop_from(&mut 0, deadline);
        let stopped_ns = now_ns(ClockId::CLOCK_MONOTONIC);
        let mut frozen = Frozen { pid, threads: armed.threads, stopped_ns, clocks, thawed: false };
        frozen.threads.sort_by_key(|m| m.thread.0 != voice);
        stopped.map(|()| frozen)
    }

    /// The thread that speaks for the process: its leader, unless that has ended. Its number stands for that of the process wherever
    /// that is looked at.
    pub fn voice(&self) -> Thread {
        self.threads.first().map_or(Thread(self.pid), |m| m.thread)
    }

    /// The leader has ended; the others live.
    pub fn leaderless(&self) -> bool {
        self.voice().0 != self.pid
    }

    /// How long a thread had been in the wait that the stop interrupted, when the last thread had stopped. A wait that
    /// began after we looked is younger than the stop took, and counts as new.
    pub fn age(&self, member: &Member) -> Duration {
        let began = match (member.before, SleepSample::of(member.thread.0)) {
            (Some(before), Some(after)) => SleepSample::wait_began(before, after, &self.clocks),
            _ => None,
        };
        Duration::from_nanos(began.map_or(0, |b| (self.stopped_ns - b).max(0) as u64))
    }

    /// When the last thread had stopped, on `CLOCK_MONOTONIC`.
    pub fn stopped_ns(&self) -> i64 {
        self.stopped_ns
    }

    /// Lets every thread go. A call that our stop turned into `EINTR` is issued again.
    pub fn thaw(mut self) {
        self.let_go();
    }

    fn let_go(&mut self) {
        if std::mem::replace(&mut self.thawed, true) {
            return;
        }
        self.mend();
        for member in &self.threads {
            if let Err(e) = member.thread.detach(0)
                && !e.died()
            {
                tracing::warn!(tid = member.thread.0, error = %e, "could not detach");
            }
        }
    }

    /// A call that our stop turned into `EINTR` will be issued again when its thread goes on, whoever lets it.
    pub fn mend(&self) {
        for member in &self.threads {
            let thread = member.thread;
            if let Ok(regs) = thread.regs()
                && let Interrupted::Eintr(_) = Interrupted::of(&regs)
                && !has_deliverable_signal(thread.0)
            {
                let age = if Interrupted::of(&regs).timed(&regs) { self.age(member) } else { Duration::ZERO };
                if let Err(e) = self.issue_again(thread, &regs, age) {
                    tracing::warn!(tid = thread.0, error = %e, "an interrupted call could not be issued again");
                }
            }
        }
    }

    fn issue_again(&self, thread: Thread, regs: &Regs, age: Duration) -> Result<(), TraceeError> {
        let failed = |addr| {
            move |source| TraceeError::Memory { pid: self.pid, step: "shortening a timeout", addr, source }
        };
        let mem = ProcMem::open(self.voice().0).map_err(failed(0))?;
        let again = reissue(regs, age, |at| mem.read_16(at));
        if let Some((at, bytes)) = again.patch {
            mem.write(at, &bytes).map_err(failed(at))?;
        }
        thread.set_regs(&again.regs)
    }

    /// The process was killed: there is nothing to let go.
    pub fn forget(mut self) {
        self.thawed = true;
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.let_go();
    }
}

/// Whether a queued signal will interrupt the thread when it goes on, which makes an `EINTR` legitimate.
pub fn has_deliverable_signal(tid: i32) -> bool {
    let signals = Signals::of(tid);
    signals.deliverable & !signals.ignored != 0
}

/// Whether a handler of the program will run first when the thread goes on.
pub fn caught_signal_waits(tid: i32) -> bool {
    let signals = Signals::of(tid);
    signals.deliverable & signals.caught != 0
}

struct Signals {
    deliverable: u64,
    ignored: u64,
    caught: u64,
}

impl Signals {
    fn of(tid: i32) -> Self {
        let status = crate::sys::lossy(format!("/proc/{tid}/status")).unwrap_or_default();
        let field = |name: &str| {
            status
                .lines()
                .find_map(|l| l.strip_prefix(name))
                .and_then(|v| u64::from_str_radix(v.trim(), 16).ok())
                .unwrap_or(0)
        };
        Signals {
            deliverable: (field("SigPnd:") | field("ShdPnd:")) & !field("SigBlk:"),
            ignored: field("SigIgn:"),
            caught: field("SigCgt:"),
        }
    }
}

/// The threads of a process, in our pid namespace.
pub fn tids(pid: i32) -> Result<Vec<i32>, TraceeError> {
    let dir = std::fs::read_dir(format!("/proc/{pid}/task")).map_err(|source| match source.kind() {
        std::io::ErrorKind::NotFound => TraceeError::Died { tid: pid, step: "listing its threads" },
        _ => TraceeError::Proc { pid, file: "task".to_owned(), source },
    })?;
    Ok(dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse().ok()).collect())
}
