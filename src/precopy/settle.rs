//! Migrations whose outcome a crash or a cut left open: the target's journal decides.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::MigrateError;
use super::ask::{Answer, ask_once, connect, target};
use super::control::Control;
use super::destination::Destination as _;
use super::hand_on::Left;
use super::held::{ran_on, since};
use super::lanes::Road;
use super::late::Late;
use super::left::{self, EndedCopy};
use super::link::Link;
use super::options::{MOVED, Progress};
use crate::convergence::policy::Limits;
use crate::handover::drawer::{self, InDrawer};
use crate::handover::journal::{Entry, Journal, Life};
use crate::handover::settle::reopened;
use crate::handover::{Driver, Hands, NotDone, Source, SourceAction, SourceEvent};
use crate::state::files::tcp_over::hang_up;
use crate::sys::process::{pidfd_open, pidfd_send_signal};
use crate::transport::protocol::ToTarget;

/// What became of one journal entry.
#[derive(Debug)]
pub(crate) struct Settled {
    /// The migration.
    pub id: String,
    /// The pid here; `None` if nobody knows it any more.
    pub pid: Option<i32>,
    /// What is known now, in words.
    pub outcome: Result<String, MigrateError>,
}

/// Settles every open migration of this host as a source, or the one with that id.
/// A process that is not whole at the target gets the rest of its memory first, which is told of by `tell`.
pub(crate) fn recover(
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
    if !journal.keep() {
        return Err(MigrateError::UnderWay);
    }
    let entry = journal.entry().clone();
    let mut recovery = Recovery::new(home, journal, tell);
    let state = recovery.run()?;
    Ok(match (recovery.answer, state) {
        (None, _) => format!("the commit was never sent: {}", here(&entry, "was left running here")),
        (_, Source::Resumed) if recovery.taken_away => {
            format!("nothing is left to settle: {}, and {} was taken away", end(&entry), entry.peer)
        }
        (_, Source::Resumed) => {
            let why = match drawer::directory(&entry.peer) {
                Some(dir) => format!("the checkpoint in {} was never whole", dir.display()),
                None => format!("{} never let it run", entry.peer),
            };
            format!("{why}: {}", here(&entry, "goes on here"))
        }
        _ => {
            let lost = recovery.lost + &recovery.beside;
            let place = match drawer::directory(&entry.peer) {
                Some(dir) => format!("it is kept in {}", dir.display()),
                None => format!("it runs at {}", entry.peer),
            };
            format!("{place}: the copy here (process {}) was ended{lost}", entry.pid)
        }
    })
}

/// Of a process that does not live any more.
fn end(entry: &Entry) -> String {
    match entry.life() {
        Life::Rebooted => here(entry, ""),
        Life::Lives | Life::Ended => format!("process {} has ended", entry.pid),
    }
}

fn here(entry: &Entry, what: &str) -> String {
    match entry.life() {
        Life::Lives => format!("process {} {what}", entry.pid),
        Life::Ended => format!("process {} {what}, and has ended since", entry.pid),
        Life::Rebooted => format!("process {} went down with this host, which was booted since", entry.pid),
    }
}

/// The user's word: the copy here is the one (`here`), or the target's. `None`: no such migration is open here.
pub(crate) fn force(home: &Path, id: &str, here: bool) -> Result<Option<String>, MigrateError> {
    let dir = home.join("journal");
    let Some(mut journal) = Journal::open(&dir, id, true).map_err(MigrateError::journal(&dir))? else {
        return Ok(None);
    };
    if !journal.keep() {
        return Err(MigrateError::UnderWay);
    }
    let entry = journal.entry().clone();
    if reopened(entry.phase) != Source::Open && !here {
        return Err(MigrateError::NeverSent);
    }
    let mut recovery = Recovery::new(home, journal, &|_| {});
    recovery.word = Some(here);
    recovery.run()?;
    let (pid, peer, lost) = (entry.pid, entry.peer, recovery.lost + &recovery.beside);
    Ok(Some(match (drawer::directory(&peer), here) {
        (Some(dir), true) => format!(
            "process {pid} goes on here; what may be in {} is a copy of what it was when it was stopped",
            dir.display()
        ),
        (Some(dir), false) => {
            format!("process {pid} was ended here; {} is believed to hold it{lost}", dir.display())
        }
        (None, true) => format!("process {pid} goes on here; if it runs at {peer} as well, end it there"),
        (None, false) => format!("process {pid} was ended here; {peer} is believed to have it{lost}"),
    }))
}

/// The hands of the machine for a copy that its session has left stopped, and that nobody traces.
struct Recovery<'a> {
    home: &'a Path,
    journal: Journal,
    tell: &'a dyn Fn(Progress<'_>),
    /// The user's word: whether the copy here is the one.
    word: Option<bool>,
    /// What the target has said.
    answer: Option<Answer>,
    /// The conversation in which it has.
    to: Option<Link>,
    /// The copy that was ended, and its signals.
    ended: Option<EndedCopy<'a>>,
    /// Which signals are lost, in words.
    lost: String,
    /// That the copy which was ended had been let go on by somebody, in words.
    beside: String,
    /// The checkpoint is not there any more, nor the process.
    taken_away: bool,
    /// Why it stays open.
    error: Option<MigrateError>,
}

impl<'a> Recovery<'a> {
    fn new(home: &'a Path, journal: Journal, tell: &'a dyn Fn(Progress<'_>)) -> Self {
        Recovery {
            home,
            journal,
            tell,
            word: None,
            answer: None,
            to: None,
            ended: None,
            lost: String::new(),
            beside: String::new(),
            taken_away: false,
            error: None,
        }
    }

    /// From what is written to what can be known.
    fn run(&mut self) -> Result<Source, MigrateError> {
        let mut driver = Driver::new(reopened(self.journal.entry().phase));
        driver.on(SourceEvent::Recovered, self);
        if let Some(link) = self.to.take() {
            link.close("settled");
        }
        self.error.take().map_or(Ok(driver.state()), Err)
    }

    fn ask(&mut self) -> Result<SourceEvent, MigrateError> {
        let entry = self.journal.entry().clone();
        let answer = self.answer_of(&entry);
        self.answer = answer.as_ref().ok().copied();
        let Some(here) = self.word else {
            let answer = answer?;
            if answer == Answer::Down {
                self.error = Some(MigrateError::Down { id: entry.id });
            }
            return Ok(answer.event());
        };
        match answer {
            // there are two, and which one counts cannot be known
            Ok(Answer::Running(_)) if here && drawer::directory(&entry.peer).is_some() && ran_on(&entry) => {
                Ok(SourceEvent::ForcedHere)
            }
            // what can be known is not for the user to decide
            Ok(Answer::Running(_)) if here => Err(MigrateError::Known { peer: entry.peer, runs: true }),
            Ok(Answer::Never) if !here => Err(MigrateError::Known { peer: entry.peer, runs: false }),
            Ok(answer @ (Answer::Running(_) | Answer::Never)) => Ok(answer.event()),
            _ if here => Ok(SourceEvent::ForcedHere),
            _ => Ok(SourceEvent::ForcedThere),
        }
    }

    fn answer_of(&mut self, entry: &Entry) -> Result<Answer, MigrateError> {
        if let Some(dir) = drawer::directory(&entry.peer) {
            return self.answer_of_drawer(entry, dir);
        }
        let link = connect(self.home, &target(entry)?)?;
        ask_once(self.to.insert(link), &entry.id)
    }

    fn answer_of_drawer(&mut self, entry: &Entry, dir: &Path) -> Result<Answer, MigrateError> {
        let failed = |source| MigrateError::Here { step: "looking for the checkpoint", source };
        let (id, name) = (entry.id.clone(), dir.display().to_string());
        match drawer::outcome(dir, &id).map_err(failed)? {
            InDrawer::Whole if self.word.is_none() && ran_on(entry) => Err(MigrateError::Both {
                pid: entry.pid,
                id,
                dir: name,
                since: since(&self.journal).to_string(),
            }),
            InDrawer::Whole => Ok(Answer::Running(entry.pid)),
            InDrawer::Never => Ok(Answer::Never),
            InDrawer::Gone if entry.process_lives() => Err(MigrateError::TakenAway { id, dir: name }),
            InDrawer::Gone => {
                self.taken_away = true;
                Ok(Answer::Never)
            }
        }
    }

    /// Ends the copy. One that somebody has let go on has been there beside the other one: that is said.
    fn kill(&mut self) -> Result<(), MigrateError> {
        if ran_on(self.journal.entry()) {
            self.beside = format!(
                "; somebody had let it go on after {}, so that there were two: what it did since then is not undone",
                since(&self.journal)
            );
        }
        self.ended = Some(left::end(self.home, self.journal.entry())?);
        Ok(())
    }

    fn follow(&mut self) -> Result<SourceEvent, MigrateError> {
        match follow(self.home, self.journal.entry(), self.tell) {
            Ok(()) => Ok(SourceEvent::Whole),
            // it was ended there, and what is left of the copy here is of no use: nothing is open
            Err(lost @ MigrateError::CopyLost(_)) => {
                self.error = Some(lost);
                Ok(SourceEvent::CopyLost)
            }
            Err(error) => Err(error),
        }
    }

    fn resume(&self) -> Result<(), MigrateError> {
        let entry = self.journal.entry();
        let stops = Left::read(&self.home.join("journal"), &entry.id).and_then(|left| left.accounts);
        signal(entry, libc::SIGCONT)?;
        left::put_back(entry, &stops.map(|accounts| accounts.stops()).unwrap_or_default());
        Ok(())
    }

    fn try_to(&mut self, action: SourceAction) -> Result<Option<SourceEvent>, MigrateError> {
        use SourceAction as A;
        match action {
            A::Ask => return self.ask().map(Some),
            A::Follow => return self.follow().map(Some),
            A::Kill => self.kill()?,
            A::HandOnLast => {
                if let Some(ended) = self.ended.take() {
                    self.lost = ended.hand_on(self.to.as_mut());
                }
            }
            A::Resume => self.resume()?,
            A::JournalClosed => {
                self.journal.remove().map_err(MigrateError::journal(&self.home.join("journal")))?
            }
            A::SendGoodbye => {
                if let Some(to) = &mut self.to {
                    to.say(&ToTarget::Goodbye)?;
                }
            }
            // its own `SIGSTOP` holds it, and its queues are looked at when it ends
            A::Disable | A::HandOn | A::LeaveStopped => {}
            // of a session that has it frozen
            A::JournalOpen
            | A::Tidy
            | A::TakeSignals
            | A::Hold
            | A::SendCommit
            | A::NoteSignals
            | A::SendAbort => return Err(MigrateError::NeverSent),
        }
        Ok(None)
    }
}

impl Hands<Source> for Recovery<'_> {
    fn id(&self) -> &str {
        &self.journal.entry().id
    }

    fn carry_out(&mut self, action: SourceAction) -> Result<Option<SourceEvent>, NotDone> {
        self.try_to(action).map_err(|error| {
            match action {
                SourceAction::SendGoodbye => tracing::debug!(%error, "the target keeps its entry"),
                _ => self.error = Some(self.error.take().unwrap_or(error)),
            }
            NotDone
        })
    }
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
