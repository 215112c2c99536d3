//! What an image from another host must look like: its plain parts (`image/check.rs`), and every state by the check of its kind.

use super::process;
use crate::image::{TreeImage, check};

/// An image of one process; `frozen`: with its registers.
pub fn tree(tree: &TreeImage, frozen: bool) -> Result<(), String> {
    check::tree(tree, frozen)?;
    tree.processes.iter().try_for_each(|image| process::check(&image.states))
}
