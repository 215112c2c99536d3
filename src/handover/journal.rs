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
    /// Target: it was asked about this migration, and it will never run here.
    Refused,
    /// Settled; the file is about to be removed.
    Closed,
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
}

impl Journal {
    /// Makes the file, at its full size, on disk with its name.
    pub fn begin(dir: &Path, entry: Entry) -> io::Result<Self> {
        let path = file_of(dir, &entry.id, entry.source);
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        let journal = Journal { path, file, entry };
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
        let mut bytes = vec![0; SIZE];
        file.read_exact_at(&mut bytes, 0)?;
        let entry = decode(&bytes).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", path.display()))
        })?;
        Ok(Some(Journal { path, file, entry }))
    }

    /// All entries of a directory.
    pub fn list(dir: &Path) -> io::Result<Vec<Journal>> {
        let mut all = Vec::new();
        for item in fs::read_dir(dir)? {
            let path = item?.path();
            if path.extension().is_some_and(|e| e == "journal")
                && let Some(journal) = Self::open_path(path)?
            {
                all.push(journal);
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
        self.entry.pid = pid;
        self.entry.start_time = start_time(pid).unwrap_or(0);
        self.write()
    }

    /// Changes the phase, durably.
    pub fn set(&mut self, phase: Phase) -> io::Result<()> {
        self.entry.phase = phase;
        self.write()?;
        self.file.sync_data()
    }

    fn write(&self) -> io::Result<()> {
        self.file.write_all_at(&encode(&self.entry), 0)
    }

    /// Settled: the file goes.
    pub fn close(self) -> io::Result<()> {
        fs::remove_file(&self.path)
    }
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

fn decode(bytes: &[u8]) -> Option<Entry> {
    let sum = blake3::hash(bytes.get(32..)?);
    if bytes.get(..32)? != sum.as_bytes() {
        return None;
    }
    let len = u32::from_le_bytes(bytes[32..36].try_into().ok()?) as usize;
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
    fn an_id_cannot_lead_out_of_the_directory() {
        let path = file_of(Path::new("/j"), "../../etc/passwd", false);
        assert_eq!(path, Path::new("/j/etcpasswd.target.journal"));
    }
}
