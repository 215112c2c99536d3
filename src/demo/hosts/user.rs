//! The ordinary user's way: a user namespace of one's own, in which one is root.

use std::fs;
use std::io;

use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};

use super::error::HostError;

/// CAP_SYS_ADMIN's bit in `/proc/self/status`.
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// Makes this process able to create hosts: does nothing where it is already, and enters a user namespace
/// of its own otherwise. The process must have one thread only: call it early in `main`.
///
/// Returns whether a user namespace was entered.
pub fn become_able() -> Result<bool, HostError> {
    let failed = |step| move |source| HostError::NotAllowed { step, source };
    if effective_capabilities().map_err(failed("read /proc/self/status"))? & CAP_SYS_ADMIN != 0 {
        return Ok(false);
    }
    let (user, group) = (geteuid(), getegid());
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| failed("make a user namespace")(errno.into()))?;
    fs::write("/proc/self/setgroups", "deny").map_err(failed("write /proc/self/setgroups"))?;
    fs::write("/proc/self/uid_map", format!("0 {user} 1")).map_err(failed("write /proc/self/uid_map"))?;
    fs::write("/proc/self/gid_map", format!("0 {group} 1")).map_err(failed("write /proc/self/gid_map"))?;
    // Some systems let the namespace be made but give no rights in it.
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| failed("use a user namespace")(errno.into()))?;
    Ok(true)
}

fn effective_capabilities() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}
