//! Two hosts on this machine and a self-checking workload moved between them.

pub mod hosts;
