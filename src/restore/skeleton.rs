//! The skeleton: a process under its own pid, emptied of everything, driven from outside by remote calls until it
//! is the process that was moved.
//!
//! Birth: seize with `PTRACE_O_EXITKILL` (it must die with us until the commit); a scratch area; then forget what
//! the kernel knows of its old memory *before* that is unmapped (a process whose rseq area is unmapped while
//! registered is killed at the next return to user mode); unmap everything but vDSO and scratch; move the vDSO
//! to where the source has it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::RestoreError;
use super::nursery::{self, Newborn, Order, SOCKET};
use super::quarters::Quarters;
use crate::image::memory::{Layout, Vdso};
use crate::image::{PAGE_SIZE, PageRange, RangeSet};
use crate::state::robust::Emptied;
use crate::state::{memory_map, memory_modes};
use crate::sys::handoff;
use crate::sys::process::{prlimit, reaped_within};
use crate::sys::ptrace::{self, Options};
use crate::sys::rights::Rights;
use crate::sys::spawn::CloneArgs;
use crate::sys::time::Deadline;
use crate::sys::voice;
use crate::tracee::stop::Stop;
use crate::tracee::thread::Thread;
use crate::tracee::{Batch, Outcome, Place, Remote, Scratch, Site, TraceeError};

const TABLE: usize = 256 * 1024;
const DATA: usize = 1024 * 1024;
const RLIMIT_MEMLOCK: u32 = 8;
const VDSO: &str = "[vdso]";
const PATIENCE: Duration = Duration::from_secs(10);
/// Above `vm.mmap_min_addr`, below where programs are usually loaded.
const LOWEST: u64 = 0x10_0000;
const HIGHEST: u64 = 0x7fff_0000_0000;

/// A process in the making.
#[derive(Debug)]
pub struct Skeleton {
    /// Pid as we see it.
    pub pid: i32,
    /// Pid as it sees itself.
    pub inner_pid: i32,
    /// The process, whatever becomes of its number.
    pub pidfd: OwnedFd,
    socket: OwnedFd,
    /// For remote calls.
    pub site: Site,
    scratch: Scratch,
    /// Threads by the id by which they know themselves.
    pub threads: BTreeMap<i32, Thread>,
    /// What is mapped now.
    pub layout: Layout,
    /// Where pages were written.
    pub written: RangeSet,
    /// What is locked now.
    pub locked: RangeSet,
    released: bool,
    /// Its leader ends as soon as it is let go: at the source it has ended already.
    pub leader_ends: bool,
    /// Robust lists that are empty until it is let go: should it be killed before, the mutexes are not its own.
    emptied: Emptied,
    /// With whose rights it opens files and enters directories before it has its own; `None`: with ours.
    pub rights: Option<Rights>,
}

impl Skeleton {
    /// Has it born and empties it. `layout` and `vdso` are the source's: our scratch area keeps out of their way.
    pub fn make(
        order: &Order,
        quarters: &Quarters<'_>,
        layout: &Layout,
        vdso: &Vdso,
    ) -> Result<Self, RestoreError> {
        let newborn = nursery::order(order, quarters)?;
        Self::adopt(order, newborn, layout, vdso)
    }

    /// Takes charge of a newborn; on failure it is killed.
    fn adopt(order: &Order, newborn: Newborn, layout: &Layout, vdso: &Vdso) -> Result<Self, RestoreError> {
        let Newborn { pid, pidfd, socket } = newborn;
        let leader = Thread(pid);
        let built = seize_stopped(leader, pid).and_then(|()| Ok(Site::of(pid)?)).and_then(|site| {
            let theirs = memory_map::survey(pid)?;
            let mut taken: RangeSet = layout.vmas.iter().map(|v| v.range()).collect();
            theirs.layout.vmas.iter().for_each(|v| taken.insert(v.range()));
            vdso.areas.iter().chain(&theirs.vdso).for_each(|(_, s, e)| taken.insert(PageRange::new(*s, *e)));
            let hole = find_hole(&taken, PAGE_SIZE + (TABLE + DATA) as u64)?;
            let mut remote = Remote::borrow(leader, &site)?;
            let scratch = remote.map_scratch(Place::Exactly(hole), TABLE, DATA)?;
            remote.abandon();
            Ok((site, scratch, theirs, taken))
        });
        let (site, scratch, theirs, taken) = match built {
            Ok(parts) => parts,
            Err(e) => {
                let _ = crate::sys::process::pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL);
                return Err(e);
            }
        };
        let mut skeleton = Skeleton {
            pid,
            inner_pid: order.pid,
            pidfd,
            socket,
            site,
            scratch,
            threads: BTreeMap::from([(order.pid, leader)]),
            layout: Layout::default(),
            written: RangeSet::default(),
            locked: RangeSet::default(),
            released: false,
            leader_ends: false,
            emptied: Emptied::default(),
            rights: None,
        };
        // should one of these fail, dropping it kills it
        skeleton.empty(&theirs)?;
        skeleton.move_vdso(&theirs.vdso, vdso, taken)?;
        Ok(skeleton)
    }

    /// The leader.
    pub fn leader(&self) -> Thread {
        Thread(self.pid)
    }

    /// An empty batch.
    pub fn batch(&self) -> Batch {
        Batch::new(&self.scratch)
    }

    /// Adds calls that look up paths with the rights of [`Skeleton::rights`]. A user id for file access other than 0
    /// suspends the capabilities that would override permissions (capabilities(7)).
    pub fn as_user<T>(&self, batch: &mut Batch, add: impl FnOnce(&mut Batch) -> T) -> T {
        let Some(rights) = &self.rights else { return add(batch) };
        let take = |batch: &mut Batch, groups: &[u32], gid: u32, uid: u32| {
            let list = batch.bytes(&groups.iter().flat_map(|g| g.to_le_bytes()).collect::<Vec<u8>>());
            batch.call("setgroups", libc::SYS_setgroups, &[groups.len() as u64, list]);
            batch.attempt("setfsgid", libc::SYS_setfsgid, &[u64::from(gid)]);
            batch.attempt("setfsuid", libc::SYS_setfsuid, &[u64::from(uid)]);
        };
        let own: Vec<u32> = nix::unistd::getgroups().unwrap_or_default().iter().map(|g| g.as_raw()).collect();
        take(batch, &rights.groups, rights.gid, rights.uid);
        let added = add(batch);
        batch.attempt("setfsuid", libc::SYS_setfsuid, &[u64::from(nix::unistd::geteuid().as_raw())]);
        take(batch, &own, nix::unistd::getegid().as_raw(), nix::unistd::geteuid().as_raw());
        added
    }

    /// Whether another call with that much data fits the batch.
    pub fn has_room(&self, batch: &Batch, calls: usize, data: usize) -> bool {
        batch.has_room(&self.scratch, calls, data)
    }

    /// Executes a batch in the leader.
    pub fn run(&self, batch: &Batch) -> Result<Outcome, RestoreError> {
        self.run_in(self.leader(), batch)
    }

    /// Executes a batch in one of the threads.
    pub fn run_in(&self, thread: Thread, batch: &Batch) -> Result<Outcome, RestoreError> {
        let mut remote = Remote::borrow(thread, &self.site)?;
        let outcome = remote.run(&self.scratch, batch);
        remote.abandon();
        Ok(outcome?)
    }

    /// Executes calls one batch at a time, however many there are.
    pub fn run_all<T>(
        &self,
        items: &[T],
        data: usize,
        mut add: impl FnMut(&mut Batch, &T),
    ) -> Result<(), RestoreError> {
        let mut batch = self.batch();
        for item in items {
            if !self.has_room(&batch, 8, data) {
                self.run(&batch)?;
                batch = self.batch();
            }
            add(&mut batch, item);
        }
        self.run(&batch).map(drop)
    }

    fn empty(&mut self, theirs: &memory_map::Survey) -> Result<(), RestoreError> {
        let mut batch = self.batch();
        let rseq = ptrace::rseq(self.pid).unwrap_or_default();
        if rseq.address != 0 {
            let args = [rseq.address, u64::from(rseq.size), 1, u64::from(rseq.signature)];
            batch.call("rseq(UNREGISTER)", libc::SYS_rseq, &args);
        }
        // not of the session of ulpm serve: its terminal's signals are none of its affair. Here, not in the
        // nursery: the newborn may be stopped before its first instruction.
        batch.attempt("setsid", libc::SYS_setsid, &[]);
        // and no keys of the login that started ulpm serve: an empty session keyring (KEYCTL_JOIN_SESSION_KEYRING) of its own
        batch.attempt("keyctl", libc::SYS_keyctl, &[1, 0, 0, 0, 0]);
        memory_modes::without_huge_pages(&mut batch);
        batch.call("set_robust_list", libc::SYS_set_robust_list, &[0, 24]);
        batch.call("set_tid_address", libc::SYS_set_tid_address, &[0]);
        batch.call("close_range", libc::SYS_close_range, &[0, SOCKET as u64 - 1, 0]);
        batch.call("close_range", libc::SYS_close_range, &[SOCKET as u64 + 1, u64::from(u32::MAX), 0]);
        for vma in &theirs.layout.vmas {
            batch.call(
                "munmap of the skeleton's own memory",
                libc::SYS_munmap,
                &[vma.start, vma.end - vma.start],
            );
        }
        self.run(&batch)?;
        // as much as it may; its own limits come last
        if let Ok((_, hard)) = prlimit(self.pid, RLIMIT_MEMLOCK, None) {
            let _ = prlimit(self.pid, RLIMIT_MEMLOCK, Some((hard, hard)));
        }
        Ok(())
    }

    /// Moves `[vvar]`, `[vvar_vclock]` and `[vdso]`, which must keep their order and distance; the system call
    /// instruction moves along. By way of a hole, since old and new place may overlap. What the source has unmapped goes: then the
    /// instruction is that of the scratch area.
    fn move_vdso(
        &mut self,
        ours: &[(String, u64, u64)],
        theirs: &Vdso,
        mut taken: RangeSet,
    ) -> Result<(), RestoreError> {
        if !theirs.areas.iter().any(|(name, ..)| name == VDSO) {
            self.site.syscall = self.scratch.syscall();
        }
        let same = |name: &str| theirs.areas.iter().find(|area| area.0 == name);
        let (ours, gone): (Vec<_>, Vec<_>) = ours.iter().cloned().partition(|area| same(&area.0).is_some());
        let mut batch = self.batch();
        for (_, start, end) in gone {
            batch.call("munmap of the vDSO", libc::SYS_munmap, &[start, end - start]);
        }
        self.run(&batch)?;
        let (Some(from), Some(to)) = (ours.first(), theirs.areas.first()) else { return Ok(()) };
        if from.1 == to.1 {
            return Ok(());
        }
        let (start, scratch_len) = self.scratch.range();
        taken.insert(PageRange::new(start, start + scratch_len));
        let len = ours.last().map_or(0, |a| a.2) - from.1;
        let hole = find_hole(&taken, len)?;
        let mut batch = self.batch();
        for (base, target) in [(from.1, hole), (hole, to.1)] {
            for (_, start, end) in &ours {
                let old = start - from.1 + base;
                let new = start - from.1 + target;
                let flags = (libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED) as u64;
                batch.call(
                    "mremap of the vDSO",
                    libc::SYS_mremap,
                    &[old, end - start, end - start, flags, new],
                );
            }
        }
        self.run(&batch)?;
        if self.site.syscall != self.scratch.syscall() {
            self.site.syscall = self.site.syscall - from.1 + to.1;
        }
        Ok(())
    }

    /// Sends descriptors into the skeleton and returns their numbers there, in order.
    pub fn receive(&self, fds: &[BorrowedFd<'_>]) -> Result<Vec<i32>, RestoreError> {
        let mut numbers = Vec::with_capacity(fds.len());
        for part in fds.chunks(handoff::MAX_FDS) {
            handoff::send_fds(self.socket.as_fd(), part)
                .map_err(RestoreError::io("handing descriptors over"))?;
            numbers.extend(self.receive_message(part.len())?);
        }
        Ok(numbers)
    }

    /// `struct msghdr`: name, namelen, iov, iovlen, control, controllen, flags. `struct cmsghdr`: len, level, type.
    fn receive_message(&self, count: usize) -> Result<Vec<i32>, RestoreError> {
        let mut batch = self.batch();
        let control_len = 16 + (count * 4).next_multiple_of(8);
        let control = batch.space(control_len);
        let text = batch.space(16);
        let iov = batch.bytes(&[text.to_le_bytes(), 16u64.to_le_bytes()].concat());
        let words = [0, 0, iov, 1, control, control_len as u64, 0];
        let message = batch.bytes(&words.map(u64::to_le_bytes).concat());
        batch.call("recvmsg of descriptors", libc::SYS_recvmsg, &[SOCKET as u64, message, 0]);
        let outcome = self.run(&batch)?;
        let got = (outcome.word(control) as usize).saturating_sub(16) / 4;
        if got != count {
            return Err(RestoreError::Io {
                step: format!("handing {count} descriptors over"),
                source: std::io::Error::other(format!("{got} arrived; is its limit of open files too low?")),
            });
        }
        Ok((0..count as u64).map(|i| outcome.half(control + 16 + i * 4) as i32).collect())
    }

    /// Closes everything in the skeleton but the socket.
    pub fn close_received(&self, batch: &mut Batch) {
        batch.call("close_range", libc::SYS_close_range, &[SOCKET as u64 + 1, u64::from(u32::MAX), 0]);
    }

    /// Moves the scratch area out of the way of mappings that are about to be made.
    pub fn make_way(&mut self, layout: &Layout, vdso: &Vdso) -> Result<(), RestoreError> {
        let (start, len) = self.scratch.range();
        let ours = PageRange::new(start, start + len);
        if !layout.vmas.iter().any(|v| !v.range().intersection(&ours).is_empty()) {
            return Ok(());
        }
        let mut taken: RangeSet = layout.vmas.iter().chain(&self.layout.vmas).map(|v| v.range()).collect();
        vdso.areas.iter().for_each(|(_, s, e)| taken.insert(PageRange::new(*s, *e)));
        taken.insert(ours);
        let hole = find_hole(&taken, len)?;
        let mut remote = Remote::borrow(self.leader(), &self.site)?;
        let old = self.scratch;
        self.scratch = remote.map_scratch(Place::Exactly(hole), TABLE, DATA)?;
        remote.abandon();
        if self.site.syscall == old.syscall() {
            self.site.syscall = self.scratch.syscall();
        }
        let mut remote = Remote::borrow(self.leader(), &self.site)?;
        remote.unmap_scratch(old)?;
        remote.abandon();
        Ok(())
    }

    /// Makes the threads exactly these (ids by which they know themselves).
    pub fn set_threads(&mut self, tids: &[i32]) -> Result<(), RestoreError> {
        let extra: Vec<i32> = self.threads.keys().copied().filter(|t| !tids.contains(t)).collect();
        for tid in extra {
            if let Some(thread) = self.threads.remove(&tid) {
                self.end_thread(thread)?;
            }
        }
        let missing: Vec<i32> = tids.iter().copied().filter(|t| !self.threads.contains_key(t)).collect();
        for part in missing.chunks(256) {
            self.add_threads(part)?;
        }
        Ok(())
    }

    fn add_threads(&mut self, tids: &[i32]) -> Result<(), RestoreError> {
        if tids.is_empty() {
            return Ok(());
        }
        let flags = libc::CLONE_VM
            | libc::CLONE_FS
            | libc::CLONE_FILES
            | libc::CLONE_SIGHAND
            | libc::CLONE_THREAD
            | libc::CLONE_SYSVSEM;
        let mut batch = self.batch();
        for tid in tids {
            let set_tid = batch.bytes(&tid.to_le_bytes());
            let args = CloneArgs { flags: flags as u64, set_tid, set_tid_size: 1, ..CloneArgs::default() };
            let at = batch.bytes(&clone_args_bytes(&args));
            batch.call("clone3 of a thread", libc::SYS_clone3, &[at, size_of::<CloneArgs>() as u64]);
        }
        let mut remote = Remote::borrow(self.leader(), &self.site)?;
        let ran = remote.run(&self.scratch, &batch);
        let children = remote.abandon();
        ran?;
        for (tid, child) in tids.iter().zip(children) {
            let thread = Thread(child);
            match thread.wait("waiting for a new thread", Deadline::after(PATIENCE))? {
                Stop::Trap { .. } => {}
                stop => {
                    return Err(
                        TraceeError::UnexpectedStop { tid: child, step: "making a thread", stop }.into()
                    );
                }
            }
            self.threads.insert(*tid, thread);
        }
        Ok(())
    }

    fn end_thread(&self, thread: Thread) -> Result<(), RestoreError> {
        let mut remote = Remote::borrow(thread, &self.site)?;
        match remote.single("exit of a thread", libc::SYS_exit, [0; 6]) {
            Err(e) if e.died() => {}
            Err(e) => return Err(e.into()),
            Ok(_) => {}
        }
        remote.abandon();
        Ok(())
    }

    /// Takes the scratch area away: the last remote call but those that need none. Even if it was made from there: the thread is
    /// stopped before it returns from it.
    pub fn unmap_scratch(&mut self) -> Result<(), RestoreError> {
        let mut remote = Remote::borrow(self.leader(), &self.site)?;
        remote.unmap_scratch(self.scratch)?;
        remote.abandon();
        Ok(())
    }

    /// Empties the robust lists with these heads, those that are its own, until [`Skeleton::outlive`].
    pub fn empty_robust_lists(&mut self, heads: impl Iterator<Item = u64>) -> Result<(), RestoreError> {
        let private = |v: &&crate::image::Vma| v.private();
        let own: Vec<PageRange> = self.layout.vmas.iter().filter(private).map(|v| v.range()).collect();
        let heads = heads.filter(|head| own.iter().any(|range| (range.start..range.end).contains(head)));
        let emptied = Emptied::make(&self.site.mem, heads);
        self.emptied = emptied.map_err(RestoreError::io("emptying the robust lists"))?;
        Ok(())
    }

    /// The point of no return: from here on it outlives us. Every thread has its own registers; none has run yet.
    pub fn outlive(&self) -> Result<(), RestoreError> {
        self.emptied.fill(&self.site.mem).map_err(RestoreError::io("filling the robust lists"))?;
        for thread in self.threads.values() {
            thread.set_options(Options::RELEASED)?;
        }
        Ok(())
    }

    /// Lets every thread go, after [`Skeleton::outlive`]. Whoever kills it from now on kills a process that runs here.
    pub fn let_go(&mut self) {
        self.released = true;
        let let_go = |thread: &Thread| {
            if let Err(e) = thread.detach(0) {
                tracing::warn!(tid = thread.0, error = %e, "a thread could not be let go");
            }
        };
        let leader = self.leader();
        if self.leader_ends {
            let_go(&leader);
            // the others shall not see a leader that they have outlived; if it gets no CPU they must not wait for it
            voice::await_end(self.pid, leader.0, Duration::from_millis(20));
        }
        self.threads.values().filter(|thread| !self.leader_ends || **thread != leader).for_each(let_go);
    }

    /// Kills it, unless it was let go, and waits until it is dead.
    pub fn destroy(&mut self) {
        if std::mem::replace(&mut self.released, true) {
            return;
        }
        if let Err(e) = crate::sys::process::pidfd_send_signal(self.pidfd.as_fd(), libc::SIGKILL)
            && e != nix::errno::Errno::ESRCH
        {
            tracing::error!(pid = self.pid, error = %e, "the unfinished process could not be killed");
        }
        // the death notice of each thread; then its number must be free, for whoever moves the process again at once
        for thread in self.threads.values().rev() {
            let _ = thread.wait("ending the skeleton", Deadline::after(Duration::from_secs(2)));
        }
        reaped_within(self.pidfd.as_fd(), Duration::from_millis(500));
    }
}

impl Drop for Skeleton {
    fn drop(&mut self) {
        self.destroy();
    }
}

fn seize_stopped(leader: Thread, pid: i32) -> Result<(), RestoreError> {
    const STEP: &str = "stopping the skeleton";
    leader.seize(pid, Options::SKELETON)?;
    leader.interrupt()?;
    match leader.wait(STEP, Deadline::after(PATIENCE))? {
        Stop::Trap { .. } => Ok(()),
        stop => Err(TraceeError::UnexpectedStop { tid: leader.0, step: STEP, stop }.into()),
    }
}

/// The lowest gap of `len` bytes that keeps a distance to its neighbours.
fn find_hole(taken: &RangeSet, len: u64) -> Result<u64, RestoreError> {
    taken
        .gaps(PageRange::new(LOWEST, HIGHEST))
        .into_iter()
        .find(|gap| gap.len() >= len + 2 * PAGE_SIZE)
        .map(|gap| gap.start + PAGE_SIZE)
        .ok_or(RestoreError::NoRoom(len))
}

fn clone_args_bytes(a: &CloneArgs) -> Vec<u8> {
    [
        a.flags,
        a.pidfd,
        a.child_tid,
        a.parent_tid,
        a.exit_signal,
        a.stack,
        a.stack_size,
        a.tls,
        a.set_tid,
        a.set_tid_size,
        a.cgroup,
    ]
    .map(u64::to_le_bytes)
    .concat()
}
