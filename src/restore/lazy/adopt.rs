//! From the skeleton to the holder: `ulpm serve`'s part. The userfaultfds are made by the skeleton, so that they belong to its address
//! space, and taken over; whole mappings are registered, or they would be split; then everything goes to the holder.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::{Deserialize, Serialize};

use super::{Unfinished, directory};
use crate::image::memory::Layout;
use crate::image::{Backing, ObjectId, Obstacle, PageRange, ProcessIndex, RangeSet};
use crate::restore::objects::Objects;
use crate::restore::quarters::Quarters;
use crate::restore::skeleton::Skeleton;
use crate::restore::{RestoreError, pages};
use crate::state::memory_modes;
use crate::sys::handoff;
use crate::sys::kernel::Kernel;
use crate::sys::pagemap;
use crate::sys::process::{pidfd_getfd, pidfd_open, pidfd_send_signal};
use crate::sys::stat::start_time;
use crate::sys::uffd::{self, Features};
use crate::transport::Fingerprint;
use crate::transport::lane::{LazyPlan, LazyProcess};

/// The hidden argument that makes `ulpm` a holder.
pub const ARGUMENT: &str = "__holder";
/// The number of its socket to `ulpm serve`.
pub(super) const SOCKET: i32 = 3;

/// What a holder is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Start {
    pub(super) id: String,
    pub(super) home: PathBuf,
    /// The key of the source: nobody else may open a lane.
    pub(super) peer: String,
}

/// What a holder is to hold. Descriptors come along: the process, the userfaultfd of private memory, that of mappings of shared
/// objects, the objects.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Adoption {
    pub(super) pid: i32,
    /// Its name in the tree.
    pub(super) of: ProcessIndex,
    /// Outstanding private pages.
    pub(super) private: Vec<PageRange>,
    /// Private areas of huge pages, and the size of theirs.
    pub(super) huge: Vec<(PageRange, u64)>,
    /// Mappings of shared objects: where, which, from which offset.
    pub(super) areas: Vec<(PageRange, ObjectId, u64)>,
    /// Objects: size, bytes of a page, what is outstanding.
    pub(super) objects: Vec<(ObjectId, u64, u64, Vec<PageRange>)>,
    pub(super) order: Vec<PageRange>,
    pub(super) verify: bool,
    pub(super) patience_ms: u64,
    /// Descriptors that the process has of its own userfaultfds.
    pub(super) inside: Vec<i32>,
}

/// Finds where lazy memory belongs, and takes away what is out of date there.
pub fn clear(
    skeleton: &mut Skeleton,
    objects: &Objects,
    plan: LazyPlan,
) -> Result<Outstanding, RestoreError> {
    let outstanding = Outstanding::of(&skeleton.layout, plan)?;
    let stale: Vec<PageRange> = outstanding.private.common(&skeleton.written).iter().collect();
    pages::drop_pages(skeleton, &stale)?;
    outstanding.objects.iter().try_for_each(|(id, .., ranges)| objects.punch(*id, ranges))?;
    Ok(outstanding)
}

/// What stands in the way of lazy moves here.
pub fn obstacle(kernel: &Kernel) -> Option<Obstacle> {
    let (why, remedy) = match kernel.faults_served {
        Ok(()) => return None,
        Err(nix::errno::Errno::EPERM) => (
            "ulpm serve may not serve the faults of a process: that needs CAP_SYS_PTRACE, since the kernel's own faults \
             (vm.unprivileged_userfaultfd is 0) and children must be served, too"
                .to_owned(),
            "run `ulpm serve` as root or give it CAP_SYS_PTRACE (vm.unprivileged_userfaultfd=1 alone is not enough), or move without --lazy",
        ),
        Err(e) => (
            format!("the target's kernel cannot serve the faults of a process from outside ({e})"),
            "use a target with userfaultfd (Linux 4.11, CONFIG_USERFAULTFD), or move without --lazy",
        ),
    };
    Some(Obstacle::new("lazy memory", why, remedy))
}

/// A holder that has been started.
#[derive(Debug)]
pub struct Holder {
    child: Child,
    socket: OwnedFd,
    private: OwnedFd,
    shared: OwnedFd,
}

impl Holder {
    /// Starts one, and makes the userfaultfds. Before the freeze, and before any page is placed: until what is outstanding is registered
    /// there must be no transparent huge page. One that comes with a page that is placed, or that `khugepaged` makes of several,
    /// holds zeroes where others are missing: these would be there, as zeroes.
    pub fn start(
        home: &Path,
        quarters: &Quarters<'_>,
        peer: &Fingerprint,
        skeleton: &Skeleton,
    ) -> Result<Self, RestoreError> {
        let id = quarters.id;
        if !super::is_plain(id) {
            return Err(RestoreError::Nonsense("a migration with an impossible id".to_owned()));
        }
        let mut batch = skeleton.batch();
        memory_modes::without_huge_pages(&mut batch);
        skeleton.run(&batch)?;
        let (private, shared) = userfaultfds(skeleton)?;
        let (socket, theirs) = handoff::pair().map_err(RestoreError::io("making a socket pair"))?;
        let start = Start { id: id.to_owned(), home: home.to_owned(), peer: peer.to_string() };
        let mut command = quarters.command("-memory");
        command.arg(ARGUMENT).arg(serde_json::to_string(&start).unwrap_or_default());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        handoff::give_fd(&mut command, theirs, SOCKET);
        let child = command.spawn().map_err(RestoreError::io("starting the holder of lazy memory"))?;
        drop(command);
        let holder = Holder { child, socket, private, shared };
        holder.hear("listening")?;
        Ok(holder)
    }

    fn hear(&self, word: &str) -> Result<(), RestoreError> {
        let step = "hearing from the holder of lazy memory";
        let (text, _) = handoff::receive(self.socket.as_fd()).map_err(RestoreError::io(step))?;
        if text == word.as_bytes() {
            return Ok(());
        }
        let said = match text.as_slice() {
            [] => "it ended without a word".to_owned(),
            text => String::from_utf8_lossy(text).into_owned(),
        };
        Err(RestoreError::io(step)(std::io::Error::other(said)))
    }

    /// Copies of the userfaultfds that the process shall have itself.
    pub fn userfaultfds(&self) -> [BorrowedFd<'_>; 2] {
        [self.private.as_fd(), self.shared.as_fd()]
    }

    /// Hands over what is outstanding: from now on faults are served. `inside`: the numbers of [`Holder::userfaultfds`] in the process.
    pub fn adopt(
        &self,
        skeleton: &mut Skeleton,
        objects: &Objects,
        outstanding: Outstanding,
        inside: &[i32],
    ) -> Result<(), RestoreError> {
        outstanding.areas.iter().try_for_each(|r| register(self.private.as_fd(), r))?;
        outstanding.mappings.iter().try_for_each(|(r, ..)| register(self.shared.as_fd(), r))?;
        self.take_back(skeleton, &outstanding)?;
        // what is punched is served from now on: the mappings are registered, and the objects have no descriptor inside yet
        outstanding.objects.iter().try_for_each(|(id, .., ranges)| objects.clear(*id, ranges))?;
        let adoption = Adoption {
            pid: skeleton.pid,
            of: outstanding.of,
            private: outstanding.private.iter().collect(),
            huge: outstanding.huge,
            areas: outstanding.mappings,
            objects: outstanding.objects,
            order: outstanding.order,
            verify: outstanding.verify,
            patience_ms: outstanding.patience_ms,
            inside: inside.to_vec(),
        };
        self.hand_over(skeleton, objects, &adoption)
    }

    /// Drops what is there in spite of being outstanding. Whoever looked at the process before it was registered (`ps` reads its
    /// arguments and its environment) has had zero pages put there, which would stay: a page that is there is not placed again.
    ///
    /// What is registered cannot be dropped (the event would wait for a reader), so for a moment it is not, and somebody
    /// may look once more: that is looked for again.
    fn take_back(&self, skeleton: &mut Skeleton, outstanding: &Outstanding) -> Result<(), RestoreError> {
        const TRIES: usize = 1000;
        let private = self.private.as_fd();
        for _ in 0..TRIES {
            let there = there(skeleton.pid, &outstanding.private)?;
            if there.is_empty() {
                return Ok(());
            }
            tracing::debug!(pages = there.pages(), "somebody has read what is not there yet");
            let areas: Vec<_> = outstanding.areas.iter().filter(|area| there.overlaps(**area)).collect();
            for area in &areas {
                uffd::unregister(private, area.start, area.len())
                    .map_err(RestoreError::io("taking back a registration for lazy memory"))?;
            }
            pages::drop_pages(skeleton, &there.iter().collect::<Vec<_>>())?;
            areas.iter().try_for_each(|area| register(private, area))?;
        }
        Err(RestoreError::io("preparing lazy memory")(std::io::Error::other(format!(
            "somebody at the target reads the memory of process {} all the time; try again without that, or without --lazy",
            skeleton.pid
        ))))
    }

    fn hand_over(
        &self,
        skeleton: &Skeleton,
        objects: &Objects,
        adoption: &Adoption,
    ) -> Result<(), RestoreError> {
        let blob = blob(adoption)?;
        let files = adoption.objects.iter().map(|(id, ..)| objects.fd(*id)).collect::<Result<Vec<_>, _>>()?;
        let mut fds = vec![blob.as_fd(), skeleton.pidfd.as_fd(), self.private.as_fd(), self.shared.as_fd()];
        fds.extend(files.iter().map(AsFd::as_fd));
        for part in fds.chunks(handoff::MAX_FDS) {
            handoff::send_fds(self.socket.as_fd(), part)
                .map_err(RestoreError::io("handing lazy memory to its holder"))?;
        }
        self.hear("holding")
    }

    /// The process has been let go: from now on the holder lives as long as it must, whatever becomes of us. Watched in a thread: if it
    /// dies before its time, the process is ended, which could only wait for ever.
    pub fn go(mut self, pidfd: &OwnedFd, home: &Path, id: &str) {
        if let Err(error) = handoff::send(self.socket.as_fd(), b"go", None) {
            tracing::error!(%error, "the holder of lazy memory does not hear");
        }
        let Ok(pidfd) = pidfd.try_clone() else { return };
        let (home, id) = (home.to_owned(), id.to_owned());
        let watched = std::thread::Builder::new().spawn(move || {
            // keeps the userfaultfds as long as the holder lives
            let status = self.child.wait();
            if status.as_ref().is_ok_and(std::process::ExitStatus::success) {
                return;
            }
            let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            remove_files(&home, &id);
            tracing::error!(%id, ?status, "the holder of lazy memory died; the process that waited for its pages was ended: what was \
                outstanding cannot be told any more");
        });
        if let Err(error) = watched {
            tracing::error!(%error, "nobody watches the holder of lazy memory");
        }
    }
}

/// The process runs without what is lazy after all, or not at all: the socket closes, and the holder ends.
impl Drop for Holder {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = nix::sys::socket::shutdown(
                std::os::fd::AsRawFd::as_raw_fd(&self.socket),
                nix::sys::socket::Shutdown::Both,
            );
            let _ = self.child.wait();
        }
    }
}

fn register(uffd: BorrowedFd<'_>, range: &PageRange) -> Result<(), RestoreError> {
    uffd::register_missing(uffd, range.start, range.len())
        .map_err(RestoreError::io(format!("registering {:#x}-{:#x} for lazy memory", range.start, range.end)))
}

/// Pages of these ranges that are in memory or in swap.
fn there(pid: i32, ranges: &RangeSet) -> Result<RangeSet, RestoreError> {
    let step = "looking for pages that are not there yet";
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).map_err(RestoreError::io(step))?;
    let mut there = RangeSet::default();
    for range in ranges.iter() {
        pagemap::held_pages(Kernel::here(), &pagemap, range.start, range.end, |start, end| {
            there.insert(PageRange::new(start, end));
        })
        .map_err(RestoreError::io(step))?;
    }
    Ok(there)
}

/// Made inside, taken over, closed inside.
fn userfaultfds(skeleton: &Skeleton) -> Result<(OwnedFd, OwnedFd), RestoreError> {
    let flags = (libc::O_CLOEXEC | libc::O_NONBLOCK) as u64;
    let mut batch = skeleton.batch();
    batch.call("userfaultfd", libc::SYS_userfaultfd, &[flags]);
    batch.call("userfaultfd", libc::SYS_userfaultfd, &[flags]);
    let made = skeleton.run(&batch)?.results;
    let take = |fd: i64, features: Features| {
        let step = "taking over a userfaultfd";
        let fd = pidfd_getfd(skeleton.pidfd.as_fd(), fd as i32).map_err(RestoreError::io(step))?;
        uffd::handshake(fd.as_fd(), features).map_err(RestoreError::io(step))?;
        Ok::<_, RestoreError>(fd)
    };
    let taken = (take(made[0], Features::SERVING)?, take(made[1], Features::SERVING_SHARED)?);
    let mut batch = skeleton.batch();
    made.iter().for_each(|fd| {
        batch.call("close", libc::SYS_close, &[*fd as u64]);
    });
    skeleton.run(&batch)?;
    Ok(taken)
}

fn blob(adoption: &Adoption) -> Result<File, RestoreError> {
    let step = "writing down what is outstanding";
    let bytes =
        postcard::to_stdvec(adoption).map_err(|e| RestoreError::io(step)(std::io::Error::other(e)))?;
    let mut file =
        File::from(memfd_create("ulpm-adoption", MFdFlags::MFD_CLOEXEC).map_err(RestoreError::io(step))?);
    file.write_all(&bytes).map_err(RestoreError::io(step))?;
    Ok(file)
}

/// What is outstanding, held against the layout: a peer reaches nothing else.
#[derive(Debug)]
pub struct Outstanding {
    of: ProcessIndex,
    private: RangeSet,
    areas: Vec<PageRange>,
    huge: Vec<(PageRange, u64)>,
    mappings: Vec<(PageRange, ObjectId, u64)>,
    objects: Vec<(ObjectId, u64, u64, Vec<PageRange>)>,
    order: Vec<PageRange>,
    verify: bool,
    patience_ms: u64,
}

impl Outstanding {
    /// Whether there is nothing to hold.
    pub fn is_empty(&self) -> bool {
        self.areas.is_empty() && self.objects.is_empty()
    }

    fn of(layout: &Layout, plan: LazyPlan) -> Result<Self, RestoreError> {
        let LazyPlan { processes, objects, verify, patience_ms } = plan;
        let [LazyProcess { of, outstanding, order }] = <[_; 1]>::try_from(processes).map_err(|all| {
            RestoreError::Nonsense(format!("lazy memory of {} processes of a tree of one", all.len()))
        })?;
        let wanted: RangeSet = outstanding.into_iter().collect();
        let mut out = Outstanding {
            of,
            private: RangeSet::default(),
            areas: Vec::new(),
            huge: Vec::new(),
            mappings: Vec::new(),
            objects: Vec::new(),
            order,
            verify,
            patience_ms,
        };
        let mut private = Vec::new();
        let lazy = |v: &&crate::image::Vma| v.private() && v.backing == Backing::Anonymous;
        for vma in layout.vmas.iter().filter(lazy).filter(|v| wanted.overlaps(v.range())) {
            out.areas.push(vma.range());
            // a huge page is there as a whole or not at all
            private.extend(wanted.within(vma.range()).map(|r| whole(r, vma.page_size)));
            if vma.huge() {
                out.huge.push((vma.range(), vma.page_size));
            }
        }
        out.private = private.into_iter().collect();
        let known = out.areas.iter().copied().collect();
        if let Some(stray) = wanted.without(&known).iter().next() {
            return Err(RestoreError::Nonsense(format!(
                "lazy pages at {:#x}, where none can be",
                stray.start
            )));
        }
        for (id, ranges) in &objects {
            let object = layout.objects.iter().find(|o| o.id == *id);
            let Some(object) = object else {
                return Err(RestoreError::Nonsense(format!(
                    "lazy pages of an unknown memory object {}",
                    id.ino
                )));
            };
            let end = object.size.next_multiple_of(object.page_size);
            let ranges: RangeSet = ranges
                .iter()
                .map(|r| whole(*r, object.page_size).intersection(&PageRange::new(0, end)))
                .collect();
            out.objects.push((*id, object.size, object.page_size, ranges.iter().collect()));
            let shows = layout.vmas.iter().filter(|v| v.object() == Some(*id));
            out.mappings.extend(shows.map(|v| (v.range(), *id, v.offset)));
        }
        Ok(out)
    }
}

fn whole(range: PageRange, page_size: u64) -> PageRange {
    PageRange::new(range.start / page_size * page_size, range.end.next_multiple_of(page_size))
}

/// Processes of an earlier `ulpm serve` that are not whole and whose holder is gone: they could only wait, and are ended. Says so.
pub fn sweep(home: &Path) {
    for unfinished in unfinished(home) {
        if start_time(unfinished.holder) == Some(unfinished.holder_start) {
            continue;
        }
        let lives = start_time(unfinished.pid) == Some(unfinished.start_time);
        if lives && let Ok(pidfd) = pidfd_open(unfinished.pid) {
            let _ = pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
            tracing::error!(
                id = unfinished.id,
                pid = unfinished.pid,
                "the holder of its lazy memory is gone: the process was ended"
            );
        }
        remove_files(home, &unfinished.id);
    }
}

/// All processes here that are not whole.
pub fn unfinished(home: &Path) -> Vec<Unfinished> {
    let files = std::fs::read_dir(directory(home)).into_iter().flatten().flatten();
    files
        .map(|f| f.path())
        .filter(|p| p.extension().is_some_and(|e| e == "json"))
        .filter_map(|p| serde_json::from_slice(&std::fs::read(p).ok()?).ok())
        .collect()
}

pub(super) fn remove_files(home: &Path, id: &str) {
    for end in ["sock", "json"] {
        let _ = std::fs::remove_file(directory(home).join(format!("{id}.{end}")));
    }
}
