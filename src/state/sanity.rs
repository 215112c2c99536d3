//! What an image from another host must look like: its plain parts (`image/check.rs`), and every state by the check of its kind.

use super::{process, thread};
use crate::image::{ThreadImage, TreeImage, check};

/// An image of one process; `frozen`: with its registers.
pub fn tree(tree: &TreeImage, frozen: bool) -> Result<(), String> {
    check::tree(tree, frozen)?;
    tree.processes.iter().try_for_each(|image| {
        process::check(&image.states)?;
        let of = |at: &ThreadImage| thread::check(at).map_err(|why| format!("thread {}: {why}", at.tid));
        image.threads.iter().try_for_each(of)
    })
}
