//! The walk over a process's descriptors: the table (`/proc/PID/fd`, `/proc/PID/fdinfo`), which of them are
//! one open file (`kcmp`), and then each kind's own reader.
//!
//! [`describe`] works on a running process and collects obstacles; a descriptor that vanishes meanwhile is
//! simply not described. [`capture`] works on a stopped one, reads contents and fails on the first walk that
//! finds anything that cannot be carried.
//!
//! Whether another process holds an end of a pipe or socket costs a walk over all of `/proc`: `describe` does
//! it, `capture` does it only when it meets a pipe, socket, eventfd or memfd that `previous` did not know. An
//! end that escapes in between by `fork` is the caller's to see (it looks for new children at the freeze).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;

use crate::image::files::{
    DescriptorTable, FdSlot, FileKind, FileOwner, FilesImage, Node, OpenFile, OwnerKind, UnixPeer,
};
use crate::image::{FilePath, Obstacle};
use crate::state::threads::inner_tid;
use crate::sys::process::pidfd_of_thread;
use crate::sys::status::Status;
use crate::sys::{fds, voice};

use super::source::{Descriptor, Source};
use super::{FilesError, FilesOptions, holders, kinds, refuse};

/// Preflight on the source: describes all descriptors of the running process `pid` without contents, with
/// all obstacles at once. Nothing is stopped or changed.
pub fn describe(pid: i32, options: &FilesOptions) -> Result<(FilesImage, Vec<Obstacle>), FilesError> {
    voice::by(pid, |voice| {
        let pidfd = pidfd_of_thread(voice).map_err(|_| FilesError::Gone { pid })?;
        Source::new(voice, pidfd.as_fd(), options, None, false).run(|_| true)
    })
}

/// At the freeze: every thread is stopped, and `pid` one that lives, with its pidfd. Reuses `previous` (from [`describe`]) where link, inode
/// and flags say that nothing changed. Fails with [`FilesError::Refused`] when something appeared since
/// then that cannot be carried.
pub fn capture(
    pid: i32,
    pidfd: BorrowedFd<'_>,
    options: &FilesOptions,
    previous: Option<&FilesImage>,
) -> Result<FilesImage, FilesError> {
    let (image, obstacles) = Source::new(pid, pidfd, options, previous, true).run(|_| true)?;
    if obstacles.is_empty() { Ok(image) } else { Err(FilesError::Refused(obstacles)) }
}

/// How often a descriptor is looked at that seems to be closed and opened again meanwhile. One that the process has open half of the
/// time is found so in one look of four at the most: in all of these by no accident.
const LOOKS: u32 = 16;

impl Source<'_> {
    /// The walk over the descriptors that `wanted` lets pass (tests look at their own only).
    pub(super) fn run(
        mut self,
        wanted: impl Fn(i32) -> bool,
    ) -> Result<(FilesImage, Vec<Obstacle>), FilesError> {
        self.check_tables()?;
        self.descriptors = self.read_table(wanted)?;
        for group in self.share()? {
            self.read_file(&group)?;
        }
        self.table.sort_by_key(|slot| slot.fd);
        self.image.tables.push(DescriptorTable(std::mem::take(&mut self.table)));
        self.link_unix_peers();
        holders::check(&mut self)?;
        Ok((self.image, self.obstacles))
    }

    /// A thread with a descriptor table of its own would be missed.
    fn check_tables(&mut self) -> Result<(), FilesError> {
        let pid = self.pid;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).map_err(|_| FilesError::Gone { pid })?;
        for task in tasks.flatten() {
            let Some(tid) = task.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
                continue;
            };
            // A thread that is about to end has no table any more: it shows none.
            let has_any = || {
                let table = fs::read_dir(format!("/proc/{pid}/task/{tid}/fd"));
                table.is_ok_and(|mut table| table.next().is_some_and(|entry| entry.is_ok()))
            };
            if tid != pid && matches!(fds::same_descriptor_table(pid, tid), Ok(false)) && has_any() {
                self.refuse(refuse::own_table(tid));
            }
        }
        Ok(())
    }

    fn read_table(&self, wanted: impl Fn(i32) -> bool) -> Result<Vec<Descriptor>, FilesError> {
        let pid = self.pid;
        let table = fs::read_dir(format!("/proc/{pid}/fd")).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => FilesError::Gone { pid },
            _ => FilesError::Read { pid, fd: -1, step: "list the table", source },
        })?;
        let mut numbers: Vec<i32> =
            table.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        numbers.sort_unstable();
        let mut descriptors = Vec::with_capacity(numbers.len());
        for fd in numbers.into_iter().filter(|fd| wanted(*fd)) {
            match self.read_descriptor(fd) {
                Ok(descriptor) => descriptors.push(descriptor),
                // The process runs: it may close what it likes.
                Err(FilesError::Read { source, .. })
                    if !self.stopped && source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(descriptors)
    }

    /// Groups descriptors that are one open file. `kcmp` orders files, so each is found by bisection among
    /// those with the same link; most links occur once and cost nothing.
    fn share(&self) -> Result<Vec<Vec<Descriptor>>, FilesError> {
        let mut groups: Vec<Vec<Descriptor>> = Vec::new();
        let mut by_link: HashMap<&FilePath, Vec<usize>> = HashMap::new();
        for descriptor in &self.descriptors {
            let ordered = by_link.entry(&descriptor.link).or_default();
            let (mut low, mut high) = (0, ordered.len());
            let mut found = None;
            while low < high && found.is_none() {
                let middle = low.midpoint(high);
                let other = groups[ordered[middle]][0].fd;
                match fds::compare_files((self.pid, descriptor.fd), (self.pid, other)) {
                    Ok(std::cmp::Ordering::Equal) => found = Some(ordered[middle]),
                    Ok(std::cmp::Ordering::Less) => high = middle,
                    Ok(std::cmp::Ordering::Greater) => low = middle + 1,
                    Err(error) if !self.stopped && error.raw_os_error() == Some(libc::EBADF) => break,
                    Err(error) => return Err(self.failed(descriptor, "compare the open file", error)),
                }
            }
            match found {
                Some(group) => groups[group].push(descriptor.clone()),
                None => {
                    ordered.insert(low, groups.len());
                    groups.push(vec![descriptor.clone()]);
                }
            }
        }
        Ok(groups)
    }

    fn read_file(&mut self, group: &[Descriptor]) -> Result<(), FilesError> {
        let first = &group[0];
        let Some((kind, owner)) = self.read_lasting(first)? else { return Ok(()) };
        let signals = owner.as_ref().is_some_and(|owner| owner.signal != 0);
        if signals && first.flags & libc::O_ASYNC as u32 != 0 && group.len() > 1 {
            let what =
                "its signals (F_SETSIG) name its lowest number (si_fd): which one they named cannot be seen";
            self.note(first.object(), what);
        }
        let file = self.image.files.len();
        self.image.files.push(OpenFile {
            fd: first.fd,
            link: first.link.clone(),
            ino: first.ino,
            flags: first.flags,
            owner,
            node: self.node(first),
            kind,
        });
        self.table.extend(group.iter().map(|slot| FdSlot { fd: slot.fd, file, cloexec: slot.cloexec }));
        Ok(())
    }

    /// Kind and owner of one open file; `None` if it is refused, or not there any more.
    ///
    /// ```text
    /// process   open ──────── close ──────── open (the same file) ───
    /// ulpm            table          stat: ENOENT            is_still: yes
    /// ```
    ///
    /// So a process that runs may have closed what looks the same now as in the table: it is looked at again. What is not there, or is
    /// another one by now, is left out: the freeze looks at whatever is there then.
    fn read_lasting(
        &mut self,
        file: &Descriptor,
    ) -> Result<Option<(FileKind, Option<FileOwner>)>, FilesError> {
        let met = self.obstacles.len();
        let mut looks = 0;
        loop {
            looks += 1;
            match self.read_kind_and_owner(file) {
                Ok((Some(kind), owner)) => return Ok(Some((kind, owner))),
                Ok((None, _)) => {
                    // if it is another one by now, there is nothing to say about it
                    if !self.is_still(file) {
                        self.obstacles.truncate(met);
                    }
                    return Ok(None);
                }
                Err(error) if !self.is_still(file) => {
                    tracing::debug!(fd = file.fd, %error, "a descriptor was closed while it was looked at");
                    return Ok(None);
                }
                Err(error) if self.stopped || looks == LOOKS || !error.says_closed() => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Owner and mode of a socket; they can be changed, and nobody tells.
    fn node(&self, file: &Descriptor) -> Option<Node> {
        let socket = file.link.starts_with("socket:[");
        let there = socket.then(|| fs::metadata(self.magic_link(file)).ok()).flatten()?;
        Some(Node { uid: there.uid(), gid: there.gid(), mode: there.mode() & 0o7777 })
    }

    fn is_still(&self, file: &Descriptor) -> bool {
        self.stopped
            || self
                .read_descriptor(file.fd)
                .is_ok_and(|now| (now.link, now.ino) == (file.link.clone(), file.ino))
    }

    fn read_kind_and_owner(
        &mut self,
        file: &Descriptor,
    ) -> Result<(Option<FileKind>, Option<FileOwner>), FilesError> {
        let Some(kind) = kinds::read(self, file)? else { return Ok((None, None)) };
        if file.flags & libc::O_PATH as u32 != 0 {
            return Ok((Some(kind), None));
        }
        match self.known(file) {
            Some(known) if file.flags & libc::O_ASYNC as u32 == 0 => Ok((Some(kind), known.owner.clone())),
            _ => Ok((Some(kind), self.read_owner(file)?)),
        }
    }

    fn read_owner(&mut self, file: &Descriptor) -> Result<Option<FileOwner>, FilesError> {
        let copy = self.duplicate(file)?;
        let (raw, signal) =
            fds::owner(&copy).map_err(|source| self.failed(file, "read the owner", source))?;
        if raw.id == 0 && signal == 0 {
            return Ok(None);
        }
        let task = format!("/proc/{}/task/{}", self.pid, raw.id);
        let (kind, own) = match raw.kind {
            0 => (OwnerKind::Thread, fs::exists(task).unwrap_or(false)),
            1 => (OwnerKind::Process, fs::exists(task).unwrap_or(false)),
            _ => (OwnerKind::Group, self.is_own_group(raw.id)),
        };
        if raw.id != 0 && !own {
            self.refuse(refuse::foreign_owner(&file.object(), raw.id));
            return Ok(None);
        }
        let id = if kind == OwnerKind::Group { raw.id } else { inner(raw.id) };
        Ok(Some(FileOwner { kind, id, signal }))
    }

    fn is_own_group(&self, group: i32) -> bool {
        nix::unistd::getpgid(Some(nix::unistd::Pid::from_raw(self.pid)))
            .is_ok_and(|own| own.as_raw() == group)
    }

    /// Unix sockets know their peers by inode; the image knows them by index.
    fn link_unix_peers(&mut self) {
        let files = self.image.files.iter().enumerate();
        let by_ino: HashMap<u64, usize> = files
            .filter(|(_, file)| file.kind.unix().is_some())
            .map(|(index, file)| (file.ino, index))
            .collect();
        for (file, peer) in std::mem::take(&mut self.unix_peers) {
            match (by_ino.get(&peer), self.image.files[file].kind.unix_mut()) {
                (Some(found), Some(socket)) => socket.peer = UnixPeer::File(*found),
                // Refused for a reason of its own, which is said already.
                _ if self.descriptors.iter().any(|other| other.link == *format!("socket:[{peer}]")) => {}
                _ => self.outside_peers.push((file, peer)),
            }
        }
    }
}

/// The id by which the process itself knows one of its threads: the image is about those (a pid namespace has its own).
fn inner(tid: i32) -> i32 {
    Status::of(tid).map_or(tid, |status| inner_tid(&status, tid))
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
