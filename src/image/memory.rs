//! The address space of a process, as data: what is mapped where, and what backs it.

use serde::{Deserialize, Serialize};

use super::PAGE_SIZE;
use super::file_path::FilePath;
use super::files::FileIdentity;
use super::inode::Inode;
use super::process_index::ProcessIndex;
use super::ranges::{PageRange, RangeSet};

/// A kernel object that holds memory beyond one address space (shared anonymous memory, memfd), named by the
/// device and inode that the source's kernel shows for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectId {
    /// Device number.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
}

/// Whose a page is: of one process alone, or of an object that several may show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PageOwner {
    /// Private memory of this process, by address.
    Process(ProcessIndex),
    /// A memory object, by offset.
    Object(ObjectId),
}

impl PageOwner {
    /// The object, if it is one.
    pub fn object(self) -> Option<ObjectId> {
        match self {
            PageOwner::Process(_) => None,
            PageOwner::Object(id) => Some(id),
        }
    }
}

/// What a mapping shows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Backing {
    /// Private anonymous memory: heap, stacks, everything that `malloc` gives.
    Anonymous,
    /// A file of the file system.
    File {
        /// Its path in the mount namespace of the process.
        path: FilePath,
    },
    /// Shared anonymous memory: an unnamed object.
    SharedAnonymous(ObjectId),
    /// A memfd.
    MemFd(ObjectId),
}

bitflags::bitflags! {
    /// Attributes of a mapping beyond its protection, as `VmFlags` of `/proc/PID/smaps` shows them.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
    pub struct VmaFlags: u32 {
        /// `gd`: a stack.
        const GROWS_DOWN = 1;
        /// `lo`: `mlock`, or with [`VmaFlags::LOCK_ON_FAULT`] `mlock2(MLOCK_ONFAULT)`.
        const LOCKED = 1 << 1;
        /// `sr`: `MADV_SEQUENTIAL`.
        const SEQUENTIAL = 1 << 2;
        /// `rr`: `MADV_RANDOM`.
        const RANDOM = 1 << 3;
        /// `dc`: `MADV_DONTFORK`.
        const DONT_FORK = 1 << 4;
        /// `nr`: `MAP_NORESERVE`.
        const NO_RESERVE = 1 << 5;
        /// `wf`: `MADV_WIPEONFORK`.
        const WIPE_ON_FORK = 1 << 6;
        /// `dd`: `MADV_DONTDUMP`.
        const DONT_DUMP = 1 << 7;
        /// `hg`: `MADV_HUGEPAGE`.
        const HUGE_PAGE = 1 << 8;
        /// `nh`: `MADV_NOHUGEPAGE`.
        const NO_HUGE_PAGE = 1 << 9;
        /// `mg`: `MADV_MERGEABLE`.
        const MERGEABLE = 1 << 10;
        /// `mw`: may be made writable (a shared file mapping needs its file opened for writing).
        const MAY_WRITE = 1 << 11;
        /// `lf`: locked as its pages come.
        const LOCK_ON_FAULT = 1 << 12;
        /// `sl`: `mseal`.
        const SEALED = 1 << 13;
        /// `dp`: `MAP_DROPPABLE`.
        const DROPPABLE = 1 << 14;
        /// All its pages are there; said of locked areas, whose pages must not come by faults.
        const POPULATED = 1 << 15;
        /// Some of its pages are guard pages (`MADV_GUARD_INSTALL`).
        const GUARDED = 1 << 16;
    }
}

impl Serialize for VmaFlags {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.bits().serialize(to)
    }
}

impl<'de> Deserialize<'de> for VmaFlags {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u32::deserialize(from).map(VmaFlags::from_bits_truncate)
    }
}

/// One mapping (virtual memory area).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vma {
    /// First byte.
    pub start: u64,
    /// One past the last byte.
    pub end: u64,
    /// `PROT_*`.
    pub prot: u8,
    /// `MAP_SHARED` rather than `MAP_PRIVATE`.
    pub shared: bool,
    /// Offset in the file or object, in bytes.
    pub offset: u64,
    /// What it shows.
    pub backing: Backing,
    /// What else was asked of it.
    pub flags: VmaFlags,
    /// Bytes of its pages: [`PAGE_SIZE`], or those of huge pages (hugetlb).
    pub page_size: u64,
}

impl Vma {
    /// Its address range.
    pub fn range(&self) -> PageRange {
        PageRange::new(self.start, self.end)
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: VmaFlags) -> bool {
        self.flags.contains(flag)
    }

    /// Whether it is made of huge pages (hugetlb).
    pub fn huge(&self) -> bool {
        self.page_size > PAGE_SIZE
    }

    /// Whether its pages belong to this process alone.
    pub fn private(&self) -> bool {
        !self.shared
    }

    /// The shared object behind it, if there is one whose content must travel.
    pub fn object(&self) -> Option<ObjectId> {
        match self.backing {
            Backing::SharedAnonymous(id) | Backing::MemFd(id) => Some(id),
            _ => None,
        }
    }

    /// The backing that continues at `addr`: two areas are the same piece of mapping if these are equal. A shared one that may become
    /// writable keeps its memory file from being sealed, so it is another one than one that may not.
    pub fn identity_at(&self, addr: u64) -> (bool, &Backing, u64, VmaFlags, u64) {
        let offset = match self.backing {
            Backing::Anonymous => 0,
            _ => self.offset + (addr - self.start),
        };
        let shared = if self.shared { VmaFlags::MAY_WRITE } else { VmaFlags::empty() };
        let kind = self.flags & VmaFlags::GROWS_DOWN.union(VmaFlags::DROPPABLE).union(shared);
        (self.shared, &self.backing, offset, kind, self.page_size)
    }
}

/// A memory object that must be made at the target before it can be mapped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryObject {
    /// Its name at the source.
    pub id: ObjectId,
    /// Size in bytes.
    pub size: u64,
    /// `Some(name)` for a memfd.
    pub memfd_name: Option<FilePath>,
    /// Seals of a memfd (`F_GET_SEALS`), applied at the very end.
    pub seals: i32,
    /// Bytes of its pages: [`PAGE_SIZE`], or those of huge pages (hugetlb).
    pub page_size: u64,
    /// Owner, mode, times of a memfd, as far as they can be seen.
    pub inode: Option<Inode>,
    /// A nameless file of `/dev/shm`; `memfd_name` is the path that it had.
    pub shm: bool,
}

impl MemoryObject {
    /// Whether it is made of huge pages (hugetlb).
    pub fn huge(&self) -> bool {
        self.page_size > PAGE_SIZE
    }
}

/// Huge pages of one size that a process uses or was promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HugePages {
    /// Bytes of a page.
    pub page_size: u64,
    /// How many.
    pub count: u64,
}

/// The parts of old mappings that no new one continues: what was in place there is lost.
pub fn discontinued(old: &[Vma], new: &[Vma]) -> Vec<PageRange> {
    let mut lost = Vec::new();
    for o in old {
        let mut rest = RangeSet::default();
        rest.insert(o.range());
        let first = new.partition_point(|n| n.end <= o.start);
        for n in new[first..].iter().take_while(|n| n.start < o.end) {
            let at = o.start.max(n.start);
            if o.identity_at(at) == n.identity_at(at) {
                rest.remove(o.range().intersection(&n.range()));
            }
        }
        lost.extend(rest.iter());
    }
    lost
}

/// Where the vDSO of the process lies, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vdso {
    /// All its special areas (`[vvar]`, `[vvar_vclock]`, `[vdso]`) in address order: name, start, end.
    pub areas: Vec<(String, u64, u64)>,
    /// blake3 of the code image.
    pub hash: [u8; 32],
}

/// Pointers of `struct prctl_mm_map` and the like.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct MmFields {
    pub start_code: u64,
    pub end_code: u64,
    pub start_data: u64,
    pub end_data: u64,
    pub start_brk: u64,
    pub brk: u64,
    pub start_stack: u64,
    pub arg_start: u64,
    pub arg_end: u64,
    pub env_start: u64,
    pub env_end: u64,
    /// The auxiliary vector, raw.
    pub auxv: Vec<u8>,
}

/// Modes of an address space as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryModes {
    /// `PR_GET_THP_DISABLE`, with its flags.
    pub thp_disable: u32,
    /// `PR_GET_MEMORY_MERGE`.
    pub merge: bool,
    /// `PR_GET_MDWE`.
    pub mdwe: u32,
    /// What `mlockall` was told of mappings to come: `MCL_FUTURE`, with `MCL_ONFAULT`; or 0.
    pub future_lock: u32,
}

/// The layout of an address space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// Mappings in address order, without the vDSO's.
    pub vmas: Vec<Vma>,
    /// Objects behind shared mappings and memfd descriptors.
    pub objects: Vec<MemoryObject>,
    /// Areas of the kernel's that are not in `vmas`: the vDSO and its data.
    pub special: Vec<PageRange>,
}

/// The address space of a process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryImage {
    /// What is mapped.
    pub layout: Layout,
    /// The vDSO.
    pub vdso: Vdso,
    /// Pointers.
    pub mm: MmFields,
    /// `/proc/PID/exe`.
    pub exe: FilePath,
    /// Files behind mappings: path and identity, each once.
    pub files: Vec<(FilePath, FileIdentity)>,
    /// Resident set in bytes, without huge pages (hugetlb).
    pub resident: u64,
    /// Memory that it needs at the target, in bytes: resident without file pages, and swapped out.
    pub needs: u64,
    /// Huge pages that it will need at the target.
    pub huge_pages: Vec<HugePages>,
    /// Modes of the address space.
    pub modes: MemoryModes,
    /// Guard pages of private mappings (`MADV_GUARD_INSTALL`), in address order.
    pub guards: Vec<PageRange>,
}
