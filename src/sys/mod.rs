//! Thin safe wrappers of kernel interfaces that the crates lack.

pub mod fds;
pub mod process;
