//! `memfd_create(2)`: memory with a descriptor.
//!
//! Kernel interface: the link `/memfd:NAME (deleted)`, `F_GET_SEALS`, `fstat`. The content travels with the
//! pages; this file makes the object ([`create`]), seals it when it is filled ([`seal`]) and opens the
//! descriptions on it, each through `/proc/self/fd/N` so that it has flags and a position of its own.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{Whence, ftruncate, lseek};

use crate::image::files::{FileKind, MemFd, OpenFile};

use super::source::{Descriptor, Source};
use super::target::{Maker, failed};
use super::{FilesError, regular};

/// Reads one open file and, once per object, the object.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let copy = source.duplicate(file)?;
    // A file of a real file system may be called so, too.
    let Ok(seals) = fcntl(&copy, FcntlArg::F_GET_SEALS) else { return regular::read(source, file) };
    let fail = |error: io::Error| source.failed(file, "stat the memory file", error);
    let metadata = fs::metadata(source.magic_link(file)).map_err(fail)?;
    let statfs = fstatfs(&copy).map_err(|error| fail(error.into()))?;
    let object = MemFd {
        object: metadata.ino(),
        dev: metadata.dev(),
        name: file.link.strip_prefix("/memfd:").unwrap_or_default().without_suffix(" (deleted)"),
        size: metadata.size(),
        seals: seals as u32,
        mode: metadata.mode() & 0o7777,
        huge_page: (statfs.filesystem_type() == HUGETLBFS_MAGIC).then_some(statfs.block_size() as u64),
    };
    let kind = FileKind::MemFd { object: object.object, pos: file.pos };
    if !source.image.memfds.iter().any(|known| known.object == object.object) {
        source.image.memfds.push(object);
    }
    Ok(Some(kind))
}

/// Makes the object, empty, in its full size and without seals yet.
pub fn create(image: &MemFd) -> io::Result<OwnedFd> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if let Some(size) = image.huge_page {
        let exponent = size.checked_ilog2().unwrap_or(21);
        flags |= MFdFlags::MFD_HUGETLB | MFdFlags::from_bits_retain(exponent << libc::MFD_HUGE_SHIFT);
    }
    let made = memfd_create(image.name.as_path(), flags)?;
    ftruncate(&made, i64::try_from(image.size).map_err(io::Error::other)?)?;
    fchmod(&made, Mode::from_bits_truncate(image.mode))?;
    Ok(made)
}

/// Puts the seals on, once the content is there and the writable mappings are made.
pub fn seal(image: &MemFd, object: impl AsFd) -> io::Result<()> {
    let seals = SealFlag::from_bits_retain(image.seals as i32);
    if !seals.is_empty() {
        fcntl(object, FcntlArg::F_ADD_SEALS(seals))?;
    }
    Ok(())
}

/// Opens the object that the caller made.
pub(super) fn make(maker: &Maker<'_>, file: &OpenFile, object: u64, pos: u64) -> Result<OwnedFd, FilesError> {
    let missing = || FilesError::Inconsistent { object: file.object(), what: "its memory was not made" };
    let base = maker.context.memfds.get(&object).ok_or_else(missing)?;
    let path = format!("/proc/self/fd/{}", base.as_raw_fd());
    let kept = libc::O_ACCMODE | super::target::SETTABLE_FLAGS & !libc::O_ASYNC | libc::O_LARGEFILE;
    let flags = OFlag::from_bits_retain(file.flags as i32 & kept) | OFlag::O_CLOEXEC;
    let made = open(path.as_str(), flags, Mode::empty()).map_err(failed(file, "open the memory"))?;
    let pos = i64::try_from(pos).unwrap_or(i64::MAX);
    lseek(&made, pos, Whence::SeekSet).map_err(failed(file, "set the position"))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use super::super::target::{RestoreContext, restore};
    use super::super::testing::{captured, index, quiet};
    use super::*;
    use nix::errno::Errno;
    use nix::unistd::{read, write};

    #[test]
    fn name_size_seals_and_positions_travel() {
        let _quiet = quiet();
        let first = memfd_create("a name", MFdFlags::MFD_ALLOW_SEALING).unwrap();
        write(&first, b"0123456789").unwrap();
        let path = format!("/proc/self/fd/{}", first.as_raw_fd());
        let second = open(path.as_str(), OFlag::O_RDONLY, Mode::empty()).unwrap();
        lseek(&second, 4, Whence::SeekSet).unwrap();
        fcntl(&first, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW)).unwrap();
        let image = captured(&[&first, &second]);
        assert_eq!((image.files.len(), image.memfds.len()), (2, 1));
        let object = &image.memfds[0];
        assert_eq!((object.name.text(), object.size, object.huge_page), (Some("a name"), 10, None));

        let made = create(object).unwrap();
        write(&made, b"abcdefghij").unwrap();
        seal(object, &made).unwrap();
        let mut context = RestoreContext::default();
        context.memfds.insert(object.object, made);
        let made = restore(&image, &mut context).unwrap().files;
        let files = [&first, &second].map(|fd| &made[index(&image, fd.as_raw_fd())]);
        let mut rest = [0; 16];
        assert_eq!(read(files[1], &mut rest), Ok(6));
        assert_eq!(&rest[..6], b"efghij");
        assert_eq!(write(files[1], b"x"), Err(Errno::EBADF));
        assert_eq!(write(files[0], b"x"), Err(Errno::EPERM), "growing is sealed");
        let again = captured(&[files[0], files[1]]);
        assert_eq!(again.memfds[0], MemFd { object: again.memfds[0].object, ..object.clone() });
    }

    #[test]
    fn one_without_its_memory_is_an_error() {
        let _quiet = quiet();
        let first = memfd_create("x", MFdFlags::empty()).unwrap();
        let error = restore(&captured(&[&first]), &mut RestoreContext::default()).unwrap_err();
        assert!(error.to_string().ends_with("its memory was not made"), "{error}");
    }
}
