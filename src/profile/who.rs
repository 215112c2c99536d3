//! Who the process is, read from `/proc` when watching begins.

use procfs::process::Process;

use crate::image::file_path;
use crate::preload::standing::children;
use crate::sys::status::{Status, name};
use crate::sys::voice;

/// Who the process is, read while it is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// The process.
    pub(crate) pid: i32,
    /// Its name.
    pub(crate) name: String,
    /// Its threads.
    pub(crate) threads: u64,
    /// Its open descriptors.
    pub(crate) descriptors: u64,
    /// Its resident set in bytes.
    pub(crate) resident: u64,
    /// It has child processes, which are not watched.
    pub(crate) children: usize,
}

impl Who {
    /// Reads `/proc`.
    pub(crate) fn of(pid: i32) -> Self {
        let voice = voice::of(pid);
        let Ok(process) = Process::new(voice) else { return Who { pid, ..Who::default() } };
        let status = Status::of(voice).unwrap_or_default();
        Who {
            pid,
            name: file_path::printable(&name(pid)),
            threads: status.threads,
            descriptors: process.fd_count().unwrap_or(0) as u64,
            resident: status.resident,
            children: children(pid).len(),
        }
    }
}

/// Names are the process's own choice; a terminal must not obey them.
pub(crate) fn printable(name: &str) -> String {
    crate::image::shown(name).into_owned()
}
