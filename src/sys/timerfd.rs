//! timerfd(2) on any clock, with the ioctl by which the number of expirations is set (`CONFIG_CHECKPOINT_RESTORE`).
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libc::c_ulong;

use super::fds::{check, owned};

/// `_IOW('T', 0, __u64)`
const TFD_IOC_SET_TICKS: c_ulong = 0x4008_5400;
const _: () = assert!(TFD_IOC_SET_TICKS == (1 << 30) | (8 << 16) | ((b'T' as c_ulong) << 8));

/// A timer descriptor on any clock, close-on-exec.
pub fn create(clock: i32, flags: i32) -> io::Result<OwnedFd> {
    // SAFETY: two integers.
    owned(unsafe { libc::timerfd_create(clock, flags | libc::TFD_CLOEXEC) }.into())
}

/// Arms a timer: first expiration and period in nanoseconds (0, 0 disarms).
pub fn settime(fd: impl AsFd, flags: i32, first_ns: i64, interval_ns: i64) -> io::Result<()> {
    let spec = libc::itimerspec { it_interval: timespec(interval_ns), it_value: timespec(first_ns) };
    // SAFETY: the kernel reads `spec`; the old value is not asked for.
    let result = unsafe { libc::timerfd_settime(fd.as_fd().as_raw_fd(), flags, &spec, std::ptr::null_mut()) };
    check(result.into())?;
    Ok(())
}

/// Lets the kernel count the expirations of a periodic timer up to now (the side effect of `timerfd_gettime`
/// that programs cannot see: the count and the phase are what the next `read` would have found).
pub fn count_up(fd: impl AsFd) -> io::Result<()> {
    let mut spec = libc::itimerspec { it_interval: timespec(0), it_value: timespec(0) };
    // SAFETY: the kernel writes one `itimerspec`, which `spec` is.
    check(unsafe { libc::timerfd_gettime(fd.as_fd().as_raw_fd(), &mut spec) }.into())?;
    Ok(())
}

/// Sets the number of expirations that the next `read` returns (`CONFIG_CHECKPOINT_RESTORE`).
pub fn set_ticks(fd: impl AsFd, ticks: u64) -> io::Result<()> {
    // SAFETY: TFD_IOC_SET_TICKS reads one u64, which `ticks` is.
    check(unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), TFD_IOC_SET_TICKS, &ticks) }.into())?;
    Ok(())
}

fn timespec(ns: i64) -> libc::timespec {
    libc::timespec { tv_sec: ns.div_euclid(1_000_000_000), tv_nsec: ns.rem_euclid(1_000_000_000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_can_be_set() {
        let timer = create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK).unwrap();
        set_ticks(&timer, 41).unwrap();
        let mut count = [0_u8; 8];
        assert_eq!(nix::unistd::read(&timer, &mut count).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(count), 41);
    }
}
