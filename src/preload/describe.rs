//! Preflight at the source: what the process is, seen from outside without stopping it, and everything about it
//! that cannot be carried.

use procfs::process::Process;

use super::PreloadError;
use crate::image::memory::MemoryImage;
use crate::image::process::{Attributes, ProcessImage, ThreadImage, Timers};
use crate::image::{Backing, Obstacle, Vma};
use crate::state::files::{self, FilesOptions};
use crate::state::{StateError, attributes, credentials, memory_map, mm_fields, scheduling, threads, timers};
use crate::tracee::freeze::tids;
use crate::tracee::thread::tracer_of;

/// A process as it looks from outside. Registers and the like are still empty.
#[derive(Debug)]
pub struct Described {
    /// The process.
    pub image: ProcessImage,
    /// All that stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// Describes a process. An error means that it cannot even be looked at.
pub fn describe(pid: i32, options: &FilesOptions) -> Result<Described, PreloadError> {
    check_target_of_command(pid)?;
    let process = Process::new(pid).map_err(StateError::proc(pid, "stat"))?;
    let status = process.status().map_err(StateError::proc(pid, "status"))?;
    let mut obstacles = standing(pid, &process)?;
    obstacles.extend(credentials::obstacles(pid, &status));
    obstacles.extend(attributes::namespace_obstacles(pid));
    let survey = memory_map::survey(pid)?;
    obstacles.extend(survey.obstacles);
    let (files, file_obstacles) = files::describe(pid, options)?;
    obstacles.extend(file_obstacles);
    let posix = timers::list(pid)?;
    obstacles.extend(timers::obstacles(&posix));
    obstacles.extend(crowding(pid));
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"))
        .map_err(StateError::io(pid, "reading its exe link"))?
        .to_string_lossy()
        .into_owned();
    let attributes = Attributes { dumpable: 1, ..attributes::capture(pid, &status)? };
    let memory = MemoryImage {
        files: mapped_files(&survey.layout.vmas, &mut obstacles),
        layout: survey.layout,
        vdso: memory_map::vdso(pid, survey.vdso)?,
        mm: mm_fields::capture(pid)?,
        exe,
        resident: status.vmrss.unwrap_or(0) * 1024,
    };
    let cpus = scheduling::online_cpus();
    let threads = tids(pid)?.into_iter().filter_map(|tid| thread(tid, &cpus).ok()).collect();
    let image = ProcessImage {
        pid: threads::inner_tid(&status, pid),
        memory,
        threads,
        actions: Vec::new(),
        queued: Vec::new(),
        timers: Timers { itimers: Vec::new(), posix },
        attributes,
        files,
    };
    Ok(Described { image, obstacles })
}

/// Whether there is a process of that number that can be a subject at all.
fn check_target_of_command(pid: i32) -> Result<(), PreloadError> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| PreloadError::NoSuchProcess(pid))?;
    let tgid = status
        .lines()
        .find_map(|l| l.strip_prefix("Tgid:"))
        .and_then(|v| v.trim().parse().ok())
        .unwrap_or(pid);
    if tgid == pid { Ok(()) } else { Err(PreloadError::NotAProcess(pid, tgid)) }
}

/// What stands in the way because of what the process is, rather than what it has.
fn standing(pid: i32, process: &Process) -> Result<Vec<Obstacle>, PreloadError> {
    let object = format!("process {pid}");
    let stat = process.stat().map_err(StateError::proc(pid, "stat"))?;
    const PF_KTHREAD: u32 = 0x0020_0000;
    let mut found = Vec::new();
    let mut add = |why: String, advice: &str| found.push(Obstacle::new(object.clone(), why, advice));
    if stat.flags & PF_KTHREAD != 0 {
        add("it is a thread of the kernel".to_owned(), "name a process of a program");
    }
    if pid == std::process::id() as i32 {
        add("it is this very ulpm".to_owned(), "name another process");
    }
    match stat.state {
        'Z' => add("it has ended and waits for its parent to notice".to_owned(), "there is nothing to move"),
        'T' => add("it is stopped by job control".to_owned(), "let it go on with `kill -CONT`"),
        _ => {}
    }
    let tracer = tracer_of(pid);
    if tracer != 0 {
        add(format!("it is traced by process {tracer}"), "end the debugger or strace that traces it");
    }
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = if children.trim().is_empty() { children_of_threads(pid) } else { children };
    if !children.trim().is_empty() {
        add(
            format!("it has child processes ({}), and trees of processes are not carried yet", children.trim()),
            "wait until they have ended",
        );
    }
    Ok(found)
}

fn children_of_threads(pid: i32) -> String {
    tids(pid)
        .unwrap_or_default()
        .into_iter()
        .filter_map(|tid| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")).ok())
        .collect::<Vec<_>>()
        .join("")
}

/// Exotic kernel objects that show neither in maps nor in fds.
fn crowding(pid: i32) -> Vec<Obstacle> {
    let vfork = std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    if vfork.contains("vfork") {
        return vec![Obstacle::new(format!("process {pid}"), "it waits in vfork", "try again when the child has started")];
    }
    Vec::new()
}

fn mapped_files(
    vmas: &[Vma],
    obstacles: &mut Vec<Obstacle>,
) -> Vec<(String, crate::image::files::FileIdentity)> {
    let mut files: Vec<(String, _)> = Vec::new();
    for vma in vmas {
        let Backing::File { path } = &vma.backing else { continue };
        if files.iter().any(|(p, _)| p == path) {
            continue;
        }
        match files::identity::identity_of_path(std::path::Path::new(path)) {
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

fn thread(tid: i32, cpus: &[u8]) -> Result<ThreadImage, StateError> {
    let status = Process::new(tid).and_then(|p| p.status()).map_err(StateError::proc(tid, "status"))?;
    Ok(ThreadImage {
        tid: threads::inner_tid(&status, tid),
        comm: status.name.clone(),
        creds: credentials::of_status(tid, &status)?,
        sched: scheduling::capture(tid, cpus)?,
        ..ThreadImage::default()
    })
}
