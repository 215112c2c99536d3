//! What has a path: regular files, directories, `O_PATH` descriptors and the harmless character devices.
//!
//! Kernel interface: `stat` through `/proc/PID/fd/N` (the open file itself), its link as the path, `fdinfo` for
//! position, flags and `lock:` lines. At the target the path is opened with the same flags; position and
//! flags go with the description.

use std::fs::{self, Metadata};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode, major, minor};
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, fstatfs, statfs};
use nix::unistd::{Whence, fdatasync, lseek};

use crate::image::file_path::FilePath;
use crate::image::files::{AtPath, FileIdentity, FileKind, OpenFile, is_shared_fs};
use crate::image::obstacle::Obstacle;

use super::identity::{Access, FileCheck, check_file, identity, identity_of};
use super::maker::{Maker, TargetCheck, failed};
use super::source::{Descriptor, Source};
use super::{FilesError, refuse};

/// Devices that are the same everywhere, by minor number of major 1.
const HARMLESS: [(u32, &str); 5] =
    [(3, "/dev/null"), (5, "/dev/zero"), (7, "/dev/full"), (8, "/dev/random"), (9, "/dev/urandom")];

/// The file system of POSIX message queues, whose names look like paths.
const MQUEUE_MAGIC: FsType = FsType(0x1980_0202);
/// `__O_TMPFILE`: makes a nameless file when given to `open` again.
const O_TMPFILE_BIT: u32 = 0o20_000_000;
/// The kernel's own mark on files it opened for itself (`__FMODE_EXEC`).
const FMODE_EXEC: u32 = 0x20;

/// Reads what has a path.
pub(super) fn read(source: &mut Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    if let Some(line) = file.info.lines().find(|line| line.starts_with("lock:")) {
        source.refuse(refuse::lock(file, line));
        return Ok(None);
    }
    if let Some(kind) = unchanged(source, file)? {
        return Ok(Some(kind));
    }
    let link = source.magic_link(file);
    let fail = |error| source.failed(file, "stat the file", error);
    let metadata = fs::metadata(&link).map_err(fail)?;
    let kind = metadata.file_type();
    let place = file.flags & libc::O_PATH as u32 != 0;
    let fs_type = statfs(link.as_str()).map_err(|error| fail(error.into()))?.filesystem_type();
    if fs_type == MQUEUE_MAGIC && kind.is_file() {
        source.refuse(refuse::message_queue(file));
        return Ok(None);
    }
    if !leads_there(file, &metadata) {
        let gone = metadata.nlink() == 0 || file.link.ends_with(" (deleted)");
        source.refuse(match gone {
            _ if refuse::is_special_path(&file.link) => refuse::unknown(file),
            true => refuse::deleted(
                file,
                file.link.without_suffix(" (deleted)").as_path().exists(),
                metadata.nlink(),
                metadata.ino(),
            ),
            false => refuse::unreachable(file),
        });
        return Ok(None);
    }
    if !place && (kind.is_block_device() || kind.is_char_device()) {
        return Ok(read_device(source, file, &metadata));
    }
    if !place && kind.is_fifo() {
        source.refuse(refuse::fifo(file));
        return Ok(None);
    }
    if is_about_a_process(file.link.as_path(), fs_type) {
        source.refuse(refuse::process_file(file));
        return Ok(None);
    }
    let (path, pos, identity) = (file.link.clone(), file.pos, identity(&metadata, fs_type));
    if kind.is_dir() && !place && source.is_preflight() {
        let what = "if it asked to be told of changes in this directory (F_NOTIFY), which cannot be seen, it is not told any more";
        source.note(file.object(), what);
    }
    let kind = match kind.is_dir() {
        _ if place => FileKind::Place { path, identity },
        true => FileKind::Directory { path, pos, identity },
        false => {
            sync(source, file, &identity)?;
            FileKind::Regular { path, pos, identity }
        }
    };
    Ok(Some(kind))
}

/// The preflight's description with today's position.
fn unchanged(source: &Source<'_>, file: &Descriptor) -> Result<Option<FileKind>, FilesError> {
    let Some(known) = source.known(file) else { return Ok(None) };
    let pos = file.pos;
    Ok(match &known.kind {
        FileKind::Regular { path, identity, .. } => {
            let kind = FileKind::Regular { path: path.clone(), pos, identity: identity.clone() };
            // What was written meanwhile does not change which file it is; what was only read must not differ.
            if writes(file.flags) {
                sync(source, file, identity)?;
                return Ok(Some(kind));
            }
            let Ok(metadata) = fs::metadata(source.magic_link(file)) else { return Ok(None) };
            let stamp = super::identity::identity(&metadata, FsType(identity.fs_type));
            (stamp == *identity).then_some(kind)
        }
        FileKind::Directory { path, identity, .. } => {
            Some(FileKind::Directory { path: path.clone(), pos, identity: identity.clone() })
        }
        FileKind::Place { .. } | FileKind::CharDevice { .. } => Some(known.kind.clone()),
        // another one under its number
        FileKind::Pipe { .. } | FileKind::Unix(_) | FileKind::TcpListen(_) | FileKind::TcpOver(_) => None,
        FileKind::Udp(_) | FileKind::EventFd { .. } | FileKind::Epoll { .. } => None,
        FileKind::TimerFd(_) | FileKind::SignalFd { .. } | FileKind::MemFd { .. } => None,
    })
}

/// On a shared file system our kernel may still hold what the process wrote: the target must see it.
fn sync(source: &Source<'_>, file: &Descriptor, identity: &FileIdentity) -> Result<(), FilesError> {
    if writes(file.flags) && is_shared_fs(identity.fs_type) {
        let copy = source.duplicate(file)?;
        fdatasync(&copy).map_err(|error| source.failed(file, "write back the content", error.into()))?;
    }
    Ok(())
}

/// Does the link, as a path of ours, lead to the open file?
fn leads_there(file: &Descriptor, open: &Metadata) -> bool {
    let path = file.link.as_path();
    let at_path = if open.is_symlink() { fs::symlink_metadata(path) } else { fs::metadata(path) };
    at_path.is_ok_and(|found| (found.dev(), found.ino()) == (open.dev(), open.ino()))
}

fn is_about_a_process(path: &Path, fs_type: FsType) -> bool {
    fs_type == PROC_SUPER_MAGIC
        && path.components().any(|part| {
            part.as_os_str().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        })
}

fn writes(flags: u32) -> bool {
    flags as i32 & libc::O_ACCMODE != libc::O_RDONLY
}

fn read_device(source: &mut Source<'_>, file: &Descriptor, metadata: &Metadata) -> Option<FileKind> {
    let (major, minor) = (major(metadata.rdev()) as u32, minor(metadata.rdev()) as u32);
    let block = metadata.file_type().is_block_device();
    if !block && major == 1 && HARMLESS.iter().any(|(harmless, _)| *harmless == minor) {
        return Some(FileKind::CharDevice { path: file.link.clone(), major, minor });
    }
    source.refuse(refuse::device(file, block, major, minor));
    None
}

/// Checks that the path is there and is the file.
pub(super) fn check_regular(
    check: &mut TargetCheck,
    maker: &Maker<'_>,
    file: &OpenFile,
    path: &FilePath,
    identity: &FileIdentity,
) {
    let no_hashes = Default::default();
    let access = if writes(file.flags) { Access::Write } else { Access::Read };
    let hashes = maker.hashes.unwrap_or(&no_hashes);
    match check_file(&file.object(), path, identity, access, hashes) {
        FileCheck::Same => {}
        FileCheck::SameContent(vetted) => check.vetted.push(vetted),
        FileCheck::NeedsHash => check.needs_hash.push(path.clone()),
        FileCheck::Differs(obstacle) => return check.obstacles.push(obstacle),
    }
    check_open(check, file, path);
}

/// Checks that the path is a directory, and the same if it is being listed.
pub(super) fn check_directory(
    check: &mut TargetCheck,
    file: &OpenFile,
    path: &FilePath,
    pos: u64,
    identity: &FileIdentity,
) {
    match open_path(file, path).and_then(|made| identity_of(&made)) {
        Err(error) => missing(check, file, path, &error),
        Ok(found) if pos != 0 && !identity.same_file(&found) => check.obstacles.push(Obstacle::new(
            file.object(),
            "the directory is being listed and is another one at the target",
            "try again when the program has read it to the end, or use a shared file system",
        )),
        Ok(_) => {}
    }
}

/// Checks that the path can be opened.
pub(super) fn check_open(check: &mut TargetCheck, file: &OpenFile, path: &FilePath) {
    if let Err(error) = open_path(file, path) {
        missing(check, file, path, &error);
    }
}

fn missing(check: &mut TargetCheck, file: &OpenFile, path: &FilePath, error: &io::Error) {
    check.obstacles.push(Obstacle::new(
        file.object(),
        format!("{path} cannot be opened at the target: {error}"),
        "make it there with the same type and permissions",
    ));
}

/// Checks that the device is there.
pub(super) fn check_device(
    check: &mut TargetCheck,
    file: &OpenFile,
    path: &FilePath,
    (major, minor): (u32, u32),
) {
    if let Err(error) = make_device(file, path, (major, minor)) {
        let why = format!("the device {major}:{minor} cannot be opened at the target: {error}");
        check.obstacles.push(Obstacle::new(file.object(), why, "mount a /dev with the usual devices"));
    }
}

/// Opens the path again; files of another identity only if they were vetted in preflight.
pub(super) fn make(
    maker: &Maker<'_>,
    file: &OpenFile,
    path: &FilePath,
    identity: &FileIdentity,
    pos: Option<u64>,
) -> Result<OwnedFd, FilesError> {
    let made = open_path(file, path).map_err(failed(file, "open the path"))?;
    let found = identity_of(&made).map_err(failed(file, "stat the file"))?;
    let at = file.kind.at_path().map(|(at, _)| at);
    let content_counts = at == Some(AtPath::File) && !identity.is_made_up();
    let good = match (content_counts, writes(file.flags)) {
        (false, _) => identity.mode & libc::S_IFMT == found.mode & libc::S_IFMT,
        (true, true) => identity.same_file(&found),
        (true, false) => identity.same_content(&found) || is_vetted(maker, path, identity, &found),
    };
    if !good {
        return Err(FilesError::OtherFile { object: file.object() });
    }
    if let Some(pos) = pos.filter(|pos| *pos != 0) {
        let offset =
            i64::try_from(pos).map_err(io::Error::other).map_err(failed(file, "set the position"))?;
        lseek(&made, offset, Whence::SeekSet).map_err(failed(file, "set the position"))?;
    }
    Ok(made)
}

fn is_vetted(maker: &Maker<'_>, path: &FilePath, source: &FileIdentity, target: &FileIdentity) -> bool {
    let fits = |vetted: &&super::Vetted| {
        vetted.path == *path && vetted.source == *source && vetted.target == *target
    };
    maker.context.vetted.iter().any(|vetted| fits(&vetted))
}

/// Opens the device by its own path, or by the usual one.
pub(super) fn make_device(
    file: &OpenFile,
    path: &FilePath,
    number: (u32, u32),
) -> Result<OwnedFd, FilesError> {
    let usual = HARMLESS.iter().filter(|(minor, _)| number == (1, *minor)).map(|(_, usual)| *usual);
    for path in std::iter::once(path.clone()).chain(usual.map(FilePath::from)) {
        let is_it = fs::metadata(&path).is_ok_and(|found| {
            found.file_type().is_char_device()
                && (major(found.rdev()) as u32, minor(found.rdev()) as u32) == number
        });
        if is_it && usual_number(number) {
            return open_path(file, &path).map_err(failed(file, "open the device"));
        }
    }
    Err(FilesError::OtherFile { object: file.object() })
}

fn usual_number((major, minor): (u32, u32)) -> bool {
    major == 1 && HARMLESS.iter().any(|(harmless, _)| *harmless == minor)
}

/// Opens what is at the path, if it is of the kind that the image says: opening a device, or a pipe, would do something.
/// Files about a process are of another one here, perhaps of ourselves.
fn open_path(file: &OpenFile, path: &FilePath) -> io::Result<OwnedFd> {
    let mut flags = file.flags & !(libc::O_ASYNC as u32 | FMODE_EXEC);
    if flags & O_TMPFILE_BIT != 0 {
        flags &= !(O_TMPFILE_BIT | libc::O_DIRECTORY as u32);
    }
    // Whatever the image says: opening must not make or empty anything.
    flags &= !(libc::O_CREAT | libc::O_TRUNC | libc::O_EXCL) as u32;
    let flags = OFlag::from_bits_retain(flags as i32) | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    if flags.contains(OFlag::O_PATH) {
        return Ok(open(path.as_path(), flags, Mode::empty())?);
    }
    let place = open(path.as_path(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    let at = format!("/proc/self/fd/{}", place.as_raw_fd());
    let found = fs::metadata(&at)?;
    let right = match file.kind.at_path().map(|(at, _)| at) {
        Some(AtPath::Directory) => found.is_dir(),
        Some(AtPath::Device) => {
            found.file_type().is_char_device()
                && usual_number((major(found.rdev()) as u32, minor(found.rdev()) as u32))
        }
        Some(AtPath::File | AtPath::Place) | None => found.is_file(),
    };
    if !right {
        return Err(io::Error::other("it is of another kind here"));
    }
    if is_about_a_process(&fs::read_link(&at)?, fstatfs(&place)?.filesystem_type()) {
        return Err(io::Error::other("it tells about another process here"));
    }
    Ok(open(at.as_str(), flags - OFlag::O_NOFOLLOW, Mode::empty())?)
}

#[cfg(test)]
#[path = "regular_tests.rs"]
mod tests;
