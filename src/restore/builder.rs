//! Builds the processes of a tree from what somebody says of them (mappings, pages, state), and lets them go.
//!
//! Who says it is not its affair: a session with a source, or a conversation that was written down. It knows no
//! connection, no peer, no permission and no journal. What a peer may not do is refused before it becomes a call here;
//! what makes no sense is refused here, whoever says it. Until [`Builder::let_go`] everything dies with the thread that
//! has made it, which owns the tracees.
//!
//! ```text
//! begin ─ [serve_later] ─ layout, pages, zero, drop, holes (again and again) ─ [postpone] ─ [hash, digests]
//!       ─ state ─ [queue] ─ outlive ─ let_go
//! destroy: at any time before let_go
//! ```
//! A process is named by its place in the tree's list of processes. Trees of one are carried today; another place is refused.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::Instant;

use super::lazy::adopt::{self, Holder, Outstanding};
use super::objects::Objects;
use super::quarters::{self, Quarters};
use super::room::Watch;
use super::skeleton::Skeleton;
use super::{RestoreError, activate, descriptors, late_signals, mapper, nursery, pages, pairs, verify};
use crate::fault::Point;
use crate::image::files::{ContentHashes, FileIdentity, FilesImage};
use crate::image::memory::{Layout, Vdso};
use crate::image::process::{LateSignal, ProcessImage};
use crate::image::{
    FIRST, FilePath, IMAGE_VERSION, ObjectId, PAGE_SIZE, PageRange, ProcessIndex, TreeImage,
    check as image_check,
};
use crate::state::files::{Access, FileCheck, RestoreContext, UnixPair, Vetted, check_file};
use crate::state::thread::scheduling;
use crate::state::{sanity, waits};
use crate::sys::process::{only, set_affinity};
use crate::sys::rights::Rights;
use crate::sys::time::{ClockOffsets, since_boottime};
use crate::tracee::together::{Urgent, UrgentTracee, go_to};
use crate::transport::lane::LazyPlan;
use crate::transport::protocol::{AreaDigest, Moments};

/// What is to be built, and how it is to live here.
#[derive(Debug)]
pub struct Blueprint<'a> {
    /// The processes as they looked from outside.
    pub tree: &'a TreeImage,
    /// In which control groups.
    pub quarters: &'a Quarters<'a>,
    /// Offsets of its time namespace; `None`: ours serves.
    pub clocks: Option<ClockOffsets>,
    /// In a pid namespace of its own.
    pub namespace: bool,
    /// In one if its pid turns out to be taken.
    pub or_namespace: bool,
    /// With whose rights files are opened and directories entered; `None`: with ours.
    pub rights: Option<Rights>,
    /// Files that were compared by content.
    pub vetted: Vec<Vetted>,
    /// Every page is compared before the state is put.
    pub verify: bool,
}

/// The state of stopped processes, whose plausibility was checked. A caller may take from it what its peer may not have.
#[derive(Debug)]
pub struct StoppedTree(TreeImage);

impl StoppedTree {
    /// Nonsense is refused.
    pub fn check(tree: TreeImage) -> Result<Self, RestoreError> {
        sanity::tree(&tree, true).map_err(RestoreError::Nonsense)?;
        Ok(StoppedTree(tree))
    }

    /// Its processes, in order, and what they have open.
    pub fn parts(&mut self) -> (impl Iterator<Item = (ProcessIndex, &mut ProcessImage)>, &mut FilesImage) {
        let count = self.0.processes.len();
        (ProcessIndex::all(count).zip(&mut self.0.processes), &mut self.0.files)
    }
}

/// One of the processes.
#[derive(Debug)]
struct Member {
    /// Its pid in the images: that by which it knows itself.
    pid: i32,
    vdso: Vdso,
    /// Pairs of unix sockets that were made before its state came.
    pairs: Vec<UnixPair>,
    skeleton: Skeleton,
    /// Whether the kernel has ended the skeleton for want of memory.
    watch: Watch,
    /// Waits of its threads that we have interrupted.
    waits: Option<waits::Memory>,
}

/// Processes in the making.
#[derive(Debug)]
pub struct Builder {
    /// In the order of the tree.
    members: Vec<Member>,
    objects: Objects,
    vetted: Vec<Vetted>,
    cpus: Vec<u8>,
    namespace: bool,
    /// Whether pages are compared, and both sides' hashes.
    verify: bool,
    digests: Vec<AreaDigest>,
    own_digests: Vec<AreaDigest>,
    /// Keeps memory that comes after the processes, should there be any.
    holder: Option<Holder>,
    outstanding: Option<Outstanding>,
    /// There is, and the holder has it.
    adopted: bool,
}

impl Builder {
    /// Has the skeletons born. What fails leaves nothing behind.
    pub fn begin(plan: Blueprint<'_>) -> Result<Self, RestoreError> {
        let process = single(plan.tree)?;
        let mut order = nursery::Order {
            pid: process.pid,
            namespace: plan.namespace,
            clocks: plan.clocks,
            group: plan.quarters.make()?,
        };
        let memory = &process.memory;
        let make =
            |order: &nursery::Order| Skeleton::make(order, plan.quarters, &memory.layout, &memory.vdso);
        let made = match make(&order) {
            // taken since somebody looked
            Err(RestoreError::PidTaken(_)) if plan.or_namespace && !order.namespace => {
                order.namespace = true;
                make(&order)
            }
            made => made,
        };
        let mut skeleton =
            made.inspect_err(|_| order.group.iter().for_each(|group| quarters::remove(group)))?;
        let watch = Watch::begin(skeleton.pid);
        if let (Some(group), Ok(process)) = (order.group, skeleton.pidfd.try_clone()) {
            quarters::remove_after(group, process);
        }
        skeleton.rights = plan.rights;
        let tids: Vec<i32> = process.threads.iter().map(|t| t.tid).collect();
        descriptors::make_room(&skeleton, &plan.tree.files, process.table)?;
        skeleton.set_threads(&tids)?;
        activate::put_exe(&skeleton, memory)?;
        let mut made = Vec::new();
        pairs::make(&skeleton, &plan.tree.files, &mut made)?;
        RestoreError::point(Point::TargetBorn)?;
        let (pid, vdso) = (process.pid, memory.vdso.clone());
        Ok(Builder {
            members: vec![Member { pid, vdso, pairs: made, skeleton, watch, waits: None }],
            objects: Objects::default(),
            vetted: plan.vetted,
            cpus: scheduling::online_cpus(),
            namespace: order.namespace,
            verify: plan.verify,
            digests: Vec::new(),
            own_digests: Vec::new(),
            holder: None,
            outstanding: None,
            adopted: false,
        })
    }

    fn member(&mut self, at: ProcessIndex) -> Result<&mut Member, RestoreError> {
        self.members.get_mut(at.at()).ok_or_else(|| no_such(at))
    }

    /// Pids as this host sees them, in the order of the tree.
    pub fn pids(&self) -> Vec<i32> {
        self.members.iter().map(|member| member.skeleton.pid).collect()
    }

    /// Its pid as this host sees it.
    pub fn pid(&self, at: ProcessIndex) -> Result<i32, RestoreError> {
        self.members.get(at.at()).map(|member| member.skeleton.pid).ok_or_else(|| no_such(at))
    }

    /// Whether they live in a pid namespace of their own.
    pub fn has_namespace(&self) -> bool {
        self.namespace
    }

    /// Whether pages are compared before the state is put.
    pub fn verifies(&self) -> bool {
        self.verify
    }

    /// Bytes that the processes take here so far.
    pub fn weight(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let objects = self.objects.iter().filter_map(|(_, file)| file.metadata().ok());
        let own: u64 = self.members.iter().map(|member| member.skeleton.written.pages() * PAGE_SIZE).sum();
        own + objects.map(|m| m.blocks() * 512).sum::<u64>()
    }

    /// Memory may come after the process: has a holder for it started by `start`, before any page is placed.
    pub fn serve_later(
        &mut self,
        at: ProcessIndex,
        start: impl FnOnce(&Skeleton) -> Result<Holder, RestoreError>,
    ) -> Result<(), RestoreError> {
        self.holder = Some(start(&self.member(at)?.skeleton)?);
        Ok(())
    }

    /// Makes its mappings these. `new_files`: mapped files that were not described; they must be the same here.
    pub fn layout(
        &mut self,
        at: ProcessIndex,
        layout: Layout,
        new_files: &[(FilePath, FileIdentity)],
    ) -> Result<(), RestoreError> {
        if self.outstanding.is_some() {
            return Err(RestoreError::Nonsense("other mappings than those of its lazy memory".to_owned()));
        }
        let Some(member) = self.members.get_mut(at.at()) else { return Err(no_such(at)) };
        image_check::layout(&layout, &member.vdso).map_err(RestoreError::Nonsense)?;
        compare(new_files)?;
        let objects = &mut self.objects;
        match &member.skeleton.rights {
            None => objects.update(at, &layout.objects)?,
            // what it makes belongs to the user
            Some(rights) => rights
                .with(|| objects.update(at, &layout.objects))
                .map_err(RestoreError::io("taking the rights of its user"))??,
        }
        member.skeleton.make_way(&layout, &member.vdso)?;
        mapper::apply(&mut member.skeleton, objects, layout)
    }

    /// Places pages of private memory.
    pub fn pages(&mut self, at: ProcessIndex, addr: u64, content: &[u8]) -> Result<(), RestoreError> {
        pages::write(&mut self.member(at)?.skeleton, addr, content)
    }

    /// Makes pages of private memory zero.
    pub fn zero(&mut self, at: ProcessIndex, ranges: &[PageRange]) -> Result<(), RestoreError> {
        pages::zero(&mut self.member(at)?.skeleton, ranges)
    }

    /// Takes pages of private memory away, whatever was placed there.
    pub fn drop_pages(&mut self, at: ProcessIndex, ranges: &[PageRange]) -> Result<(), RestoreError> {
        pages::drop_pages(&mut self.member(at)?.skeleton, ranges)
    }

    /// Places pages of a memory object.
    pub fn object_pages(&mut self, id: ObjectId, offset: u64, content: &[u8]) -> Result<(), RestoreError> {
        self.objects.write(id, offset, content)
    }

    /// Makes parts of a memory object holes.
    pub fn object_holes(&mut self, id: ObjectId, ranges: &[PageRange]) -> Result<(), RestoreError> {
        self.objects.punch(id, ranges)
    }

    /// What of their memory comes after them: the mappings stay as they are from now on.
    pub fn postpone(&mut self, plan: LazyPlan) -> Result<(), RestoreError> {
        if self.holder.is_none() {
            return Err(RestoreError::Nonsense("lazy memory that was not announced".to_owned()));
        }
        if let Some(other) = plan.processes.iter().find(|process| process.of.at() >= self.members.len()) {
            return Err(no_such(other.of));
        }
        let Some(member) = self.members.first_mut() else { return Err(no_such(FIRST)) };
        self.outstanding = Some(adopt::clear(&mut member.skeleton, &self.objects, plan)?);
        Ok(())
    }

    /// Hashes all memory, which is complete now.
    pub fn hash(&mut self) -> Result<(), RestoreError> {
        self.own_digests.clear();
        for (at, member) in ProcessIndex::all(self.members.len()).zip(&self.members) {
            self.own_digests.extend(verify::private(at, &member.skeleton)?);
        }
        self.own_digests.extend(verify::objects(&self.objects)?);
        Ok(())
    }

    /// The hashes that all memory must have.
    pub fn digests(&mut self, digests: Vec<AreaDigest>) {
        self.digests = digests;
    }

    /// With whose rights it opens files from now on.
    pub fn set_rights(&mut self, at: ProcessIndex, rights: Option<Rights>) -> Result<(), RestoreError> {
        self.member(at)?.skeleton.rights = rights;
        Ok(())
    }

    /// Puts all state: afterwards the processes only need to be let go.
    pub fn state(&mut self, tree: &StoppedTree, moments: &Moments) -> Result<(), RestoreError> {
        let arrived = Instant::now();
        let (image, files) = (single(&tree.0)?, &tree.0.files);
        let member = self.members.get_mut(FIRST.at()).filter(|member| member.pid == image.pid);
        let member =
            member.ok_or_else(|| RestoreError::Nonsense("the state of another process".to_owned()))?;
        if self.verify {
            verify::compare(&self.own_digests, &self.digests, &member.skeleton.layout)?;
        }
        let _urgent = Urgent::begin();
        come_together(&member.skeleton);
        let context = RestoreContext {
            vetted: std::mem::take(&mut self.vetted),
            pairs: std::mem::take(&mut member.pairs),
            since_capture: since_boottime(moments.captured_ns),
            ..Default::default()
        };
        let prepared_ms = arrived.elapsed().as_secs_f64() * 1e3;
        let outstanding = self.outstanding.take().filter(|o| !o.is_empty());
        let keep = match (&self.holder, outstanding) {
            (Some(holder), Some(outstanding)) => {
                let numbers = descriptors::ours(files.table(image.table));
                let keep = hold(holder, outstanding, &mut member.skeleton, &self.objects, numbers)?;
                self.adopted = true;
                keep
            }
            _ => Vec::new(),
        };
        tracing::debug!(prepared_ms, held_ms = arrived.elapsed().as_secs_f64() * 1e3, "apply");
        let keep: Vec<_> = keep.iter().map(|(number, fd)| (*number, fd.as_fd())).collect();
        let (skeleton, objects) = (&mut member.skeleton, &self.objects);
        member.waits =
            Some(activate::activate(skeleton, objects, (image, files), &self.cpus, moments, context, &keep)?);
        // what we have open for writing, it could not execute
        self.objects = Objects::default();
        Ok(())
    }

    /// Keeps what is known of waits that were interrupted, for the next move.
    pub fn save_waits(&self, home: &Path) {
        for member in &self.members {
            member.waits.iter().for_each(|waits| waits.save(home, member.skeleton.pid));
        }
    }

    /// Queues signals to a process whose state is put.
    pub fn queue(&mut self, at: ProcessIndex, signals: &[LateSignal]) -> Result<(), RestoreError> {
        image_check::signals(signals).map_err(RestoreError::Nonsense)?;
        late_signals::queue_before(&self.member(at)?.skeleton, signals)
    }

    /// The point of no return: they outlive us from here on. None of them has run.
    pub fn outlive(&self) -> Result<(), RestoreError> {
        if self.members.iter().any(|member| member.waits.is_none()) {
            return Err(RestoreError::Nonsense("no state of the process".to_owned()));
        }
        self.members.iter().try_for_each(|member| member.skeleton.outlive())
    }

    /// Lets them go, after [`Builder::outlive`].
    pub fn let_go(&mut self) {
        self.members.iter_mut().for_each(|member| member.skeleton.let_go());
    }

    /// They run: whoever holds memory that comes after them lives as long as it must. Whether there is any.
    pub fn leave_later_memory(&mut self, home: &Path, id: &str) -> bool {
        let (Some(member), Some(holder)) = (self.members.first(), self.holder.take_if(|_| self.adopted))
        else {
            return false;
        };
        holder.go(&member.skeleton.pidfd, home, id);
        true
    }

    /// Kills what was not let go, and waits until it is dead.
    pub fn destroy(&mut self) {
        self.members.iter_mut().for_each(|member| member.skeleton.destroy());
    }

    /// An error that names what somebody or the kernel did to a process in the making, should it have come of that.
    pub fn explain(&self, error: RestoreError) -> RestoreError {
        let told = |error, member: &Member| member.watch.tell(member.skeleton.pid, error);
        self.members.iter().fold(error.of_half_built(), told)
    }
}

/// Hands what is lazy to its holder, before anything touches the memory. Returns the descriptors of it that the process shall have,
/// with their numbers: above its own.
fn hold(
    holder: &Holder,
    outstanding: Outstanding,
    skeleton: &mut Skeleton,
    objects: &Objects,
    numbers: [i32; 2],
) -> Result<Vec<(i32, OwnedFd)>, RestoreError> {
    holder.adopt(skeleton, objects, outstanding, &numbers)?;
    let copies = holder.userfaultfds().map(|fd| fd.try_clone_to_owned());
    let step = "duplicating a userfaultfd";
    numbers.into_iter().zip(copies).map(|(n, fd)| Ok((n, fd.map_err(RestoreError::io(step))?))).collect()
}

/// Brings the skeleton's threads to our CPU, ahead of others; their own CPUs and priorities are set with their state.
fn come_together(skeleton: &Skeleton) {
    let Ok(cpu) = nix::sched::sched_getcpu() else { return };
    go_to(cpu);
    for thread in skeleton.threads.values() {
        let _ = set_affinity(thread.0, &only(cpu));
        UrgentTracee::begin(*thread).keep();
    }
}

/// Files mapped since preflight must be the same here.
fn compare(files: &[(FilePath, FileIdentity)]) -> Result<(), RestoreError> {
    for (path, identity) in files {
        let object = format!("mapped file {path}");
        match check_file(&object, path, identity, Access::Read, &ContentHashes::new()) {
            FileCheck::Same | FileCheck::SameContent(_) => {}
            FileCheck::NeedsHash => {
                return Err(RestoreError::Differs(format!(
                    "{object} was mapped since preflight, and may differ here"
                )));
            }
            FileCheck::Differs(obstacle) => return Err(RestoreError::Differs(obstacle.to_string())),
        }
    }
    Ok(())
}

fn no_such(at: ProcessIndex) -> RestoreError {
    RestoreError::Nonsense(format!("something of {at} of a tree of one"))
}

/// The one process of a tree: more are not carried yet.
pub(super) fn single(tree: &TreeImage) -> Result<&ProcessImage, RestoreError> {
    match tree.processes.as_slice() {
        [one] if tree.version == IMAGE_VERSION => Ok(one),
        _ => Err(RestoreError::Nonsense("an image that is not of one process in our version".to_owned())),
    }
}
