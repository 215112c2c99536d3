//! Preflight at the target: what is missing here for the process, all at once.

use std::collections::BTreeMap;
use std::path::Path;

use super::RestoreError;
use super::permission::Authority;
use super::quarters::Place;
use super::room;
use crate::image::files::{ContentHashes, FilesImage};
use crate::image::process::ProcessImage;
use crate::image::{FilePath, Note, Obstacle};
use crate::state::files::{self, Access, FileCheck, Vetted};
use crate::state::seam::TargetHost;
use crate::state::thread::{self, scheduling};
use crate::state::{credentials, process, program, reasons, timers};
use crate::sys::kernel::Kernel;
use crate::sys::stat::Stat;
use crate::sys::time::ClockOffsets;
use crate::transport::protocol::{Description, PidChoice};

/// What was found.
#[derive(Debug, Default)]
pub struct Reservation {
    /// All that stands in the way.
    pub obstacles: Vec<Obstacle>,
    /// What will differ here without standing in the way.
    pub notes: Vec<Note>,
    /// Files to be compared by content first.
    pub needs_hash: Vec<FilePath>,
    /// Files that were compared.
    pub vetted: Vec<Vetted>,
    /// A pid namespace will be needed.
    pub namespace: bool,
}

/// Checks whether the process can live here. `hashes`: contents at the source, when already asked.
pub fn check(
    description: &Description,
    hashes: &ContentHashes,
    authority: &Authority,
    place: &Place,
    home: &Path,
) -> Result<Reservation, RestoreError> {
    let mut found = Reservation::default();
    if description.tree.version != crate::image::IMAGE_VERSION {
        return Err(RestoreError::Nonsense(format!("an image of version {}", description.tree.version)));
    }
    let (kernel, open) = (Kernel::here(), &description.tree.files);
    for process in &description.tree.processes {
        check_process(kernel, description, process, &mut found)?;
        found.obstacles.extend(authority.obstacles(process, open)?);
        found.obstacles.extend(room::obstacles(process, place, home));
        match authority.rights(process) {
            None => check_files(process, open, hashes, &mut found)?,
            Some(rights) => rights
                .with(|| check_files(process, open, hashes, &mut found))
                .map_err(RestoreError::io("taking the rights of its user"))??,
        }
        let namespace = found.namespace || description.pid_mode == PidChoice::Namespace;
        if namespace && authority.permit.no_namespaces {
            found.obstacles.push(Obstacle::new(
                format!("pid {}", process.pid),
                "it needs a pid namespace of its own here, which this peer may not have",
                format!(
                    "end the process that has its pid; or there: ulpm trust add {} --anew …",
                    authority.peer
                ),
            ));
        }
    }
    found.needs_hash.sort();
    found.needs_hash.dedup();
    Ok(found)
}

fn check_process(
    kernel: &Kernel,
    description: &Description,
    process: &ProcessImage,
    found: &mut Reservation,
) -> Result<(), RestoreError> {
    check_pid(description, process, found);
    check_rights(kernel, process, found);
    found.notes.extend(credentials::notes_here(process));
    let host = TargetHost { cpus: scheduling::online_cpus() };
    let (obstacles, notes) = process::here(process.pid, &process.states, &host)?;
    found.obstacles.extend(obstacles);
    found.notes.extend(notes);
    for thread in &process.threads {
        found.obstacles.extend(thread::obstacles_here(thread, &host)?);
    }
    check_vdso(process, found);
    if !kernel.timer_ids && !timers::countable(&process.timers.posix) {
        found.obstacles.push(Obstacle::new(
            "POSIX timers",
            "their ids are too high to be brought back on this kernel",
            "use a target with Linux 6.15 or later",
        ));
    }
    found.obstacles.extend(super::memory_modes::obstacles(kernel, process));
    found.obstacles.extend(super::huge_pages::obstacles(kernel, &process.memory.huge_pages));
    Ok(())
}

/// With the rights of the process's user, where the peer may send no other.
fn check_files(
    process: &ProcessImage,
    open: &FilesImage,
    hashes: &ContentHashes,
    found: &mut Reservation,
) -> Result<(), RestoreError> {
    for (path, identity) in &process.memory.files {
        match files::check_file(&format!("mapped file {path}"), path, identity, Access::Read, hashes) {
            FileCheck::Same => {}
            FileCheck::SameContent(vetted) => found.vetted.push(vetted),
            FileCheck::NeedsHash => found.needs_hash.push(path.clone()),
            FileCheck::Differs(obstacle) => found.obstacles.push(obstacle),
        }
    }
    let checked = files::check_target(open, hashes);
    found.obstacles.extend(checked.obstacles);
    found.notes.extend(checked.notes);
    found.needs_hash.extend(checked.needs_hash);
    found.vetted.extend(checked.vetted);
    let mut places = process::paths(&process.states)?;
    for thread in &process.threads {
        places.extend(thread::paths(thread)?);
    }
    let directories = places.iter().filter_map(|(what, path)| no_directory(what, path));
    found.obstacles.extend(directories);
    let exe = &process.memory.exe;
    found.obstacles.extend((!exe.as_path().exists()).then(|| absent("program", exe)));
    found.obstacles.extend(not_executable(process.memory.exe.as_path()));
    Ok(())
}

fn absent(what: &str, path: &FilePath) -> Obstacle {
    let advice = "create it there, or mount the file system that holds it";
    Obstacle::new(format!("{what} {path}"), program::ABSENT, advice)
}

/// The states of a process name directories only.
fn no_directory(what: &str, path: &FilePath) -> Option<Obstacle> {
    if !path.as_path().exists() {
        return Some(absent(what, path));
    }
    (!path.as_path().is_dir()).then(|| {
        let why = "it is no directory at the target";
        Obstacle::new(format!("{what} {path}"), why, "put a directory in its place there")
    })
}

/// The kernel lets a process say which program it runs only if that could be executed.
fn not_executable(exe: &Path) -> Option<Obstacle> {
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;
    let refused = |why: &str, advice: &str| {
        let object = format!("program {}", crate::image::file_path::printable(exe.as_os_str().as_bytes()));
        Some(Obstacle::new(object, why, advice))
    };
    if std::fs::metadata(exe).ok()?.permissions().mode() & 0o111 == 0 {
        return refused(reasons::NOT_EXECUTABLE, "make it executable there (chmod +x)");
    }
    let flags = nix::sys::statvfs::statvfs(exe).ok()?.flags();
    if flags.contains(nix::sys::statvfs::FsFlags::ST_NOEXEC) {
        return refused("its file system is mounted noexec at the target", "mount it there without noexec");
    }
    None
}

fn check_pid(description: &Description, process: &ProcessImage, found: &mut Reservation) {
    let taken: Vec<i32> = process
        .threads
        .iter()
        .map(|t| t.tid)
        .filter(|tid| Path::new(&format!("/proc/{tid}")).exists())
        .collect();
    if taken.is_empty() {
        return;
    }
    match description.pid_mode {
        PidChoice::Same => found.obstacles.push(taken_by(taken[0])),
        _ => found.namespace = true,
    }
}

/// A process keeps its pid until its parent has waited for it.
fn taken_by(pid: i32) -> Obstacle {
    let object = format!("pid {pid}");
    let name = program::name(pid);
    match Stat::of(pid).filter(Stat::has_ended).and_then(|stat| stat.parent()) {
        Some(parent) => {
            let of = format!("its parent ({parent}, {}) has not waited for it yet", program::name(parent));
            let why = format!("it is taken at the target ({name}, which has ended, but {of})");
            Obstacle::new(
                object,
                why,
                "have the parent wait for it, or end the parent; or use --pid-mode auto",
            )
        }
        None => {
            let why = format!("it is taken at the target ({name})");
            Obstacle::new(object, why, "end that process, or use --pid-mode auto")
        }
    }
}

/// `CAP_CHECKPOINT_RESTORE` or `CAP_SYS_ADMIN` for `set_tid`; whether `clone3` works at all.
fn check_rights(kernel: &Kernel, process: &ProcessImage, found: &mut Reservation) {
    const CAP_SYS_ADMIN: u32 = 21;
    const CAP_CHECKPOINT_RESTORE: u32 = 40;
    let Ok(own) = crate::state::credentials_of_self() else { return };
    let has = |bit: u32| own.caps[2] >> bit & 1 == 1;
    if !has(CAP_CHECKPOINT_RESTORE) && !has(CAP_SYS_ADMIN) {
        found.obstacles.push(Obstacle::new(
            format!("pid {}", process.pid),
            "ulpm serve may not create a process under a chosen pid: it lacks CAP_CHECKPOINT_RESTORE",
            "run `ulpm serve` as root, or give it CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE",
        ));
    }
    if !kernel.clone3 {
        found.obstacles.push(Obstacle::new(
            format!("pid {}", process.pid),
            "the target's kernel, or a filter there, does not allow clone3 (Linux 5.5)",
            "use a target with a newer kernel, or run `ulpm serve` outside the container that filters it",
        ));
    }
    let beyond =
        process.threads.iter().fold(0, |all, t| all | t.creds.caps[..3].iter().fold(0, |all, set| all | set))
            & !own.caps[1];
    if beyond != 0 {
        found.obstacles.push(Obstacle::new(
            format!("process {}", process.pid),
            format!("it has capabilities that ulpm serve lacks ({beyond:#x}) and cannot give"),
            "run `ulpm serve` with all capabilities (CapabilityBoundingSet= in its unit), or the process with fewer",
        ));
    }
    const CAP_SYS_NICE: u32 = 23;
    let foreign = process.threads.iter().any(|t| t.creds.uids != own.uids || t.creds.gids != own.gids);
    if foreign && !(has(6) && has(7)) {
        found.obstacles.push(Obstacle::new(
            format!("process {}", process.pid),
            "ulpm serve may not give it its user and groups: it lacks CAP_SETUID or CAP_SETGID",
            "run `ulpm serve` as root",
        ));
    }
    if foreign && !has(CAP_SYS_NICE) {
        found.obstacles.push(Obstacle::new(
            format!("process {}", process.pid),
            "ulpm serve may not say how another user's threads are scheduled (CPUs, policy, I/O priority): \
             it lacks CAP_SYS_NICE",
            "start `ulpm serve` with CAP_SYS_NICE",
        ));
    }
}

/// A different vDSO means other code at the same addresses.
fn check_vdso(process: &ProcessImage, found: &mut Reservation) {
    let own = std::process::id() as i32;
    let ours =
        crate::state::memory_map::survey(own).and_then(|s| crate::state::memory_map::vdso(own, s.vdso));
    let theirs = &process.memory.vdso;
    // what it has unmapped is compared with nothing, and goes at the target, too
    let has = |name: &str| theirs.areas.iter().any(|area| area.0 == name);
    // length, and distance from the first
    let shape = |areas: &[(String, u64, u64)]| -> Vec<(String, u64, u64)> {
        let kept: Vec<_> = areas.iter().filter(|(name, ..)| has(name)).collect();
        let first = kept.first().map_or(0, |area| area.1);
        kept.into_iter().map(|(n, s, e)| (n.clone(), e - s, s.wrapping_sub(first))).collect()
    };
    let lengths = |areas: &[(String, u64, u64)]| -> BTreeMap<String, u64> {
        shape(areas).into_iter().map(|(name, length, _)| (name, length)).collect()
    };
    let (same, moved) = ours.map_or((false, false), |ours| {
        let code = !has("[vdso]") || ours.hash == theirs.hash;
        let moved = lengths(&ours.areas) == lengths(&theirs.areas);
        (code && shape(&ours.areas) == shape(&theirs.areas), code && moved)
    });
    if theirs.areas.is_empty() || same {
        return;
    }
    if moved {
        found.obstacles.push(Obstacle::new(
            "vDSO",
            "the process has moved it away from the pages that it reads ([vvar]), and it is made in one piece only",
            "let the program move both, or neither",
        ));
    } else {
        found.obstacles.push(Obstacle::new(
            "vDSO",
            "the two kernels give their processes different vDSO code, and calls through the old one cannot be redirected yet",
            "use hosts with the same kernel",
        ));
    }
}

/// Offsets of the time namespace that the process needs here; none if our own serves. One that was in a namespace
/// stays in one: a thread may be in the middle of reading a clock by way of it.
pub fn clocks(description: &Description, difference: ClockOffsets) -> Option<ClockOffsets> {
    let wanted = ClockOffsets {
        monotonic_ns: description.clocks.monotonic_ns.saturating_add(difference.monotonic_ns),
        boottime_ns: description.clocks.boottime_ns.saturating_add(difference.boottime_ns),
    };
    (description.time_namespace || wanted != ClockOffsets::of("self")).then_some(wanted)
}
