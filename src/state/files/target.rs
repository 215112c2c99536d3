//! The walk over an image at the target: [`check_target`] before anything is stopped, [`restore`] inside the
//! freeze. Both run in the `ulpm serve` process; the open files travel on into the new process by
//! `SCM_RIGHTS`, positions and status flags with them.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::Mode;

use crate::image::files::{ContentHashes, FilesImage, Node, OpenFile};
use crate::image::{Note, Obstacle};
use crate::sys::fds;

use crate::state::inode;

use super::maker::{EpollAdd, Maker, RestoreContext, SETTABLE_FLAGS, TargetCheck, failed};
use super::tcp_place::{NEVER_ANEW, Place};
use super::{FilesError, kinds, socket_options, tcp_over};

/// The open files of a process, made again.
#[derive(Debug)]
pub struct RestoredFiles {
    /// Parallel to [`FilesImage::files`]; all close-on-exec here.
    pub files: Vec<OwnedFd>,
    /// Calls to be made in the process once its descriptor table is filled, in this order.
    pub epoll: Vec<EpollAdd>,
    /// Those that send signals (`O_ASYNC`).
    pub signalled: Vec<Signalled>,
}

/// A file that sends signals from now on: to be said inside the process, by its number there. The kernel remembers the number by which
/// `F_SETFL` was called and says it with each signal of `F_SETSIG` (`si_fd`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signalled {
    /// Its lowest number.
    pub fd: i32,
    /// For `F_SETFL`; without `O_ASYNC`.
    pub flags: i32,
}

/// Preflight on the target: can every open file of `image` be made here? `hashes` are the source's answers to
/// an earlier [`TargetCheck::needs_hash`] (empty at first). Leaves nothing behind.
pub fn check_target(image: &FilesImage, hashes: &ContentHashes) -> TargetCheck {
    let mut check = TargetCheck::default();
    let context = RestoreContext { place: Place::wanted(image), ..RestoreContext::default() };
    let maker = Maker { hashes: Some(hashes), ..Maker::new(image, &context) };
    check.obstacles.extend(too_many(image));
    if maker.context.place.is_some() {
        check.notes.push(Note::new("TCP connections that are over", NEVER_ANEW));
    }
    for file in &image.files {
        kinds::check(&mut check, &maker, file);
    }
    check_nodes(&mut check, image);
    socket_options::check_defaults(&mut check, image);
    check.needs_hash.sort();
    check.needs_hash.dedup();
    check
}

/// Descriptors that `ulpm serve` needs for itself.
const RESERVE: u64 = 64;

/// How many descriptors `ulpm serve` has for the process at once, and how far the numbers in the process reach while they are
/// brought to their own (with two of ours above).
fn needed(image: &FilesImage) -> (u64, u64) {
    let files = image.files.len() as u64;
    let highest = image.slots().map(|slot| slot.fd.max(0) as u64).max().unwrap_or(0);
    (files + 2 * image.memfds.len() as u64 + RESERVE, (highest + 66).max(files + 3) + 1)
}

/// The limits of `ulpm serve` hold for what it makes, too, unless it may raise them (CAP_SYS_RESOURCE).
fn too_many(image: &FilesImage) -> Option<Obstacle> {
    const CAP_SYS_RESOURCE: u32 = 24;
    let (here, there) = needed(image);
    let need = here.max(there);
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let may_raise =
        crate::state::credentials_of_self().is_ok_and(|own| own.caps[2] >> CAP_SYS_RESOURCE & 1 == 1);
    let most = if may_raise { highest_limit().max(hard) } else { hard };
    (need > most).then(|| {
        Obstacle::new(
            format!("{} open files", image.files.len()),
            format!("ulpm serve would need up to {need} descriptors and may have {most}"),
            format!("start ulpm serve with a higher hard limit (ulimit -Hn {need})"),
        )
    })
}

/// The kernel's own bound.
fn highest_limit() -> u64 {
    let text = std::fs::read_to_string("/proc/sys/fs/nr_open").unwrap_or_default();
    text.trim().parse().unwrap_or(1 << 20)
}

/// Makes every open file of `image` in this process. On failure all of them are closed again.
pub fn restore(image: &FilesImage, context: &mut RestoreContext) -> Result<RestoredFiles, FilesError> {
    raise_limit(image);
    let pairs = std::mem::take(&mut context.pairs);
    let mut maker = Maker::new(image, context);
    maker.pairs = pairs;
    let mut files = Vec::with_capacity(image.files.len());
    for (index, file) in image.files.iter().enumerate() {
        let made = kinds::make(&mut maker, index)?;
        if let Some(Err(error)) = file.node.map(|node| put_node(&made, node)) {
            // preflight has said so
            tracing::debug!(object = file.object(), %error, "its owner stays another");
        }
        if let Some(owner) = &file.owner {
            maker.set_owner(file, &made, owner)?;
        }
        files.push(made);
    }
    put_pipes(image, &files)?;
    for (file, made) in image.files.iter().zip(&files) {
        if let Some(tcp) = file.kind.over()
            && let Err(error) = tcp_over::finish(made, tcp)
        {
            // preflight has said so
            tracing::debug!(object = file.object(), %error, "it has another address");
        }
    }
    Ok(RestoredFiles { files, epoll: maker.epoll, signalled: signalled(image) })
}

fn signalled(image: &FilesImage) -> Vec<Signalled> {
    let is_one = |file: &OpenFile| file.flags as i32 & (libc::O_ASYNC | libc::O_PATH) == libc::O_ASYNC;
    let those = image.files.iter().enumerate().filter(|(_, file)| is_one(file));
    let numbered = those.filter_map(|(index, file)| {
        let fd = image.slots().filter(|slot| slot.file == index).map(|slot| slot.fd).min()?;
        Some(Signalled { fd, flags: file.flags as i32 & SETTABLE_FLAGS & !libc::O_ASYNC })
    });
    numbered.collect()
}

/// Gives a socket its owner and mode, where they are others.
fn put_node(made: &OwnedFd, node: Node) -> io::Result<()> {
    let there = nix::sys::stat::fstat(made)?;
    if (there.st_uid, there.st_gid) != (node.uid, node.gid) {
        nix::unistd::fchown(made, Some(node.uid.into()), Some(node.gid.into()))?;
    }
    if there.st_mode & 0o7777 != node.mode {
        nix::sys::stat::fchmod(made, Mode::from_bits_truncate(node.mode))?;
    }
    Ok(())
}

/// Owners that cannot be given here.
fn check_nodes(check: &mut TargetCheck, image: &FilesImage) {
    let mut tried: HashMap<(u32, u32), bool> = HashMap::new();
    for file in &image.files {
        let Some(node) = file.node else { continue };
        let possible = *tried.entry((node.uid, node.gid)).or_insert_with(|| {
            fds::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0).is_ok_and(|made| put_node(&made, node).is_ok())
        });
        if !possible {
            let what = format!("its owner {}:{} cannot be given at the target", node.uid, node.gid);
            check.notes.push(Note::new(file.object(), what));
        }
    }
}

/// Owner, mode and times of pipes: opening an end again needs the permission that may be taken now, and changes times.
fn put_pipes(image: &FilesImage, made: &[OwnedFd]) -> Result<(), FilesError> {
    for (file, made) in image.files.iter().zip(made) {
        if let Some(pipe) = file.kind.pipe().and_then(|pipe| image.pipes.get(pipe)) {
            inode::put(&pipe.inode, made).map_err(failed(file, "set owner, mode and times"))?;
        }
    }
    Ok(())
}

/// Our own soft limit may be as low as 1024; the hard one is what counts, and not even that where we may raise it.
fn raise_limit(image: &FilesImage) {
    let (need, _) = needed(image);
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < need
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, need.max(hard), need.max(hard))
            .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))
    {
        tracing::debug!(%error, soft, hard, "the limit of open files stays");
    }
}
