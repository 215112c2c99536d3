//! What must hold in every state, and from every state; and that what is broken is found.

use std::collections::HashMap;

use stateright::{Checker, Property};

use super::world::{HEARD, Signal};
use super::*;
use crate::handover::drive::transitions;

impl World {
    fn runs_at_source(&self) -> bool {
        self.at_source == AtSource::Running
    }

    fn two_run(&self) -> bool {
        self.runs_at_source() && self.at_target == AtTarget::Running
    }

    /// A copy is there that is the process, with all its memory, or it came to its own end.
    fn one_is_left(&self) -> bool {
        let there = matches!(self.at_target, AtTarget::Outlives | AtTarget::Running) && self.whole;
        self.at_source != AtSource::Gone || there || self.at_target == AtTarget::Ended
    }

    /// A signal to the copy was neither handed on nor named.
    fn signal_is_lost(&self) -> bool {
        self.settled() && matches!(self.signal, Signal::Kept | Signal::Lost) && !self.crashed
    }

    /// Nobody is at work, and nothing is open.
    fn settled(&self) -> bool {
        self.source.is_none() && self.target.is_none() && self.source_journal.cached.is_none()
    }

    /// The one known limit: the host of the target went down between letting go and the next write to its disk. It has
    /// forgotten that moment, and the copy at the source goes on from the hand-over.
    fn forgotten(&self) -> bool {
        self.ran && self.target_rebooted && self.was_sent(Message::AnswerNever)
    }

    fn one_runs(&self) -> bool {
        let there = matches!(self.at_target, AtTarget::Running | AtTarget::Ended);
        self.runs_at_source() != there && matches!(self.at_source, AtSource::Running | AtSource::Gone)
    }
}

pub(super) fn properties() -> Vec<Property<Protocol>> {
    vec![
        Property::always("never two running", |_, w: &World| !w.two_run()),
        Property::always("never none recoverable", |_, w: &World| w.one_is_left() || w.excused),
        Property::always("what ran there is not begun again here", |_, w: &World| !w.rolled_back),
        Property::always("a settled run has exactly one copy", |_, w: &World| {
            !w.settled() || w.one_runs() || w.excused || w.forced || (w.forgotten() && w.runs_at_source())
        }),
        Property::always("no signal is lost", |_, w: &World| !w.signal_is_lost()),
        Property::sometimes("it can move", |_, w: &World| w.settled() && w.at_target == AtTarget::Running),
        Property::sometimes("it can be given up", |_, w: &World| w.settled() && w.runs_at_source()),
    ]
}

/// States from which no settled state can be reached any more.
fn stuck(protocol: &Protocol) -> usize {
    let mut all = protocol.init_states();
    let mut index: HashMap<World, usize> = all.iter().cloned().zip(0..).collect();
    let mut back: Vec<Vec<usize>> = vec![Vec::new(); all.len()];
    let mut at = 0;
    while at < all.len() {
        for next in protocol.next_states(&all[at].clone()) {
            let to = *index.entry(next.clone()).or_insert_with(|| {
                all.push(next);
                back.push(Vec::new());
                all.len() - 1
            });
            back[to].push(at);
        }
        at += 1;
    }
    let mut ends: Vec<bool> = all.iter().map(World::settled).collect();
    let mut todo: Vec<usize> = (0..all.len()).filter(|i| ends[*i]).collect();
    while let Some(state) = todo.pop() {
        for before in &back[state] {
            if !std::mem::replace(&mut ends[*before], true) {
                todo.push(*before);
            }
        }
    }
    if let Some(first) = ends.iter().position(|e| !e) {
        println!("stuck: {:?}", all[first]);
    }
    ends.iter().filter(|e| !**e).count()
}

const NONE: Budget =
    Budget { crashes: [0, 0], cuts: [0, 0], writes: [0, 0], ends: 1, signals: 0, lazy: false };
const SMALL: Budget = Budget { crashes: [1, 1], writes: [1, 1], lazy: true, ..NONE };
const CUTS: Budget = Budget { crashes: [1, 1], cuts: [1, 1], lazy: true, ..NONE };
const SIGNALS: Budget = Budget { crashes: [1, 0], writes: [1, 0], signals: 1, lazy: true, ..NONE };
const LARGE: Budget = Budget { crashes: [2, 2], cuts: [1, 1], writes: [1, 1], ..NONE };

fn check(broken: Broken, budget: Budget) -> (usize, Vec<&'static str>) {
    let checker = Protocol { broken, budget }.checker().spawn_bfs().join();
    let mut wrong = Vec::new();
    for (name, path) in checker.discoveries() {
        let is_example = name.starts_with("it can");
        if !is_example {
            if broken == Broken::Nothing {
                println!("{name}: {:?}", path.clone().into_actions());
            }
            wrong.push(name);
        }
    }
    if broken == Broken::Nothing {
        for name in ["it can move", "it can be given up"] {
            assert!(checker.discovery(name).is_some(), "nothing is checked if not: {name}");
        }
    }
    wrong.sort_unstable();
    (checker.unique_state_count(), wrong)
}

#[test]
fn the_protocol_holds_whatever_fails() {
    let budgets = [
        ("crashes and failed actions", SMALL),
        ("power cuts", CUTS),
        ("signals", SIGNALS),
        ("all of it", LARGE),
    ];
    for (name, budget) in budgets {
        let (states, wrong) = check(Broken::Nothing, budget);
        println!("{name}: {states} states ({budget:?})");
        assert!(wrong.is_empty(), "{wrong:?}");
        assert!(states > 1000, "only {states} states");
    }
}

#[test]
fn every_run_can_end_from_every_state() {
    for budget in [SMALL, CUTS, SIGNALS] {
        assert_eq!(stuck(&Protocol { broken: Broken::Nothing, budget }), 0);
    }
}

/// What no walk meets is no transition: else it would be there untried.
#[test]
fn every_transition_is_met() {
    HEARD.with_borrow_mut(|heard| *heard = Default::default());
    let _ = [SMALL, CUTS].map(|budget| stuck(&Protocol { broken: Broken::Nothing, budget }));
    let (source, target) = HEARD.take();
    let text = |(state, event): (Source, SourceEvent)| format!("{state:?} {event:?}");
    let mut unmet: Vec<_> = transitions(&Source::ALL, &SourceEvent::ALL).into_iter().map(text).collect();
    unmet.retain(|text| !source.contains(text));
    let text = |(state, event): (Target, TargetEvent)| format!("{state:?} {event:?}");
    unmet.extend(
        transitions(&Target::ALL, &TargetEvent::ALL).into_iter().map(text).filter(|t| !target.contains(t)),
    );
    assert!(unmet.is_empty(), "not met: {unmet:?}");
}

#[test]
fn what_is_broken_is_found() {
    let variants = [
        (Broken::CommitBeforeJournal, "never two running"),
        (Broken::NoHold, "never two running"),
        (Broken::ResumeOnLost, "never two running"),
        (Broken::KillOnSend, "never none recoverable"),
        (Broken::RunBeforeJournal, "never two running"),
        (Broken::NeverNotWritten, "never two running"),
        (Broken::RunningWhileAtWork, "never none recoverable"),
        (Broken::NoNote, "what ran there is not begun again here"),
        (Broken::DownIsRunning, "never none recoverable"),
        (Broken::KillWhileOutstanding, "never none recoverable"),
        (Broken::TidyWhenHeld, "never two running"),
        (Broken::NotSentAfterSending, "never two running"),
        (Broken::NoLastSignals, "no signal is lost"),
    ];
    for (broken, expected) in variants {
        let mut checked = [SMALL, CUTS, SIGNALS].into_iter().map(|budget| check(broken, budget));
        let found = checked.find(|(_, wrong)| wrong.contains(&expected));
        println!("{broken:?}: {found:?}");
        assert!(found.is_some(), "{broken:?} was not found");
    }
    let without = Protocol { broken: Broken::NoRecover, budget: SMALL };
    assert!(stuck(&without) > 0, "a run without `ulpm recover` cannot always end");
}

#[test]
#[ignore = "takes minutes: three crashes and two power cuts of each side"]
fn the_protocol_holds_within_larger_bounds() {
    let budget = Budget { crashes: [3, 3], cuts: [2, 2], writes: [2, 2], signals: 1, lazy: true, ..NONE };
    let (states, wrong) = check(Broken::Nothing, budget);
    println!("larger: {states} states ({budget:?})");
    assert!(wrong.is_empty(), "{wrong:?}");
}
