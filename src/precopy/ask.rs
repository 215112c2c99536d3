//! The question how a migration ended, and the target's answer: its journal decides.

use std::path::Path;
use std::time::{Duration, Instant};

use super::MigrateError;
use super::cancel::Cancel;
use super::destination::{Destination, out_of_turn};
use super::link::Link;
use crate::handover::SourceEvent;
use crate::handover::journal::Entry;
use crate::transport::RemoteAddr;
use crate::transport::protocol::{ToSource, ToTarget};

/// Tries before the outcome is left open.
const TRIES: u32 = 3;
/// How long a session at the target may be about to decide.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection for a question may take.
const CONNECTING: Duration = Duration::from_secs(5);

/// What the target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It runs there under this pid, or ran to its end.
    Running(i32),
    /// It does, and still needs memory of the copy here.
    RunsLazily(i32),
    /// It never will run there.
    Never,
    /// It ran there and went down with its host: only the user can know what is right.
    Down,
}

impl Answer {
    /// What that is to the state machine.
    pub(crate) fn event(self) -> SourceEvent {
        match self {
            Answer::Running(_) => SourceEvent::Running,
            Answer::RunsLazily(_) => SourceEvent::RunsLazily,
            Answer::Never => SourceEvent::Never,
            Answer::Down => SourceEvent::Unsettled,
        }
    }
}

/// Asks the target how a migration ended, a few times, each by a conversation begun anew.
pub(crate) fn ask(to: &mut dyn Destination, id: &str) -> Result<Answer, MigrateError> {
    let mut last = None;
    for _ in 0..TRIES {
        match to.reconnect().and_then(|()| ask_once(to, id)) {
            Ok(answer) => return Ok(answer),
            Err(e) => last = Some(e),
        }
    }
    Err(last.unwrap_or(MigrateError::Cancelled))
}

/// As [`ask`], once, in a conversation that has just begun. It goes on if the process runs there.
pub(crate) fn ask_once(to: &mut dyn Destination, id: &str) -> Result<Answer, MigrateError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        to.say(&ToTarget::Settle(id.to_owned()))?;
        match to.hear("asking for the outcome")? {
            ToSource::Settled(Some(pid)) => return Ok(Answer::Running(pid)),
            ToSource::SettledLazy(pid) => return Ok(Answer::RunsLazily(pid)),
            ToSource::Settled(None) => return Ok(Answer::Never),
            ToSource::SettledDown(_) => return Ok(Answer::Down),
            ToSource::SettledLater if Instant::now() < deadline => {}
            other => return Err(out_of_turn(&other)),
        }
        std::thread::sleep(Duration::from_millis(200));
        to.reconnect()?;
    }
}

/// The target of an earlier migration, as its journal has it.
pub(crate) fn target(entry: &Entry) -> Result<RemoteAddr, MigrateError> {
    Ok(entry.peer.parse::<RemoteAddr>()?)
}

/// A connection to a target for a question about an earlier migration.
pub(crate) fn connect(home: &Path, to: &RemoteAddr) -> Result<Link, MigrateError> {
    Link::open(home, to, &Cancel::default(), CONNECTING)
}
