//! A directory as the other side of a hand-over: a checkpoint, which comes into being by one rename.
//!
//! ```text
//! .NAME.ulpm-ID   while it is written; nobody restores from it
//! NAME            whole, and on the disk; the file `id` in it names the hand-over
//! ```
//! The rename is what a target's journal is to a move: before it the process is the one at the source, from then on it is the one in
//! the directory. Whoever asks later finds one of the two names. If both are gone, somebody has taken the directory away, and
//! nobody but the user knows which of the two is right.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// The file that names the hand-over.
pub(crate) const ID: &str = "id";
/// The file without which nobody restores anything.
pub(crate) const STATE: &str = "state";

const PEER: &str = "checkpoint ";

/// What a directory says of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InDrawer {
    /// The process is the one in the directory, for good.
    Whole,
    /// It was never whole, and nothing is left of what was written.
    Never,
    /// Somebody has taken it away: it may have been whole.
    Gone,
}

/// How a journal's entry names the directory; `None`: its name is no text.
pub(crate) fn peer(dir: &Path) -> Option<String> {
    dir.to_str().map(|dir| format!("{PEER}{dir}"))
}

/// The directory that an entry names, if it names one.
pub(crate) fn directory(peer: &str) -> Option<&Path> {
    peer.strip_prefix(PEER).map(Path::new)
}

/// What the names of unfinished checkpoints begin with that are to become this directory.
pub(crate) fn unfinished_prefix(dir: &Path) -> OsString {
    let mut name = OsString::from(".");
    name.push(dir.file_name().unwrap_or_default());
    name.push(".ulpm-");
    name
}

/// Where it is until it is whole.
pub(crate) fn unfinished(dir: &Path, id: &str) -> PathBuf {
    let mut name = unfinished_prefix(dir);
    name.push(id);
    dir.with_file_name(name)
}

/// Where the process of this hand-over is. What was written of one that never was whole is taken away: nobody can restore it.
pub(crate) fn outcome(dir: &Path, id: &str) -> io::Result<InDrawer> {
    let name = dir.join(ID);
    // nobody is waited for at the other end of a pipe
    match fs::symlink_metadata(&name).and_then(|found| found.is_file().then(|| fs::read(&name)).transpose()) {
        Ok(Some(found)) if found == id.as_bytes() => {
            // whoever made it may not have come so far
            sync(dir.parent())?;
            return Ok(InDrawer::Whole);
        }
        Ok(_) => {}
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(e) => return Err(e),
    }
    Ok(if remove(&unfinished(dir, id))? { InDrawer::Never } else { InDrawer::Gone })
}

/// Takes an unfinished checkpoint away; false if there was none.
pub(crate) fn remove(unfinished: &Path) -> io::Result<bool> {
    match fs::remove_file(unfinished.join(STATE)) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    match fs::remove_dir_all(unfinished) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        done => done.map(|()| true),
    }
}

/// Waits until the names in a directory are on the disk.
pub(crate) fn sync(dir: Option<&Path>) -> io::Result<()> {
    File::open(dir.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_names_says_which_it_is() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("kept");
        let unfinished = unfinished(&dir, "a-1");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join(ID), "a-1").unwrap();
        fs::rename(&unfinished, &dir).unwrap();
        assert_eq!(outcome(&dir, "a-1").unwrap(), InDrawer::Whole);
        // of another one nothing is known
        assert_eq!(outcome(&dir, "a-2").unwrap(), InDrawer::Gone);
        fs::create_dir(self::unfinished(&dir, "a-2")).unwrap();
        assert_eq!(outcome(&dir, "a-2").unwrap(), InDrawer::Never);
        assert!(!self::unfinished(&dir, "a-2").exists() && dir.exists());
    }

    #[test]
    fn an_entry_names_a_host_or_a_directory() {
        let dir = Path::new("/srv/kept");
        assert_eq!(directory(&peer(dir).unwrap()), Some(dir));
        assert_eq!(directory("10.0.0.1:3490"), None);
    }
}
