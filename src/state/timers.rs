//! Interval timers (`setitimer`) and POSIX timers (`timer_create`).
//!
//! Which POSIX timers there are is told by `/proc/PID/timers` (CONFIG_CHECKPOINT_RESTORE); their settings by
//! calls inside the process. Ids must come back the same: Linux 6.15 takes them as a wish
//! (`PR_TIMER_CREATE_RESTORE_IDS`), older kernels hand them out in order, so all up to the highest are made and
//! the others deleted.

use super::error::StateError;
use crate::image::Obstacle;
use crate::image::process::{PosixTimer, Timers};
use crate::tracee::{Batch, Outcome};

const PR_TIMER_CREATE_RESTORE_IDS: u64 = 77;
/// Without the wish, ids are counted up to; more would not fit one batch.
const COUNTABLE: i32 = 1000;

/// Where the answers of [`ask`] lie.
#[derive(Debug)]
pub struct Question {
    itimers: u64,
    posix: Vec<(PosixTimer, u64, usize)>,
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
                overrun: 0,
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
    Some(timers)
}

/// What of the timers cannot be carried.
pub fn obstacles(timers: &[PosixTimer]) -> Vec<Obstacle> {
    timers
        .iter()
        .filter(|t| t.clock < 0)
        .map(|t| {
            Obstacle::new(
                format!("timer {}", t.id),
                format!("it runs on the CPU-time clock {} of a single process or thread", t.clock),
                "use a timer on CLOCK_MONOTONIC",
            )
        })
        .collect()
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
            let overrun = batch.attempt("timer_getoverrun", libc::SYS_timer_getoverrun, &[timer.id as u64]);
            (timer, at, overrun)
        })
        .collect();
    Question { itimers, posix }
}

/// Reads the answers.
pub fn answer(outcome: &Outcome, question: Question) -> Timers {
    let four = |at: u64| std::array::from_fn(|i| outcome.word(at + i as u64 * 8) as i64);
    Timers {
        itimers: (0..3).map(|w| four(question.itimers + w * 32)).collect(),
        posix: question
            .posix
            .into_iter()
            .map(|(timer, at, overrun)| PosixTimer {
                setting: four(at),
                overrun: outcome.results[overrun].max(0) as i32,
                ..timer
            })
            .collect(),
    }
}

/// Sets interval timers and starts POSIX timers. Threads that get signals must exist.
pub fn put(batch: &mut Batch, timers: &Timers, ids_by_wish: bool) {
    if ids_by_wish && !timers.posix.is_empty() {
        batch.attempt("prctl(TIMER_CREATE_RESTORE_IDS)", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0]);
    }
    let mut next = 0;
    for timer in &timers.posix {
        if !ids_by_wish {
            for id in next..timer.id {
                create(batch, &PosixTimer { id, ..timer.clone() });
                batch.call("timer_delete", libc::SYS_timer_delete, &[id as u64]);
            }
            next = timer.id + 1;
        }
        create(batch, timer);
    }
    if ids_by_wish && !timers.posix.is_empty() {
        batch.attempt("prctl(TIMER_CREATE_RESTORE_IDS)", libc::SYS_prctl, &[PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0]);
    }
    for timer in &timers.posix {
        if timer.setting != [0; 4] {
            let at = batch.bytes(&words(&timer.setting));
            batch.call("timer_settime", libc::SYS_timer_settime, &[timer.id as u64, 0, at, 0]);
        }
    }
    for (which, setting) in timers.itimers.iter().enumerate() {
        if *setting != [0; 4] {
            let at = batch.bytes(&words(setting));
            batch.call("setitimer", libc::SYS_setitimer, &[which as u64, at, 0]);
        }
    }
}

/// Whether the ids can be brought back without `PR_TIMER_CREATE_RESTORE_IDS`.
pub fn countable(timers: &[PosixTimer]) -> bool {
    timers.iter().all(|t| t.id < COUNTABLE)
}

fn create(batch: &mut Batch, timer: &PosixTimer) {
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

fn words(setting: &[i64; 4]) -> Vec<u8> {
    setting.iter().flat_map(|w| w.to_le_bytes()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
