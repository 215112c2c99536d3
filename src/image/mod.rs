//! What a process is, as plain serde data, versioned; no I/O.

pub mod files;
pub mod obstacle;
