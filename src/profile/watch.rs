//! Watching a process: a short stop that installs tracking, then a sample every so often, then tracking is dropped.
//!
//! Before and after, the process is looked at for a while without tracking, to tell what tracking costs it. Samples are
//! taken at a fixed beat, but never so often that watching takes more than [`SHARE`] of a core: after each one we rest
//! as long as that asks for. We sleep on the process's own pidfd, so its end is noticed at once.
//!
//! When our descriptors are closed, or we die, the kernel takes all tracking back (`dirty/wp_scan.rs`).

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use procfs::process::Process;

use super::ProfileError;
use super::contents::Contents;
use super::cost::{Counters, Used};
use super::heat::Named;
use super::sampled::{Sampled, Samples, is_unknown, to_send};
use super::who::Who;
use crate::dirty::{DirtyTracker, Found, Kind};
use crate::image::RangeSet;
use crate::image::memory::Layout;
use crate::preload::agent::{Purpose, install};
use crate::state::files::{self, FilesOptions};
use crate::state::{StateError, half_done, memory_map, waits};
use crate::sys::process::{ends_within, pidfd_open};
use crate::sys::time::{Ticker, now_ns};
use crate::sys::voice;
use crate::tracee::freeze::tids;

/// The time between two samples, if the process is small enough.
pub(crate) const INTERVAL: Duration = Duration::from_millis(10);
/// The part of one core that watching may take.
pub(crate) const SHARE: f64 = 0.25;
/// The mappings are read again after this time, and whenever pages are written outside the known ones.
const SURVEY_EVERY: Duration = Duration::from_secs(1);
/// CPU time and page faults are counted in slices of this length.
const SLICE: Duration = Duration::from_millis(250);

/// Why a watch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum End {
    /// Its time was over.
    Time,
    /// Somebody asked for it.
    Interrupted,
    /// The process ended.
    ProcessEnded,
    /// The process began another program.
    OtherProgram,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Watched {
    /// Who it was.
    pub(crate) who: Who,
    /// Calls of its threads that the attaching stop may have cut short.
    pub(crate) half_done: Vec<String>,
    /// Why it ended.
    pub(crate) end: End,
    /// How long a thread was stopped to install tracking.
    pub(crate) attach: Duration,
    /// Pages that a first round would send.
    pub(crate) present: u64,
    /// Mappings at the end.
    pub(crate) areas: u64,
    /// Mappings that a move would refuse; what is written there does not count.
    pub(crate) unwatched: usize,
    /// What the tracker took for a sample, in the middle of all.
    pub(crate) scan: Duration,
    /// What a round of a move does besides that and sending: mappings with their flags and descriptors are read.
    pub(crate) survey: Duration,
    /// What the samples say.
    pub(crate) sampled: Sampled,
    /// Usage without tracking before, with tracking, and without after, in slices.
    pub(crate) used: [Vec<Used>; 3],
    /// CPU time that watching took us.
    pub(crate) own: Duration,
}

/// How to watch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// How long with tracking.
    pub(crate) tracked: Duration,
    /// How long without, before and after each.
    pub(crate) untracked: Duration,
}

impl Plan {
    /// For that many seconds of tracking.
    pub(crate) fn of(tracked: Duration) -> Self {
        let untracked = (tracked / 5).clamp(Duration::from_millis(500), Duration::from_secs(2));
        Plan { tracked, untracked }
    }
}

/// Watches a process. `home` is where the ends of waits that the attaching stop interrupts are remembered for a later
/// move; `asked_to_end` is looked at all the time.
pub(crate) fn watch(
    pid: i32,
    kind: Kind,
    plan: Plan,
    home: &Path,
    asked_to_end: &dyn Fn() -> bool,
) -> Result<Watched, ProfileError> {
    let mut subject = Subject::open(pid)?;
    let survey = look_around(pid).map_err(|e| subject.explain(e))?;
    let mut usage = Usage::begin(&subject)?;
    match usage.idle(plan.untracked, asked_to_end) {
        End::Time => {}
        End::Interrupted => return Err(ProfileError::Interrupted),
        End::ProcessEnded | End::OtherProgram => return Err(ProfileError::Ended(pid)),
    }
    let before = usage.slices;
    // until now it may have begun another program unnoticed
    subject.stack = stack(pid).map_err(|e| subject.explain(e))?;
    let who = Who::of(pid);
    let tids = tids(pid).unwrap_or_default();
    let half_done = match kind.needs_stop() {
        true => half_done::notes(pid, &tids).iter().map(ToString::to_string).collect(),
        false => Vec::new(),
    };
    let begun = Instant::now();
    let mut tracker = attach(pid, kind, home).map_err(|e| subject.explain(e))?;
    let attach = if kind.needs_stop() { begun.elapsed() } else { Duration::ZERO };
    let mut sampler = Sampler::begin(&subject, &mut *tracker, plan.tracked)?;
    let mut with = Usage::begin(&subject)?;
    let own = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID);
    let end = sampler.run(&mut *tracker, plan.tracked, &mut with, asked_to_end)?;
    let own = Duration::from_nanos((now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID) - own).max(0) as u64);
    drop(tracker);
    let Sampler { present, layout, unwatched, mut scans, samples, maps, .. } = sampler;
    scans.sort_unstable();
    let scan = scans.get(scans.len() / 2).copied().unwrap_or_default();
    let (areas, sampled) = (layout.vmas.len() as u64, samples.finish(&maps));
    let mut after = Vec::new();
    if end == End::Time {
        let mut usage = Usage::begin(&subject)?;
        usage.idle(plan.untracked, asked_to_end);
        after = usage.slices;
    }
    let used = [before, with.slices, after];
    Ok(Watched { who, half_done, end, attach, present, areas, unwatched, scan, survey, sampled, used, own })
}

/// How long it takes to look at mappings and descriptors as each round of a move does: the middle of three times.
fn look_around(pid: i32) -> Result<Duration, ProfileError> {
    let mut took = [Duration::ZERO; 3];
    for time in &mut took {
        let begun = Instant::now();
        memory_map::survey(pid)?;
        // what cannot be carried does not matter here, nor does what cannot be looked at
        let _ = files::describe(pid, &FilesOptions::default());
        *time = begun.elapsed();
    }
    took.sort_unstable();
    Ok(took[1])
}

/// Installs tracking.
fn attach(pid: i32, kind: Kind, home: &Path) -> Result<Box<dyn DirtyTracker>, ProfileError> {
    let _ticker = Ticker::start(Duration::from_millis(100)).map_err(ProfileError::Timer)?;
    let mut memory = waits::Memory::load(home, pid);
    let (tracker, _) = install(pid, kind, &mut memory, Purpose::Watch)?;
    if !memory.is_empty() {
        memory.save(home, pid);
    }
    Ok(tracker)
}

/// The process, held by a descriptor, so that it is never mistaken for another of its number.
struct Subject {
    pid: i32,
    pidfd: OwnedFd,
    /// Where its first stack began: another one after `execve`.
    stack: u64,
}

/// In `stat`'s flags: it is in `do_exit` (`include/linux/sched.h`). Set before its memory goes, from when on the stack's address reads as 0.
const PF_EXITING: u32 = 0x4;

fn stack(pid: i32) -> Result<u64, ProfileError> {
    let stat = Process::new(voice::of(pid)).and_then(|p| p.stat()).map_err(StateError::proc(pid, "stat"))?;
    Ok(stat.startstack)
}

impl Subject {
    fn open(pid: i32) -> Result<Self, ProfileError> {
        let pidfd = pidfd_open(pid).map_err(|source| ProfileError::Gone { pid, source })?;
        Ok(Subject { pid, pidfd, stack: stack(pid)? })
    }

    /// Sleeps until then; `true` if the process has ended.
    fn sleep_until(&self, then: Instant) -> bool {
        ends_within(self.pidfd.as_fd(), then.saturating_duration_since(Instant::now()))
    }

    fn has_ended(&self) -> bool {
        self.sleep_until(Instant::now())
    }

    /// `Some` if what is under this number is not what we watch any more.
    fn changed(&self) -> Option<End> {
        match Process::new(voice::of(self.pid)).and_then(|p| p.stat()) {
            _ if self.has_ended() => Some(End::ProcessEnded),
            Ok(stat) if stat.startstack == self.stack => None,
            // its memory is gone, and nobody has been told yet
            Ok(stat) if stat.flags & PF_EXITING != 0 => Some(End::ProcessEnded),
            Ok(_) => Some(End::OtherProgram),
            Err(_) => Some(End::ProcessEnded),
        }
    }

    /// An error that only says that the process has gone is told as that.
    fn explain(&self, error: ProfileError) -> ProfileError {
        if self.has_ended() { ProfileError::Ended(self.pid) } else { error }
    }

    fn counters(&self) -> Option<Counters> {
        let stat = Process::new(self.pid).and_then(|p| p.stat()).ok()?;
        let clock = clock_getcpuclockid(Pid::from_raw(self.pid)).ok()?;
        Some(Counters { cpu: Duration::from(clock_gettime(clock).ok()?), faults: stat.minflt })
    }
}

/// Counts CPU time and page faults in slices.
struct Usage<'a> {
    subject: &'a Subject,
    at: Instant,
    counters: Counters,
    slices: Vec<Used>,
}

impl<'a> Usage<'a> {
    fn begin(subject: &'a Subject) -> Result<Self, ProfileError> {
        let counters = subject.counters().ok_or(ProfileError::Ended(subject.pid))?;
        Ok(Usage { subject, at: Instant::now(), counters, slices: Vec::new() })
    }

    /// Ends a slice if it is long enough.
    fn tick(&mut self) {
        let span = self.at.elapsed();
        if span < SLICE {
            return;
        }
        if let Some(counters) = self.subject.counters() {
            self.slices.push(Used::between(self.counters, counters, span));
            (self.at, self.counters) = (Instant::now(), counters);
        }
    }

    /// Only counts, without tracking, for that long.
    fn idle(&mut self, span: Duration, asked_to_end: &dyn Fn() -> bool) -> End {
        let until = Instant::now() + span;
        while Instant::now() < until {
            if self.subject.sleep_until((Instant::now() + SLICE / 5).min(until)) {
                return End::ProcessEnded;
            }
            if asked_to_end() {
                return End::Interrupted;
            }
            self.tick();
        }
        End::Time
    }
}

/// Takes samples.
struct Sampler<'a> {
    subject: &'a Subject,
    layout: Layout,
    /// Mappings that a move would refuse: they are no part of the layout.
    unwatched: usize,
    /// All that is mapped.
    known: RangeSet,
    /// Where the tracker is not exact.
    contents: Option<Contents>,
    maps: Vec<Named>,
    surveyed: Instant,
    present: u64,
    scans: Vec<Duration>,
    samples: Samples,
}

impl<'a> Sampler<'a> {
    /// Looks at everything once; what is written from here on counts.
    fn begin(
        subject: &'a Subject,
        tracker: &mut dyn DirtyTracker,
        whole: Duration,
    ) -> Result<Self, ProfileError> {
        let mut sampler = Sampler {
            subject,
            layout: Layout::default(),
            unwatched: 0,
            known: RangeSet::default(),
            contents: if tracker.exact() { None } else { Some(Contents::of(subject.pid)?) },
            maps: Vec::new(),
            surveyed: Instant::now(),
            present: 0,
            scans: Vec::new(),
            samples: Samples::new(whole, INTERVAL),
        };
        sampler.survey().map_err(|e| subject.explain(e))?;
        let found = tracker.round(&sampler.layout).map_err(|e| subject.explain(e.into()))?;
        sampler.present = sampler.written(&found).map_err(|e| subject.explain(e))?.pages();
        Ok(sampler)
    }

    /// Reads the mappings.
    fn survey(&mut self) -> Result<(), ProfileError> {
        let pid = self.subject.pid;
        let (survey, _) = memory_map::quick(pid, &self.layout)?;
        let maps = crate::sys::maps::maps(voice::of(pid)).map_err(StateError::io(pid, "reading the maps"))?;
        self.layout = survey.layout;
        self.unwatched = survey.obstacles.len();
        self.maps = Named::all(&maps);
        self.known = self.maps.iter().map(|m| m.range).collect();
        self.surveyed = Instant::now();
        Ok(())
    }

    fn run(
        &mut self,
        tracker: &mut dyn DirtyTracker,
        whole: Duration,
        usage: &mut Usage<'_>,
        asked_to_end: &dyn Fn() -> bool,
    ) -> Result<End, ProfileError> {
        let begun = Instant::now();
        let (mut last, mut next) = (begun, begun + INTERVAL);
        while last < begun + whole {
            if self.subject.sleep_until(next) {
                return Ok(End::ProcessEnded);
            }
            if asked_to_end() {
                return Ok(End::Interrupted);
            }
            let cpu = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID);
            let now = Instant::now();
            match self.sample(tracker, now - last) {
                Ok(None) => {}
                Ok(Some(end)) => return Ok(end),
                // what ended in the middle of a sample is no error
                Err(e) => return self.subject.changed().ok_or(e),
            }
            last = now;
            usage.tick();
            let spent = now_ns(ClockId::CLOCK_PROCESS_CPUTIME_ID) - cpu;
            let rest = Duration::from_nanos((spent as f64 / SHARE) as u64);
            next = (next + INTERVAL).max(now + rest);
            // a beat that was missed is not made up for
            next = next.max(Instant::now());
        }
        Ok(End::Time)
    }

    fn sample(
        &mut self,
        tracker: &mut dyn DirtyTracker,
        span: Duration,
    ) -> Result<Option<End>, ProfileError> {
        let begun = Instant::now();
        let found = tracker.round(&self.layout)?;
        self.scans.push(begun.elapsed());
        if self.surveyed.elapsed() >= SURVEY_EVERY || is_unknown(&found, &self.known) {
            if let Some(end) = self.subject.changed() {
                return Ok(Some(end));
            }
            self.survey()?;
        }
        let written = self.written(&found)?;
        self.samples.add(span, &written, &self.maps);
        Ok(None)
    }

    /// What of `found` was written and would be sent.
    fn written(&mut self, found: &[Found]) -> Result<RangeSet, ProfileError> {
        let pages = to_send(found, &self.layout);
        match &mut self.contents {
            Some(contents) => contents.changed(&pages),
            None => Ok(pages),
        }
    }
}
