//! Who is at work on a process: `ulpm live` and `ulpm profile` hold a lock on its directory of `/proc` (`flock`), as long as
//! they live. `/proc/locks` says who holds it: whatever its `ULPM_HOME` and whosever it is.
//!
//! Anybody may lock that directory. The word of an ordinary user counts for processes of his own only, and nobody is kept
//! from anything by a lock whose holder is not seen: the kernel allows one userfaultfd for a mapping in any case.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{major, minor};

use crate::image::Obstacle;
use crate::sys::stat::Stat;

/// A process is ours to work on until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _lock: Flock<File>,
}

impl Claim {
    /// Takes it, if nobody else has it.
    pub fn take(pid: i32) -> Option<Claim> {
        let directory = File::open(format!("/proc/{pid}")).ok()?;
        let lock = Flock::lock(directory, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Claim { _lock: lock })
    }
}

/// Another ulpm at work on a process.
pub fn obstacle(pid: i32) -> Option<Obstacle> {
    let holder = holder(pid)?;
    let args = command_line(holder);
    let (verb, command) =
        match args.iter().find(|arg| matches!(arg.as_str(), "live" | "profile" | "checkpoint"))?.as_str() {
            "live" => ("moved", "live"),
            "checkpoint" => ("written down", "checkpoint"),
            _ => ("watched", "profile"),
        };
    // the one that the user started, of which the holder is the worker, with the same arguments
    let same = |parent: &i32| command_line(*parent).get(1..) == args.get(1..);
    let starter = parent(holder).filter(same).unwrap_or(holder);
    Some(Obstacle::new(
        format!("process {pid}"),
        format!("it is being {verb} by `ulpm {command}`, pid {starter}"),
        format!("wait until that has ended, or end it: kill {starter}"),
    ))
}

fn holder(pid: i32) -> Option<i32> {
    let directory = fs::metadata(format!("/proc/{pid}")).ok()?;
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let holder = locked(&locks, directory.dev(), directory.ino())?;
    let user = fs::metadata(format!("/proc/{holder}")).ok()?.uid();
    let counts = [0, directory.uid(), nix::unistd::geteuid().as_raw()].contains(&user);
    (counts && holder != std::process::id() as i32).then_some(holder)
}

/// Who holds a `flock` of that inode, e.g. `1: FLOCK  ADVISORY  WRITE 4242 00:15:49001 0 EOF`.
fn locked(locks: &str, dev: u64, ino: u64) -> Option<i32> {
    let inode = format!("{:02x}:{:02x}:{ino}", major(dev), minor(dev));
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // those that wait for it have an arrow
        let [_, "FLOCK", _, "WRITE", pid, at, ..] = words[..] else { return None };
        pid.parse().ok().filter(|pid| at == inode && *pid > 0)
    })
}

fn command_line(pid: i32) -> Vec<String> {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).split_terminator('\0').map(str::to_owned).collect()
}

fn parent(pid: i32) -> Option<i32> {
    Stat::of(pid)?.parent()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::quietly;

    #[test]
    fn a_claim_is_seen_and_goes() {
        let mut sleeper = quietly(std::process::Command::new("sleep").arg("60"));
        let pid = sleeper.id() as i32;
        let directory = fs::metadata(format!("/proc/{pid}")).unwrap();
        let holder = || locked(&fs::read_to_string("/proc/locks").unwrap(), directory.dev(), directory.ino());
        assert_eq!(holder(), None);
        let claim = Claim::take(pid).unwrap();
        assert_eq!(holder(), Some(std::process::id() as i32));
        assert!(Claim::take(pid).is_none() && obstacle(pid).is_none(), "our own is in nobody's way");
        drop(claim);
        assert!(holder().is_none() && Claim::take(pid).is_some());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }

    #[test]
    fn lines_are_told_apart() {
        let locks = "1: POSIX  ADVISORY  WRITE 7 00:15:49001 0 EOF\n\
            2: FLOCK  ADVISORY  WRITE 8 00:15:49002 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 9 00:15:49001 0 EOF\n\
            3: FLOCK  ADVISORY  WRITE 10 00:15:49001 0 EOF\n";
        assert_eq!(locked(locks, 0x15, 49001), Some(10));
        assert_eq!(locked(locks, 0x16, 49001), None);
    }
}
