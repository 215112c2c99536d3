//! The policy on processes and links that exist only here.

use super::super::predict::Basis;
use super::super::simulate::{LinkModel, Simulated, Workload, play, simulate};
use super::*;

const RESIDENT: u64 = 65_536;

fn s(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn basis() -> Basis {
    Basis { resident_pages: RESIDENT, rtt: Duration::from_micros(300), ..Basis::default() }
}

/// Plays a process that writes `rate(from, to)` pages on a link of so many pages per second.
fn play_with(
    limits: Limits,
    mut writes: impl FnMut(f64, f64) -> f64,
    mut link: impl FnMut(f64) -> f64,
) -> (Simulated, Vec<Assessed>) {
    let mut written = |from: Duration, to: Duration, throttle: u8| {
        let runs = 1.0 - f64::from(throttle) / 100.0;
        let (from, to) = (from.as_secs_f64(), to.as_secs_f64());
        writes(from, from + (to - from) * runs).max(0.0) as u64
    };
    let (done, rounds) =
        play(&limits, &basis(), (ms(2), ms(2)), &mut written, &mut |at| link(at.as_secs_f64()));
    assert!(rounds.len() <= limits.max_rounds + 20, "{done:?}");
    (done, rounds)
}

/// Writes at random over `set` pages, `rate` pages per second: how many different ones within a window.
fn over(set: f64, rate: f64) -> impl FnMut(f64, f64) -> f64 {
    move |from, to| set * (1.0 - (-(rate * (to - from)) / set).exp())
}

fn goal(goal: Duration) -> Limits {
    Limits { max_freeze: Some(goal), ..Limits::default() }
}

fn on(on_divergence: OnDivergence, limits: Limits) -> Limits {
    Limits { on_divergence, ..limits }
}

#[test]
fn an_idle_process_needs_two_rounds() {
    let (done, _) = play_with(Limits::default(), |_, _| 0.0, |_| 1e5);
    assert_eq!((done.rounds, done.diverged), (2, false), "{done:?}");
    assert!(done.predicted_freeze < ms(10), "{done:?}");
}

#[test]
fn a_calm_process_freezes_after_few_rounds() {
    let (done, rounds) = play_with(Limits::default(), over(65_536.0, 1_000.0), |_| 1e5);
    assert!(done.rounds <= 4 && !done.diverged, "{done:?}");
    assert!(rounds.last().unwrap().freeze.pages < 100.0, "{rounds:?}");
}

#[test]
fn a_wild_process_is_not_chased_for_ever() {
    for limits in [Limits::default(), goal(ms(20))] {
        let (done, _) = play_with(limits, |from, to| (2e5 * (to - from)).min(65_536.0), |_| 1e5);
        assert!(done.rounds <= 7 && done.diverged, "{done:?}");
        assert!(done.why.contains("frozen nevertheless") && done.why.contains("/s"), "{done:?}");
    }
}

#[test]
fn a_wild_process_is_given_up_with_figures_and_advice() {
    for limits in [Limits::default(), goal(ms(20))] {
        let limits = on(OnDivergence::Abort, limits);
        let (done, _) = play_with(limits, |from, to| (2e5 * (to - from)).min(65_536.0), |_| 1e5);
        assert!(done.diverged && done.rounds <= 7, "{done:?}");
        for word in ["it writes", "the link carries", "the freeze would take", "--on-divergence"] {
            assert!(done.why.contains(word), "{word}: {done:?}");
        }
    }
}

#[test]
fn a_wild_process_is_throttled_until_it_converges() {
    for limits in [Limits::default(), goal(ms(50))] {
        let limits = on(OnDivergence::Throttle, Limits { max_rounds: 60, ..limits });
        let (done, rounds) = play_with(limits, over(65_536.0, 3e5), |_| 1e5);
        assert!(done.diverged && done.throttle >= 60, "{done:?}");
        assert!(limits.max_freeze.is_none_or(|goal| done.predicted_freeze <= goal), "{done:?}");
        let steps: Vec<u8> = rounds.iter().map(|r| r.round.throttle).collect();
        assert!(steps.is_sorted() && steps.contains(&20), "{steps:?}");
    }
}

#[test]
fn a_wild_process_goes_first_and_its_memory_follows() {
    let limits = on(OnDivergence::Lazy, Limits::default());
    let (done, _) = play_with(limits, |from, to| (2e5 * (to - from)).min(65_536.0), |_| 1e5);
    assert!(done.diverged && done.rounds <= 7 && done.why.contains("its memory follows"), "{done:?}");
    assert!(done.predicted_freeze < ms(20), "what is written is not sent in the freeze: {done:?}");
    let (calm, _) = play_with(limits, over(65_536.0, 1_000.0), |_| 1e5);
    assert!(!calm.diverged && !calm.why.contains("follows"), "{calm:?}");
}

#[test]
fn throttling_ends_when_it_does_not_help() {
    // whatever is done to it, it writes all it has
    let limits = on(OnDivergence::Throttle, goal(ms(50)));
    let (done, _) = play_with(limits, |_, _| 65_536.0, |_| 1e5);
    assert!(done.why.contains("90 % of the time") && done.why.contains("nevertheless"), "{done:?}");
    assert!(done.rounds <= 25, "{done:?}");
}

#[test]
fn a_goal_below_what_a_freeze_costs_is_said_to_be_out_of_reach() {
    for (choice, says) in [
        (OnDivergence::Freeze, "frozen nevertheless"),
        (OnDivergence::Abort, "even with no page left"),
        (OnDivergence::Throttle, "would not help"),
    ] {
        let (done, _) = play_with(on(choice, goal(Duration::from_micros(500))), |_, _| 0.0, |_| 1e5);
        assert!(done.diverged && done.rounds == 2 && done.throttle == 0, "{done:?}");
        assert!(done.why.contains(says), "{done:?}");
    }
}

#[test]
fn a_hot_set_and_a_cold_tail_freeze_with_the_hot_set() {
    // 1,000 pages without end, and 1,000 of the rest a second
    let writes = |from: f64, to: f64| over(1_000.0, 1e6)(from, to) + over(64_536.0, 1_000.0)(from, to);
    let (done, rounds) = play_with(Limits::default(), writes, |_| 1e5);
    let left = rounds.last().unwrap().freeze.pages;
    assert!((900.0..1_300.0).contains(&left) && done.rounds <= 8 && !done.diverged, "{done:?}");
    let (done, _) = play_with(goal(ms(50)), writes, |_| 1e5);
    assert!(!done.diverged && done.predicted_freeze <= ms(50), "{done:?}");
    let (done, _) = play_with(on(OnDivergence::Abort, goal(ms(8))), writes, |_| 1e5);
    assert!(done.diverged, "{done:?}");
}

#[test]
fn a_working_set_that_is_about_to_be_left_behind_is_not_called_stuck() {
    // as in the trial with a slow, lossy link: rounds shrink, and the first predictions were too low
    let limits = Limits { max_rounds: 60, ..Limits::default() };
    let (done, _) = play_with(limits, over(24_576.0, 2_000.0), |at| 2_400.0 + 200.0 * (at * 7.0).sin());
    assert!(!done.diverged && done.predicted_freeze < ms(200), "{done:?}");
}

#[test]
fn bursts_are_waited_for_with_a_goal() {
    // two seconds of every six it writes as fast as the link carries
    let burst = |from: f64, to: f64| {
        let mut pages = 0.0;
        let mut at = from;
        while at < to {
            let step = (to - at).min(0.001);
            pages += step * if at % 6.0 < 2.0 { 1e5 } else { 500.0 };
            at += step;
        }
        pages.min(65_536.0)
    };
    let (done, _) = play_with(goal(ms(20)), burst, |_| 1e5);
    assert!(!done.diverged && done.predicted_freeze <= ms(20), "{done:?}");
}

#[test]
fn a_growing_process_converges() {
    // 2,000 new pages a second, and 2,000 pages of a set of 500 rewritten
    let writes = |from: f64, to: f64| 2_000.0 * (to - from) + over(500.0, 2_000.0)(from, to);
    let (done, _) = play_with(Limits::default(), writes, |_| 5e4);
    assert!(!done.diverged && done.rounds <= 6 && done.predicted_freeze < ms(12), "{done:?}");
}

#[test]
fn a_jittery_link_neither_ends_it_early_nor_keeps_it_for_ever() {
    for seed in 0..50_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let jitter = move |_: f64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            1e5 * (0.3 + 1.4 * (state % 1000) as f64 / 1000.0)
        };
        let (done, _) = play_with(goal(ms(20)), over(65_536.0, 10_000.0), jitter);
        assert!(!done.diverged && done.predicted_freeze <= ms(20) && done.rounds <= 12, "{seed}: {done:?}");
    }
}

#[test]
fn rounds_and_time_are_limits_and_divergence_says_what_then() {
    let wild = |from: f64, to: f64| (9.5e4 * (to - from)).min(65_536.0);
    let few = Limits { max_rounds: 3, ..Limits::default() };
    let (done, _) = play_with(few, wild, |_| 1e5);
    assert!(done.rounds == 3 && done.why.contains("3 rounds are the limit"), "{done:?}");
    let short = Limits { max_time: Some(s(1.0)), ..Limits::default() };
    let (done, _) = play_with(short, wild, |_| 1e5);
    assert!(done.total < s(2.0) && done.why.contains("the time for the rounds"), "{done:?}");
    let (done, _) = play_with(on(OnDivergence::Abort, short), wild, |_| 1e5);
    assert!(done.diverged && done.why.contains("the link carries"), "{done:?}");
    let one = Limits { max_rounds: 1, ..Limits::default() };
    assert_eq!(play_with(one, |_, _| 0.0, |_| 1e5).0.rounds, 1);
    let met = Limits { max_time: Some(s(0.9)), ..on(OnDivergence::Abort, goal(s(1.0))) };
    assert!(!play_with(met, over(65_536.0, 5e4), |_| 1e5).0.diverged);
}

#[test]
fn a_goal_that_is_met_is_not_paid_for_with_long_rounds() {
    // a slow link: each further round takes seconds, and the goal is generous
    let slow = |limits| play_with(limits, over(65_536.0, 1_500.0), |_| 2_000.0);
    let (generous, _) = slow(goal(s(20.0)));
    let (plain, _) = slow(Limits::default());
    assert!(!generous.diverged && generous.rounds < plain.rounds, "{generous:?} {plain:?}");
    // on a fast one the shortest freeze costs next to nothing, and is taken
    let (quick, rounds) = play_with(goal(s(20.0)), over(65_536.0, 1_000.0), |_| 1e5);
    assert!(
        quick.predicted_freeze < ms(10) && rounds.last().unwrap().freeze.for_pages <= LITTLE,
        "{quick:?}"
    );
}

#[test]
fn a_limited_bandwidth_slows_rounds_but_not_the_freeze() {
    let limits = Limits { bandwidth: Some(Rate::bytes_per_s(20_000_000)), ..Limits::default() };
    let (done, rounds) = play_with(limits, over(65_536.0, 1_000.0), |_| 1e5);
    assert!(rounds[0].round.paced && done.total > s(13.0), "{done:?}");
    assert!(!done.diverged && done.predicted_freeze < ms(20), "{done:?}");
}

#[test]
fn the_pages_left_are_foretold() {
    for (set, rate) in [(65_536.0, 1_000.0), (65_536.0, 20_000.0), (2_000.0, 50_000.0), (300.0, 1e6)] {
        let mut writes = over(set, rate);
        let (done, rounds) = play_with(Limits::default(), &mut writes, |_| 1e5);
        let last = rounds.last().unwrap();
        // what it will have written when the final scan comes
        let real = writes(0.0, (last.round.took + ms(3)).as_secs_f64());
        let foretold = last.freeze.pages;
        assert!(
            (foretold - real).abs() <= 0.25 * real + 8.0,
            "{set} {rate}: {foretold} for {real}; {done:?}"
        );
    }
}

#[test]
fn a_workload_given_as_a_curve_goes_through_the_same_decisions() {
    let curve = |pages: [f64; 4]| Workload {
        written: [10, 100, 1_000, 10_000].map(ms).into_iter().zip(pages).collect(),
        resident_pages: RESIDENT,
    };
    let link = |pages_per_s| LinkModel { pages_per_s, rtt: ms(1), per_round: ms(3), scan: ms(3) };
    let calm = curve([10.0, 100.0, 1_000.0, 5_000.0]);
    assert!((calm.within(ms(5)) - 5.0).abs() < 0.01 && (calm.within(ms(550)) - 550.0).abs() < 0.01);
    assert!((calm.within(ms(20_000)) - 9_444.4).abs() < 1.0, "{}", calm.within(ms(20_000)));
    assert_eq!(Workload { resident_pages: 9, ..Workload::default() }.within(s(1.0)), 0.0);
    let fast = simulate(&calm, &Limits::default(), &link(1e5), &Basis::default());
    let slow = simulate(&calm, &Limits::default(), &link(1e4), &Basis::default());
    assert!(!fast.diverged && !slow.diverged && slow.total > fast.total, "{fast:?} {slow:?}");
    let wild = curve([2_000.0, 20_000.0, 60_000.0, 65_536.0]);
    assert!(simulate(&wild, &Limits::default(), &link(1e4), &Basis::default()).diverged);
}

/// What CI saw: everything was held back in a round of 1.8 ms, in which the process did not get a CPU. It was frozen
/// for 2.1 s right after the next one, for a goal of 50 ms and with 3 ms foretold.
#[test]
fn a_short_round_without_writes_is_no_end_of_writing() {
    let basis = Basis { resident_pages: 4408, ..basis() };
    let round = |pages, written, window: f64, took: f64| Measured {
        pages,
        written,
        held: if pages == 0 { written } else { 0 },
        bytes: pages * 4100,
        window: s(window),
        sending: s(took),
        took: s(took),
        ..Measured::default()
    };
    let rounds = [
        round(4123, 4124, 0.0, 2.134),
        round(4104, 4104, 2.134, 2.129),
        round(4104, 4104, 2.129, 2.126),
        round(0, 4104, 2.126, 0.0018),
        round(4104, 0, 0.0018, 2.123),
    ];
    let assessed: Vec<Assessed> = (1..=rounds.len())
        .map(|n| Assessed { round: rounds[n - 1], freeze: basis.predict(&rounds[..n], rounds[n - 1].took) })
        .collect();
    let decision = decide(&assessed, &goal(ms(50)), basis.rtt, s(8.5));
    assert!(decision.diverged || decision.next == Next::Again, "{decision:?}");
    assert!(assessed[4].freeze.total() > s(1.5), "{:?}", assessed[4].freeze);
}
