//! Two hosts on this machine and a self-checking workload moved between them.
//!
//! - `workload/`: the program that is moved.

pub mod workload;
