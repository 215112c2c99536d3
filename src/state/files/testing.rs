//! What the tests of all kinds share: describe, capture and restore chosen descriptors of this very process.

use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use crate::image::files::{FileKind, FilesImage};
use crate::image::obstacle::Obstacle;

pub(super) use crate::sys::spawn::quiet;

use super::maker::RestoreContext;
use super::source::Source;
use super::target::{RestoredFiles, restore};
use super::tcp_place::Place;
use super::{FilesError, FilesOptions};

pub(super) fn numbers(fds: &[&dyn AsRawFd]) -> Vec<RawFd> {
    fds.iter().map(|fd| fd.as_raw_fd()).collect()
}

fn walk(
    fds: &[&dyn AsRawFd],
    options: FilesOptions,
    previous: Option<&FilesImage>,
    stopped: bool,
) -> Result<(FilesImage, Vec<Obstacle>), FilesError> {
    let pid = i32::try_from(std::process::id()).unwrap();
    let pidfd = crate::sys::process::pidfd_open(pid).unwrap();
    let wanted = numbers(fds);
    let walk = Source::new(pid, pidfd.as_fd(), &options, previous, stopped).run(|fd| wanted.contains(&fd));
    // Tests of other rooms fork: their children hold everything of ours for a while.
    walk.map(|(mut image, mut obstacles)| {
        obstacles.retain(|found| !found.why.contains("is also held by"));
        image.notes.retain(|note| !note.what.contains("is also held by"));
        (image, obstacles)
    })
}

pub(super) fn describe_only(fds: &[&dyn AsRawFd], tcp_close: bool) -> (FilesImage, Vec<Obstacle>) {
    walk(fds, FilesOptions { tcp_close, ..FilesOptions::default() }, None, false).unwrap()
}

/// The texts of all obstacles.
pub(super) fn refusals(fds: &[&dyn AsRawFd]) -> Vec<String> {
    describe_only(fds, false).1.iter().map(ToString::to_string).collect()
}

/// Preflight, then capture on top of it; both without obstacles.
pub(super) fn captured(fds: &[&dyn AsRawFd]) -> FilesImage {
    captured_with(fds, false)
}

pub(super) fn captured_with(fds: &[&dyn AsRawFd], tcp_close: bool) -> FilesImage {
    let options = FilesOptions { tcp_close, ..FilesOptions::default() };
    let (previous, obstacles) = walk(fds, options, None, false).unwrap();
    assert_eq!(obstacles, []);
    let (image, obstacles) = walk(fds, options, Some(&previous), true).unwrap();
    assert_eq!(obstacles, []);
    // It has to survive the wire.
    let wire = postcard::to_stdvec(&image).unwrap();
    assert_eq!(postcard::from_bytes::<FilesImage>(&wire).unwrap(), image);
    image
}

/// Why a capture fails.
pub(super) fn capture_error(fds: &[&dyn AsRawFd]) -> String {
    let (previous, _) = walk(fds, FilesOptions::default(), None, false).unwrap();
    let error = walk(fds, FilesOptions::default(), Some(&previous), true).unwrap_err();
    let source = std::error::Error::source(&error).map(ToString::to_string);
    format!("{error} {source:?}")
}

pub(super) fn restored(image: &FilesImage) -> RestoredFiles {
    let place = Place::wanted(image);
    restore(image, &mut RestoreContext { place, ..RestoreContext::default() }).unwrap()
}

/// Captures and restores; in the order of the arguments.
pub(super) fn moved(fds: &[&dyn AsRawFd]) -> (FilesImage, Vec<OwnedFd>) {
    let image = captured(fds);
    let files = restored(&image).files;
    let mut files: Vec<Option<OwnedFd>> = files.into_iter().map(Some).collect();
    let ordered = numbers(fds).into_iter().map(|fd| files[index(&image, fd)].take().unwrap()).collect();
    (image, ordered)
}

/// The number of a descriptor's file. Which of two descriptors has the lower number is chance: tests beside open and close others.
pub(super) fn index(image: &FilesImage, fd: RawFd) -> usize {
    image.slots().find(|slot| slot.fd == fd).unwrap().file
}

/// The kind of the only file.
pub(super) fn only_kind(image: &FilesImage) -> &FileKind {
    assert_eq!(image.files.len(), 1);
    &image.files[0].kind
}

pub(super) fn status_flags(fd: impl AsFd) -> i32 {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_GETFL).unwrap()
}
