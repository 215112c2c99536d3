//! The target's conversation with one source, from hello to the end. Runs on an OS thread of its own, which owns
//! the skeleton's tracees.

use std::path::PathBuf;
use std::time::Duration;

use tokio::runtime::Handle;

use super::RestoreError;
use super::arrivals::Passenger;
use super::guests::{Guests, Visit};
use super::incoming::{MAX_CLOCKS, aborted, endless, silent};
use super::late_signals;
use super::lazy::carriers::Carried;
use super::lazy::{self, adopt, relay};
use super::permission::Authority;
use super::quarters::Place;
use super::reservation::check;
use crate::fault::Point;
use crate::handover::settle::Answer;
use crate::image::files::ContentHashes;
use crate::image::process::LateSignal;
use crate::image::{Note, Obstacle, ProcessIndex, TreeImage, check as image_check};
use crate::state::{sanity, threads};
use crate::sys::chain;
use crate::sys::kernel::Kernel;
use crate::sys::time::{Ticker, initial_clocks};
use crate::tracee::together::Haste;
use crate::transport::greeting::About;
use crate::transport::lane::LaneKind;
use crate::transport::message::WireMessage as _;
use crate::transport::protocol::{Description, ToSource, ToTarget, cap, description_cap, greeting_cap};
use crate::transport::vigil::{LISTENING, Vigil};
use crate::transport::{Accepted, Fingerprint, Frame, TrustStore, Way, Wire, accept_wire, hello};

/// What a session needs of the server.
#[derive(Clone, Debug)]
pub struct Server {
    /// Drives the network.
    pub handle: Handle,
    /// `ULPM_HOME`.
    pub home: PathBuf,
    /// `ULPM_HOME/journal`.
    pub journal: PathBuf,
    /// Who may do what.
    pub trust: TrustStore,
    /// Who is here.
    pub guests: Guests,
    /// Which late signals are queued.
    pub taken: late_signals::Taken,
    /// In which control groups arriving processes live.
    pub place: Place,
}

/// How long the source may be silent: QUIC itself notices a dead link sooner.
const SILENCE: Duration = Duration::from_secs(300);
/// How long it may take to say who it is, and what it wants.
const GREETING: Duration = Duration::from_secs(10);
const DESCRIBING: Duration = Duration::from_secs(25);
/// How long it may take to close the connection in the end.
const PARTING: Duration = Duration::from_secs(2);

/// Talks with one source until the end. What went wrong has been told to the source as far as possible.
pub fn run(server: &Server, accepted: Accepted) -> Result<(), RestoreError> {
    let authority = Authority::of(&server.trust, accepted.peer)?;
    let Some(visit) = server.guests.visit(accepted.peer) else {
        tracing::warn!(fingerprint = %accepted.peer, remote = %accepted.remote, "too many conversations at once, refused one");
        accepted.connection.close(0u32.into(), b"too many conversations at once");
        return Err(RestoreError::NotPermitted("too many conversations at once".to_owned()));
    };
    let vigil = Vigil::default();
    server.handle.spawn(vigil.clone().keep(accepted.connection.clone()));
    let _ticker = Ticker::start(Duration::from_millis(100)).map_err(RestoreError::io("starting a timer"))?;
    let mut wire = server
        .handle
        .block_on(async { tokio::time::timeout(GREETING, accept_wire(&accepted.connection, cap)).await })
        .map_err(|_| silent(GREETING))??;
    wire.recv.set_cap(greeting_cap);
    let first = server.handle.block_on(async { tokio::time::timeout(GREETING, wire.recv.recv()).await });
    let first = first.map_err(|_| silent(GREETING))??;
    if let Some(ToTarget::Lane { id, lane }) = ToTarget::read(&first)? {
        return lane_of(server, &accepted, wire, &id, lane);
    }
    let mut session = Session {
        server: server.clone(),
        wire,
        vigil,
        first: Some(first),
        peer: accepted.remote.to_string(),
        key: accepted.peer,
        theirs: None,
        settled: None,
        lazy: false,
        concluded: false,
        patience: GREETING,
        passenger: None,
        authority,
        visit,
    };
    let result = session.converse();
    if let Err(e) = &result {
        match session.passenger.take() {
            Some(passenger) => passenger.stays(e),
            None => tracing::warn!(peer = %session.peer, "a conversation ended: {}", chain(e)),
        }
        if !session.concluded {
            let _ = session.say(&ToSource::Failed(chain(e)));
        }
    }
    session.part(&accepted);
    result
}

/// A lane of a lazy migration: bytes between the source and the holder.
fn lane_of(
    server: &Server,
    accepted: &Accepted,
    mut wire: Wire,
    id: &str,
    lane: LaneKind,
) -> Result<(), RestoreError> {
    let haste = match accepted.way {
        Way::Express => Haste::Now,
        Way::Ordinary => Haste::Soon,
    };
    let (home, migration, peer) = (server.home.clone(), id.to_owned(), accepted.peer);
    let carry = async move {
        let holder = match relay::reach(&home, &migration).await {
            Ok(holder) => holder,
            Err(e) => {
                let why = format!("no memory is outstanding here of migration {migration} ({e})");
                wire.send.send_msg(&ToSource::Failed(why)).await?;
                return Ok::<_, RestoreError>(false);
            }
        };
        let passed = Carried::new(haste, relay::relay(holder, lane, peer, wire)).await;
        tracing::debug!(migration, ?lane, ?passed, "a lane ends");
        Ok(true)
    };
    server.handle.block_on(async {
        // where its connection is driven: each change of thread would be waited for
        match accepted.driver.spawn(carry).await {
            Ok(Ok(true)) => accepted.connection.close(0u32.into(), b"the lane ends"),
            Ok(Ok(false)) => {
                let _ = tokio::time::timeout(Duration::from_secs(2), accepted.connection.closed()).await;
            }
            Ok(Err(e)) => return Err(e),
            Err(e) => tracing::error!(id, ?lane, error = %e, "a lane ends"),
        }
        Ok(())
    })
}

pub(super) struct Session {
    pub(super) server: Server,
    pub(super) wire: Wire,
    /// Whether the source was given up for silence.
    vigil: Vigil,
    /// What was read to see who it is.
    pub(super) first: Option<Frame>,
    pub(super) peer: String,
    pub(super) key: Fingerprint,
    /// What the source is, once it has said so.
    pub(super) theirs: Option<About>,
    /// Its process runs here, and the entry of this migration is kept for a source that asks.
    pub(super) settled: Option<String>,
    /// The process runs, and its memory is still to come.
    pub(super) lazy: bool,
    /// The hand-over has come to its end, and the source was told.
    pub(super) concluded: bool,
    /// The process on its way here, until it has arrived or is known to stay.
    pub(super) passenger: Option<Passenger>,
    /// How long a whole frame may take to arrive.
    pub(super) patience: Duration,
    pub(super) authority: Authority,
    pub(super) visit: Visit,
}

impl Session {
    pub(super) fn say(&mut self, message: &ToSource) -> Result<(), RestoreError> {
        Ok(self.server.handle.block_on(self.wire.send.send_msg(message))?)
    }

    pub(super) fn frame(&mut self) -> Result<Frame, RestoreError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let wire = &mut self.wire;
        let received = self
            .server
            .handle
            .block_on(async { tokio::time::timeout(self.patience, wire.recv.recv()).await });
        match received {
            Err(_) | Ok(Err(_)) if self.vigil.was_silent() => Err(RestoreError::Unheard(LISTENING.as_secs())),
            Ok(frame) => Ok(frame?),
            Err(_) => Err(silent(self.patience)),
        }
    }

    pub(super) fn message(&mut self) -> Result<ToTarget, RestoreError> {
        let frame = self.frame()?;
        ToTarget::read(&frame)?
            .ok_or_else(|| RestoreError::Nonsense(format!("a frame of kind {} out of turn", frame.kind)))
    }

    /// Hears the source out. It closes the connection; until it has, our last words may be under way.
    fn part(&mut self, accepted: &Accepted) {
        if let Some(id) = self.settled.take() {
            // it says goodbye when its copy is gone, which may take as long as giving much memory back does, or sending it
            self.patience = if self.lazy { Duration::from_secs(u64::from(u32::MAX)) } else { SILENCE };
            match self.listen(&id) {
                Ok(ToTarget::Goodbye) => self.goodbye(&id),
                // it may still ask
                other => tracing::debug!(?other, "the source ends without a goodbye: the entry is kept"),
            }
        }
        let closed = accepted.connection.closed();
        let _ = self.server.handle.block_on(async { tokio::time::timeout(PARTING, closed).await });
    }

    /// The next message of a source whose process runs here that is not about signals.
    fn listen(&mut self, ours: &str) -> Result<ToTarget, RestoreError> {
        loop {
            match self.message()? {
                ToTarget::Signals { id, of, first, signals } if id == ours => {
                    self.signalled(&id, of, first, &signals)?
                }
                other => return Ok(other),
            }
        }
    }

    fn signalled(
        &mut self,
        id: &str,
        of: ProcessIndex,
        first: u32,
        signals: &[LateSignal],
    ) -> Result<(), RestoreError> {
        image_check::signals(signals).map_err(RestoreError::Nonsense)?;
        let (taken, dir) = (&self.server.taken, &self.server.journal);
        let queued = late_signals::queue_of(taken, dir, (id, &self.key), (of, first), signals)?;
        self.say(&ToSource::SignalsTaken(queued))
    }

    fn converse(&mut self) -> Result<(), RestoreError> {
        let ours = hello::ours();
        for _ in 0..MAX_CLOCKS {
            match self.message()? {
                ToTarget::Hello(theirs) => {
                    self.say(&ToSource::Hello(ours.clone()))?;
                    self.theirs = Some(hello::check(&ours, &theirs).map_err(RestoreError::Version)?);
                    self.wire.recv.set_cap(description_cap);
                    self.patience = DESCRIBING;
                }
                ToTarget::Clock => self.say(&clock())?,
                ToTarget::Describe(description) if self.theirs.is_some() => {
                    return self.receive(*description);
                }
                ToTarget::Settle(id) => {
                    image_check::id(&id).map_err(RestoreError::Nonsense)?;
                    RestoreError::point(Point::TargetAsked)?;
                    let answer = super::settle::settle(&self.server.journal, &id, &self.key)?;
                    RestoreError::point(Point::TargetSettled)?;
                    self.lazy = lazy::is_outstanding(&self.server.home, &id);
                    // a source that ends its copy now has signals for us perhaps, and says goodbye
                    self.settled = matches!(answer, (Answer::Running, _)).then_some(id);
                    self.say(&match answer {
                        (Answer::Running, pid) if self.lazy => ToSource::SettledLazy(pid),
                        (Answer::Running, pid) => ToSource::Settled(Some(pid)),
                        (Answer::Never, _) => ToSource::Settled(None),
                        (Answer::Later, _) => ToSource::SettledLater,
                        (Answer::Down, pid) => ToSource::SettledDown(pid),
                    })?;
                    return Ok(());
                }
                // the connection of the move has broken since
                ToTarget::Signals { id, of, first, signals } if self.theirs.is_some() => {
                    image_check::id(&id).map_err(RestoreError::Nonsense)?;
                    self.signalled(&id, of, first, &signals)?;
                    // there may be more than one message has room for; then it closes the connection
                    return match self.listen(&id) {
                        Ok(ToTarget::Goodbye) => {
                            self.goodbye(&id);
                            Ok(())
                        }
                        Ok(other) => Err(out_of_turn(&other)),
                        Err(RestoreError::Nonsense(why)) => Err(RestoreError::Nonsense(why)),
                        Err(_) => Ok(()),
                    };
                }
                ToTarget::Abort(why) => return Err(aborted(&why)),
                other => return Err(out_of_turn(&other)),
            }
        }
        Err(endless())
    }

    fn receive(&mut self, mut description: Description) -> Result<(), RestoreError> {
        self.patience = SILENCE;
        image_check::id(&description.id)
            .and_then(|()| sanity::tree(&description.tree, false))
            .map_err(RestoreError::Nonsense)?;
        let TreeImage { processes, files, .. } = &mut description.tree;
        let foreign: Vec<Note> =
            processes.iter().flat_map(|p| self.authority.foreign_sockets(p, files)).collect();
        let strangers: Vec<Obstacle> =
            processes.iter_mut().filter_map(|p| self.authority.map_users(p, files).err()).collect();
        self.passenger = Some(Passenger::new(&description, &self.peer));
        let mut hashes = ContentHashes::new();
        let mut asked = false;
        let reservation = loop {
            let mut checked =
                check(&description, &hashes, &self.authority, &self.server.place, &self.server.home)?;
            checked.notes.splice(0..0, self.server.place.note());
            checked.obstacles.extend(strangers.iter().cloned());
            checked.notes.extend(foreign.iter().cloned());
            if description.lazy {
                checked.obstacles.extend(adopt::obstacle(Kernel::here()));
            }
            if let Some(theirs) = &self.theirs {
                checked.obstacles.extend(threads::cpu_obstacles(theirs.cpu_components, &theirs.cpu_features));
            }
            if !checked.needs_hash.is_empty() && !asked {
                asked = true;
                self.say(&ToSource::NeedHashes(checked.needs_hash))?;
                match self.message()? {
                    ToTarget::Hashes(answer) => hashes = answer,
                    ToTarget::Abort(why) => return Err(aborted(&why)),
                    other => return Err(out_of_turn(&other)),
                }
                continue;
            }
            if let Some(most) = self.authority.permit.processes.filter(|most| self.visit.others() >= *most) {
                checked.obstacles.push(Obstacle::new(
                    "process",
                    match most {
                        1 => "1 process of this source is at the target, more may not be".to_owned(),
                        _ => format!("{most} processes of this source are at the target, more may not be"),
                    },
                    format!(
                        "wait until one has ended; or there: ulpm trust add {} --max-processes …",
                        self.authority.peer
                    ),
                ));
            }
            self.say(&ToSource::Preflight {
                obstacles: checked.obstacles.clone(),
                notes: checked.notes.clone(),
            })?;
            if !checked.obstacles.is_empty() {
                if let Some(passenger) = self.passenger.take() {
                    passenger.refused(&checked.obstacles);
                }
                return Ok(());
            }
            break checked;
        };
        for _ in 0..MAX_CLOCKS {
            match self.message()? {
                ToTarget::Clock => self.say(&clock())?,
                ToTarget::Begin { difference } => {
                    self.wire.recv.set_cap(cap);
                    let begun = self.begin(&description, reservation, difference);
                    let mut work = begun.map_err(RestoreError::of_half_built)?;
                    return self.build(&mut work);
                }
                ToTarget::Abort(why) => {
                    // the source only asked (`ulpm check --to`), has found something itself, or its user has thought better
                    if let Some(passenger) = self.passenger.take() {
                        passenger.stays(&aborted(&why));
                    }
                    return Ok(());
                }
                other => return Err(out_of_turn(&other)),
            }
        }
        Err(endless())
    }
}

pub(super) fn out_of_turn(message: &ToTarget) -> RestoreError {
    let text = format!("{message:?}");
    let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    RestoreError::Nonsense(format!("{name} out of turn"))
}

pub(super) fn clock() -> ToSource {
    let now = initial_clocks();
    ToSource::Clock(now.monotonic_ns, now.boottime_ns)
}
