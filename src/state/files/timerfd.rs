//! `timerfd_create(2)`: timers as reads.
//!
//! Kernel interface: `fdinfo` lines `clockid:`, `ticks:`, `settime flags:` (octal), `it_value: (s, ns)` (what is
//! left) and `it_interval:`. A periodic timer that expired and was not read stands still in the kernel; a
//! `timerfd_gettime` on our duplicate lets it count up, which the program cannot tell from its own `read`.
//!
//! Remaining times need no conversion between time namespaces, so all timers are set again relatively, less
//! the time that passed since the capture; only absolute wall-clock timers keep their date.
//! `TFD_IOC_SET_TICKS` puts the unread expirations back.

use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::image::files::{FileKind, OpenFile, TimerFd};
use crate::image::obstacle::Obstacle;
use crate::sys::fds;

use super::FilesError;
use super::source::{Descriptor, Source};
use super::target::{Maker, TargetCheck, failed, set_flags};

const CLOCK_REALTIME_ALARM: i32 = 8;

/// Reads the timer.
pub(super) fn read(source: &Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let mut timer = parse(file)?;
    if timer.interval_ns != 0 && timer.remaining_ns == 0 && timer.ticks != 0 {
        let copy = source.duplicate(file)?;
        fds::timerfd_count_up(&copy).map_err(|error| source.failed(file, "count up the timer", error))?;
        timer = parse(&source.read_descriptor(file.fd)?)?;
    }
    let on_wall_clock = timer.clock == libc::CLOCK_REALTIME || timer.clock == CLOCK_REALTIME_ALARM;
    if on_wall_clock && timer.settime_flags & libc::TFD_TIMER_ABSTIME as u32 != 0 && timer.remaining_ns != 0 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        timer.expires_at_ns = i64::try_from(now + u128::from(timer.remaining_ns)).ok();
    }
    Ok(Some(FileKind::TimerFd(timer)))
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
    let made = fds::timerfd_create(timer.clock, 0);
    if let Err(error) = made.and_then(|made| fds::timerfd_set_ticks(&made, 1)) {
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

/// Makes and arms the timer.
pub(super) fn make(maker: &Maker<'_>, file: &OpenFile, timer: &TimerFd) -> Result<OwnedFd, FilesError> {
    let made = fds::timerfd_create(timer.clock, 0).map_err(failed(file, "make the timer"))?;
    let interval = i64::try_from(timer.interval_ns).unwrap_or(i64::MAX);
    let ticks = match timer.expires_at_ns {
        Some(date) => {
            fds::timerfd_settime(&made, timer.settime_flags as i32, date, interval)
                .map_err(failed(file, "arm the timer"))?;
            timer.ticks
        }
        None => {
            let (left, ticks) = run_on(timer, maker.context.since_capture);
            let left = i64::try_from(left).unwrap_or(i64::MAX);
            fds::timerfd_settime(&made, 0, left, interval).map_err(failed(file, "arm the timer"))?;
            ticks
        }
    };
    if ticks != 0 {
        fds::timerfd_set_ticks(&made, ticks).map_err(failed(file, "set the expirations"))?;
    }
    set_flags(file, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, moved, only_kind, quiet};
    use super::*;
    use nix::errno::Errno;
    use std::thread::sleep;

    fn timer(clock: i32, flags: i32, first_ns: i64, interval_ns: i64) -> OwnedFd {
        let made = fds::timerfd_create(clock, libc::TFD_NONBLOCK).unwrap();
        fds::timerfd_settime(&made, flags, first_ns, interval_ns).unwrap();
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
