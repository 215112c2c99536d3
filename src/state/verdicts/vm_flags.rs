//! Flags of a mapping, by the two letters of `VmFlags:` in `/proc/PID/smaps` (`show_smap_vma_flags` in the kernel's
//! `fs/proc/task_mmu.c`). A flag without a row is an obstacle.

use super::row::{Row, carried, harmless, refused};

const BY_KIND: &str = "the kernel sets it by the kind of mapping, which is carried";
const DEVICE: &str = "memory of a device, or made by a driver, is not carried";
const FAULTS: &str = "faults in it are served through a userfaultfd, which is not carried";
const OTHER_CPU: &str = "only processors of another kind have it";

pub(super) const ROWS: &[Row] = &[
    carried("rd", "readable", "victim memory"),
    carried("wr", "writable", "victim memory"),
    carried("ex", "executable", "victim memory"),
    carried("sh", "shared", "victim memory"),
    carried("mr", "may be made readable", "victim memory"),
    carried("mw", "may be made writable", "victim memory"),
    carried("me", "may be made executable", "victim memory"),
    carried("ms", "may be shared", "victim memory"),
    carried("gd", "grows downwards: a stack", "victim memory"),
    refused("pf", "page frames without a `struct page`", DEVICE, ""),
    harmless("dw", "writes to its file are denied (until Linux 5.15)", BY_KIND),
    harmless("nl", "not linear (until Linux 3.19)", "later kernels make ordinary mappings of it"),
    carried("lo", "locked (mlock)", "victim locking"),
    carried("lf", "locked as its pages come (MLOCK_ONFAULT)", "victim locking"),
    refused("io", "memory of a device", DEVICE, ""),
    carried("sr", "read in sequence (MADV_SEQUENTIAL)", "victim memory"),
    carried("rr", "read at random (MADV_RANDOM)", "victim memory"),
    carried("dc", "not for children (MADV_DONTFORK)", "victim memory"),
    harmless("de", "cannot be made larger", BY_KIND),
    harmless("ac", "counted for overcommit", BY_KIND),
    carried("nr", "no swap space reserved (MAP_NORESERVE)", "victim memory"),
    carried("ht", "huge pages (hugetlb)", "victim hugetlb"),
    refused(
        "sf",
        "synchronous faults (MAP_SYNC)",
        "a mapping of persistent memory (MAP_SYNC) is not carried",
        "",
    ),
    refused(
        "ar",
        "a flag of the processor's kind",
        "a flag of the kernel for this kind of processor is not carried",
        "",
    ),
    carried("wf", "empty in children (MADV_WIPEONFORK)", "victim memory"),
    carried("dd", "not in core dumps (MADV_DONTDUMP)", "victim memory"),
    refused("mp", "bounds of MPX (until Linux 5.6)", "MPX is not carried", ""),
    harmless("bt", "guarded branch targets (arm64 BTI)", OTHER_CPU),
    harmless("mt", "tagged memory (arm64 MTE)", OTHER_CPU),
    harmless("sd", "soft-dirty", "a mark of trackers"),
    refused("mm", "pages with and without a `struct page`", DEVICE, ""),
    carried("hg", "huge pages wanted (MADV_HUGEPAGE)", "victim sparse"),
    carried("nh", "no huge pages (MADV_NOHUGEPAGE)", "victim memory"),
    carried("mg", "mergeable (MADV_MERGEABLE)", "victim memory"),
    refused("um", "a userfaultfd serves missing pages", FAULTS, "trial refuse states by their names"),
    refused("uw", "a userfaultfd write-protects pages", FAULTS, "trial refuse states by their names"),
    refused("ui", "a userfaultfd serves minor faults", FAULTS, "trial refuse states by their names"),
    refused("ss", "a shadow stack (CET)", "shadow stacks are not carried yet", ""),
    carried("sl", "sealed (mseal)", "victim sealed"),
    carried("dp", "droppable (MAP_DROPPABLE)", "victim sealed"),
    carried("gu", "may hold guard pages (MADV_GUARD_INSTALL), which are carried", "victim guarded"),
];
