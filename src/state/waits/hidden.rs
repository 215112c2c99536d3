//! Which call is behind `restart_syscall(2)`, when somebody else interrupted it: that number has taken the place of its own.
//!
//! Told, in this order, by
//! 1. the code: wrappers load the number with `mov eax, imm32` shortly before the instruction; `syscall(3)` does not;
//! 2. the kernel function in which the thread slept (`/proc/TID/wchan`, before the stop): poll and futex have one of their own. A sleep
//!    that was restarted has not: `hrtimer_nanosleep_restart` counts as a part of the scheduler (`__sched`), which is left out, and what
//!    calls it ends in a jump. What is shown is the function in which all calls begin (`do_syscall_64`), or another, as it was compiled;
//! 3. the arguments, of which the kernel has left all in the registers: what could not have been accepted in a call was not that call.
//!
//! Where more than one call is possible none is named: the thread was awake when it was looked at, and a moment later it
//! sleeps in a function with a name.

use crate::sys::ptrace::Regs;

/// The call, given where the thread slept and its memory, 16 bytes at a time.
pub(super) fn call(regs: &Regs, wchan: &str, read: impl Fn(u64) -> Option<[u8; 16]>) -> Option<i64> {
    let code = [read(regs.rip.wrapping_sub(32)), read(regs.rip.wrapping_sub(16))];
    if let [Some(first), Some(second)] = code
        && let Some(nr) = of_code(&[first, second].concat())
    {
        return Some(nr);
    }
    let possible = of_arguments(regs, read);
    let only = |some: &[i64]| {
        let mut left = possible.iter().filter(|nr| some.contains(nr));
        left.next().copied().filter(|_| left.next().is_none())
    };
    const SLEEPS: [i64; 2] = [libc::SYS_nanosleep, libc::SYS_clock_nanosleep];
    match wchan.trim() {
        w if w.contains("futex") => Some(libc::SYS_futex),
        w if w.contains("poll") => Some(libc::SYS_poll),
        // awake, or just released from another stop (`ptrace_stop`, `do_signal_stop`, `get_signal`)
        w if w.is_empty() || w == "0" || w.contains("signal") || w.contains("stop") => only(&possible),
        _ => only(&SLEEPS).or_else(|| only(&possible)),
    }
}

/// The number that was loaded last before the instruction; `code` ends with that.
fn of_code(code: &[u8]) -> Option<i64> {
    let known = [libc::SYS_poll, libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_futex];
    code.windows(5).rev().find_map(|w| {
        let nr = i64::from(i32::from_le_bytes([w[1], w[2], w[3], w[4]]));
        (w[0] == 0xb8 && known.contains(&nr)).then_some(nr)
    })
}

/// The calls that can have had these arguments.
fn of_arguments(regs: &Regs, read: impl Fn(u64) -> Option<[u8; 16]>) -> Vec<i64> {
    const FUTEX_FLAGS: u32 = (libc::FUTEX_PRIVATE_FLAG | libc::FUTEX_CLOCK_REALTIME) as u32;
    const WAITS: [u32; 2] = [libc::FUTEX_WAIT as u32, libc::FUTEX_WAIT_BITSET as u32];
    let timespec = |at| read(at).is_some_and(|bytes| is_timespec(u128::from_le_bytes(bytes)));
    let remainder = |at| at == 0 || timespec(at);
    let int = |argument: u64| argument <= u64::from(u32::MAX) || argument >= u64::MAX << 31;
    let second = regs.rsi as u32;
    let possible = [
        (libc::SYS_nanosleep, timespec(regs.rdi) && remainder(regs.rsi)),
        (
            libc::SYS_clock_nanosleep,
            is_clock(regs.rdi) && second == 0 && timespec(regs.rdx) && remainder(regs.r10),
        ),
        (
            libc::SYS_futex,
            int(regs.rsi)
                && WAITS.contains(&(second & !FUTEX_FLAGS))
                && regs.rdi.is_multiple_of(4)
                && read(regs.rdi).is_some()
                && timespec(regs.r10),
        ),
        (
            libc::SYS_poll,
            int(regs.rsi)
                && int(regs.rdx)
                // it would not have waited
                && regs.rdx as u32 != 0
                && (second == 0 || read(regs.rdi).is_some()),
        ),
    ];
    possible.into_iter().filter_map(|(nr, can_be)| can_be.then_some(nr)).collect()
}

fn is_timespec(bytes: u128) -> bool {
    let (seconds, nanoseconds) = (bytes as u64, (bytes >> 64) as u64);
    seconds <= i64::MAX as u64 && nanoseconds < 1_000_000_000
}

/// Whether an argument can be a `clockid_t`: a small number, or a negative one of 32 bits.
fn is_clock(argument: u64) -> bool {
    let negative =
        u32::try_from(argument).is_ok_and(|low| low.cast_signed() < 0) || argument.cast_signed() < 0;
    argument <= 16 || negative
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tracee::restart::timespec_bytes;
    use std::time::Duration;

    const TIMESPEC: u64 = 0x7ffd_a85e_1ae0;
    const DATA: u64 = 0x7ffd_a85e_2000;

    fn regs(args: [u64; 6]) -> Regs {
        let mut regs = crate::sys::regs::from_words(&[0; 27]).unwrap();
        [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9] = args;
        regs.rip = 0x7fcd_9aaf_b829;
        regs
    }

    /// Code of `syscall(3)`, a timespec, and something that is none.
    fn read(at: u64) -> Option<[u8; 16]> {
        match at {
            TIMESPEC => Some(timespec_bytes(Duration::from_millis(1200))),
            DATA => Some([0xff; 16]),
            0x7fcd_9aaf_b809..0x7fcd_9aaf_b829 => Some([0x90; 16]),
            _ => None,
        }
    }

    #[test]
    fn the_number_of_a_restarted_call_is_found_in_the_code() {
        let code = [0x90, 0xb8, 7, 0, 0, 0, 0x0f, 0x05];
        assert_eq!(of_code(&code), Some(libc::SYS_poll));
        assert_eq!(of_code(&[0x90, 0x0f, 0x05]), None);
    }

    #[test]
    fn a_restarted_sleep_has_no_function_of_its_own() {
        let both = regs([TIMESPEC, TIMESPEC, 0, 0, DATA, 3]);
        let plain = regs([TIMESPEC, 0, 5, TIMESPEC, DATA, 3]);
        let clock = regs([1, 0, TIMESPEC, TIMESPEC, DATA, 3]);
        for wchan in ["do_syscall_64", "__x64_sys_restart_syscall", "hrtimer_nanosleep"] {
            assert_eq!(call(&both, wchan, read), Some(libc::SYS_nanosleep));
            assert_eq!(call(&plain, wchan, read), Some(libc::SYS_nanosleep));
            assert_eq!(call(&clock, wchan, read), Some(libc::SYS_clock_nanosleep));
        }
        let futex = regs([DATA, 128, 0, TIMESPEC, 0, 0]);
        assert_eq!(call(&futex, "futex_do_wait", read), Some(libc::SYS_futex));
        // asleep in a page fault
        assert_eq!(call(&futex, "handle_userfault", read), Some(libc::SYS_futex));
        assert_eq!(
            call(&regs([0, 0, 3000, 0, 0, 0]), "poll_schedule_timeout.constprop.0", read),
            Some(libc::SYS_poll)
        );
    }

    #[test]
    fn a_thread_that_was_awake_is_told_by_its_arguments_or_not_at_all() {
        let of = |args| {
            let found = ["0", "", "do_signal_stop"].map(|wchan| call(&regs(args), wchan, read));
            assert!(found.iter().all(|nr| *nr == found[0]));
            found[0]
        };
        assert_eq!(of([TIMESPEC, TIMESPEC, 0, 0, DATA, 3]), Some(libc::SYS_nanosleep));
        assert_eq!(of([1, 0, TIMESPEC, 0, 0, 0]), Some(libc::SYS_clock_nanosleep));
        assert_eq!(of([DATA, 1, 3000, 0, 0, 0]), Some(libc::SYS_poll));
        assert_eq!(of([0, 0, 0xffff_ffff, 0, 0, 0]), Some(libc::SYS_poll));
        // a sleep, or a futex without the private flag, or a poll of nothing
        assert_eq!(of([TIMESPEC, 0, 0, TIMESPEC, 0, 0]), None);
    }

    #[test]
    fn addresses_are_no_clocks() {
        for clock in [0, 1, 7, 11, 0xffff_fffa, -6_i64 as u64] {
            assert!(is_clock(clock), "{clock:#x}");
        }
        for address in [0x40_4000, 0x7fff_b9a8_d998, 0x5555_8000_0000] {
            assert!(!is_clock(address), "{address:#x}");
        }
    }
}
