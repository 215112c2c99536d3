//! What a checkpoint holds beside the pages themselves, as plain data.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::extents::Extents;
use crate::image::files::ContentHashes;
use crate::image::memory::Layout;
use crate::image::process::LateSignal;
use crate::image::{ObjectId, ProcessIndex, TreeImage};
use crate::sys::stat;
use crate::sys::time::ClockOffsets;
use crate::transport::greeting::About;
use crate::transport::protocol::Moments;

/// Where it comes from, and when it was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Provenance {
    /// Names it for ever.
    pub id: String,
    /// Version of ulpm.
    pub program: String,
    /// The host, its kernel and its CPUs.
    pub host: About,
    /// `/etc/machine-id`; empty where there is none.
    pub machine: String,
    /// When the process was captured: nanoseconds since 1970.
    pub made_ns: i64,
    /// The process as that host saw it.
    pub pid: i32,
    /// Start time of that process (field 22 of `/proc/PID/stat`).
    pub start_time: u64,
    /// It was left running there.
    pub left_running: bool,
    /// The process's clocks against those of the host's initial time namespace.
    pub clocks: ClockOffsets,
    /// It lived in a time namespace of its own.
    pub time_namespace: bool,
    /// The host's monotonic clock at [`Moments::captured_ns`].
    pub monotonic_ns: i64,
    /// When it was stopped and captured, on that host's boottime clock.
    pub moments: Moments,
    /// Record of the files that it has mapped, or open for reading.
    pub hashes: ContentHashes,
    /// Signals that reached it between its capture and the decision to end it.
    pub signals: Vec<(ProcessIndex, Vec<LateSignal>)>,
    /// Pages in the file `pages`.
    pub slots: u64,
}

/// What has become of the process that a checkpoint was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Original {
    /// It was left running.
    WentOn,
    /// It was ended.
    Ended,
    /// It was to be ended, and stands still on this host.
    Stopped,
    /// It was to be ended, and runs on this host.
    Runs,
    /// It was to be ended, on another host or before this one was booted.
    NotHere,
}

impl Provenance {
    /// See [`Original`].
    pub(crate) fn original(&self) -> Original {
        match () {
            () if self.left_running => Original::WentOn,
            () if self.host.boot_id != stat::boot_id() => Original::NotHere,
            () if stat::start_time(self.pid) != Some(self.start_time) || stat::dying(self.pid) => {
                Original::Ended
            }
            () if stat::stopped(self.pid) => Original::Stopped,
            () => Original::Runs,
        }
    }
}

/// The private memory of one process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct PrivatePages {
    /// Its mappings when it was captured.
    pub layout: Layout,
    /// Where its pages are.
    pub extents: Extents,
}

/// Where each page is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Memory {
    /// Private memory of each process.
    pub processes: BTreeMap<ProcessIndex, PrivatePages>,
    /// Memory objects.
    pub objects: BTreeMap<ObjectId, Extents>,
}

impl Memory {
    fn extents(&self) -> impl Iterator<Item = &Extents> {
        self.processes.values().map(|private| &private.extents).chain(self.objects.values())
    }

    /// Whether all of it can be true of a file of so many pages.
    pub(crate) fn plausible(&self, slots: u64) -> bool {
        self.extents().all(|extents| extents.plausible(slots))
    }

    /// Pages with content.
    pub(crate) fn stored(&self) -> u64 {
        self.extents().map(Extents::stored).sum()
    }
}

/// All of a checkpoint but the pages.
#[derive(Debug)]
pub(crate) struct Record {
    /// See [`Provenance`].
    pub about: Provenance,
    /// The stopped processes.
    pub tree: TreeImage,
    /// See [`Memory`].
    pub memory: Memory,
    /// xxh3-64 of each page.
    pub sums: Vec<u64>,
}

/// Names this machine, whatever kernel it has.
pub(crate) fn machine() -> String {
    crate::sys::lossy("/etc/machine-id").unwrap_or_default().trim().to_owned()
}
