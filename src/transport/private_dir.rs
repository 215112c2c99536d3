//! Small files that only their owner may read, in one directory, written so that a reader sees the old
//! or the new contents and never a half.
//!
//! ```text
//! lock ─ flock(2), held while something is read, changed and written back
//! NAME ─ replaced by rename(2) from .NAME.PID.tmp, after fsync of the file; then fsync of the directory
//! ```
//!
//! Reading needs no lock: what `rename` puts in place is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const LOCK: &str = "lock";

/// What can go wrong with a private file or its directory.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    /// A system call on `path` failed.
    #[error("cannot {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Others may read or write what must be private.
    #[error("{0} has mode {mode:04o}, which lets others in; run `chmod {wanted:o} {0}`", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permission bits that it should have.
        wanted: u32,
    },
}

impl PrivateDirError {
    fn io(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { verb, path: path.to_owned(), source }
    }
}

/// Makes `dir` (and what is missing above it) with mode 0700; refuses one that everybody may write to.
pub fn create(dir: &Path) -> Result<(), PrivateDirError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(PrivateDirError::io("create", dir))?;
    let mode = fs::metadata(dir).map_err(PrivateDirError::io("inspect", dir))?.mode() & 0o7777;
    if mode & 0o002 != 0 {
        return Err(PrivateDirError::Open { path: dir.to_owned(), mode, wanted: 0o700 });
    }
    Ok(())
}

/// The contents of `path`, `None` if there is no such file; an error if its mode has a bit of `forbidden`.
pub fn read(path: &Path, forbidden: u32) -> Result<Option<String>, PrivateDirError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(PrivateDirError::io("open", path)(source)),
    };
    let mode = file.metadata().map_err(PrivateDirError::io("inspect", path))?.mode() & 0o7777;
    if mode & forbidden != 0 {
        return Err(PrivateDirError::Open { path: path.to_owned(), mode, wanted: 0o600 });
    }
    io::read_to_string(file).map(Some).map_err(PrivateDirError::io("read", path))
}

/// A directory in which this process alone writes, as long as the value lives.
#[derive(Debug)]
pub struct LockedDir {
    dir: PathBuf,
    /// Closing it lets the lock go.
    _lock: File,
}

impl LockedDir {
    /// Makes `dir` if need be and waits until no other process holds it.
    pub fn lock(dir: &Path) -> Result<Self, PrivateDirError> {
        create(dir)?;
        let path = dir.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .map_err(PrivateDirError::io("open", &path))?;
        lock.lock().map_err(PrivateDirError::io("lock", &path))?;
        Ok(Self { dir: dir.to_owned(), _lock: lock })
    }

    /// Replaces the file `name` by `contents`, durably, mode 0600.
    pub fn replace(&self, name: &str, contents: &[u8]) -> Result<(), PrivateDirError> {
        let path = self.dir.join(name);
        let temporary = self.dir.join(format!(".{name}.{}.tmp", std::process::id()));
        let written = write_new(&temporary, contents).and_then(|()| {
            fs::rename(&temporary, &path).map_err(PrivateDirError::io("replace", &path))?;
            let dir = File::open(&self.dir).map_err(PrivateDirError::io("open", &self.dir))?;
            dir.sync_all().map_err(PrivateDirError::io("sync", &self.dir))
        });
        if written.is_err() {
            // Best effort: after a failed write it is rubbish, after a rename it is gone.
            let _ = fs::remove_file(&temporary);
        }
        written
    }

    /// Removes the file `name`, durably.
    pub fn remove(&self, name: &str) -> Result<(), PrivateDirError> {
        let path = self.dir.join(name);
        fs::remove_file(&path).map_err(PrivateDirError::io("remove", &path))?;
        let dir = File::open(&self.dir).map_err(PrivateDirError::io("open", &self.dir))?;
        dir.sync_all().map_err(PrivateDirError::io("sync", &self.dir))
    }
}

fn write_new(path: &Path, contents: &[u8]) -> Result<(), PrivateDirError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(PrivateDirError::io("remove", path)(error));
        }
        // Gone now: a crashed process of the same pid left it, and we hold the lock.
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(PrivateDirError::io("create", path))?;
    file.write_all(contents).map_err(PrivateDirError::io("write", path))?;
    file.sync_all().map_err(PrivateDirError::io("sync", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn replaces_whole_files_and_leaves_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("a/b");
        let locked = LockedDir::lock(&dir).unwrap();
        locked.replace("file", b"one").unwrap();
        locked.replace("file", b"two").unwrap();
        assert_eq!(read(&dir.join("file"), 0o077).unwrap().as_deref(), Some("two"));
        assert_eq!(read(&dir.join("other"), 0o077).unwrap(), None);
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["file", "lock"]);
        assert_eq!(fs::metadata(dir.join("file")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn what_others_can_reach_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("key");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = read(&path, 0o077).unwrap_err().to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
        assert!(read(&path, 0o022).is_ok());
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(LockedDir::lock(home.path()), Err(PrivateDirError::Open { .. })));
    }
}
