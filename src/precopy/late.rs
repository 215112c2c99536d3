//! The lazy phase at the source: the process runs at the target, and its memory follows from the stopped copy here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::MigrateError;
use super::ask::{Answer, ask_once, connect};
use super::control::{Control, Phase};
use super::destination::Destination;
use super::hand_on::Tended;
use super::lanes::{Heard, Lanes, Road};
use super::options::Progress;
use super::page_server::Memory;
use crate::image::memory::Layout;
use crate::image::{ProcessIndex, RangeSet};
use crate::preload::agent::Agent;
use crate::preload::lazy::Later;
use crate::report::LazyStats;
use crate::transport::lane::{LazyPlan, LazyProcess, LazyRange, LazyReport};
use crate::transport::protocol::ToTarget;

/// How often those who watch are told something.
const TELL: Duration = Duration::from_millis(100);

/// How often the target is asked about a lane that it refuses.
const ASK: Duration = Duration::from_secs(2);

/// How long a lane that has heard the holder's last word may take to say so: its answer leaves first.
const PARTING: Duration = Duration::from_secs(3);

/// How the lazy phase ended.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// All memory is there. No report if the target had already forgotten about it.
    Whole(Option<Box<LazyReport>>),
    /// The process at the target has ended, or begun another program.
    Ended(String),
}

/// The lazy phase, from the lanes' first connection.
#[derive(Debug)]
pub(crate) struct Late {
    lanes: Lanes,
    road: Road,
    /// Pages that were outstanding.
    outstanding: u64,
    /// Of the stopped process.
    memory: Option<Arc<Memory>>,
    /// Its mappings.
    layout: Layout,
}

impl Late {
    /// Connects both lanes, before the freeze.
    pub(crate) fn open(road: Road, to: &mut dyn Destination) -> Result<Self, MigrateError> {
        let lanes = Lanes::open(&road)?;
        let mut ready = 0;
        while ready < 2 {
            match lanes.hear(Duration::from_millis(1)) {
                Some(Heard::Ready) => ready += 1,
                Some(Heard::NotYet(e)) => return Err(e),
                _ => to.idle(Duration::from_millis(5))?,
            }
        }
        Ok(Late { lanes, road, outstanding: 0, memory: None, layout: Layout::default() })
    }

    /// Of a process that was left stopped here, and that runs at the target without all its memory.
    pub(crate) fn resume(road: Road, pid: i32, began: u64) -> Result<Self, MigrateError> {
        let lanes = Lanes::open(&road)?;
        // hashes are sent with it: whether the other side looks at them is its affair
        match Memory::of_left(pid, began, true) {
            Ok(memory) => lanes.serve(Arc::new(memory)),
            Err(e) => {
                lanes.tell_lost(&format!("the stopped copy at the source is gone: {}", crate::sys::chain(&e)))
            }
        }
        Ok(Late { lanes, road, outstanding: 0, memory: None, layout: Layout::default() })
    }

    /// The process is stopped and will need `later`: tells the target what is outstanding, and lets the lanes answer.
    pub(crate) fn begin(
        &mut self,
        to: &mut dyn Destination,
        agent: &Agent,
        later: &Later,
        plan: LazyPlan,
    ) -> Result<(), MigrateError> {
        let failed =
            |source| MigrateError::Here { step: "opening the memory of the stopped process", source };
        let objects = agent.shown_objects().map_err(failed)?;
        let memory =
            Memory::of((agent.pid, agent.of), &agent.layout, objects, plan.verify).map_err(failed)?;
        let memory = Arc::new(memory);
        self.memory = Some(memory.clone());
        self.layout = agent.layout.clone();
        self.outstanding = later.pages();
        to.say(&ToTarget::Lazy(plan))?;
        self.lanes.serve(memory);
        Ok(())
    }

    /// Serves until nothing is needed any more. The control connection is kept open for as long as it lasts. `copy`: what is
    /// done with the stopped process meanwhile.
    pub(crate) fn until_whole(
        &mut self,
        mut to: Option<&mut dyn Destination>,
        control: &Control,
        tell: &dyn Fn(Progress<'_>),
        copy: &mut dyn Tended,
    ) -> Result<Arrived, MigrateError> {
        control.note(|status| {
            status.phase = Phase::Lazy;
            status.time_left_ms = None;
            status.lazy_pages = self.outstanding;
        });
        tell(Progress::Step("it runs there; its memory follows"));
        let begun = Instant::now();
        let (mut cancelled, mut asked) = (false, None::<Instant>);
        loop {
            // all that is there: a busy process has many pages placed one by one
            let mut pause = if to.is_some() { Duration::from_millis(1) } else { TELL };
            while let Some(heard) = self.lanes.hear(std::mem::take(&mut pause)) {
                match heard {
                    Heard::Placed(ranges) => self.free(&ranges, copy),
                    Heard::Refused(why) if asked.is_none_or(|at| at.elapsed() > ASK) => {
                        tracing::info!(%why, "a lane is refused: asking how the move stands");
                        asked = Some(Instant::now());
                        if let Ok(Answer::Running(_)) = self.ask() {
                            return self.last_word();
                        }
                    }
                    Heard::Whole(report) => return Ok(Arrived::Whole(Some(report))),
                    Heard::Ended(why) => return Ok(Arrived::Ended(why)),
                    Heard::Lost(why) => return Err(MigrateError::CopyLost(why)),
                    _ => {}
                }
            }
            if control.cancel().is_set() && !std::mem::replace(&mut cancelled, true) {
                tell(Progress::Step(
                    "the process runs at the target already, and its memory is still here: it goes on following",
                ));
            }
            // it moves only while we wait for something; its end means nothing any more
            if to.as_mut().is_some_and(|to| to.idle(TELL).is_err()) {
                tracing::info!("the control connection broke; the lanes go on by themselves");
                to = None;
            }
            copy.meanwhile(match &mut to {
                Some(to) => Some(&mut **to),
                None => None,
            });
            self.note(control, begun.elapsed());
            tell(Progress::Now(&control.status()));
        }
    }

    /// The holder is gone. The other lane may have heard why, and be about to say so when its answer has left.
    fn last_word(&self) -> Result<Arrived, MigrateError> {
        let begun = Instant::now();
        while begun.elapsed() < PARTING {
            match self.lanes.hear(TELL) {
                Some(Heard::Whole(report)) => return Ok(Arrived::Whole(Some(report))),
                Some(Heard::Ended(why)) => return Ok(Arrived::Ended(why)),
                Some(Heard::Lost(why)) => return Err(MigrateError::CopyLost(why)),
                _ => {}
            }
        }
        Ok(Arrived::Whole(None))
    }

    /// By a connection of its own: that of the move may have broken.
    fn ask(&self) -> Result<Answer, MigrateError> {
        let mut link = connect(&self.road.home, &self.road.to)?;
        let answer = ask_once(&mut link, &self.road.id);
        link.close("asked");
        answer
    }

    /// What is in place there is not needed here.
    fn free(&self, ranges: &[LazyRange], copy: &mut dyn Tended) {
        if let Some(memory) = &self.memory {
            memory.release(ranges);
            copy.arrived(ranges);
        }
    }

    fn note(&self, control: &Control, elapsed: Duration) {
        let traffic = self.lanes.traffic();
        let bytes = traffic.bytes.load(Ordering::Relaxed);
        control.note(|status| {
            status.lazy_sent_pages =
                traffic.pages.load(Ordering::Relaxed) + traffic.zero_pages.load(Ordering::Relaxed);
            status.lazy_reconnects = traffic.reconnects.load(Ordering::Relaxed);
            status.bandwidth_bytes_per_s = (bytes as f64 / elapsed.as_secs_f64().max(1e-3)) as u64;
        });
    }

    /// The mappings of the stopped process.
    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Bytes of content that the lanes carried.
    pub(crate) fn bytes(&self) -> u64 {
        self.lanes.traffic().bytes.load(Ordering::Relaxed)
    }

    /// For the report.
    pub(crate) fn stats(&self, arrived: &Arrived) -> LazyStats {
        let traffic = self.lanes.traffic();
        let reconnects = traffic.reconnects.load(Ordering::Relaxed);
        match arrived {
            Arrived::Whole(Some(report)) => {
                LazyStats { reconnects: report.reconnects.max(reconnects), ..stats(report) }
            }
            _ => LazyStats {
                pages: traffic.pages.load(Ordering::Relaxed),
                zero_pages: traffic.zero_pages.load(Ordering::Relaxed),
                reconnects,
                ..LazyStats::default()
            },
        }
    }

    /// All is said.
    pub(crate) fn close(self, reason: &str) {
        self.lanes.close(reason);
    }
}

/// The holder's account, as the report has it.
fn stats(report: &LazyReport) -> LazyStats {
    LazyStats {
        pages: report.pages,
        faults: report.faults,
        fault_p50_us: report.p50_us,
        fault_p99_us: report.p99_us,
        ms: report.ms,
        zero_pages: report.zero_pages,
        dropped_pages: report.dropped_pages,
        sent_twice: report.twice,
        zero_faults: report.zero_faults,
        waits: report.waits.clone(),
        max_us: report.max_us,
        reconnects: report.reconnects,
    }
}

/// What the target is told of it.
pub(crate) fn plan(
    of: ProcessIndex,
    later: &Later,
    touched: &RangeSet,
    verify: bool,
    patience: Duration,
) -> LazyPlan {
    let objects = later.objects.iter().filter(|(_, set)| !set.is_empty());
    let own = LazyProcess { of, outstanding: later.private.iter().collect(), order: later.order(touched) };
    LazyPlan {
        processes: vec![own],
        objects: objects.map(|(id, set)| (*id, set.iter().collect())).collect(),
        verify,
        patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX),
    }
}
