//! `signalfd(2)`: signals as reads.
//!
//! Kernel interface: `fdinfo` line `sigmask:` (hexadecimal, bit n-1 is signal n). Pending signals belong to the
//! process, not to the descriptor.

use std::os::fd::OwnedFd;

use crate::image::files::{FileKind, OpenFile};
use crate::sys::fds;

use super::FilesError;
use super::maker::{failed, set_flags};
use super::source::Descriptor;

/// Reads the mask.
pub(super) fn read(file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    Ok(Some(FileKind::SignalFd { mask: file.number("sigmask", 16)? }))
}

/// Makes a signalfd with the mask.
pub(super) fn make(file: &OpenFile, mask: u64) -> Result<OwnedFd, FilesError> {
    let made = fds::signalfd(mask, 0).map_err(failed(file, "make the signalfd"))?;
    set_flags(file, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, moved, only_kind, quiet, status_flags};
    use super::*;

    #[test]
    fn the_mask_travels_with_real_time_signals() {
        let _quiet = quiet();
        let mask = 1 << (libc::SIGUSR2 - 1) | 1 << (40 - 1) | 1 << (64 - 1);
        let ours = fds::signalfd(mask, libc::SFD_NONBLOCK).unwrap();
        let (_, made) = moved(&[&ours]);
        assert_eq!(*only_kind(&captured(&[&made[0]])), FileKind::SignalFd { mask });
        assert_ne!(status_flags(&made[0]) & libc::O_NONBLOCK, 0);
    }
}
