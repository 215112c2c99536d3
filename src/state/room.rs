//! Room in an address space for the scratch area of remote calls: under the process's own limit (`RLIMIT_AS`), and under the
//! kernel's limit of mappings. Without it the move would fail when it attaches.

use crate::image::Obstacle;

const RLIMIT_AS: usize = 9;
/// The scratch area with its shelter, rounded up.
const BYTES: u64 = 256 * 1024;
/// The scratch area is two mappings; one more while it is made.
pub const MAPPINGS: usize = 3;

/// The most mappings that this kernel gives a process.
pub fn most_mappings() -> usize {
    let text = std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap_or_default();
    text.trim().parse().unwrap_or(usize::MAX - MAPPINGS)
}

/// What is too narrow. `mappings`: how many there are; `limits`: soft and hard, by number.
pub fn obstacles(pid: i32, mappings: usize, limits: &[(u64, u64)]) -> Vec<Obstacle> {
    let mut found = Vec::new();
    let most = most_mappings();
    if mappings.saturating_add(MAPPINGS) > most {
        let why = format!("it has {mappings} mappings, {most} are allowed, and a move needs {MAPPINGS} more");
        found.push(Obstacle::new(format!("process {pid}"), why, "raise the sysctl vm.max_map_count"));
    }
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm")).unwrap_or_default();
    let pages: u64 = statm.split(' ').next().and_then(|pages| pages.parse().ok()).unwrap_or(0);
    let soft = limits.get(RLIMIT_AS).map_or(u64::MAX, |(soft, _)| *soft);
    if (pages * crate::image::PAGE_SIZE).saturating_add(BYTES) > soft {
        let why = format!("its limit of address space (RLIMIT_AS, {soft} bytes) leaves no room for a move");
        let advice = format!("raise it: prlimit --pid {pid} --as=unlimited");
        found.push(Obstacle::new(format!("process {pid}"), why, advice));
    }
    found
}
