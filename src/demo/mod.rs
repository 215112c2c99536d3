//! Two hosts on this machine and a self-checking workload moved between them.
//!
//! - `hosts/`: hosts made of namespaces.
//! - `workload/`: the program that is moved.
//! - `scene/`: both hosts set up, the workload in one of them, and the moves between them.

pub mod hosts;
pub mod scene;
pub mod workload;
