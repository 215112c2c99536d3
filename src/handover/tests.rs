//! Every interleaving of messages, losses and failures, in small: never two copies that run, never none that can
//! be brought back.

use std::collections::HashSet;

use super::{Source, SourceAction, SourceEvent, Target, TargetAction, TargetEvent};

/// The two sides and the wires between them. Messages may be lost (the connection then is gone for good, as QUIC
/// has it), and either side may fail at any time before its commit.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    source: u8,
    target: u8,
    source_runs: bool,
    source_exists: bool,
    target_runs: bool,
    target_exists: bool,
    committed: bool,
    refused: bool,
    to_target: Option<u8>,
    to_source: Option<u8>,
    connected: bool,
}

const SOURCES: [Source; 5] =
    [Source::Moving, Source::Committing, Source::Done, Source::Resumed, Source::Open];
const TARGETS: [Target; 5] =
    [Target::Building, Target::Prepared, Target::Committed, Target::Running, Target::Destroyed];

fn index<T: PartialEq>(all: &[T], value: T) -> u8 {
    all.iter().position(|v| *v == value).expect("listed") as u8
}

impl World {
    fn start() -> Self {
        World {
            source: 0,
            target: 0,
            // frozen, but ours
            source_runs: false,
            source_exists: true,
            target_runs: false,
            target_exists: true,
            committed: false,
            refused: false,
            to_target: None,
            to_source: None,
            connected: true,
        }
    }

    fn source(mut self, event: SourceEvent) -> Self {
        let mut state = SOURCES[self.source as usize];
        for action in state.on(event) {
            match action {
                SourceAction::SendCommit => self.to_target = Some(1),
                SourceAction::SendAbort => self.to_target = Some(2),
                SourceAction::Kill => {
                    self.source_exists = false;
                    self.source_runs = false;
                }
                SourceAction::Resume => self.source_runs = true,
                SourceAction::JournalOpen
                | SourceAction::Hold
                | SourceAction::LeaveStopped
                | SourceAction::JournalClosed => {}
            }
        }
        self.source = index(&SOURCES, state);
        self
    }

    fn target(mut self, event: TargetEvent) -> Self {
        let mut state = TARGETS[self.target as usize];
        let mut decided_otherwise = false;
        for action in state.on(event) {
            match action {
                TargetAction::SendPrepared => self.to_source = Some(1),
                TargetAction::JournalCommitted => {
                    // a written refusal stands
                    decided_otherwise = self.refused;
                    self.committed = !self.refused;
                }
                TargetAction::LetGo => self.target_runs = true,
                TargetAction::SendRunning => self.to_source = Some(2),
                TargetAction::SendFailed => self.to_source = Some(3),
                TargetAction::Destroy => self.target_exists = false,
            }
        }
        self.target = index(&TARGETS, state);
        if decided_otherwise { self.target(TargetEvent::Failed) } else { self }
    }

    /// Everything that can happen next.
    fn next(&self) -> Vec<World> {
        let mut all = Vec::new();
        let target = TARGETS[self.target as usize];
        if target == Target::Building {
            all.push(self.clone().target(TargetEvent::Applied));
            all.push(self.clone().target(TargetEvent::Failed));
        }
        if target == Target::Committed {
            all.push(self.clone().target(TargetEvent::Journalled));
        }
        if self.connected {
            all.push(self.clone().source(SourceEvent::Cancelled));
            all.extend(self.deliver());
            // the link breaks: what was under way is lost, or has arrived already; both sides notice in any order
            all.push(World { connected: false, to_target: None, to_source: None, ..self.clone() });
            all.push(World { connected: false, to_source: None, ..self.clone() });
        } else {
            all.extend(self.deliver());
            all.push(self.clone().source(SourceEvent::Lost));
            all.push(self.clone().target(TargetEvent::Lost));
            all.extend(self.settle());
        }
        all
    }

    fn deliver(&self) -> Vec<World> {
        let mut all = Vec::new();
        if let Some(message) = self.to_target {
            let event = if message == 1 { TargetEvent::Commit } else { TargetEvent::Abort };
            all.push(World { to_target: None, ..self.clone() }.target(event));
        }
        if let Some(message) = self.to_source {
            let event =
                [SourceEvent::Prepared, SourceEvent::Running, SourceEvent::Failed][message as usize - 1];
            all.push(World { to_source: None, ..self.clone() }.source(event));
        }
        all
    }

    /// The source, or `ulpm recover`, asks the target's journal by another connection, whatever the target's session
    /// is doing meanwhile.
    fn settle(&self) -> Vec<World> {
        match SOURCES[self.source as usize] {
            Source::Open | Source::Committing if self.committed => {
                vec![self.clone().source(SourceEvent::Running)]
            }
            Source::Open | Source::Committing => {
                vec![World { refused: true, ..self.clone() }.source(SourceEvent::Never)]
            }
            _ => Vec::new(),
        }
    }

    fn check(&self) {
        assert!(!(self.source_runs && self.target_runs), "two copies run");
        assert!(self.source_exists || self.target_exists, "no copy is left");
        assert!(!self.target_runs || self.committed, "it runs at the target without a journal entry");
        assert!(
            !(self.source_runs && self.committed && self.target_exists),
            "resumed in spite of the commit"
        );
    }
}

#[test]
fn never_two_never_none() {
    let mut seen = HashSet::from([World::start()]);
    let mut todo = vec![World::start()];
    let mut ends = 0;
    while let Some(world) = todo.pop() {
        world.check();
        let next = world.next();
        ends += usize::from(next.iter().all(|n| *n == world));
        for w in next {
            if seen.insert(w.clone()) {
                todo.push(w);
            }
        }
    }
    assert!(seen.len() >= 40, "only {} states were reached", seen.len());
    assert!(ends > 0);
}

#[test]
fn a_silent_target_after_the_commit_leaves_it_open() {
    let mut source = Source::Moving;
    assert_eq!(
        source.on(SourceEvent::Prepared),
        [SourceAction::JournalOpen, SourceAction::Hold, SourceAction::SendCommit]
    );
    assert_eq!(source.on(SourceEvent::Cancelled), []);
    assert_eq!(source.on(SourceEvent::Lost), [SourceAction::LeaveStopped]);
    assert_eq!(source, Source::Open);
    assert_eq!(source.on(SourceEvent::Never), [SourceAction::Resume, SourceAction::JournalClosed]);
}
