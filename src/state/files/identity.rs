//! Is a path at the target the file that the process has open (or mapped) at the source?
//!
//! | opened for | must be |
//! |---|---|
//! | reading | the same file, or a clone of it with equal times, or a file of the same content (blake3) |
//! | writing | the very same file on a file system that both hosts share; else the two would diverge |
//! | made-up files (`/proc`, `/sys`, cgroups) | there |

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::statfs::{FsType, fstatfs, statfs};

use crate::image::file_path::FilePath;
use crate::image::files::{ContentHash, ContentHashes, FileIdentity};
use crate::image::obstacle::Obstacle;
use crate::sys::stat;

/// What a file is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its content must be the same.
    Read,
    /// It must be the same file.
    Write,
}

/// The answer of [`check_file`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileCheck {
    /// The same file, or a clone that cannot be told from it.
    Same,
    /// Another file with the same content; valid as long as neither changes.
    SameContent(Vetted),
    /// The source has to be asked for the content's hash.
    NeedsHash,
    /// It cannot stand in.
    Differs(Obstacle),
}

/// A file of the target that was found to hold the content of the source's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vetted {
    /// The path on both hosts.
    pub path: FilePath,
    /// The source's file as it was compared.
    pub source: FileIdentity,
    /// The target's file as it was compared.
    pub target: FileIdentity,
}

/// Compares the file at `path` here with the source's; `object` names it in obstacles.
pub fn check_file(
    object: &str,
    path: &FilePath,
    source: &FileIdentity,
    access: Access,
    hashes: &ContentHashes,
) -> FileCheck {
    let differs = |why: String, advice: &str| FileCheck::Differs(Obstacle::new(object, why, advice));
    let target = match identity_of_path(path.as_path()) {
        Ok(target) => target,
        Err(error) => {
            let why = format!("{path} cannot be found at the target: {error}");
            return differs(why, absent(path, access));
        }
    };
    if source.mode & libc::S_IFMT != target.mode & libc::S_IFMT {
        return differs(format!("{path} is another kind of file at the target"), "put the same file there");
    }
    if source.same_file(&target) || source.is_made_up() {
        return FileCheck::Same;
    }
    if access == Access::Write {
        return differs(
            format!("{path} is open for writing and is another file at the target: the two would diverge"),
            absent(path, access),
        );
    }
    if source.same_content(&target) {
        return FileCheck::Same;
    }
    if source.size != target.size {
        return differs(
            format!("{path} has {} bytes at the target and {} at the source", target.size, source.size),
            absent(path, access),
        );
    }
    let Some(wanted) = hashes.get(path) else { return FileCheck::NeedsHash };
    match content_hash(path) {
        Ok(found) if found == *wanted => {
            FileCheck::SameContent(Vetted { path: path.clone(), source: source.clone(), target })
        }
        Ok(_) => differs(format!("{path} has another content at the target"), absent(path, access)),
        Err(error) => differs(format!("{path} cannot be read at the target: {error}"), "make it readable"),
    }
}

/// What helps where a file is to be the very same on two hosts.
pub const BOTH_MOUNT: &str = "put it on a file system that both hosts mount (NFS, CephFS …), or start the program with /dev/null in its place";

/// What helps where the target does not have the file, or has another one.
fn absent(path: &FilePath, access: Access) -> &'static str {
    if path.to_string().contains("/hsperfdata_") {
        // written all the time, and under the name of the pid
        return "start java with -XX:-UsePerfData, or with -XX:+PerfDisableSharedMem";
    }
    match access {
        Access::Write => BOTH_MOUNT,
        Access::Read => "copy the file to the target, or mount the file system that holds it",
    }
}

/// The blake3 hash of a file's content.
pub fn content_hash(path: impl AsRef<Path>) -> io::Result<ContentHash> {
    // a pipe would have us wait, a device never end
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(file)?;
    Ok(*hasher.finalize().as_bytes())
}

/// What is at `path`, following links (a `/proc/PID/fd/N` link leads to the open file itself).
pub fn identity_of_path(path: &Path) -> io::Result<FileIdentity> {
    let metadata = std::fs::metadata(path)?;
    Ok(identity(&metadata, statfs(path)?.filesystem_type()))
}

/// What is behind a descriptor of ours.
pub fn identity_of(file: impl AsFd) -> io::Result<FileIdentity> {
    let fs_type = fstatfs(&file)?.filesystem_type();
    let metadata = File::from(file.as_fd().try_clone_to_owned()?).metadata()?;
    Ok(identity(&metadata, fs_type))
}

/// An identity from what `stat` and `statfs` say.
pub(super) fn identity(metadata: &Metadata, fs_type: FsType) -> FileIdentity {
    FileIdentity {
        host: boot_id().to_owned(),
        fs_type: fs_type.0,
        dev: metadata.dev(),
        ino: metadata.ino(),
        mode: metadata.mode(),
        size: metadata.size(),
        mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
        btime_ns: metadata.created().ok().map(since_1970),
    }
}

fn since_1970(time: SystemTime) -> i64 {
    let clip = |ns: u128| i64::try_from(ns).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => clip(after.as_nanos()),
        Err(before) => -clip(before.duration().as_nanos()),
    }
}

/// The running kernel's boot id, read once.
fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(stat::boot_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elsewhere(identity: &FileIdentity) -> FileIdentity {
        FileIdentity { host: "another".into(), ..identity.clone() }
    }

    fn differs(check: FileCheck) -> String {
        match check {
            FileCheck::Differs(obstacle) => obstacle.to_string(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn reading_wants_content_and_writing_wants_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, "content").unwrap();
        let name = FilePath::from(path.as_path());
        let here = identity_of_path(&path).unwrap();
        let check = |identity: &FileIdentity, access, hashes: &ContentHashes| {
            check_file("fd 3", &name, identity, access, hashes)
        };
        let none = ContentHashes::new();
        assert_eq!(check(&here, Access::Write, &none), FileCheck::Same);
        // A clone on another host: good enough to read, not to write.
        assert_eq!(check(&elsewhere(&here), Access::Read, &none), FileCheck::Same);
        assert!(differs(check(&elsewhere(&here), Access::Write, &none)).contains("would diverge"));
        let nfs = FileIdentity { fs_type: 0x6969, ..elsewhere(&here) };
        assert_eq!(check(&nfs, Access::Write, &none), FileCheck::Same);
        // Another file of the same size: its content decides.
        let other = FileIdentity { ino: here.ino + 1, ..elsewhere(&here) };
        assert_eq!(check(&other, Access::Read, &none), FileCheck::NeedsHash);
        let good = ContentHashes::from([(name.clone(), content_hash(&path).unwrap())]);
        assert!(matches!(check(&other, Access::Read, &good), FileCheck::SameContent(_)));
        let bad = ContentHashes::from([(name.clone(), [0; 32])]);
        assert!(differs(check(&other, Access::Read, &bad)).contains("another content"));
        let longer = FileIdentity { size: 8, ..other };
        assert!(differs(check(&longer, Access::Read, &none)).contains("7 bytes at the target and 8"));
    }

    #[test]
    fn a_missing_file_is_named() {
        let identity = identity_of_path(Path::new("/etc/passwd")).unwrap();
        let text =
            differs(check_file("fd 9", &"/nowhere/x".into(), &identity, Access::Read, &ContentHashes::new()));
        assert!(text.starts_with("fd 9: /nowhere/x cannot be found at the target"), "{text}");
    }
}
