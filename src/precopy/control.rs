//! What a user can learn of a migration under way and do to it: its state, `freeze-now`, `abort`, other limits.
//! The commands as text are those of `ulpm control`.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::cancel::Cancel;
use crate::convergence::policy::{Limits, OnDivergence};
use crate::report::{Rate, Span};

/// Where a migration stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Nothing of the process has been sent.
    #[default]
    Preparing,
    /// Memory goes ahead while the process runs.
    Rounds,
    /// The process is stopped.
    Freezing,
    /// The process runs at the target; its memory follows.
    Lazy,
}

/// A migration under way, as `status` prints it. Times in milliseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Status {
    /// The migration.
    pub id: String,
    /// The process.
    pub pid: i32,
    /// Where it stands.
    pub phase: Phase,
    /// The round under way, or the last one.
    pub round: usize,
    /// Sent in this round.
    pub round_bytes: u64,
    /// Sent in all.
    pub sent_bytes: u64,
    /// How fast the process writes, as of the last round.
    pub dirty_pages_per_s: u64,
    /// How fast pages leave; 0 as long as nobody knows.
    pub bandwidth_bytes_per_s: u64,
    /// The freeze, had it begun after the last round; null before there were two.
    pub predicted_freeze_ms: Option<f64>,
    /// Since the first round began.
    pub elapsed_ms: f64,
    /// Until the freeze, as things are; null if nobody knows.
    pub time_left_ms: Option<f64>,
    /// Percent of the time for which the process is stopped to slow it down.
    pub throttle_percent: u8,
    /// Pages that were outstanding when the process was let go at the target.
    pub lazy_pages: u64,
    /// Of these, sent since then.
    pub lazy_sent_pages: u64,
    /// How often a lane had to be opened anew.
    pub lazy_reconnects: u64,
    /// `--max-freeze`.
    pub max_freeze_ms: Option<f64>,
    /// `--max-rounds`.
    pub max_rounds: usize,
    /// `--max-time`.
    pub max_time_ms: Option<f64>,
    /// `--bandwidth`.
    pub bandwidth_limit_bytes_per_s: Option<u64>,
    /// `--on-divergence`.
    pub on_divergence: String,
}

/// The other end of a migration: shared by the thread that carries it out and those that ask.
#[derive(Clone, Debug)]
pub struct Control {
    shared: Arc<Mutex<Shared>>,
    cancel: Cancel,
}

#[derive(Debug)]
struct Shared {
    limits: Limits,
    freeze_now: bool,
    /// The target has been asked whether the memory may come later.
    lazily: bool,
    status: Status,
}

impl Control {
    /// Of a migration that begins with these limits.
    pub fn new(limits: Limits) -> Self {
        let lazily = limits.on_divergence == OnDivergence::Lazy;
        let shared = Shared { limits, freeze_now: false, lazily, status: Status::default() };
        Control { shared: Arc::new(Mutex::new(shared)), cancel: Cancel::default() }
    }

    /// Also where the limits do not say so, the memory may come later.
    pub(crate) fn lazily(self) -> Self {
        self.shared().lazily = true;
        self
    }

    /// Whether the memory may come later.
    pub(crate) fn may_be_lazy(&self) -> bool {
        self.shared().lazily
    }

    /// What ends it.
    pub(crate) fn cancel(&self) -> &Cancel {
        &self.cancel
    }

    /// The limits as they are now.
    pub(crate) fn limits(&self) -> Limits {
        self.shared().limits
    }

    /// Freezes at the end of the round under way.
    pub(crate) fn freeze_now(&self) {
        self.shared().freeze_now = true;
    }

    /// Whether that was asked for.
    pub(crate) fn wants_freeze(&self) -> bool {
        self.shared().freeze_now
    }

    /// How things stand.
    pub(crate) fn status(&self) -> Status {
        let shared = self.shared();
        let ms = |d: Duration| d.as_secs_f64() * 1e3;
        Status {
            max_freeze_ms: shared.limits.max_freeze.map(ms),
            max_rounds: shared.limits.max_rounds,
            max_time_ms: shared.limits.max_time.map(ms),
            bandwidth_limit_bytes_per_s: shared.limits.bandwidth.map(Rate::as_bytes_per_s),
            on_divergence: shared.limits.on_divergence.to_string(),
            ..shared.status.clone()
        }
    }

    /// Notes how things stand.
    pub(crate) fn note(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.shared().status);
    }

    /// Carries out a command; the answer is one line.
    pub(crate) fn obey(&self, command: &Command) -> Result<String, Disobeyed> {
        let (phase, lazily) = {
            let shared = self.shared();
            (shared.status.phase, shared.lazily)
        };
        let freezing = phase == Phase::Freezing;
        match command {
            Command::Status => {
                Ok(serde_json::to_string(&self.status()).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}")))
            }
            _ if phase == Phase::Lazy => Err(Disobeyed::RunsThere),
            Command::Abort => {
                self.cancel.cancel();
                Ok(match freezing {
                    true => "ok, unless it is committed already".to_owned(),
                    false => "ok, the process runs on here".to_owned(),
                })
            }
            _ if freezing => Err(Disobeyed::TooLate),
            Command::Set(Setting::OnDivergence(OnDivergence::Lazy)) if !lazily => Err(Disobeyed::NotLazy),
            Command::FreezeNow => {
                self.freeze_now();
                Ok("ok, it is frozen when the round under way is done".to_owned())
            }
            Command::Set(setting) => {
                setting.apply(&mut self.shared().limits);
                Ok(format!("ok, {setting}"))
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a command is not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Disobeyed {
    /// The process is frozen: nothing can be set any more.
    #[error("it is too late: the process is being frozen")]
    TooLate,
    /// The process is let go at the target.
    #[error("it is too late: the process runs at the target, and its memory follows")]
    RunsThere,
    /// The target has not been asked.
    #[error("the move did not begin as one that may be lazy (--lazy, --lazy-after, --on-divergence lazy)")]
    NotLazy,
}

/// A command.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    /// How do things stand?
    Status,
    /// Freeze when the round under way is done.
    FreezeNow,
    /// End the move; the process runs on here.
    Abort,
    /// Change a limit.
    Set(Setting),
}

/// A limit and its new value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    /// `max-freeze`.
    MaxFreeze(Option<Span>),
    /// `max-rounds`.
    MaxRounds(usize),
    /// `max-time`.
    MaxTime(Option<Span>),
    /// `bandwidth`.
    Bandwidth(Option<Rate>),
    /// `on-divergence`.
    OnDivergence(OnDivergence),
}

/// Why a line is no command.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum CommandError {
    /// Another word.
    #[error("'{0}' is no command (there are: status, freeze-now, abort, set NAME=VALUE)")]
    Unknown(String),
    /// `set` without a name and a value.
    #[error(
        "set what? (max-freeze, max-rounds, max-time, bandwidth or on-divergence, as in 'set max-freeze=20ms')"
    )]
    Nothing,
    /// A name that is none.
    #[error("'{0}' cannot be set (max-freeze, max-rounds, max-time, bandwidth and on-divergence can)")]
    Name(String),
    /// A value that is none.
    #[error("{name}: {why}")]
    Value {
        /// What was to be set.
        name: String,
        /// What is wrong.
        why: String,
    },
}

impl FromStr for Command {
    type Err = CommandError;

    fn from_str(line: &str) -> Result<Self, CommandError> {
        let mut words = line.split_whitespace();
        let (first, rest): (_, Vec<&str>) = (words.next().unwrap_or_default(), words.collect());
        match (first, rest.as_slice()) {
            ("status", []) => Ok(Command::Status),
            ("freeze-now", []) => Ok(Command::FreezeNow),
            ("abort", []) => Ok(Command::Abort),
            ("set", [setting]) => setting.parse().map(Command::Set),
            ("set", _) => Err(CommandError::Nothing),
            _ => Err(CommandError::Unknown(line.trim().chars().take(80).collect())),
        }
    }
}

impl FromStr for Setting {
    type Err = CommandError;

    fn from_str(text: &str) -> Result<Self, CommandError> {
        let (name, value) = text.split_once('=').ok_or(CommandError::Nothing)?;
        let wrong = |why: String| CommandError::Value { name: name.to_owned(), why };
        let none = matches!(value, "none" | "off");
        let span = || match none {
            true => Ok(None),
            false => value.parse::<Span>().map(Some).map_err(|e| wrong(e.to_string())),
        };
        Ok(match name {
            "max-freeze" => Setting::MaxFreeze(span()?),
            "max-time" => Setting::MaxTime(span()?),
            "max-rounds" => Setting::MaxRounds(rounds(value).map_err(wrong)?),
            "bandwidth" if none => Setting::Bandwidth(None),
            "bandwidth" => Setting::Bandwidth(Some(value.parse::<Rate>().map_err(|e| wrong(e.to_string()))?)),
            "on-divergence" => Setting::OnDivergence(value.parse().map_err(wrong)?),
            _ => return Err(CommandError::Name(name.to_owned())),
        })
    }
}

/// A number of rounds: at least one.
pub(crate) fn rounds(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if (1..=10_000).contains(&n) => Ok(n),
        _ => Err(format!("'{text}' is not a number of rounds (1 to 10000)")),
    }
}

impl FromStr for OnDivergence {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "freeze" => Ok(OnDivergence::Freeze),
            "throttle" => Ok(OnDivergence::Throttle),
            "abort" => Ok(OnDivergence::Abort),
            "lazy" => Ok(OnDivergence::Lazy),
            _ => Err(format!("'{text}' is none of freeze, throttle, abort and lazy")),
        }
    }
}

impl Setting {
    fn apply(&self, limits: &mut Limits) {
        match self {
            Setting::MaxFreeze(span) => limits.max_freeze = span.map(Span::duration),
            Setting::MaxRounds(rounds) => limits.max_rounds = *rounds,
            Setting::MaxTime(span) => limits.max_time = span.map(Span::duration),
            Setting::Bandwidth(rate) => limits.bandwidth = *rate,
            Setting::OnDivergence(choice) => limits.on_divergence = *choice,
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn or_none<T: fmt::Display>(value: Option<T>) -> String {
            value.map_or_else(|| "none".to_owned(), |v| v.to_string())
        }
        match self {
            Setting::MaxFreeze(span) => write!(f, "max-freeze={}", or_none(*span)),
            Setting::MaxRounds(rounds) => write!(f, "max-rounds={rounds}"),
            Setting::MaxTime(span) => write!(f, "max-time={}", or_none(*span)),
            Setting::Bandwidth(rate) => write!(f, "bandwidth={}", or_none(*rate)),
            Setting::OnDivergence(choice) => write!(f, "on-divergence={choice}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn obey(control: &Control, line: &str) -> Result<String, String> {
        let command: Command = line.parse().map_err(|e: CommandError| e.to_string())?;
        control.obey(&command).map_err(|e| e.to_string())
    }

    #[test]
    fn limits_can_be_set_and_are_seen() {
        let control = Control::new(Limits::default());
        assert_eq!(obey(&control, "set max-freeze=20ms"), Ok("ok, max-freeze=20.0 ms".to_owned()));
        obey(&control, " set  bandwidth=100M ").unwrap();
        obey(&control, "set max-rounds=7").unwrap();
        obey(&control, "set max-time=1.5s").unwrap();
        obey(&control, "set on-divergence=abort").unwrap();
        let limits = Limits {
            max_freeze: Some(Duration::from_millis(20)),
            max_rounds: 7,
            max_time: Some(Duration::from_millis(1500)),
            bandwidth: Some(Rate::bytes_per_s(100 << 20)),
            on_divergence: OnDivergence::Abort,
        };
        assert_eq!(control.limits(), limits);
        let status: serde_json::Value = serde_json::from_str(&obey(&control, "status").unwrap()).unwrap();
        assert_eq!((&status["max_rounds"], &status["on_divergence"]), (&7.into(), &"abort".into()));
        assert_eq!((&status["phase"], &status["max_freeze_ms"]), (&"preparing".into(), &20.0.into()));
        obey(&control, "set max-freeze=none").unwrap();
        assert_eq!(control.limits().max_freeze, None);
    }

    #[test]
    fn nonsense_is_named_and_changes_nothing() {
        let control = Control::new(Limits::default());
        for (line, says) in [
            ("", "is no command"),
            ("statu", "'statu' is no command"),
            ("freeze-now now", "is no command"),
            ("set", "set what?"),
            ("set max-freeze 20ms", "set what?"),
            ("set colour=red", "'colour' cannot be set"),
            ("set max-freeze=20", "max-freeze: '20' is not a time"),
            ("set max-rounds=0", "number of rounds"),
            ("set bandwidth=0", "never end"),
            ("set on-divergence=later", "none of freeze, throttle, abort and lazy"),
            ("set on-divergence=lazy", "did not begin as one that may be lazy"),
        ] {
            let error = obey(&control, line).unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
        }
        assert_eq!(control.limits(), Limits::default());
        assert!(!control.wants_freeze() && !control.cancel().is_set());
    }

    #[test]
    fn a_frozen_process_can_only_be_asked_about_and_given_back() {
        let control = Control::new(Limits::default());
        obey(&control, "freeze-now").unwrap();
        assert!(control.wants_freeze());
        control.note(|status| status.phase = Phase::Freezing);
        assert!(obey(&control, "set max-rounds=3").unwrap_err().contains("too late"));
        assert!(obey(&control, "freeze-now").is_err() && obey(&control, "status").is_ok());
        assert!(obey(&control, "abort").unwrap().contains("unless"));
        assert!(control.cancel().is_set());
    }

    #[test]
    fn what_runs_at_the_target_cannot_be_called_back() {
        let control = Control::new(Limits::default()).lazily();
        obey(&control, "set on-divergence=lazy").unwrap();
        control.note(|status| status.phase = Phase::Lazy);
        for line in ["abort", "freeze-now", "set max-rounds=3"] {
            assert!(obey(&control, line).unwrap_err().contains("runs at the target"), "{line}");
        }
        assert!(!control.cancel().is_set());
        assert!(obey(&control, "status").unwrap().contains("\"phase\":\"lazy\""));
    }
}
