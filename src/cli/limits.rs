//! When to freeze: the options of `ulpm live` about it.

use clap::{Args, ValueEnum};

use crate::convergence::policy::{Limits, OnDivergence};
use crate::precopy::control::rounds;
use crate::report::{Rate, Span};

/// What becomes of a process that writes faster than the link carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Diverging {
    /// It is frozen nevertheless, for as long as it takes
    Freeze,
    /// It is slowed down in steps (stopped for up to 90 % of the time) until rounds get shorter
    Throttle,
    /// The move is given up (exit code 4); the process runs on here
    Abort,
    /// The process goes first; what is left of its memory follows it while it runs there
    Lazy,
}

impl From<Diverging> for OnDivergence {
    fn from(choice: Diverging) -> Self {
        match choice {
            Diverging::Freeze => OnDivergence::Freeze,
            Diverging::Throttle => OnDivergence::Throttle,
            Diverging::Abort => OnDivergence::Abort,
            Diverging::Lazy => OnDivergence::Lazy,
        }
    }
}

/// When to freeze.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "When to freeze")]
pub(crate) struct LimitArgs {
    /// The freeze, as predicted, shall not be longer (20ms, 1.5s); without it: as short as rounds can make it
    #[arg(long, value_name = "TIME")]
    max_freeze: Option<Span>,
    /// Most rounds that go ahead
    #[arg(long, value_name = "N", default_value = "30", value_parser = rounds)]
    max_rounds: usize,
    /// Longest time for the rounds; a round under way is finished, unless the move is to be given up
    #[arg(long, value_name = "TIME")]
    max_time: Option<Span>,
    /// Most bytes (100M) or bits (1Gbit) per second in rounds; the freeze itself sends as fast as it can
    #[arg(long, value_name = "RATE")]
    bandwidth: Option<Rate>,
    /// What to do if rounds get no shorter, or if they or the time are up, and the freeze would be too long
    #[arg(long, value_enum, value_name = "WHAT", default_value_t = Diverging::Freeze)]
    on_divergence: Diverging,
}

impl LimitArgs {
    /// As the policy wants them.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            max_freeze: self.max_freeze.map(Span::duration),
            max_rounds: self.max_rounds,
            max_time: self.max_time.map(Span::duration),
            bandwidth: self.bandwidth,
            on_divergence: self.on_divergence.into(),
        }
    }
}
