//! Attaching to the process, and what is known of it between rounds.
//!
//! Attaching stops one thread for some hundred microseconds: long enough to make the tracking descriptor by a
//! remote call. Then the process runs, traced by nobody, until the freeze.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::capture::Poised;
use super::lazy::{self, Later};
use super::objects::{ObjectPusher, Shown};
use super::push::{PageSink, Pusher};
use super::throttle::Waits;
use super::{PATIENCE, PreloadError};
use crate::dirty::inside::Inside;
use crate::dirty::{Chosen, DirtyTracker, Found, Kind, Last, TrackError};
use crate::image::files::{FileIdentity, FilesImage};
use crate::image::memory::{Layout, MemoryObject, discontinued};
use crate::image::process::Credentials;
use crate::image::{
    Backing, FilePath, ObjectId, Obstacle, PAGE_SIZE, PageRange, ProcessIndex, RangeSet, TreeImage, Vma,
};
use crate::state::digest::Digest;
use crate::state::files::identity::identity_of_path;
use crate::state::room::NoRoom;
use crate::state::threads::inner_tid;
use crate::state::{StateError, credentials, guard_pages, memory_map, probes, room, threads, waits};
use crate::sys::kernel::Kernel;
use crate::sys::voice;
use crate::sys::witness::Witness;
use crate::tracee::freeze::Member;
use crate::tracee::together::{Plain, Urgent, UrgentTracee, go_to};
use crate::tracee::{Batch, Frozen, Remote, Scratch, Site, TraceeError, ward};

/// What a round did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Pages sent, with content.
    pub pages: u64,
    /// Pages that the tracker found written since the round before (all that are present, in the first).
    pub written: u64,
    /// Pages that are written again and again, and are not sent before the freeze.
    pub held: u64,
    /// What the tracker took to find them.
    pub scan: Duration,
    /// For how long the process was stopped.
    pub stopped: Duration,
}

/// The agent of one process.
pub struct Agent {
    /// The process.
    pub pid: i32,
    /// Its name in the tree.
    pub of: ProcessIndex,
    /// Waits that we interrupted, and the right to stop the process.
    pub waits: Waits,
    /// The mappings as last seen.
    pub layout: Layout,
    /// How long the attaching stop was.
    pub attach: Duration,
    /// The mappings that the target was told of last.
    told: Vec<Vma>,
    files: BTreeSet<FilePath>,
    tracker: Box<dyn DirtyTracker>,
    pages: Pusher,
    objects: ObjectPusher,
    /// The last round looked at many pages for nothing.
    renewal_due: bool,
    /// Rounds leave out what may come after the process.
    withhold: bool,
    /// Somebody to be looked at. Born before the rounds: after a fork each page that we write for the first time faults, and is
    /// copied; in the freeze these were 190 faults, and half a millisecond.
    witness: Option<Arc<Witness>>,
}

/// What a process is attached to for.
pub enum Purpose<'a> {
    /// To be watched.
    Watch,
    /// To be moved: what shows nowhere is asked for, of who it is, with a witness where one is needed.
    Move(&'a Credentials, Option<&'a Witness>),
}

/// Pages looked at for nothing in a round from which on it is better to stop the process for a moment and to track anew:
/// within the freeze they would all be looked at once more (64 MiB: about 20 ms on one core).
const WASTE: u64 = 16 * 1024;

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("pid", &self.pid)
            .field("tracker", &self.tracker.name())
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Attaches, installs tracking, lets go.
    pub fn attach(
        described: &TreeImage,
        (pid, of): (i32, ProcessIndex),
        home: &Path,
        tracker: &Chosen,
    ) -> Result<Self, PreloadError> {
        let mut memory = waits::Memory::load(home, pid);
        let creds = creds_of(pid)?;
        let witness = probes::witness(pid, &creds).map(Arc::new);
        let purpose = Purpose::Move(&creds, witness.as_deref());
        let (installed, attach) = install(pid, tracker.kind, &mut memory, purpose)?;
        let Some(process) = described.process(of) else { return Err(PreloadError::NoSuchProcess(pid)) };
        let layout = with_descriptors(process.memory.layout.clone(), &described.files);
        Ok(Agent {
            pid,
            of,
            waits: Waits::new(memory),
            layout,
            attach,
            told: Vec::new(),
            files: process.memory.files.iter().map(|(path, _)| path.clone()).collect(),
            pages: Pusher::new(pid, of, installed.exact())?,
            tracker: installed,
            objects: ObjectPusher::default(),
            renewal_due: false,
            withhold: false,
            witness,
        })
    }

    /// Rounds carry only what cannot come after the process.
    pub fn withhold(&mut self) {
        self.withhold = true;
    }

    /// The witness, or another one if the process has become another user's.
    pub fn witness(&mut self) -> Result<Option<Arc<Witness>>, PreloadError> {
        let creds = creds_of(self.pid)?;
        if !self.witness.as_ref().is_some_and(|known| probes::suits(known, &creds)) {
            self.witness = probes::witness(self.pid, &creds).map(Arc::new);
        }
        Ok(self.witness.clone())
    }

    /// The tracker's name.
    pub fn tracker(&self) -> &'static str {
        self.tracker.name()
    }

    /// Reads the layout anew (not inside the freeze).
    pub fn survey(&mut self, files: &FilesImage) -> Result<(), PreloadError> {
        let survey = memory_map::survey(voice::of(self.pid))?;
        self.take(survey.layout, files);
        Ok(())
    }

    /// Takes over a layout.
    pub fn take(&mut self, layout: Layout, files: &FilesImage) {
        let layout = with_descriptors(layout, files);
        self.layout = layout;
        let descriptors = memfd_descriptors(files);
        self.objects.update(voice::of(self.pid), &self.layout, &descriptors);
    }

    /// Files mapped since the last time this was asked; the target has not compared them yet.
    pub fn new_files(&mut self) -> Vec<(FilePath, FileIdentity)> {
        let mut new = Vec::new();
        for vma in &self.layout.vmas {
            let Backing::File { path } = &vma.backing else { continue };
            if !self.files.contains(path)
                && let Ok(identity) = identity_of_path(path.as_path())
            {
                self.files.insert(path.clone());
                new.push((path.clone(), identity));
            }
        }
        new
    }

    /// The target makes its mappings those of the layout. Not so with each layout that is read: a freeze that comes to
    /// nothing has read one, too.
    fn told(&mut self) {
        self.pages.forget(&discontinued(&self.told, &self.layout.vmas));
        self.told.clone_from(&self.layout.vmas);
    }

    /// Sends what was written since the last round, after the layout.
    pub fn round(&mut self, sink: &mut dyn PageSink) -> Result<Pushed, PreloadError> {
        self.told();
        let begun = Instant::now();
        let found = if self.renewal_due && self.tracker.gains_by_a_stop() {
            self.renew()
        } else {
            self.tracker.round(&self.layout).map(|found| (found, Duration::ZERO)).map_err(PreloadError::from)
        };
        self.insist_same_program()?;
        let (found, stopped) = found?;
        let scan = begun.elapsed();
        if self.withhold {
            self.pages.withhold(lazy::private(&self.layout));
        }
        let sent = self.pages.round(&self.layout, &found, sink)?;
        self.renewal_due = sent.unchanged > WASTE;
        let pages = sent.pages + self.objects.push(&self.layout, &found, (false, self.withhold), sink)?.0;
        Ok(Pushed { pages, written: sent.written, held: self.pages.held(), scan, stopped })
    }

    /// Insists that the process runs the program that it ran when it was attached to. Its state, `/proc/PID/maps` for one, is that of the
    /// new program from then on, while descriptors for its memory still lead to the old one.
    pub fn insist_same_program(&self) -> Result<(), PreloadError> {
        if self.tracker.stale() { Err(PreloadError::Exec(self.pid)) } else { Ok(()) }
    }

    /// Right before a lazy freeze: takes back what was written since it was sent and comes after the process anyway
    /// ([`Pusher::take_back`]). Returns pages. Where the tracker is not exact, contents are compared in the freeze with what was
    /// sent; those of shared objects always are.
    pub fn take_back(&mut self, sink: &mut dyn PageSink) -> Result<u64, PreloadError> {
        if self.withhold || !self.tracker.exact() {
            return Ok(0);
        }
        let found = self.tracker.round(&self.layout);
        self.insist_same_program()?;
        let found = found?;
        self.pages.take_back(&self.layout, &found, sink)
    }

    /// Stops the process for as long as it takes to look and to start tracking anew; it runs on as if nothing had been.
    fn renew(&mut self) -> Result<(Vec<Found>, Duration), PreloadError> {
        let mut waits = self.waits.lock();
        let poised = Poised::prepare(self.pid, None)?;
        let _urgent = Urgent::begin();
        let begun = Instant::now();
        let captive = poised.freeze()?;
        let found = self.tracker.renew(&self.layout);
        captive.resume(&mut waits);
        Ok((found?, begun.elapsed()))
    }

    /// Sends what the final scan found, after the layout. Returns pages with content, and what comes after the process: nothing,
    /// unless `touched` is given, pages that come with it all the same.
    pub fn last(
        &mut self,
        found: &Last,
        touched: Option<&RangeSet>,
        sink: &mut dyn PageSink,
    ) -> Result<(u64, Later), PreloadError> {
        self.told();
        let may_wait = touched.map(|touched| {
            let mut all = lazy::private(&self.layout);
            all.subtract(touched);
            all
        });
        let lazily = may_wait.is_some();
        let (sent, private, hot) =
            self.pages.last(&self.layout, found, &may_wait.unwrap_or_default(), sink)?;
        let (pages, objects) = self.objects.push(&self.layout, &found.written, (true, lazily), sink)?;
        Ok((sent.pages + pages, Later { private, objects, hot }))
    }

    /// The guard pages that the process has, after [`Agent::last`]. In shared mappings they are not carried.
    pub fn guards(&self) -> Result<Vec<PageRange>, PreloadError> {
        let mut guards = Vec::new();
        if self.pages.guards().is_empty() {
            return Ok(guards);
        }
        for vma in &self.layout.vmas {
            let within: Vec<PageRange> = self.pages.guards().within(vma.range()).collect();
            if let Some(first) = within.first().filter(|_| vma.shared) {
                let obstacle = guard_pages::obstacle(first.start, first.end, guard_pages::SHARED);
                return Err(StateError::Obstacles(obstacle.to_string()).into());
            }
            guards.extend(within);
        }
        Ok(guards)
    }

    /// The shared objects as they can be read, for other threads.
    pub fn shown_objects(&self) -> std::io::Result<Vec<Shown>> {
        self.objects.shown()
    }

    /// Hashes of the shared objects, without what comes later.
    pub fn object_digests(&self, later: &Later) -> Result<Vec<(ObjectId, Digest)>, PreloadError> {
        self.objects.digests(later)
    }

    /// The parts that the freeze uses side by side: the tracker scans, with what is known, while the state is captured.
    pub fn scanner(&mut self) -> (&mut dyn DirtyTracker, &Layout, RangeSet, MutexGuard<'_, waits::Memory>) {
        (&mut *self.tracker, &self.layout, self.pages.known(), self.waits.lock())
    }
}

/// How often a thread that is in a system call of 32-bit code is let go on, and for how long at first.
const ATTEMPTS: u32 = 8;
const PAUSE: Duration = Duration::from_millis(3);

/// Makes a tracker, with a short stop of one thread where it needs one, and says how long that was.
pub fn install(
    pid: i32,
    kind: Kind,
    memory: &mut waits::Memory,
    purpose: Purpose<'_>,
) -> Result<(Box<dyn DirtyTracker>, Duration), PreloadError> {
    if !kind.needs_stop() {
        return Ok((kind.install(Kernel::here(), pid, None)?, Duration::ZERO));
    }
    let site = Site::of_running(pid)?;
    let probe = match purpose {
        Purpose::Watch => None,
        Purpose::Move(creds, witness) => Some((creds, witness)),
    };
    let urgent = Urgent::begin();
    let begun = Instant::now();
    let mut attempt = 0;
    let installed = loop {
        let frozen = Frozen::stop_one(pid, PATIENCE)?;
        let installed = install_inside(&frozen, &site, kind, memory, probe);
        memory.note(&frozen);
        frozen.thaw();
        attempt += 1;
        match installed {
            Err(PreloadError::Tracee(TraceeError::Call32 { .. })) if attempt < ATTEMPTS => {
                std::thread::sleep(PAUSE * attempt);
            }
            done => break done,
        }
    };
    let stopped = begun.elapsed();
    drop(urgent);
    Ok((installed??, stopped))
}

/// One thread makes a scratch area, in it what tracking needs, and removes the area; it is asked what shows nowhere.
fn install_inside(
    frozen: &Frozen,
    site: &Site,
    kind: Kind,
    memory: &waits::Memory,
    probe: Option<(&Credentials, Option<&Witness>)>,
) -> Result<Result<Box<dyn DirtyTracker>, TrackError>, PreloadError> {
    let (pid, voice) = (frozen.pid, frozen.voice());
    let tid = inner_tid(&threads::status_of(voice.0)?, voice.0);
    // both on one CPU
    if let Some(cpu) = frozen.threads.first().and_then(Member::cpu) {
        go_to(cpu);
    }
    let plain = Plain::of(voice);
    // another thread may put it under a filter at any moment
    ward::permit(voice)?;
    let mut remote = Remote::approach(voice, site)?;
    let continued = waits::voice_continued(frozen, remote.saved(), memory);
    remote.shelter_on_stack(&continued, Some(&plain))?;
    // urgent only in a shelter
    let urgent = UrgentTracee::from(plain.clone());
    let mapped = remote.map_scratch(site.lonely(), PAGE_SIZE as usize, PAGE_SIZE as usize);
    let rsp = remote.saved().rsp;
    drop(urgent);
    remote.finish()?;
    let (scratch, lent) = room::area(site, rsp, mapped).map_err(|e| match e {
        NoRoom::Refused(obstacle) => PreloadError::Unfit(obstacle),
        NoRoom::Failed(e) => e.into(),
    })?;
    let mut remote = Remote::approach(voice, site)?;
    // other threads run, and may begin to catch any signal: no bell
    remote.shelter_in(&scratch, &continued, Some(&plain), None)?;
    let urgent = UrgentTracee::from(plain.clone());
    let hidden = probe.map(|(creds, witness)| ask(&mut remote, &scratch, (tid, creds), witness));
    let inside = Inside { remote: &mut remote, scratch: &scratch, pid: tid };
    // a descriptor is made inside
    let room = crate::sys::limits::Raised::descriptors(pid);
    let installed = kind.install(Kernel::here(), pid, Some(inside));
    drop(room);
    drop(urgent);
    let given_back = remote.finish();
    if let Some(lent) = lent {
        lent.give_back(site)?;
    } else {
        let mut remote = Remote::approach(voice, site)?;
        remote.shelter_on_stack(&continued, Some(&plain))?;
        let urgent = UrgentTracee::from(plain);
        remote.unmap_scratch(scratch)?;
        drop(urgent);
        remote.finish()?;
    }
    given_back?;
    match hidden.transpose()?.unwrap_or_default().into_iter().next() {
        Some(first) => Err(PreloadError::Unfit(first)),
        None => Ok(installed),
    }
}

fn ask(
    remote: &mut Remote<'_>,
    scratch: &Scratch,
    (tid, creds): (i32, &Credentials),
    witness: Option<&Witness>,
) -> Result<Vec<Obstacle>, TraceeError> {
    let mut batch = Batch::new(scratch);
    let question = probes::ask(&mut batch, tid, creds, witness);
    Ok(probes::obstacles(tid, &remote.run(scratch, &batch)?, &question))
}

fn creds_of(pid: i32) -> Result<Credentials, PreloadError> {
    Ok(credentials::of_status(&threads::status_of(voice::of(pid))?))
}

/// Memfds that are open count as objects, mapped or not.
fn with_descriptors(mut layout: Layout, files: &FilesImage) -> Layout {
    for memfd in &files.memfds {
        let object = memfd.object();
        match layout.objects.iter_mut().find(|o| o.id.ino == memfd.object) {
            Some(known) => *known = MemoryObject { id: known.id, ..object },
            None => layout.objects.push(object),
        }
    }
    layout
}

fn memfd_descriptors(files: &FilesImage) -> BTreeMap<u64, i32> {
    files.files.iter().filter_map(|file| Some((file.kind.memory()?, file.fd))).collect()
}
