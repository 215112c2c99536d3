//! `/proc/PID/stat` and `/proc/sys/kernel/random/boot_id`: which process a number means, and whether it still lives.

use std::fs;

use super::lossy;

/// Name of this run of the kernel: two hosts with one boot id are one host.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What stands in a `stat` file after the name, which may hold anything; fields are numbered as in proc_pid_stat(5).
#[derive(Debug)]
pub(crate) struct Stat(String);

/// It is on its way out.
const PF_EXITING: u64 = 0x4;
/// It is a thread of the kernel.
const PF_KTHREAD: u64 = 0x0020_0000;

impl Stat {
    /// Of a process, or of a thread by its id. What counts for a process adds up all its threads.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        Self::read(&format!("/proc/{pid}/stat"))
    }

    /// Of one thread alone.
    pub(crate) fn of_thread(pid: i32, tid: i32) -> Option<Self> {
        Self::read(&format!("/proc/{pid}/task/{tid}/stat"))
    }

    fn read(path: &str) -> Option<Self> {
        let mut text = lossy(path).ok()?;
        text.drain(..text.rfind(") ")? + 2);
        Some(Stat(text))
    }

    fn field<T: std::str::FromStr>(&self, number: usize) -> Option<T> {
        /// Of the first one after the name.
        const FIRST: usize = 3;
        self.0.split_whitespace().nth(number - FIRST)?.parse().ok()
    }

    /// Its state, a letter; `?` where none stands.
    pub(crate) fn state(&self) -> char {
        self.field(3).unwrap_or('?')
    }

    /// Dead, reaped or not.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state(), 'Z' | 'X')
    }

    /// The process that started it, or took it over.
    pub(crate) fn parent(&self) -> Option<i32> {
        self.field(4)
    }

    /// Its process group; 0: of an outer pid namespace.
    pub(crate) fn group(&self) -> Option<i32> {
        self.field(5)
    }

    /// Its session; 0: of an outer pid namespace.
    pub(crate) fn session(&self) -> Option<i32> {
        self.field(6)
    }

    /// `PF_*`
    pub(crate) fn flags(&self) -> u64 {
        self.field(9).unwrap_or(0)
    }

    /// Whether it is on its way out.
    pub(crate) fn is_ending(&self) -> bool {
        self.flags() & PF_EXITING != 0
    }

    /// Whether it is a thread of the kernel.
    pub(crate) fn is_of_kernel(&self) -> bool {
        self.flags() & PF_KTHREAD != 0
    }

    /// Start time in clock ticks since boot.
    pub(crate) fn start_time(&self) -> Option<u64> {
        self.field(22)
    }

    /// The CPU that it ran on last.
    pub(crate) fn cpu(&self) -> Option<usize> {
        self.field(39)
    }

    /// The status with which it has ended, as wait(2) tells it; 0 where it is not shown.
    pub(crate) fn exit_code(&self) -> u32 {
        self.field(52).unwrap_or(0)
    }
}

/// Start time of a process in clock ticks since boot.
pub fn start_time(pid: i32) -> Option<u64> {
    Stat::of(pid)?.start_time()
}

/// Whether a process stands still: none of its threads that live runs, sleeps or waits.
pub(crate) fn stopped(pid: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut tids = tasks.filter_map(|task| task.file_name().to_str()?.parse().ok());
    tids.all(|tid| Stat::of_thread(pid, tid).is_none_or(|stat| matches!(stat.state(), 'T' | 't' | 'Z' | 'X')))
}

/// Whether every thread is ending: the main thread may end (`pthread_exit`) and leave the process to the others.
pub fn dying(pid: i32) -> bool {
    thread_dying(pid, Stat::of(pid))
        && fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .filter_map(|task| task.ok()?.file_name().to_str()?.parse().ok())
            .all(|tid| thread_dying(tid, Stat::of_thread(pid, tid)))
}

/// Dead and not yet reaped, on its way out, or about to take a `SIGKILL`.
fn thread_dying(tid: i32, stat: Option<Stat>) -> bool {
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let Some(stat) = stat else { return true };
    let kill = |status: super::status::Status| (status.sigpnd | status.shdpnd) & SIGKILL != 0;
    stat.has_ended() || stat.is_ending() || super::status::Status::of(tid).is_ok_and(kill)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_by_their_numbers() {
        let numbers: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = Stat(format!("S {}", numbers.join(" ")));
        assert_eq!((stat.state(), stat.parent(), stat.flags()), ('S', Some(4), 9));
        assert_eq!((stat.start_time(), stat.cpu(), stat.exit_code()), (Some(22), Some(39), 52));
        let own = Stat::of(std::process::id() as i32).unwrap();
        assert_eq!(own.parent(), Some(nix::unistd::getppid().as_raw()));
        assert!(!own.has_ended() && !own.is_ending() && !own.is_of_kernel());
    }
}
