//! What must be remembered of a migration whatever happens: one small file per migration in `ULPM_HOME/journal`.
//!
//! The file is made and brought to disk before the freeze, at its full size. Inside the freeze one sector is
//! overwritten and synced (`fdatasync`): no metadata changes, so it costs one write. A record that does not carry
//! its own checksum counts as not written.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Bytes of an entry: one block of every disk in use.
const SIZE: usize = 4096;
const VERSION: u32 = 1;

/// Where a migration stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Before the commit point: if this is all there is, the process runs (or ran) at the source.
    Begun,
    /// Source: `Commit` is about to be sent. Target: it runs here.
    Committed,
    /// Target: it has been let go; what becomes of it is its own affair.
    Released,
    /// Target: it was asked about this migration, and it will never run here.
    Refused,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    version: u32,
    /// The migration.
    pub id: String,
    /// Whether this host is the source.
    pub source: bool,
    /// The pid here.
    pub pid: i32,
    /// Start time of that process (field 22 of `/proc/PID/stat`): a number alone can be another process later.
    pub start_time: u64,
    /// The other host, as the user named it.
    pub peer: String,
    /// Where it stands.
    pub phase: Phase,
}

impl Entry {
    /// A new entry.
    pub fn new(id: &str, source: bool, pid: i32, peer: &str) -> Self {
        Entry {
            version: VERSION,
            id: id.to_owned(),
            source,
            pid,
            start_time: start_time(pid).unwrap_or(0),
            peer: peer.to_owned(),
            phase: Phase::Begun,
        }
    }

    /// Whether the process it names is still there.
    pub fn process_lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

/// Start time of a process in clock ticks since boot.
pub fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split_whitespace().nth(19)?.parse().ok()
}

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
    /// Makes the file, at its full size, on disk with its name.
    pub fn begin(dir: &Path, entry: Entry) -> io::Result<Self> {
        let path = file_of(dir, &entry.id, entry.source);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let journal = Journal { path, file, entry, kept: false };
        journal.write()?;
        journal.file.sync_all()?;
        File::open(dir)?.sync_all()?;
        Ok(journal)
    }

    /// Reads one entry back.
    pub fn open(dir: &Path, id: &str, source: bool) -> io::Result<Option<Self>> {
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
    pub fn list(dir: &Path) -> io::Result<Vec<Result<Journal, (PathBuf, io::Error)>>> {
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
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Notes the pid, which is not known at the beginning. Not yet durable.
    pub fn name_process(&mut self, pid: i32) -> io::Result<()> {
        self.change(|entry| {
            entry.pid = pid;
            entry.start_time = start_time(pid).unwrap_or(0);
        })
    }

    /// Changes the phase, durably. A decision once written stands: another one is an error.
    pub fn set(&mut self, phase: Phase) -> io::Result<()> {
        self.change(|entry| entry.phase = phase)?;
        self.file.sync_data()
    }

    /// Keeps the entry for this handle until it is dropped; false if another one keeps it.
    pub fn keep(&mut self) -> bool {
        self.kept = self.kept || self.file.try_lock().is_ok();
        self.kept
    }

    /// One change at a time, and none after a decision: a `Commit` may arrive while another connection is told
    /// that it never will be.
    fn change(&mut self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        if !self.kept {
            self.file.lock()?;
        }
        let changed = self.change_locked(change);
        if !self.kept {
            self.file.unlock()?;
        }
        changed
    }

    fn change_locked(&mut self, change: impl FnOnce(&mut Entry)) -> io::Result<()> {
        let written = read(&self.file, &self.path)?;
        let mut wanted = written.clone();
        change(&mut wanted);
        let stands = match (written.phase, wanted.phase) {
            (Phase::Committed, Phase::Released) | (Phase::Begun, _) => false,
            // the skeleton died with us before it was let go: it never ran, and never will
            (Phase::Committed, Phase::Refused) => written.process_lives(),
            _ => true,
        };
        if stands && wanted != written {
            let decision = if written.phase == Phase::Refused { "refused" } else { "committed" };
            return Err(io::Error::other(format!("migration {} has been {decision} already", written.id)));
        }
        self.entry = wanted;
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(&encode(&self.entry), 0)
    }

    /// Settled: the file goes.
    pub fn close(self) -> io::Result<()> {
        self.remove()
    }

    /// As [`Journal::close`], for those who cannot give it away.
    pub fn remove(&self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }

    /// The same entry, a second time.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Journal {
            path: self.path.clone(),
            file: self.file.try_clone()?,
            entry: self.entry.clone(),
            kept: false,
        })
    }
}

fn read(file: &File, path: &Path) -> io::Result<Entry> {
    let mut bytes = vec![0; SIZE];
    let whole = match file.read_exact_at(&mut bytes, 0) {
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
        whole => whole.is_ok(),
    };
    let entry = if whole { decode(&bytes) } else { None };
    entry.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display())))
}

fn file_of(dir: &Path, id: &str, source: bool) -> PathBuf {
    // an id from a peer is a file name here: nothing but letters, digits and dashes
    let safe: String = id.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    dir.join(format!("{safe}.{}.journal", if source { "source" } else { "target" }))
}

/// `checksum (32) | length (4) | json | zeroes`
fn encode(entry: &Entry) -> Vec<u8> {
    let json = serde_json::to_vec(entry).unwrap_or_default();
    let mut bytes = vec![0; SIZE];
    let len = json.len().min(SIZE - 36);
    bytes[32..36].copy_from_slice(&(len as u32).to_le_bytes());
    bytes[36..36 + len].copy_from_slice(&json[..len]);
    let sum = blake3::hash(&bytes[32..]);
    bytes[..32].copy_from_slice(sum.as_bytes());
    bytes
}

/// What the bytes of a file say; `None` if they are damaged.
pub(crate) fn decode(bytes: &[u8]) -> Option<Entry> {
    let sum = blake3::hash(bytes.get(32..)?);
    if bytes.get(..32)? != sum.as_bytes() {
        return None;
    }
    let len = u32::from_le_bytes(bytes.get(32..36)?.try_into().ok()?) as usize;
    let entry: Entry = serde_json::from_slice(bytes.get(36..36usize.checked_add(len)?)?).ok()?;
    (entry.version == VERSION).then_some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        fs::write(file_of(dir.path(), "a-1", true), vec![7; SIZE]).unwrap();
        assert!(Journal::open(dir.path(), "a-1", true).is_err());
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
        assert!(live.keep());
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
        fs::write(dir.path().join("zero.source.journal"), vec![0; SIZE]).unwrap();
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
