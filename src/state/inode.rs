//! Owner, mode, times and extended attributes of what has no name: pipes and memory files. An ordinary user's process opens such a one
//! again by `/proc/self/fd` only if it is its own.
//!
//! `ctime` and `btime` cannot be set. Extended attributes of the security modules are the host's own and stay behind.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{Mode, fchmod, fstat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown};

use crate::image::Obstacle;
use crate::image::inode::Inode;
use crate::sys::fds;

/// What `stat` says.
pub fn of(metadata: &Metadata) -> Inode {
    let ns = |s: i64, ns: i64| s.saturating_mul(1_000_000_000).saturating_add(ns);
    Inode {
        uid: metadata.uid(),
        gid: metadata.gid(),
        mode: metadata.mode() & 0o7777,
        atime_ns: ns(metadata.atime(), metadata.atime_nsec()),
        mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
        xattrs: Vec::new(),
    }
}

/// Attributes of security modules: a host's own.
const OF_MODULES: &[&[u8]] = &[b"security.selinux", b"security.apparmor", b"security.ima", b"security.evm"];
const OF_SMACK: &[u8] = b"security.SMACK64";

/// With its extended attributes, and the name of one that cannot be carried: `security.capability` would be a right that nobody here
/// has given.
pub fn with_attributes(metadata: &Metadata, file: impl AsFd) -> io::Result<(Inode, Option<String>)> {
    let (theirs, xattrs): (Vec<_>, Vec<_>) =
        fds::attributes(file)?.into_iter().partition(|(name, _)| name.starts_with(b"security."));
    let is_left = |name: &[u8]| OF_MODULES.contains(&name) || name.starts_with(OF_SMACK);
    let refused = theirs.into_iter().find(|(name, _)| !is_left(name));
    let refused = refused.map(|(name, _)| String::from_utf8_lossy(&name).into_owned());
    Ok((Inode { xattrs, ..of(metadata) }, refused))
}

/// Puts all of it. Content comes before: writing changes the times, and the mode may forbid it.
pub fn put(inode: &Inode, file: impl AsFd) -> io::Result<()> {
    let now = fstat(file.as_fd())?;
    if (now.st_uid, now.st_gid) != (inode.uid, inode.gid) {
        let differs = |ours: u32, theirs: u32| (ours != theirs).then_some(theirs);
        fchown(
            file.as_fd(),
            differs(now.st_uid, inode.uid).map(Uid::from_raw),
            differs(now.st_gid, inode.gid).map(Gid::from_raw),
        )?;
    }
    for (name, value) in &inode.xattrs {
        fds::set_attribute(file.as_fd(), name, value)?;
    }
    if now.st_mode & 0o7777 != inode.mode || now.st_uid != inode.uid {
        fchmod(file.as_fd(), Mode::from_bits_truncate(inode.mode))?;
    }
    let time = |ns: i64| TimeSpec::new(ns.div_euclid(1_000_000_000), ns.rem_euclid(1_000_000_000));
    futimens(file.as_fd(), &time(inode.atime_ns), &time(inode.mtime_ns))?;
    Ok(())
}

/// Why an object cannot belong to this user here: only root gives to others.
pub fn obstacle(object: &str, inode: &Inode) -> Option<Obstacle> {
    const CAP_CHOWN: u32 = 0;
    let own = crate::state::credentials_of_self().ok()?;
    let ours = own.uids[3] == inode.uid && (own.gids[3] == inode.gid || own.groups.contains(&inode.gid));
    if ours || own.caps[2] >> CAP_CHOWN & 1 == 1 {
        return None;
    }
    Some(Obstacle::new(
        object,
        format!(
            "it belongs to user {} and group {}, which may not be given to it here",
            inode.uid, inode.gid
        ),
        "run `ulpm serve` as root, for a source that may send processes of any user",
    ))
}

/// As `/proc/self/fd` names a descriptor of ours.
pub fn by_number(file: impl AsFd) -> String {
    format!("/proc/self/fd/{}", file.as_fd().as_raw_fd())
}
