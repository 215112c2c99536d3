//! `/proc/PID/stat` and `/proc/sys/kernel/random/boot_id`: which process a number means, and whether it still lives.

use std::fs;

use super::lossy;

/// Name of this run of the kernel: two hosts with one boot id are one host.
pub fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Start time of a process in clock ticks since boot.
pub fn start_time(pid: i32) -> Option<u64> {
    fields(&pid.to_string())?.get(19)?.parse().ok()
}

/// The fields of `stat` in a directory of `/proc` after the name: the state comes first.
pub(crate) fn fields(who: &str) -> Option<Vec<String>> {
    let stat = lossy(format!("/proc/{who}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

/// Whether every thread is ending: the main thread may end (`pthread_exit`) and leave the process to the others.
pub fn dying(pid: i32) -> bool {
    thread_dying(&pid.to_string())
        && fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .filter_map(|task| Some(task.ok()?.file_name().to_str()?.to_owned()))
            .all(|tid| thread_dying(&format!("{pid}/task/{tid}")))
}

/// Dead and not yet reaped, on its way out, or about to take a `SIGKILL`.
fn thread_dying(who: &str) -> bool {
    const PF_EXITING: u64 = 0x4;
    const SIGKILL: u64 = 1 << (libc::SIGKILL - 1);
    let Some(fields) = fields(who) else { return true };
    let ended = matches!(fields.first().map(String::as_str), Some("Z" | "X"));
    let exiting =
        fields.get(6).and_then(|flags| flags.parse::<u64>().ok()).is_some_and(|f| f & PF_EXITING != 0);
    let status = lossy(format!("/proc/{who}/status")).unwrap_or_default();
    let pending = |name: &str| {
        let text = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        u64::from_str_radix(text.trim(), 16).unwrap_or(0)
    };
    ended || exiting || (pending("SigPnd:") | pending("ShdPnd:")) & SIGKILL != 0
}
