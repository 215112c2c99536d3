//! Memory that somebody who stays maps, too: shared anonymous memory, memfds, nameless files of `/dev/shm`. A move would make two of it,
//! in silence. One walk over `/proc/*/maps` in preflight; device and inode tell.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;

use super::memory_map::map_file;
use super::program;
use super::reasons::UNREADABLE;
use crate::image::files::FilesImage;
use crate::image::memory::{Layout, MemoryObject};
use crate::image::{Note, ObjectId, Obstacle, PAGE_SIZE, PageRange, RangeSet, Vma};
use crate::sys::stat::Stat;
use crate::sys::voice::{self, process_of};

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// With whom it shares what.
    pub obstacles: Vec<Obstacle>,
    /// What could not be asked.
    pub notes: Vec<Note>,
}

/// Looks at all other processes.
pub fn look(pid: i32, layout: &Layout) -> Found {
    let objects = objects(layout);
    let mut found = Found::default();
    let mut closed = 0;
    for other in others(pid) {
        match mapped(other, &objects, &mut found.obstacles) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => closed += 1,
            // it has ended
            _ => {}
        }
    }
    if closed > 0 {
        let others = if closed == 1 { "process of another user" } else { "processes of other users" };
        let what = format!(
            "whether it shares memory or open files with {closed} {others} could not be asked: run ulpm as root to know"
        );
        found.notes.push(Note::new(format!("process {pid}"), what));
    }
    found
}

/// Objects whose content we may not read: without a descriptor, and not mapped shared where the process sees them. A private page
/// hides what the object has below it, and gives it free again when it is dropped.
pub fn unreadable(pid: i32, layout: &Layout, files: &FilesImage) -> Vec<Obstacle> {
    let held = |object: &&MemoryObject| !files.memfds.iter().any(|memfd| memfd.object == object.id.ino);
    let objects = layout.objects.iter().filter(held).filter(|object| shown_privately_only(layout, object));
    let mut found = Vec::new();
    for object in objects {
        let mut mappings = layout.vmas.iter().filter(|vma| vma.object() == Some(object.id));
        let opens = |vma: &Vma| fs::File::open(map_file(pid, (vma.start, vma.end))).is_ok();
        if let Some(first) = mappings.next()
            && !opens(first)
            && !mappings.any(opens)
        {
            let place = format!("mapping {:#x}-{:#x}", first.start, first.end);
            found.push(Obstacle::new(place, UNREADABLE, "run ulpm as root"));
        }
    }
    found
}

/// Whether a private mapping shows a part of the object that no shared one does.
pub fn shown_privately_only(layout: &Layout, object: &MemoryObject) -> bool {
    let of = |shared: bool| {
        let shows = move |vma: &&Vma| vma.object() == Some(object.id) && vma.shared == shared;
        layout
            .vmas
            .iter()
            .filter(shows)
            .map(|vma| PageRange::new(vma.offset, vma.offset + (vma.end - vma.start)))
    };
    let mut private: RangeSet = of(false).collect();
    private.subtract(&of(true).collect());
    private.within(PageRange::new(0, object.size.next_multiple_of(PAGE_SIZE))).next().is_some()
}

/// Objects that were not there when [`look`] looked: who else maps one of them? In the freeze, if it must be.
pub fn new_objects(pid: i32, before: &Layout, now: &Layout) -> Vec<Obstacle> {
    let mut objects = objects(now);
    objects.retain(|id, _| !before.objects.iter().any(|known| known.id == *id));
    if objects.is_empty() {
        return Vec::new();
    }
    let mut found = Vec::new();
    for other in others(pid) {
        let _ = mapped(other, &objects, &mut found);
    }
    found
}

/// Where an object is mapped first, and what it is called.
fn objects(layout: &Layout) -> BTreeMap<ObjectId, String> {
    let mut objects: BTreeMap<ObjectId, String> = BTreeMap::new();
    for vma in &layout.vmas {
        if let Some(id) = vma.object() {
            objects.entry(id).or_insert_with(|| format!("mapping {:#x}-{:#x}", vma.start, vma.end));
        }
    }
    objects
}

/// Processes that are neither this one, nor ulpm's, nor the kernel's.
fn others(pid: i32) -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = process_of(pid);
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(move |other| *other != own && !is_of_kernel(*other) && !is_of_ulpm(*other))
}

/// Only the kernel's threads have no command line and no program; asked of their flags, which everybody may read.
fn is_of_kernel(pid: i32) -> bool {
    Stat::of(pid).is_some_and(|stat| stat.is_of_kernel())
}

/// We ourselves and our helpers look at the process, and hold what they read.
pub(super) fn is_of_ulpm(pid: i32) -> bool {
    let program = |who: &str| {
        let found = fs::metadata(format!("/proc/{who}/exe")).ok()?;
        Some((found.dev(), found.ino()))
    };
    let own = std::process::id().to_string();
    pid.to_string() == own || program(&pid.to_string()).is_some_and(|p| program("self") == Some(p))
}

/// As messages name a process.
pub(super) fn named(pid: i32) -> String {
    format!("process {pid} ({})", program::name(pid))
}

fn mapped(other: i32, objects: &BTreeMap<ObjectId, String>, found: &mut Vec<Obstacle>) -> io::Result<()> {
    // opened even so: whether we may is worth knowing
    let mut file = fs::File::open(format!("/proc/{other}/maps"))?;
    if objects.is_empty() {
        return Ok(());
    }
    let mut maps = Vec::new();
    file.read_to_end(&mut maps)?;
    if maps.is_empty() {
        // its main thread has ended, or it is about to
        maps = fs::read(format!("/proc/{}/maps", voice::of(other)))?;
    }
    for line in maps.split(|byte| *byte == b'\n') {
        let Some(id) = object_of(line) else { continue };
        if let Some(mapping) = objects.get(&id) {
            let obstacle = Obstacle::new(
                mapping.clone(),
                format!("this memory is also mapped by {}, which stays here", named(other)),
                "end that process first",
            );
            if !found.contains(&obstacle) {
                found.push(obstacle);
            }
        }
    }
    Ok(())
}

/// `start-end perms offset major:minor inode path`
fn object_of(line: &[u8]) -> Option<ObjectId> {
    let mut fields = line.splitn(6, |byte| *byte == b' ').skip(3).map(std::str::from_utf8);
    let (major, minor) = fields.next()?.ok()?.split_once(':')?;
    let number = |hex: &str| u64::from_str_radix(hex, 16).ok();
    let ino = fields.next()?.ok()?.parse().ok().filter(|ino| *ino != 0)?;
    Some(ObjectId { dev: nix::sys::stat::makedev(number(major)?, number(minor)?), ino })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_is_found_in_a_line_of_maps() {
        let line = b"7f6d357bd000-7f6d357be000 rw-s 00000000 00:1b 4    /dev/shm/sem.8F4agZ (deleted)";
        assert_eq!(object_of(line), Some(ObjectId { dev: nix::sys::stat::makedev(0, 0x1b), ino: 4 }));
        assert_eq!(object_of(b"7ffd1000-7ffd2000 rw-p 00000000 00:00 0    [stack]"), None);
        assert_eq!(object_of(b""), None);
    }

    #[test]
    fn what_a_process_of_its_own_has_is_not_shared() {
        let mut sleeper = std::process::Command::new("sleep");
        let mut sleeper = crate::sys::spawn::quietly(sleeper.arg("60"));
        let pid = sleeper.id() as i32;
        let found = look(pid, &Layout::default());
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        assert!(found.obstacles.is_empty(), "{found:?}");
    }
}
