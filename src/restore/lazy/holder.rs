//! The holder: one process per lazy migration, one thread, one loop. Faults first, then the urgent lane, then the bulk lane, a frame at a
//! time.
//!
//! ```text
//! started ── adoption ── go ── … ── whole ── source knows ── ends
//!    │          │        │      process gone, patience over, source lost: ends, or kills the process
//!    └──────────┴ ulpm serve gone: ends with the skeleton
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::adopt::{SOCKET, Start, remove_files};
use super::held::Held;
use super::wire::{Guest, Lane};
use super::{Unfinished, directory};
use crate::sys::handoff;
use crate::sys::stat::start_time;
use crate::sys::time::Ticker;
use crate::tracee::together::{Haste, hasten_together};
use crate::transport::lane::{FromHolder, FromSource, LaneKind, PagesHead};
use crate::transport::protocol::kind;

/// How long the source is waited for to hear that nothing is needed of it any more.
const FAREWELL: Duration = Duration::from_secs(600);
/// The same where the source may be what was lost.
const LAST_WORD: Duration = Duration::from_secs(2);
/// How long a process whose `ulpm serve` went away is given to die with it.
const GRACE: Duration = Duration::from_millis(1000);
/// From one look at what nothing tells us to the next.
const LOOK: Duration = Duration::from_millis(200);
/// Connections that may be silent at the same time.
const GUESTS: usize = 16;
/// From one word about a standstill to the next.
const QUIET: Duration = Duration::from_secs(10);

/// The holder itself. Never returns.
pub fn main(text: &str) -> ! {
    // SAFETY: ulpm serve started us with the socket at this number, and nothing else has been opened yet.
    #[allow(unsafe_code)]
    let control = unsafe { handoff::adopt_fd(SOCKET) };
    let done = serde_json::from_str::<Start>(text).map_err(io::Error::other).and_then(|start| {
        prepare();
        let _ticker = Ticker::start(Duration::from_millis(100))?;
        Holder::listen(start, &control)?.run(control)
    });
    if let Err(e) = &done {
        tracing::error!(error = %e, "the holder of lazy memory ends");
    }
    std::process::exit(i32::from(done.is_err()))
}

/// Nothing that is meant for others shall end us.
fn prepare() {
    use nix::sys::signal::{SigHandler, Signal, signal};
    let _ = nix::unistd::setsid();
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE, Signal::SIGQUIT] {
        // SAFETY: ignoring a signal runs no code.
        #[allow(unsafe_code)]
        let _ = unsafe { signal(ignored, SigHandler::SigIgn) };
    }
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = hasten_together(Haste::Next);
    let _ = nix::sys::prctl::set_name(c"ulpm-holder");
}

struct Holder {
    start: Start,
    listener: UnixListener,
    lanes: BTreeMap<LaneKind, Lane>,
    /// Connections that have not said yet which lane they are.
    guests: Vec<Guest>,
    held: Option<Held>,
    running: bool,
    /// Since when no lane has been there.
    alone: Option<Instant>,
    looked: Instant,
    /// What was the state when, for [`Holder::murmur`].
    told: (Instant, String),
}

/// What the holder waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Listener,
    /// Any of them.
    Guest,
    /// `ulpm serve`.
    Control,
    Lane(LaneKind),
    /// A userfaultfd, by the name of its address space.
    Space(usize),
}

/// Where something has happened.
#[derive(Debug, Default)]
struct Ready(Vec<Source>);

impl Ready {
    fn has(&self, source: Source) -> bool {
        self.0.contains(&source)
    }
}

/// What a turn of the loop is to lead to.
enum Turn {
    On,
    Leave,
}

impl Holder {
    fn listen(start: Start, control: &OwnedFd) -> io::Result<Self> {
        let dir = directory(&start.home);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let open = File::open(&dir)?;
        // a socket's address holds 108 bytes, a path may be longer
        let path = format!("/proc/self/fd/{}/{}.sock", open.as_raw_fd(), start.id);
        let _ = fs::remove_file(&path);
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        handoff::send(control.as_fd(), b"listening", None)?;
        let now = Instant::now();
        Ok(Holder {
            start,
            listener,
            lanes: BTreeMap::new(),
            guests: Vec::new(),
            held: None,
            running: false,
            alone: Some(now),
            looked: now,
            told: (now, String::new()),
        })
    }

    fn run(mut self, control: OwnedFd) -> io::Result<()> {
        let mut control = Some(control);
        let done = loop {
            let ready = match self.wait(control.as_ref()) {
                Ok(ready) => ready,
                Err(e) => break Err(e),
            };
            match self.turn(&mut control, &ready) {
                Ok(Turn::On) => {}
                Ok(Turn::Leave) => break Ok(()),
                Err(e) => break Err(e),
            }
        };
        let done = match (done, self.held.take().filter(|_| self.running)) {
            (Err(e), Some(held)) => self.kill(held, &e),
            (done, _) => done,
        };
        remove_files(&self.start.home, &self.start.id);
        done
    }

    /// What is outstanding cannot come: ends the process, which would wait for ever, and tells the source.
    fn kill(&mut self, held: Held, why: &io::Error) -> io::Result<()> {
        held.kill();
        tracing::error!(pid = held.pid, error = %why, "the process was killed: it cannot live without the rest of its memory");
        drop(held);
        self.farewell(&FromHolder::Killed(why.to_string()), LAST_WORD).map(drop)
    }

    /// Until something happens.
    fn wait(&self, control: Option<&OwnedFd>) -> io::Result<Ready> {
        let (mut fds, mut sources) = (Vec::new(), Vec::new());
        let mut watch = |fd, flags, source| {
            fds.push(PollFd::new(fd, flags));
            sources.push(source);
        };
        watch(self.listener.as_fd(), PollFlags::POLLIN, Source::Listener);
        self.guests.iter().for_each(|g| watch(g.stream.as_fd(), PollFlags::POLLIN, Source::Guest));
        control.into_iter().for_each(|c| watch(c.as_fd(), PollFlags::POLLIN, Source::Control));
        for (kind, lane) in &self.lanes {
            let out = if lane.is_full() { PollFlags::POLLOUT } else { PollFlags::empty() };
            watch(lane.stream.as_fd(), PollFlags::POLLIN | out, Source::Lane(*kind));
        }
        for (space, fd) in self.held.iter().flat_map(|held| held.pager.descriptors()) {
            watch(fd, PollFlags::POLLIN, Source::Space(space));
        }
        let pause = match &self.held {
            _ if self.lanes.values().any(Lane::has_frame) => Duration::ZERO,
            Some(held) if held.pager.is_held_up() => Duration::from_millis(1),
            _ => LOOK,
        };
        match poll(&mut fds, PollTimeout::from(pause.as_millis() as u16)) {
            Ok(_) => {}
            Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            Err(e) => return Err(e.into()),
        }
        let happened = fds.iter().map(|fd| fd.any().unwrap_or(true));
        Ok(Ready(
            sources.into_iter().zip(happened).filter_map(|(source, did)| did.then_some(source)).collect(),
        ))
    }

    /// First what threads wait for, then a piece of what they may come to wait for.
    fn turn(&mut self, control: &mut Option<OwnedFd>, ready: &Ready) -> io::Result<Turn> {
        if ready.has(Source::Listener) || ready.has(Source::Guest) {
            self.welcome();
        }
        if ready.has(Source::Control)
            && let Turn::Leave = self.obey(control)?
        {
            return Ok(Turn::Leave);
        }
        self.hear_faults(ready);
        self.hear_lane(LaneKind::Urgent, ready, usize::MAX)?;
        self.ask(LaneKind::Urgent);
        self.hear_lane(LaneKind::Bulk, ready, 1)?;
        if let Some(held) = &mut self.held {
            if held.pager.is_held_up() {
                held.pager.retry(Instant::now());
            }
            held.guard.attend();
        }
        self.ask(LaneKind::Bulk);
        if self.running && self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.murmur();
            self.look()?;
        }
        match &self.held {
            Some(held) if self.running && held.pager.is_whole() => self.finish(),
            _ => Ok(Turn::On),
        }
    }

    /// Words of `ulpm serve`.
    fn obey(&mut self, control: &mut Option<OwnedFd>) -> io::Result<Turn> {
        let Some(socket) = control.as_ref() else { return Ok(Turn::On) };
        let (text, fds) = handoff::receive(socket.as_fd())?;
        match text.as_slice() {
            b"f" => {
                let held = Held::take(socket.as_fd(), fds)?;
                self.held = Some(held);
                handoff::send(socket.as_fd(), b"holding", None)?;
            }
            b"go" => self.go()?,
            _ => {
                *control = None;
                // before the process was let go it dies with its tracer; had it been let go, it lives
                let Some(held) = self.held.as_ref().filter(|_| !self.running) else {
                    return Ok(if self.running { Turn::On } else { Turn::Leave });
                };
                if held.dies_within(GRACE) {
                    return Ok(Turn::Leave);
                }
                self.go()?;
            }
        }
        Ok(Turn::On)
    }

    /// The process runs.
    fn go(&mut self) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        self.running = true;
        let until_now = held.pager.report();
        tracing::debug!(
            pid = held.pid,
            faults = until_now.faults,
            max_us = until_now.max_us,
            "faults of the freeze"
        );
        held.pager.stats.resumed();
        let own = std::process::id() as i32;
        let unfinished = Unfinished {
            id: self.start.id.clone(),
            pid: held.pid,
            start_time: start_time(held.pid).unwrap_or(0),
            holder: own,
            holder_start: start_time(own).unwrap_or(0),
        };
        fs::write(
            directory(&self.start.home).join(format!("{}.json", self.start.id)),
            serde_json::to_vec(&unfinished)?,
        )
    }

    /// New lanes, once they have said which they are.
    fn welcome(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_ok() && self.guests.len() < GUESTS {
                self.guests.push(Guest::new(stream));
            }
        }
        for mut guest in std::mem::take(&mut self.guests) {
            match guest.listen() {
                Ok(None) => self.guests.push(guest),
                Ok(Some(greeting)) if greeting.peer == self.start.peer => {
                    self.lane_lost(greeting.lane);
                    self.lanes.insert(greeting.lane, Lane::new(guest.stream));
                    self.alone = None;
                }
                Ok(Some(greeting)) => {
                    tracing::warn!(peer = greeting.peer, "another host wanted the pages of this migration");
                }
                Err(error) => tracing::debug!(%error, "a lane that was none"),
            }
        }
    }

    fn lane_lost(&mut self, lane: LaneKind) {
        if self.lanes.remove(&lane).is_none() {
            return;
        }
        tracing::info!(?lane, "a lane broke; the source opens it anew");
        if self.lanes.is_empty() {
            self.alone = Some(Instant::now());
        }
        if let Some(held) = &mut self.held {
            held.pager.stats.count().reconnects += 1;
            held.pager.lane_lost(lane);
        }
    }

    fn hear_faults(&mut self, ready: &Ready) {
        let Some(held) = &mut self.held else { return };
        let now = Instant::now();
        let mut born = 0;
        for source in &ready.0 {
            if let Source::Space(space) = source {
                born += held.pager.hear(*space, now);
            }
        }
        if born > 0 {
            held.guard.add_children(held.pid);
        }
    }

    /// Up to so many frames of a lane.
    fn hear_lane(&mut self, kind: LaneKind, ready: &Ready, most: usize) -> io::Result<()> {
        let Some(lane) = self.lanes.get_mut(&kind) else { return Ok(()) };
        if ready.has(Source::Lane(kind)) && lane.fill().is_err() {
            self.lane_lost(kind);
            return Ok(());
        }
        for _ in 0..most {
            let Some(lane) = self.lanes.get_mut(&kind) else { return Ok(()) };
            match lane.next() {
                Ok(Some(frame)) => self.take(kind, &frame)?,
                Ok(None) if lane.ended() => {
                    self.lane_lost(kind);
                    return Ok(());
                }
                Ok(None) => return Ok(()),
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(())
    }

    fn take(&mut self, lane: LaneKind, frame: &crate::transport::Frame) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        let now = Instant::now();
        if frame.kind == kind::LAZY_PAGES {
            let torn = || io::Error::other("the source sent pages without an address");
            let (head, _) = PagesHead::decode(&frame.body).ok_or_else(torn)?;
            let content = frame.body.slice(PagesHead::LEN..);
            return held.pager.pages(lane, &head, content, now).map_err(io::Error::other);
        }
        match frame.message::<FromSource>().map_err(io::Error::other)? {
            FromSource::Zero(ranges) => held.pager.zeroes(lane, &ranges, now).map_err(io::Error::other),
            FromSource::Lost(why) => {
                Err(io::Error::other(format!("its memory at the source is lost: {why}")))
            }
            FromSource::Bye => Ok(()),
        }
    }

    /// Asks for what is wanted on a lane.
    fn ask(&mut self, kind: LaneKind) {
        let (Some(held), Some(lane)) = (&mut self.held, self.lanes.get_mut(&kind)) else { return };
        let now = Instant::now();
        let mut said = lane.flush();
        let bulk = kind == LaneKind::Bulk;
        if bulk && said.is_ok() && !lane.is_full() && held.pager.tells_placed(now) {
            let placed = held.pager.placed();
            said = placed.chunks(4096).try_for_each(|p| lane.say(&FromHolder::Placed(p.to_vec())));
        }
        // in the freeze nothing may be in the way of what the process waits for
        if said.is_ok() && !lane.is_full() && (self.running || !bulk) {
            let wanted = held.pager.plan.wants(kind, now);
            said = wanted.chunks(4096).try_for_each(|part| lane.say(&FromHolder::Want(part.to_vec())));
        }
        if said.is_err() {
            self.lane_lost(kind);
        }
    }

    /// Says now and then how far it is when nothing moves.
    fn murmur(&mut self) {
        let Some(held) = &self.held else { return };
        let state = held.pager.state();
        if state != self.told.1 {
            self.told = (Instant::now(), state);
        } else if self.told.0.elapsed() > QUIET {
            tracing::warn!(pid = held.pid, lanes = self.lanes.len(), "lazy memory does not come: {state}");
            self.told.0 = Instant::now();
        }
    }

    /// What nothing tells: whether the process is there, and the source.
    fn look(&mut self) -> io::Result<()> {
        let Some(held) = &mut self.held else { return Ok(()) };
        held.pager.look_round();
        if let Some(since) = self.alone.filter(|_| held.pager.has_spaces())
            && since.elapsed() > held.patience
        {
            return Err(io::Error::other(format!(
                "the source has not been heard of for {} s, and {} pages of the process are there",
                held.patience.as_secs(),
                held.pager.plan.pages_left()
            )));
        }
        Ok(())
    }

    fn tell(&mut self, message: &FromHolder) {
        for lane in self.lanes.values_mut() {
            let _ = lane.say(message);
        }
    }

    /// Everything is in place, or nobody is left to need it: takes the userfaultfds out of the process, and tells the source.
    fn finish(&mut self) -> io::Result<Turn> {
        let Some(mut held) = self.held.take() else { return Ok(Turn::On) };
        let report = held.pager.report();
        let ended = !held.pager.has_spaces();
        if ended {
            tracing::info!(pid = held.pid, "the process ended before all of its memory had come");
        } else {
            held.let_be(&self.start.home);
        }
        drop(held);
        let _ = fs::remove_file(directory(&self.start.home).join(format!("{}.json", self.start.id)));
        let message = if ended {
            FromHolder::Ended("the process has ended, or executed another program".to_owned())
        } else {
            FromHolder::Whole(Box::new(report))
        };
        self.farewell(&message, FAREWELL)
    }

    /// Tells the source until it has heard.
    fn farewell(&mut self, message: &FromHolder, patience: Duration) -> io::Result<Turn> {
        let begun = Instant::now();
        self.tell(message);
        while begun.elapsed() < patience {
            self.wait(None)?;
            let before: Vec<LaneKind> = self.lanes.keys().copied().collect();
            self.welcome();
            for (kind, lane) in &mut self.lanes {
                if !before.contains(kind) {
                    let _ = lane.say(message);
                }
            }
            for kind in [LaneKind::Urgent, LaneKind::Bulk] {
                let Some(lane) = self.lanes.get_mut(&kind) else { continue };
                let broken = lane.flush().and(lane.fill()).is_err();
                while let Some(Ok(Some(frame))) = self.lanes.get_mut(&kind).map(Lane::next) {
                    if matches!(frame.message(), Ok(FromSource::Bye)) {
                        return Ok(Turn::Leave);
                    }
                }
                if broken || self.lanes.get(&kind).is_some_and(Lane::ended) {
                    self.lanes.remove(&kind);
                }
            }
        }
        Ok(Turn::Leave)
    }
}
