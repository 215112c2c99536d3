//! Moves by the hundred, to find what goes wrong once in a thousand: `cargo bench --bench endurance -- --moves 300`.
//!
//! Moves `ulpm demo`'s workload with little memory to and fro between two hosts, beside busy loops; every so many moves
//! the hosts are made anew. After each move every kind of the workload's state must go on, at the end of each
//! pair of hosts its memory must be right. The first failure ends it; the error says what stood still and what each thread was
//! doing. With `--look`, the hosts are kept until Enter is pressed.

use std::hint::black_box;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use ulpm::demo::hosts;
use ulpm::demo::scene::{Scene, SceneOptions, Watcher};
use ulpm::report::Size;

/// Moves a workload very often.
#[derive(Debug, Parser)]
struct Args {
    /// How often
    #[arg(long, default_value_t = 100)]
    moves: u32,
    /// Moves between one pair of hosts
    #[arg(long, default_value_t = 20)]
    pair: u32,
    /// Memory of the workload
    #[arg(long, default_value = "16M")]
    mem: Size,
    /// Compare every page at both ends while the process is frozen
    #[arg(long)]
    verify: bool,
    /// Threads that do nothing but keep the CPUs busy
    #[arg(long, default_value_t = 0)]
    load: u32,
    /// On a failure keep everything until Enter is pressed
    #[arg(long)]
    look: bool,
    /// Cargo says so
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // Before any thread exists: an ordinary user gets a user namespace.
    hosts::become_able()?;
    for _ in 0..args.load {
        std::thread::spawn(|| {
            loop {
                black_box(0);
            }
        });
    }
    let begun = Instant::now();
    let mut moved = 0;
    let mut longest = 0.0_f64;
    while moved < args.moves {
        let some = args.pair.clamp(1, args.moves - moved);
        let freeze =
            pair(&args, some).with_context(|| format!("in moves {} to {}", moved + 1, moved + some))?;
        longest = longest.max(freeze);
        moved += some;
        eprintln!("{moved} moves, longest freeze {longest:.1} ms, {:.0} s", begun.elapsed().as_secs_f64());
    }
    println!("{moved} moves of {}, none wrong", args.mem);
    Ok(())
}

/// So many moves between one pair of hosts; the longest freeze in milliseconds.
fn pair(args: &Args, moves: u32) -> Result<f64> {
    let options = SceneOptions {
        mem: args.mem,
        verify: args.verify,
        program: Some(env!("CARGO_BIN_EXE_ulpm").into()),
        settle: Duration::ZERO,
        ..SceneOptions::default()
    };
    let mut scene = Scene::set_up(&options, &Watcher::silent())?;
    scene.start_workload()?;
    let mut longest = 0.0_f64;
    for number in 1..=moves {
        match scene.move_workload() {
            Ok(report) => longest = longest.max(report.freeze_ms),
            Err(error) => {
                eprintln!("move {number} of this pair: {error}");
                if args.look && std::io::stdin().is_terminal() {
                    eprintln!("press Enter to end all of it");
                    let _ = std::io::stdin().read_line(&mut String::new());
                }
                return Err(error.into());
            }
        }
    }
    let result = scene.finish()?;
    ensure!(result.passed, "the workload found errors: {}", result.status.first_errors.join("; "));
    Ok(longest)
}
