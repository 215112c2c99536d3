//! When to stop sending rounds: after each one, *again*, *freeze*, *throttle* or *give up*. Pure: what was measured
//! and predicted comes in, the decision and its reason go out.
//!
//! A round sends what was written during the one before it. While rounds get shorter, so does the freeze that would
//! follow; when they do not any more, waiting brings nothing. In order:
//!
//! 1. What the last round found takes at most [`LITTLE`]: freeze, if the goal (`--max-freeze`) is met; else no round can meet it.
//! 2. The goal is met, and the next round would take long: freeze.
//! 3. The rounds or the time are up, or rounds bring nothing any more: freeze if the goal is met, or if there is none
//!    and the pages left take at most [`ENDURABLE`]. Else the move **diverges**: `--on-divergence` says what then.
//! 4. Again.

use std::fmt;
use std::time::Duration;

use super::predict::Prediction;
use super::rounds::{LinkSpeed, Measured, dirty_pages_per_s, expected_written};
use crate::report::{Rate, human_ms};

/// Pages that are sent within this need no further round.
pub const LITTLE: Duration = Duration::from_millis(1);

/// Without a goal: the longest sending of the last pages that is not called diverging.
pub const ENDURABLE: Duration = Duration::from_millis(100);

/// How much of the time the process is stopped, in steps, until rounds get shorter.
pub const THROTTLE_STEPS: [u8; 6] = [20, 40, 60, 75, 85, 90];

/// What becomes of a process that writes faster than the link carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDivergence {
    /// It is frozen nevertheless, for as long as it takes.
    #[default]
    Freeze,
    /// It is slowed down, step by step, until rounds get shorter.
    Throttle,
    /// The move is given up; the process runs on here.
    Abort,
    /// The process goes first, and what is left of its memory follows.
    Lazy,
}

impl fmt::Display for OnDivergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnDivergence::Freeze => "freeze",
            OnDivergence::Throttle => "throttle",
            OnDivergence::Abort => "abort",
            OnDivergence::Lazy => "lazy",
        })
    }
}

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// `--max-freeze`: the whole freeze, as predicted, shall not be longer.
    pub max_freeze: Option<Duration>,
    /// `--max-rounds`.
    pub max_rounds: usize,
    /// `--max-time`: for pre-copy.
    pub max_time: Option<Duration>,
    /// `--bandwidth`: of the rounds, not of the freeze.
    pub bandwidth: Option<Rate>,
    /// `--on-divergence`.
    pub on_divergence: OnDivergence,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_freeze: None,
            max_rounds: 30,
            max_time: None,
            bandwidth: None,
            on_divergence: OnDivergence::Freeze,
        }
    }
}

/// A round, and what a freeze right after it would cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Assessed {
    /// The round.
    pub round: Measured,
    /// The freeze.
    pub freeze: Prediction,
}

/// What follows a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round.
    Again,
    /// Freeze.
    Freeze,
    /// Freeze; what is left of the memory comes after the process.
    Lazy,
    /// Another round, with the process stopped for so many percent of the time.
    Throttle(u8),
    /// End the move; the process runs on.
    GiveUp,
}

/// What follows a round, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What.
    pub next: Next,
    /// For the report.
    pub why: String,
    /// Whether the rounds did not come to what was asked for: `--on-divergence` decided.
    pub diverged: bool,
}

impl Decision {
    fn plain(next: Next, why: impl Into<String>) -> Self {
        Decision { next, why: why.into(), diverged: false }
    }

    /// The process goes first after this round, whatever the policy says.
    pub fn lazily(self, why: &str) -> Self {
        let before = self.why;
        Decision { next: Next::Lazy, why: format!("{before}; {why}"), diverged: self.diverged }
    }

    /// The user wants the freeze now.
    pub fn by_hand() -> Self {
        Self::plain(Next::Freeze, "asked to freeze now")
    }
}

/// Decides, given all rounds so far, `elapsed` after the first one began.
pub fn decide(rounds: &[Assessed], limits: &Limits, rtt: Duration, elapsed: Duration) -> Decision {
    let Some(last) = rounds.last() else { return Decision::plain(Next::Again, "nothing is sent yet") };
    let up = limits.up(rounds.len(), elapsed);
    if rounds.len() == 1 && up.is_none() {
        let why = "the first round sent everything; what was written meanwhile is not known yet";
        return Decision::plain(Next::Again, why);
    }
    let case = Case { rounds, last, limits, speed: LinkSpeed::of(&measured(rounds), rtt) };
    if rounds.len() > 1 && case.little() {
        return match case.met() {
            true => Decision::plain(Next::Freeze, case.left()),
            false => case.diverges(&case.unreachable()),
        };
    }
    if case.met() && case.founded() && case.next_is_long(elapsed) {
        return Decision::plain(Next::Freeze, format!("{}, and another round would take long", case.left()));
    }
    let stuck = || case.stuck().then(|| "more rounds would bring nothing".to_owned());
    match up.or_else(stuck) {
        Some(why) if case.good_enough() => Decision::plain(Next::Freeze, format!("{}; {why}", case.left())),
        Some(why) => case.diverges(&why),
        None => Decision::plain(Next::Again, case.left()),
    }
}

impl Limits {
    /// Which limit is reached.
    fn up(&self, rounds: usize, elapsed: Duration) -> Option<String> {
        if rounds >= self.max_rounds {
            return Some(format!("{} rounds are the limit", self.max_rounds));
        }
        self.max_time
            .filter(|t| elapsed >= *t)
            .map(|t| format!("the time for the rounds ({}) is up", said(t)))
    }
}

/// What is decided on.
struct Case<'a> {
    rounds: &'a [Assessed],
    last: &'a Assessed,
    limits: &'a Limits,
    speed: LinkSpeed,
}

impl Case<'_> {
    /// Whether the goal is met, if there is one.
    fn met(&self) -> bool {
        self.limits.max_freeze.is_none_or(|goal| self.last.freeze.total() <= goal)
    }

    /// Whether so few pages are left that no round is worth its time. What the last round found counts, too: less
    /// is expected only because the freeze comes sooner after it, and that holds for no process that writes the same
    /// pages all the time.
    fn little(&self) -> bool {
        let found = self.speed.time_for(self.last.round.written as f64);
        self.last.freeze.for_pages.max(found) <= LITTLE
    }

    /// Whether the last round's window says enough about the one before the freeze.
    fn founded(&self) -> bool {
        self.last.round.window > Duration::ZERO && self.last.round.window <= self.last.round.took * 8
    }

    /// Whether to freeze when no round is worth its time any more.
    fn good_enough(&self) -> bool {
        match self.limits.max_freeze {
            Some(_) => self.met(),
            None => self.last.freeze.for_pages <= ENDURABLE,
        }
    }

    /// A round more costs a tenth of the time so far, and a quarter of a second at least.
    fn next_is_long(&self, elapsed: Duration) -> bool {
        if self.limits.max_freeze.is_none() {
            return false;
        }
        let to_send = expected_written(&measured(self.rounds), self.last.round.took, u64::MAX);
        let next = self.speed.latency + self.speed.round_time_for(to_send);
        next > (elapsed / 10).max(Duration::from_millis(250))
    }

    /// Whether the latest rounds have shortened neither the freeze that would follow nor the rounds: two without a goal, three with one
    /// (a burst of writes may pass), one and a first one that began before it under each step of throttling.
    fn stuck(&self) -> bool {
        let throttle = self.last.round.throttle;
        let since = self.rounds.iter().rev().take_while(|r| r.round.throttle == throttle).count();
        let patience = match (throttle, self.limits.max_freeze) {
            (0, None) => 2,
            (0, Some(_)) => 3,
            _ => 1,
        };
        // the first two tell nothing yet: everything, and what was written during that
        let skip = if throttle == 0 { 1 } else { 0 };
        let rounds = &self.rounds[self.rounds.len() - since..];
        let Some(judged) = rounds.get(skip..).filter(|r| r.len() > patience) else { return false };
        let (before, latest) = judged.split_at(judged.len() - patience);
        let shorter = |value: &dyn Fn(&Assessed) -> Duration| {
            let least = |of: &[Assessed]| of.iter().map(value).min().unwrap_or_default();
            least(latest) <= least(before).mul_f64(0.85)
        };
        // a prediction made from few windows may be too low, and then the next ones seem to bring nothing, though each
        // round is much shorter than the one before
        let sending = |r: &Assessed| self.speed.time_for(r.round.pages as f64).max(LITTLE);
        !shorter(&|r| r.freeze.total()) && !shorter(&sending)
    }

    /// What the user chose for a move that does not converge.
    fn diverges(&self, why: &str) -> Decision {
        let state = self.figures();
        let now = self.last.round.throttle;
        let (next, why) = match (self.limits.on_divergence, self.slower()) {
            (OnDivergence::Freeze, _) => (Next::Freeze, format!("{why}; frozen nevertheless: {state}")),
            (OnDivergence::Lazy, _) => {
                (Next::Lazy, format!("{why}; the process goes first, its memory follows: {state}"))
            }
            (OnDivergence::Abort, _) => (Next::GiveUp, format!("{why}: {state}; {}", self.advice())),
            (OnDivergence::Throttle, Some(step)) => (
                Next::Throttle(step),
                format!("{why}; the process is stopped for {step} % of the time: {state}"),
            ),
            (OnDivergence::Throttle, None) if now > 0 => {
                let why = format!("{why}, with the process stopped for {now} % of the time");
                (Next::Freeze, format!("{why}; frozen nevertheless: {state}"))
            }
            (OnDivergence::Throttle, None) => {
                let why = format!("{why}, and slowing the process down would not help");
                (Next::Freeze, format!("{why}; frozen nevertheless: {state}"))
            }
        };
        Decision { next, why, diverged: true }
    }

    /// The next step of throttling, if there is one and if it can help.
    fn slower(&self) -> Option<u8> {
        let now = self.last.round.throttle;
        let helps = self.limits.max_freeze.is_none_or(|goal| self.last.freeze.floor() <= goal);
        THROTTLE_STEPS.into_iter().find(|step| helps && *step > now)
    }

    fn left(&self) -> String {
        let freeze = &self.last.freeze;
        let goal = self.limits.max_freeze.map(|g| format!(" (goal {})", said(g))).unwrap_or_default();
        format!("about {:.0} pages left, a freeze of {}{goal}", freeze.pages, said(freeze.total()))
    }

    fn unreachable(&self) -> String {
        let floor = said(self.last.freeze.floor());
        format!("even with no page left the freeze would take {floor}")
    }

    fn figures(&self) -> String {
        let rounds = measured(self.rounds);
        let writes = Rate::bytes_per_s((dirty_pages_per_s(&rounds) * 4096.0) as u64);
        let carries = Rate::bytes_per_s(self.speed.bytes_per_s() as u64);
        let goal = self.limits.max_freeze.map(|g| format!(" (goal {})", said(g))).unwrap_or_default();
        format!(
            "it writes {writes}, the link carries {carries}, the freeze would take {}{goal}",
            said(self.last.freeze.total())
        )
    }

    fn advice(&self) -> String {
        let least = self.last.freeze.total().as_secs_f64() * 1e3;
        let goal = match self.limits.max_freeze {
            Some(_) if least > 1000.0 => format!("allow `--max-freeze {:.1}s`, ", least * 1.3e-3 + 0.05),
            Some(_) => format!("allow `--max-freeze {}ms`, ", (least * 1.3).ceil()),
            None => String::new(),
        };
        let slower = match self.last.freeze.floor() {
            floor if self.limits.max_freeze.is_some_and(|goal| floor > goal) => "",
            _ => "slow it down (`--on-divergence throttle`), ",
        };
        format!(
            "{goal}{slower}let its memory follow it (`--on-divergence lazy`), freeze it all the same (`--on-divergence freeze`), or move it when it writes less"
        )
    }
}

fn measured(rounds: &[Assessed]) -> Vec<Measured> {
    rounds.iter().map(|r| r.round).collect()
}

fn said(d: Duration) -> String {
    human_ms(d.as_secs_f64() * 1e3)
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
