//! Lying targets against the real `ulpm live`: whatever they say, the process runs on at the source, unharmed, and nothing
//! of it was told that it was not asked to send.

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use ulpm::image::{Note, Obstacle};
use ulpm::transport::greeting::Hello;
use ulpm::transport::protocol::{ToSource, ToTarget, kind};

use super::super::trial;
use super::super::victims::Victim;
use super::peer::{Act, Target};
use crate::lab::Lab;

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("hostile target asks for other files", &[], other_files),
        trial("hostile target answers nonsense", &[], nonsense),
        trial("hostile target claims that it runs", &[], claims),
        trial("hostile target writes to the terminal", &[], terminal),
    ]
}

fn is(message: &ToTarget, name: &str) -> bool {
    format!("{message:?}").starts_with(name)
}

fn other_files(lab: &mut Lab) -> Result<()> {
    let target = Target::serve(lab, |message| {
        is(message, "Describe").then(|| Act::Say(ToSource::NeedHashes(vec!["/etc/shadow".into()])))
    })?;
    let victim = Victim::start(lab, "threads")?;
    lab.live("a", victim.pid, "b", &[])?.refused(1, &["/etc/shadow", "does not use"])?;
    ensure!(!target.heard().iter().any(|name| name == "Hashes"), "it was told: {:?}", target.heard());
    victim.check_running(lab)?;
    victim.finish()
}

fn nonsense(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    let answers: [fn() -> Act; 10] = [
        || Act::Frame(104, vec![0xff; 100]),
        || Act::Frame(101, Vec::new()),
        // more than a source takes
        || Act::Frame(110, vec![0; 20 << 20]),
        // a million empty texts, and more
        || Act::Frame(103, [&[0x80, 0x80, 0x80, 0x04][..], &vec![0; 8 << 20]].concat()),
        // what only a source says
        || Act::Frame(2, Vec::new()),
        // pages are nothing that a source takes
        || Act::Frame(kind::PAGES, vec![0; 4108]),
        || Act::Frame(kind::OBJECT_PAGES, vec![0; 4120]),
        || Act::Say(ToSource::Clock(i64::MIN, i64::MAX)),
        || Act::Say(ToSource::Settled(Some(1))),
        || Act::Say(ToSource::RoundApplied(u32::MAX)),
    ];
    for step in ["Hello", "Describe", "Clock", "Begin", "RoundEnd"] {
        for (index, answer) in answers.into_iter().enumerate() {
            // a clock may say anything, and that round might really be the last one's number
            if (step, index) == ("Clock", 7) {
                continue;
            }
            let target = Target::serve(lab, move |message| is(message, step).then(answer))?;
            let outcome = lab.live("a", victim.pid, "b", &[])?;
            ensure!(matches!(outcome.exit, 1 | 4), "{step} {index}: {outcome:?}");
            ensure!(!outcome.stderr.contains("panicked"), "{step} {index}: {}", outcome.stderr);
            drop(target);
            victim.check_running(lab)?;
        }
    }
    victim.finish()
}

/// A process that was not committed cannot run there; numbers that are none do no harm.
fn claims(lab: &mut Lab) -> Result<()> {
    let victim = Victim::start(lab, "threads")?;
    for step in ["Describe", "Begin", "RoundEnd", "State"] {
        let running = || ToSource::Running {
            pid: 1,
            at_boottime_ns: i64::MIN,
            journal_ms: f64::NAN,
            resume_ms: -1e300,
        };
        let target = Target::serve(lab, move |message| is(message, step).then(|| Act::Say(running())))?;
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        ensure!(matches!(outcome.exit, 1 | 4), "{step}: {outcome:?}");
        drop(target);
        victim.check_running(lab)?;
    }
    // prepared, in no time at all, and then it never was
    let target = Target::serve(lab, |message| match message {
        ToTarget::State(..) => {
            Some(Act::Say(ToSource::Prepared { apply_ms: f64::NAN, verify_ms: f64::NAN, verified: true }))
        }
        ToTarget::Commit(_) => Some(Act::Say(ToSource::Failed("no".to_owned()))),
        ToTarget::Clock => Some(Act::Say(ToSource::Clock(i64::MAX, i64::MIN))),
        _ => None,
    })?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    ensure!(outcome.exit == 4 && !outcome.stderr.contains("panicked"), "{outcome:?}");
    drop(target);
    victim.check_running(lab)?;
    victim.finish()?;
    // it hangs in the freeze: the process is not frozen for long
    let sleeper = lab.spawn("a", &["sleep", "1000"])?;
    let _target = Target::serve(lab, |message| is(message, "State").then_some(Act::Hang))?;
    lab.live("a", sleeper.pid(), "b", &[])?.refused(4, &["runs on here"])?;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", sleeper.outside_pid()))?;
    ensure!(stat.contains(") S "), "it does not sleep on: {stat}");
    Ok(())
}

fn terminal(lab: &mut Lab) -> Result<()> {
    const ESCAPE: &str = "\x1b]0;owned\x07\x1b[2J\u{9b}31m";
    let victim = Victim::start(lab, "threads")?;
    type Step = (&'static str, fn() -> ToSource);
    let steps: [Step; 3] = [
        ("Hello", || {
            ToSource::Hello(Hello {
                protocol: 77,
                program: ESCAPE.to_owned(),
                ..ulpm::transport::hello::ours()
            })
        }),
        ("Describe", || ToSource::Preflight {
            obstacles: vec![Obstacle::new(ESCAPE, ESCAPE, ESCAPE)],
            notes: vec![Note::new(ESCAPE, ESCAPE)],
        }),
        ("Begin", || ToSource::Failed(ESCAPE.to_owned())),
    ];
    for (step, answer) in steps {
        let target = Target::serve(lab, move |message| is(message, step).then(|| Act::Say(answer())))?;
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        ensure!(outcome.exit != 0, "{step}: {outcome:?}");
        let report = outcome.report.to_string();
        for text in [&outcome.stderr, &report] {
            let unfit = |c: char| c.is_control() && c != '\n';
            ensure!(!text.contains(unfit) && !text.contains("\\u001b"), "{step}: {text:?}");
        }
        drop(target);
    }
    victim.check_running(lab)?;
    victim.finish()
}
