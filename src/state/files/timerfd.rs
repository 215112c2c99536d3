//! `timerfd_create(2)`: timers as reads.
//!
//! Kernel interface: `fdinfo` lines `clockid:`, `ticks:`, `settime flags:` (octal), `it_value: (s, ns)` (what is
//! left) and `it_interval:`. A periodic timer that expired and was not read stands still in the kernel; a
//! `timerfd_gettime` on our duplicate lets it count up, which the program cannot tell from its own `read`.
//!
//! **Nothing left is not disarmed.** For POSIX timers the kernel says at least 1 ns of one that runs; for these
//! it says 0 (`timerfd_get_remaining`) in three more states, and a timer set with 0 would never expire again:
//!
//! 1. *Due, and its interrupt not yet taken*, ticks 0. The interrupt comes on the CPU that armed the timer, which is
//!    another one than ours, and may be late: by microseconds, on a virtual CPU that the host has put aside by tens
//!    of milliseconds. See `let_due_timers_expire`.
//! 2. *Periodic, expired, not read*: it stands still; it is counted up.
//! 3. *Counted up, and expired again before we looked*: the period is short, or we were not running. It is counted up
//!    again, until it is caught running; one that is too quick for that is started with a whole period.
//!
//! Remaining times need no conversion between time namespaces, so all timers are set again by what is left, less the time
//! that passed since the capture; only absolute wall-clock timers keep their date. The flags are those with which the program
//! set it: what is left of an absolute timer is added to our own clock.
//! `TFD_IOC_SET_TICKS` puts the unread expirations back.

use std::os::fd::OwnedFd;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::time::ClockId;

use crate::image::files::{FileKind, OpenFile, TimerFd};
use crate::image::obstacle::Obstacle;
use crate::state::thread::scheduling;
use crate::sys::process::on_each_cpu;
use crate::sys::time::now_ns;
use crate::sys::timerfd;
use crate::tracee::together::ahead_of_the_urgent;

use super::FilesError;
use super::maker::{Maker, TargetCheck, failed, set_flags};
use super::source::{Descriptor, Source};

const CLOCK_REALTIME_ALARM: i32 = 8;

const CLOCK_BOOTTIME_ALARM: i32 = 9;
const ABSOLUTE: u32 = libc::TFD_TIMER_ABSTIME as u32;

/// How often a periodic timer is counted up before it counts as too quick to be caught running.
const CATCHES: usize = 16;

/// Reads the timer; what it waits for matters once the process is stopped.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let mut timer = parse(file)?;
    if source.stopped && timer.remaining_ns == 0 {
        timer = with_nothing_left(source, file, timer)?;
    }
    let on_wall_clock = timer.clock == libc::CLOCK_REALTIME || timer.clock == CLOCK_REALTIME_ALARM;
    if on_wall_clock && timer.settime_flags & ABSOLUTE != 0 && timer.remaining_ns != 0 {
        timer.expires_at_ns = i64::try_from(wall_clock_ns() + u128::from(timer.remaining_ns)).ok();
    }
    Ok(Some(FileKind::TimerFd(timer)))
}

/// What a timer with nothing left really is: see the head of this file.
fn with_nothing_left(
    source: &mut Source<'_>,
    file: &Descriptor,
    mut timer: TimerFd,
) -> Result<TimerFd, FilesError> {
    let again = |source: &Source<'_>| parse(&source.read_descriptor(file.fd)?);
    if timer.ticks == 0 {
        // Those of the whole table were read before: once is enough for all of them.
        if !std::mem::replace(&mut source.due_timers_expired, true) {
            let_due_timers_expire();
        }
        timer = again(source)?;
    }
    if timer.ticks == 0 || timer.interval_ns == 0 {
        return Ok(timer);
    }
    let copy = source.duplicate(file)?;
    for _ in 0..CATCHES {
        if timer.remaining_ns != 0 {
            return Ok(timer);
        }
        timerfd::count_up(&copy).map_err(|error| source.failed(file, "count up the timer", error))?;
        timer = again(source)?;
    }
    if timer.remaining_ns == 0 {
        timer.remaining_ns = timer.interval_ns;
    }
    Ok(timer)
}

/// Returns when every timer that was due has expired. A short sleep on each CPU sees to it: it ends by a timer of that
/// CPU that is due later, and the interrupt that brings its end takes all earlier ones first (`__hrtimer_run_queues`).
fn let_due_timers_expire() {
    let online = scheduling::online_cpus();
    let cpus = (0..online.len() * 8).filter(|cpu| online[cpu / 8] & 1 << (cpu % 8) != 0);
    if !ahead_of_the_urgent(|| on_each_cpu(cpus, |_| sleep(Duration::from_nanos(1)))) {
        // A CPU that we may not run on: its interrupts are not held up for that long but by the host.
        sleep(Duration::from_millis(2));
    }
}

fn wall_clock_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// What a timer's clock says here; those that wake the machine go with their own.
fn clock_ns(clock: i32) -> u64 {
    let base = match clock {
        CLOCK_REALTIME_ALARM => libc::CLOCK_REALTIME,
        CLOCK_BOOTTIME_ALARM => libc::CLOCK_BOOTTIME,
        other => other,
    };
    u64::try_from(now_ns(ClockId::from_raw(base))).unwrap_or(0)
}

fn parse(file: &Descriptor) -> Result<TimerFd, FilesError> {
    Ok(TimerFd {
        clock: file.number("clockid", 10)? as i32,
        ticks: file.number("ticks", 10)?,
        remaining_ns: pair(file, "it_value")?,
        interval_ns: pair(file, "it_interval")?,
        settime_flags: file.number("settime flags", 8)? as u32,
        expires_at_ns: None,
    })
}

/// `(seconds, nanoseconds)`
fn pair(file: &Descriptor, field: &'static str) -> Result<u64, FilesError> {
    let unreadable = || FilesError::Fdinfo { fd: file.fd, field };
    let text = file.field(field)?.trim_start_matches('(').trim_end_matches(')');
    let (seconds, nanos) = text.split_once(',').ok_or_else(unreadable)?;
    let parse = |part: &str| part.trim().parse::<u64>().map_err(|_| unreadable());
    Ok(parse(seconds)?.saturating_mul(1_000_000_000).saturating_add(parse(nanos)?))
}

/// A timer with unread expirations needs the checkpoint ioctl; whether any will be unread is seen only at the freeze.
pub(super) fn check(check: &mut TargetCheck, timer: &TimerFd, file: &OpenFile) {
    let made = timerfd::create(timer.clock, 0);
    if let Err(error) = made.and_then(|made| timerfd::set_ticks(&made, 1)) {
        check.obstacles.push(Obstacle::new(
            file.object(),
            format!(
                "a timer on clock {} with unread expirations cannot be made at the target: {error}",
                timer.clock
            ),
            "use a kernel with CONFIG_CHECKPOINT_RESTORE, and run ulpm serve as root",
        ));
    }
}

/// A timer as it stands after `passed` more time: time left, expirations.
fn run_on(timer: &TimerFd, passed: Duration) -> (u64, u64) {
    let passed = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
    if timer.remaining_ns == 0 {
        return (0, timer.ticks);
    }
    if passed < timer.remaining_ns {
        return (timer.remaining_ns - passed, timer.ticks);
    }
    if timer.interval_ns == 0 {
        return (0, timer.ticks + 1);
    }
    let late = passed - timer.remaining_ns;
    (timer.interval_ns - late % timer.interval_ns, timer.ticks + 1 + late / timer.interval_ns)
}

/// How a timer is set: flags, first expiration, unread expirations; and the time until the first.
fn setting(timer: &TimerFd, passed: Duration) -> (i32, u64, u64, u64) {
    let Some(date) = timer.expires_at_ns.and_then(|date| u64::try_from(date).ok()) else {
        let (left, ticks) = run_on(timer, passed);
        // to the kernel the two ways are one, but it shows which one was taken
        let absolute = timer.settime_flags & ABSOLUTE != 0 && left != 0;
        let first = if absolute { clock_ns(timer.clock).saturating_add(left) } else { left };
        return (timer.settime_flags as i32, first, ticks, left);
    };
    let (mut date, mut ticks) = (date, timer.ticks);
    let now = u64::try_from(wall_clock_ns()).unwrap_or(u64::MAX);
    // One that expires once has nothing unread as long as it runs.
    if timer.interval_ns != 0 && now >= date {
        let missed = 1 + (now - date) / timer.interval_ns;
        ticks += missed;
        date += missed * timer.interval_ns;
    }
    (timer.settime_flags as i32, date, ticks, date.saturating_sub(now))
}

/// Makes and arms the timer. Arming forgets the unread expirations, setting them forgets what expired in between: where that
/// can have been, it is done again.
pub(super) fn make(maker: &Maker<'_>, file: &OpenFile, timer: &TimerFd) -> Result<OwnedFd, FilesError> {
    let made = timerfd::create(timer.clock, 0).map_err(failed(file, "make the timer"))?;
    let signed = |ns| i64::try_from(ns).unwrap_or(i64::MAX);
    let begun = Instant::now();
    for _ in 0..CATCHES {
        let now = Instant::now();
        let (flags, first, ticks, left) = setting(timer, maker.context.since_capture + (now - begun));
        timerfd::settime(&made, flags, signed(first), signed(timer.interval_ns))
            .map_err(failed(file, "arm the timer"))?;
        if ticks == 0 {
            break;
        }
        timerfd::set_ticks(&made, ticks).map_err(failed(file, "set the expirations"))?;
        if first == 0 || now.elapsed() < Duration::from_nanos(left) {
            break;
        }
    }
    set_flags(file, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, moved, only_kind, quiet};
    use super::*;
    use nix::errno::Errno;
    use std::os::fd::{AsFd, AsRawFd};

    use crate::state::files::FilesOptions;

    fn timer(clock: i32, flags: i32, first_ns: i64, interval_ns: i64) -> OwnedFd {
        let made = timerfd::create(clock, libc::TFD_NONBLOCK).unwrap();
        timerfd::settime(&made, flags, first_ns, interval_ns).unwrap();
        made
    }

    fn seen(fd: &OwnedFd) -> TimerFd {
        match only_kind(&captured(&[fd])) {
            FileKind::TimerFd(timer) => timer.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn expirations(fd: &OwnedFd) -> Result<u64, Errno> {
        let mut count = [0; 8];
        nix::unistd::read(fd, &mut count).map(|_| u64::from_ne_bytes(count))
    }

    #[test]
    fn what_is_left_travels() {
        let _quiet = quiet();
        let ours = timer(libc::CLOCK_MONOTONIC, 0, 100_000_000_000, 5_000_000_000);
        let (_, made) = moved(&[&ours]);
        let there = seen(&made[0]);
        assert!((99_000_000_000..100_000_000_000).contains(&there.remaining_ns), "{there:?}");
        assert_eq!((there.interval_ns, there.ticks, there.clock), (5_000_000_000, 0, libc::CLOCK_MONOTONIC));
    }

    #[test]
    fn unread_expirations_travel_and_stay() {
        let _quiet = quiet();
        let periodic = timer(libc::CLOCK_MONOTONIC, 0, 1, 1_000_000);
        let single = timer(libc::CLOCK_BOOTTIME, 0, 1, 0);
        let idle = timer(libc::CLOCK_REALTIME, 0, 0, 0);
        sleep(Duration::from_millis(20));
        let (_, made) = moved(&[&periodic, &single, &idle]);
        assert!(expirations(&made[0]).unwrap() >= 20);
        assert!(expirations(&periodic).unwrap() >= 20);
        assert_eq!((expirations(&made[1]), expirations(&single)), (Ok(1), Ok(1)));
        assert_eq!(expirations(&made[1]), Err(Errno::EAGAIN));
        assert_eq!(expirations(&made[2]), Err(Errno::EAGAIN));
        sleep(Duration::from_millis(5));
        assert!(expirations(&made[0]).unwrap() >= 1);
    }

    #[test]
    fn an_absolute_date_stays_absolute() {
        let _quiet = quiet();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let date = i64::try_from(now.as_nanos()).unwrap() + 50_000_000_000;
        let flags = libc::TFD_TIMER_ABSTIME | libc::TFD_TIMER_CANCEL_ON_SET;
        let ours = timer(libc::CLOCK_REALTIME, flags, date, 0);
        let (_, made) = moved(&[&ours]);
        let there = seen(&made[0]);
        assert_eq!(there.settime_flags, flags as u32);
        assert!((there.expires_at_ns.unwrap() - date).abs() < 5_000_000, "{there:?}");
    }

    #[test]
    fn flags_stay_on_every_clock() {
        let _quiet = quiet();
        let flags = libc::TFD_TIMER_ABSTIME;
        for clock in [libc::CLOCK_MONOTONIC, libc::CLOCK_BOOTTIME, libc::CLOCK_REALTIME] {
            let date = i64::try_from(clock_ns(clock)).unwrap() + 50_000_000_000;
            // one that runs, one that was disarmed in the same way
            let ours = [timer(clock, flags, date, 0), timer(clock, flags, 0, 0)];
            let (_, made) = moved(&[&ours[0], &ours[1]]);
            let [running, disarmed] = [seen(&made[0]), seen(&made[1])];
            assert_eq!((running.settime_flags, disarmed.settime_flags), (flags as u32, flags as u32));
            let ends = i64::try_from(clock_ns(clock) + running.remaining_ns).unwrap();
            assert!((ends - date).abs() < 1_000_000_000, "{clock}: {running:?}");
            assert_eq!(disarmed.remaining_ns, 0);
        }
    }

    /// What a walk over a stopped process finds.
    fn look(fd: &OwnedFd) -> TimerFd {
        let pid = i32::try_from(std::process::id()).unwrap();
        let pidfd = crate::sys::process::pidfd_open(pid).unwrap();
        let options = FilesOptions::default();
        let mut source = Source::new(pid, pidfd.as_fd(), &options, None, true);
        let file = source.read_descriptor(fd.as_raw_fd()).unwrap();
        match read(&mut source, &file).unwrap() {
            Some(FileKind::TimerFd(timer)) => timer,
            other => panic!("{other:?}"),
        }
    }

    /// The interrupt of another CPU comes when it comes, and the timer must not be taken for a disarmed one meanwhile.
    #[test]
    fn a_timer_that_is_due_on_another_cpu_has_expired() {
        const AHEAD: Duration = Duration::from_micros(300);
        let online = scheduling::online_cpus();
        let last = (0..online.len() * 8).rfind(|cpu| online[cpu / 8] & 1 << (cpu % 8) != 0).unwrap();
        for period in [0, 60_000_000_000].into_iter().cycle().take(1000) {
            let mut armed = None;
            on_each_cpu([last], |_| {
                armed =
                    Some((timer(libc::CLOCK_MONOTONIC, 0, AHEAD.as_nanos() as i64, period), Instant::now()));
            });
            on_each_cpu([0], |_| {
                let (timer, since) = armed.take().unwrap();
                while since.elapsed() < AHEAD {}
                let found = look(&timer);
                assert_eq!((found.ticks, found.remaining_ns == 0), (1, period == 0), "{found:?}");
            });
        }
    }

    #[test]
    fn a_quick_timer_is_caught_running() {
        for period in [1_000, 20_000, 50_000, 100_000, 1_000_000] {
            for _ in 0..100 {
                let ours = timer(libc::CLOCK_MONOTONIC, 0, 1, period);
                sleep(Duration::from_micros(10));
                let found = look(&ours);
                assert!((1..=period as u64).contains(&found.remaining_ns), "{found:?}");
            }
            let (_, made) = moved(&[&timer(libc::CLOCK_MONOTONIC, 0, 1, period)]);
            expirations(&made[0]).ok();
            sleep(Duration::from_millis(20));
            let (count, full) = (expirations(&made[0]).unwrap(), 20_000_000 / period as u64);
            assert!(count >= full - 1, "{count} of {full}");
        }
    }

    #[test]
    fn a_disarmed_timer_stays_disarmed() {
        for period in [0, 1_000_000] {
            let ours = timer(libc::CLOCK_MONOTONIC, 0, 0, period);
            let (_, made) = moved(&[&ours]);
            sleep(Duration::from_millis(5));
            assert_eq!(expirations(&made[0]), Err(Errno::EAGAIN));
            assert_eq!(look(&made[0]).interval_ns, period as u64);
        }
    }

    #[test]
    fn a_missed_date_counts_and_keeps_its_phase() {
        let now = u64::try_from(wall_clock_ns()).unwrap();
        let image = |date: u64, interval_ns, ticks| TimerFd {
            clock: libc::CLOCK_REALTIME,
            ticks,
            remaining_ns: 1,
            interval_ns,
            settime_flags: libc::TFD_TIMER_ABSTIME as u32,
            expires_at_ns: i64::try_from(date).ok(),
        };
        const HOUR: u64 = 3_600_000_000_000;
        let date = now - HOUR / 2;
        let (flags, first, ticks, left) = setting(&image(date, HOUR, 2), Duration::ZERO);
        assert_eq!((flags, first, ticks), (libc::TFD_TIMER_ABSTIME, date + HOUR, 3));
        assert!(left <= HOUR / 2, "{left}");
        // once only: the kernel sees that it is over
        assert_eq!(setting(&image(date, 0, 0), Duration::ZERO).1, date);
    }

    #[test]
    fn time_passes_during_the_freeze() {
        let image = |remaining_ns, interval_ns, ticks| TimerFd {
            clock: 1,
            ticks,
            remaining_ns,
            interval_ns,
            settime_flags: 0,
            expires_at_ns: None,
        };
        let ns = Duration::from_nanos;
        assert_eq!(run_on(&image(100, 0, 0), ns(30)), (70, 0));
        assert_eq!(run_on(&image(100, 0, 0), ns(100)), (0, 1));
        assert_eq!(run_on(&image(100, 40, 2), ns(190)), (30, 5));
        assert_eq!(run_on(&image(0, 0, 3), ns(30)), (0, 3));
    }
}
