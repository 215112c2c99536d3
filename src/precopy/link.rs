//! The [`Destination`] that is another host: blocking calls on the session's own thread, which drives the network
//! itself (a current-thread runtime): no message waits for another thread to wake up. While that thread is at work for long,
//! a [`Pulse`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::MigrateError;
use super::cancel::Cancel;
use super::destination::{Destination, out_of_turn};
use super::pulse::Pulse;
use crate::image::files::AtPath;
use crate::image::{FilePath, ObjectId, PageRange, ProcessIndex, TreeImage};
use crate::preload::PreloadError;
use crate::preload::push::PageSink;
use crate::transport::greeting::About;
use crate::transport::hello;
use crate::transport::message::Frame;
use crate::transport::page_head::{ObjectHead, PrivateHead};
use crate::transport::protocol::{ToSource, ToTarget, answer_cap, cap, kind};
use crate::transport::vigil::{self, Vigil};
use crate::transport::{
    ConnectError, Connected, Identity, RemoteAddr, TrustStore, Wire, connect, open_wire, words,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing at all may arrive while the process is frozen. Both ends send a sign of life four times a second,
/// whatever their sessions are busy with: a link that is silent for so long is cut, or the target has died, and the
/// process shall not wait for QUIC's patience.
const SIGN_OF_LIFE: Duration = Duration::from_millis(1500);

/// How long a connection may take that is made in the place of one that broke.
const AGAIN: Duration = Duration::from_secs(5);

/// How long our last words may take.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A connection to a target.
#[derive(Debug)]
pub(crate) struct Link {
    network: Pulse,
    wire: Wire,
    connected: Option<Connected>,
    cancel: Cancel,
    /// Whether cancelling still ends it: not after the commit.
    heed_cancel: bool,
    /// Whether [`SIGN_OF_LIFE`] counts.
    watched: bool,
    /// Whether it was given up for silence.
    vigil: Vigil,
    /// `ULPM_HOME`.
    home: PathBuf,
    /// The target as the user named it.
    to: RemoteAddr,
    /// The first connection, if it broke. It is closed with the others: who is cut off would wait for that now.
    broken: Option<Box<Link>>,
    /// Bytes sent by earlier connections.
    sent_before: u64,
    /// What the target is.
    pub theirs: About,
    /// What we are.
    pub ours: About,
}

impl Link {
    /// Connects and says hello.
    pub(crate) fn open(
        home: &Path,
        to: &RemoteAddr,
        cancel: &Cancel,
        limit: Duration,
    ) -> Result<Self, MigrateError> {
        let identity = Identity::load_or_create(home)?;
        let trust = TrustStore::new(home);
        let network = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(Pulse::of)
            .map_err(|source| MigrateError::Here { step: "starting the network", source })?;
        let connected = network.block_on(async {
            tokio::select! {
                connected = connect(&identity, &trust, to, limit) => connected.map_err(|e| e.remarked(to).into()),
                () = cancel.wait() => Err(MigrateError::Cancelled),
            }
        })?;
        if connected.peer == identity.fingerprint() {
            return Err(ConnectError::ThisHost { host: to.clone() }.into());
        }
        let vigil = Vigil::default();
        network.spawn(vigil.clone().keep(connected.connection.clone()));
        let mut wire = network.block_on(open_wire(&connected.connection, cap))?;
        wire.recv.set_cap(answer_cap);
        let ours = hello::about();
        let mut link = Link {
            network,
            wire,
            connected: Some(connected),
            cancel: cancel.clone(),
            heed_cancel: true,
            watched: false,
            vigil,
            home: home.to_owned(),
            to: to.clone(),
            broken: None,
            sent_before: 0,
            theirs: ours.clone(),
            ours: ours.clone(),
        };
        let hello = hello::ours();
        link.say(&ToTarget::Hello(hello.clone()))?;
        match link.hear("waiting for its hello")? {
            ToSource::Hello(theirs) => {
                link.theirs = hello::check(&hello, &theirs).map_err(MigrateError::Version)?;
            }
            other => return Err(out_of_turn(&other)),
        }
        Ok(link)
    }

    /// `ADDRESS:PORT` of the target.
    pub(crate) fn remote(&self) -> String {
        self.connected.as_ref().map(|c| c.remote.to_string()).unwrap_or_default()
    }

    /// Bytes that have really left.
    fn left(&self) -> u64 {
        self.connected.as_ref().map_or(0, |c| c.connection.stats().udp_tx.bytes)
    }

    /// Does one thing on the wire, with a time limit, until the user cancels.
    fn within<T>(
        &mut self,
        step: &'static str,
        operation: impl AsyncFnOnce(&mut Wire) -> Result<T, crate::transport::WireError>,
    ) -> Result<T, MigrateError> {
        if self.heed_cancel && self.cancel.is_set() {
            return Err(MigrateError::Cancelled);
        }
        let (cancel, heed) = (self.cancel.clone(), self.heed_cancel);
        let connection = self.connected.as_ref().filter(|_| self.watched).map(|c| c.connection.clone());
        let wire = &mut self.wire;
        let done = self.network.block_on(async {
            tokio::select! {
                biased;
                result = operation(wire) => result.map_err(MigrateError::from),
                () = cancel.wait(), if heed => Err(MigrateError::Cancelled),
                () = silence(connection, SIGN_OF_LIFE) => Err(MigrateError::NoSignOfLife { ms: SIGN_OF_LIFE.as_millis(), step }),
                () = tokio::time::sleep(PATIENCE) => Err(MigrateError::Silent { seconds: PATIENCE.as_secs(), step }),
            }
        });
        if let Err(MigrateError::Wire(_)) = &done {
            if self.vigil.was_silent() {
                return Err(MigrateError::Silent { seconds: vigil::BOUND.as_secs(), step });
            }
            if self.connected.as_ref().is_some_and(|c| vigil::unheard(&c.connection)) {
                return Err(MigrateError::Unheard { seconds: vigil::LISTENING.as_secs(), step });
            }
            // a target that failed says so before the connection goes
            if let Some(why) = self.last_words() {
                return Err(MigrateError::Target(why));
            }
        }
        done
    }

    fn last_words(&mut self) -> Option<String> {
        let recv = &mut self.wire.recv;
        let frame = self.network.block_on(async {
            tokio::time::timeout(Duration::from_millis(200), recv.recv()).await.ok()?.ok()
        })?;
        match frame.message() {
            Ok(ToSource::Failed(why)) => Some(words::said(&why)),
            _ => None,
        }
    }

    /// Closes the connection when the target has all that was said, or will not have it: what is under way would be lost.
    pub(crate) fn close(mut self, reason: &str) {
        if let Some(broken) = self.broken.take() {
            broken.close(reason);
        }
        let send = self.wire.send;
        if let Some(connected) = self.connected.take() {
            self.network.block_on(async {
                let _ = tokio::time::timeout(LAST_WORDS, send.finish()).await;
                connected.close(reason).await;
            });
        }
        self.network.shut_down();
    }
}

impl Destination for Link {
    fn say(&mut self, message: &ToTarget) -> Result<(), MigrateError> {
        self.within("sending", async |wire| wire.send.send_msg(message).await)
    }

    fn hear(&mut self, step: &'static str) -> Result<ToSource, MigrateError> {
        let frame = self.within(step, async |wire| wire.recv.recv().await)?;
        understand(&frame)
    }

    /// As long as bytes leave, the target cannot have answered what comes after them.
    fn hear_meanwhile(
        &mut self,
        step: &'static str,
        meanwhile: &mut dyn FnMut() -> Result<(), MigrateError>,
    ) -> Result<ToSource, MigrateError> {
        let (mut left, mut since) = (self.left(), Instant::now());
        loop {
            meanwhile()?;
            // receiving is cancel-safe: what has arrived is kept
            let frame = self.within(step, async |wire| {
                match tokio::time::timeout(Duration::from_millis(50), wire.recv.recv()).await {
                    Ok(frame) => frame.map(Some),
                    Err(_) => Ok(None),
                }
            })?;
            if let Some(frame) = frame {
                return understand(&frame);
            }
            // signs of life are some hundred bytes a second
            if self.left() > left + 64 * 1024 {
                (left, since) = (self.left(), Instant::now());
            }
            if since.elapsed() > PATIENCE {
                return Err(MigrateError::Silent { seconds: PATIENCE.as_secs(), step });
            }
        }
    }

    /// What was written lies with a task of the connection, which has its turns only while we wait: these are its turns.
    fn nudge(&mut self) -> Result<(), MigrateError> {
        const TURNS: usize = 4;
        self.within("sending", async |_| {
            for _ in 0..TURNS {
                tokio::task::yield_now().await;
            }
            Ok(())
        })
    }

    /// Drives the network, as far as the target takes it: it moves only while we wait for something.
    fn flush(&mut self) -> Result<(), MigrateError> {
        self.within("sending", async |_| {
            tokio::time::sleep(Duration::from_micros(500)).await;
            Ok(())
        })
    }

    fn idle(&mut self, span: Duration) -> Result<(), MigrateError> {
        self.within("sending", async |_| {
            tokio::time::sleep(span).await;
            Ok(())
        })
    }

    fn drain(&mut self) -> Result<Instant, MigrateError> {
        // what goes out by itself (signs of life, acknowledgements) is little
        const STILL: u64 = 8 * 1024;
        const STEP: Duration = Duration::from_millis(1);
        let (begun, mut idle) = (Instant::now(), Instant::now());
        let mut still = 0;
        while still < 3 && begun.elapsed() < Duration::from_millis(500) {
            let before = self.left();
            self.idle(STEP)?;
            still += 1;
            if self.left() > before + STILL {
                (still, idle) = (0, Instant::now());
            }
        }
        Ok(idle)
    }

    /// Without any sign of life it is given up soon.
    fn watch(&mut self) {
        self.watched = true;
    }

    /// Only the target's answer, or its silence, ends it from now on.
    fn ignore_cancel(&mut self) {
        self.heed_cancel = false;
    }

    fn name(&self) -> String {
        self.to.to_string()
    }

    fn reconnect(&mut self) -> Result<(), MigrateError> {
        let mut again = Link::open(&self.home, &self.to, &Cancel::default(), AGAIN)?;
        again.heed_cancel = false;
        again.sent_before = self.bytes_sent();
        let mut old = std::mem::replace(self, again);
        match old.broken.take() {
            None => self.broken = Some(Box::new(old)),
            first => {
                self.broken = first;
                old.close("asked again");
            }
        }
        Ok(())
    }

    fn bytes_sent(&self) -> u64 {
        self.sent_before + self.wire.send.bytes()
    }

    fn same_machine(&self) -> bool {
        self.ours.boot_id == self.theirs.boot_id
    }
}

/// Ends when nothing has arrived for `patience`; never without a connection.
pub(super) async fn silence(connection: Option<quinn::Connection>, patience: Duration) {
    let Some(connection) = connection else { return std::future::pending().await };
    let arrived = || connection.stats().udp_rx.datagrams;
    let (mut last, mut since) = (arrived(), Instant::now());
    while since.elapsed() < patience {
        tokio::time::sleep(patience / 15).await;
        if arrived() != last {
            (last, since) = (arrived(), Instant::now());
        }
    }
}

fn understand(frame: &Frame) -> Result<ToSource, MigrateError> {
    match frame.message()? {
        ToSource::Failed(why) => Err(MigrateError::Target(words::said(&why))),
        ToSource::Preflight { obstacles, notes } => Ok(ToSource::Preflight {
            obstacles: obstacles.iter().map(words::obstacle).collect(),
            notes: notes.iter().map(words::note).collect(),
        }),
        message => Ok(message),
    }
}

/// Contents that the target wants to compare: of files that the process was described to use, and of no others. A
/// hash tells a guesser what is in a file.
pub(crate) fn hashes(
    paths: &[FilePath],
    described: &TreeImage,
) -> Result<BTreeMap<FilePath, [u8; 32]>, MigrateError> {
    let mapped = described.processes.iter().flat_map(|p| &p.memory.files).map(|(path, _)| path);
    let open = described.files.files.iter().filter_map(|file| match file.kind.at_path() {
        Some((AtPath::File, path)) => Some(path),
        Some((AtPath::Directory | AtPath::Place | AtPath::Device, _)) | None => None,
    });
    let ours: BTreeSet<&FilePath> = mapped.chain(open).collect();
    if let Some(other) = paths.iter().find(|path| !ours.contains(path)) {
        let what = format!(
            "a wish for the hash of {}, which the process does not use",
            words::said(&other.to_string())
        );
        return Err(MigrateError::Nonsense(what));
    }
    Ok(paths.iter().filter_map(|p| Some((p.clone(), crate::state::files::content_hash(p).ok()?))).collect())
}

fn sink(e: MigrateError) -> PreloadError {
    PreloadError::Sink(Box::new(e))
}

impl PageSink for Link {
    fn pages(&mut self, of: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError> {
        let head = PrivateHead { of, start: addr }.encode();
        self.within("sending pages", async |wire| wire.send.send_bytes(kind::PAGES, &head, data).await)
            .map_err(sink)
    }

    fn zero(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Zero(of, ranges)).map_err(sink)
    }

    fn gone(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Drop(of, ranges)).map_err(sink)
    }

    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError> {
        let head = ObjectHead { id, start: offset }.encode();
        self.within("sending pages", async |wire| wire.send.send_bytes(kind::OBJECT_PAGES, &head, data).await)
            .map_err(sink)
    }

    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::ObjectHoles(id, ranges)).map_err(sink)
    }
}
