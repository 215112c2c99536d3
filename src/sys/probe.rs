//! How the record of [`Kernel`] is filled: each ability is tried on ourselves, with nothing left behind.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::Write as _;
use std::num::NonZeroUsize;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::OnceLock;

use memmap2::MmapMut;
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use super::kernel::{Kernel, SoftDirtyBits};
use super::pagemap::{self, Category, Query};
use super::process::{PIDFD_THREAD, SchedAttr, open_pidfd, sched_attr, set_sched_attr};
use super::uffd::{self, Features, UFFD_USER_MODE_ONLY};
use super::{hugetlb, memory_modes, spawn, witness};

const PAGE: usize = 4096;

impl Kernel {
    /// The record of this host. The first call fills it, in some milliseconds: so every command that will stop a process asks for it
    /// before.
    pub fn here() -> &'static Kernel {
        static HERE: OnceLock<Kernel> = OnceLock::new();
        HERE.get_or_init(probed)
    }
}

fn probed() -> Kernel {
    let write_protect = write_protect();
    Kernel {
        pagemap_scan: scans_for(Category::PRESENT),
        guards_shown: scans_for(Category::GUARD),
        holes_reported: write_protect.is_ok() && reports_holes().unwrap_or(false),
        write_protect,
        soft_dirty: soft_dirty(),
        faults_served: faults_served(),
        lock_on_fault_shown: shows_lock_on_fault(),
        guards: memory_modes::can_guard(),
        sealing: memory_modes::can_seal(),
        droppable: can_drop(),
        merging: Path::new("/sys/kernel/mm/ksm").exists(),
        huge_pages: hugetlb::sizes(),
        clone3: spawn::clone3_works(),
        timer_ids: chooses_timer_ids(),
        time_namespaces: Path::new("/proc/self/timens_offsets").exists(),
        landlock: witness::knows_landlock(),
        comparing: super::kcmp::shared(own_pid(), own_pid(), super::kcmp::Shared::Memory) == Some(true),
        thread_pidfds: open_pidfd(own_pid(), PIDFD_THREAD).is_ok(),
        nice_returns: nice_returns(),
    }
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

fn own_pagemap() -> Result<File, Errno> {
    File::open("/proc/self/pagemap").map_err(as_errno)
}

fn as_errno(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A kernel refuses a scan with a category that it does not know.
fn scans_for(category: Category) -> bool {
    own_pagemap()
        .is_ok_and(|own| pagemap::scan(own.as_fd(), 0x1000, 0x2000, Query::only(category), |_| {}).is_ok())
}

fn write_protect() -> Result<(), Errno> {
    let own = uffd::create_own(UFFD_USER_MODE_ONLY)?;
    uffd::handshake(own.as_fd(), Features::TRACKING)?;
    let any = Category::PRESENT | Category::SWAPPED;
    let query = Query { all: Category::empty(), any, ..Query::only(Category::WPALLOWED | Category::WRITTEN) };
    pagemap::scan(own_pagemap()?.as_fd(), 0x1000, 0x2000, query, |_| {})
}

/// `None`: it could not be tried.
fn reports_holes() -> Option<bool> {
    const LEN: u64 = 8 << 20;
    let memory = MmapMut::map_anon(LEN as usize).ok()?;
    let own = uffd::create_own(UFFD_USER_MODE_ONLY).ok()?;
    uffd::handshake(own.as_fd(), Features::TRACKING).ok()?;
    let start = memory.as_ptr() as u64;
    uffd::register_write_protect(own.as_fd(), start, LEN).ok()?;
    let (map, query) = (own_pagemap().ok()?, Query::only(Category::WRITTEN));
    let mut reported = 0;
    pagemap::scan(map.as_fd(), start, start + LEN, query, |r| reported += r.end - r.start).ok()?;
    Some(reported == LEN)
}

fn soft_dirty() -> SoftDirtyBits {
    tried_soft_dirty().unwrap_or_else(SoftDirtyBits::Failed)
}

/// Clears our bits, writes to a page, looks.
fn tried_soft_dirty() -> Result<SoftDirtyBits, Errno> {
    let mut memory = page_of_its_own().map_err(as_errno)?;
    let page = memory.as_ptr() as u64;
    memory[0] = 1;
    let mut refs = File::options().write(true).open("/proc/self/clear_refs").map_err(as_errno)?;
    refs.write_all(b"4").map_err(as_errno)?;
    let map = own_pagemap()?;
    let before = entry(&map, page)?;
    *std::hint::black_box(&mut memory[0]) = 2;
    let after = entry(&map, page)?;
    Ok(match (before.soft_dirty(), after.soft_dirty()) {
        (false, true) if after.frame() == 0 => SoftDirtyBits::WithoutFrames,
        (false, true) => SoftDirtyBits::Shown,
        _ => SoftDirtyBits::Absent,
    })
}

fn entry(map: &File, page: u64) -> Result<pagemap::Entry, Errno> {
    let mut found = None;
    pagemap::entries(map, page, page + PAGE as u64, |_, piece| found = piece.first().copied())?;
    found.ok_or(Errno::EIO)
}

/// A page in an area that no other one merges with. An area that grows counts as written all over (`VM_SOFTDIRTY`), and anonymous
/// memory does whenever another thread maps some beside it: so it is a copy of a file that nobody else has.
fn page_of_its_own() -> std::io::Result<MmapMut> {
    let file = File::from(memfd_create("ulpm-probe", MFdFlags::MFD_CLOEXEC)?);
    file.set_len(PAGE as u64)?;
    // SAFETY: nobody else has the file: its content cannot change, nor its length.
    unsafe { memmap2::MmapOptions::new().map_copy(&file) }
}

fn faults_served() -> Result<(), Errno> {
    let own = uffd::create_own(libc::O_NONBLOCK as u64)?;
    uffd::handshake(own.as_fd(), Features::SERVING)
}

/// Whether `VmFlags:` tells memory that is locked on fault from other locked memory: tried on a page of ours.
fn shows_lock_on_fault() -> bool {
    const MLOCK_ONFAULT: u32 = 1;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS;
    let Some(len) = NonZeroUsize::new(PAGE) else { return false };
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let Ok(page) = (unsafe { mmap_anonymous(None, len, ProtFlags::PROT_READ, flags) }) else { return false };
    // SAFETY: the page is ours.
    let locked = unsafe { libc::syscall(libc::SYS_mlock2, page.as_ptr(), PAGE, MLOCK_ONFAULT) } == 0;
    let smaps = super::lossy("/proc/self/smaps").unwrap_or_default();
    // SAFETY: the page is ours, and no reference into it was ever given out.
    let _ = unsafe { munmap(page, PAGE) };
    let begins = format!("{:x}-", page.as_ptr() as u64);
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&begins));
    let shown = lines.find_map(|line| line.strip_prefix("VmFlags:"));
    locked && shown.is_some_and(|words| words.split_ascii_whitespace().any(|word| word == "lf"))
}

fn can_drop() -> bool {
    const MAP_DROPPABLE: i32 = 8;
    let flags = MapFlags::from_bits_retain(MAP_DROPPABLE) | MapFlags::MAP_ANONYMOUS;
    let Some(len) = NonZeroUsize::new(PAGE) else { return false };
    // SAFETY: a fresh mapping at an address of the kernel's choice touches nothing that exists.
    let Ok(page) = (unsafe { mmap_anonymous(None, len, ProtFlags::PROT_NONE, flags) }) else { return false };
    // SAFETY: the page is ours, and no reference into it was ever given out.
    let _ = unsafe { munmap(page, PAGE) };
    true
}

fn chooses_timer_ids() -> bool {
    const PR_TIMER_CREATE_RESTORE_IDS: i32 = 77;
    const GET: libc::c_ulong = 2;
    let none: libc::c_ulong = 0;
    // SAFETY: numbers only; nothing is changed.
    unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, none, none, none) >= 0 }
}

/// Tried by a thread that ends then.
fn nice_returns() -> bool {
    let tried = || {
        let own = sched_attr(0)?;
        set_sched_attr(0, &SchedAttr { nice: own.nice.max(super::background::NICE), ..own })?;
        set_sched_attr(0, &own)
    };
    std::thread::spawn(tried).join().is_ok_and(|done| done.is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What came later implies what it builds on.
    #[test]
    fn the_record_is_of_one_kernel() {
        let here = Kernel::here();
        assert!(!here.guards_shown || here.pagemap_scan && here.guards);
        assert!(here.write_protect.is_err() || here.pagemap_scan);
        assert!(here.clone3 || !here.timer_ids);
        assert!(std::ptr::eq(here, Kernel::here()));
        for size in &here.huge_pages {
            assert_eq!(here.huge_page_of(size.dev), Some(size.bytes));
        }
        let names: std::collections::BTreeSet<_> = here.lines().iter().map(|line| line.name).collect();
        assert_eq!(names.len(), here.lines().len());
    }
}
