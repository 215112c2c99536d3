//! A sleeper in a session of its own, to which nothing here belongs: how long others are kept from running. Beside it one on each CPU
//! under `SCHED_FIFO`, ahead of all that is ordinary: how long the machine itself stood still (a hypervisor that gives its CPUs to
//! somebody else, or has used up their quota).

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::time::{ClockId, clock_gettime};
use ulpm::sys::namespaces::own_session;
use ulpm::sys::process::{only, sched_attr, set_affinity, set_sched_attr};

/// What it asks for each time.
const NAP: Duration = Duration::from_millis(1);
/// Shorter ones of the machine are none.
const STANDSTILL: Duration = Duration::from_millis(3);
/// The ordinary one.
const OTHERS: usize = usize::MAX;

/// From when to when, by the monotonic clock.
pub(crate) type Silence = (Duration, Duration);

/// Silences by who was silent: a CPU, or [`OTHERS`].
type Silences = Arc<Mutex<BTreeMap<usize, Vec<Silence>>>>;

/// The monotonic clock, which is the same in all processes of a host.
pub(crate) fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default()
}

/// One that is at it, in a process of its own. Ends when dropped.
#[derive(Debug)]
pub(crate) struct Sleeper {
    process: Child,
    listener: Option<JoinHandle<()>>,
    silences: Silences,
}

/// Of the ordinary sleeper, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Longest {
    /// As it was.
    pub(crate) silence_ms: f64,
    /// Less the time in which no CPU ran anything, not even what is real-time.
    pub(crate) net_ms: f64,
}

impl Sleeper {
    /// Starts this program again with the argument `--sleeper`, where it calls [`sleep`].
    pub(crate) fn start() -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--sleeper").stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = own_session(&mut command).spawn().context("start a sleeper")?;
        let silences = Silences::default();
        let (output, heard) = (process.stdout.take(), silences.clone());
        let listener = std::thread::spawn(move || {
            for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
                let Some((who, silence)) = line.ok().as_deref().and_then(parsed) else { return };
                heard.lock().unwrap_or_else(PoisonError::into_inner).entry(who).or_default().push(silence);
            }
        });
        Ok(Sleeper { process, listener: Some(listener), silences })
    }

    /// The longest silence between two moments; one that ended within 50 ms after them is theirs.
    pub(crate) fn longest(&self, from: Duration, to: Duration) -> Longest {
        let silences = self.silences.lock().unwrap_or_else(PoisonError::into_inner);
        let of = |who: &usize| silences.get(who).map_or(&[][..], Vec::as_slice);
        let standstills = together(silences.keys().filter(|who| **who != OTHERS).map(of));
        let within = |(_, end): &&Silence| *end >= from && *end <= to + Duration::from_millis(50);
        let ms = |silence: Duration| silence.as_secs_f64() * 1e3;
        let mut longest = Longest { silence_ms: 0.0, net_ms: 0.0 };
        for silence in of(&OTHERS).iter().filter(within) {
            let stood: Duration = standstills.iter().map(|other| length(both(*silence, *other))).sum();
            longest.silence_ms = longest.silence_ms.max(ms(length(*silence)));
            longest.net_ms = longest.net_ms.max(ms(length(*silence).saturating_sub(stood)));
        }
        longest
    }
}

fn length((from, to): Silence) -> Duration {
    to.saturating_sub(from)
}

fn both(one: Silence, other: Silence) -> Silence {
    (one.0.max(other.0), one.1.min(other.1))
}

/// When all of them were silent.
fn together<'a>(each: impl Iterator<Item = &'a [Silence]>) -> Vec<Silence> {
    let pairs = |all: Vec<Silence>, next: &[Silence]| {
        let meets = |one: Silence| next.iter().map(move |other| both(one, *other));
        all.into_iter().flat_map(meets).filter(|silence| length(*silence) > Duration::ZERO).collect()
    };
    let mut each = each;
    let first = each.next().unwrap_or_default().to_vec();
    each.fold(first, pairs)
}

/// `WHO END SILENCE`, in microseconds.
fn parsed(line: &str) -> Option<(usize, Silence)> {
    let mut fields = line.split(' ');
    let who = fields.next()?.parse().ok()?;
    let mut time = || Some(Duration::from_micros(fields.next()?.parse().ok()?));
    let (end, silence) = (time()?, time()?);
    Some((who, (end.checked_sub(silence)?, end)))
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

/// Sleeps for a millisecond over and over, and prints each silence as soon as it has ended.
pub(crate) fn sleep() {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    for cpu in 0..cpus {
        std::thread::spawn(move || {
            let able = sched_attr(0).and_then(|mut own| {
                (own.policy, own.priority, own.nice) = (libc::SCHED_FIFO as u32, 99, 0);
                set_sched_attr(0, &own)
            });
            // without the right nothing is known of the machine
            if able.and(set_affinity(0, &only(cpu))).is_ok() {
                nap(cpu, STANDSTILL);
            }
        });
    }
    nap(OTHERS, Duration::ZERO);
}

fn nap(who: usize, at_least: Duration) {
    let mut last = now();
    loop {
        std::thread::sleep(NAP);
        let end = now();
        let silence = end.saturating_sub(last);
        if silence >= at_least {
            let line = format!("{who} {} {}\n", end.as_micros(), silence.as_micros());
            // past the lock, which would have them wait for one another: a pipe takes a short line as a whole
            if nix::unistd::write(std::io::stdout(), line.as_bytes()).is_err() {
                return;
            }
        }
        last = end;
    }
}
