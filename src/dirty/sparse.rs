//! Large areas without a single page: reading their page map entry by entry would take longer than all the rest (a
//! runtime that reserves a terabyte has 256 million entries).

use std::collections::BTreeSet;

use procfs::process::MemoryMap;

use crate::image::memory::Layout;

/// Areas above this are looked up before they are walked.
const LARGE: u64 = 256 * 1024 * 1024;

/// The starts of large areas of the layout that hold no page, by `/proc/PID/smaps` (which walks page tables, not
/// entries). Where it cannot be read none is empty.
pub(super) fn empty_areas(pid: i32, layout: &Layout) -> BTreeSet<u64> {
    if layout.vmas.iter().all(|v| v.range().len() < LARGE) {
        return BTreeSet::new();
    }
    let maps = crate::sys::maps::smaps(crate::sys::voice::of(pid)).unwrap_or_default();
    let held = |m: &MemoryMap, what: &str| m.extension.map.get(what).is_none_or(|bytes| *bytes > 0);
    maps.iter()
        .filter(|m| m.address.1 - m.address.0 >= LARGE)
        .filter(|m| !["Rss", "Swap"].iter().any(|what| held(m, what)))
        // the area may have changed since the layout was read; then it is walked
        .filter(|m| layout.vmas.iter().any(|v| (v.start, v.end) == m.address))
        .map(|m| m.address.0)
        .collect()
}
