//! Makes the skeleton, whose memory is in place, the process that was frozen: everything but letting go.
//!
//! Order, and what it rests on:
//! 1. descriptors (the socket to `ulpm serve` goes with that step), so that calls which name them can be made;
//! 2. threads, before timers that signal one of them;
//! 3. the process: actions and the like (`ProcessStage::Inside`), directories (`AsUser`), mm pointers, timers, epoll;
//! 4. limits and scores (`Outside`), mappings' flags, seals;
//! 5. each thread: its directory (`ThreadStage::AsUser`), what it must say itself (`Itself`), its credentials, what a change of
//!    those resets (`AfterCredentials`; of the process, after the last thread's: `ProcessStage::Last`), then rseq (from then on the
//!    kernel writes there), and scheduling (`Outside`);
//! 6. waits, registers, and the scratch area goes.
//!
//! The stages are those of the states in `state/process/` and `state/thread/`; the rest has its place here.
//!
//! A main thread that has ended at the source does all this, too, and ends as the first thing when it is let go.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use nix::time::ClockId;

use super::objects::Objects;
use super::skeleton::Skeleton;
use super::{RestoreError, descriptors, guards, mapper};
use crate::image::files::FilesImage;
use crate::image::memory::{MemoryImage, MmFields};
use crate::image::process::{Credentials, ProcessImage, ThreadImage};
use crate::state::files::{EpollAdd, RestoreContext};
use crate::state::seam::process::ProcessStage;
use crate::state::seam::thread::{ThreadPut, ThreadStage};
use crate::state::{
    credentials, memory_modes, mm_fields, process, signals, thread as states, threads, timers, waits,
};
use crate::sys::kernel::Kernel;
use crate::sys::regs::from_words;
use crate::sys::time::{now_ns, since_boottime};
use crate::tracee::thread::Thread;
use crate::tracee::{Batch, Remote};
use crate::transport::protocol::Moments;

const ERESTART_RESTARTBLOCK: i64 = -516;

/// Puts all state of `image` into the skeleton, and what it has of the tree's open files. `moments`: since when, for timers and waits. `keep`: descriptors of ours that it
/// shall have beside its own, under these numbers, closed by exec.
pub fn activate(
    skeleton: &mut Skeleton,
    objects: &Objects,
    (image, files): (&ProcessImage, &FilesImage),
    cpus: &[u8],
    moments: &Moments,
    context: RestoreContext,
    keep: &[(i32, BorrowedFd<'_>)],
) -> Result<waits::Memory, RestoreError> {
    let begun = std::time::Instant::now();
    let ms = || begun.elapsed().as_secs_f64() * 1e3;
    let epoll = descriptors::put(skeleton, objects, (files, image.table), context, keep)?;
    let files_ms = ms();
    let tids: Vec<i32> = image.threads.iter().map(|t| t.tid).collect();
    skeleton.set_threads(&tids)?;
    let threads_ms = ms();
    put_process(skeleton, image, &epoll, moments)?;
    let process_ms = ms();
    guards::put(skeleton, &image.memory.guards)?;
    mapper::finish(skeleton)?;
    objects.finish(&image.memory.layout.objects)?;
    // while it still has our credentials: another user's limits are not ours to set
    process::put(&image.states, skeleton.pid, ProcessStage::Outside, &mut skeleton.batch())?;
    let have = skeleton_credentials()?;
    // the leader last: a change of anybody's credentials resets what is the process's
    for thread in image.threads.iter().rev() {
        put_thread(skeleton, image, thread, &have, cpus)?;
    }
    mapper::conclude(skeleton)?;
    let each_ms = ms();
    let memory = put_waits_and_registers(skeleton, image, moments);
    skeleton.empty_robust_lists(image.threads.iter().map(|thread| thread.robust_list.0))?;
    tracing::debug!(files_ms, threads_ms, process_ms, each_ms, all_ms = ms(), "activation, until the end of");
    memory
}

/// Sets the exe link, before any file is mapped: the kernel refuses while the old program still is.
pub fn put_exe(skeleton: &Skeleton, memory: &MemoryImage) -> Result<(), RestoreError> {
    let now = std::fs::read_link(format!("/proc/{}/exe", skeleton.pid))
        .map_err(RestoreError::io("reading the exe link"))?;
    if now == memory.exe.as_path() {
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

fn put_process(
    skeleton: &Skeleton,
    image: &ProcessImage,
    epoll: &[EpollAdd],
    moments: &Moments,
) -> Result<(), RestoreError> {
    let mut batch = skeleton.batch();
    let put = |stage, batch: &mut Batch| process::put(&image.states, skeleton.pid, stage, batch);
    put(ProcessStage::Inside, &mut batch)?;
    skeleton.as_user(&mut batch, |batch| put(ProcessStage::AsUser, batch))?;
    memory_modes::put_early(&mut batch, &image.memory.modes);
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
    timers::create(&mut batch, &image.timers, Kernel::here().timer_ids);
    let clocks = timers::ask_clocks(&mut batch, &image.timers);
    let outcome = skeleton.run(&batch)?;
    let mut batch = skeleton.batch();
    timers::start(&mut batch, &image.timers, &outcome, &clocks, since_boottime(moments.captured_ns));
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
    let ended = thread.ended.is_some();
    let put = |stage, batch: &mut Batch| {
        let to = ThreadPut { tid: tracee.0, ended, stage, cpus, batch };
        states::put(&thread.states, to)
    };
    if states::paths(thread)?.is_empty() {
        put(ThreadStage::AsUser, &mut batch)?;
    } else {
        skeleton.as_user(&mut batch, |batch| put(ThreadStage::AsUser, batch))?;
    }
    put(ThreadStage::Itself, &mut batch)?;
    if !ended {
        threads::put_self(&mut batch, image.pid, thread);
    }
    let name = batch.string(&thread.comm);
    batch.call("prctl(SET_NAME)", libc::SYS_prctl, &[libc::PR_SET_NAME as u64, name, 0, 0, 0]);
    credentials::put(&mut batch, have, &thread.creds);
    put(ThreadStage::AfterCredentials, &mut batch)?;
    if thread.tid == image.pid {
        process::put(&image.states, skeleton.pid, ProcessStage::Last, &mut batch)?;
        memory_modes::put_late(&mut batch, &image.memory.modes);
    }
    threads::put_rseq(&mut batch, thread);
    skeleton.run_in(tracee, &batch)?;
    Ok(put(ThreadStage::Outside, &mut skeleton.batch())?)
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
            let left = arm(skeleton, tracee, &wait, &mut thread, since_boottime(moments.stopped_ns))?;
            if let Some(regs) = from_words(&thread.regs) {
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
        match thread.ended {
            None => threads::put_outside(*tracee, thread)?,
            Some(status) => {
                threads::put_end(*tracee, skeleton.site.syscall, status)?;
                skeleton.leader_ends = true;
            }
        }
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
