//! How many huge pages (hugetlb) of each size a process takes: what its mappings were promised, and what is in use
//! without a promise (`MAP_NORESERVE`, memfds that nobody maps). The target must have them before anything is stopped.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;

use procfs::process::MemoryMap;

use super::error::StateError;
use super::memory_map::map_file;
use crate::image::files::FilesImage;
use crate::image::memory::{HugePages, Layout};
use crate::image::{ObjectId, PageRange, RangeSet, Vma, VmaFlags};

/// What is known of one shared object.
#[derive(Debug, Default)]
struct Object {
    page_size: u64,
    /// Bytes of it that a mapping was promised.
    promised: RangeSet,
    /// Bytes in use, as its file says.
    in_use: u64,
}

/// Counts them; asks `/proc/PID/smaps` only if there are any. A lower bound where pages that are in use and pages that
/// are promised cannot be told apart.
pub fn needed(pid: i32, layout: &Layout, files: &FilesImage) -> Result<Vec<HugePages>, StateError> {
    let mut bytes: BTreeMap<u64, u64> = BTreeMap::new();
    let mut objects: BTreeMap<ObjectId, Object> = BTreeMap::new();
    for memfd in &files.memfds {
        let Some(page_size) = memfd.huge_page else { continue };
        let open = files.files.iter().find(|file| file.kind.memory() == Some(memfd.object));
        let link = open.map(|f| format!("/proc/{pid}/fd/{}", f.fd));
        let id = ObjectId { dev: memfd.dev, ino: memfd.object };
        let object = Object { page_size, in_use: link.map_or(0, |l| in_use(&l)), ..Object::default() };
        objects.insert(id, object);
    }
    if layout.vmas.iter().any(Vma::huge) {
        let maps = crate::sys::maps::smaps(pid).map_err(StateError::io(pid, "reading the smaps"))?;
        let maps: BTreeMap<u64, &MemoryMap> = maps.iter().map(|m| (m.address.0, m)).collect();
        for vma in layout.vmas.iter().filter(|v| v.huge()) {
            *bytes.entry(vma.page_size).or_default() += private_bytes(vma, maps.get(&vma.start).copied());
            if let Some(id) = vma.object() {
                let object = objects.entry(id).or_default();
                object.page_size = vma.page_size;
                object.in_use = object.in_use.max(in_use(&map_file(pid, (vma.start, vma.end))));
                if vma.shared && !vma.has(VmaFlags::NO_RESERVE) {
                    let len = vma.range().len();
                    object.promised.insert(PageRange::new(vma.offset, vma.offset + len));
                }
            }
        }
    }
    for object in objects.values() {
        let promised: u64 = object.promised.iter().map(|r| r.len()).sum();
        *bytes.entry(object.page_size).or_default() += promised.max(object.in_use);
    }
    let count = |(page_size, bytes): (u64, u64)| HugePages { page_size, count: bytes.div_ceil(page_size) };
    Ok(bytes.into_iter().map(count).filter(|h| h.count > 0).collect())
}

/// What a private mapping takes: all of it, or what is in use where nothing was promised.
fn private_bytes(vma: &Vma, map: Option<&MemoryMap>) -> u64 {
    if vma.shared {
        return 0;
    }
    let used = |m: &MemoryMap| m.extension.map.get("Private_Hugetlb").copied().unwrap_or(0);
    if vma.has(VmaFlags::NO_RESERVE) { map.map_or(0, used) } else { vma.range().len() }
}

/// Bytes that the file behind a magic link holds; 0 where we may not look.
fn in_use(link: &str) -> u64 {
    std::fs::metadata(link).map_or(0, |data| data.blocks() * 512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{Backing, PAGE_SIZE};
    use crate::state::memory_map::survey;
    use crate::sys::kernel::Kernel;
    use crate::sys::shared::SharedAnonymous;

    /// A mapping that was promised nothing and is not touched needs no page, so this runs where there are none.
    #[test]
    fn huge_mappings_are_seen_as_what_they_are() {
        let own = std::process::id() as i32;
        for size in &Kernel::here().huge_pages {
            let map = SharedAnonymous::new(2 * size.bytes, size.bytes).unwrap();
            let seen = survey(own).unwrap();
            let vma = seen.layout.vmas.iter().find(|v| v.start == map.range().0).unwrap();
            assert_eq!((vma.end, vma.page_size, vma.shared), (map.range().1, size.bytes, true));
            assert!(vma.has(VmaFlags::NO_RESERVE));
            let Backing::SharedAnonymous(id) = vma.backing else { panic!("{vma:?}") };
            let object = seen.layout.objects.iter().find(|o| o.id == id).unwrap();
            assert_eq!((object.size, object.page_size), (2 * size.bytes, size.bytes));
            let layout = Layout { vmas: vec![vma.clone()], ..Layout::default() };
            assert_eq!(needed(own, &layout, &FilesImage::default()).unwrap(), []);
            let flags = VmaFlags::empty();
            let promised = Layout { vmas: vec![Vma { flags, ..vma.clone() }], ..Layout::default() };
            let expected = [HugePages { page_size: size.bytes, count: 2 }];
            assert_eq!(needed(own, &promised, &FilesImage::default()).unwrap(), expected);
        }
        let seen = survey(own).unwrap();
        assert!(seen.layout.vmas.iter().any(|v| v.page_size == PAGE_SIZE));
    }
}
