//! When to stop sending rounds: after each one, *again* or *freeze*. Pure: what was measured comes in, the
//! decision and its reason go out.
//!
//! A round sends what was written during the one before it. While rounds get shorter, so does what is written in
//! them; the freeze costs what the last one leaves. So: freeze when what was written during the last round can be
//! sent within the goal, or when rounds stop getting shorter.

use std::time::Duration;

/// What a round was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Pages sent in it.
    pub pages: u64,
    /// How long it took, until the target had applied it.
    pub took: Duration,
}

/// What is allowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Goal for the time that sending the last pages takes inside the freeze.
    pub last_send: Duration,
    /// Most rounds.
    pub rounds: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { last_send: Duration::from_millis(1), rounds: 30 }
    }
}

/// What follows a round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Another round; why.
    Again(String),
    /// Freeze; why.
    Freeze(String),
}

impl Next {
    /// The reason, for the report.
    pub fn why(&self) -> &str {
        match self {
            Next::Again(why) | Next::Freeze(why) => why,
        }
    }
}

/// Decides, given all rounds so far.
pub fn decide(rounds: &[Measured], limits: &Limits) -> Next {
    let Some(last) = rounds.last() else { return Next::Again("nothing is sent yet".to_owned()) };
    if rounds.len() == 1 {
        return Next::Again(
            "the first round sent everything; what was written meanwhile is not known yet".to_owned(),
        );
    }
    if rounds.len() >= limits.rounds {
        return Next::Freeze(format!("{} rounds are the limit", limits.rounds));
    }
    let rate = bandwidth(rounds);
    let send = Duration::from_secs_f64(last.pages as f64 / rate);
    if send <= limits.last_send {
        return Next::Freeze(format!("a round wrote only {} pages, {:.1} ms to send", last.pages, ms(send)));
    }
    let before = rounds[rounds.len() - 2];
    // one round that does not shrink may be chance
    let stuck = rounds.len() >= 4
        && last.pages * 10 > before.pages * 8
        && before.pages * 10 > rounds[rounds.len() - 3].pages * 8;
    if stuck {
        return Next::Freeze(format!(
            "rounds do not get smaller ({} pages, {:.1} ms to send): the process writes as fast as the link carries",
            last.pages,
            ms(send)
        ));
    }
    Next::Again(format!("{} pages were written, {:.1} ms to send", last.pages, ms(send)))
}

/// Pages per second, from the largest round: small ones measure latency.
fn bandwidth(rounds: &[Measured]) -> f64 {
    rounds
        .iter()
        .max_by_key(|r| r.pages)
        .filter(|r| r.pages > 0)
        .map_or(f64::MAX, |r| r.pages as f64 / r.took.as_secs_f64().max(1e-6))
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process of `size` pages that writes `dirty` pages a second, a link that carries `link` pages a second.
    fn simulate(size: u64, dirty: f64, link: f64) -> (Vec<Measured>, Next) {
        let mut rounds: Vec<Measured> = Vec::new();
        let mut pages = size;
        loop {
            let took = Duration::from_secs_f64(pages as f64 / link + 0.001);
            rounds.push(Measured { pages, took });
            match decide(&rounds, &Limits::default()) {
                Next::Again(_) => pages = ((dirty * took.as_secs_f64()) as u64).min(size),
                freeze => return (rounds, freeze),
            }
            assert!(rounds.len() <= 30);
        }
    }

    #[test]
    fn a_calm_process_freezes_after_few_rounds() {
        let (rounds, _) = simulate(65_536, 1_000.0, 100_000.0);
        assert!(rounds.len() <= 4, "{rounds:?}");
        assert!(rounds.last().unwrap().pages < 100);
    }

    #[test]
    fn a_wild_process_is_not_chased_for_ever() {
        let (rounds, next) = simulate(65_536, 200_000.0, 100_000.0);
        assert!(rounds.len() <= 6, "{rounds:?}");
        assert!(next.why().contains("do not get smaller"), "{next:?}");
    }

    #[test]
    fn an_idle_process_needs_two_rounds() {
        let (rounds, next) = simulate(1_000, 0.0, 100_000.0);
        assert_eq!(rounds.len(), 2);
        assert!(matches!(next, Next::Freeze(_)));
    }
}
