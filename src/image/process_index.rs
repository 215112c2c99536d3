//! How a process of a tree is named: by its place in the tree's list, on the wire and on both sides of it. Pids differ between hosts
//! and namespaces, and are used again; places are neither.

use serde::{Deserialize, Serialize};

/// A process of a tree: its place in the tree's list of processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ProcessIndex(pub u32);

/// The one process that trees have today.
pub const FIRST: ProcessIndex = ProcessIndex(0);

impl ProcessIndex {
    /// The names of so many processes, in order.
    pub fn all(count: usize) -> impl Iterator<Item = ProcessIndex> {
        (0..).map(ProcessIndex).take(count)
    }

    /// Where it is in a list of the tree's processes.
    pub fn at(self) -> usize {
        self.0 as usize
    }
}

/// `process 1`: people count from one.
impl std::fmt::Display for ProcessIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "process {}", u64::from(self.0) + 1)
    }
}
