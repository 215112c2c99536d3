//! The question how a migration ended, and the target's answer: its journal decides.

use std::path::Path;
use std::time::{Duration, Instant};

use super::MigrateError;
use super::cancel::Cancel;
use super::destination::{Destination as _, out_of_turn};
use super::link::Link;
use super::options::Options;
use crate::handover::SourceEvent;
use crate::transport::protocol::{ToSource, ToTarget};

/// Tries before the outcome is left open.
const TRIES: u32 = 3;
/// How long a session at the target may be about to decide.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the target says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
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
    pub fn event(self) -> SourceEvent {
        match self {
            Answer::Running(_) | Answer::RunsLazily(_) => SourceEvent::Running,
            Answer::Never => SourceEvent::Never,
            Answer::Down => SourceEvent::Unsettled,
        }
    }
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
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut link = Link::open(home, to, &Cancel::default(), Duration::from_secs(5))?;
        link.say(&ToTarget::Settle(id.to_owned()))?;
        let answer = match link.hear("asking for the outcome")? {
            ToSource::Settled(Some(pid)) => Some(Answer::Running(pid)),
            ToSource::SettledLazy(pid) => Some(Answer::RunsLazily(pid)),
            ToSource::Settled(None) => Some(Answer::Never),
            ToSource::SettledDown(_) => Some(Answer::Down),
            ToSource::SettledLater if Instant::now() < deadline => None,
            other => return Err(out_of_turn(&other)),
        };
        link.close("settled");
        if let Some(answer) = answer {
            return Ok(answer);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
