//! The record of what the kernel of this host can do, and lets us do. Each field is found out by doing it (`probe.rs`), once, before
//! anything is stopped; afterwards the record only travels by reference. `ulpm check` prints it.
//!
//! Versions in brackets are those of Linux in which the ability came.

use nix::errno::Errno;
use serde::Serialize;

use super::hugetlb::Size;

/// The record.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `PAGEMAP_SCAN` of `/proc/PID/pagemap` (6.7).
    pub pagemap_scan: bool,
    /// Guard pages told apart from swap by scans and by the page map (6.15).
    pub guards_shown: bool,
    /// userfaultfd with `WP_ASYNC`, `WP_UNPOPULATED` and `WP_HUGETLBFS_SHMEM`, and a scan of what it protects (6.7); what
    /// was answered instead.
    pub write_protect: Result<(), Errno>,
    /// Scans for `WRITTEN` alone that report what has no page table, too, in a registered area: kernels since a patch of 2026
    /// ("reads as written"; stable ones got it, so the version says nothing).
    pub holes_reported: bool,
    /// Soft-dirty bits (`CONFIG_MEM_SOFT_DIRTY`), and page frames in the page map.
    pub soft_dirty: SoftDirtyBits,
    /// userfaultfd with events, of faults in the kernel, too: for memory that follows (4.11, and `CAP_SYS_PTRACE`); what
    /// was answered instead.
    pub faults_served: Result<(), Errno>,
    /// `VmFlags:` of locked memory that tells whether it is locked on fault.
    pub lock_on_fault_shown: bool,
    /// `MADV_GUARD_INSTALL` (6.13).
    pub guards: bool,
    /// mseal(2) (6.10).
    pub sealing: bool,
    /// `MAP_DROPPABLE` (6.11).
    pub droppable: bool,
    /// Merging of equal pages (`CONFIG_KSM`).
    pub merging: bool,
    /// Sizes of huge pages, smallest first; none without hugetlb.
    pub huge_pages: Vec<Size>,
    /// clone3(2), which takes the pid (5.5), let through by filters.
    pub clone3: bool,
    /// POSIX timers under ids of our choice, `PR_TIMER_CREATE_RESTORE_IDS` (6.15).
    pub timer_ids: bool,
    /// Time namespaces (5.6, `CONFIG_TIME_NS`).
    pub time_namespaces: bool,
    /// Landlock (5.13), in which a process may confine itself.
    pub landlock: bool,
    /// kcmp(2) (3.5, `CONFIG_KCMP`), let through by filters.
    pub comparing: bool,
    /// `PIDFD_THREAD`: pidfds of threads other than the main one (6.9).
    pub thread_pidfds: bool,
    /// A nice value that we may lower again (`CAP_SYS_NICE`, `RLIMIT_NICE`).
    pub nice_returns: bool,
}

/// What the page map tells us about soft-dirty bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoftDirtyBits {
    /// Bits and page frames.
    Shown,
    /// Bits alone: page frames need `CAP_SYS_ADMIN`.
    WithoutFrames,
    /// No bits.
    Absent,
    /// The answer to the attempt.
    Failed(Errno),
}

/// A line of the record, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Capability {
    /// What it is.
    pub name: &'static str,
    /// The version of Linux, or the option or right, that it needs.
    pub since: &'static str,
    /// Whether it is there.
    pub there: bool,
}

impl Kernel {
    /// The size of the pages of mappings and memfds that show this device, if it is one of hugetlb.
    pub fn huge_page_of(&self, dev: u64) -> Option<u64> {
        self.huge_pages.iter().find(|size| size.dev == dev).map(|size| size.bytes)
    }

    /// Whether it offers huge pages of so many bytes.
    pub fn has_huge_pages_of(&self, bytes: u64) -> bool {
        self.huge_pages.iter().any(|size| size.bytes == bytes)
    }

    /// All of it as lines. A new field is not forgotten here: the pattern names each.
    pub fn lines(&self) -> Vec<Capability> {
        let Kernel {
            pagemap_scan,
            guards_shown,
            write_protect,
            holes_reported,
            soft_dirty,
            faults_served,
            lock_on_fault_shown,
            guards,
            sealing,
            droppable,
            merging,
            huge_pages,
            clone3,
            timer_ids,
            time_namespaces,
            landlock,
            comparing,
            thread_pidfds,
            nice_returns,
        } = self;
        [
            ("PAGEMAP_SCAN", "6.7", *pagemap_scan),
            ("write protection without faults", "6.7", write_protect.is_ok()),
            ("scans that report holes", "a patch of 2026", *holes_reported),
            (
                "soft-dirty bits",
                "CONFIG_MEM_SOFT_DIRTY and CAP_SYS_ADMIN",
                *soft_dirty == SoftDirtyBits::Shown,
            ),
            ("faults served from outside", "4.11 and CAP_SYS_PTRACE", faults_served.is_ok()),
            ("guard pages", "6.13", *guards),
            ("guard pages shown", "6.15", *guards_shown),
            ("locking on fault shown", "VmFlags lf", *lock_on_fault_shown),
            ("sealed memory", "6.10", *sealing),
            ("droppable memory", "6.11", *droppable),
            ("merging of equal pages", "CONFIG_KSM", *merging),
            ("huge pages", "CONFIG_HUGETLBFS", !huge_pages.is_empty()),
            ("clone3", "5.5", *clone3),
            ("timers under chosen ids", "6.15", *timer_ids),
            ("time namespaces", "5.6", *time_namespaces),
            ("Landlock", "5.13", *landlock),
            ("kcmp", "CONFIG_KCMP", *comparing),
            ("pidfds of threads", "6.9", *thread_pidfds),
            ("nice values that may be lowered", "CAP_SYS_NICE", *nice_returns),
        ]
        .map(|(name, since, there)| Capability { name, since, there })
        .into()
    }
}
