//! The layout of an address space: `/proc/PID/maps`, with the flags of `/proc/PID/smaps`.
//!
//! `smaps` walks every page table, so its cost grows with the resident size; it is read outside the freeze only.
//! Inside, `maps` is read, and the flags of the last `smaps` are taken over for every area that is still the
//! same. What escapes: an madvise, mlock or mseal of a whole area, without any change of its borders, between the last round
//! and the freeze; and a flag that cannot be carried and is set after the preflight.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use procfs::process::{MMPermissions, MMapPath, MemoryMap};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::statfs::{HUGETLBFS_MAGIC, statfs};

use super::error::StateError;
use super::{guard_pages, inode, shm, vm_flags};
use crate::image::memory::{Layout, MemoryObject, Vdso};
use crate::image::{Backing, FilePath, ObjectId, Obstacle, PAGE_SIZE, PageRange, Vma, VmaFlags};
use crate::sys::kernel::Kernel;
use crate::sys::{maps, voice};

/// What the kernel adds to the name of a file that is gone.
pub const DELETED: &str = " (deleted)";

/// What an address space looks like, and what of it cannot be carried.
#[derive(Debug)]
pub struct Survey {
    /// Mappings and the objects behind them.
    pub layout: Layout,
    /// Guard pages of private mappings, in address order; not of [`quick`].
    pub guards: Vec<PageRange>,
    /// The special areas.
    pub vdso: Vec<(String, u64, u64)>,
    /// All that stands in the way.
    pub obstacles: Vec<Obstacle>,
}

/// Reads the layout with all flags (walks the page tables: not inside the freeze).
pub fn survey(pid: i32) -> Result<Survey, StateError> {
    voice::by(pid, survey_by)
}

fn survey_by(pid: i32) -> Result<Survey, StateError> {
    let text =
        std::fs::read(format!("/proc/{pid}/smaps")).map_err(StateError::io(pid, "reading the smaps"))?;
    let maps = maps::parse(pid, &text).map_err(StateError::io(pid, "reading the smaps"))?;
    let marks = vm_flags::marks(&text);
    if marks.len() != maps.len() {
        return Err(StateError::Field { pid, file: "smaps", field: "VmFlags" });
    }
    let marks: HashMap<u64, vm_flags::Marks> = maps.iter().map(|map| map.address.0).zip(marks).collect();
    let mut obstacles = Vec::new();
    let kernel = Kernel::here();
    let mut survey = digest(kernel, pid, &maps, |map| {
        let marks = marks.get(&map.address.0).cloned().unwrap_or_default();
        obstacles.extend(marks.obstacles(map.address));
        marks.flags(kernel)
    });
    survey.obstacles.extend(obstacles);
    let guards = guard_pages::look(kernel, pid, &survey.layout)?;
    for guard in &guards.private {
        let at = survey.layout.vmas.partition_point(|v| v.end <= guard.start);
        if let Some(vma) = survey.layout.vmas.get_mut(at) {
            vma.flags |= VmaFlags::GUARDED;
        }
    }
    survey.obstacles.extend(guards.obstacle);
    survey.guards = guards.private;
    Ok(survey)
}

/// Reads the layout, taking flags over from `previous` where an area is the same. The second value says
/// whether an area was found that is not in `previous`: its flags are unknown.
pub fn quick(pid: i32, previous: &Layout) -> Result<(Survey, bool), StateError> {
    voice::by(pid, |voice| quick_by(voice, previous))
}

fn quick_by(pid: i32, previous: &Layout) -> Result<(Survey, bool), StateError> {
    let maps = maps::maps(pid).map_err(StateError::io(pid, "reading the maps"))?;
    let mut unknown = false;
    let survey = digest(Kernel::here(), pid, &maps, |map| match same(&previous.vmas, map) {
        Some(old) => old.flags,
        None => {
            unknown = true;
            let stack = matches!(map.pathname, MMapPath::Stack);
            let flags = if stack { VmaFlags::GROWS_DOWN } else { VmaFlags::empty() };
            if may_be_written(pid, map) { flags | VmaFlags::MAY_WRITE } else { flags }
        }
    });
    Ok((survey, unknown))
}

/// Whether a shared mapping was made of a file that is open for writing: the link in `map_files` says so.
fn may_be_written(pid: i32, map: &MemoryMap) -> bool {
    map.perms.contains(MMPermissions::SHARED)
        && std::fs::symlink_metadata(map_file(pid, map.address)).is_ok_and(|link| link.mode() & 0o200 != 0)
}

/// The old area that this one was: it may have grown since, a stack downwards, so neither end need be the same.
fn same<'a>(old: &'a [Vma], map: &MemoryMap) -> Option<&'a Vma> {
    let (start, end) = map.address;
    let first = old.partition_point(|v| v.end <= start);
    old[first..]
        .iter()
        .take_while(|v| v.start < end)
        .filter(|v| v.prot == protection(map) && v.shared == map.perms.contains(MMPermissions::SHARED))
        .max_by_key(|v| v.end.min(end) - v.start.max(start))
}

fn digest(
    kernel: &Kernel,
    pid: i32,
    maps: &[MemoryMap],
    mut flags: impl FnMut(&MemoryMap) -> VmaFlags,
) -> Survey {
    let mut survey =
        Survey { layout: Layout::default(), guards: Vec::new(), vdso: Vec::new(), obstacles: Vec::new() };
    let mut seen = HashSet::new();
    for map in maps {
        match backing(kernel, map) {
            Kind::Skip => {}
            Kind::Special(name) => {
                survey.layout.special.push(PageRange::new(map.address.0, map.address.1));
                survey.vdso.push((name, map.address.0, map.address.1));
            }
            Kind::Unsupported(what, advice) => survey.obstacles.push(Obstacle {
                object: format!("mapping {:#x}-{:#x}", map.address.0, map.address.1),
                why: what,
                advice: advice.to_owned(),
            }),
            Kind::Carried(backing) => {
                // of a running process the list is not of one instant: an area that merged with its neighbour after
                // that was listed comes again from its new beginning
                let last = survey.layout.vmas.last().map_or(0, |v| v.end);
                let start = map.address.0.max(last);
                if start >= map.address.1 {
                    continue;
                }
                let vma = Vma {
                    start,
                    end: map.address.1,
                    prot: protection(map),
                    shared: map.perms.contains(MMPermissions::SHARED),
                    offset: if backing == Backing::Anonymous {
                        0
                    } else {
                        map.offset + start - map.address.0
                    },
                    backing,
                    flags: flags(map),
                    page_size: page_size(kernel, map),
                };
                if let Some(id) = vma.object()
                    && seen.insert(id)
                {
                    survey.layout.objects.push(object(kernel, pid, map, id, maps));
                }
                survey.layout.vmas.push(vma);
            }
        }
    }
    survey
}

enum Kind {
    Skip,
    Special(String),
    Carried(Backing),
    Unsupported(String, &'static str),
}

fn backing(kernel: &Kernel, map: &MemoryMap) -> Kind {
    let id = ObjectId { dev: device(map), ino: map.inode };
    match &map.pathname {
        MMapPath::Vsyscall => Kind::Skip,
        MMapPath::Vdso => Kind::Special("[vdso]".to_owned()),
        MMapPath::Vvar => Kind::Special("[vvar]".to_owned()),
        MMapPath::Other(name) if name == "vvar_vclock" => Kind::Special("[vvar_vclock]".to_owned()),
        MMapPath::Other(name) if name == "uprobes" => Kind::Unsupported(
            "uprobes are active in this process".to_owned(),
            "end the tracing of user functions",
        ),
        // [anon:NAME], named by prctl(PR_SET_VMA)
        MMapPath::Other(name) if name.starts_with("anon:") => Kind::Carried(Backing::Anonymous),
        MMapPath::Heap | MMapPath::Stack | MMapPath::TStack(_) | MMapPath::Anonymous => {
            Kind::Carried(Backing::Anonymous)
        }
        MMapPath::Vsys(_) => Kind::Unsupported(
            "System V shared memory is not carried yet".to_owned(),
            "use POSIX shared memory or a memfd",
        ),
        MMapPath::Path(path) if kernel.huge_page_of(id.dev).is_some() => huge_backing(path, id, map),
        MMapPath::Path(path) if on_hugetlbfs(kernel, path, map) => Kind::Unsupported(
            format!("the mapped file {} is on hugetlbfs, whose files are not carried", path.display()),
            "use a memfd with MFD_HUGETLB, or anonymous memory with MAP_HUGETLB",
        ),
        // its pages are anonymous (`mmap_zero`)
        MMapPath::Path(path)
            if path.as_os_str() == "/dev/zero" && !map.perms.contains(MMPermissions::SHARED) =>
        {
            Kind::Carried(Backing::Anonymous)
        }
        MMapPath::Path(path) => path_backing(path, id),
        other => Kind::Unsupported(format!("{other:?} mappings are not carried"), "unmap it"),
    }
}

fn device(map: &MemoryMap) -> u64 {
    nix::sys::stat::makedev(map.dev.0 as u64, map.dev.1 as u64)
}

fn page_size(kernel: &Kernel, map: &MemoryMap) -> u64 {
    kernel.huge_page_of(device(map)).unwrap_or(PAGE_SIZE)
}

/// Memory of one of the kernel's own file systems of huge pages. Anonymous memory is a file there, too: each mapping
/// has one of its own.
fn huge_backing(path: &Path, id: ObjectId, map: &MemoryMap) -> Kind {
    let name = FilePath::from(path);
    if name.starts_with("/memfd:") {
        return Kind::Carried(Backing::MemFd(id));
    }
    if name.starts_with("/anon_hugepage") {
        let shared = map.perms.contains(MMPermissions::SHARED);
        return Kind::Carried(if shared { Backing::SharedAnonymous(id) } else { Backing::Anonymous });
    }
    path_backing(path, id)
}

/// Whether it is a file of a mounted hugetlbfs. The file system is asked only where the borders allow it.
fn on_hugetlbfs(kernel: &Kernel, path: &Path, map: &MemoryMap) -> bool {
    let Some(smallest) = kernel.huge_pages.first() else { return false };
    let aligned = [map.address.0, map.address.1].iter().all(|a| a.is_multiple_of(smallest.bytes));
    aligned && statfs(path).is_ok_and(|fs| fs.filesystem_type() == HUGETLBFS_MAGIC)
}

fn path_backing(path: &Path, id: ObjectId) -> Kind {
    let path = FilePath::from(path);
    if path.starts_with("/memfd:") {
        return Kind::Carried(Backing::MemFd(id));
    }
    if path == "/dev/zero (deleted)" {
        return Kind::Carried(Backing::SharedAnonymous(id));
    }
    if let Some(name) = path.strip_prefix("/SYSV") {
        return Kind::Unsupported(
            format!("System V shared memory {name} is not carried yet"),
            "use POSIX shared memory or a memfd",
        );
    }
    if path.starts_with("anon_inode:") || path.starts_with("/[") || !path.starts_with("/") {
        return Kind::Unsupported(
            format!("memory of {path} belongs to a kernel object that is not carried"),
            "close it",
        );
    }
    match shm::find(&path, id) {
        Some(shm::Name::Now(path)) => return Kind::Carried(Backing::File { path }),
        Some(shm::Name::None(_)) => return Kind::Carried(Backing::MemFd(id)),
        None => {}
    }
    if path.ends_with(DELETED) && !is_at(&path, id) {
        return Kind::Unsupported(
            nameless(&path),
            "restart the process after upgrades, or keep the file in place",
        );
    }
    if path.starts_with("/dev/") && !path.starts_with("/dev/shm/") {
        return Kind::Unsupported(format!("memory of the device {path} is not carried"), "close the device");
    }
    Kind::Carried(Backing::File { path })
}

/// Why a mapped file without a name is refused; `path` as the kernel shows it.
pub fn nameless(path: &FilePath) -> String {
    format!("the mapped file {path} has no name any more")
}

/// Whether a name that ends like that of a deleted file is simply called so.
fn is_at(path: &FilePath, id: ObjectId) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.ino() == id.ino)
}

fn protection(map: &MemoryMap) -> u8 {
    let bit = |p: MMPermissions, b: i32| if map.perms.contains(p) { b as u8 } else { 0 };
    bit(MMPermissions::READ, libc::PROT_READ)
        | bit(MMPermissions::WRITE, libc::PROT_WRITE)
        | bit(MMPermissions::EXECUTE, libc::PROT_EXEC)
}

/// The object behind a shared mapping. Its size comes from `map_files` where we may look there, else it is as
/// large as the mappings that show it.
fn object(kernel: &Kernel, pid: i32, map: &MemoryMap, id: ObjectId, maps: &[MemoryMap]) -> MemoryObject {
    // by now the process may show something else there
    let is_it = |m: &std::fs::Metadata| m.dev() == id.dev && m.ino() == id.ino;
    let by_link = std::fs::metadata(map_file(pid, map.address)).ok().filter(is_it);
    let by_maps = maps
        .iter()
        .filter(|m| m.inode == map.inode && m.dev == map.dev)
        .map(|m| m.offset + (m.address.1 - m.address.0))
        .max()
        .unwrap_or(0);
    let path = match &map.pathname {
        MMapPath::Path(path) => FilePath::from(path.as_path()),
        _ => FilePath::default(),
    };
    let (shm, is_memfd) = (shm::is_name(&path), path.starts_with("/memfd:"));
    let memfd_name = match shm {
        true => Some(path.without_suffix(DELETED)),
        false => path.strip_prefix("/memfd:").map(|name| name.without_suffix(DELETED)),
    };
    MemoryObject {
        id,
        size: by_link.as_ref().map_or(by_maps, |found| found.len()),
        inode: by_link.as_ref().map(inode::of).filter(|_| memfd_name.is_some()),
        memfd_name,
        // of one that has a descriptor, too, they are asked again there
        seals: by_link.filter(|_| is_memfd).map_or(0, |_| seals(pid, map)),
        page_size: page_size(kernel, map),
        shm,
    }
}

/// Seals of a memory file that is mapped; where we may not open it the process may not either, and cannot change what its mappings
/// permit.
fn seals(pid: i32, map: &MemoryMap) -> i32 {
    let file = std::fs::File::open(map_file(pid, map.address));
    file.ok().and_then(|file| fcntl(&file, FcntlArg::F_GET_SEALS).ok()).unwrap_or(0)
}

/// The link to what is mapped there.
pub fn map_file(pid: i32, (start, end): (u64, u64)) -> String {
    format!("/proc/{pid}/map_files/{start:x}-{end:x}")
}

/// Describes the vDSO: its areas and the hash of its code.
pub fn vdso(pid: i32, areas: Vec<(String, u64, u64)>) -> Result<Vdso, StateError> {
    let mut image = Vec::new();
    if let Some((_, start, end)) = areas.iter().find(|(name, _, _)| name == "[vdso]") {
        image.resize((end - start) as usize, 0);
        crate::sys::process::read_memory(pid, *start, &mut image)
            .map_err(StateError::errno(pid, "reading the vDSO"))?;
    }
    Ok(Vdso { areas, hash: *blake3::hash(&image).as_bytes() })
}
