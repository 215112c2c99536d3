//! Migrations whose outcome a crash or a cut left open: the target's journal decides.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MigrateError;
use super::ask::{Answer, ask_once, connect, target};
use super::control::Control;
use super::hand_on::Left;
use super::lanes::Road;
use super::late::Late;
use super::left;
use super::options::{MOVED, Progress};
use crate::convergence::policy::Limits;
use crate::handover::journal::{Entry, Journal, Life};
use crate::handover::settle::reopened;
use crate::handover::{Source, SourceAction, SourceEvent};
use crate::state::files::tcp_over::hang_up;
use crate::sys::process::{pidfd_open, pidfd_send_signal};

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
    let entry = journal.entry().clone();
    if !journal.keep() {
        return Err(MigrateError::UnderWay);
    }
    let (mut state, actions) = reopened(entry.phase);
    let asked = actions.contains(&SourceAction::Ask);
    if !asked {
        carry_out(home, actions, &journal)?;
        return Ok(format!("the commit was never sent: {}", here(&entry, "was left running here")));
    }
    let answer = asked_by(home, &entry)?;
    let followed = match answer {
        Answer::RunsLazily(_) => follow(home, &entry, tell),
        _ => Ok(()),
    };
    // it was ended there, and what is left of the copy here is of no use: nothing is open
    if !matches!(followed, Ok(()) | Err(MigrateError::CopyLost(_))) {
        return followed.map(|()| String::new());
    }
    let lost = carry_out(home, state.on(answer.event()), &journal)?;
    followed?;
    match answer {
        Answer::Running(_) | Answer::RunsLazily(_) => {
            Ok(format!("it runs at {}: the copy here (process {}) was ended{lost}", entry.peer, entry.pid))
        }
        Answer::Never => Ok(format!("{} never let it run: {}", entry.peer, here(&entry, "goes on here"))),
        Answer::Down => Err(MigrateError::Down { id: entry.id }),
    }
}

fn asked_by(home: &Path, entry: &Entry) -> Result<Answer, MigrateError> {
    let mut link = connect(home, &target(entry)?)?;
    let answer = ask_once(&mut link, &entry.id);
    link.close("asked");
    answer
}

fn here(entry: &Entry, what: &str) -> String {
    match entry.life() {
        Life::Lives => format!("process {} {what}", entry.pid),
        Life::Ended => format!("process {} {what}, and has ended since", entry.pid),
        Life::Rebooted => format!("process {} went down with this host, which was booted since", entry.pid),
    }
}

/// Which signals are lost by it, in words.
fn carry_out(home: &Path, actions: &[SourceAction], journal: &Journal) -> Result<String, MigrateError> {
    let (dir, entry) = (home.join("journal"), journal.entry());
    let mut lost = String::new();
    for action in actions {
        match action {
            SourceAction::Kill => lost = left::end(home, entry)?,
            SourceAction::Resume => {
                let stops = Left::read(&dir, &entry.id).and_then(|left| left.accounts);
                signal(entry, libc::SIGCONT)?;
                left::put_back(entry, &stops.map(|accounts| accounts.stops()).unwrap_or_default());
            }
            SourceAction::JournalClosed => journal.remove().map_err(MigrateError::journal(&dir))?,
            _ => {}
        }
    }
    Ok(lost)
}

/// The user's word: the copy here is the one (`here`), or the target's. `None`: no such migration is open here.
pub fn force(home: &Path, id: &str, here: bool) -> Result<Option<String>, MigrateError> {
    let dir = home.join("journal");
    let Some(mut journal) = Journal::open(&dir, id, true).map_err(MigrateError::journal(&dir))? else {
        return Ok(None);
    };
    let entry = journal.entry().clone();
    if !journal.keep() {
        return Err(MigrateError::UnderWay);
    }
    let (mut state, _) = reopened(entry.phase);
    let lost;
    // what can be known is not for the user to decide
    let event = match asked_by(home, &entry) {
        Ok(answer @ (Answer::Running(_) | Answer::Never)) if state == Source::Open => {
            let here_is_right = answer == Answer::Never;
            if here != here_is_right {
                return Err(MigrateError::Known { peer: entry.peer, runs: !here_is_right });
            }
            answer.event()
        }
        _ if here => SourceEvent::ForcedHere,
        _ => SourceEvent::ForcedThere,
    };
    if state == Source::Open {
        lost = carry_out(home, state.on(event), &journal)?;
    } else if here {
        lost = carry_out(home, &[SourceAction::JournalClosed], &journal)?;
    } else {
        return Err(MigrateError::NeverSent);
    }
    let (pid, peer) = (entry.pid, entry.peer);
    Ok(Some(if here {
        format!("process {pid} goes on here; if it runs at {peer} as well, end it there")
    } else {
        format!("process {pid} was ended here; {peer} is believed to have it{lost}")
    }))
}

/// Serves the memory of the copy here until the process there is whole. The process is held by its `SIGSTOP`; no tracer is
/// needed.
fn follow(home: &Path, entry: &Entry, tell: &dyn Fn(Progress<'_>)) -> Result<(), MigrateError> {
    let road = Road {
        home: home.to_owned(),
        to: target(entry)?,
        id: entry.id.clone(),
        limit: Duration::from_secs(5),
    };
    if entry.process_lives() {
        hang_up(entry.pid);
    }
    let mut late = Late::resume(road, entry.pid, entry.start_time)?;
    let control = Control::new(Limits::default());
    control.note(|status| {
        status.id.clone_from(&entry.id);
        status.pid = entry.pid;
    });
    // without a tracer nothing can be freed, and nobody sees what it is signalled
    let arrived = late.until_whole(None, &control, tell, &mut ())?;
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
