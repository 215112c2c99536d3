//! What the kernel keeps of an object beside its content: of a pipe or of memory without a name.

use serde::{Deserialize, Serialize};

/// Owner, mode, times and extended attributes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inode {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Permission bits.
    pub mode: u32,
    /// Last read, nanoseconds since 1970.
    pub atime_ns: i64,
    /// Last written.
    pub mtime_ns: i64,
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}
