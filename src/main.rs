//! The `ulpm` command: parses, dispatches, maps errors to the documented exit codes.

fn main() {
    ulpm::demo::hosts::init_if_asked();
}
