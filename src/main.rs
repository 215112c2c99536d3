//! The `ulpm` command: parses, dispatches, maps errors to the documented exit codes.

fn main() {}
