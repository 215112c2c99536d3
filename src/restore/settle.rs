//! How migrations ended here: asked by their sources, and settled by `ulpm serve` when it starts.
//!
//! What follows from what is decided in [`crate::handover::settle`]; here it is read and written.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::RestoreError;
use crate::handover::journal::{Entry, Journal, Life, Phase};
use crate::handover::settle::{Answer, OnStart, answer, on_start};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::tracee::thread::tracer_of;

/// How long a session that is at work may take to come to its end before the source is told to ask again.
const SESSION: Duration = Duration::from_secs(3);
/// A process that was killed with its tracer may look alive for a moment.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// The answer to a source that asks, written down before it is given; the pid that the entry names.
pub fn settle(dir: &Path, id: &str) -> Result<(Answer, i32), RestoreError> {
    let deadline = Instant::now() + SESSION;
    loop {
        match look(dir, id).map_err(RestoreError::io("reading the journal"))? {
            (Answer::Later, _) if Instant::now() < deadline => std::thread::sleep(LOOK_AGAIN),
            answer => return Ok(answer),
        }
    }
}

fn look(dir: &Path, id: &str) -> io::Result<(Answer, i32)> {
    let Some(mut journal) = Journal::open(dir, id, false)? else {
        let (answer, write) = answer(None, false);
        let mut journal = Journal::begin(dir, Entry::new(id, false, 0, ""))?;
        write.map_or(Ok(()), |phase| journal.set(phase))?;
        return Ok((answer, 0));
    };
    let at_work = !journal.keep() || tracer_of(journal.entry().pid) != 0;
    let entry = journal.entry();
    let (phase, pid, life) = (entry.phase, entry.pid, settled_life(entry));
    let (answer, write) = answer(Some((phase, life)), at_work);
    if let Some(phase) = write {
        journal.set(phase)?;
    }
    Ok((answer, pid))
}

fn settled_life(entry: &Entry) -> Life {
    if entry.life() == Life::Lives && entry.phase != Phase::Released {
        std::thread::sleep(LOOK_AGAIN);
    }
    entry.life()
}

/// An entry of this host as a target.
#[derive(Debug)]
pub struct Own {
    /// The migration; the file's name where it cannot be read.
    pub id: String,
    /// What is known, and what to do, in words.
    pub text: String,
    /// Whether there is something to do.
    pub open: bool,
}

/// Settles what nobody is at work on, and says of each entry how it stands.
pub fn own_side(dir: &Path, only: Option<&str>) -> io::Result<Vec<Own>> {
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let all = Journal::list(dir)?.into_iter().filter_map(|found| match found {
        Ok(journal) if journal.entry().source => None,
        Ok(journal) if only.is_some_and(|id| id != journal.entry().id) => None,
        Ok(journal) => Some(one(journal)),
        Err((path, error)) => damaged(&path, only, &error),
    });
    Ok(all.collect())
}

fn damaged(path: &Path, only: Option<&str>, error: &io::Error) -> Option<Own> {
    let id = path.file_name()?.to_str()?.strip_suffix(".target.journal")?.to_owned();
    let wanted = only.is_none_or(|only| only == id);
    let text = format!(
        "its record cannot be read ({error}); see whether the process runs here, then remove {}",
        path.display()
    );
    wanted.then_some(Own { id, text, open: true })
}

fn one(mut journal: Journal) -> Own {
    let entry = journal.entry().clone();
    let own = |text: String, open| Own { id: entry.id.clone(), text, open };
    if !journal.keep() || tracer_of(entry.pid) != 0 {
        return own(format!("`ulpm serve` is at work on it for {}", entry.peer), false);
    }
    let life = settled_life(&entry);
    let done = match on_start(entry.phase, life) {
        OnStart::Keep => Ok(()),
        OnStart::Write(phase) => journal.set(phase),
        OnStart::Remove => journal.remove(),
    };
    if let Err(e) = done {
        return own(format!("its record cannot be written: {e}"), true);
    }
    let (pid, peer, id) = (entry.pid, &entry.peer, &entry.id);
    let text = match (entry.phase, life) {
        (Phase::Begun | Phase::Refused, _) => {
            format!("it never ran here, nor will; the process is at {peer}")
        }
        (Phase::Committed, Life::Ended | Life::Rebooted) => {
            format!(
                "it ended with `ulpm serve` before it ran here: the copy at {peer} goes on when that host asks"
            )
        }
        (_, Life::Lives) => {
            format!(
                "process {pid} runs here; {peer} has not said yet that its copy is gone: nothing to do here"
            )
        }
        (Phase::Released, Life::Ended) => {
            format!("process {pid} ran here to its end; {peer} may still ask: nothing to do here")
        }
        (Phase::Releasing | Phase::Released, Life::Ended | Life::Rebooted) => format!(
            "process {pid} ran here and is no more{}: if {peer} still has its copy, `ulpm recover` there says so, and \
             `ulpm recover --force-source {id}` lets that go on",
            if life == Life::Rebooted { " since this host was booted" } else { "" }
        ),
    };
    own(text, false)
}

/// The user's word about an entry of this host as a target: the copy here is ended, or is the one.
pub fn force(dir: &Path, id: &str, here: bool) -> io::Result<Option<String>> {
    let Some(mut journal) = Journal::open(dir, id, false)? else { return Ok(None) };
    let entry = journal.entry().clone();
    if !journal.keep() || tracer_of(entry.pid) != 0 {
        return Err(io::Error::other("`ulpm serve` is at work on it"));
    }
    if here {
        if entry.phase == Phase::Begun || !entry.process_lives() {
            return Err(io::Error::other("there is no process of it on this host"));
        }
        journal.overrule(Phase::Released)?;
        return Ok(Some(format!(
            "process {} is the one; the copy at {} ends when that host asks",
            entry.pid, entry.peer
        )));
    }
    if entry.process_lives()
        && let Ok(pidfd) = pidfd_open(entry.pid)
        && entry.process_lives()
    {
        pidfd_send_signal(pidfd.as_fd(), libc::SIGKILL)?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while entry.process_lives() && Instant::now() < deadline {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    journal.overrule(Phase::Refused)?;
    Ok(Some(format!(
        "process {} was ended here; the copy at {} goes on when that host asks",
        entry.pid, entry.peer
    )))
}

/// Where the entries of a host are.
pub fn directory(home: &Path) -> PathBuf {
    home.join("journal")
}
