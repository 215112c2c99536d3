//! `cargo test --test vm -- shell`: commands by hand in the machines.
//!
//! Each line is given to `sh -c` in machine `a`; after a line `b`, in machine `b`. Both serve already.

use std::io::{BufRead as _, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use super::pair;

/// A command by hand may take long.
const PATIENCE: Duration = Duration::from_secs(3600);

pub(super) fn main() -> ExitCode {
    let ended = pair::with(|pair| {
        pair.serve()?;
        println!(
            "two machines with Linux {}; a line `a` or `b` chooses, the end of input ends",
            pair.release
        );
        talk(pair)
    });
    pair::shut_down();
    ended.map_or_else(
        |error| {
            eprintln!("{error}");
            ExitCode::FAILURE
        },
        |()| ExitCode::SUCCESS,
    )
}

fn talk(pair: &pair::Pair) -> Result<()> {
    let mut machine = &pair.a;
    loop {
        print!("{}# ", machine.name);
        std::io::stdout().flush()?;
        let mut line = String::new();
        if std::io::stdin().lock().read_line(&mut line)? == 0 {
            println!();
            return Ok(());
        }
        match line.trim() {
            "" => {}
            name @ ("a" | "b") => machine = pair.machine(name),
            command => {
                let ended = machine.run_for(&["sh", "-c", command], PATIENCE)?;
                print!("{}{}", ended.stdout, ended.stderr);
                if ended.exit != 0 {
                    println!("(exit code {})", ended.exit);
                }
            }
        }
    }
}
