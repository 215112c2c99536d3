//! Files of `/dev/shm` whose name in `/proc/PID/maps` is gone.
//!
//! glibc's `sem_open` makes a file under a temporary name, maps it, gives it its name by `link` and takes the first one away: what is
//! mapped is called "(deleted)" for ever, while the file lives under the other name. One that has no name at all is memory of the
//! processes that map it, as a memfd is: Python's locks and arrays are (`multiprocessing` takes their names away at once).

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};

use crate::image::{FilePath, ObjectId, Obstacle};

/// Where it lies.
pub const DIRECTORY: &str = "/dev/shm/";
const DELETED: &str = " (deleted)";

/// What has become of the name.
#[derive(Debug, PartialEq, Eq)]
pub enum Name {
    /// It has this one now.
    Now(FilePath),
    /// It has none: what it was called.
    None(FilePath),
}

/// Where a file with a deleted name in `/dev/shm` is now; `None`: it is no such file.
pub fn find(path: &FilePath, id: ObjectId) -> Option<Name> {
    let old = path.strip_prefix(DIRECTORY).filter(|name| name.ends_with(DELETED))?.without_suffix(DELETED);
    if old.as_bytes().contains(&b'/') || fs::metadata(DIRECTORY).ok()?.dev() != id.dev {
        return None;
    }
    let entries = fs::read_dir(DIRECTORY).ok()?.flatten();
    let mut names: Vec<OsString> =
        entries.filter(|entry| entry.ino() == id.ino).map(|entry| entry.file_name()).collect();
    names.sort();
    let at = |name: &FilePath| FilePath::from([DIRECTORY.as_bytes(), name.as_bytes()].concat());
    Some(match names.into_iter().next() {
        Some(name) => Name::Now(at(&name.into())),
        None => Name::None(at(&old)),
    })
}

/// Makes a file that had this name once. If somebody has the name here, it never had one.
pub fn create(path: &FilePath) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let mode = Mode::from_bits_truncate(0o600);
    match open(path.as_path(), flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
        Ok(made) => {
            fs::remove_file(path)?;
            Ok(made)
        }
        Err(_) => Ok(open(DIRECTORY, flags | OFlag::O_TMPFILE, mode)?),
    }
}

/// What stands in the way of that here.
pub fn obstacle(object: &str) -> Option<Obstacle> {
    let is_memory = statfs(DIRECTORY).is_ok_and(|fs| fs.filesystem_type() == TMPFS_MAGIC);
    if is_memory && nix::unistd::access(DIRECTORY, nix::unistd::AccessFlags::W_OK).is_ok() {
        return None;
    }
    Some(Obstacle::new(
        object,
        "/dev/shm at the target is no tmpfs that may be written",
        "mount a tmpfs there",
    ))
}

/// Whether a name from another host is one that [`create`] may be given.
pub fn is_name(path: &FilePath) -> bool {
    path.strip_prefix(DIRECTORY)
        .is_some_and(|name| !name.as_bytes().contains(&b'/') && name != "" && name != "." && name != "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_found_under_its_other_name_and_then_under_none() {
        let own = std::process::id();
        let [old, new] = ["old", "new"].map(|name| format!("{DIRECTORY}ulpm-test-{own}-{name}"));
        fs::write(&old, "x").unwrap();
        let found = fs::metadata(&old).unwrap();
        let id = ObjectId { dev: found.dev(), ino: found.ino() };
        fs::hard_link(&old, &new).unwrap();
        fs::remove_file(&old).unwrap();
        let deleted = FilePath::from(format!("{old}{DELETED}"));
        assert_eq!(find(&deleted, id), Some(Name::Now(new.clone().into())));
        let kept = fs::File::open(&new).unwrap();
        fs::remove_file(&new).unwrap();
        assert_eq!(find(&deleted, id), Some(Name::None(old.clone().into())));
        assert_eq!(find(&FilePath::from(old.clone()), id), None);
        drop(kept);
        let made = create(&old.clone().into()).unwrap();
        let link = fs::read_link(crate::state::inode::by_number(&made)).unwrap();
        assert_eq!(FilePath::from(link), deleted);
        assert!(!fs::exists(&old).unwrap());
        let bad = ["/dev/shm/..", "/dev/shm/a/b", "/etc/passwd", "/dev/shm/"];
        assert!(is_name(&old.into()) && bad.iter().all(|name| !is_name(&FilePath::from(*name))));
    }
}
