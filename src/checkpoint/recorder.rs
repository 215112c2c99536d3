//! A destination that writes the conversation of a move down, and answers for a target that agrees to everything.
//!
//! Pages go to the file of pages as they come, each to one place however often it comes; what remains of all the rest is the last
//! layout and the state. What a target would lose by a new layout is lost here, too: the source counts on it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::time::ClockId;
use xxhash_rust::xxh3::xxh3_64;

use super::changed;
use super::contents::{Memory, Provenance, machine};
use super::error::CheckpointError;
use super::extents::{Extents, Spot};
use super::format::{Kind, Writer};
use super::place::{Draft, SIGNALS};
use crate::handover::drawer::{self, InDrawer};
use crate::image::files::{AtPath, ContentHashes, FileIdentity};
use crate::image::memory::{Layout, PageOwner, discontinued};
use crate::image::process::LateSignal;
use crate::image::{
    Backing, FilePath, ObjectId, Obstacle, PAGE_SIZE, PageRange, ProcessImage, ProcessIndex, TreeImage,
};
use crate::precopy::MigrateError;
use crate::precopy::cancel::Cancel;
use crate::precopy::destination::Destination;
use crate::preload::PreloadError;
use crate::preload::push::PageSink;
use crate::sys::stat;
use crate::sys::time::{initial_clocks, now_ns};
use crate::transport::hello;
use crate::transport::protocol::{Description, Moments, ToSource, ToTarget};

/// Files open for reading above this size are not hashed: one that was changed, or is another, is not taken for them then.
const MOST_HASHED: u64 = 256 << 20;
/// What everything but the pages takes on the disk, at most, of a process of ordinary size.
const REST: u64 = 16 << 20;

/// The stopped process.
#[derive(Debug)]
struct Capture {
    tree: TreeImage,
    moments: Moments,
    /// Our monotonic clock when it was captured, and the time of day.
    monotonic_ns: i64,
    made_ns: i64,
}

/// Writes down.
#[derive(Debug)]
pub(crate) struct Recorder {
    dir: PathBuf,
    cancel: Cancel,
    heed_cancel: bool,
    leave_running: bool,
    /// The process as this host sees it.
    pid: i32,
    place: Option<Draft>,
    description: Option<Description>,
    hashes: ContentHashes,
    memory: Memory,
    sums: Vec<u64>,
    new_files: BTreeMap<FilePath, FileIdentity>,
    captured: Option<Capture>,
    signals: Vec<(ProcessIndex, Vec<LateSignal>)>,
    later: BTreeMap<ProcessIndex, Vec<LateSignal>>,
    answer: Option<ToSource>,
    bytes: u64,
}

impl Recorder {
    /// `dir`: as [`super::place::free`] gave it.
    pub(crate) fn new(dir: PathBuf, pid: i32, leave_running: bool, cancel: Cancel) -> Self {
        Recorder {
            dir,
            cancel,
            heed_cancel: true,
            leave_running,
            pid,
            place: None,
            description: None,
            hashes: ContentHashes::new(),
            memory: Memory::default(),
            sums: Vec::new(),
            new_files: BTreeMap::new(),
            captured: None,
            signals: Vec::new(),
            later: BTreeMap::new(),
            answer: None,
            bytes: 0,
        }
    }

    /// Bytes of the pages that are kept.
    pub(crate) fn stored(&self) -> u64 {
        self.memory.stored() * PAGE_SIZE
    }

    /// The process goes on, and is no matter of this any more: what was written down of it becomes a checkpoint.
    pub(crate) fn finish(&mut self) -> Result<(), CheckpointError> {
        let done = self.publish();
        if let (Err(_), Some(place)) = (&done, &mut self.place) {
            place.give_up();
        }
        done.map_err(CheckpointError::io("writing the checkpoint", &self.dir))
    }

    fn publish(&mut self) -> io::Result<()> {
        if self.leave_running {
            self.place()?.sync_pages()?;
        }
        let state = self.writer()?;
        self.place.as_mut().ok_or_else(unasked)?.publish(state)
    }

    fn place(&self) -> io::Result<&Draft> {
        self.place.as_ref().ok_or_else(unasked)
    }

    fn describe(&mut self, description: &Description) -> Result<ToSource, CheckpointError> {
        let place = Draft::begin(&self.dir, &description.id)?;
        let room = place.room().map_err(CheckpointError::io("looking at the file system of", &self.dir))?;
        self.place = Some(place);
        self.description = Some(description.clone());
        let bytes: u64 = description.tree.processes.iter().map(|p| p.memory.resident).sum();
        let wanted = bytes + REST;
        Ok(if wanted > room {
            let why = format!("its file system has {room} bytes left, and up to {wanted} are needed");
            let advice = "make room there, or name a directory on another file system";
            let name = format!("directory {}", self.dir.display());
            ToSource::Preflight { obstacles: vec![Obstacle::new(name, why, advice)], notes: Vec::new() }
        } else {
            ToSource::NeedHashes(to_hash(&description.tree).into_iter().collect())
        })
    }

    fn layout(&mut self, of: ProcessIndex, layout: &Layout) {
        let private = self.memory.processes.entry(of).or_default();
        for lost in discontinued(&private.layout.vmas, &layout.vmas) {
            private.extents.remove(lost);
        }
        private.layout.clone_from(layout);
        let all = self.memory.processes.values().flat_map(|private| &private.layout.objects);
        let sizes: BTreeMap<ObjectId, u64> = all.map(|object| (object.id, object.size)).collect();
        self.memory.objects.retain(|id, _| sizes.contains_key(id));
        for (id, object) in &mut self.memory.objects {
            let end = sizes[id].next_multiple_of(PAGE_SIZE);
            object.remove(PageRange::new(end, u64::MAX / PAGE_SIZE * PAGE_SIZE));
        }
    }

    fn private(&mut self, of: ProcessIndex) -> &mut Extents {
        &mut self.memory.processes.entry(of).or_default().extents
    }

    /// Keeps content; what has a place keeps it.
    fn keep(&mut self, owner: PageOwner, start: u64, data: &[u8]) -> io::Result<()> {
        let range = PageRange::new(start, start + data.len() as u64);
        let extents = extents(&mut self.memory, owner);
        for (part, slot) in extents.split(range) {
            let content = &data[(part.start - start) as usize..(part.end - start) as usize];
            let slot = slot.unwrap_or(self.sums.len() as u64);
            let place = self.place.as_ref().ok_or_else(unasked)?;
            place.write_pages(slot, content)?;
            for (at, page) in content.chunks(PAGE_SIZE as usize).enumerate() {
                let (at, sum) = (slot as usize + at, xxh3_64(page));
                match self.sums.get_mut(at) {
                    Some(known) => *known = sum,
                    None => self.sums.push(sum),
                }
            }
            extents.put(part, Spot::Stored(slot));
        }
        self.bytes += data.len() as u64;
        Ok(())
    }

    fn heed(&self) -> Result<(), MigrateError> {
        if self.heed_cancel && self.cancel.is_set() { Err(MigrateError::Cancelled) } else { Ok(()) }
    }

    /// The file `state`.
    fn writer(&self) -> io::Result<Writer> {
        let (Some(description), Some(captured)) = (&self.description, &self.captured) else {
            return Err(unasked());
        };
        let mut tree = captured.tree.clone();
        tree.files.fresh.clone_from(&description.tree.files.fresh);
        let about = Provenance {
            id: description.id.clone(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            host: hello::about(),
            machine: machine(),
            made_ns: captured.made_ns,
            pid: self.pid,
            start_time: stat::start_time(self.pid).unwrap_or(0),
            left_running: self.leave_running,
            clocks: description.clocks,
            time_namespace: description.time_namespace,
            monotonic_ns: captured.monotonic_ns,
            moments: captured.moments,
            hashes: changed::still_true(&self.hashes, &description.tree, &tree),
            signals: self.signals.clone(),
            slots: self.sums.len() as u64,
        };
        Writer::default()
            .with_value(Kind::About, &about)?
            .with_value(Kind::Tree, &tree)?
            .with_value(Kind::Memory, &self.memory)
            .map(|writer| {
                writer.with(Kind::Sums, self.sums.iter().flat_map(|sum| sum.to_le_bytes()).collect())
            })
    }

    fn capture(&mut self, tree: &TreeImage, moments: Moments) {
        let (now, made_ns) = (initial_clocks(), now_ns(ClockId::CLOCK_REALTIME));
        let monotonic_ns = now.monotonic_ns - (now.boottime_ns - moments.captured_ns);
        let mut tree = tree.clone();
        for (of, process) in (0..).map(ProcessIndex).zip(&mut tree.processes) {
            self.complete(of, process);
        }
        changed::refresh(&mut tree, &self.memory);
        self.captured = Some(Capture { tree, moments, monotonic_ns, made_ns });
    }

    /// What the state does not say again, of what was said before.
    fn complete(&self, of: ProcessIndex, process: &mut ProcessImage) {
        let vmas = self.memory.processes.get(&of).into_iter().flat_map(|private| &private.layout.vmas);
        let mapped: BTreeSet<&FilePath> = vmas
            .filter_map(|vma| match &vma.backing {
                Backing::File { path } => Some(path),
                _ => None,
            })
            .collect();
        let files = &mut process.memory.files;
        files.retain(|(path, _)| mapped.contains(path) && !self.new_files.contains_key(path));
        files.extend(
            self.new_files
                .iter()
                .filter(|(path, _)| mapped.contains(path))
                .map(|(path, identity)| (path.clone(), identity.clone())),
        );
    }

    fn hear_out(&mut self, message: &ToTarget) -> Result<Option<ToSource>, MigrateError> {
        let now = initial_clocks();
        Ok(match message {
            ToTarget::Clock => Some(ToSource::Clock(now.monotonic_ns, now.boottime_ns)),
            ToTarget::Describe(description) => {
                let failed = |e: CheckpointError| MigrateError::Here {
                    step: "making a directory for the checkpoint",
                    source: io::Error::other(e),
                };
                Some(self.describe(description).map_err(failed)?)
            }
            ToTarget::Hashes(hashes) => {
                self.hashes.clone_from(hashes);
                Some(ToSource::Preflight { obstacles: Vec::new(), notes: Vec::new() })
            }
            ToTarget::Begin { .. } => Some(ToSource::Ready { pids: vec![self.pid], namespace: false }),
            ToTarget::RoundEnd(n) => Some(ToSource::RoundApplied(*n)),
            ToTarget::State(tree, moments) => {
                self.capture(tree, *moments);
                if !self.leave_running {
                    self.place().and_then(Draft::sync_pages).map_err(disk)?;
                }
                Some(ToSource::Prepared { apply_ms: 0.0, verify_ms: 0.0, verified: false })
            }
            ToTarget::Commit(signals) => {
                self.signals.clone_from(signals);
                self.publish().map_err(disk)?;
                let (pid, at_boottime_ns) = (self.pid, initial_clocks().boottime_ns);
                Some(ToSource::Running { pid, at_boottime_ns, journal_ms: 0.0, resume_ms: 0.0 })
            }
            ToTarget::Signals { of, first, signals, .. } => {
                let later = self.later.entry(*of).or_default();
                later.truncate(*first as usize);
                later.extend(signals.iter().cloned());
                let taken = later.len() as u32;
                let content = Writer::default().with_value(Kind::Signals, &self.later);
                content.and_then(|content| self.place()?.add(SIGNALS, content)).map_err(disk)?;
                Some(ToSource::SignalsTaken(taken))
            }
            // publishing has failed somewhere
            ToTarget::Settle(id) => match drawer::outcome(&self.dir, id).map_err(disk)? {
                InDrawer::Whole => Some(ToSource::Settled(Some(self.pid))),
                InDrawer::Never => Some(ToSource::Settled(None)),
                InDrawer::Gone => return Err(disk(io::Error::other("somebody has taken it away"))),
            },
            _ => {
                self.remember(message);
                None
            }
        })
    }

    /// What is said of its memory.
    fn remember(&mut self, message: &ToTarget) {
        match message {
            ToTarget::Layout { of, layout, new_files } => {
                self.layout(*of, layout);
                self.new_files.extend(new_files.iter().cloned());
            }
            ToTarget::Zero(of, ranges) => {
                let private = self.private(*of);
                ranges.iter().for_each(|range| private.put(*range, Spot::Zero));
            }
            ToTarget::Drop(of, ranges) => {
                let private = self.private(*of);
                ranges.iter().for_each(|range| private.remove(*range));
            }
            ToTarget::ObjectHoles(id, ranges) => {
                let object = self.memory.objects.entry(*id).or_default();
                ranges.iter().for_each(|range| object.remove(*range));
            }
            _ => {}
        }
    }
}

fn extents(memory: &mut Memory, owner: PageOwner) -> &mut Extents {
    match owner {
        PageOwner::Object(id) => memory.objects.entry(id).or_default(),
        PageOwner::Process(of) => &mut memory.processes.entry(of).or_default().extents,
    }
}

fn unasked() -> io::Error {
    io::Error::other("nothing was described")
}

fn disk(source: io::Error) -> MigrateError {
    MigrateError::Here { step: "writing the checkpoint", source }
}

/// Files whose content is to be known should they be others when it is restored: mapped, or open for reading.
fn to_hash(tree: &TreeImage) -> BTreeSet<FilePath> {
    let mapped = tree.processes.iter().flat_map(|process| &process.memory.files);
    let mapped = mapped.map(|(path, identity)| (path.clone(), identity.clone()));
    let mut files = tree.files.files.clone();
    let read = files.iter_mut().filter(|file| file.flags & libc::O_ACCMODE as u32 == libc::O_RDONLY as u32);
    let open =
        read.filter(|file| matches!(file.kind.at_path(), Some((AtPath::File, _)))).filter_map(|file| {
            let (path, identity) = file.kind.identity()?;
            Some((path.clone(), identity.clone()))
        });
    let small = |identity: &FileIdentity| identity.size <= MOST_HASHED && !identity.is_made_up();
    mapped.chain(open).filter(|(_, identity)| small(identity)).map(|(path, _)| path).collect()
}

impl Destination for Recorder {
    fn say(&mut self, message: &ToTarget) -> Result<(), MigrateError> {
        self.heed()?;
        self.answer = self.hear_out(message)?;
        Ok(())
    }

    fn hear(&mut self, step: &'static str) -> Result<ToSource, MigrateError> {
        self.heed()?;
        self.answer.take().ok_or(MigrateError::Silent { seconds: 0, step })
    }

    fn hear_meanwhile(
        &mut self,
        step: &'static str,
        meanwhile: &mut dyn FnMut() -> Result<(), MigrateError>,
    ) -> Result<ToSource, MigrateError> {
        meanwhile()?;
        self.hear(step)
    }

    fn nudge(&mut self) -> Result<(), MigrateError> {
        Ok(())
    }

    fn flush(&mut self) -> Result<(), MigrateError> {
        self.heed()
    }

    fn idle(&mut self, span: Duration) -> Result<(), MigrateError> {
        std::thread::sleep(span);
        self.heed()
    }

    fn drain(&mut self) -> Result<Instant, MigrateError> {
        Ok(Instant::now())
    }

    fn watch(&mut self) {}

    fn ignore_cancel(&mut self) {
        self.heed_cancel = false;
    }

    fn name(&self) -> String {
        drawer::peer(&self.dir).unwrap_or_default()
    }

    fn reconnect(&mut self) -> Result<(), MigrateError> {
        Ok(())
    }

    fn bytes_sent(&self) -> u64 {
        self.bytes
    }

    /// Its clocks are those of this host.
    fn same_machine(&self) -> bool {
        true
    }
}

fn sink(e: MigrateError) -> PreloadError {
    PreloadError::Sink(Box::new(e))
}

impl PageSink for Recorder {
    fn pages(&mut self, of: ProcessIndex, addr: u64, data: Bytes) -> Result<(), PreloadError> {
        self.heed().map_err(sink)?;
        self.keep(PageOwner::Process(of), addr, &data).map_err(|e| sink(disk(e)))
    }

    fn zero(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Zero(of, ranges)).map_err(sink)
    }

    fn gone(&mut self, of: ProcessIndex, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::Drop(of, ranges)).map_err(sink)
    }

    fn object_pages(&mut self, id: ObjectId, offset: u64, data: Bytes) -> Result<(), PreloadError> {
        self.heed().map_err(sink)?;
        self.keep(PageOwner::Object(id), offset, &data).map_err(|e| sink(disk(e)))
    }

    fn object_holes(&mut self, id: ObjectId, ranges: Vec<PageRange>) -> Result<(), PreloadError> {
        self.say(&ToTarget::ObjectHoles(id, ranges)).map_err(sink)
    }
}
