//! What a process is, as plain serde data, versioned; no I/O.

pub mod file_identity;
pub mod files;
pub mod obstacle;
