//! Migrations whose outcome a crash or a cut left open: the target's journal decides.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MigrateError;
use super::control::Control;
use super::lanes::Road;
use super::late::Late;
use super::link::{Cancel, Link, out_of_turn};
use super::policy::Limits;
use super::session::{MOVED, Options, Progress};
use crate::handover::journal::{Entry, Journal, Phase};
use crate::handover::{Source, SourceAction, SourceEvent};
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::transport::protocol::{ToSource, ToTarget};

/// Tries before the outcome is left open.
const TRIES: u32 = 3;

/// How a migration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The process runs there.
    Runs(i32),
    /// It does, and still needs memory of the copy here.
    RunsLazily(i32),
    /// It never will.
    Never,
}

/// Asks the target how a migration ended, a few times.
pub fn ask(options: &Options, id: &str) -> Result<Answer, MigrateError> {
    let mut last = None;
    for _ in 0..TRIES {
        match ask_once(&options.home, &options.to, id) {
            Ok(answer) => return Ok(answer),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or(MigrateError::Cancelled))
}

/// As [`ask`], once.
pub fn ask_once(home: &Path, to: &str, id: &str) -> Result<Answer, MigrateError> {
    let mut link = Link::open(home, to, &Cancel::default(), Duration::from_secs(5))?;
    link.say(&ToTarget::Settle(id.to_owned()))?;
    let answer = match link.hear("asking for the outcome")? {
        ToSource::Settled(Some(pid)) => Answer::Runs(pid),
        ToSource::Settled(None) => Answer::Never,
        ToSource::SettledLazy(pid) => Answer::RunsLazily(pid),
        other => return Err(out_of_turn(&other)),
    };
    link.close("settled");
    Ok(answer)
}

/// What became of one journal entry.
#[derive(Debug)]
pub struct Settled {
    /// The migration.
    pub id: String,
    /// The pid here; `None` if nobody knows it any more.
    pub pid: Option<i32>,
    /// What is known now, in words.
    pub outcome: Result<String, MigrateError>,
}

/// Settles every open migration of this host as a source, or the one with that id.
/// A process that is not whole at the target gets the rest of its memory first, which is told of by `tell`.
pub fn recover(
    home: &Path,
    only: Option<&str>,
    tell: &dyn Fn(Progress<'_>),
) -> Result<Vec<Settled>, MigrateError> {
    let dir = home.join("journal");
    if !dir.exists() {
        return Ok(Vec::new());
    }
    let list = Journal::list(&dir).map_err(MigrateError::journal(&dir))?;
    Ok(list.into_iter().filter_map(|found| one(home, only, found, tell)).collect())
}

fn one(
    home: &Path,
    only: Option<&str>,
    found: Result<Journal, (PathBuf, io::Error)>,
    tell: &dyn Fn(Progress<'_>),
) -> Option<Settled> {
    let wanted = |id: &str| only.is_none_or(|only| only == id);
    match found {
        Ok(journal) => {
            let (id, pid) = (journal.entry().id.clone(), journal.entry().pid);
            let outcome = (journal.entry().source && wanted(&id)).then(|| settle(home, journal, tell))?;
            Some(Settled { id, pid: Some(pid), outcome })
        }
        Err((path, source)) => {
            let name = path.file_name()?.to_string_lossy().into_owned();
            let id = name.strip_suffix(".source.journal").filter(|id| wanted(id))?.to_owned();
            Some(Settled { id, pid: None, outcome: Err(MigrateError::Damaged { path, source }) })
        }
    }
}

fn settle(home: &Path, mut journal: Journal, tell: &dyn Fn(Progress<'_>)) -> Result<String, MigrateError> {
    let dir = home.join("journal");
    let entry = journal.entry().clone();
    if !journal.keep() {
        return Err(MigrateError::UnderWay);
    }
    if entry.phase != Phase::Committed {
        // the commit was never sent: the process runs here, or has ended since
        journal.close().map_err(MigrateError::journal(&dir))?;
        return Ok(format!("the commit was never sent: process {} was left running here", entry.pid));
    }
    let event = match ask_once(home, &entry.peer, &entry.id)? {
        Answer::Runs(_) => SourceEvent::Running,
        Answer::RunsLazily(_) => {
            follow(home, &entry, tell)?;
            SourceEvent::Running
        }
        Answer::Never => SourceEvent::Never,
    };
    let mut state = Source::Open;
    for action in state.on(event) {
        match action {
            SourceAction::Kill => signal(&entry, libc::SIGKILL)?,
            SourceAction::Resume => signal(&entry, libc::SIGCONT)?,
            _ => {}
        }
    }
    journal.close().map_err(MigrateError::journal(&dir))?;
    Ok(match event {
        SourceEvent::Running => {
            format!("it runs at {}: the copy here (process {}) was ended", entry.peer, entry.pid)
        }
        _ => format!("{} never let it run: process {} goes on here", entry.peer, entry.pid),
    })
}

/// Serves the memory of the copy here until the process there is whole. The process is held by its `SIGSTOP`; no tracer is
/// needed.
fn follow(home: &Path, entry: &Entry, tell: &dyn Fn(Progress<'_>)) -> Result<(), MigrateError> {
    let road = Road {
        home: home.to_owned(),
        to: entry.peer.clone(),
        id: entry.id.clone(),
        limit: Duration::from_secs(5),
    };
    let mut late = Late::resume(road, entry.pid, entry.start_time)?;
    let control = Control::new(Limits::default());
    control.note(|status| {
        status.id.clone_from(&entry.id);
        status.pid = entry.pid;
    });
    // without a tracer nothing can be freed
    let arrived = late.until_whole(None, &control, tell, &mut |_| {})?;
    tracing::info!(stats = ?late.stats(&arrived), "the rest of its memory has followed");
    late.close(MOVED);
    Ok(())
}

/// Signals the process of the entry, if it is still that one.
fn signal(entry: &Entry, signal: i32) -> Result<(), MigrateError> {
    let Ok(pidfd) = pidfd_open(entry.pid) else { return Ok(()) };
    if !entry.process_lives() {
        return Ok(());
    }
    pidfd_send_signal(pidfd.as_fd(), signal)
        .map_err(|e| MigrateError::Here { step: "signalling the process", source: e.into() })
}
