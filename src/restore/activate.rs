//! Makes the skeleton, whose memory is in place, the process that was frozen: everything but letting go.
//!
//! Order, and what it rests on:
//! 1. descriptors (the socket to `ulpm serve` goes with that step), so that calls which name them can be made;
//! 2. threads, before timers that signal one of them;
//! 3. the process: actions, directories, mm pointers, timers, epoll;
//! 4. each thread: what it must say itself, its credentials, then rseq (from then on the kernel writes there);
//! 5. what a change of credentials resets; limits; scheduling; mappings' flags; seals;
//! 6. waits, registers, and the scratch area goes.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::time::ClockId;

use super::objects::Objects;
use super::session::since;
use super::skeleton::Skeleton;
use super::{RestoreError, mapper};
use crate::image::memory::{MemoryImage, MmFields};
use crate::image::process::{Credentials, ProcessImage, ThreadImage};
use crate::state::files::{EpollAdd, RestoreContext};
use crate::state::{attributes, credentials, files, mm_fields, scheduling, signals, threads, timers, waits};
use crate::sys::time::now_ns;
use crate::tracee::Remote;
use crate::tracee::thread::Thread;
use crate::transport::protocol::Moments;

const ERESTART_RESTARTBLOCK: i64 = -516;

/// Puts all state of `image` into the skeleton. `moments`: since when, for timers and waits. `keep`: descriptors of ours that it
/// shall have beside its own, under these numbers, closed by exec.
pub fn activate(
    skeleton: &mut Skeleton,
    objects: &Objects,
    image: &ProcessImage,
    cpus: &[u8],
    moments: &Moments,
    context: RestoreContext,
    keep: &[(i32, BorrowedFd<'_>)],
) -> Result<waits::Memory, RestoreError> {
    let epoll = put_files(skeleton, objects, image, context, keep)?;
    let tids: Vec<i32> = image.threads.iter().map(|t| t.tid).collect();
    skeleton.set_threads(&tids)?;
    put_process(skeleton, image, &epoll, moments)?;
    mapper::finish(skeleton)?;
    objects.seal()?;
    // while it still has our credentials: another user's limits are not ours to set
    attributes::put_outside(skeleton.pid, &image.attributes)?;
    let have = skeleton_credentials()?;
    for thread in &image.threads {
        put_thread(skeleton, image, thread, &have, cpus)?;
    }
    put_waits_and_registers(skeleton, image, moments)
}

/// Sets the exe link, before any file is mapped: the kernel refuses while the old program still is.
pub fn put_exe(skeleton: &Skeleton, memory: &MemoryImage) -> Result<(), RestoreError> {
    let now = std::fs::read_link(format!("/proc/{}/exe", skeleton.pid))
        .map_err(RestoreError::io("reading the exe link"))?;
    if now.to_string_lossy() == memory.exe {
        return Ok(());
    }
    let mut batch = skeleton.batch();
    let call = skeleton.as_user(&mut batch, |batch| {
        let path = batch.string(&memory.exe);
        let args = [libc::AT_FDCWD as u64, path, (libc::O_RDONLY | libc::O_CLOEXEC) as u64, 0];
        batch.call("open of the program", libc::SYS_openat, &args)
    });
    let fd = skeleton.run(&batch)?.results[call];
    let mut batch = skeleton.batch();
    let mm = MmFields { brk: memory.mm.start_brk, ..memory.mm.clone() };
    mm_fields::put(&mut batch, &mm, fd as u32);
    skeleton.close_received(&mut batch);
    skeleton.run(&batch).map(drop)
}

/// The skeleton was born of us and has our credentials.
fn skeleton_credentials() -> Result<Credentials, RestoreError> {
    let mut have = crate::state::credentials_of_self()?;
    have.securebits = crate::sys::process::own_securebits();
    Ok(have)
}

/// Opens all files here, hands them over, and brings them to their numbers: first up above all of them, where
/// nothing is in the way, then down.
fn put_files(
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
    let opened = match &skeleton.rights {
        None => files::restore(&image.files, &mut context)?,
        Some(rights) => rights
            .with(|| files::restore(&image.files, &mut context))
            .map_err(RestoreError::io("taking the rights of its user"))??,
    };
    let ours = keep.iter().enumerate().map(|(i, (fd, _))| (opened.files.len() + i, *fd, true));
    let slots: Vec<_> = image.files.slots.iter().map(|s| (s.file, s.fd, s.cloexec)).chain(ours).collect();
    let base =
        slots.iter().map(|(_, fd, _)| fd + 1).max().unwrap_or(0).max(super::nursery::SOCKET + 1) as u64;
    raise_file_limit(skeleton, base + 2 * (opened.files.len() + keep.len()) as u64 + 16)?;
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

fn put_process(
    skeleton: &Skeleton,
    image: &ProcessImage,
    epoll: &[EpollAdd],
    moments: &Moments,
) -> Result<(), RestoreError> {
    let mut batch = skeleton.batch();
    signals::put_actions(&mut batch, &image.actions);
    skeleton.as_user(&mut batch, |batch| attributes::put_early(batch, &image.attributes));
    mm_fields::put(&mut batch, &image.memory.mm, mm_fields::NO_EXE);
    let queued: Vec<_> = image
        .queued
        .iter()
        .filter(|s| !timers::supersedes(&image.timers, signals::number(s)))
        .cloned()
        .collect();
    signals::put_queued(&mut batch, image.pid, 0, &queued);
    skeleton.run(&batch)?;
    let mut batch = skeleton.batch();
    timers::create(&mut batch, &image.timers, crate::sys::kernel_at_least(6, 15));
    let clocks = timers::ask_clocks(&mut batch, &image.timers);
    let outcome = skeleton.run(&batch)?;
    let mut batch = skeleton.batch();
    timers::start(&mut batch, &image.timers, &outcome, &clocks, since(moments.captured_ns));
    skeleton.run(&batch)?;
    skeleton.run_all(epoll, 64, |batch, add| {
        // struct epoll_event is packed: events, data
        let mut event = add.events.to_le_bytes().to_vec();
        event.extend_from_slice(&add.data.to_le_bytes());
        let event = batch.bytes(&event);
        let args = [add.epfd as u64, libc::EPOLL_CTL_ADD as u64, add.fd as u64, event];
        batch.call("epoll_ctl", libc::SYS_epoll_ctl, &args);
    })
}

fn put_thread(
    skeleton: &Skeleton,
    image: &ProcessImage,
    thread: &ThreadImage,
    have: &Credentials,
    cpus: &[u8],
) -> Result<(), RestoreError> {
    let tracee = tracee(skeleton, thread.tid)?;
    let mut batch = skeleton.batch();
    threads::put_self(&mut batch, image.pid, thread);
    let name = batch.string(&thread.comm);
    batch.call("prctl(SET_NAME)", libc::SYS_prctl, &[libc::PR_SET_NAME as u64, name, 0, 0, 0]);
    credentials::put(&mut batch, have, &thread.creds);
    if thread.tid == image.pid {
        attributes::put_late(&mut batch, &image.attributes);
    }
    threads::put_rseq(&mut batch, thread);
    skeleton.run_in(tracee, &batch)?;
    Ok(scheduling::put(tracee.0, &thread.sched, cpus)?)
}

fn tracee(skeleton: &Skeleton, tid: i32) -> Result<Thread, RestoreError> {
    skeleton
        .threads
        .get(&tid)
        .copied()
        .ok_or_else(|| RestoreError::Nonsense(format!("an unknown thread {tid}")))
}

/// The leader last: it takes the scratch area away, in which the others' timeouts lie.
fn put_waits_and_registers(
    skeleton: &mut Skeleton,
    image: &ProcessImage,
    moments: &Moments,
) -> Result<waits::Memory, RestoreError> {
    let mut memory = waits::Memory::default();
    let mut settled: Vec<(Thread, ThreadImage)> = Vec::new();
    for thread in &image.threads {
        let tracee = tracee(skeleton, thread.tid)?;
        let mut thread = thread.clone();
        if let Some(wait) = thread.wait.clone() {
            let left = arm(skeleton, tracee, &wait, &mut thread, since(moments.stopped_ns))?;
            if let Some(regs) = threads::from_words(&thread.regs) {
                let end_ns = now_ns(ClockId::CLOCK_MONOTONIC).saturating_add_unsigned(left.left_ns);
                memory.remember(tracee.0, &regs, left.nr, Some(end_ns));
            }
        }
        settled.push((tracee, thread));
    }
    skeleton.unmap_scratch()?;
    for (tracee, thread) in &settled {
        if let Some((at, bytes)) = &thread.patch {
            let step = "placing the timeout of a waiting thread";
            skeleton.site.mem.write(*at, bytes).map_err(RestoreError::io(step))?;
        }
        threads::put_outside(*tracee, thread)?;
    }
    Ok(memory)
}

/// Has the thread take up its wait. If there is nothing left to wait for, its registers get the result.
fn arm(
    skeleton: &Skeleton,
    tracee: Thread,
    wait: &crate::image::process::Wait,
    thread: &mut ThreadImage,
    passed: Duration,
) -> Result<crate::image::process::Wait, RestoreError> {
    const RAX: usize = 10;
    const ORIG_RAX: usize = 15;
    let plan = waits::Rearm::new(wait, passed);
    let mut args = plan.args;
    if let Some(i) = plan.timespec_arg {
        let mut batch = skeleton.batch();
        args[i] = batch.bytes(&plan.timespec);
        // a call that only places the data
        batch.call("getpid", libc::SYS_getpid, &[]);
        skeleton.run(&batch)?;
    }
    let mut remote = Remote::borrow(tracee, &skeleton.site)?;
    let result = remote.enter_and_stop(plan.nr, args);
    remote.abandon();
    match result? {
        ERESTART_RESTARTBLOCK => {}
        // it asks to be issued again as it is: only a wait without end does
        result @ -514..=-512 => {
            thread.regs[RAX] = result as u64;
            thread.regs[ORIG_RAX] = plan.nr as u64;
        }
        result => {
            thread.regs[RAX] = result as u64;
            thread.regs[ORIG_RAX] = u64::MAX;
        }
    }
    let left_ns = wait.left_ns.saturating_sub(passed.as_nanos() as u64);
    Ok(crate::image::process::Wait { left_ns, ..wait.clone() })
}
