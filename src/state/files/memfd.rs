//! `memfd_create(2)`: memory with a descriptor. Nameless files of `/dev/shm` are the same, made in another way ([`shm`]).
//!
//! Kernel interface: the link `/memfd:NAME (deleted)`, `F_GET_SEALS`, `fstat`. The content travels with the
//! pages; this file makes the object ([`create`]), gives it owner, mode, times and seals when it is filled ([`finish`]) and opens the
//! descriptions on it, each through `/proc/self/fd/N` so that it has access, flags and a position of its own: as long as anybody has it
//! open for writing, it cannot be executed (`ETXTBSY`).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use nix::sys::statfs::{HUGETLBFS_MAGIC, fstatfs};
use nix::unistd::{Whence, ftruncate, lseek};

use crate::image::ObjectId;
use crate::image::files::{FileKind, MemFd, OpenFile};
use crate::image::memory::MemoryObject;
use crate::image::obstacle::Obstacle;
use crate::state::{inode, shm};
use crate::sys::hugetlb;

use super::maker::{Maker, TargetCheck, failed};
use super::source::{Descriptor, Source};
use super::{FilesError, refuse, regular};

/// `F_SEAL_EXEC` (Linux 6.3): who may execute it cannot be changed.
const F_SEAL_EXEC: i32 = 0x20;
/// `MFD_NOEXEC_SEAL` and `MFD_EXEC` (Linux 6.3).
const MFD_NOEXEC_SEAL: u32 = 8;
const MFD_EXEC: u32 = 0x10;

/// Reads one open file and, once per object, the object.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let fail = |error: io::Error| source.failed(file, "stat the memory file", error);
    let metadata = fs::metadata(source.magic_link(file)).map_err(fail)?;
    let id = ObjectId { dev: metadata.dev(), ino: metadata.ino() };
    let nameless = match shm::find(&file.link, id) {
        Some(shm::Name::None(path)) => Some(path),
        _ => None,
    };
    let place = file.flags & libc::O_PATH as u32 != 0;
    if place || nameless.is_none() && !file.link.starts_with("/memfd:") {
        return regular::read(source, file);
    }
    let copy = source.duplicate(file)?;
    // A file of a real file system may be called so, too.
    let Ok(seals) = fcntl(&copy, FcntlArg::F_GET_SEALS) else { return regular::read(source, file) };
    let fail = |error: io::Error| source.failed(file, "look at the memory file", error);
    let statfs = fstatfs(&copy).map_err(|error| fail(error.into()))?;
    let (inode, attribute) = inode::with_attributes(&metadata, &copy).map_err(fail)?;
    if let Some(name) = attribute {
        let why = format!("its extended attribute {name} cannot be carried");
        source.refuse(refuse::because(file, &why, "have the program remove it (fremovexattr)"));
        return Ok(None);
    }
    let object = MemFd {
        object: id.ino,
        dev: id.dev,
        shm: nameless.is_some(),
        name: nameless.unwrap_or_else(|| {
            file.link.strip_prefix("/memfd:").unwrap_or_default().without_suffix(" (deleted)")
        }),
        size: metadata.size(),
        seals: seals as u32,
        inode,
        huge_page: (statfs.filesystem_type() == HUGETLBFS_MAGIC).then_some(statfs.block_size() as u64),
    };
    let kind = FileKind::MemFd { object: object.object, pos: file.pos };
    if !source.image.memfds.iter().any(|known| known.object == object.object) {
        source.image.memfds.push(object);
    }
    Ok(Some(kind))
}

/// Can it be made here, and belong to whom it belongs?
pub(super) fn check(check: &mut TargetCheck, memfds: &[MemFd], object: u64, file: &OpenFile) {
    let Some(memfd) = memfds.iter().find(|memfd| memfd.object == object) else { return };
    check.obstacles.extend(inode::obstacle(&file.object(), &memfd.inode));
    if memfd.shm {
        check.obstacles.extend(shm::obstacle(&file.object()));
    } else if memfd.huge_page.is_none()
        && let Err(error) = make_memfd(&memfd.object())
    {
        check.obstacles.push(Obstacle::new(
            file.object(),
            format!("such a memory file cannot be made at the target: {error}"),
            "look at the target's setting vm.memfd_noexec",
        ));
    }
}

/// Makes the object, empty, in its full size; its mode, owner and seals come when it is filled.
pub fn create(object: &MemoryObject) -> io::Result<OwnedFd> {
    let made = match &object.memfd_name {
        Some(path) if object.shm => shm::create(path)?,
        _ => make_memfd(object)?,
    };
    ftruncate(&made, i64::try_from(object.size).map_err(io::Error::other)?)?;
    Ok(made)
}

/// Says of itself whether it may be executed: else the target's `vm.memfd_noexec` would.
fn make_memfd(object: &MemoryObject) -> io::Result<OwnedFd> {
    let mut flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    if object.huge() {
        flags |= hugetlb::memfd_flags(object.page_size);
    }
    let never =
        object.seals & F_SEAL_EXEC != 0 && object.inode.as_ref().is_some_and(|inode| inode.mode & 0o111 == 0);
    let exec = MFdFlags::from_bits_retain(if never { MFD_NOEXEC_SEAL } else { MFD_EXEC });
    let name = object.memfd_name.clone().unwrap_or_default();
    match memfd_create(name.as_path(), flags | exec) {
        // before Linux 6.3
        Err(Errno::EINVAL) => Ok(memfd_create(name.as_path(), flags)?),
        made => Ok(made?),
    }
}

/// Gives it owner, mode and times, once the content is there and the writable mappings are made, and puts the seals on.
pub fn finish(object: &MemoryObject, file: impl AsFd) -> io::Result<()> {
    if let Some(inode) = &object.inode {
        inode::put(inode, file.as_fd())?;
    }
    let seals = SealFlag::from_bits_retain(object.seals);
    if !seals.is_empty() && !object.shm {
        fcntl(file, FcntlArg::F_ADD_SEALS(seals))?;
    }
    Ok(())
}

/// Opens the object that the caller made.
pub(super) fn make(maker: &Maker<'_>, file: &OpenFile, object: u64, pos: u64) -> Result<OwnedFd, FilesError> {
    let missing = || FilesError::Inconsistent { object: file.object(), what: "its memory was not made" };
    let base = maker.context.memfds.get(&object).ok_or_else(missing)?;
    let path = inode::by_number(base);
    let kept = libc::O_ACCMODE | super::maker::SETTABLE_FLAGS & !libc::O_ASYNC | libc::O_LARGEFILE;
    let flags = OFlag::from_bits_retain(file.flags as i32 & kept) | OFlag::O_CLOEXEC;
    let made = open(path.as_str(), flags, Mode::empty()).map_err(failed(file, "open the memory"))?;
    let pos = i64::try_from(pos).unwrap_or(i64::MAX);
    lseek(&made, pos, Whence::SeekSet).map_err(failed(file, "set the position"))?;
    Ok(made)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::super::maker::RestoreContext;
    use super::super::target::restore;
    use super::super::testing::{captured, index, quiet};
    use super::*;
    use crate::image::inode::Inode;
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

        let made = create(&object.object()).unwrap();
        write(&made, b"abcdefghij").unwrap();
        finish(&object.object(), &made).unwrap();
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
        assert_eq!(
            again.memfds[0],
            MemFd { object: again.memfds[0].object, inode: again.memfds[0].inode.clone(), ..object.clone() }
        );
        let inode = |memfd: &MemFd| Inode { atime_ns: 0, mtime_ns: 0, ..memfd.inode.clone() };
        assert_eq!(inode(&again.memfds[0]), inode(object));
    }

    #[test]
    fn one_without_its_memory_is_an_error() {
        let _quiet = quiet();
        let first = memfd_create("x", MFdFlags::empty()).unwrap();
        let error = restore(&captured(&[&first]), &mut RestoreContext::default()).unwrap_err();
        assert!(error.to_string().ends_with("its memory was not made"), "{error}");
    }
}
