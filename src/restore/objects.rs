//! Shared memory objects at the target: made in `ulpm serve`, filled through their descriptors, mapped by the
//! skeleton and opened as its memfds.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::{Whence, lseek};

use super::RestoreError;
use crate::image::memory::MemoryObject;
use crate::image::{ObjectId, PageRange, ProcessIndex};
use crate::state::files::memfd;
use crate::state::inode;
use crate::sys::hugetlb;
use crate::sys::shared::SharedAnonymous;

/// The objects of one tree, by their name at the source: what two of its processes call by one name is one object.
#[derive(Debug, Default)]
pub struct Objects {
    made: BTreeMap<ObjectId, (File, MemoryObject)>,
    /// Who has which.
    had: BTreeMap<ProcessIndex, BTreeSet<ObjectId>>,
}

impl Objects {
    /// What a process has now: makes what is new, resizes what has changed, forgets what nobody has any more.
    pub fn update(&mut self, of: ProcessIndex, wanted: &[MemoryObject]) -> Result<(), RestoreError> {
        self.had.insert(of, wanted.iter().map(|object| object.id).collect());
        let had = &self.had;
        self.made.retain(|id, _| had.values().any(|ids| ids.contains(id)));
        for object in wanted {
            match self.made.get_mut(&object.id) {
                Some((file, known)) => {
                    if known.size != object.size {
                        file.set_len(object.size).map_err(RestoreError::io("resizing a memory object"))?;
                    }
                    *known = object.clone();
                }
                None => {
                    let file = make(object)?;
                    self.made.insert(object.id, (file, object.clone()));
                }
            }
        }
        Ok(())
    }

    /// A duplicate of an object's descriptor.
    pub fn fd(&self, id: ObjectId) -> Result<OwnedFd, RestoreError> {
        let (file, _) = self.file(id)?;
        file.as_fd().try_clone_to_owned().map_err(RestoreError::io("duplicating a memory object"))
    }

    fn file(&self, id: ObjectId) -> Result<&(File, MemoryObject), RestoreError> {
        self.made
            .get(&id)
            .ok_or_else(|| RestoreError::Nonsense(format!("pages of an unknown memory object {}", id.ino)))
    }

    /// Places pages.
    pub fn write(&self, id: ObjectId, offset: u64, data: &[u8]) -> Result<(), RestoreError> {
        let (file, object) = self.file(id)?;
        // the last page of an object may reach beyond its size
        if offset.saturating_add(data.len() as u64) > object.size.next_multiple_of(crate::image::PAGE_SIZE) {
            return Err(RestoreError::Nonsense(format!("pages beyond the end of memory object {}", id.ino)));
        }
        let len = data.len().min(object.size.saturating_sub(offset) as usize);
        if object.huge() {
            return write_huge(file, object, offset, &data[..len]);
        }
        file.write_all_at(&data[..len], offset).map_err(RestoreError::io("filling a memory object"))
    }

    /// Takes pages away.
    pub fn punch(&self, id: ObjectId, ranges: &[PageRange]) -> Result<(), RestoreError> {
        let (file, object) = self.file(id)?;
        for r in ranges {
            if object.huge() {
                punch_huge(file, object, *r)?;
                continue;
            }
            punch(file, *r)?;
        }
        Ok(())
    }

    /// Takes away what is in these ranges, where there is anything (of huge pages that is not shown: there always).
    pub fn clear(&self, id: ObjectId, ranges: &[PageRange]) -> Result<(), RestoreError> {
        let (file, object) = self.file(id)?;
        for range in ranges {
            let step = "looking for pages of a memory object";
            if object.huge() || holds_data(file, *range).map_err(RestoreError::io(step))? {
                self.punch(id, std::slice::from_ref(range))?;
            }
        }
        Ok(())
    }

    /// Gives memory files owner, mode, times and seals, as `last` has them; nothing can be written afterwards.
    pub fn finish(&self, last: &[MemoryObject]) -> Result<(), RestoreError> {
        for object in last.iter().filter(|object| object.memfd_name.is_some()) {
            let (file, _) = self.file(object.id)?;
            memfd::finish(object, file)
                .map_err(RestoreError::io("giving a memory file owner, mode and seals"))?;
        }
        Ok(())
    }

    /// An open file on the object of its own; `write`: for writing, too. Whoever maps what is open for writing keeps it from being
    /// executed.
    pub fn opened(&self, id: ObjectId, write: bool) -> Result<OwnedFd, RestoreError> {
        let (file, object) = self.file(id)?;
        if write || object.memfd_name.is_none() {
            return self.fd(id);
        }
        let read = File::open(inode::by_number(file)).map_err(RestoreError::io("opening a memory object"))?;
        Ok(read.into())
    }

    /// All objects and their descriptors.
    pub fn iter(&self) -> impl Iterator<Item = (ObjectId, &File)> {
        self.made.iter().map(|(id, (file, _))| (*id, file))
    }
}

fn make(object: &MemoryObject) -> Result<File, RestoreError> {
    match &object.memfd_name {
        Some(_) => memfd::create(object).map(File::from).map_err(RestoreError::io("making a memory file")),
        None => anonymous(object),
    }
}

/// What a memfd's flags say of its pages.
fn page_flags(object: &MemoryObject) -> MFdFlags {
    if object.huge() { hugetlb::memfd_flags(object.page_size) } else { MFdFlags::empty() }
}

/// Whether a range has a page (`SEEK_DATA`). Leaves the file's position where the next one begins: nobody reads by it yet.
fn holds_data(file: &File, range: PageRange) -> Result<bool, Errno> {
    match lseek(file, range.start as i64, Whence::SeekData) {
        Ok(at) => Ok((at as u64) < range.end),
        Err(Errno::ENXIO) => Ok(false),
        Err(e) => Err(e),
    }
}

fn punch(file: &File, range: PageRange) -> Result<(), RestoreError> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(file, flags, range.start as i64, range.len() as i64)
        .map_err(RestoreError::io("punching a hole into a memory object"))
}

fn write_huge(file: &File, object: &MemoryObject, offset: u64, data: &[u8]) -> Result<(), RestoreError> {
    let page_size = object.page_size;
    hugetlb::write_at(file, page_size, offset, data).map_err(|source| RestoreError::NoHugePage {
        step: "filling a memory object",
        page_size,
        source,
    })
}

/// Whole huge pages go; of others (which are there, since something was placed in them) the part becomes zero.
fn punch_huge(file: &File, object: &MemoryObject, range: PageRange) -> Result<(), RestoreError> {
    static ZEROES: [u8; 64 * 1024] = [0; 64 * 1024];
    let range = PageRange::new(range.start, range.end.min(object.size));
    let (first, last) =
        (range.start.next_multiple_of(object.page_size), range.end / object.page_size * object.page_size);
    let whole = PageRange::new(first, last);
    let parts = if whole.is_empty() {
        vec![range]
    } else {
        punch(file, whole)?;
        vec![PageRange::new(range.start, first), PageRange::new(last, range.end)]
    };
    for piece in parts.into_iter().flat_map(|part| part.chunks(ZEROES.len() as u64)) {
        write_huge(file, object, piece.start, &ZEROES[..piece.len() as usize])?;
    }
    Ok(())
}

/// Shared anonymous memory has no system call that gives a descriptor; it is mapped here for a moment and taken
/// from `/proc/self/map_files`. Where that is not permitted (a user namespace), a memfd serves: the same
/// memory under another name.
fn anonymous(object: &MemoryObject) -> Result<File, RestoreError> {
    let map = SharedAnonymous::new(object.size, object.page_size)
        .map_err(RestoreError::io("making shared memory"))?;
    let (start, end) = map.range();
    let path = format!("/proc/self/map_files/{start:x}-{end:x}");
    if let Ok(file) = File::options().read(true).write(true).open(&path) {
        return Ok(file);
    }
    let fd = memfd_create("ulpm-shared-anonymous", MFdFlags::MFD_CLOEXEC | page_flags(object))
        .map_err(RestoreError::io("making shared memory"))?;
    let file = File::from(fd);
    file.set_len(object.size).map_err(RestoreError::io("making shared memory"))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::{FIRST, PAGE_SIZE};

    fn object(ino: u64) -> MemoryObject {
        MemoryObject {
            id: ObjectId { dev: 1, ino },
            size: PAGE_SIZE,
            memfd_name: Some("x".into()),
            seals: 0,
            page_size: PAGE_SIZE,
            inode: None,
            shm: false,
        }
    }

    #[test]
    fn what_two_processes_have_is_one_and_stays_until_neither_has_it() {
        let (mut objects, other) = (Objects::default(), ProcessIndex(1));
        let names = |objects: &Objects| objects.iter().map(|(id, _)| id.ino).collect::<Vec<_>>();
        objects.update(FIRST, &[object(7)]).unwrap();
        objects.write(object(7).id, 8, b"shared").unwrap();
        objects.update(other, &[object(7), object(8)]).unwrap();
        assert_eq!(names(&objects), [7, 8]);
        let mut there = [0; 6];
        objects.file(object(7).id).unwrap().0.read_exact_at(&mut there, 8).unwrap();
        assert_eq!(&there, b"shared");
        objects.update(FIRST, &[]).unwrap();
        assert_eq!(names(&objects), [7, 8]);
        objects.update(other, &[object(8)]).unwrap();
        assert_eq!(names(&objects), [8]);
        assert!(objects.fd(object(7).id).is_err());
    }
}
