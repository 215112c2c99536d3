//! The lanes of the source: two OS threads, each with a connection of its own, that answer what the holder at the target
//! asks for.
//!
//! A thread connects before the freeze, waits until the process is stopped and the target knows what is outstanding, and
//! says which lane it is. When its connection breaks, or nothing arrives on it for a while, it connects anew, for ever: the
//! holder asks again for what has not arrived. It ends when the holder has said that nothing more is needed, when the
//! stopped process is gone, or when it is told to.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::watch;

use super::MigrateError;
use super::link::silence;
use super::page_server::{Answer, Memory, Unanswerable};
use crate::image::PAGE_SIZE;
use crate::tracee::together::{Haste, hasten};
use crate::transport::lane::{FromHolder, FromSource, LaneKind, LazyRange, LazyReport};
use crate::transport::message::{Frame, WireMessage as _};
use crate::transport::protocol::{MigrationId, ToSource, ToTarget, cap, kind};
use crate::transport::{
    Connected, Identity, RemoteAddr, TrustStore, Way, Wire, WireError, connect_by, open_wire,
};

/// Pauses before connecting again: from, to.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How long connecting anew may take.
const CONNECTING: Duration = Duration::from_secs(3);

/// How long nothing at all may arrive.
const SILENCE: Duration = Duration::from_secs(2);

/// How often an idle lane sees whether the stopped process is still there.
const LOOK: Duration = Duration::from_millis(500);

/// How long the last word may take to arrive.
const LAST_WORD: Duration = Duration::from_secs(2);

/// Whither, and what for.
#[derive(Clone, Debug)]
pub(crate) struct Road {
    /// `ULPM_HOME`.
    pub home: PathBuf,
    /// The target.
    pub to: RemoteAddr,
    /// The migration.
    pub id: MigrationId,
    /// Time limit of the first connection.
    pub limit: Duration,
}

/// What a lane tells.
#[derive(Debug)]
pub(crate) enum Heard {
    /// It is connected for the first time.
    Ready,
    /// It could not be connected at first; it goes on trying.
    NotYet(MigrateError),
    /// Nothing is outstanding.
    Whole(Box<LazyReport>),
    /// The process at the target needs nothing any more, and why.
    Ended(String),
    /// These will not be asked for again.
    Placed(Vec<LazyRange>),
    /// The process at the target was killed: what it lacks cannot come, the copy here being gone or for another reason.
    Lost(String),
    /// The target does not know (any more) what the lane is for.
    Refused(String),
}

/// What has been answered.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Pages sent with content.
    pub pages: AtomicU64,
    /// Pages said to be zero.
    pub zero_pages: AtomicU64,
    /// Bytes of content.
    pub bytes: AtomicU64,
    /// Times that a lane that had worked was opened anew.
    pub reconnects: AtomicU64,
}

#[derive(Clone, Debug)]
enum Order {
    Wait,
    Serve(Arc<Memory>),
    /// There is nothing to serve from: the target is to be told so.
    Tell(String),
    Close(String),
}

/// Both lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    orders: watch::Sender<Order>,
    heard: Receiver<Heard>,
    traffic: Arc<Traffic>,
    threads: Vec<JoinHandle<()>>,
}

impl Lanes {
    /// Begins to connect both.
    pub(crate) fn open(road: &Road) -> Result<Self, MigrateError> {
        let failed = |source| MigrateError::Here { step: "starting a lane", source };
        let (orders, told) = watch::channel(Order::Wait);
        let (tell, heard) = channel();
        let mut lanes = Lanes { orders, heard, traffic: Arc::default(), threads: Vec::new() };
        for (what, name, way, haste) in [
            (LaneKind::Urgent, "lane-urgent", Way::Express, Haste::Now),
            (LaneKind::Bulk, "lane-bulk", Way::Ordinary, Haste::Soon),
        ] {
            let lane = Lane {
                kind: what,
                way,
                road: road.clone(),
                identity: Identity::load_or_create(&road.home)?,
                orders: told.clone(),
                tell: tell.clone(),
                traffic: lanes.traffic.clone(),
                connected: None,
            };
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
            let run = move || {
                let _ = hasten(haste);
                runtime.block_on(lane.run());
                // a name lookup that hangs must not hold us
                runtime.shutdown_background();
            };
            let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(failed)?;
            lanes.threads.push(thread);
        }
        Ok(lanes)
    }

    /// From now on they answer, from this memory.
    pub(crate) fn serve(&self, memory: Arc<Memory>) {
        self.order(Order::Serve(memory));
    }

    /// There is nothing that could be served: the target is told.
    pub(crate) fn tell_lost(&self, why: &str) {
        self.order(Order::Tell(why.to_owned()));
    }

    /// What one of them tells next, if it does within that time.
    pub(crate) fn hear(&self, patience: Duration) -> Option<Heard> {
        match self.heard.recv_timeout(patience) {
            Ok(heard) => Some(heard),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(patience);
                None
            }
        }
    }

    /// What has been answered so far.
    pub(crate) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Closes both.
    pub(crate) fn close(mut self, reason: &str) {
        self.end(reason);
    }

    fn end(&mut self, reason: &str) {
        self.order(Order::Close(reason.to_owned()));
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    fn order(&self, order: Order) {
        self.orders.send_replace(order);
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        self.end("given up");
    }
}

/// Why a lane broke.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the connection of the lane broke")]
    Wire(#[from] WireError),
    #[error("nothing arrived for {} ms", SILENCE.as_millis())]
    Silent,
    #[error("the target refused it: {0}")]
    Refused(String),
    #[error(transparent)]
    Nonsense(#[from] Unanswerable),
}

struct Lane {
    kind: LaneKind,
    way: Way,
    road: Road,
    identity: Identity,
    orders: watch::Receiver<Order>,
    tell: Sender<Heard>,
    traffic: Arc<Traffic>,
    connected: Option<Connected>,
}

impl Lane {
    async fn run(mut self) {
        let mut orders = self.orders.clone();
        let closed = async {
            match orders.wait_for(|order| matches!(order, Order::Close(_))).await.as_deref() {
                Ok(Order::Close(reason)) => reason.clone(),
                _ => String::new(),
            }
        };
        let reason = tokio::select! {
            never = self.keep_going() => match never {},
            reason = closed => reason,
        };
        if let Some(connected) = self.connected.take() {
            connected.close(&reason).await;
        }
    }

    /// Connects and serves until the last word; then it only keeps the connection.
    async fn keep_going(&mut self) -> Infallible {
        let mut pause = BACKOFF.0;
        let mut limit = self.road.limit;
        let mut ready = false;
        loop {
            match self.connect(limit).await {
                Err(e) if !ready => {
                    self.say(Heard::NotYet(e));
                    ready = true;
                }
                Err(e) => tracing::debug!(lane = ?self.kind, error = %crate::sys::chain(&e), "not connected"),
                Ok(connected) => {
                    if !std::mem::replace(&mut ready, true) {
                        self.say(Heard::Ready);
                    }
                    let begun = std::time::Instant::now();
                    let connection = connected.connection.clone();
                    self.connected = Some(connected);
                    match self.use_it(&connection).await {
                        Ok(last) => {
                            self.say(last);
                            return std::future::pending().await;
                        }
                        Err(e) => {
                            tracing::info!(lane = ?self.kind, error = %crate::sys::chain(&e), "a lane broke");
                            if let Broken::Refused(why) = e {
                                self.say(Heard::Refused(why));
                            } else if matches!(*self.orders.borrow(), Order::Serve(_)) {
                                self.traffic.reconnects.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    if begun.elapsed() > BACKOFF.1 {
                        pause = BACKOFF.0;
                    }
                    connection.close(0u32.into(), b"again");
                    self.connected = None;
                }
            }
            limit = CONNECTING;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    fn say(&self, heard: Heard) {
        // nobody listens any more: then nobody needs to know
        let _ = self.tell.send(heard);
    }

    async fn connect(&self, limit: Duration) -> Result<Connected, MigrateError> {
        let trust = TrustStore::new(&self.road.home);
        Ok(connect_by(self.way, &self.identity, &trust, &self.road.to, limit).await?)
    }

    /// Serves on a connection, until the last word.
    async fn use_it(&self, connection: &quinn::Connection) -> Result<Heard, Broken> {
        let mut orders = self.orders.clone();
        let order = tokio::select! {
            order = orders.wait_for(|order| !matches!(order, Order::Wait)) => match order {
                Ok(order) => order.clone(),
                Err(_) => return std::future::pending().await,
            },
            lost = connection.closed() => return Err(WireError::Open(lost).into()),
        };
        let mut wire = open_wire(connection, cap).await?;
        let begin = ToTarget::Lane { id: self.road.id.clone(), lane: self.kind };
        wire.send_msg(&begin).await?;
        let served = async {
            match order {
                Order::Serve(memory) => self.serve(&mut wire, Ok(memory)).await,
                Order::Tell(why) => self.serve(&mut wire, Err(why)).await,
                Order::Wait | Order::Close(_) => std::future::pending().await,
            }
        };
        let last = tokio::select! {
            last = served => last?,
            () = silence(Some(connection.clone()), SILENCE) => return Err(Broken::Silent),
        };
        // our last word must not be overtaken by the close; if it is lost all the same, the holder stays a little longer
        let _ = tokio::time::timeout(LAST_WORD, wire.send.finish()).await;
        Ok(last)
    }

    /// Answers until the holder's last word. `memory`: or why there is none. That the holder is told, and it is heard out: what QUIC
    /// acknowledges has come to `ulpm serve`, and no farther.
    async fn serve(&self, wire: &mut Wire, memory: Result<Arc<Memory>, String>) -> Result<Heard, Broken> {
        let (memory, mut lost) = match memory {
            Ok(memory) => (Some(memory), None),
            Err(why) => (None, Some(why)),
        };
        let mut told = false;
        loop {
            if let (Some(why), false) = (&lost, told) {
                wire.send_msg(&FromSource::Lost(why.clone())).await?;
                told = true;
            }
            // receiving is cancel-safe: what has arrived is kept
            let said = match tokio::time::timeout(LOOK, wire.recv.recv()).await {
                Ok(frame) => Some(understand(&frame?)?),
                Err(_) => None,
            };
            let memory = memory.as_ref().filter(|_| lost.is_none());
            let last = match said {
                None => {
                    if memory.is_some_and(|memory| !memory.lives()) {
                        lost = Some("the stopped copy at the source has been ended there".to_owned());
                    }
                    continue;
                }
                Some(FromHolder::Want(ranges)) => {
                    if let Some(memory) = memory {
                        lost = self.answer_all(wire, memory, ranges).await?;
                    }
                    continue;
                }
                Some(FromHolder::Placed(ranges)) => {
                    self.say(Heard::Placed(ranges));
                    continue;
                }
                Some(FromHolder::Whole(report)) => Heard::Whole(report),
                Some(FromHolder::Ended(why)) => Heard::Ended(why),
                Some(FromHolder::Killed(why)) => Heard::Lost(lost.unwrap_or(why)),
            };
            wire.send_msg(&FromSource::Bye).await?;
            return Ok(last);
        }
    }

    /// Answers a question, or says why that cannot be done any more.
    async fn answer_all(
        &self,
        wire: &mut Wire,
        memory: &Memory,
        ranges: Vec<LazyRange>,
    ) -> Result<Option<String>, Broken> {
        for wanted in ranges {
            match self.answer(wire, memory, wanted).await {
                Err(Broken::Nonsense(e)) if !matches!(e, Unanswerable::Foreign(_)) => {
                    return Ok(Some(e.to_string()));
                }
                answered => answered?,
            }
        }
        Ok(None)
    }

    async fn answer(&self, wire: &mut Wire, memory: &Memory, wanted: LazyRange) -> Result<(), Broken> {
        let mut zero: Vec<LazyRange> = Vec::new();
        for piece in memory.pieces(wanted)? {
            for answer in memory.answer(&piece)? {
                match answer {
                    Answer::Zero(range) => append(&mut zero, range),
                    Answer::Pages(head, content) => {
                        self.zero(wire, &mut zero).await?;
                        let bytes = content.len() as u64;
                        wire.send.send_bytes(kind::LAZY_PAGES, &head.encode(), content).await?;
                        self.traffic.pages.fetch_add(bytes / PAGE_SIZE, Ordering::Relaxed);
                        self.traffic.bytes.fetch_add(bytes, Ordering::Relaxed);
                    }
                }
            }
        }
        self.zero(wire, &mut zero).await
    }

    /// Says what is zero, before anything that comes after it.
    async fn zero(&self, wire: &mut Wire, zero: &mut Vec<LazyRange>) -> Result<(), Broken> {
        if zero.is_empty() {
            return Ok(());
        }
        let ranges = std::mem::take(zero);
        let pages: u64 = ranges.iter().map(|z| z.range.pages()).sum();
        wire.send_msg(&FromSource::Zero(ranges)).await?;
        self.traffic.zero_pages.fetch_add(pages, Ordering::Relaxed);
        Ok(())
    }
}

/// What one piece ends with, the next may go on with.
fn append(zero: &mut Vec<LazyRange>, range: LazyRange) {
    match zero.last_mut() {
        Some(last) if last.owner == range.owner && last.range.end == range.range.start => {
            last.range.end = range.range.end;
        }
        _ => zero.push(range),
    }
}

/// What the holder says, or `ulpm serve` in its place.
fn understand(frame: &Frame) -> Result<FromHolder, Broken> {
    if let Some(ToSource::Failed(why)) = ToSource::read(frame)? {
        return Err(Broken::Refused(why));
    }
    Ok(frame.message()?)
}

#[cfg(test)]
#[path = "lanes_tests.rs"]
mod tests;
