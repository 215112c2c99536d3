//! One migration at the source, step by step. Runs on an OS thread of its own, which owns the tracees.

use std::path::Path;
use std::time::{Duration, Instant};

use super::MigrateError;
use super::ahead::Ahead;
use super::control::{self, Control};
use super::destination::{Destination, out_of_turn};
use super::direct;
use super::error::whereabouts;
use super::executor::Executor;
use super::foresight;
use super::freeze;
use super::held;
use super::lanes::Road;
use super::late::Late;
use super::link::{Link, hashes};
use super::options::{MOVED, Options, Progress};
use super::whole;
use crate::dirty::Choice;
use crate::fault::Point;
use crate::handover::Source;
use crate::handover::journal::{Entry, Journal, try_writing};
use crate::image::{FIRST, Note, Obstacle, TreeImage};
use crate::preload::agent::Agent;
use crate::preload::claim::{self, Claim};
use crate::preload::describe::{Described, describe};
use crate::preload::parent;
use crate::preload::standing;
use crate::report::{MigrationReport, Outcome, PidMode};
use crate::state::files::FilesOptions;
use crate::state::program;
use crate::sys::own_session::OwnSession;
use crate::sys::stat::dying;
use crate::sys::time::{ClockOffsets, Ticker};
use crate::sys::voice;
use crate::transport::RemoteAddr;
use crate::transport::protocol::{Description, ToSource, ToTarget};

/// A migration under way.
pub struct Migration<'a> {
    options: &'a Options,
    control: &'a Control,
    tell: &'a dyn Fn(Progress<'_>),
    report: MigrationReport,
    executor: Executor<'a>,
}

impl std::fmt::Debug for Migration<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Migration")
            .field("options", self.options)
            .field("executor", &self.executor)
            .finish_non_exhaustive()
    }
}

impl<'a> Migration<'a> {
    /// A migration that has not begun.
    pub fn new(options: &'a Options, control: &'a Control, tell: &'a dyn Fn(Progress<'_>)) -> Self {
        let report = MigrationReport {
            id: new_id(),
            pid: options.pid,
            target: options.to.as_ref().map(ToString::to_string).unwrap_or_default(),
            outcome: Outcome::Failed,
            processes: 1,
            ..MigrationReport::default()
        };
        control.note(|status| {
            status.id.clone_from(&report.id);
            status.pid = report.pid;
        });
        Migration { options, control, tell, report, executor: Executor::new(options, control, tell) }
    }

    /// Carries it out. The report says how it ended; the error why it did not end well.
    pub(crate) fn run(self) -> (MigrationReport, Option<MigrateError>) {
        self.reported(Self::carry_out)
    }

    /// The same with a destination that needs no connection.
    pub fn run_to(self, to: &mut dyn Destination) -> (MigrationReport, Option<MigrateError>) {
        self.reported(|migration| {
            migration.executor.claim = Claim::take(migration.options.pid);
            let mut described = migration.look()?;
            migration.ask(to, &mut described, false)?;
            migration.converse(to, &described.tree)
        })
    }

    fn reported(
        mut self,
        carry_out: impl FnOnce(&mut Self) -> Result<(), MigrateError>,
    ) -> (MigrationReport, Option<MigrateError>) {
        let error = match Ticker::start(Duration::from_millis(100)) {
            Ok(_ticker) => carry_out(&mut self).err(),
            Err(e) => Some(MigrateError::Here { step: "starting a timer", source: e }),
        };
        let pid = self.options.pid;
        let error = error.map(|e| {
            if has_ended(&e, pid) { e.of_ended(self.executor.state(), pid) } else { e.of_stopped(pid) }
        });
        if let Some(e) = &error {
            let touched = self.report.outcome != Outcome::Failed;
            self.report.outcome = outcome(e, self.report.outcome);
            if let MigrateError::Refused(obstacles) = e {
                self.report.obstacles.clone_from(obstacles);
            }
            let now = whereabouts(e, self.executor.state(), touched, pid).map(|now| format!("; {now}"));
            self.report.error = Some(crate::sys::chain(e) + &now.unwrap_or_default());
        }
        (self.report, error)
    }

    /// Preflight only: `ulpm check --pid N --to HOST`. The notes are those of both sides, whatever stands in the way.
    pub(crate) fn check(options: &Options, control: &Control) -> (Vec<Note>, Result<(), MigrateError>) {
        let quiet = |_: Progress<'_>| {};
        let mut migration = Migration::new(options, control, &quiet);
        let clear = migration.preflight(true).and_then(|(mut link, _)| {
            link.say(&ToTarget::Abort("only checked".to_owned()))?;
            link.close("checked");
            Ok(())
        });
        (migration.report.notes, clear)
    }

    fn carry_out(&mut self) -> Result<(), MigrateError> {
        self.executor.claim = Claim::take(self.options.pid);
        let (mut link, described) = self.preflight(false)?;
        let done = self.converse(&mut link, &described);
        link.close(&done.as_ref().map_or_else(ToString::to_string, |()| MOVED.to_owned()));
        done
    }

    /// Everything from the first clock to the last word.
    fn converse(&mut self, to: &mut dyn Destination, described: &TreeImage) -> Result<(), MigrateError> {
        let mut done = self.move_it(to, described);
        // what is still to be said to the target, for long on a slow link, is no matter of the process's: whoever hears of the end may
        // move it anew at once
        self.executor.claim = None;
        if self.executor.state() == Source::Moving
            && let Err(e) = done
        {
            done = self.executor.give_up(e, to, &mut self.report);
        }
        // one that something went wrong with after the commit stays stopped
        drop(self.executor.captive.take());
        done
    }

    /// Everything that can be known before anything is stopped.
    fn preflight(&mut self, only_asks: bool) -> Result<(Link, TreeImage), MigrateError> {
        let mut described = self.look()?;
        (self.tell)(Progress::Step("connecting"));
        let to = self.options.host()?;
        let opened = Link::open(&self.options.home, to, self.control.cancel(), self.options.connect_limit);
        let mut link = match opened {
            // what was found here stands, whether or not the target can be asked
            Err(e) if !described.obstacles.is_empty() && !matches!(e, MigrateError::Cancelled) => {
                described.obstacles.push(unasked(to, &e));
                return Err(MigrateError::Refused(described.obstacles));
            }
            opened => opened?,
        };
        self.report.target = link.remote();
        match self.ask(&mut link, &mut described, only_asks) {
            Ok(()) => Ok((link, described.tree)),
            Err(e) => {
                if matches!(e, MigrateError::Refused(_)) {
                    link.close("refused");
                }
                Err(e)
            }
        }
    }

    /// The process, and what stands in the way on this side.
    fn look(&mut self) -> Result<Described, MigrateError> {
        if self.options.wait && whole::unfinished(&self.options.home, self.options.pid).is_some() {
            (self.tell)(Progress::Step("waiting until its memory from the last move is complete"));
            whole::wait(&self.options.home, self.options.pid, self.control.cancel())?;
        }
        (self.tell)(Progress::Step("looking at the process"));
        let options = self.options;
        let parent_knows = (!options.leave_running).then_some(options.parent_knows);
        let mut described = look(&options.home, options.pid, &options.files, options.tracker, parent_knows)?;
        self.note(std::mem::take(&mut described.notes));
        Ok(described)
    }

    /// Asks the other end what stands in the way there. Any obstacle ends it, on whichever side.
    fn ask(
        &mut self,
        to: &mut dyn Destination,
        described: &mut Described,
        only_asks: bool,
    ) -> Result<(), MigrateError> {
        let Described { tree, obstacles, .. } = described;
        self.report.threads = tree.processes.iter().map(|p| p.threads.len() as u32).sum();
        self.report.resident_bytes = tree.processes.iter().map(|p| p.memory.resident).sum();
        (self.tell)(Progress::Step("checking what can be moved there"));
        to.say(&ToTarget::Describe(Box::new(Description {
            id: self.report.id.clone(),
            tree: tree.clone(),
            pid_mode: self.options.pid_mode,
            verify: self.options.verify,
            clocks: ClockOffsets::of(&voice::of(self.options.pid).to_string()),
            time_namespace: in_time_namespace(self.options.pid),
            lazy: self.control.may_be_lazy(),
            only_asks,
        })))?;
        let mut answer = to.hear("checking the process")?;
        if let ToSource::NeedHashes(paths) = &answer {
            let hashes = hashes(paths, tree)?;
            to.say(&ToTarget::Hashes(hashes))?;
            answer = to.hear("comparing files")?;
        }
        match answer {
            ToSource::Preflight { obstacles: theirs, notes } => {
                // what is gone here is not missing there: nothing is to be made in its place
                let gone = |their: &Obstacle| {
                    their.why == program::ABSENT && obstacles.iter().any(|ours| ours.object == their.object)
                };
                let missing: Vec<Obstacle> = theirs.into_iter().filter(|their| !gone(their)).collect();
                obstacles.extend(missing);
                self.note(notes);
            }
            other => return Err(out_of_turn(&other)),
        }
        if obstacles.is_empty() {
            return Ok(());
        }
        let _ = to.say(&ToTarget::Abort(crate::precopy::error::refusal(obstacles.len())));
        Err(MigrateError::Refused(std::mem::take(obstacles)))
    }

    /// Tells the user, and keeps it for the report.
    fn note(&mut self, notes: Vec<Note>) {
        if !notes.is_empty() {
            (self.tell)(Progress::Notes(&notes));
            self.report.notes.extend(notes);
        }
    }

    fn move_it(&mut self, to: &mut dyn Destination, described: &TreeImage) -> Result<(), MigrateError> {
        self.report.outcome = Outcome::Aborted;
        let (difference, rtt) = to.clock_difference()?;
        tracing::info!(?difference, ?rtt, "clock of the target");
        let journal_dir = self.options.home.join("journal");
        std::fs::create_dir_all(&journal_dir).map_err(MigrateError::journal(&journal_dir))?;
        self.begin(to, difference)?;
        let mut agent = self.attach(described)?;
        let basis = foresight::basis(&self.options.home, to, rtt, &agent, described);
        let ahead = Ahead {
            options: self.options,
            control: self.control,
            tell: self.tell,
            report: &mut self.report,
            to: &mut *to,
            agent: &mut agent,
            basis,
            session: OwnSession::behind(),
        };
        let mut foresight = ahead.run(described)?;
        self.executor.late = if foresight.lazy { Some(Late::open(self.road()?, to)?) } else { None };
        let entry = Entry::new(&self.report.id, true, self.options.pid, &to.name());
        let mut journal = Journal::begin(&journal_dir, entry).map_err(MigrateError::journal(&journal_dir))?;
        // `ulpm recover` leaves it to us as long as we live
        journal.keep();
        let sync = foresight::sync_time(&mut journal).map_err(MigrateError::journal(&journal_dir))?;
        self.executor.journal = Some(journal);
        self.executor.waits = Some(agent.waits.clone());
        foresight.complete(&agent, sync, self.options.verify);
        if foresight.lazy {
            take_back(to, &mut agent, foresight.rounds.len())?;
        }
        standing::undivided(self.options.pid)?;
        MigrateError::point(Point::SourcePoised)?;
        to.watch();
        self.control.note(|status| status.phase = control::Phase::Freezing);
        (self.tell)(Progress::Step("freezing"));
        let described = TreeImage { files: foresight.files.clone(), ..described.clone() };
        let freezer = freeze::Freezer {
            options: self.options,
            report: &mut self.report,
            executor: &mut self.executor,
            difference,
            foresight,
        };
        freezer.run(to, &mut agent, &described)
    }

    /// The other end makes the process, which is empty yet.
    fn begin(&mut self, to: &mut dyn Destination, difference: ClockOffsets) -> Result<(), MigrateError> {
        to.say(&ToTarget::Begin { difference })?;
        match to.hear("making the process there")? {
            ToSource::Ready { pids, namespace } => {
                let [pid] = pids[..] else {
                    let count = pids.len();
                    return Err(MigrateError::Nonsense(format!("{count} processes made of one")));
                };
                self.report.target_pid = Some(pid);
                self.report.pid_mode = if namespace { PidMode::Namespace } else { PidMode::Same };
            }
            other => return Err(out_of_turn(&other)),
        }
        MigrateError::point(Point::SourceReady)
    }

    fn attach(&mut self, described: &TreeImage) -> Result<Agent, MigrateError> {
        (self.tell)(Progress::Step("attaching"));
        let chosen = direct::tracker(self.options.tracker, self.options.pid, &described.files)
            .map_err(|obstacle| MigrateError::Refused(vec![obstacle]))?;
        self.report.tracker_reason = chosen.reason.clone();
        let mut agent = Agent::attach(described, (self.options.pid, FIRST), &self.options.home, &chosen)?;
        self.report.attach_ms = agent.attach.as_secs_f64() * 1e3;
        self.report.tracker = agent.tracker().to_owned();
        if self.options.lazy.from_start {
            agent.withhold();
        }
        Ok(agent)
    }

    fn road(&self) -> Result<Road, MigrateError> {
        Ok(Road {
            home: self.options.home.clone(),
            to: self.options.host()?.clone(),
            id: self.report.id.clone(),
            limit: self.options.connect_limit,
        })
    }
}

/// How a move ended that had come as far as `reached`, and failed.
fn outcome(error: &MigrateError, reached: Outcome) -> Outcome {
    match (error, reached) {
        (MigrateError::CopyLost(_), _) => Outcome::Lost,
        (MigrateError::Open { .. } | MigrateError::Down { .. }, _) => Outcome::Unknown,
        (_, Outcome::Unknown | Outcome::Moved | Outcome::Lost) => reached,
        (MigrateError::Ended { .. }, _) => Outcome::Failed,
        (MigrateError::Refused(_), _) => Outcome::Refused,
        // also before anything was tried: what the user ends runs on here
        (MigrateError::Cancelled, _) => Outcome::Aborted,
        _ => reached,
    }
}

/// What was written since it went ahead comes after the process: the target drops it now, while the process still runs here.
fn take_back(to: &mut dyn Destination, agent: &mut Agent, rounds: usize) -> Result<(), MigrateError> {
    let begun = Instant::now();
    let pages = agent.take_back(to)?;
    if pages > 0 {
        to.say(&ToTarget::RoundEnd(rounds as u32))?;
        match to.hear("dropping pages that were written again")? {
            ToSource::RoundApplied(n) if n as usize == rounds => {}
            other => return Err(out_of_turn(&other)),
        }
    }
    tracing::debug!(pages, took = ?begun.elapsed(), "taken back before the freeze");
    Ok(())
}

/// The process from outside, and all that stands in its way on this side. `parent_knows`: `None` if it does not end here.
pub fn look(
    home: &Path,
    pid: i32,
    options: &FilesOptions,
    tracker: Choice,
    parent_knows: Option<bool>,
) -> Result<Described, MigrateError> {
    // Before all else: what a holder of its memory has inside it is gone first.
    let partial = whole::obstacle(home, pid);
    let mut described = describe(pid, options)?;
    let (notes, obstacles) = parent_knows.map(|knows| parent::look(pid, knows)).unwrap_or_default();
    described.obstacles.extend(disk(home));
    described.notes.extend(notes);
    described.obstacles.extend(obstacles);
    if let Some(ours) = claim::obstacle(pid).or(partial).or_else(|| held::obstacle(home, pid)) {
        // what else is in the way may be that other ulpm's own doing, as is a stop, as is a userfaultfd that serves what has not arrived
        described.obstacles = vec![ours];
        return Ok(described);
    }
    described.obstacles.extend(direct::tracker(tracker, pid, &described.tree.files).err());
    Ok(described)
}

/// Whether what must not be forgotten can be written down.
fn disk(home: &Path) -> Option<Obstacle> {
    let dir = home.join("journal");
    let error = std::fs::create_dir_all(&dir).and_then(|()| try_writing(&dir)).err()?;
    Some(Obstacle::new(
        format!("journal {}", dir.display()),
        format!("it cannot be written here: {error}"),
        "make room there, or let ULPM_HOME be a directory on a disk that can be written",
    ))
}

/// Whether a process is not in the initial time namespace (`PROC_TIME_INIT_INO`).
fn in_time_namespace(pid: i32) -> bool {
    let link = std::fs::read_link(format!("/proc/{}/ns/time", voice::of(pid)));
    link.is_ok_and(|l| l.as_os_str() != "time:[4026531834]")
}

/// The target could not say what stands in the way there.
fn unasked(to: &RemoteAddr, e: &MigrateError) -> Obstacle {
    Obstacle::new(
        format!("target {to}"),
        crate::sys::chain(e),
        "there may be more in the way than is listed here",
    )
}

/// Whether a process that something went wrong with is there no more. One that is being killed has lost its `SIGKILL` already, and not
/// begun to end, for a moment: what is read of it then fails at once.
fn has_ended(error: &MigrateError, pid: i32) -> bool {
    const MOMENT: Duration = Duration::from_millis(20);
    let looked_at = matches!(error, MigrateError::Source(_));
    dying(pid)
        || looked_at && {
            std::thread::sleep(MOMENT);
            dying(pid)
        }
}

/// Names one migration for ever.
fn new_id() -> String {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap_or_default();
    text.trim().to_owned()
}
