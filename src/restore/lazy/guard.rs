//! Nobody may run on zeroes instead of pages that have not arrived.
//!
//! When the last descriptor of a userfaultfd is closed, the kernel lets missing pages read as zeroes. So the process that was
//! moved has one itself, high above its own, until it is whole: should the holder die, threads that fault wait for ever, and
//! `ulpm serve` ends the process with a message ([`super::adopt`]). A child that is born meanwhile cannot be given one: the holder
//! traces it with `PTRACE_O_EXITKILL`, so that the kernel kills it with the holder. Nothing else is done with it: each
//! stop is answered at once by what would have happened without a tracer.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use procfs::process::Process;

use crate::sys::ptrace::{self, EVENT_STOP, Options, WaitStatus};
use crate::sys::uffd;
use crate::sys::voice;
use crate::tracee::thread::tracer_of;
use crate::tracee::{Frozen, Remote, Site, TraceeError, ward};

/// How long a thread may take to stop.
const PATIENCE: Duration = Duration::from_secs(5);
/// From one look for events to the next, when hardly any can come.
const TURN: Duration = Duration::from_micros(500);

/// The children of a process that is not whole.
#[derive(Debug, Default)]
pub struct Guard {
    guarded: BTreeSet<i32>,
}

impl Guard {
    /// Guards what a process has given birth to, and their children.
    pub fn add_children(&mut self, pid: i32) {
        let mut all: Vec<i32> = self.guarded.iter().copied().chain([pid]).collect();
        while let Some(pid) = all.pop() {
            for child in children(pid) {
                if !self.guarded.contains(&child) && self.add(child) {
                    all.push(child);
                }
            }
        }
    }

    fn add(&mut self, pid: i32) -> bool {
        if let Err(error) = ptrace::seize(pid, Options::GUARDED) {
            if tracer_of(pid) != std::process::id() as i32 && !has_ended(pid) {
                tracing::warn!(pid, %error, "a child cannot be guarded: should the holder of its pages die, it would read zeroes");
            }
            return false;
        }
        self.guarded.insert(pid)
    }

    /// Answers all stops that there are.
    pub fn attend(&mut self) {
        for pid in self.guarded.iter().copied().collect::<Vec<_>>() {
            loop {
                match ptrace::wait(pid, false) {
                    Ok(Some(WaitStatus::Gone)) | Err(nix::errno::Errno::ECHILD) => {
                        self.guarded.remove(&pid);
                        break;
                    }
                    Ok(Some(status)) => answer(pid, status),
                    _ => break,
                }
            }
        }
    }

    /// The guarded processes.
    pub fn pids(&self) -> impl Iterator<Item = i32> {
        self.guarded.iter().copied()
    }

    /// Lets go of all of them: they are whole. The descriptors `inside`, which they were born with, are closed.
    pub fn release(&mut self, inside: &[i32], home: &Path) {
        for pid in std::mem::take(&mut self.guarded) {
            close_in_child(pid, inside, home);
            match Frozen::stop_one(pid, PATIENCE) {
                Ok(frozen) => frozen.thaw(),
                Err(_) if has_ended(pid) => {}
                Err(error) => tracing::warn!(pid, %error, "a child could not be let go"),
            }
        }
    }
}

/// Closes the descriptors in all that a process and its children gave birth to when nothing was registered any more, and nothing told
/// of it: they were born with them, as long as their parent had them.
pub fn close_in_family(pid: i32, inside: &[i32], home: &Path) {
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children(parent) {
            close_in_child(child, inside, home);
            parents.push(child);
        }
    }
}

fn close_in_child(pid: i32, inside: &[i32], home: &Path) {
    if let Err(error) = close_inside(pid, inside, home)
        && !has_ended(pid)
    {
        tracing::warn!(pid, %error, "two descriptors of ours stay in a child");
    }
}

/// Children end all the time, also in the middle of what we do with them.
fn has_ended(pid: i32) -> bool {
    !voice::lives(pid)
}

fn children(pid: i32) -> Vec<i32> {
    let tasks = Process::new(pid).and_then(|p| p.tasks());
    let children = tasks.into_iter().flatten().filter_map(|task| task.ok()?.children().ok());
    children.flatten().map(|child| child as i32).collect()
}

/// What would have happened without us.
fn answer(pid: i32, status: WaitStatus) {
    let _ = match status {
        WaitStatus::Signal(signal) => ptrace::cont(pid, signal),
        // a group stop: it stays stopped, and SIGCONT ends it
        WaitStatus::Event(EVENT_STOP, signal) if signal != libc::SIGTRAP => ptrace::listen(pid),
        _ => ptrace::cont(pid, 0),
    };
}

/// Does something while nobody waits for an event of these userfaultfds to be read: no area is registered any more, but changes
/// that began before may be told only now, and until then their threads cannot be stopped.
pub fn while_reading<T>(uffds: &[BorrowedFd<'_>], act: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let settled = || uffds.iter().all(|fd| uffd::is_settled(*fd));
            while !done.load(Ordering::Relaxed) || !settled() {
                for fd in uffds {
                    if uffd::events(*fd).is_err() {
                        // no address space any more: nobody waits
                        return;
                    }
                }
                std::thread::sleep(TURN);
            }
        });
        let result = act();
        done.store(true, Ordering::Relaxed);
        result
    })
}

/// Closes userfaultfds inside a process, with a stop of one thread that the program does not notice. What else has these numbers by
/// now is left alone.
pub fn close_inside(pid: i32, fds: &[i32], home: &Path) -> Result<(), TraceeError> {
    let voice = voice::of(pid);
    let is_ours = |fd: &&i32| {
        std::fs::read_link(format!("/proc/{voice}/fd/{fd}"))
            .is_ok_and(|to| to.to_string_lossy().contains("userfaultfd"))
    };
    let fds: Vec<i32> = fds.iter().filter(is_ours).copied().collect();
    if fds.is_empty() {
        return Ok(());
    }
    let mut memory = crate::state::waits::Memory::load(home, pid);
    let site = Site::of_running(pid)?;
    let frozen = Frozen::stop_one(pid, PATIENCE)?;
    let permitted = ward::permit(frozen.voice());
    let closed = permitted.and_then(|()| Remote::approach(frozen.voice(), &site)).and_then(|mut remote| {
        let continued = crate::state::waits::voice_continued(&frozen, remote.saved(), &memory);
        remote.shelter_on_stack(&continued, None)?;
        for fd in &fds {
            remote.single("close of a userfaultfd", libc::SYS_close, [*fd as u64, 0, 0, 0, 0, 0])?;
        }
        remote.finish()
    });
    memory.note(&frozen);
    frozen.thaw();
    memory.save(home, pid);
    closed
}
