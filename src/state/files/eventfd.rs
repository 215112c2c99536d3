//! `eventfd(2)`: a counter.
//!
//! Kernel interface: `fdinfo` lines `eventfd-count:` (hexadecimal) and, since Linux 6.5, `eventfd-semaphore:`. Before,
//! only a read tells: a semaphore gives 1 and keeps the rest, a plain eventfd gives all it has. So in the freeze, where
//! nobody else reads or writes it (others who hold it are refused), it is read once, when it holds at least 2, and what
//! was taken or added is put back. Its flags, which a duplicate shares, stay as they are. What can be seen of it: a
//! process that is resumed here may get one more edge of an edge-triggered epoll.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::write;

use crate::image::files::{FileKind, OpenFile};
use crate::sys::fds::read_word_now;

use super::FilesError;
use super::maker::{failed, set_flags};
use super::source::{Descriptor, Source};

/// Reads the counter, and the mode.
pub(super) fn read(source: &Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let count = file.number("eventfd-count", 16)?;
    let semaphore = match file.number("eventfd-semaphore", 10) {
        Ok(mode) => mode != 0,
        // the freeze will tell
        Err(_) if !source.stopped => false,
        Err(_) => is_semaphore(&source.duplicate(file)?, count)
            .map_err(|error| source.failed(file, "find out whether it is a semaphore", error))?,
    };
    Ok(Some(FileKind::EventFd { count, semaphore }))
}

/// Finds out by a read, and puts the counter back to `count`.
fn is_semaphore(copy: &OwnedFd, count: u64) -> io::Result<bool> {
    let add = |n: u64| match n {
        0 => Ok(()),
        n => write(copy, &n.to_ne_bytes()).map(drop).map_err(io::Error::from),
    };
    // of 0 or 1 both kinds give the same; 2 always fit beside these
    let added = 2u64.saturating_sub(count);
    add(added)?;
    let got = read_word_now(copy)?;
    let semaphore = got == 1;
    match semaphore {
        true if added == 0 => add(1)?,
        // one has been taken already
        true => (1..added).try_for_each(|_| read_word_now(copy).map(drop))?,
        false => add(got.saturating_sub(added))?,
    }
    if !semaphore && got != count + added {
        return Err(io::Error::other(format!(
            "it held {got} instead of {}: somebody else uses it",
            count + added
        )));
    }
    Ok(semaphore)
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
    use std::os::fd::{AsFd, AsRawFd};

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

    fn count_of(fd: &OwnedFd) -> u64 {
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).unwrap();
        let count = info.lines().find_map(|line| line.strip_prefix("eventfd-count:")).unwrap();
        u64::from_str_radix(count.trim(), 16).unwrap()
    }

    #[test]
    fn a_read_tells_the_mode_and_leaves_no_trace() {
        for count in [0, 1, 2, 3, 1000, u64::MAX - 2, u64::MAX - 1] {
            for mode in [EfdFlags::empty(), EfdFlags::EFD_SEMAPHORE] {
                for flags in [EfdFlags::empty(), EfdFlags::EFD_NONBLOCK] {
                    let made = EventFd::from_flags(mode | flags).unwrap();
                    if count != 0 {
                        made.write(count).unwrap();
                    }
                    let fd = OwnedFd::from(made);
                    let before = status_flags(&fd);
                    let found = is_semaphore(&fd.try_clone().unwrap(), count).unwrap();
                    assert_eq!(found, !mode.is_empty(), "{count} {mode:?} {flags:?}");
                    assert_eq!((count_of(&fd), status_flags(&fd)), (count, before), "{mode:?} {flags:?}");
                }
            }
        }
    }

    /// `fdinfo` as an older kernel shows it: the walk over a running process takes it as plain and touches nothing, the
    /// walk over a stopped one finds out.
    #[test]
    fn without_the_line_in_fdinfo_the_freeze_finds_out() {
        let pid = std::process::id() as i32;
        let pidfd = crate::sys::process::pidfd_open(pid).unwrap();
        let fd = OwnedFd::from(EventFd::from_value_and_flags(5, EfdFlags::EFD_SEMAPHORE).unwrap());
        for stopped in [false, true] {
            let options = super::super::FilesOptions::default();
            let source = Source::new(pid, pidfd.as_fd(), &options, None, stopped);
            let mut file = source.read_descriptor(fd.as_raw_fd()).unwrap();
            let newer = |line: &&str| !line.starts_with("eventfd-semaphore");
            file.info = file.info.lines().filter(newer).map(|line| format!("{line}\n")).collect();
            let kind = read(&source, &file).unwrap();
            assert_eq!(kind, Some(FileKind::EventFd { count: 5, semaphore: stopped }));
            assert_eq!(count_of(&fd), 5);
        }
    }

    #[test]
    fn equal_eventfds_are_not_one() {
        let _quiet = quiet();
        let fds: Vec<OwnedFd> =
            (0..9).map(|_| EventFd::from_flags(EfdFlags::empty()).unwrap().into()).collect();
        let twins: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let all: Vec<&dyn std::os::fd::AsRawFd> = fds.iter().chain(&twins).map(|fd| fd as _).collect();
        let image = captured(&all);
        assert_eq!((image.slots().count(), image.files.len()), (18, 9));
    }
}
