//! Signals that reach the stopped process after its state was read. For each of them `kill` has said 0, so it must arrive at the target.
//!
//! Kernel facts behind this:
//! - A stopped tracee's signals stay queued, in order, also those that it would ignore (`sig_ignored`: a tracer may want to know).
//!   They can be read from a stopped thread by `PTRACE_PEEKSIGINFO`, one queue for the process and one for each thread.
//! - Entries only come at the end, but for job control: a stop signal takes a `SIGCONT` out of all queues, and `SIGCONT` every stop
//!   signal (`prepare_signal`). [`super::capture::Captive::hold`] and its undoing do the same, so both kinds are remembered.
//! - `SIGSTOP` cannot be blocked: it is in the way of remote calls, so it never travels with the state; it comes last.
//! - The process's own timers and descriptors go on signalling here. At the target it has the same, which signal there.
//! - With `RLIMIT_SIGPENDING` at 0 `sigqueue` answers `EAGAIN`, whoever calls it; `kill` does not ask for it.

use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::PreloadError;
use crate::image::process::{LateSignal, ProcessImage, Siginfo, Timers};
use crate::state::signals::{Origin, SI_TKILL, code, job_control, number, sendable};
use crate::state::threads;
use crate::state::timers::fires_again;
use crate::sys::process::{pidfd_queue_signal, queue_to_thread};
use crate::sys::ptrace::{self, SiginfoBytes};
use crate::sys::status::Status;
use crate::tracee::TraceeError;

/// One queue of the stopped process.
#[derive(Debug)]
struct Queue {
    /// Thread that is asked, as we see it.
    asked: i32,
    /// Thread as the process knows it; 0: the queue of the whole process.
    tid: i32,
    /// What is accounted for, in order.
    known: Vec<SiginfoBytes>,
}

impl Queue {
    /// So many entries at its beginning are known, and stay: none of them is of job control. What has no entry does not count, and what
    /// only looks so is read again.
    fn settled(&self) -> usize {
        let leaves = self.known.iter().any(|info| job_control(number(info)));
        if leaves { 0 } else { self.known.iter().filter(|info| !is_bare(info)).count() }
    }
}

/// The queues of a stopped process, and what of them has been taken over.
#[derive(Debug)]
pub struct LateSignals {
    queues: Vec<Queue>,
    origin: Origin,
    /// Job control signals, in order: what stops and continues it takes them out of the queues.
    job_control: Vec<LateSignal>,
    /// Found, and not yet given out.
    fresh: Vec<LateSignal>,
    /// See [`LateSignals::flows`].
    flows: bool,
    /// See [`LateSignals::holding`].
    held: bool,
}

/// The queues as they were when the process was killed: entries that are not settled (`Queue::settled`), and the `status` file.
#[derive(Debug, Default)]
pub struct LastLook(Vec<(Option<Vec<SiginfoBytes>>, Vec<u8>)>);

/// What is accounted for, for whoever ends the copy if we cannot.
#[derive(Debug, Serialize, Deserialize)]
pub struct Accounts {
    /// Of each queue: thread that is asked, thread as the process knows it, entries.
    queues: Vec<(i32, i32, Vec<Siginfo>)>,
    origin: Origin,
}

impl Accounts {
    /// Stop signals that a `SIGCONT` of ours takes out of the queues: `kill` has said 0 for each.
    pub fn stops(&self) -> Vec<LateSignal> {
        let of = |(_, tid, entries): &(i32, i32, Vec<Siginfo>)| -> Vec<LateSignal> {
            let stops = |info: &&Siginfo| match number(info) {
                // in the queue of a thread it is our own
                libc::SIGSTOP => *tid == 0,
                signal => job_control(signal) && signal != libc::SIGCONT,
            };
            entries.iter().filter(stops).map(|info| LateSignal { tid: *tid, info: info.clone() }).collect()
        };
        self.queues.iter().flat_map(of).collect()
    }
}

impl LateSignals {
    /// What is accounted for.
    pub fn accounts(&self) -> Accounts {
        let of =
            |queue: &Queue| (queue.asked, queue.tid, queue.known.iter().map(|info| info.to_vec()).collect());
        Accounts { queues: self.queues.iter().map(of).collect(), origin: self.origin.clone() }
    }

    /// Of a process that another program has left stopped.
    pub fn resume(Accounts { queues, origin }: Accounts) -> Self {
        let of = |(asked, tid, entries): (i32, i32, Vec<Siginfo>)| {
            let known = entries.iter().filter_map(|info| info.first_chunk().copied()).collect();
            Queue { asked, tid, known }
        };
        LateSignals {
            queues: queues.into_iter().map(of).collect(),
            origin,
            job_control: Vec::new(),
            fresh: Vec::new(),
            flows: false,
            held: true,
        }
    }

    /// From the queues as they were captured, `pid` being a thread of the process by which that of the process is read, `threads` being pairs of numbers: as we know it, as it knows itself. What must not
    /// travel with the state is taken out of it. `passed`: between the reading of the timers and that of the queues.
    pub fn since(pid: i32, threads: &[(i32, i32)], image: &mut ProcessImage, passed: Duration) -> Self {
        let mut late = LateSignals {
            queues: Vec::with_capacity(threads.len() + 1),
            origin: Origin::of(image),
            job_control: Vec::new(),
            fresh: Vec::new(),
            flows: false,
            held: false,
        };
        late.adopt(pid, 0, &mut image.queued, &image.timers, passed);
        for thread in &mut image.threads {
            if let Some((asked, tid)) = threads.iter().find(|(_, tid)| *tid == thread.tid) {
                late.adopt(*asked, *tid, &mut thread.queued, &image.timers, passed);
            }
        }
        late
    }

    fn adopt(&mut self, asked: i32, tid: i32, queued: &mut Vec<Siginfo>, timers: &Timers, passed: Duration) {
        let known: Vec<SiginfoBytes> = queued.iter().filter_map(|info| info.first_chunk().copied()).collect();
        for info in &known {
            if job_control(number(info)) {
                self.job_control.push(LateSignal { tid, info: info.to_vec() });
            }
            if number(info) == libc::SIGSTOP {
                self.fresh.push(LateSignal { tid, info: info.to_vec() });
            }
        }
        queued.retain(|info| number(info) != libc::SIGSTOP && !fires_again(timers, info, passed));
        self.queues.push(Queue { asked, tid, known });
    }

    /// What has come since the last look. `Died`: somebody else has killed the process. `thorough`: also those of which there is
    /// no more than the bit.
    pub fn look(&mut self, thorough: bool) -> Result<Vec<LateSignal>, PreloadError> {
        let mut found = std::mem::take(&mut self.fresh);
        let leader = self.queues.first().map_or(0, |queue| queue.asked);
        let pending = if thorough { threads::status_of(leader).ok() } else { None };
        for index in 0..self.queues.len() {
            let queue = &self.queues[index];
            let mut now = peek(queue.asked, queue.tid == 0)?;
            let bare = match &pending {
                Some(status) if queue.tid == 0 => bare(status.shdpnd),
                Some(status) if queue.asked == leader => bare(status.sigpnd),
                _ => queue.known.iter().filter(|info| is_bare(info)).copied().collect(),
            };
            let more = bare.into_iter().filter(|bare| !now.iter().any(|info| number(info) == number(bare)));
            let more: Vec<_> = more.collect();
            now.extend(more);
            found.extend(self.account(index, now));
        }
        Ok(found)
    }

    /// What has come into the queues of a process that are closed and still there ([`crate::tracee::ending`]), to be thought about when
    /// it is gone.
    pub fn last_look(&self) -> LastLook {
        let look = |queue: &Queue| {
            let status = std::fs::read(format!("/proc/{}/status", queue.asked));
            let new = ptrace::queued_signals_from(queue.asked, queue.tid == 0, queue.settled());
            (new.ok(), status.unwrap_or_default())
        };
        LastLook(self.queues.iter().map(look).collect())
    }

    /// What of that is new. Also what is no more than a bit in the queue of any thread: with no room left that is all that `tgkill`
    /// leaves.
    pub fn last(mut self, LastLook(queues): LastLook) -> Vec<LateSignal> {
        let mut found = std::mem::take(&mut self.fresh);
        for (index, (new, status)) in queues.into_iter().enumerate() {
            let Some(mut new) = new else { continue };
            let queue = &mut self.queues[index];
            let pending =
                Status::parse(&status).map_or(0, |s| if queue.tid == 0 { s.shdpnd } else { s.sigpnd });
            let known: Vec<i32> = queue.known.iter().filter(|k| !is_bare(k)).map(|k| number(k)).collect();
            let is_entry = |bit: &i32| known.contains(bit) || new.iter().any(|info| number(info) == *bit);
            if queue.settled() > 0 {
                queue.known.retain(is_bare);
            }
            let more: Vec<_> = bare(pending).into_iter().filter(|bit| !is_entry(&number(bit))).collect();
            new.extend(more);
            found.extend(self.account(index, new));
        }
        found
    }

    /// What of `now` is new in a queue, and to be handed on.
    fn account(&mut self, index: usize, now: Vec<SiginfoBytes>) -> Vec<LateSignal> {
        let queue = &mut self.queues[index];
        let mut found = Vec::new();
        for info in fresh(&queue.known, &now) {
            if self.held && queue.tid != 0 && number(info) == libc::SIGSTOP {
                continue;
            }
            if job_control(number(info)) {
                self.job_control.push(LateSignal { tid: queue.tid, info: info.to_vec() });
            }
            // its own timers and descriptors signal at the target as well
            if !self.origin.is_own(info) {
                self.flows |= sendable(info) == *info;
                found.push(LateSignal { tid: queue.tid, info: info.to_vec() });
            }
        }
        queue.known = now;
        found
    }

    /// Those of which only one can be queued, our stop apart, and in whose queue they are: thread, as we see it, and number.
    pub fn plain(&self) -> Vec<(i32, i32)> {
        let single = |info: &&SiginfoBytes| {
            let kept = matches!(number(*info), libc::SIGSTOP | libc::SIGKILL);
            !kept && (number(*info) < 32 || is_bare(info))
        };
        let of = |queue: &Queue| -> Vec<_> {
            queue.known.iter().filter(single).map(|info| (queue.asked, number(info))).collect()
        };
        self.queues.iter().flat_map(of).collect()
    }

    /// What may be handed on of these. A plain one that is still in the queue may not, but with a later look: the process there would
    /// have it, and the next of its kind would coalesce with it here.
    pub fn keep_stuck(&mut self, found: Vec<LateSignal>) -> Vec<LateSignal> {
        let plain = self.plain();
        let asked =
            |tid: i32| self.queues.iter().find(|queue| queue.tid == tid).map_or(0, |queue| queue.asked);
        let stuck = |signal: &LateSignal| plain.contains(&(asked(signal.tid), number(&signal.info)));
        let (stuck, free): (Vec<_>, Vec<_>) = found.into_iter().partition(stuck);
        self.fresh.extend(stuck);
        free
    }

    /// This one was taken by the thread `asked`, of a number that its own queue was known to hold, else that of the process: whether
    /// it came since the last look. A thread takes from its own queue first: what is not known came there.
    pub fn taken(&mut self, asked: i32, info: &SiginfoBytes) -> Option<LateSignal> {
        for own in [true, false] {
            let asked_now = |queue: &&mut Queue| (queue.tid != 0) == own && (!own || queue.asked == asked);
            for queue in self.queues.iter_mut().filter(asked_now) {
                if let Some(at) = queue.known.iter().position(|known| known == info) {
                    queue.known.remove(at);
                    return None;
                }
            }
        }
        let own =
            self.queues.iter().find(|queue| queue.tid != 0 && queue.asked == asked).map(|queue| queue.tid);
        let stop = number(info) == libc::SIGSTOP;
        let foreign = !(self.origin.is_own(info) || stop && code(info) == SI_TKILL);
        let tid = if stop { 0 } else { own.unwrap_or(0) };
        foreign.then(|| LateSignal { tid, info: info.to_vec() })
    }

    /// Whether somebody uses `sigqueue` again and again.
    pub fn flows(&self) -> bool {
        self.flows
    }

    /// `SIGKILL`, which somebody else has sent: it ends the process wherever it runs.
    pub fn killed() -> LateSignal {
        let mut info = libc::SIGKILL.to_le_bytes().to_vec();
        info.resize(128, 0);
        LateSignal { tid: 0, info }
    }

    /// Whether a stop of ours is still pending in each thread: a `SIGCONT` of somebody else would have taken it away.
    pub fn is_held(&self) -> bool {
        let stops = |queue: &Queue| queue.known.iter().any(|info| number(info) == libc::SIGSTOP);
        self.queues.iter().all(|queue| queue.tid == 0 || stops(queue))
    }

    /// A stop of ours is pending in each thread from now on.
    pub fn holding(&mut self) {
        self.held = true;
    }

    /// Queues again what our stop and its undoing took out of the queues: the process goes on here.
    pub fn put_back(&mut self, pid: i32, pidfd: std::os::fd::BorrowedFd<'_>) {
        let there: Vec<(i32, Vec<SiginfoBytes>)> = self
            .queues
            .iter()
            .map(|queue| (queue.tid, peek(queue.asked, queue.tid == 0).unwrap_or_default()))
            .collect();
        for signal in std::mem::take(&mut self.job_control) {
            let Some(info) = signal.info.first_chunk::<128>() else { continue };
            if there.iter().any(|(tid, queue)| *tid == signal.tid && queue.contains(info)) {
                continue;
            }
            let info = sendable(info);
            let asked = self.queues.iter().find(|queue| queue.tid == signal.tid).map_or(pid, |q| q.asked);
            let put = match signal.tid {
                0 => pidfd_queue_signal(pidfd, &info),
                _ => queue_to_thread(pid, asked, &info),
            };
            if let Err(error) = put {
                tracing::warn!(pid, signal = number(&info), %error, "a signal that came while the process was stopped is lost");
            }
        }
    }
}

/// Signals of these bits as the kernel delivers those that are pending without an entry in the queue (`collect_signal`): a plain one
/// by `sigqueue`, or any by `kill`, once `RLIMIT_SIGPENDING` is reached. Those of job control come and go.
fn bare(pending: u64) -> Vec<SiginfoBytes> {
    let set = |signal: &i32| pending >> (signal - 1) & 1 != 0;
    let meant = |signal: &i32| *signal != libc::SIGKILL && !job_control(*signal);
    (1..=64).filter(set).filter(meant).map(bare_one).collect()
}

fn bare_one(signal: i32) -> SiginfoBytes {
    let mut info = [0; 128];
    info[..4].copy_from_slice(&signal.to_le_bytes());
    info
}

fn is_bare(info: &SiginfoBytes) -> bool {
    *info == bare_one(number(info))
}

fn peek(tid: i32, shared: bool) -> Result<Vec<SiginfoBytes>, PreloadError> {
    const STEP: &str = "looking for signals that came while it was stopped";
    ptrace::queued_signals(tid, shared).map_err(|source| match source {
        Errno::ESRCH => TraceeError::Died { tid, step: STEP }.into(),
        source => TraceeError::Ptrace { tid, step: STEP, source }.into(),
    })
}

/// What of `now` is not in `known`: both are in the order of arrival, and some of what was known may be gone.
fn fresh<'a>(known: &[SiginfoBytes], now: &'a [SiginfoBytes]) -> Vec<&'a SiginfoBytes> {
    let mut rest = known;
    let mut found = Vec::new();
    for info in now {
        match rest.iter().position(|k| k == info) {
            Some(at) => rest = &rest[at + 1..],
            None => found.push(info),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(signal: i32, code: i32, value: u8) -> SiginfoBytes {
        let mut info = [0; 128];
        info[..4].copy_from_slice(&signal.to_le_bytes());
        info[8..12].copy_from_slice(&code.to_le_bytes());
        info[24] = value;
        info
    }

    #[test]
    fn what_is_new_is_found_behind_what_has_gone() {
        let [a, b, c, d] = [1, 2, 3, 4].map(|value| info(34, libc::SI_QUEUE, value));
        assert!(fresh(&[a, b], &[a, b]).is_empty());
        assert_eq!(fresh(&[a, b], &[a, b, c, d]), [&c, &d]);
        assert_eq!(fresh(&[a, b, c], &[a, c, d]), [&d]);
        assert_eq!(fresh(&[a], &[a, a]), [&a]);
    }

    #[test]
    fn only_a_process_itself_may_say_kill() {
        let by_kill = sendable(&info(15, 0, 7));
        assert_eq!((by_kill[8..12].to_vec(), by_kill[24]), (libc::SI_QUEUE.to_le_bytes().to_vec(), 0));
        let queued = info(34, libc::SI_QUEUE, 7);
        assert_eq!(sendable(&queued), queued);
    }
}
