//! What must be remembered of a migration whatever happens: one small file per migration in `ULPM_HOME/journal`.
//!
//! The file appears whole or not at all, with its name on the disk, before the freeze, at its full size. Inside the
//! freeze one block is overwritten and synced (`fdatasync`): no metadata changes, so it costs one write. There are
//! two blocks, written in turn, each with its number and its own checksum: the one with the higher number that is
//! sound counts, so that a write that a power cut tears leaves the entry as it was.
//!
//! Two locks. Who is at work on a migration *keeps* its entry (`flock`), for as long as that takes. Who changes it
//! holds the other one (`F_OFD_SETLKW`) for that moment: a question may come while a session is at work.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

mod block;
mod entry;

pub(crate) use block::decode;
use block::{SIZE, encode, read};
pub use entry::Entry;

use super::settle::may_become;
pub use super::settle::{Life, Phase};
use crate::fault::{self, Point};
use crate::sys::stat::start_time;

/// An open journal file.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    entry: Entry,
    /// Whether the file's lock is held for as long as this handle lives.
    kept: bool,
}

impl Journal {
    /// Makes the file, at its full size, on disk with its name; kept by this handle.
    pub fn begin(dir: &Path, entry: Entry) -> io::Result<Self> {
        let path = file_of(dir, &entry.id, entry.source);
        let unnamed = path.with_extension("new");
        let _ = fs::remove_file(&unnamed);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&unnamed)?;
        let mut journal = Journal { path, file, entry, kept: false };
        let made = journal.make(&unnamed);
        let _ = fs::remove_file(&unnamed);
        made?;
        Ok(journal)
    }

    fn make(&mut self, unnamed: &Path) -> io::Result<()> {
        self.file.write_all_at(&[0; 2 * SIZE], 0)?;
        self.write()?;
        self.file.sync_all()?;
        self.keep();
        // unlike a rename this fails if the name is taken
        fs::hard_link(unnamed, &self.path)?;
        sync_directory_of(&self.path)
    }

    /// Reads one entry back.
    pub(crate) fn open(dir: &Path, id: &str, source: bool) -> io::Result<Option<Self>> {
        Self::open_path(file_of(dir, id, source))
    }

    fn open_path(path: PathBuf) -> io::Result<Option<Self>> {
        let file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let entry = read(&file, &path)?;
        Ok(Some(Journal { path, file, entry, kept: false }))
    }

    /// All entries of a directory; those that cannot be read come as their path and the reason.
    pub(crate) fn list(dir: &Path) -> io::Result<Vec<Result<Journal, (PathBuf, io::Error)>>> {
        let mut all = Vec::new();
        for item in fs::read_dir(dir)? {
            let path = item?.path();
            if path.extension().is_none_or(|e| e != "journal") {
                continue;
            }
            match Self::open_path(path.clone()) {
                Ok(Some(journal)) => all.push(Ok(journal)),
                Ok(None) => {}
                Err(e) => all.push(Err((path, e))),
            }
        }
        Ok(all)
    }

    /// What it says.
    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Notes the pid, which is not known at the beginning. Not yet durable.
    pub(crate) fn name_process(&mut self, pid: i32) -> io::Result<()> {
        self.change(|entry| {
            entry.pid = pid;
            entry.start_time = start_time(pid).unwrap_or(0);
        })
    }

    /// Changes the phase, durably. A decision once written stands: another one is an error.
    pub(crate) fn set(&mut self, phase: Phase) -> io::Result<()> {
        self.note(phase)?;
        self.fault(phase).map_or(Ok(()), fault::written)?;
        self.file.sync_data()
    }

    /// Changes the phase; durable for the end of this program, not for that of the host.
    pub(crate) fn note(&mut self, phase: Phase) -> io::Result<()> {
        self.fault(phase).map_or(Ok(()), fault::writing)?;
        self.change(|entry| entry.phase = phase)
    }

    /// The user has decided otherwise than what is written.
    pub(crate) fn overrule(&mut self, phase: Phase) -> io::Result<()> {
        self.locked(|journal| {
            journal.entry = read(&journal.file, &journal.path)?;
            journal.entry.phase = phase;
            journal.write()?;
            journal.file.sync_data()
        })
    }

    /// Keeps the entry for this handle until it is dropped; false if another one keeps it.
    pub(crate) fn keep(&mut self) -> bool {
        self.kept = self.kept || self.file.try_lock().is_ok();
        self.kept
    }

    /// One change at a time, and none after a decision: a `Commit` may arrive while another connection is told
    /// that it never will be.
    fn change(&mut self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        self.locked(|journal| journal.change_locked(change))
    }

    fn fault(&self, phase: Phase) -> Option<Point> {
        match (self.entry.source, phase) {
            (true, Phase::Committed) => Some(Point::SourceJournalCommitted),
            (false, Phase::Committed) => Some(Point::TargetJournalCommitted),
            (false, Phase::Releasing) => Some(Point::TargetJournalReleasing),
            (false, Phase::Released) => Some(Point::TargetJournalReleased),
            _ => None,
        }
    }

    fn locked(&mut self, work: impl FnOnce(&mut Self) -> io::Result<()>) -> io::Result<()> {
        self.lock(libc::F_WRLCK)?;
        let done = work(self);
        self.lock(libc::F_UNLCK)?;
        done
    }

    /// The lock of the open file, which is another than the one of [`Journal::keep`].
    fn lock(&self, kind: i32) -> io::Result<()> {
        let short = |number: i32| i16::try_from(number).map_err(io::Error::other);
        let whole = libc::flock {
            l_type: short(kind)?,
            l_whence: short(libc::SEEK_SET)?,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        nix::fcntl::fcntl(&self.file, nix::fcntl::FcntlArg::F_OFD_SETLKW(&whole))?;
        Ok(())
    }

    fn change_locked(&mut self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let written = read(&self.file, &self.path)?;
        let mut wanted = written.clone();
        change(&mut wanted);
        let may = may_become(written.source, written.phase, wanted.phase, written.life())
            && (written.phase == Phase::Begun
                || written.says(&Entry { phase: written.phase, ..wanted.clone() }));
        if !may {
            let decision = if written.phase == Phase::Refused { "refused" } else { "committed" };
            return Err(io::Error::other(format!("migration {} has been {decision} already", written.id)));
        }
        self.entry = wanted;
        self.write()
    }

    fn write(&mut self) -> io::Result<()> {
        self.entry.number += 1;
        let block = self.entry.number % 2 * SIZE as u64;
        self.file.write_all_at(&encode(&self.entry), block)
    }

    /// When it was written last.
    pub(crate) fn written(&self) -> io::Result<SystemTime> {
        self.file.metadata()?.modified()
    }

    /// Settled: the file goes.
    pub(crate) fn close(self) -> io::Result<()> {
        self.remove()
    }

    /// As [`Journal::close`], for those who cannot give it away.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let _ = fs::remove_file(signals_of(&self.path));
        match fs::remove_file(&self.path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => sync_directory_of(&self.path),
        }
    }
}

/// Where a migration's source writes which signals are on their way; gone with the entry.
pub(crate) fn signals_file(dir: &Path, id: &str) -> PathBuf {
    signals_of(&file_of(dir, id, true))
}

fn signals_of(journal: &Path) -> PathBuf {
    journal.with_extension("signals")
}

/// Writes as much as an entry takes, durably, and takes it away again: whether there is a disk, and room on it.
pub(crate) fn try_writing(dir: &Path) -> io::Result<()> {
    let path = dir.join(format!("try-{}-{:?}.new", std::process::id(), std::thread::current().id()));
    let _ = fs::remove_file(&path);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    let written = file.write_all_at(&[0; 2 * SIZE], 0).and_then(|()| file.sync_all());
    fs::remove_file(&path)?;
    written
}

fn sync_directory_of(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

fn file_of(dir: &Path, id: &str, source: bool) -> PathBuf {
    // an id from a peer is a file name here: nothing but letters, digits and dashes
    let safe: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    dir.join(format!("{safe}.{}.journal", if source { "source" } else { "target" }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn::quietly;
    use crate::sys::stat::Stat;

    #[test]
    fn an_entry_survives_and_a_damaged_one_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let me = std::process::id() as i32;
        let mut journal = Journal::begin(dir.path(), Entry::new("a-1", true, me, "host")).unwrap();
        journal.set(Phase::Committed).unwrap();
        let again = Journal::open(dir.path(), "a-1", true).unwrap().unwrap();
        assert_eq!(again.entry().phase, Phase::Committed);
        assert!(again.entry().process_lives());
        assert!(Journal::open(dir.path(), "a-1", false).unwrap().is_none());
        fs::write(file_of(dir.path(), "a-1", true), vec![7; 2 * SIZE]).unwrap();
        assert!(Journal::open(dir.path(), "a-1", true).is_err());
    }

    #[test]
    fn an_entry_of_an_older_ulpm_names_no_key() {
        let entry = Entry::new("a-1", false, 0, "host").wanted_by("SHA256:x");
        let mut older = serde_json::to_value(&entry).unwrap();
        older.as_object_mut().unwrap().remove("key");
        let read: Entry = serde_json::from_value(older).unwrap();
        assert_eq!(read, Entry { key: String::new(), ..entry });
    }

    #[test]
    fn a_torn_write_leaves_the_entry_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::begin(dir.path(), Entry::new("a-1", true, 0, "host")).unwrap();
        journal.set(Phase::Committed).unwrap();
        let path = file_of(dir.path(), "a-1", true);
        let whole = fs::read(&path).unwrap();
        let newer = (journal.entry().number % 2) as usize * SIZE;
        for torn in [newer + 40, newer + 200] {
            let mut bytes = whole.clone();
            bytes[torn] ^= 1;
            fs::write(&path, &bytes).unwrap();
            let entry = Journal::open(dir.path(), "a-1", true).unwrap().unwrap().entry().clone();
            assert_eq!(entry.phase, Phase::Begun);
        }
    }

    #[test]
    fn a_process_of_another_boot_is_gone_whatever_has_its_number_now() {
        let me = std::process::id() as i32;
        let entry = Entry::new("a-1", true, me, "host");
        assert_eq!(entry.life(), Life::Lives);
        assert_eq!(Entry { boot_id: "another".to_owned(), ..entry.clone() }.life(), Life::Rebooted);
        assert_eq!(Entry { start_time: 0, ..entry }.life(), Life::Ended);
    }

    #[test]
    fn a_dead_process_that_nobody_has_reaped_does_not_live() {
        let mut child = quietly(std::process::Command::new("sleep").arg("60"));
        let entry = Entry::new("a-1", false, child.id() as i32, "host");
        assert!(entry.process_lives());
        child.kill().unwrap();
        assert!(!entry.process_lives());
        child.wait().unwrap();
    }

    #[test]
    fn a_process_lives_on_without_its_main_thread() {
        const LEADERLESS: &str = "import ctypes, threading, time\n\
            threading.Thread(target=lambda: time.sleep(60)).start()\n\
            ctypes.CDLL(None).syscall(60, 0)";
        let mut child = quietly(std::process::Command::new("python3").args(["-c", LEADERLESS]));
        let entry = Entry::new("a-1", false, child.id() as i32, "host");
        while !Stat::of(child.id() as i32).unwrap().has_ended() {
            std::thread::yield_now();
        }
        assert!(entry.process_lives());
        child.kill().unwrap();
        assert!(!entry.process_lives());
        child.wait().unwrap();
    }

    #[test]
    fn a_decision_stands_whoever_wants_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let mut session = Journal::begin(dir.path(), Entry::new("a-1", false, 0, "host")).unwrap();
        let mut asked = Journal::open(dir.path(), "a-1", false).unwrap().unwrap();
        asked.set(Phase::Refused).unwrap();
        assert!(session.name_process(std::process::id() as i32).is_err());
        assert!(session.set(Phase::Committed).is_err());
        asked.set(Phase::Refused).unwrap();
        let written = Journal::open(dir.path(), "a-1", false).unwrap().unwrap();
        assert_eq!(written.entry().phase, Phase::Refused);
    }

    #[test]
    fn a_kept_entry_is_seen_as_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut live = Journal::begin(dir.path(), Entry::new("a-1", true, 0, "host")).unwrap();
        let mut other = Journal::open(dir.path(), "a-1", true).unwrap().unwrap();
        assert!(!other.keep());
        live.set(Phase::Committed).unwrap();
        drop(live);
        assert!(other.keep());
        other.set(Phase::Committed).unwrap();
    }

    #[test]
    fn damaged_entries_do_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        Journal::begin(dir.path(), Entry::new("a-1", true, 0, "host")).unwrap();
        fs::write(dir.path().join("short.source.journal"), b"x").unwrap();
        fs::write(dir.path().join("zero.source.journal"), vec![0; 2 * SIZE]).unwrap();
        let (good, bad): (Vec<_>, Vec<_>) =
            Journal::list(dir.path()).unwrap().into_iter().partition(|j| j.is_ok());
        assert_eq!((good.len(), bad.len()), (1, 2));
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_directory() {
        let path = file_of(Path::new("/j"), "../../etc/passwd", false);
        assert_eq!(path, Path::new("/j/etcpasswd.target.journal"));
    }
}
