//! The stopped copy that a move has left, when `ulpm recover` ends it or lets it go on.
//!
//! What has been signalled to it is handed on as the move itself would have ([`super::hand_on`]): of what its queues hold when it
//! is killed, that which the file beside the journal's entry does not account for. Without that file (the worker was killed in the
//! instant after `Commit`) nobody knows which of them have gone already: they are named.

use std::os::fd::AsFd as _;
use std::path::Path;
use std::time::Duration;

use super::MigrateError;
use super::ask::{connect, target};
use super::hand_on::{Left, Signals};
use super::link::Link;
use crate::handover::journal::Entry;
use crate::image::process::LateSignal;
use crate::preload::late_signals::{LastLook, LateSignals};
use crate::state::robust;
use crate::state::signals::{number, sendable, told};
use crate::sys::chain;
use crate::sys::process::{ends_within, pidfd_open, pidfd_queue_signal, pidfd_send_signal, queue_to_thread};
use crate::sys::ptrace::Options;
use crate::sys::status::Status;
use crate::tracee::ending;
use crate::tracee::freeze::tids;
use crate::tracee::thread::Thread;

/// How long a copy that was killed is waited for.
const DYING: Duration = Duration::from_secs(10);

/// A copy that was ended, and what it had been signalled.
pub(super) struct EndedCopy<'h> {
    home: &'h Path,
    entry: Entry,
    signals: Signals,
    /// Nobody knows whether these have been handed on.
    unknown: Vec<i32>,
}

/// Ends the copy.
pub(super) fn end<'h>(home: &'h Path, entry: &Entry) -> Result<EndedCopy<'h>, MigrateError> {
    let mut left = Left::read(&home.join("journal"), &entry.id);
    let late = left.as_mut().and_then(|left| left.accounts.take()).map(LateSignals::resume);
    let mut signals = Signals::resume(home, &entry.id, left);
    let mut unknown = Vec::new();
    if let Ok(pidfd) = pidfd_open(entry.pid)
        && entry.process_lives()
    {
        if late.is_none() {
            unknown = pending(entry.pid);
        }
        let (mut threads, mut seen) = (tids(entry.pid).unwrap_or_default(), LastLook::default());
        threads.sort_by_key(|tid| *tid != entry.pid);
        // one that cannot be traced takes what is queued to it with it
        let seized = |thread: &Thread| thread.seize(entry.pid, Options::ENDING).is_ok();
        let threads: Vec<Thread> = threads.into_iter().map(Thread).filter(seized).collect();
        robust::disarm(entry.pid);
        let look = || seen = late.as_ref().map(LateSignals::last_look).unwrap_or_default();
        let failed = |e: nix::errno::Errno| MigrateError::Here { step: "ending the copy", source: e.into() };
        ending::end(&threads, false, || pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL), look)
            .map_err(failed)?;
        if !ends_within(pidfd.as_fd(), DYING) {
            tracing::warn!(
                pid = entry.pid,
                "the copy here was killed, and is not gone after {} s: it never runs again, but something in the kernel holds it",
                DYING.as_secs()
            );
        }
        signals.add(late.map(|late| late.last(seen)).unwrap_or_default());
    }
    Ok(EndedCopy { home, entry: entry.clone(), signals, unknown })
}

impl EndedCopy<'_> {
    /// Hands on what the copy was signalled, by `to` or by a connection of its own. Which signals are lost, in words, to be added to
    /// what else is said.
    pub(super) fn hand_on(self, to: Option<&mut Link>) -> String {
        let EndedCopy { home, entry, mut signals, unknown: mut lost } = self;
        if let (Some(to), false) = (to, signals.waiting().is_empty()) {
            signals.send(Some(to), Vec::new(), None);
        }
        if !signals.waiting().is_empty() {
            match target(&entry).and_then(|to| connect(home, &to)) {
                Ok(mut link) => {
                    signals.send(Some(&mut link), Vec::new(), None);
                    link.close("handed on");
                }
                Err(error) => tracing::info!(error = %chain(&error), "signals cannot be handed on"),
            }
        }
        lost.extend(signals.waiting().iter().map(|signal| number(&signal.info)));
        if lost.is_empty() {
            return String::new();
        }
        let names: Vec<String> = lost.into_iter().map(told).collect();
        format!("; signals that it was sent meanwhile are lost: {}", names.join(", "))
    }
}

/// Signals that are pending to the process or one of its threads, but our stop.
fn pending(pid: i32) -> Vec<i32> {
    let of = |tid: i32| Status::of(tid).map_or(0, |status| status.sigpnd | status.shdpnd);
    let all = tids(pid).unwrap_or_default().into_iter().map(of).fold(0, |all, set| all | set);
    let ours = |signal: &i32| matches!(*signal, libc::SIGSTOP | libc::SIGKILL);
    (1..=64).filter(|signal: &i32| all >> (signal - 1) & 1 != 0 && !ours(signal)).collect()
}

/// Queues again what the `SIGCONT` that let it go on has taken out of its queues.
pub(super) fn put_back(entry: &Entry, stops: &[LateSignal]) {
    let Ok(pidfd) = pidfd_open(entry.pid) else { return };
    for signal in stops.iter().filter(|_| entry.process_lives()) {
        let Some(info) = signal.info.first_chunk::<128>().map(sendable) else { continue };
        let put = match signal.tid {
            0 => pidfd_queue_signal(pidfd.as_fd(), &info),
            tid => queue_to_thread(entry.pid, tid, &info),
        };
        if let Err(error) = put {
            tracing::warn!(pid = entry.pid, signal = told(number(&info)), %error, "a signal to the process is lost");
        }
    }
}
