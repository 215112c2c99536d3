//! The descriptors of a skeleton: opened here, handed over, brought to their numbers.

use std::os::fd::{AsFd, BorrowedFd};

use super::RestoreError;
use super::nursery::SOCKET;
use super::objects::Objects;
use super::pairs;
use super::skeleton::Skeleton;
use crate::image::process::ProcessImage;
use crate::state::files::{self, EpollAdd, RestoreContext};
use crate::tracee::TraceeError;

/// The numbers of the two descriptors of ours that a process may have, of which it knows nothing: well above its own.
pub fn ours(image: &ProcessImage) -> [i32; 2] {
    let highest = image.files.slots.iter().map(|s| s.fd).max().unwrap_or(0);
    [highest + 64, highest + 65]
}

/// Makes room for as many descriptors as the process is going to need. While there is one thread only: once several share a table,
/// the kernel waits for all CPUs when it grows (`expand_fdtable`: `synchronize_rcu`), which is ten milliseconds and more of a
/// freeze.
pub fn make_room(skeleton: &Skeleton, image: &ProcessImage) -> Result<(), RestoreError> {
    let ours = ours(image);
    let need = needed(above(ours), image.files.slots.len() + ours.len());
    raise_file_limit(skeleton, need)?;
    let mut batch = skeleton.batch();
    batch.call("dup3 of a descriptor", libc::SYS_dup3, &[SOCKET as u64, need - 1, libc::O_CLOEXEC as u64]);
    batch.call("close", libc::SYS_close, &[need - 1]);
    match skeleton.run(&batch) {
        // fewer are permitted: what it cannot have is found when its descriptors are put in place
        Err(RestoreError::Tracee(error @ TraceeError::RemoteCall { .. })) => {
            tracing::debug!(%error, need, "no room for descriptors beforehand");
            Ok(())
        }
        done => done.map(drop),
    }
}

/// The first number above these and above the socket.
fn above(numbers: impl IntoIterator<Item = i32>) -> u64 {
    numbers.into_iter().map(|fd| fd + 1).max().unwrap_or(0).max(SOCKET + 1) as u64
}

/// So many numbers are in use while that many files are brought to theirs, which lie below `base`: each is there twice.
fn needed(base: u64, files: usize) -> u64 {
    base + 2 * files as u64 + 16
}

/// Opens all files here, hands them over, and brings them to their numbers: first up above all of them, where
/// nothing is in the way, then down.
pub fn put(
    skeleton: &Skeleton,
    objects: &Objects,
    image: &ProcessImage,
    mut context: RestoreContext,
    keep: &[(i32, BorrowedFd<'_>)],
) -> Result<Vec<EpollAdd>, RestoreError> {
    context.ids = skeleton.threads.iter().map(|(tid, t)| (*tid, t.0)).collect();
    for (id, _) in objects.iter() {
        context.memfds.insert(id.ino, objects.fd(id)?);
    }
    context.group = skeleton.pid;
    pairs::make(skeleton, &image.files, &mut context.pairs)?;
    let opened = match &skeleton.rights {
        None => files::restore(&image.files, &mut context)?,
        Some(rights) => rights
            .with(|| files::restore(&image.files, &mut context))
            .map_err(RestoreError::io("taking the rights of its user"))??,
    };
    let ours = keep.iter().enumerate().map(|(i, (fd, _))| (opened.files.len() + i, *fd, true));
    let slots: Vec<_> = image.files.slots.iter().map(|s| (s.file, s.fd, s.cloexec)).chain(ours).collect();
    let base = above(slots.iter().map(|(_, fd, _)| *fd));
    raise_file_limit(skeleton, needed(base, opened.files.len() + keep.len()))?;
    let borrowed: Vec<_> =
        opened.files.iter().map(AsFd::as_fd).chain(keep.iter().map(|(_, fd)| *fd)).collect();
    let received = skeleton.receive(&borrowed)?;
    let high: Vec<(u64, u64)> = received
        .iter()
        .enumerate()
        .map(|(i, fd)| (*fd as u64, base + received.len() as u64 + 8 + i as u64))
        .collect();
    skeleton.run_all(&high, 0, |batch, (from, to)| {
        batch.call("dup3 of a descriptor", libc::SYS_dup3, &[*from, *to, libc::O_CLOEXEC as u64]);
    })?;
    let first_high = high.first().map_or(u64::from(u32::MAX), |(_, to)| *to);
    let mut batch = skeleton.batch();
    batch.call("close_range", libc::SYS_close_range, &[0, first_high - 1, 0]);
    skeleton.run(&batch)?;
    skeleton.run_all(&slots, 0, |batch, (file, fd, cloexec)| {
        let flags = if *cloexec { libc::O_CLOEXEC as u64 } else { 0 };
        let from = high.get(*file).map_or(u64::MAX, |(_, to)| *to);
        batch.call("dup3 of a descriptor", libc::SYS_dup3, &[from, *fd as u64, flags]);
    })?;
    let mut batch = skeleton.batch();
    batch.call("close_range", libc::SYS_close_range, &[first_high, u64::from(u32::MAX), 0]);
    skeleton.run(&batch)?;
    Ok(opened.epoll)
}

/// Room for both copies of every descriptor; the right limit is set at the end.
fn raise_file_limit(skeleton: &Skeleton, need: u64) -> Result<(), RestoreError> {
    const NOFILE: u32 = 7;
    let limit = |new| crate::sys::process::prlimit(skeleton.pid, NOFILE, new);
    let step = "raising the limit of open files in the skeleton";
    let (soft, hard) = limit(None).map_err(RestoreError::io(step))?;
    if soft < need {
        limit(Some((need.min(hard), hard))).map_err(RestoreError::io(step))?;
    }
    Ok(())
}
