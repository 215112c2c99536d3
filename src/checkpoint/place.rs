//! Directories of checkpoints: how one comes into being, and what an interrupted one leaves.
//!
//! Everything is written into a directory beside the one to be, with a lock on it; one rename makes it the other
//! ([`crate::handover::drawer`]). All is on the disk before, and the name after it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::CheckpointError;
use super::format::Writer;
use crate::fault::{self, Point};
use crate::handover::drawer::{self, ID, STATE};
use crate::handover::journal::Journal;
use crate::image::PAGE_SIZE;

/// The file of pages.
pub(crate) const PAGES: &str = "pages";
/// Signals that reached the copy at the source later still.
pub(crate) const SIGNALS: &str = "signals";

/// A checkpoint that is being written. Dropped before it was published, nothing of it stays.
#[derive(Debug)]
pub(crate) struct Draft {
    dir: PathBuf,
    unfinished: PathBuf,
    id: String,
    pages: File,
    /// Locked as long as somebody is at work here.
    _lock: File,
    /// From now on others say what becomes of it.
    decided: bool,
}

/// The full name of the directory, by which a journal's entry knows it.
pub(crate) fn full_name(dir: &Path) -> Result<PathBuf, CheckpointError> {
    let dir = std::path::absolute(dir).map_err(CheckpointError::io("looking for", dir))?;
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
        return Err(CheckpointError::Nameless(dir));
    };
    let parent = fs::canonicalize(parent).map_err(CheckpointError::io("looking for", parent))?;
    Ok(parent.join(name))
}

/// The full name of a directory that does not exist: one that does may be somebody's working directory, has an owner and a mode, and
/// would be another one after the rename.
pub(crate) fn free(dir: &Path) -> Result<PathBuf, CheckpointError> {
    let dir = full_name(dir)?;
    if drawer::peer(&dir).is_none() {
        return Err(CheckpointError::Unnameable(dir));
    }
    match fs::symlink_metadata(&dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(dir),
        Err(e) => Err(CheckpointError::io("looking at", &dir)(e)),
        Ok(_) => Err(CheckpointError::Taken(dir)),
    }
}

/// Gives a directory a name that nothing has.
fn name(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // a file system that cannot do both at once: it was looked at a moment ago, and at most an empty directory can be replaced
        Err(rustix::io::Errno::INVAL) if fs::symlink_metadata(to).is_err() => fs::rename(from, to),
        done => Ok(done?),
    }
}

/// Takes away what interrupted checkpoints have left that were to become this directory; their names. `journal`: where entries of
/// hand-overs are.
pub(crate) fn sweep(dir: &Path, journal: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    use std::os::unix::ffi::OsStrExt as _;
    let prefix = drawer::unfinished_prefix(dir);
    let parent = dir.parent().unwrap_or(dir);
    let mut removed = Vec::new();
    for entry in fs::read_dir(parent).map_err(CheckpointError::io("reading", parent))?.flatten() {
        let name = entry.file_name();
        let Some(id) = name.as_bytes().strip_prefix(prefix.as_bytes()) else { continue };
        let path = entry.path();
        let open = File::open(&path).map_err(CheckpointError::io("opening", &path))?;
        if open.try_lock().is_err() {
            return Err(CheckpointError::AtWork(dir.to_owned()));
        }
        let known = std::str::from_utf8(id).ok().map(|id| Journal::open(journal, id, true));
        if !matches!(known, None | Some(Ok(None))) {
            return Err(CheckpointError::Open(dir.to_owned()));
        }
        drawer::remove(&path).map_err(CheckpointError::io("removing", &path))?;
        removed.push(path);
    }
    Ok(removed)
}

impl Draft {
    /// Begins one. `dir`: as [`free`] gave it.
    pub(crate) fn begin(dir: &Path, id: &str) -> Result<Self, CheckpointError> {
        let unfinished = drawer::unfinished(dir, id);
        let failed = |step| CheckpointError::io(step, &unfinished);
        DirBuilder::new().mode(0o700).create(&unfinished).map_err(failed("making"))?;
        let made = File::open(&unfinished)
            .and_then(|lock| lock.try_lock().map_err(io::Error::from).map(|()| lock))
            .and_then(|lock| Ok((lock, new(&unfinished.join(PAGES))?)));
        match made {
            Ok((lock, pages)) => Ok(Draft {
                dir: dir.to_owned(),
                id: id.to_owned(),
                pages,
                _lock: lock,
                decided: false,
                unfinished,
            }),
            Err(e) => {
                let _ = drawer::remove(&unfinished);
                Err(failed("writing into")(e))
            }
        }
    }

    /// Bytes that the file system has left for us.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let found = nix::sys::statvfs::fstatvfs(&self.pages)?;
        Ok(found.blocks_available() * found.fragment_size())
    }

    /// Writes pages.
    pub(crate) fn write_pages(&self, slot: u64, content: &[u8]) -> io::Result<()> {
        self.pages.write_all_at(content, slot * PAGE_SIZE)
    }

    /// The pages are on the disk.
    pub(crate) fn sync_pages(&self) -> io::Result<()> {
        self.pages.sync_all()
    }

    /// All that remains is written, then it has its name, and both are on the disk. Whoever says that it is whole must ask
    /// [`drawer::outcome`] if this fails.
    pub(crate) fn publish(&mut self, state: Writer) -> io::Result<()> {
        self.decided = true;
        let (new_state, id) = (self.unfinished.join("state.new"), self.unfinished.join(ID));
        write(&id, |file| io::Write::write_all(file, self.id.as_bytes()))?;
        write(&new_state, |file| state.finish(file))?;
        fault::point(Point::CheckpointWritten)?;
        fs::rename(&new_state, self.unfinished.join(STATE))?;
        drawer::sync(Some(&self.unfinished))?;
        fault::point(Point::CheckpointWhole)?;
        name(&self.unfinished, &self.dir)?;
        fault::point(Point::CheckpointNamed)?;
        drawer::sync(self.dir.parent())
    }

    /// Adds a file to one that was published, durably; it replaces one of that name.
    pub(crate) fn add(&self, name: &str, content: Writer) -> io::Result<()> {
        let new = self.dir.join(format!("{name}.new"));
        let _ = fs::remove_file(&new);
        write(&new, |file| content.finish(file))?;
        fs::rename(&new, self.dir.join(name))?;
        drawer::sync(Some(&self.dir))
    }

    /// The process goes on where it is: of what was not published nothing stays.
    pub(crate) fn give_up(&mut self) {
        self.decided = false;
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.decided
            && let Err(error) = drawer::remove(&self.unfinished)
        {
            tracing::warn!(%error, dir = %self.unfinished.display(), "an unfinished checkpoint stays");
        }
    }
}

fn new(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn write(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let mut file = new(path)?;
    content(&mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::handover::drawer::InDrawer;

    fn names(dir: &Path) -> Vec<String> {
        let all = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        let mut all: Vec<String> = all.collect();
        all.sort();
        all
    }

    #[test]
    fn it_appears_whole_and_private_or_not_at_all() {
        let home = tempfile::tempdir().unwrap();
        let dir = free(&home.path().join("kept")).unwrap();
        let mut place = Draft::begin(&dir, "a-1").unwrap();
        place.write_pages(0, &[1; 4096]).unwrap();
        assert!(!dir.exists() && place.room().unwrap() > 0);
        place.sync_pages().unwrap();
        place.publish(Writer::default()).unwrap();
        place.add(SIGNALS, Writer::default()).unwrap();
        drop(place);
        assert_eq!(names(home.path()), ["kept"]);
        assert_eq!(names(&dir), ["id", "pages", "signals", "state"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&dir), 0o700);
        assert!(fs::read_dir(&dir).unwrap().all(|file| mode(&file.unwrap().path()) == 0o600));
        assert_eq!(drawer::outcome(&dir, "a-1").unwrap(), InDrawer::Whole);
        let told = free(&dir).unwrap_err().to_string();
        assert!(told.contains("exists already: name one that does not"), "{told}");
        // one that nobody finishes goes
        drop(Draft::begin(&home.path().join("other"), "a-2").unwrap());
        assert_eq!(names(home.path()), ["kept"]);
    }

    #[test]
    fn nothing_that_is_there_is_replaced() {
        let home = tempfile::tempdir().unwrap();
        let (empty, file, link) =
            (home.path().join("empty"), home.path().join("file"), home.path().join("link"));
        fs::create_dir(&empty).unwrap();
        fs::write(&file, "").unwrap();
        std::os::unix::fs::symlink("nowhere", &link).unwrap();
        for taken in [&empty, &file, &link] {
            assert!(matches!(free(taken), Err(CheckpointError::Taken(_))), "{taken:?}");
        }
        // made meanwhile: not published, and whoever asks hears so
        let late = home.path().join("late");
        let mut place = Draft::begin(&free(&late).unwrap(), "a-2").unwrap();
        fs::create_dir(&late).unwrap();
        assert!(place.publish(Writer::default()).is_err());
        assert_eq!(drawer::outcome(&late, "a-2").unwrap(), InDrawer::Never);
        assert_eq!(names(&late), Vec::<String>::new());
    }

    #[test]
    fn what_was_interrupted_is_taken_away_unless_its_process_may_be_stopped() {
        // a lock of ours would outlast us in a child that is just being made
        let _quiet = crate::sys::spawn::quiet();
        let home = tempfile::tempdir().unwrap();
        let (dir, journal) = (free(&home.path().join("kept")).unwrap(), home.path().join("journal"));
        fs::create_dir(&journal).unwrap();
        let place = Draft::begin(&dir, "a-1").unwrap();
        assert!(matches!(sweep(&dir, &journal), Err(CheckpointError::AtWork(_))));
        drop(place);
        let left = drawer::unfinished(&dir, "a-2");
        fs::create_dir(&left).unwrap();
        let entry = crate::handover::journal::Entry::new("a-2", true, 1, "checkpoint");
        let open = Journal::begin(&journal, entry).unwrap();
        assert!(matches!(sweep(&dir, &journal), Err(CheckpointError::Open(_))));
        open.close().unwrap();
        assert_eq!(sweep(&dir, &journal).unwrap(), [left]);
        assert_eq!(sweep(&dir, &journal).unwrap(), Vec::<PathBuf>::new());
    }
}
