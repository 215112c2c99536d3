//! The rounds: memory goes ahead while the process runs, until the policy says freeze or gives up.

use std::time::{Duration, Instant};

use super::MigrateError;
use super::control::{Control, Phase, Status};
use super::destination::{Destination, out_of_turn};
use super::foresight::Foresight;
use super::options::{Options, Progress};
use super::pace::{Meter, Paced};
use crate::convergence::policy::{Assessed, Decision, LITTLE, Next, OnDivergence, decide};
use crate::convergence::predict::{Basis, LEAD};
use crate::convergence::rounds::{LinkSpeed, Measured, dirty_pages_per_s, expected_written, seconds};
use crate::image::TreeImage;
use crate::image::files::FilesImage;
use crate::preload::PreloadError;
use crate::preload::agent::{Agent, Pushed};
use crate::preload::throttle::Throttle;
use crate::report::{MigrationReport, Round};
use crate::state::files;
use crate::sys::background::Background;
use crate::sys::own_session::{OwnSession, Starving};
use crate::transport::protocol::{ToSource, ToTarget};

/// How often those who watch are told something within a round.
const TELL: Duration = Duration::from_millis(100);

/// What the rounds work with.
pub(super) struct Ahead<'a> {
    pub(super) options: &'a Options,
    pub(super) control: &'a Control,
    pub(super) tell: &'a dyn Fn(Progress<'_>),
    pub(super) report: &'a mut MigrationReport,
    pub(super) to: &'a mut dyn Destination,
    pub(super) agent: &'a mut Agent,
    pub(super) basis: Basis,
    pub(super) session: OwnSession,
}

/// A round that is done.
struct Done {
    measured: Measured,
    scanned: Instant,
    bytes: u64,
}

impl Ahead<'_> {
    /// All rounds. However they end, the process runs freely afterwards.
    pub(super) fn run(mut self, described: &TreeImage) -> Result<Foresight, MigrateError> {
        let mut brake = None;
        let background = Background::begin();
        let ended = self.rounds(described, &background, &mut brake);
        drop(background);
        self.session.end();
        // only now may anyone else stop it
        drop(brake);
        // should it stay here, for whatever reason
        self.agent.waits.lock().save(&self.options.home, self.options.pid);
        ended
    }

    fn rounds(
        &mut self,
        described: &TreeImage,
        background: &Background,
        slowed: &mut Option<Throttle>,
    ) -> Result<Foresight, MigrateError> {
        let begun = Instant::now();
        let mut assessed: Vec<Assessed> = Vec::new();
        let mut files = described.files.clone();
        let mut scanned = begun;
        let mut meter = Meter::new();
        let mut throttle = 0;
        self.control.note(|status| status.phase = Phase::Rounds);
        loop {
            if !assessed.is_empty() {
                files = self.descriptors(files)?;
            }
            meter.next_round();
            let done = self.round(&files, &assessed, scanned, begun, &mut meter)?;
            scanned = done.scanned;
            let measured = Measured { throttle, ..done.measured };
            let rounds: Vec<Measured> = assessed.iter().map(|a| a.round).chain([measured]).collect();
            let freeze = self.basis.predict(&rounds, scanned.elapsed() + LEAD);
            assessed.push(Assessed { round: measured, freeze });
            let decision = match self.control.wants_freeze() {
                true => Decision::by_hand(),
                false => decide(&assessed, &self.control.limits(), self.basis.rtt, begun.elapsed()),
            };
            let decision = self.lazily(decision, assessed.len());
            self.note(&assessed, &decision, done.bytes);
            match decision.next {
                Next::Again => {}
                Next::Throttle(step) => {
                    throttle = step;
                    let brake = match slowed.take() {
                        Some(brake) => brake,
                        // which must let the process go on in time
                        None => background
                            .without(|| Throttle::start(self.options.pid, self.agent.waits.clone()))?,
                    };
                    brake.set(step);
                    *slowed = Some(brake);
                }
                Next::GiveUp => return Err(MigrateError::Diverged(decision.why)),
                next @ (Next::Freeze | Next::Lazy) => {
                    self.report.precopy_ms = begun.elapsed().as_secs_f64() * 1e3;
                    let lazy = next == Next::Lazy;
                    return Ok(Foresight { rounds, scanned, basis: self.basis, files, lazy, hashing: None });
                }
            }
        }
    }

    /// Whether the user wants the process to go first, after so many rounds.
    fn lazily(&self, decision: Decision, rounds: usize) -> Decision {
        let lazy = &self.options.lazy;
        let by_hand = self.control.wants_freeze() && self.control.may_be_lazy();
        match decision.next {
            Next::Freeze if lazy.from_start => {
                decision.lazily("the rest of its memory comes after it (--lazy)")
            }
            Next::Freeze if by_hand => decision.lazily("what is left of its memory comes after it"),
            Next::Again | Next::Freeze | Next::Throttle(_)
                if lazy.after.is_some_and(|after| rounds >= after) =>
            {
                decision.lazily("what is left of its memory comes after it (--lazy-after)")
            }
            _ => decision,
        }
    }

    /// New descriptors are normal; one that cannot be carried may be gone by the freeze.
    fn descriptors(&self, before: FilesImage) -> Result<FilesImage, MigrateError> {
        let (now, obstacles) =
            files::describe(self.options.pid, &self.options.files).map_err(PreloadError::from)?;
        super::direct::check(self.agent.tracker(), &now)?;
        Ok(if obstacles.is_empty() { now } else { before })
    }

    fn round(
        &mut self,
        files: &FilesImage,
        before: &[Assessed],
        scanned: Instant,
        begun: Instant,
        meter: &mut Meter,
    ) -> Result<Done, MigrateError> {
        let round_begun = Instant::now();
        let bytes_before = self.to.bytes_sent();
        self.agent.survey(files)?;
        let new_files = self.agent.new_files();
        let (of, layout) = (self.agent.of, self.agent.layout.clone());
        self.to.say(&ToTarget::Layout { of, layout, new_files })?;
        let number = before.len();
        let mut watch = Watch::new(self.control, self.tell, &self.basis, before, begun, bytes_before);
        let (session, mut starving) = (&mut self.session, Starving::begin());
        let mut look = |meter: &Meter| {
            if starving.look() {
                session.starves();
            }
            watch.look(meter)
        };
        let scan_begun = Instant::now();
        let mut sink = Paced::new(self.to, self.control, meter, &mut look);
        let pushed = self.agent.round(&mut sink)?;
        let found = scan_begun + pushed.scan;
        self.to.say(&ToTarget::RoundEnd(number as u32))?;
        match self.to.hear_meanwhile("placing the pages of a round", &mut || look(meter))? {
            ToSource::RoundApplied(n) if n as usize == number => {
                MigrateError::point(crate::fault::Point::SourceRound)?;
            }
            other => return Err(out_of_turn(&other)),
        }
        let bytes = self.to.bytes_sent() - bytes_before;
        let measured = Measured {
            bytes: meter.round_bytes,
            window: if number == 0 { Duration::ZERO } else { scan_begun.duration_since(scanned) },
            sending: found.elapsed(),
            paced: meter.paced,
            burst: meter.burst,
            took: round_begun.elapsed(),
            ..Measured::of(&pushed)
        };
        Ok(Done { measured, scanned: scan_begun, bytes })
    }

    /// Into the report, to the user, for `status`.
    fn note(&mut self, assessed: &[Assessed], decision: &Decision, bytes: u64) {
        let Some(Assessed { round, freeze }) = assessed.last() else { return };
        let rounds: Vec<Measured> = assessed.iter().map(|a| a.round).collect();
        let dirty = dirty_pages_per_s(&rounds) as u64;
        // after the first one nothing is known of what is written
        let predicted = (rounds.len() > 1).then(|| freeze.total().as_secs_f64() * 1e3);
        self.report.rounds.push(Round {
            pages: round.pages,
            bytes_on_wire: bytes,
            ms: round.took.as_secs_f64() * 1e3,
            dirty_pages_per_s: dirty,
            why_next: decision.why.clone(),
            written_pages: round.written,
            held_pages: round.held,
            scan_ms: round.scan.as_secs_f64() * 1e3,
            throttle_percent: round.throttle,
            predicted_freeze_ms: predicted,
        });
        let speed = LinkSpeed::of(&rounds, self.basis.rtt);
        self.control.note(|status| {
            status.round = rounds.len() - 1;
            status.round_bytes = bytes;
            status.sent_bytes = self.to.bytes_sent();
            status.dirty_pages_per_s = dirty;
            status.bandwidth_bytes_per_s = speed.bytes_per_s() as u64;
            status.predicted_freeze_ms = predicted;
            status.throttle_percent = match decision.next {
                Next::Throttle(step) => step,
                _ => round.throttle,
            };
        });
        if let Some(round) = self.report.rounds.last() {
            (self.tell)(Progress::Round(rounds.len() - 1, round));
        }
    }
}

impl Measured {
    fn of(pushed: &Pushed) -> Self {
        Measured {
            pages: pushed.pages,
            written: pushed.written,
            held: pushed.held,
            scan: pushed.scan,
            ..Measured::default()
        }
    }
}

/// Looks on while a round goes over the link.
struct Watch<'a> {
    control: &'a Control,
    tell: &'a dyn Fn(Progress<'_>),
    rounds: Vec<Measured>,
    speed: LinkSpeed,
    /// About how many bytes this round will be.
    expected: f64,
    begun: Instant,
    round_begun: Instant,
    bytes_before: u64,
    told: Instant,
}

impl<'a> Watch<'a> {
    fn new(
        control: &'a Control,
        tell: &'a dyn Fn(Progress<'_>),
        basis: &Basis,
        before: &[Assessed],
        begun: Instant,
        bytes_before: u64,
    ) -> Self {
        let rounds: Vec<Measured> = before.iter().map(|a| a.round).collect();
        let window = rounds.last().map_or(Duration::ZERO, |r| r.took);
        let pages = expected_written(&rounds, window, basis.resident_pages);
        let speed = LinkSpeed::of(&rounds, basis.rtt);
        let now = Instant::now();
        control.note(|status| {
            status.round = rounds.len();
            status.round_bytes = 0;
        });
        let expected = pages * speed.bytes_per_page;
        Watch { control, tell, rounds, speed, expected, begun, round_begun: now, bytes_before, told: now }
    }

    /// Called for every piece.
    fn look(&mut self, meter: &Meter) -> Result<(), MigrateError> {
        if self.told.elapsed() < TELL {
            return Ok(());
        }
        self.told = Instant::now();
        let limits = self.control.limits();
        let elapsed = self.begun.elapsed();
        self.control.note(|status| {
            status.round_bytes = meter.round_bytes;
            status.sent_bytes = self.bytes_before + meter.round_bytes;
            status.elapsed_ms = elapsed.as_secs_f64() * 1e3;
            if self.rounds.is_empty() {
                let rate = meter.round_bytes as f64 / self.round_begun.elapsed().as_secs_f64();
                status.bandwidth_bytes_per_s = rate as u64;
            }
            let left = self.left(status, limits.max_time.map(|t| t.saturating_sub(elapsed)));
            status.time_left_ms = left.map(|d| d.as_secs_f64() * 1e3);
        });
        (self.tell)(Progress::Now(&self.control.status()));
        match limits.max_time {
            Some(time) if elapsed >= time && limits.on_divergence == OnDivergence::Abort => {
                let sent = crate::report::Size::bytes(meter.round_bytes);
                let what = format!(
                    "the time for the rounds ({}) is up in the middle of round {}, after {sent} of it",
                    crate::report::human_ms(time.as_secs_f64() * 1e3),
                    self.rounds.len()
                );
                Err(MigrateError::Diverged(what))
            }
            _ => Ok(()),
        }
    }

    /// The rest of this round, and those to come: each is shorter than the one before by what the process writes in
    /// the time that the link needs. Unknown if it is not shorter.
    fn left(&self, status: &Status, at_most: Option<Duration>) -> Option<Duration> {
        let per_s = match self.rounds.is_empty() {
            true => status.bandwidth_bytes_per_s as f64,
            false => self.speed.round_pages_per_s * self.speed.bytes_per_page,
        };
        if per_s <= 0.0 {
            return at_most;
        }
        let rest = (self.expected - status.round_bytes as f64).max(0.0) / per_s;
        let shrinks = dirty_pages_per_s(&self.rounds) / self.speed.round_pages_per_s;
        if self.rounds.len() > 1 && shrinks >= 0.95 {
            return at_most;
        }
        let (mut left, mut next) = (rest, self.expected / per_s * shrinks);
        while next > LITTLE.as_secs_f64() {
            left += next;
            next *= shrinks;
        }
        let left = seconds(left);
        Some(at_most.map_or(left, |most| left.min(most)))
    }
}
