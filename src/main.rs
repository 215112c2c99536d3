//! The `ulpm` command: parses, dispatches, maps errors to the documented exit codes.

fn main() {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "__workload") {
        ulpm::demo::workload::main(args);
    }
}
