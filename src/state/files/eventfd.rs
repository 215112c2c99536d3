//! `eventfd(2)`: a counter.
//!
//! Kernel interface: `fdinfo` lines `eventfd-count:` (hexadecimal) and `eventfd-semaphore:` (since Linux 6.5;
//! on older kernels semaphore mode cannot be seen).

use std::os::fd::OwnedFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::write;

use crate::image::files::{FileKind, OpenFile};

use super::FilesError;
use super::source::Descriptor;
use super::target::{failed, set_flags};

/// Reads the counter.
pub(super) fn read(file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let count = file.number("eventfd-count", 16)?;
    let semaphore = file.number("eventfd-semaphore", 10).unwrap_or(0) != 0;
    Ok(Some(FileKind::EventFd { count, semaphore }))
}

/// Makes an eventfd with the counter.
pub(super) fn make(file: &OpenFile, count: u64, semaphore: bool) -> Result<OwnedFd, FilesError> {
    let mode = if semaphore { EfdFlags::EFD_SEMAPHORE } else { EfdFlags::empty() };
    let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK | mode;
    let made: OwnedFd = EventFd::from_flags(flags).map_err(failed(file, "make the eventfd"))?.into();
    if count != 0 {
        write(&made, &count.to_ne_bytes()).map_err(failed(file, "set the counter"))?;
    }
    set_flags(file, &made)?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{captured, moved, quiet, status_flags};
    use super::*;
    use std::os::fd::AsFd;

    fn take(fd: impl AsFd) -> u64 {
        let mut count = [0; 8];
        nix::unistd::read(fd, &mut count).unwrap();
        u64::from_ne_bytes(count)
    }

    #[test]
    fn count_and_mode_travel() {
        let _quiet = quiet();
        let plain = EventFd::from_value_and_flags(7, EfdFlags::EFD_NONBLOCK).unwrap();
        let semaphore = EventFd::from_value_and_flags(2, EfdFlags::EFD_SEMAPHORE).unwrap();
        let brim = EventFd::from_flags(EfdFlags::empty()).unwrap();
        brim.write(u64::MAX - 1).unwrap();
        let (plain, semaphore, brim) = (OwnedFd::from(plain), OwnedFd::from(semaphore), OwnedFd::from(brim));
        let (_, made) = moved(&[&plain, &semaphore, &brim]);
        assert_eq!((take(&made[0]), take(&plain)), (7, 7));
        assert_eq!((take(&made[1]), take(&made[1])), (1, 1));
        assert_eq!(take(&made[2]), u64::MAX - 1);
        assert_ne!(status_flags(&made[0]) & libc::O_NONBLOCK, 0);
        assert_eq!(status_flags(&made[1]) & libc::O_NONBLOCK, 0);
    }

    #[test]
    fn equal_eventfds_are_not_one() {
        let _quiet = quiet();
        let fds: Vec<OwnedFd> =
            (0..9).map(|_| EventFd::from_flags(EfdFlags::empty()).unwrap().into()).collect();
        let twins: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let all: Vec<&dyn std::os::fd::AsRawFd> = fds.iter().chain(&twins).map(|fd| fd as _).collect();
        let image = captured(&all);
        assert_eq!((image.slots.len(), image.files.len()), (18, 9));
    }
}
