//! What a checkpoint holds, for people and programs.

use std::path::Path;

use serde::Serialize;

use super::contents::Original;
use super::error::CheckpointError;
use super::format::FORMAT_VERSION;
use super::kept::Kept;
use crate::image::file_path::printable;
use crate::image::{IMAGE_VERSION, PAGE_SIZE};
use crate::transport::protocol::PROTOCOL_VERSION;

/// A summary. Sizes in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    /// Names the checkpoint for ever.
    pub id: String,
    /// Seconds since 1970 when the process was captured.
    pub made_s: i64,
    /// The host that it comes from.
    pub host: String,
    /// Its kernel.
    pub kernel: String,
    /// Versions: of ulpm, of files, of what a process is, of messages.
    pub versions: Versions,
    /// It went on there.
    pub left_running: bool,
    /// What has become of it, as far as this host knows.
    pub original: Original,
    /// Its pid, as the host saw it that it comes from.
    pub original_pid: i32,
    /// Bytes of all files of the checkpoint.
    pub bytes: u64,
    /// Bytes of pages that are kept: those of zeroes are not.
    pub memory_bytes: u64,
    /// Memory that it had in RAM when it was described.
    pub resident_bytes: u64,
    /// Its processes.
    pub processes: Vec<Process>,
}

/// Versions of everything.
#[derive(Debug, Serialize)]
pub(crate) struct Versions {
    /// Of ulpm.
    pub program: String,
    /// See [`FORMAT_VERSION`].
    pub format: u32,
    /// Of images.
    pub image: u32,
    /// Of messages.
    pub protocol: u32,
}

/// A process in it.
#[derive(Debug, Serialize)]
pub(crate) struct Process {
    /// Its pid, as it knows itself.
    pub pid: i32,
    /// Its name.
    pub name: String,
    /// Its program.
    pub program: String,
    /// Its threads: number and name.
    pub threads: Vec<(i32, String)>,
    /// Number of its mappings.
    pub mappings: usize,
    /// Files that it has mapped.
    pub mapped_files: Vec<String>,
    /// Its descriptors, and where they lead.
    pub descriptors: Vec<(i32, String)>,
}

/// Sums up what is in a checkpoint.
pub(crate) fn inspect(dir: &Path) -> Result<Summary, CheckpointError> {
    let kept = Kept::open(dir)?;
    let contents = &kept.contents;
    let about = &contents.about;
    let processes = contents.tree.processes.iter().map(|p| {
        let threads: Vec<(i32, String)> = p.threads.iter().map(|t| (t.tid, printable(&t.comm))).collect();
        let slots = contents.tree.files.tables.get(p.table).into_iter().flat_map(|table| &table.0);
        let descriptors = slots
            .filter_map(|slot| Some((slot.fd, contents.tree.files.files.get(slot.file)?.link.to_string())));
        Process {
            pid: p.pid,
            name: threads.first().map(|(_, name)| name.clone()).unwrap_or_default(),
            program: p.memory.exe.to_string(),
            mappings: p.memory.layout.vmas.len(),
            mapped_files: p.memory.files.iter().map(|(path, _)| path.to_string()).collect(),
            descriptors: descriptors.collect(),
            threads,
        }
    });
    Ok(Summary {
        id: about.id.clone(),
        made_s: about.made_ns.div_euclid(1_000_000_000),
        host: about.host.host.clone(),
        kernel: about.host.kernel.clone(),
        versions: Versions {
            program: about.program.clone(),
            format: FORMAT_VERSION,
            image: IMAGE_VERSION,
            protocol: PROTOCOL_VERSION,
        },
        left_running: about.left_running,
        original: about.original(),
        original_pid: about.pid,
        bytes: kept.bytes,
        memory_bytes: contents.memory.stored() * PAGE_SIZE,
        resident_bytes: contents.tree.processes.iter().map(|p| p.memory.resident).sum(),
        processes: processes.collect(),
    })
}
