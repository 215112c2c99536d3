//! A number in a file of `/proc/PID` that anybody who may can write.

/// The number; `None`: the kernel has no such file, or it holds none. `radix`: of the digits.
pub(super) fn read(pid: i32, name: &str, radix: u32) -> Option<i64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/{name}")).ok()?;
    i64::from_str_radix(text.trim(), radix).ok()
}

/// Writes it where it differs. Who may not has a warning in the log: the process runs as well without.
pub(super) fn put(pid: i32, name: &str, radix: u32, value: i64) {
    if read(pid, name, radix) == Some(value) {
        return;
    }
    let text = if radix == 16 { format!("{value:#x}") } else { value.to_string() };
    if let Err(e) = std::fs::write(format!("/proc/{pid}/{name}"), text) {
        tracing::warn!(pid, name, error = %e, "could not be set as it was at the source");
    }
}
