//! Room in an address space for the scratch area of remote calls: under the process's own limits of memory, and under the kernel's limit
//! of mappings. Where the process has used up its own (`RLIMIT_AS`, `RLIMIT_DATA`), the area is lent by its stack ([`crate::tracee::lent`]).

use nix::errno::Errno;

use crate::image::{Note, Obstacle};
use crate::tracee::{Lent, Scratch, Site, TraceeError};

/// Numbers and names of the limits, and the field of `/proc/PID/status` that says how much is used.
const LIMITS: [(usize, &str, &str); 2] = [(9, "RLIMIT_AS", "VmSize"), (2, "RLIMIT_DATA", "VmData")];
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
    let object = || format!("process {pid}");
    let mut found = Vec::new();
    let most = most_mappings();
    if mappings.saturating_add(MAPPINGS) > most {
        let why = format!("it has {mappings} mappings, {most} are allowed, and a move needs {MAPPINGS} more");
        found.push(Obstacle::new(object(), why, "raise the sysctl vm.max_map_count"));
    }
    let Some((number, name, _)) = tight(pid, limits) else { return found };
    let soft = limits[number].0;
    let advice =
        format!("raise it: prlimit --pid {pid} --{}=unlimited", if number == 2 { "data" } else { "as" });
    if locks(pid) {
        found.push(Obstacle::new(object(), format!("{name}, {soft} bytes: {UNTOLD}"), advice));
    } else if !Site::of_running(pid).is_ok_and(|site| site.can_lend()) {
        let why = format!("its limit {name} ({soft} bytes) leaves no room for a move, nor does its stack");
        found.push(Obstacle::new(object(), why, advice));
    }
    found
}

/// The limit under which the scratch area cannot be mapped.
fn tight(pid: i32, limits: &[(u64, u64)]) -> Option<(usize, &'static str, &'static str)> {
    LIMITS.into_iter().find(|(number, _, field)| {
        limits.get(*number).is_some_and(|(soft, _)| used(pid, field).saturating_add(BYTES) > *soft)
    })
}

/// A field of `/proc/PID/status`, in bytes.
fn used(pid: i32, field: &str) -> u64 {
    let status = crate::sys::lossy(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// Why a process is refused that has locked memory and no room.
pub const UNTOLD: &str =
    "there is no room under it to find out whether mappings to come are to be locked (mlockall)";
/// Why a process is refused whose locked memory is at its limit.
pub const NO_MORE_LOCKED: &str =
    "what it maps is locked (mlockall), and its limit RLIMIT_MEMLOCK leaves no room for a move";

/// What `ulpm check` cannot know of a process whose personality has `READ_IMPLIES_EXEC`.
pub const UNSEEN_DENIAL: &str = "what it maps to be read is executable (READ_IMPLIES_EXEC); should it deny itself to write to what is \
     executable (PR_SET_MDWE), which shows only inside, it is refused when ulpm live attaches, with nothing touched";

/// See [`UNSEEN_DENIAL`].
pub fn notes(pid: i32) -> Option<Note> {
    implies_exec(pid).then(|| Note::new(format!("process {pid}"), UNSEEN_DENIAL))
}

/// Why a process is refused in which nothing can be mapped to be read and written. That it has `PR_SET_MDWE` shows nowhere from outside.
pub const NOTHING_WRITABLE: &str = "what it maps to be read is executable (READ_IMPLIES_EXEC), and what is executable may not be written (PR_SET_MDWE)";

fn locks(pid: i32) -> bool {
    used(pid, "VmLck") > 0
}

/// Whether its personality has `READ_IMPLIES_EXEC`. Each thread has one of its own; it is set before threads are made.
fn implies_exec(pid: i32) -> bool {
    let text =
        crate::sys::lossy(format!("/proc/{}/personality", crate::sys::voice::of(pid))).unwrap_or_default();
    u32::from_str_radix(text.trim(), 16).is_ok_and(|persona| persona & libc::READ_IMPLIES_EXEC as u32 != 0)
}

/// Why there is no scratch area.
#[derive(Debug)]
pub enum NoRoom {
    /// What the process is stands in the way.
    Refused(Obstacle),
    /// It could not be made.
    Failed(TraceeError),
}

/// The scratch area that was mapped, or the one that the stack lends since nothing could be.
pub fn area(
    site: &Site,
    rsp: u64,
    mapped: Result<Scratch, TraceeError>,
) -> Result<(Scratch, Option<Lent>), NoRoom> {
    let e = match mapped {
        Ok(scratch) => return Ok((scratch, None)),
        Err(e) => e,
    };
    let pid = site.pid;
    let refused = |why: &str, limit: &str| {
        let advice = format!("raise it: prlimit --pid {pid} --{limit}=unlimited");
        NoRoom::Refused(Obstacle::new(format!("process {pid}"), why, advice))
    };
    match &e {
        TraceeError::RemoteCall { source: Errno::EACCES, .. } if implies_exec(pid) => {
            let advice = "start it without that personality (setarch -X)";
            Err(NoRoom::Refused(Obstacle::new(format!("process {pid}"), NOTHING_WRITABLE, advice)))
        }
        TraceeError::RemoteCall { source: Errno::EAGAIN, .. } => Err(refused(NO_MORE_LOCKED, "memlock")),
        TraceeError::RemoteCall { source: Errno::ENOMEM, .. } if locks(pid) => Err(refused(UNTOLD, "as")),
        _ => Lent::instead(site, rsp, e).map(|(scratch, lent)| (scratch, Some(lent))).map_err(NoRoom::Failed),
    }
}
