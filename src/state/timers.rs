//! Interval timers (`setitimer`) and POSIX timers (`timer_create`).
//!
//! Which POSIX timers there are is told by `/proc/PID/timers` (CONFIG_CHECKPOINT_RESTORE); their settings by
//! calls inside the process. Ids must come back the same: Linux 6.15 takes them as a wish
//! (`PR_TIMER_CREATE_RESTORE_IDS`), older kernels hand them out in order, so all up to the highest are made and
//! the others deleted.

use std::time::Duration;

use super::error::StateError;
use super::signals;
use crate::image::process::{PosixTimer, Timers};
use crate::image::{Note, Obstacle};
use crate::tracee::{Batch, Outcome};

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Without the wish, ids are counted up to; more would not fit one batch.
const COUNTABLE: i32 = 1000;
pub(super) const SECOND: i64 = 1_000_000_000;
pub(super) const TIMER_ABSTIME: u64 = 1;

/// Where the answers of [`ask`] lie.
#[derive(Debug)]
pub struct Question {
    itimers: u64,
    posix: Vec<(PosixTimer, u64)>,
}

/// Reads `/proc/PID/timers`.
pub fn list(pid: i32) -> Result<Vec<PosixTimer>, StateError> {
    let text = match std::fs::read_to_string(format!("/proc/{pid}/timers")) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(StateError::io(pid, "reading the timers")(e)),
    };
    parse(&text).ok_or(StateError::Field { pid, file: "timers", field: "complete entry" })
}

fn parse(text: &str) -> Option<Vec<PosixTimer>> {
    let mut timers: Vec<PosixTimer> = Vec::new();
    for line in text.lines() {
        let (key, value) = line.split_once(": ")?;
        if key == "ID" {
            timers.push(PosixTimer {
                id: value.trim().parse().ok()?,
                clock: 0,
                notify: 0,
                signal: 0,
                value: 0,
                thread: 0,
                setting: [0; 4],
                expired: 0,
            });
            continue;
        }
        let timer = timers.last_mut()?;
        match key {
            "signal" => {
                let (signal, pointer) = value.trim().split_once('/')?;
                timer.signal = signal.parse().ok()?;
                timer.value = u64::from_str_radix(pointer.trim_start_matches("0x"), 16).ok()?;
            }
            "notify" => {
                let (how, whom) = value.trim().split_once('/')?;
                let base = match how {
                    "signal" => libc::SIGEV_SIGNAL,
                    "none" => libc::SIGEV_NONE,
                    _ => libc::SIGEV_THREAD,
                };
                let (kind, id) = whom.split_once('.')?;
                if kind == "tid" {
                    timer.notify = base | libc::SIGEV_THREAD_ID;
                    timer.thread = id.parse().ok()?;
                } else {
                    timer.notify = base;
                }
            }
            "ClockID" => timer.clock = value.trim().parse().ok()?,
            _ => {}
        }
    }
    // older kernels list the newest first; where ids are counted up to, they must be made in order
    timers.sort_by_key(|timer| timer.id);
    Some(timers)
}

/// Clocks of CPU time, as `clockid_t` has them (include/linux/posix-timers.h): the number of a process or thread, inverted, above three
/// bits; 0 is the caller's own. Bit 2 says that it is a thread's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cpu {
    Process(i32),
    Thread(i32),
}

fn cpu(clock: i32) -> Option<Cpu> {
    match clock {
        libc::CLOCK_PROCESS_CPUTIME_ID => Some(Cpu::Process(0)),
        libc::CLOCK_THREAD_CPUTIME_ID => Some(Cpu::Thread(0)),
        0.. => None,
        _ if clock & 4 != 0 => Some(Cpu::Thread(!(clock >> 3))),
        _ => Some(Cpu::Process(!(clock >> 3))),
    }
}

/// Whether a timer counts CPU time: of that only what is left is carried, the clock itself begins at 0.
pub fn counts_cpu_time(timer: &PosixTimer) -> bool {
    cpu(timer.clock).is_some()
}

/// What of the timers of a process cannot be carried. `pid`: as it knows itself; `threads`: how many it has.
pub fn obstacles(timers: &[PosixTimer], pid: i32, threads: usize) -> Vec<Obstacle> {
    let why = |t: &PosixTimer| match cpu(t.clock)? {
        Cpu::Process(of) if of != 0 && of != pid => {
            Some(format!("it runs on the CPU-time clock of process {of}"))
        }
        // the kernel does not show whose it is
        Cpu::Thread(0) if threads > 1 && t.notify & libc::SIGEV_THREAD_ID == 0 => Some(
            "it runs on the CPU-time clock of one of several threads, and which one cannot be seen"
                .to_owned(),
        ),
        _ => None,
    };
    let obstacle = |t: &PosixTimer| {
        let advice = "have it signal that thread (SIGEV_THREAD_ID), or name the thread's clock (pthread_getcpuclockid)";
        Some(Obstacle::new(format!("timer {}", t.id), why(t)?, advice))
    };
    timers.iter().filter_map(obstacle).collect()
}

/// Said of every process: `process_time()`, `getrusage` and `times` run backwards once.
pub const CPU_TIME: &str = "the CPU time that it has used so far counts from 0 at the target";

/// See [`CPU_TIME`].
pub fn note(pid: i32) -> Note {
    Note::new(format!("process {pid}"), CPU_TIME)
}

/// Names the threads of timers as the process knows them; `/proc` shows our numbers. A timer for a thread that has ended reaches
/// nobody, so it becomes one that signals nobody; one on the clock of such a thread never fires.
pub fn settle_threads(timers: &mut [PosixTimer], pid: i32, threads: &[(i32, i32)]) {
    for timer in timers {
        if timer.notify & libc::SIGEV_THREAD_ID != 0 {
            match threads.iter().find(|(ours, _)| *ours == timer.thread) {
                Some((_, own)) => timer.thread = *own,
                None => (timer.notify, timer.thread, timer.signal) = (libc::SIGEV_NONE, 0, 0),
            }
        }
        let Some(Cpu::Thread(of)) = cpu(timer.clock) else { continue };
        let of = match of {
            0 if timer.thread != 0 => timer.thread,
            0 => pid,
            of => of,
        };
        if !threads.iter().any(|(_, own)| *own == of) {
            (timer.clock, timer.setting) = (libc::CLOCK_MONOTONIC, [0; 4]);
        } else if of != pid {
            // made by the main thread, it has to say whose
            timer.clock = !of << 3 | 4 | timer.clock & 3;
        }
    }
}

/// Asks for the settings of these timers.
pub fn ask(batch: &mut Batch, posix: Vec<PosixTimer>) -> Question {
    let itimers = batch.space(3 * 32);
    for which in 0..3u64 {
        batch.call("getitimer", libc::SYS_getitimer, &[which, itimers + which * 32]);
    }
    let posix = posix
        .into_iter()
        .map(|timer| {
            let at = batch.space(32);
            batch.call("timer_gettime", libc::SYS_timer_gettime, &[timer.id as u64, at]);
            (timer, at)
        })
        .collect();
    Question { itimers, posix }
}

/// Reads the answers.
pub fn answer(outcome: &Outcome, question: &Question) -> Timers {
    let four = |at: u64| std::array::from_fn(|i| outcome.word(at + i as u64 * 8) as i64);
    Timers {
        itimers: (0..3).map(|w| four(question.itimers + w * 32)).collect(),
        posix: question
            .posix
            .iter()
            .map(|(timer, at)| PosixTimer { setting: four(*at), ..timer.clone() })
            .collect(),
    }
}

/// Makes POSIX timers, not yet running. Threads that get signals must exist.
pub fn create(batch: &mut Batch, timers: &Timers, ids_by_wish: bool) {
    let wish = |batch: &mut Batch, on: u64| {
        let args = [PR_TIMER_CREATE_RESTORE_IDS, on, 0, 0, 0];
        batch.attempt("prctl(TIMER_CREATE_RESTORE_IDS)", libc::SYS_prctl, &args);
    };
    if ids_by_wish && !timers.posix.is_empty() {
        wish(batch, 1);
    }
    let mut next = 0;
    for timer in &timers.posix {
        if !ids_by_wish {
            for id in next..timer.id {
                make(batch, &PosixTimer { id, ..timer.clone() });
                batch.call("timer_delete", libc::SYS_timer_delete, &[id as u64]);
            }
            next = timer.id + 1;
        }
        make(batch, timer);
    }
    if ids_by_wish && !timers.posix.is_empty() {
        wish(batch, 0);
    }
}

/// Asks for the present reading of each timer's clock.
pub fn ask_clocks(batch: &mut Batch, timers: &Timers) -> Vec<u64> {
    timers
        .posix
        .iter()
        .map(|timer| {
            let at = batch.space(16);
            if counts_cpu_time(timer) {
                return at;
            }
            batch.call("clock_gettime", libc::SYS_clock_gettime, &[timer.clock as u64, at]);
            at
        })
        .collect()
}

/// Starts the timers, when `passed` has gone by since they were read: one that fell due meanwhile, or whose signal was queued, is set
/// to that time in the past, so that it fires at once, counts what it missed, and keeps its phase.
pub fn start(batch: &mut Batch, timers: &Timers, clocks: &Outcome, at: &[u64], passed: Duration) {
    let passed = i64::try_from(passed.as_nanos()).unwrap_or(i64::MAX);
    for (timer, at) in timers.posix.iter().zip(at) {
        let [interval_s, interval_ns, left_s, left_ns] = timer.setting;
        if (left_s, left_ns) == (0, 0) {
            continue;
        }
        if counts_cpu_time(timer) {
            // it does not run on while the process is frozen
            let setting = batch.bytes(&words(&timer.setting));
            batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, 0, setting, 0]);
            continue;
        }
        let left = left_s.saturating_mul(SECOND).saturating_add(left_ns) - passed;
        let now = clocks.word(*at) as i64 * SECOND + clocks.word(*at + 8) as i64;
        let interval = interval_s.saturating_mul(SECOND).saturating_add(interval_ns);
        let due = fired(now.saturating_add(left), interval, timer.expired);
        let setting = batch.bytes(&words(&setting(interval, due)));
        batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, TIMER_ABSTIME, setting, 0]);
    }
    for (which, &[interval_s, interval_us, left_s, left_us]) in timers.itimers.iter().enumerate() {
        // a periodic ITIMER_REAL whose signal is queued is not running until that is delivered: it is started
        // anew, and its signal comes from it (see `supersedes`)
        if (left_s, left_us) == (0, 0) && !(which == 0 && (interval_s, interval_us) != (0, 0)) {
            continue;
        }
        // only ITIMER_REAL runs on while the process is frozen
        let passed_us = if which == 0 { passed / 1000 } else { 0 };
        let left = (left_s.saturating_mul(1_000_000).saturating_add(left_us) - passed_us).max(1);
        let setting = batch.bytes(&words(&[interval_s, interval_us, left / 1_000_000, left % 1_000_000]));
        batch.call("setitimer", libc::SYS_setitimer, &[which as u64, setting, 0]);
    }
}

/// Whether a queued signal is the one of a periodic `ITIMER_REAL` that waits for its delivery to run on.
pub fn supersedes(timers: &Timers, signal: i32) -> bool {
    signal == libc::SIGALRM
        && timers.itimers.first().is_some_and(|&[is, ius, s, us]| (s, us) == (0, 0) && (is, ius) != (0, 0))
}

/// When a timer fired whose signal is queued, on its own clock, given when it would fire next; that itself, if none is (`expired` 0).
pub(super) fn fired(next: i64, interval: i64, expired: i32) -> i64 {
    // 0 would disarm it
    next.saturating_sub(interval.saturating_mul(expired.into())).max(1)
}

/// As `struct itimerspec` has it, from nanoseconds.
pub(super) fn setting(interval: i64, due: i64) -> [i64; 4] {
    [interval / SECOND, interval % SECOND, due / SECOND, due % SECOND]
}

/// Whether a timer does not run on while its signal is queued, and is set back to when it fired ([`super::overruns`]).
pub(super) fn waits_for_its_signal(timer: &PosixTimer) -> bool {
    (timer.setting[0], timer.setting[1]) != (0, 0) && !counts_cpu_time(timer)
}

/// Whether a queued signal is of a timer that fires at the target once more: as one that was read before it fired, `passed` before the
/// queue was, or because it is set back to when it fired.
pub fn fires_again(timers: &Timers, info: &[u8], passed: Duration) -> bool {
    let due = |left: Duration| !left.is_zero() && left <= passed;
    let time = |s: i64, fraction: i64| {
        Duration::new(u64::try_from(s).unwrap_or(0), u32::try_from(fraction).unwrap_or(0))
    };
    if let Some(id) = signals::timer_of(info) {
        let once = |t: &PosixTimer| (t.setting[0], t.setting[1]) == (0, 0);
        return timers
            .posix
            .iter()
            .find(|t| t.id == id)
            .is_some_and(|t| waits_for_its_signal(t) || once(t) && due(time(t.setting[2], t.setting[3])));
    }
    let real = signals::by_kernel(info) && signals::number(info) == libc::SIGALRM;
    real && timers.itimers.first().is_some_and(|&[_, _, s, us]| due(time(s, us.saturating_mul(1000))))
}

/// Whether the ids can be brought back without `PR_TIMER_CREATE_RESTORE_IDS`.
pub fn countable(timers: &[PosixTimer]) -> bool {
    timers.iter().all(|t| t.id < COUNTABLE)
}

fn make(batch: &mut Batch, timer: &PosixTimer) {
    // struct sigevent: value, signo, notify, tid
    let mut event = timer.value.to_le_bytes().to_vec();
    event.extend_from_slice(&timer.signal.to_le_bytes());
    event.extend_from_slice(&timer.notify.to_le_bytes());
    event.extend_from_slice(&timer.thread.to_le_bytes());
    event.resize(64, 0);
    let event = batch.bytes(&event);
    let id = batch.bytes(&timer.id.to_le_bytes());
    batch.call("timer_create", libc::SYS_timer_create, &[timer.clock as u64, event, id]);
}

pub(super) fn words(setting: &[i64; 4]) -> Vec<u8> {
    setting.iter().flat_map(|w| w.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timer(clock: i32, notify: i32, thread: i32) -> PosixTimer {
        let setting = [0, 0, 5, 0];
        PosixTimer { id: 0, clock, notify, signal: 34, value: 0, thread, setting, expired: 0 }
    }

    #[test]
    fn clocks_of_cpu_time_and_threads_that_have_ended() {
        let (process, own_thread, to_thread) = (-6, -2, libc::SIGEV_THREAD_ID);
        assert!(obstacles(&[timer(process, 0, 0), timer((!7 << 3) | 2, 0, 0)], 7, 2).is_empty());
        assert!(obstacles(&[timer(own_thread, 0, 0)], 7, 1).is_empty());
        assert!(obstacles(&[timer(own_thread, to_thread, 8)], 7, 2).is_empty());
        let refused = [timer(own_thread, 0, 0), timer((!9 << 3) | 2, 0, 0)];
        assert_eq!(obstacles(&refused, 7, 2).len(), 2);
        let mut timers = [
            timer(own_thread, to_thread, 108),
            timer(1, to_thread, 109),
            timer((!9 << 3) | 6, 0, 0),
            timer(own_thread, 0, 0),
        ];
        settle_threads(&mut timers, 7, &[(107, 7), (108, 8)]);
        assert_eq!((timers[0].clock, timers[0].thread), ((!8 << 3) | 6, 8));
        assert_eq!((timers[1].notify, timers[1].setting[2]), (libc::SIGEV_NONE, 5));
        assert_eq!((timers[2].clock, timers[2].setting[2]), (libc::CLOCK_MONOTONIC, 0));
        assert_eq!(timers[3].clock, own_thread);
    }

    #[test]
    fn reads_what_the_kernel_writes() {
        let text = "ID: 3\nsignal: 34/00007ffe12345678\nnotify: signal/tid.77\nClockID: 1\n\
                    ID: 9\nsignal: 0/0000000000000000\nnotify: none/pid.12\nClockID: 0\n";
        let timers = parse(text).expect("well-formed");
        assert_eq!((timers[0].id, timers[0].signal, timers[0].thread), (3, 34, 77));
        assert_eq!(timers[0].notify, libc::SIGEV_THREAD_ID);
        assert_eq!(timers[0].value, 0x7ffe_1234_5678);
        assert_eq!((timers[1].id, timers[1].notify, timers[1].clock), (9, libc::SIGEV_NONE, 0));
        assert!(parse("signal: 3/0\n").is_none());
        let newest_first = "ID: 2\nClockID: 7\nID: 0\nClockID: 1\n";
        let ids: Vec<i32> = parse(newest_first).expect("well-formed").iter().map(|timer| timer.id).collect();
        assert_eq!(ids, [0, 2]);
    }
}
