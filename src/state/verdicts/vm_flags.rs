//! Flags of a mapping, by the two letters of `VmFlags:` in `/proc/PID/smaps` (`show_smap_vma_flags` in the kernel's
//! `fs/proc/task_mmu.c`). A flag without a row is an obstacle.

use super::{Row, carried};

pub(super) const ROWS: &[Row] = &[
    carried("rd", "readable", "victim memory"),
    carried("wr", "writable", "victim memory"),
    carried("ex", "executable", "victim memory"),
    carried("sh", "shared", "victim memory"),
];
