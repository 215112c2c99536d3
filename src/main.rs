//! The `ulpm` command: parses, dispatches, maps errors to the documented exit codes.

use clap::Parser as _;
use ulpm::cli::{self, Cli, Exit};

fn main() -> Exit {
    answer_hidden_calls();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too; a closed pipe is no reason to complain.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    cli::run(&cli).unwrap_or_else(|failure| {
        cli::complain(&failure, cli.verbosity().in_full);
        failure.exit
    })
}

/// Roles in which ulpm starts itself: they do not return. Before any thread exists.
fn answer_hidden_calls() {
    ulpm::demo::hosts::init_if_asked();
    let mut args = std::env::args_os().skip(1);
    let Some(first) = args.next() else { return };
    if first == ulpm::restore::nursery::ARGUMENT {
        let order = args.next().unwrap_or_default();
        ulpm::restore::nursery::main(&order.to_string_lossy());
    }
    if first == ulpm::restore::lazy::adopt::ARGUMENT {
        let start = args.next().unwrap_or_default();
        cli::start_log(0, false, true);
        ulpm::restore::lazy::holder::main(&start.to_string_lossy());
    }
    if first == "__workload" {
        ulpm::demo::workload::main(args);
    }
}
