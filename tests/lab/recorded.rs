//! What the programs of a lab say of the hand-over (`ulpm::handover` at level debug): what each machine has heard, what follows, and
//! what was carried out. It must be what the machine, asked here, answers to the same events, all of it and in that order; only
//! the end of a program, or an action that failed, may come in between.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use ulpm::handover::{After, Machine, Source, SourceAction, SourceEvent, Target, TargetAction, TargetEvent};

/// What the programs are told to say.
pub(crate) const LOG: &str = "warn,ulpm::arrivals=info,ulpm::handover=debug";

/// What one program said of one migration, on one side.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Who {
    file: String,
    side: String,
    id: String,
}

/// Side, state and event of what has been heard.
pub(crate) type Met = BTreeSet<(String, String, String)>;

#[derive(Debug)]
enum Line {
    Heard { state: String, event: String, actions: Vec<String>, next: String },
    CarriedOut { action: String, done: bool },
}

/// All that was said, by who said it.
#[derive(Debug, Default)]
pub(crate) struct Records(BTreeMap<Who, Vec<Line>>);

impl Records {
    /// Of all that has run in a lab so far.
    pub(crate) fn read(dir: &Path) -> Result<Self> {
        let mut records = Records::default();
        for file in fs::read_dir(dir)?.flatten() {
            let name = file.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".err") {
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(file.path())?).into_owned();
            // a last line without an end is one of a program that was killed
            for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
                if let Some((side, id, line)) = parse(line) {
                    records.0.entry(Who { file: name.clone(), side, id }).or_default().push(line);
                }
            }
        }
        Ok(records)
    }

    /// Without those that were there before.
    pub(crate) fn since(mut self, before: &Records) -> Self {
        self.0.retain(|who, _| !before.0.contains_key(who));
        self
    }

    /// Holds everything that was carried out against what the machines say; what they have heard. `to_end`: no program was killed.
    pub(crate) fn check(&self, to_end: bool) -> Result<Met> {
        let mut met = Met::new();
        for (who, lines) in &self.0 {
            let checked = match who.side.as_str() {
                "source" => replay(&Source::ALL, &SourceEvent::ALL, lines, to_end),
                _ => replay(&Target::ALL, &TargetEvent::ALL, lines, to_end),
            };
            checked.with_context(|| format!("{who:?}: {lines:#?}"))?;
            for line in lines {
                if let Line::Heard { state, event, .. } = line {
                    met.insert((who.side.clone(), state.clone(), event.clone()));
                }
            }
        }
        Ok(met)
    }
}

/// What a program says that leaves an action out, does one too early, or says what its machine does not: each is found.
pub(crate) fn wrong_ones_are_found() -> Result<()> {
    let line = |text: &str| format!("DEBUG {text}");
    let heard = |event: &str, actions: &str, next: &str| {
        let what = format!("state=Open event={event} actions=[{actions}] next={next}");
        line(&format!("heard side=\"source\" id=\"m-1\" {what}"))
    };
    let done = |action: &str, done: bool| {
        line(&format!("carried out side=\"source\" id=\"m-1\" action={action} done={done}"))
    };
    let never = heard("Never", "Resume, JournalClosed", "Resumed");
    let (resumed, closed) = (done("Resume", true), done("JournalClosed", true));
    let asked = [heard("Recovered", "Ask", "Open"), done("Ask", false)];
    let checked = |lines: &[&String]| -> Result<Met> {
        let dir = tempfile::tempdir()?;
        let text: String = lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect();
        fs::write(dir.path().join("01-a-ulpm.err"), text)?;
        Records::read(dir.path())?.check(true)
    };
    ensure!(checked(&[&never, &resumed, &closed])?.len() == 1, "a right one is none");
    let unsettled = heard("Unsettled", "LeaveStopped", "Open");
    checked(&[&asked[0], &asked[1], &unsettled, &done("LeaveStopped", true)])?;
    let wrong: [&[&String]; 6] = [
        &[&never, &closed, &resumed],
        &[&never, &resumed],
        &[&never, &resumed, &closed, &closed],
        &[&heard("Never", "JournalClosed", "Resumed"), &closed],
        &[&heard("Never", "Resume, JournalClosed", "Done"), &resumed, &closed],
        // it was asked in vain: that is what is to be heard of
        &[&asked[0], &asked[1], &never, &resumed, &closed],
    ];
    for lines in wrong {
        ensure!(checked(lines).is_err(), "not found: {lines:?}");
    }
    Ok(())
}

fn parse(line: &str) -> Option<(String, String, Line)> {
    let (_, fields) = line.split_once(" side=\"")?;
    let of = |name: &str| {
        let (_, value) = fields.split_once(&format!(" {name}="))?;
        Some(value.split(' ').next()?.trim_matches('"').to_owned())
    };
    let side = fields.split('"').next()?.to_owned();
    let parsed = if line.contains(" heard side=") {
        let (_, list) = fields.split_once(" actions=[")?;
        let list = list.split(']').next()?.split(", ").filter(|name| !name.is_empty());
        let actions = list.map(str::to_owned).collect();
        Line::Heard { state: of("state")?, event: of("event")?, actions, next: of("next")? }
    } else {
        Line::CarriedOut { action: of("action")?, done: of("done")? == "true" }
    };
    Some((side, of("id")?, parsed))
}

fn named<T: Copy + Debug>(all: &[T], name: &str) -> Result<T> {
    all.iter().copied().find(|one| format!("{one:?}") == name).with_context(|| format!("no {name}"))
}

/// Machines whose actions may bring about an event.
trait Replayed: Machine + PartialEq {
    /// Whether this one's outcome is heard in the place of the actions behind it.
    fn has_outcome(action: Self::Action) -> bool;
    /// Whether a program begins anew with this state: it goes on from what is written.
    fn begins(self) -> bool;
}

impl Replayed for Source {
    fn has_outcome(action: SourceAction) -> bool {
        matches!(action, SourceAction::Ask | SourceAction::Follow)
    }

    fn begins(self) -> bool {
        matches!(self, Source::Moving | Source::Open)
    }
}

impl Replayed for Target {
    fn has_outcome(action: TargetAction) -> bool {
        matches!(action, TargetAction::JournalCommitted | TargetAction::Outlive)
    }

    fn begins(self) -> bool {
        matches!(self, Target::Building | Target::Running)
    }
}

fn replay<M: Replayed>(states: &[M], events: &[M::Event], lines: &[Line], to_end: bool) -> Result<()> {
    let (mut at, mut due): (Option<M>, &[M::Action]) = (None, &[]);
    // what the last action has come to, if it is to be heard of next
    let (mut must, mut may) = (None, false);
    for line in lines {
        match line {
            Line::Heard { state, event, actions, next } => {
                let (mut machine, event) = (named(states, state)?, named(events, event)?);
                ensure!(due.is_empty() || may, "{due:?} not carried out before {event:?}");
                if let Some(failed) = must.take() {
                    ensure!(
                        format!("{failed:?}") == format!("{event:?}"),
                        "{event:?} in the place of {failed:?}"
                    );
                }
                ensure!(at.map_or(machine.begins(), |at| at == machine), "in {state}, not in {at:?}");
                due = machine.on(event);
                let names: Vec<String> = due.iter().map(|action| format!("{action:?}")).collect();
                ensure!(names == *actions, "the machine says {names:?}, the program {actions:?}");
                ensure!(
                    machine == named(states, next)?,
                    "the machine is in {machine:?}, the program in {next}"
                );
                (at, may) = (Some(machine), false);
            }
            Line::CarriedOut { action, done } => {
                let (first, rest) =
                    due.split_first().with_context(|| format!("{action} was not to be done"))?;
                ensure!(format!("{first:?}") == *action, "{action} in the place of {first:?}");
                (due, may) = (rest, *done && M::has_outcome(*first));
                match M::failed(*first) {
                    After::Stop if !done => due = &[],
                    After::Hear(event) if !done => (due, must) = (&[], Some(event)),
                    _ => {}
                }
            }
        }
    }
    ensure!(!to_end || (due.is_empty() && must.is_none()), "{due:?} {must:?} not carried out at the end");
    Ok(())
}
