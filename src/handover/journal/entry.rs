//! What is remembered of one migration on one of its sides.

use serde::{Deserialize, Serialize};

use crate::handover::settle::{Life, Phase};
use crate::sys::stat::{boot_id, dying, start_time};

/// Of the format: another one is none that we can read.
pub(super) const VERSION: u32 = 2;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub(super) version: u32,
    /// How often it was written.
    pub(super) number: u64,
    /// The migration.
    pub id: String,
    /// Whether this host is the source.
    pub source: bool,
    /// The pid here.
    pub pid: i32,
    /// Start time of that process (field 22 of `/proc/PID/stat`): a number alone can be another process later.
    pub start_time: u64,
    /// `/proc/sys/kernel/random/boot_id`: after a boot both numbers can be another process.
    pub boot_id: String,
    /// The other host, as the user named it.
    pub peer: String,
    /// Where it stands.
    pub phase: Phase,
    /// Target: the key of the peer that wanted the entry; empty where that was not noted yet.
    #[serde(default)]
    pub key: String,
}

impl Entry {
    /// A new entry.
    pub fn new(id: &str, source: bool, pid: i32, peer: &str) -> Self {
        Entry {
            version: VERSION,
            number: 0,
            id: id.to_owned(),
            source,
            pid,
            start_time: start_time(pid).unwrap_or(0),
            boot_id: boot_id(),
            peer: peer.to_owned(),
            phase: Phase::Begun,
            key: String::new(),
        }
    }

    /// The same entry, wanted by the peer with this key.
    pub(crate) fn wanted_by(self, key: &str) -> Self {
        Entry { key: key.to_owned(), ..self }
    }

    /// What has become of the process it names. One that is being killed does not live.
    pub(crate) fn life(&self) -> Life {
        if self.boot_id != boot_id() {
            return Life::Rebooted;
        }
        let lives = self.pid != 0 && start_time(self.pid) == Some(self.start_time) && !dying(self.pid);
        if lives { Life::Lives } else { Life::Ended }
    }

    /// Whether the process it names is still there.
    pub(crate) fn process_lives(&self) -> bool {
        self.life() == Life::Lives
    }

    /// The same entry but for how often it was written.
    pub(super) fn says(&self, other: &Entry) -> bool {
        Entry { number: other.number, ..self.clone() } == *other
    }
}
