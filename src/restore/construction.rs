//! Building the process: from `Begin` to the moment in which it runs here. Rounds, the frozen state, the commit.

use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use super::incoming::{
    MAX_ROUNDS, UNWEIGHED, aborted, compare, endless, place_object_pages, place_pages, weight,
};
use super::lazy::adopt::{self, Holder, Outstanding};
use super::objects::Objects;
use super::quarters::{self, Quarters};
use super::reservation::Reservation;
use super::room::Watch;
use super::session::{Session, clock, initial_clocks, out_of_turn, since};
use super::skeleton::Skeleton;
use super::urgency::Stage;
use super::{RestoreError, activate, descriptors, late_signals, mapper, nursery, pages, pairs, verify};
use crate::fault::Point;
use crate::handover::journal::{Entry, Journal, Phase};
use crate::handover::{Target, TargetAction, TargetEvent};
use crate::image::process::{LateSignal, ProcessImage};
use crate::image::{TreeImage, check as image_check};
use crate::state::files::{RestoreContext, UnixPair};
use crate::state::scheduling;
use crate::sys::process::{only, set_affinity};
use crate::sys::time::ClockOffsets;
use crate::tracee::together::{Urgent, UrgentTracee, go_to};
use crate::transport::protocol::{AreaDigest, Description, Moments, PidChoice, ToSource, ToTarget, kind};

/// A process being built.
pub(super) struct Work {
    description: Description,
    vetted: Vec<crate::state::files::Vetted>,
    /// Pairs of unix sockets that preflight saw.
    pairs: Vec<UnixPair>,
    skeleton: Skeleton,
    objects: Objects,
    journal: Journal,
    state: Target,
    cpus: Vec<u8>,
    namespace: bool,
    digests: Vec<AreaDigest>,
    own_digests: Vec<AreaDigest>,
    /// What these took.
    verify_ms: f64,
    /// Keeps its lazy memory, should there be any.
    holder: Option<Holder>,
    outstanding: Option<Outstanding>,
    /// There is, and the holder has it.
    adopted: bool,
    /// Whether the kernel has ended the skeleton for want of memory.
    watch: Watch,
    /// When the freeze began, on our boottime clock.
    frozen_ns: i64,
    /// Bytes that have come since the memory was last held against what the peer may bring.
    unweighed: u64,
    /// How urgent all this is.
    stage: Stage,
}

impl Session {
    /// Makes the skeleton.
    pub(super) fn begin(
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
            group: None,
        };
        let entry = Entry::new(&description.id, false, 0, &self.peer).wanted_by(&self.key.to_string());
        let journal = super::settle::make_room(&self.server.journal, &self.key)
            .and_then(|()| Journal::begin(&self.server.journal, entry))
            .map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetBegun)?;
        let quarters = Quarters {
            place: &self.server.place,
            id: &description.id,
            what: format!("process {} from {}", process.pid, self.peer),
        };
        order.group = quarters.make()?;
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
                order.group.iter().for_each(|group| quarters::remove(group));
                return Err(e);
            }
        };
        let watch = Watch::begin(skeleton.pid);
        if let (Some(group), Ok(process)) = (order.group.clone(), skeleton.pidfd.try_clone()) {
            quarters::remove_after(group, process);
        }
        skeleton.rights = self.authority.rights(process);
        let tids: Vec<i32> = process.threads.iter().map(|t| t.tid).collect();
        descriptors::make_room(&skeleton, process)?;
        skeleton.set_threads(&tids)?;
        activate::put_exe(&skeleton, &process.memory)?;
        let mut made = Vec::new();
        pairs::make(&skeleton, &process.files, &mut made)?;
        RestoreError::point(Point::TargetBorn)?;
        let holder = match description.lazy {
            true => Some(Holder::start(&self.server.home, &quarters, &self.key, &skeleton)?),
            false => None,
        };
        self.say(&ToSource::Ready(skeleton.pid, order.namespace))?;
        Ok(Work {
            skeleton,
            vetted: reservation.vetted,
            pairs: made,
            objects: Objects::default(),
            journal,
            state: Target::Building,
            cpus: scheduling::online_cpus(),
            namespace: order.namespace,
            digests: Vec::new(),
            own_digests: Vec::new(),
            verify_ms: 0.0,
            holder,
            outstanding: None,
            adopted: false,
            unweighed: 0,
            stage: Stage::rounds(),
            watch,
            frozen_ns: 0,
            description,
        })
    }

    /// Rounds, state, commit.
    pub(super) fn build(&mut self, work: &mut Work) -> Result<(), RestoreError> {
        let done = self.build_until_running(work).map_err(|e| match e {
            e @ (RestoreError::Wire(_) | RestoreError::Aborted(_)) => e,
            e => work.watch.tell(work.skeleton.pid, e.of_half_built()),
        });
        if work.state == Target::Running {
            // settled when the source says goodbye; see `run`
            self.settled = Some(work.description.id.clone());
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
            work.stage.look();
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
                    ToTarget::Layout { .. } if work.outstanding.is_some() => {
                        return Err(RestoreError::Nonsense(
                            "other mappings than those of its lazy memory".to_owned(),
                        ));
                    }
                    ToTarget::Layout { layout, new_files, .. } => {
                        let vdso = single(&work.description.tree)?.memory.vdso.clone();
                        image_check::layout(&layout, &vdso).map_err(RestoreError::Nonsense)?;
                        self.authority.check_paths(new_files.iter().map(|(path, _)| path))?;
                        compare(&new_files)?;
                        let objects = &mut work.objects;
                        match &work.skeleton.rights {
                            None => objects.update(&layout.objects)?,
                            // what it makes belongs to the user
                            Some(rights) => rights
                                .with(|| objects.update(&layout.objects))
                                .map_err(RestoreError::io("taking the rights of its user"))??,
                        }
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
                    ToTarget::Freezing => work.stage.frozen(),
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
                        let outstanding = adopt::clear(&mut work.skeleton, &work.objects, plan)?;
                        work.outstanding = Some(outstanding);
                    }
                    ToTarget::Verify => {
                        let begun = Instant::now();
                        work.own_digests = verify::hash(&work.skeleton, &work.objects)?;
                        work.verify_ms = begun.elapsed().as_secs_f64() * 1e3;
                    }
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
        work.stage.frozen();
        work.frozen_ns = moments.frozen_ns;
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
            let context = RestoreContext {
                vetted: std::mem::take(&mut work.vetted),
                pairs: std::mem::take(&mut work.pairs),
                since_capture: since(moments.captured_ns),
                ..Default::default()
            };
            let prepared_ms = arrived.elapsed().as_secs_f64() * 1e3;
            let keep = hold(work, image)?;
            tracing::debug!(prepared_ms, held_ms = arrived.elapsed().as_secs_f64() * 1e3, "apply");
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
        // what we have open for writing, it could not execute
        work.objects = Objects::default();
        work.journal.name_process(work.skeleton.pid).map_err(RestoreError::io("writing the journal"))?;
        RestoreError::point(Point::TargetApplied)?;
        for action in work.state.on(TargetEvent::Applied) {
            debug_assert_eq!(*action, TargetAction::SendPrepared);
            let apply_ms = arrived.elapsed().as_secs_f64() * 1e3;
            self.say(&ToSource::Prepared { apply_ms, verify_ms: work.verify_ms, verified })?;
            RestoreError::point(Point::TargetPrepared)?;
        }
        // while the source commits, and before anyone can know that the process runs here and move it on
        memory.save(&self.server.home, work.skeleton.pid);
        match self.message()? {
            ToTarget::Commit(signals) => self.commit(work, &signals),
            ToTarget::Abort(why) => Err(aborted(&why)),
            other => Err(out_of_turn(&other)),
        }
    }

    fn commit(&mut self, work: &mut Work, signals: &[LateSignal]) -> Result<(), RestoreError> {
        let begun = Instant::now();
        // threads that run already must not keep us from letting go of the others
        let mut urgent = Some(Urgent::begin());
        RestoreError::point(Point::TargetCommit)?;
        let ms = |since: Instant| since.elapsed().as_secs_f64() * 1e3;
        // nothing is decided yet: what fails here fails the move
        image_check::signals(signals).map_err(RestoreError::Nonsense)?;
        late_signals::queue_before(&work.skeleton, signals)?;
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
        let (mut at_boottime_ns, mut resume_ms) = (0, 0.0);
        for action in work.state.on(TargetEvent::Outlives) {
            match action {
                TargetAction::LetGo => {
                    work.skeleton.let_go();
                    at_boottime_ns = initial_clocks().boottime_ns;
                    // what follows is no freeze any more
                    resume_ms = ms(begun) - journal_ms;
                    drop(urgent.take());
                    if let Some(holder) = work.holder.take_if(|_| work.adopted) {
                        self.lazy = true;
                        holder.go(&work.skeleton.pidfd, &self.server.home, &work.description.id);
                    }
                    let _ = RestoreError::point(Point::TargetLetGo);
                }
                TargetAction::SendRunning => {
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
        if let Some(passenger) = self.passenger.take() {
            passenger.arrived(
                pid,
                Duration::from_nanos(at_boottime_ns.saturating_sub(work.frozen_ns).max(0) as u64),
            );
        }
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
fn hold(work: &mut Work, image: &ProcessImage) -> Result<Vec<(i32, OwnedFd)>, RestoreError> {
    let outstanding = work.outstanding.take().filter(|o| !o.is_empty());
    let (Some(holder), Some(outstanding)) = (&work.holder, outstanding) else { return Ok(Vec::new()) };
    let numbers = descriptors::ours(image);
    holder.adopt(&work.skeleton, &work.objects, outstanding, &numbers)?;
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
        let _ = set_affinity(thread.0, &only(cpu));
        UrgentTracee::begin(*thread).keep();
    }
}

/// Our children are reaped as they end.
fn reap(pid: i32) {
    let started = std::thread::Builder::new().spawn(move || {
        // not our child (own namespace): its init reaps it
        if let Ok(status) = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None) {
            tracing::info!(pid, ?status, "a process that was moved here has ended");
        }
    });
    if let Err(error) = started {
        tracing::warn!(pid, %error, "nobody waits for the end of a process that was moved here");
    }
}

fn single(tree: &TreeImage) -> Result<&ProcessImage, RestoreError> {
    match tree.processes.as_slice() {
        [one] if tree.version == crate::image::IMAGE_VERSION => Ok(one),
        _ => Err(RestoreError::Nonsense("an image that is not of one process in our version".to_owned())),
    }
}
