//! One file per kind of process state: how to capture it from a stopped process and how to put it back.

pub mod files;
