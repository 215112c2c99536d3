//! Peers with a trusted key that lie, and strangers: nothing that they send takes `ulpm serve` down, fills its memory, or
//! reaches anything but the process that they are sending; and nothing that a target says harms the source's process.

pub(super) mod peer;
mod sources;
mod targets;
mod trust;

use libtest_mimic::Trial;

pub(super) fn trials() -> Vec<Trial> {
    [sources::trials(), targets::trials(), trust::trials()].into_iter().flatten().collect()
}
