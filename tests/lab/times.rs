//! How long each trial took: the slowest are told when all have ended, and every one with `ULPM_TIMES=all`.

use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};

/// So many are told of.
const SLOWEST: usize = 10;

static TAKEN: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// Runs a trial and remembers how long it took.
pub(crate) fn taken<T>(name: &str, run: impl FnOnce() -> T) -> T {
    let begun = Instant::now();
    let done = run();
    let mut all = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    all.push((begun.elapsed(), name.to_owned()));
    done
}

/// The lines for the end of a run that took this long.
pub(crate) fn told(run: Duration) -> String {
    let mut all = TAKEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
    all.sort_by(|a, b| b.cmp(a));
    let most =
        if std::env::var_os("ULPM_TIMES").is_some_and(|all| all == "all") { usize::MAX } else { SLOWEST };
    let sum: Duration = all.iter().map(|(took, _)| *took).sum();
    let mut text = format!(
        "{} trials of {:.0} s in {:.0} s; their processes worked {:.0} s. The slowest:\n",
        all.len(),
        sum.as_secs_f64(),
        run.as_secs_f64(),
        worked().as_secs_f64()
    );
    for (took, name) in all.iter().take(most) {
        let _ = writeln!(text, "{:>7.1} s  {name}", took.as_secs_f64());
    }
    text
}

/// Processor time of all descendants that have ended (`getrusage`, `RUSAGE_CHILDREN`).
fn worked() -> Duration {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else { return Duration::ZERO };
    let times = [usage.user_time(), usage.system_time()];
    times
        .iter()
        .map(|t| Duration::from_micros(u64::try_from(t.tv_sec() * 1_000_000 + t.tv_usec()).unwrap_or(0)))
        .sum()
}
