//! A resource limit of a process that stands in the way for a moment: raised from outside (`prlimit`) and put back.
//!
//! Above the hard limit only CAP_SYS_RESOURCE leads. Should we be killed in between, the process keeps the higher limit.

use nix::errno::Errno;

use super::process::prlimit;

/// `RLIMIT_NOFILE`
const NOFILE: u32 = 7;
const CAP_SYS_RESOURCE: u32 = 24;
/// So many numbers are kept free for us.
const ROOM: u64 = 16;

/// A limit that is higher as long as this lives.
#[derive(Debug)]
pub struct Raised {
    pid: i32,
    resource: u32,
    was: (u64, u64),
    set: (u64, u64),
}

impl Raised {
    /// Makes sure that the limit is at least `need`; `None`: it is, or we may not.
    pub fn to(pid: i32, resource: u32, need: u64) -> Result<Option<Self>, Errno> {
        let was = prlimit(pid, resource, None)?;
        if was.0 >= need {
            return Ok(None);
        }
        let raise = |set: (u64, u64)| prlimit(pid, resource, Some(set)).map(|_| set);
        let set = raise((need, was.1.max(need))).or_else(|_| raise((need.min(was.1), was.1)))?;
        Ok(Some(Raised { pid, resource, was, set }))
    }

    /// Makes sure that a process may open another descriptor.
    pub fn descriptors(pid: i32) -> Result<Option<Self>, Errno> {
        Self::to(pid, NOFILE, open_descriptors(pid) + ROOM)
    }
}

/// Why the process can open no other descriptor, not even with the help of [`Raised::descriptors`].
pub fn no_descriptor(pid: i32) -> Option<&'static str> {
    let (soft, hard) = shown(pid)?;
    let used = open_descriptors(pid);
    // setting what is set already tells whether one may
    let may_set = || prlimit(pid, NOFILE, Some((soft, hard))).is_ok();
    let beyond = || own_capability(CAP_SYS_RESOURCE);
    let room = used + ROOM <= soft || beyond() || (used + ROOM <= hard && may_set());
    (!room).then_some(
        "no descriptor is free in the process, and its limit of open files cannot be raised from here",
    )
}

/// Whoever may look at the process may read this; `prlimit` wants the same user or CAP_SYS_RESOURCE even to read.
fn shown(pid: i32) -> Option<(u64, u64)> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let mut numbers = line.split_whitespace().map(|n| n.parse().unwrap_or(u64::MAX));
    Some((numbers.next()?, numbers.next()?))
}

pub(super) fn own_capability(number: u32) -> bool {
    let status = crate::sys::lossy("/proc/thread-self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok());
    bits.is_some_and(|bits| bits >> number & 1 == 1)
}

/// How many are open: the size of the directory since Linux 6.2, else its entries are counted.
fn open_descriptors(pid: i32) -> u64 {
    let path = format!("/proc/{}/fd", super::voice::of(pid));
    match std::fs::metadata(&path).map_or(0, |m| m.len()) {
        0 => std::fs::read_dir(&path).map_or(0, |entries| entries.count() as u64),
        count => count,
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // the process may have set another one meanwhile
        if prlimit(self.pid, self.resource, None) == Ok(self.set) {
            let _ = prlimit(self.pid, self.resource, Some(self.was));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_raised_is_put_back_unless_somebody_else_has_set_it() {
        let mut sleeper = std::process::Command::new("sleep");
        let mut sleeper = crate::sys::spawn::quietly(sleeper.arg("60"));
        let pid = sleeper.id() as i32;
        prlimit(pid, NOFILE, Some((5, 64))).unwrap();
        let raised = Raised::to(pid, NOFILE, 40).unwrap().unwrap();
        assert_eq!(prlimit(pid, NOFILE, None), Ok((40, 64)));
        drop(raised);
        assert_eq!(prlimit(pid, NOFILE, None), Ok((5, 64)));
        assert!(Raised::to(pid, NOFILE, 5).unwrap().is_none());
        let raised = Raised::descriptors(pid).unwrap().unwrap();
        prlimit(pid, NOFILE, Some((7, 63))).unwrap();
        drop(raised);
        assert_eq!(prlimit(pid, NOFILE, None), Ok((7, 63)));
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
