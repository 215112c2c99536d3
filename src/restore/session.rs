//! The target's conversation with one source, from hello to the end. Runs on an OS thread of its own, which owns
//! the skeleton's tracees.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::time::ClockId;
use tokio::runtime::Handle;

use super::guests::{Guests, Visit};
use super::incoming::{
    MAX_CLOCKS, MAX_ROUNDS, UNWEIGHED, aborted, compare, endless, place_object_pages, place_pages, silent,
    weight,
};
use super::lazy::adopt::{self, Holder};
use super::lazy::{self, relay};
use super::objects::Objects;
use super::permission::Authority;
use super::quarters::Quarters;
use super::reservation::{Reservation, check};
use super::skeleton::Skeleton;
use super::{RestoreError, activate, mapper, nursery, pages, verify};
use crate::fault::Point;
use crate::handover::journal::{Entry, Journal, Phase};
use crate::handover::settle::Answer;
use crate::handover::{Target, TargetAction, TargetEvent};
use crate::image::files::ContentHashes;
use crate::image::process::ProcessImage;
use crate::image::{Obstacle, TreeImage, check as image_check};
use crate::state::files::RestoreContext;
use crate::state::{scheduling, threads};
use crate::sys::chain;
use crate::sys::time::{ClockOffsets, Ticker, now_ns};
use crate::tracee::together::{Urgent, UrgentTracee, go_to, mask};
use crate::transport::lane::{LaneKind, LazyPlan};
use crate::transport::protocol::{
    AreaDigest, Description, Moments, PidChoice, ToSource, ToTarget, cap, description_cap, greeting_cap, kind,
};
use crate::transport::{Accepted, Fingerprint, Frame, TrustStore, Wire, accept_wire};

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
    /// The slice of systemd in which arriving processes get scopes of their own.
    pub slice: Option<String>,
}

/// How long the source may be silent: QUIC itself notices a dead link sooner.
const SILENCE: Duration = Duration::from_secs(300);
/// How long it may take to say who it is, and what it wants.
const GREETING: Duration = Duration::from_secs(10);
const DESCRIBING: Duration = Duration::from_secs(25);
/// Talks with one source until the end. What went wrong has been told to the source as far as possible.
pub fn run(server: &Server, accepted: Accepted) -> Result<(), RestoreError> {
    let authority = Authority::of(&server.trust, accepted.peer)?;
    let Some(visit) = server.guests.visit(accepted.peer) else {
        tracing::warn!(fingerprint = %accepted.peer, remote = %accepted.remote, "too many conversations at once, refused one");
        accepted.connection.close(0u32.into(), b"too many conversations at once");
        return Err(RestoreError::NotPermitted("too many conversations at once".to_owned()));
    };
    let _ticker = Ticker::start(Duration::from_millis(100)).map_err(RestoreError::io("starting a timer"))?;
    let mut wire = server
        .handle
        .block_on(async { tokio::time::timeout(GREETING, accept_wire(&accepted.connection, cap)).await })
        .map_err(|_| silent(GREETING))??;
    wire.recv.set_cap(greeting_cap);
    let first = server.handle.block_on(async { tokio::time::timeout(GREETING, wire.recv.recv()).await });
    let first = first.map_err(|_| silent(GREETING))??;
    if first.kind == kind::CONTROL
        && let ToTarget::Lane { id, lane } = first.decode()?
    {
        return lane_of(server, &accepted, wire, &id, lane);
    }
    let mut session = Session {
        server: server.clone(),
        wire,
        first: Some(first),
        peer: accepted.remote.to_string(),
        key: accepted.peer,
        theirs: None,
        settled: None,
        lazy: false,
        patience: GREETING,
        authority,
        visit,
    };
    let result = session.converse();
    if let Err(e) = &result {
        let text = chain(e);
        tracing::warn!(peer = %session.peer, "migration ended: {text}");
        let _ = session.say(&ToSource::Failed(text));
    }
    // the source closes; until it has, our last words may be under way
    let connection = accepted.connection.clone();
    // while memory is still to come the source stays
    let patience = Duration::from_secs(if session.lazy { u64::from(u32::MAX) } else { 2 });
    let goodbye =
        server.handle.block_on(async move { tokio::time::timeout(patience, connection.closed()).await });
    if let (Some(journal), Ok(quinn::ConnectionError::ApplicationClosed(close))) = (&session.settled, goodbye)
        && close.reason.as_ref() == crate::precopy::session::MOVED.as_bytes()
    {
        // the source has ended its copy: nobody will ask any more
        let _ = journal.remove();
    }
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
    let _urgent = (lane == LaneKind::Urgent).then(Urgent::begin);
    server.handle.block_on(async {
        let holder = match relay::reach(&server.home, id).await {
            Ok(holder) => holder,
            Err(e) => {
                let why = format!("no memory is outstanding here of migration {id} ({e})");
                wire.send.send_msg(kind::CONTROL, &ToSource::Failed(why)).await?;
                let _ = tokio::time::timeout(Duration::from_secs(2), accepted.connection.closed()).await;
                return Ok(());
            }
        };
        let passed = relay::relay(holder, lane, &accepted.peer, wire).await;
        tracing::debug!(id, ?lane, ?passed, "a lane ends");
        accepted.connection.close(0u32.into(), b"the lane ends");
        Ok(())
    })
}

struct Session {
    server: Server,
    wire: Wire,
    /// What was read to see who it is.
    first: Option<Frame>,
    peer: String,
    key: Fingerprint,
    theirs: Option<crate::transport::protocol::Hello>,
    settled: Option<Journal>,
    /// The process runs, and its memory is still to come.
    lazy: bool,
    /// How long a whole frame may take to arrive.
    patience: Duration,
    authority: Authority,
    visit: Visit,
}

/// A process being built.
struct Work {
    description: Description,
    vetted: Vec<crate::state::files::Vetted>,
    skeleton: Skeleton,
    objects: Objects,
    journal: Journal,
    state: Target,
    cpus: Vec<u8>,
    namespace: bool,
    digests: Vec<AreaDigest>,
    own_digests: Vec<AreaDigest>,
    /// Keeps its lazy memory, should there be any.
    holder: Option<Holder>,
    plan: Option<LazyPlan>,
    /// There is, and the holder has it.
    adopted: bool,
    /// Bytes that have come since the memory was last held against what the peer may bring.
    unweighed: u64,
}

impl Session {
    fn say(&mut self, message: &ToSource) -> Result<(), RestoreError> {
        Ok(self.server.handle.block_on(self.wire.send.send_msg(kind::CONTROL, message))?)
    }

    fn frame(&mut self) -> Result<Frame, RestoreError> {
        if let Some(first) = self.first.take() {
            return Ok(first);
        }
        let wire = &mut self.wire;
        let received = self
            .server
            .handle
            .block_on(async { tokio::time::timeout(self.patience, wire.recv.recv()).await });
        match received {
            Ok(frame) => Ok(frame?),
            Err(_) => Err(silent(self.patience)),
        }
    }

    fn message(&mut self) -> Result<ToTarget, RestoreError> {
        let frame = self.frame()?;
        if frame.kind != kind::CONTROL {
            return Err(RestoreError::Nonsense(format!("a frame of kind {} out of turn", frame.kind)));
        }
        Ok(frame.decode()?)
    }

    fn converse(&mut self) -> Result<(), RestoreError> {
        let ours = crate::precopy::hello::ours();
        for _ in 0..MAX_CLOCKS {
            match self.message()? {
                ToTarget::Hello(theirs) => {
                    self.say(&ToSource::Hello(ours.clone()))?;
                    crate::precopy::hello::check(&ours, &theirs).map_err(RestoreError::Nonsense)?;
                    self.theirs = Some(theirs);
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
                    self.say(&match answer {
                        (Answer::Running, pid) if lazy::is_outstanding(&self.server.home, &id) => {
                            ToSource::SettledLazy(pid)
                        }
                        (Answer::Running, pid) => ToSource::Settled(Some(pid)),
                        (Answer::Never, _) => ToSource::Settled(None),
                        (Answer::Later, _) => ToSource::SettledLater,
                        (Answer::Down, pid) => ToSource::SettledDown(pid),
                    })?;
                    return Ok(());
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
            .and_then(|()| image_check::tree(&description.tree, false))
            .map_err(RestoreError::Nonsense)?;
        let strangers: Vec<Obstacle> =
            description.tree.processes.iter_mut().filter_map(|p| self.authority.map_users(p).err()).collect();
        let mut hashes = ContentHashes::new();
        let mut asked = false;
        let reservation = loop {
            let mut checked = check(&description, &hashes, &self.authority)?;
            checked.obstacles.extend(strangers.iter().cloned());
            if description.lazy {
                checked.obstacles.extend(adopt::obstacle());
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
                    format!("{most} processes of this source are at the target, more may not be"),
                    format!(
                        "wait until one has ended; or there: ulpm trust add {} --max-processes …",
                        self.authority.peer
                    ),
                ));
            }
            self.say(&ToSource::Preflight(checked.obstacles.clone()))?;
            if !checked.obstacles.is_empty() {
                return Ok(());
            }
            break checked;
        };
        for _ in 0..MAX_CLOCKS {
            match self.message()? {
                ToTarget::Clock => self.say(&clock())?,
                ToTarget::Begin { difference } => {
                    self.wire.recv.set_cap(cap);
                    let mut work = self.begin(description, reservation, difference)?;
                    return self.build(&mut work);
                }
                // only asked what it could do (`ulpm check --to`)
                ToTarget::Abort(_) => return Ok(()),
                other => return Err(out_of_turn(&other)),
            }
        }
        Err(endless())
    }

    /// Makes the skeleton.
    fn begin(
        &mut self,
        description: Description,
        reservation: Reservation,
        difference: ClockOffsets,
    ) -> Result<Work, RestoreError> {
        if !self.visit.take_place(self.authority.permit.processes) {
            return Err(RestoreError::NotPermitted("too many processes of this source are here".to_owned()));
        }
        let process = single(&description.tree)?;
        let clocks = super::reservation::clocks(&description, difference);
        let mut order = nursery::Order {
            pid: process.pid,
            namespace: description.pid_mode == PidChoice::Namespace || reservation.namespace,
            clocks,
        };
        let entry = Entry::new(&description.id, false, 0, &self.peer).wanted_by(&self.key.to_string());
        let journal = super::settle::make_room(&self.server.journal, &self.key)
            .and_then(|()| Journal::begin(&self.server.journal, entry))
            .map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetBegun)?;
        let quarters = Quarters {
            slice: self.server.slice.as_deref(),
            id: &description.id,
            what: format!("process {} from {}", process.pid, self.peer),
        };
        let make = |order: &nursery::Order| {
            Skeleton::make(order, &quarters, &process.memory.layout, &process.memory.vdso)
        };
        let skeleton = match make(&order) {
            // taken since we looked
            Err(RestoreError::PidTaken(_))
                if description.pid_mode == PidChoice::Auto
                    && !order.namespace
                    && !self.authority.permit.no_namespaces =>
            {
                order.namespace = true;
                make(&order)
            }
            made => made,
        };
        let mut skeleton = match skeleton {
            Ok(skeleton) => skeleton,
            Err(e) => {
                let _ = journal.close();
                return Err(e);
            }
        };
        skeleton.rights = self.authority.rights(process);
        let tids: Vec<i32> = process.threads.iter().map(|t| t.tid).collect();
        skeleton.set_threads(&tids)?;
        activate::put_exe(&skeleton, &process.memory)?;
        RestoreError::point(Point::TargetBorn)?;
        let holder = match description.lazy {
            true => Some(Holder::start(&self.server.home, &quarters, &self.key, &skeleton)?),
            false => None,
        };
        self.say(&ToSource::Ready(skeleton.pid, order.namespace))?;
        Ok(Work {
            skeleton,
            vetted: reservation.vetted,
            objects: Objects::default(),
            journal,
            state: Target::Building,
            cpus: scheduling::online_cpus(),
            namespace: order.namespace,
            digests: Vec::new(),
            own_digests: Vec::new(),
            holder,
            plan: None,
            adopted: false,
            unweighed: 0,
            description,
        })
    }

    /// Rounds, state, commit.
    fn build(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let done = self.build_until_running(work);
        if work.state == Target::Running {
            // settled when the source says goodbye; see `run`
            self.settled = work.journal.try_clone().ok();
        }
        if let Err(e) = &done
            && work.state != Target::Running
        {
            let event = match e {
                RestoreError::Wire(_) => TargetEvent::Lost,
                RestoreError::Aborted(_) => TargetEvent::Abort,
                _ => TargetEvent::Failed,
            };
            give_up(work, event);
            tracing::debug!(namespace = work.namespace, "the skeleton is destroyed");
        }
        done
    }

    fn build_until_running(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let mut rounds = 0;
        loop {
            if rounds > MAX_ROUNDS {
                return Err(endless());
            }
            let frame = self.frame()?;
            if matches!(frame.kind, kind::PAGES | kind::OBJECT_PAGES) {
                work.unweighed += frame.body.len() as u64;
                if work.unweighed > UNWEIGHED {
                    work.unweighed = 0;
                    self.authority.weigh(weight(&work.skeleton, &work.objects))?;
                }
            }
            match frame.kind {
                kind::PAGES => place_pages(&mut work.skeleton, &frame)?,
                kind::OBJECT_PAGES => place_object_pages(&work.objects, &frame)?,
                _ => match frame.decode::<ToTarget>()? {
                    ToTarget::Layout { layout, new_files, .. } => {
                        let vdso = single(&work.description.tree)?.memory.vdso.clone();
                        image_check::layout(&layout, &vdso).map_err(RestoreError::Nonsense)?;
                        self.authority.check_paths(new_files.iter().map(|(path, _)| path))?;
                        compare(&new_files)?;
                        work.objects.update(&layout.objects)?;
                        work.skeleton.make_way(&layout, &vdso)?;
                        mapper::apply(&mut work.skeleton, &mut work.objects, layout)?;
                    }
                    ToTarget::Zero(ranges) => pages::zero(&mut work.skeleton, &ranges)?,
                    ToTarget::Drop(ranges) => pages::drop_pages(&mut work.skeleton, &ranges)?,
                    ToTarget::ObjectHoles(id, ranges) => work.objects.punch(id, &ranges)?,
                    ToTarget::RoundEnd(n) => {
                        RestoreError::point(Point::TargetRound)?;
                        rounds += 1;
                        self.say(&ToSource::RoundApplied(n))?;
                    }
                    ToTarget::Clock => {
                        rounds += 1;
                        self.say(&clock())?;
                    }
                    ToTarget::Lazy(plan) => {
                        if work.holder.is_none() {
                            return Err(RestoreError::Nonsense(
                                "lazy memory that was not announced".to_owned(),
                            ));
                        }
                        adopt::clear(&mut work.skeleton, &work.objects, &plan)?;
                        work.plan = Some(plan);
                    }
                    ToTarget::Verify => work.own_digests = verify::hash(&work.skeleton, &work.objects)?,
                    ToTarget::Digests(digests) => work.digests = digests,
                    ToTarget::State(tree, moments) => return self.finish(work, *tree, moments),
                    ToTarget::Abort(why) => return Err(aborted(&why)),
                    other => return Err(out_of_turn(&other)),
                },
            }
        }
    }

    /// The process is frozen at the source: everything from here on is downtime.
    fn finish(&mut self, work: &mut Work, mut tree: TreeImage, moments: Moments) -> Result<(), RestoreError> {
        let arrived = Instant::now();
        RestoreError::point(Point::TargetState)?;
        image_check::tree(&tree, true).map_err(RestoreError::Nonsense)?;
        for image in &mut tree.processes {
            self.authority.map_users(image).map_err(|o| RestoreError::NotPermitted(o.to_string()))?;
            self.authority.check(image)?;
            self.authority.bound(image);
            work.skeleton.rights = self.authority.rights(image);
        }
        self.authority.still_holds()?;
        self.authority.weigh(weight(&work.skeleton, &work.objects))?;
        let image = single(&tree)?;
        if image.pid != single(&work.description.tree)?.pid {
            return Err(RestoreError::Nonsense("the state of another process".to_owned()));
        }
        let verified = work.description.verify;
        if verified {
            verify::compare(&work.own_digests, &work.digests, &work.skeleton.layout)?;
        }
        let memory = {
            let _urgent = Urgent::begin();
            come_together(&work.skeleton);
            let mut context = RestoreContext {
                vetted: std::mem::take(&mut work.vetted),
                since_capture: since(moments.captured_ns),
                ..Default::default()
            };
            context.prepare(&image.files)?;
            let keep = hold(work, image)?;
            let keep: Vec<_> = keep.iter().map(|(number, fd)| (*number, fd.as_fd())).collect();
            activate::activate(
                &mut work.skeleton,
                &work.objects,
                image,
                &work.cpus,
                &moments,
                context,
                &keep,
            )?
        };
        work.journal.name_process(work.skeleton.pid).map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetApplied)?;
        for action in work.state.on(TargetEvent::Applied) {
            debug_assert_eq!(*action, TargetAction::SendPrepared);
            let apply_ms = arrived.elapsed().as_secs_f64() * 1e3;
            self.say(&ToSource::Prepared { apply_ms, verified })?;
            RestoreError::point(Point::TargetPrepared)?;
        }
        // while the source commits, and before anyone can know that the process runs here and move it on
        memory.save(&self.server.home, work.skeleton.pid);
        match self.message()? {
            ToTarget::Commit => self.commit(work),
            ToTarget::Abort(why) => Err(aborted(&why)),
            other => Err(out_of_turn(&other)),
        }
    }

    fn commit(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let begun = Instant::now();
        // threads that run already must not keep us from letting go of the others
        let mut urgent = Some(Urgent::begin());
        RestoreError::point(Point::TargetCommit)?;
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        for action in work.state.on(TargetEvent::Commit) {
            debug_assert_eq!(*action, TargetAction::JournalCommitted);
            work.journal.set(Phase::Committed).map_err(RestoreError::io("writing the journal"))?;
        }
        let journal_ms = ms(begun);
        RestoreError::point(Point::TargetJournalled)?;
        for action in work.state.on(TargetEvent::Journalled) {
            match action {
                TargetAction::NoteReleasing => {
                    work.journal.note(Phase::Releasing).map_err(RestoreError::io("writing the journal"))?;
                    RestoreError::point(Point::TargetNoted)?;
                }
                _ => {
                    work.skeleton.outlive()?;
                    RestoreError::point(Point::TargetOutlives)?;
                }
            }
        }
        let pid = work.skeleton.pid;
        let mut said = Ok(());
        let mut at_boottime_ns = 0;
        for action in work.state.on(TargetEvent::Outlives) {
            match action {
                TargetAction::LetGo => {
                    work.skeleton.let_go();
                    at_boottime_ns = initial_clocks().boottime_ns;
                    drop(urgent.take());
                    if let Some(holder) = work.holder.take_if(|_| work.adopted) {
                        self.lazy = true;
                        holder.go(&work.skeleton.pidfd, &self.server.home, &work.description.id);
                    }
                    let _ = RestoreError::point(Point::TargetLetGo);
                }
                TargetAction::SendRunning => {
                    let resume_ms = ms(begun) - journal_ms;
                    said = self.say(&ToSource::Running { pid, at_boottime_ns, journal_ms, resume_ms });
                    let _ = RestoreError::point(Point::TargetSaid);
                }
                _ => {
                    if let Err(e) = work.journal.set(Phase::Released) {
                        // what stands there is believed as long as the process lives
                        tracing::warn!(pid, error = %e, "the journal does not say that the process was let go");
                    }
                }
            }
        }
        let _ = RestoreError::point(Point::TargetReleased);
        self.visit.arrived(pid);
        reap(pid);
        said
    }
}

/// Nothing was let go here, nor will be. What failed is told by `run`.
fn give_up(work: &mut Work, event: TargetEvent) {
    let decided = matches!(work.state, Target::Committed | Target::Leaving);
    for action in work.state.on(if decided { TargetEvent::Failed } else { event }) {
        let written = match action {
            TargetAction::Destroy => {
                work.skeleton.destroy();
                Ok(())
            }
            TargetAction::JournalRemoved => work.journal.remove(),
            TargetAction::JournalRefused => work.journal.set(Phase::Refused),
            _ => Ok(()),
        };
        if let Err(e) = written {
            // it follows from what stands there, too
            tracing::warn!(error = %e, ?action, "the journal could not be written");
        }
    }
}

/// Hands what is lazy to its holder, before anything touches the memory. Returns the descriptors of it that the process shall have,
/// with their numbers: above its own.
fn hold(work: &mut Work, image: &ProcessImage) -> Result<Vec<(i32, std::os::fd::OwnedFd)>, RestoreError> {
    let outstanding = work.plan.take().filter(|p| !p.outstanding.is_empty() || !p.objects.is_empty());
    let (Some(holder), Some(plan)) = (&work.holder, outstanding) else { return Ok(Vec::new()) };
    let highest = image.files.slots.iter().map(|s| s.fd).max().unwrap_or(0);
    let numbers = [highest + 64, highest + 65];
    holder.adopt(&work.skeleton, &work.objects, &plan, &numbers)?;
    work.adopted = true;
    let copies = holder.userfaultfds().map(|fd| fd.try_clone_to_owned());
    let step = "duplicating a userfaultfd";
    numbers.into_iter().zip(copies).map(|(n, fd)| Ok((n, fd.map_err(RestoreError::io(step))?))).collect()
}

/// Brings the skeleton's threads to our CPU, ahead of others; their own CPUs and priorities are set with their state.
fn come_together(skeleton: &Skeleton) {
    let Ok(cpu) = nix::sched::sched_getcpu() else { return };
    go_to(cpu);
    for thread in skeleton.threads.values() {
        let _ = crate::sys::process::set_affinity(thread.0, &mask(cpu));
        UrgentTracee::begin(*thread).keep();
    }
}

/// Our children are reaped as they end.
fn reap(pid: i32) {
    std::thread::spawn(move || {
        // not our child (own namespace): its init reaps it
        if let Ok(status) = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
            tracing::info!(pid, ?status, "a process that was moved here has ended");
        }
    });
}

fn single(tree: &TreeImage) -> Result<&ProcessImage, RestoreError> {
    match tree.processes.as_slice() {
        [one] if tree.version == crate::image::IMAGE_VERSION => Ok(one),
        _ => Err(RestoreError::Nonsense("an image that is not of one process in our version".to_owned())),
    }
}

fn out_of_turn(message: &ToTarget) -> RestoreError {
    let text = format!("{message:?}");
    let name: String = text.chars().take_while(|c| c.is_alphanumeric()).collect();
    RestoreError::Nonsense(format!("{name} out of turn"))
}

/// How long ago that reading of our boottime clock was.
pub fn since(boottime_ns: i64) -> Duration {
    Duration::from_nanos(initial_clocks().boottime_ns.saturating_sub(boottime_ns).max(0) as u64)
}

/// Our clocks as they are in the initial time namespace.
pub fn initial_clocks() -> ClockOffsets {
    let own = ClockOffsets::of("self");
    ClockOffsets {
        monotonic_ns: now_ns(ClockId::CLOCK_MONOTONIC) - own.monotonic_ns,
        boottime_ns: now_ns(ClockId::CLOCK_BOOTTIME) - own.boottime_ns,
    }
}

fn clock() -> ToSource {
    let now = initial_clocks();
    ToSource::Clock(now.monotonic_ns, now.boottime_ns)
}
