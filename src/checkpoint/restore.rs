//! Makes a process of a checkpoint: the preflight of a target, then the calls of the builder that a conversation would have come to.
//!
//! Time in the drawer is none to the process's monotonic clocks, waits and timers: it is captured, as far as they go, when the restore
//! begins. The time of day is what it is.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use super::changed::{self, Changes};
use super::contents::{Original, Provenance, machine};
use super::error::CheckpointError;
use super::kept::{Content, Kept, everywhere};
use crate::image::files::FileIdentity;
use crate::image::{FIRST, FilePath, Obstacle, TreeImage};
use crate::precopy::{Progress, held};
use crate::restore::builder::{Blueprint, Builder, StoppedTree};
use crate::restore::permission::Authority;
use crate::restore::quarters::{Place, Quarters};
use crate::restore::reservation::{self, Reservation};
use crate::state::files::identity::{BOTH_MOUNT, identity_of_path};
use crate::state::program;
use crate::state::threads::cpu_obstacles;
use crate::sys::stat;
use crate::sys::time::{ClockOffsets, Ticker, initial_clocks};
use crate::sys::voice::process_of;
use crate::transport::protocol::{Description, Moments, PidChoice};

/// What is wished.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restoration<'a> {
    /// The checkpoint.
    pub dir: &'a Path,
    /// `--pid-mode`.
    pub pid_mode: PidChoice,
    /// `ULPM_HOME`.
    pub home: &'a Path,
}

/// A process that runs again.
#[derive(Debug)]
pub(crate) struct Restored {
    /// Its pid as this host sees it.
    pub pid: i32,
    /// It knows itself by this one.
    pub own_pid: i32,
    /// In a pid namespace of its own.
    pub namespace: bool,
    /// Why it could not have its pids here, in words.
    pub taken: Option<String>,
}

/// Restores it. What fails leaves nothing behind.
pub(crate) fn restore(
    wish: Restoration<'_>,
    tell: &dyn Fn(Progress<'_>),
) -> Result<Restored, CheckpointError> {
    let io = |step: &'static str| CheckpointError::io(step, wish.dir);
    let kept = Kept::open(wish.dir)?;
    let about = &kept.contents.about;
    original(about, wish.home)?;
    let mut tree = kept.contents.tree.clone();
    if about.machine == machine() {
        recognize(&mut tree, &about.host.boot_id);
    }
    let stopped = StoppedTree::check(tree.clone())?;
    tell(Progress::Step("checking whether it can live here"));
    let description = description(about, &tree, wish.pid_mode);
    let changes = changed::since(&tree, &kept.contents.memory, &about.hashes);
    let found = preflight(wish, about, &description, &changes)?;
    let taken = taken(&tree).filter(|_| found.namespace && wish.pid_mode == PidChoice::Auto);
    tell(Progress::Notes(&[&found.notes[..], &changes.notes].concat()));
    tell(Progress::Step("building it"));
    let _ticker = Ticker::start(Duration::from_millis(100)).map_err(io("starting a timer for"))?;
    let (difference, moments) = resumed(about);
    let first = tree.processes.first().map_or(0, |process| process.pid);
    let what = format!("process {first} from {}", wish.dir.display());
    let quarters = Quarters { place: &Place::Here, id: &about.id, what };
    let mut builder = Builder::begin(Blueprint {
        tree: &tree,
        quarters: &quarters,
        clocks: reservation::clocks(&description, difference),
        namespace: wish.pid_mode == PidChoice::Namespace || found.namespace,
        or_namespace: wish.pid_mode == PidChoice::Auto,
        rights: None,
        vetted: found.vetted,
        verify: false,
    })?;
    match build(&kept, &stopped, &moments, (wish.home, &changes), &mut builder) {
        Ok(()) => {}
        Err(e) => {
            builder.destroy();
            return Err(match e {
                CheckpointError::Restore(e) => builder.explain(e).into(),
                other => other,
            });
        }
    }
    Ok(Restored { pid: builder.pid(FIRST)?, own_pid: first, namespace: builder.has_namespace(), taken })
}

/// Who has one of its pids here.
fn taken(tree: &TreeImage) -> Option<String> {
    let tids = tree.processes.iter().flat_map(|process| &process.threads).map(|thread| thread.tid);
    let tid = tids.into_iter().find(|tid| stat::start_time(*tid).is_some())?;
    Some(format!("pid {tid} is taken here by process {} ({})", process_of(tid), program::name(tid)))
}

/// From its first mapping to the moment in which it runs.
fn build(
    kept: &Kept,
    stopped: &StoppedTree,
    moments: &Moments,
    (home, changes): (&Path, &Changes),
    builder: &mut Builder,
) -> Result<(), CheckpointError> {
    let memory = &kept.contents.memory;
    for (of, private) in &memory.processes {
        builder.layout(*of, private.layout.clone(), &[])?;
        kept.each(&private.extents, everywhere(), |content| match content {
            Content::Zero(range) => builder.zero(*of, &[range]).map_err(CheckpointError::from),
            Content::Bytes(addr, bytes) => Ok(builder.pages(*of, addr, bytes)?),
        })?;
    }
    for (id, extents) in &memory.objects {
        kept.each(extents, everywhere(), |content| match content {
            Content::Zero(range) => builder.object_holes(*id, &[range]).map_err(CheckpointError::from),
            Content::Bytes(offset, bytes) => Ok(builder.object_pages(*id, offset, bytes)?),
        })?;
    }
    builder.state(stopped, moments)?;
    builder.save_waits(home);
    let first = kept.contents.about.signals.iter().map(|(of, signals)| (of, signals));
    for (of, signals) in first.chain(&kept.later) {
        builder.queue(*of, signals)?;
    }
    let meanwhile = changes.meanwhile();
    if !meanwhile.is_empty() {
        return Err(CheckpointError::Refused(meanwhile));
    }
    builder.outlive()?;
    builder.let_go();
    Ok(())
}

/// One that is to be ended may not run twice.
fn original(about: &Provenance, home: &Path) -> Result<(), CheckpointError> {
    let runs = match about.original() {
        Original::WentOn | Original::Ended | Original::NotHere => return Ok(()),
        Original::Stopped => false,
        Original::Runs => true,
    };
    let open = held::by(home, about.pid).is_some_and(|entry| entry.id == about.id);
    Err(CheckpointError::OriginalHere { pid: about.pid, runs, open })
}

fn description(about: &Provenance, tree: &TreeImage, pid_mode: PidChoice) -> Description {
    Description {
        id: about.id.clone(),
        tree: tree.clone(),
        pid_mode,
        verify: false,
        clocks: about.clocks,
        time_namespace: about.time_namespace,
        lazy: false,
        only_asks: false,
    }
}

/// Everything that stands in the way, at once.
fn preflight(
    wish: Restoration<'_>,
    about: &Provenance,
    description: &Description,
    changes: &Changes,
) -> Result<Reservation, CheckpointError> {
    let authority = Authority::own(wish.home);
    let mut found = reservation::check(description, &about.hashes, &authority, &Place::Here, wish.home)?;
    found.obstacles.extend(changes.obstacles.iter().cloned());
    found.obstacles.extend(cpu_obstacles(about.host.cpu_components, &about.host.cpu_features));
    found.obstacles.extend(found.needs_hash.drain(..).map(|path| {
        Obstacle::new(
            format!("file {path}"),
            "it was changed, or is another one, and its content was not noted down (it is large)",
            "put the same file there, with its times",
        )
    }));
    for obstacle in &mut found.obstacles {
        obstacle.why = of_one_host(&obstacle.why);
        obstacle.advice = match obstacle.advice == BOTH_MOUNT {
            true => {
                "put back the file itself (mv; a copy is another one), or start the program anew".to_owned()
            }
            false => of_one_host(&obstacle.advice),
        };
    }
    for note in &mut found.notes {
        note.what = of_one_host(&note.what);
    }
    if found.obstacles.is_empty() { Ok(found) } else { Err(CheckpointError::Refused(found.obstacles)) }
}

/// The words of a target, which speak of two hosts and of `ulpm serve`.
fn of_one_host(words: &str) -> String {
    let others = [
        ("ulpm serve", "ulpm restore"),
        (" at the target", " here"),
        (" to the target", " to this host"),
        (" at the source", " when the checkpoint was made"),
    ];
    others.iter().fold(words.to_owned(), |words, (of_two, of_one)| words.replace(of_two, of_one))
}

/// The clocks of the host that it comes from, as if it had been captured there just now; and the moments of that, here.
fn resumed(about: &Provenance) -> (ClockOffsets, Moments) {
    let (now, then) = (initial_clocks(), about.moments);
    let difference = ClockOffsets {
        monotonic_ns: about.monotonic_ns.saturating_sub(now.monotonic_ns),
        boottime_ns: then.captured_ns.saturating_sub(now.boottime_ns),
    };
    let here = |ns: i64| ns.saturating_sub(difference.boottime_ns);
    let moments = Moments {
        frozen_ns: here(then.frozen_ns),
        stopped_ns: here(then.stopped_ns),
        captured_ns: here(then.captured_ns),
    };
    (difference, moments)
}

/// After a boot of the same machine a file is still that file, if its number and the time of its birth are the same; the kernel
/// may have given its disk another number.
fn recognize(tree: &mut TreeImage, boot: &str) {
    let mapped = tree.processes.iter_mut().flat_map(|process| &mut process.memory.files);
    let mapped = mapped.map(|(path, identity)| (&*path, identity));
    let open = tree.files.files.iter_mut().filter_map(|file| file.kind.identity());
    let mut seen: BTreeMap<FilePath, Option<FileIdentity>> = BTreeMap::new();
    for (path, identity) in mapped.chain(open).filter(|(_, identity)| identity.host == boot) {
        let here = seen.entry(path.clone()).or_insert_with(|| identity_of_path(path.as_path()).ok());
        let same = |here: &&mut FileIdentity| {
            here.ino == identity.ino && identity.btime_ns.is_some() && here.btime_ns == identity.btime_ns
        };
        if let Some(here) = here.as_mut().filter(same) {
            identity.host.clone_from(&here.host);
            identity.dev = here.dev;
        }
    }
}
