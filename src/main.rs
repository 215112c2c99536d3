//! The `ulpm` command: parses, dispatches, maps errors to the documented exit codes.

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Cli {
    Demo(ulpm::cli::demo::DemoArgs),
}

fn main() -> ExitCode {
    ulpm::demo::hosts::init_if_asked();
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == "__workload") {
        ulpm::demo::workload::main(args);
    }
    let Cli::Demo(args) = Cli::parse();
    match ulpm::cli::demo::run(args) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            eprintln!("ulpm: {error:#}");
            ExitCode::FAILURE
        }
    }
}
