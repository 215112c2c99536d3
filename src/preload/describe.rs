//! Preflight at the source: what the process is, seen from outside without stopping it, and everything about it
//! that cannot be carried.

use std::time::Duration;

use nix::errno::Errno;

use super::{PreloadError, parent, standing};
use crate::image::memory::MemoryImage;
use crate::image::process::{ProcessImage, ThreadImage, Timers};
use crate::image::{Backing, FilePath, Note, Obstacle, Relations, TreeImage, Vma};
use crate::state::files::{self, FilesOptions};
use crate::state::process::limits::ResourceLimits;
use crate::state::seam::State as _;
use crate::state::seam::process::SeenProcess;
use crate::state::seam::thread::SeenThread;
use crate::state::thread::{self as states, scheduling};
use crate::state::{
    StateError, credentials, half_done, huge_pages, memory_map, memory_modes, mm_fields, namespaces, numa,
    overruns, probes, process, program, room, seccomp, sharing, sysv, threads, timers,
};
use crate::sys::process::pidfd_of_thread;
use crate::sys::stat::start_time;
use crate::sys::voice::{self, Life};
use crate::tracee::freeze::tids;

/// Why a process without its main thread is refused by older kernels.
const LEADERLESS: &str =
    "its main thread has ended, and this kernel shows no descriptors of others (PIDFD_THREAD, Linux 6.9)";

/// A process as it looks from outside. Registers and the like are still empty.
#[derive(Debug)]
pub struct Described {
    /// The process, and what it has open: a tree of one.
    pub tree: TreeImage,
    /// All that stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// What will differ at the target without standing in the way.
    pub notes: Vec<Note>,
}

/// A process changes while it is looked at; one that just begins another program changes in everything.
const TRIES: u32 = 3;

/// Describes a process. An error means that it cannot even be looked at.
pub fn describe(pid: i32, options: &FilesOptions) -> Result<Described, PreloadError> {
    let mut tries = 0;
    loop {
        let obstacles = standing::obstacles(pid)?;
        let begun = start_time(pid);
        let voice = voice::of(pid);
        let seen = look(pid, voice, options, obstacles);
        let whole = voice::life(pid, voice) == Life::Lives;
        let unsure = match seen {
            Err(_) if start_time(pid) != begun => return Err(PreloadError::Ended(pid)),
            Ok(described) if whole && described.obstacles.is_empty() => return Ok(described),
            // what is in the way may be passing: a child that comes and goes holds all that the process holds
            unsure => unsure,
        };
        tries += 1;
        if tries == TRIES {
            return unsure;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// `voice`: a thread that lives, which tells what hangs on memory and descriptors.
fn look(
    pid: i32,
    voice: i32,
    options: &FilesOptions,
    mut obstacles: Vec<Obstacle>,
) -> Result<Described, PreloadError> {
    insist_reachable(pid, voice)?;
    let status = threads::status_of(voice)?;
    let tids = tids(pid)?;
    obstacles.extend(of_threads(pid, voice, &tids));
    let survey = memory_map::survey(voice)?;
    let exe = program::of(voice)?;
    obstacles.extend(exe.without(survey.obstacles));
    obstacles.extend(memory_modes::obstacles(voice)?);
    obstacles.extend(numa::obstacle(voice));
    obstacles.extend(program::without_vdso(voice, &survey.vdso));
    obstacles
        .extend(program::without_both(voice != pid, survey.vdso.iter().any(|(name, ..)| name == "[vdso]")));
    let seen = SeenProcess { pid, voice, status: &status };
    obstacles.extend(process::obstacles(&seen, &tids));
    let (files, file_obstacles) = files::describe(voice, options)?;
    obstacles.extend(file_obstacles);
    let shared = crate::state::shared_memory::look(pid, &survey.layout);
    obstacles.extend(shared.obstacles);
    obstacles.extend(crate::state::shared_memory::unreadable(voice, &survey.layout, &files));
    let posix = timers::list(voice)?;
    let states = process::describe(&seen)?;
    let mappings = survey.layout.vmas.len() + survey.vdso.len();
    obstacles.extend(room::obstacles(voice, mappings, &ResourceLimits::of(&states)?.0));
    let huge_pages = huge_pages::needed(voice, &survey.layout, &files)?;
    let memory = MemoryImage {
        files: mapped_files(&survey.layout.vmas, &mut obstacles),
        layout: survey.layout,
        vdso: memory_map::vdso(voice, survey.vdso)?,
        mm: mm_fields::capture(voice)?,
        exe: exe.path,
        resident: status.resident,
        needs: status.needs,
        huge_pages,
        modes: memory_modes::describe(voice),
        guards: survey.guards,
    };
    let all = all_threads(pid, voice, &tids);
    let own_pid = status.nstgid.last().copied().unwrap_or(pid);
    obstacles.extend(timers::obstacles(&posix, own_pid, all.len()));
    let image = ProcessImage {
        pid: own_pid,
        memory,
        threads: all,
        queued: Vec::new(),
        timers: Timers { itimers: Vec::new(), posix },
        states,
        table: 0,
        relations: Relations::alone(own_pid),
        ended: None,
    };
    let tree = TreeImage::new(vec![image], files);
    let notes = all_notes(&seen, &tids, &tree, shared.notes);
    Ok(Described { tree, obstacles, notes })
}

fn all_notes(seen: &SeenProcess<'_>, tids: &[i32], tree: &TreeImage, shared: Vec<Note>) -> Vec<Note> {
    let pid = seen.pid;
    let mut notes = tree.files.notes.clone();
    notes.extend(process::notes(seen));
    notes.extend(parent::session(pid));
    notes.extend(half_done::notes(pid, tids));
    notes.extend(shared);
    notes.extend(room::notes(pid));
    notes.push(timers::note(pid));
    notes.extend(tree.processes.iter().flat_map(|process| overruns::note(&process.timers.posix)));
    notes
}

/// Before Linux 6.9 only a main thread has a pidfd.
fn insist_reachable(pid: i32, voice: i32) -> Result<(), PreloadError> {
    if voice != pid && matches!(pidfd_of_thread(voice), Err(Errno::EINVAL | Errno::ENOENT)) {
        let obstacle =
            Obstacle::new(format!("process {pid}"), LEADERLESS, "let its main thread wait for the others");
        return Err(PreloadError::Unfit(obstacle));
    }
    Ok(())
}

/// Obstacles that any one of the threads may be.
fn of_threads(pid: i32, voice: i32, tids: &[i32]) -> Vec<Obstacle> {
    let mut obstacles = seccomp::obstacles(pid, tids);
    obstacles.extend(namespaces::obstacles(voice, tids));
    obstacles.extend(sharing::obstacles(pid, tids));
    obstacles.extend(sysv::obstacles(pid));
    obstacles.extend(tids.iter().flat_map(|tid| probes::outside(pid, *tid)));
    obstacles
}

/// The threads as far as they can be seen from outside.
fn all_threads(pid: i32, voice: i32, tids: &[i32]) -> Vec<ThreadImage> {
    let cpus = scheduling::online_cpus();
    let thread = |tid: i32| match voice::life(pid, tid) {
        Life::Lives => thread(voice, tid, &cpus),
        _ if tid == pid => threads::ended(pid, &cpus),
        _ => thread(voice, tid, &cpus),
    };
    tids.iter().filter_map(|tid| thread(*tid).ok()).collect()
}

fn mapped_files(
    vmas: &[Vma],
    obstacles: &mut Vec<Obstacle>,
) -> Vec<(FilePath, crate::image::files::FileIdentity)> {
    let mut files: Vec<(FilePath, _)> = Vec::new();
    for vma in vmas {
        let Backing::File { path } = &vma.backing else { continue };
        if files.iter().any(|(p, _)| p == path) {
            continue;
        }
        match files::identity::identity_of_path(path.as_path()) {
            Ok(identity) => files.push((path.clone(), identity)),
            Err(e) => obstacles.push(Obstacle::new(
                format!("mapping {:#x}-{:#x}: {path}", vma.start, vma.end),
                format!("the mapped file cannot be looked at: {e}"),
                "put the file back in its place",
            )),
        }
    }
    files
}

fn thread(pid: i32, tid: i32, cpus: &[u8]) -> Result<ThreadImage, StateError> {
    let status = threads::status_of(tid)?;
    let seen = SeenThread { voice: pid, tid, status: &status, cpus };
    Ok(ThreadImage {
        tid: threads::inner_tid(&status, tid),
        comm: status.name.clone(),
        creds: credentials::of_status(&status),
        states: states::describe(&seen, false)?,
        ..ThreadImage::default()
    })
}
