//! The example of `CONTRIBUTING.md`: a new kind of state in one file and one line. Its very diff is applied to a copy of this tree,
//! built, and the program that comes of it moves a process that holds such a state; the program of this tree loses it.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use crate::lab::needs::{self, Need};
use crate::lab::process::Proc;
use crate::lab::{Lab, SOON, ULPM, wait_until};

/// The process: its table of futexes has 64 lists. When there is a file `ask-PID` it says how many there are now.
const HOLDER: &str = r#"
import ctypes, os, time
prctl, ask = ctypes.CDLL(None).prctl, f"ask-{os.getpid()}"
if prctl(78, 1, 64, 0, 0) != 0:
    raise SystemExit("the kernel gives no table of futexes")
while True:
    time.sleep(0.01)
    if os.path.exists(ask):
        with open("answer", "w") as answer:
            print(prctl(78, 2, 0, 0, 0), file=answer)
        os.rename("answer", f"told-{os.getpid()}")
        os.remove(ask)
"#;

/// Runs what the third word and all that follow say with another program in its place.
const INSTEAD: &str = r#"program=$0; shift; exec "$program" "$@""#;

/// What the copy has of this tree: all that cargo asks for.
const TREE: [&str; 6] = ["Cargo.toml", "Cargo.lock", "src", "crates", "benches", "tests"];

pub(super) fn trials() -> Vec<Trial> {
    let needs = [Need::Cargo, Need::Program("patch"), Need::Program("python3"), Need::Kernel(6, 16)];
    vec![trial("example of a new kind of state", &needs, example)]
}

fn example(lab: &mut Lab) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let diff = diff(&fs::read_to_string(root.join("CONTRIBUTING.md"))?)?;
    one_file_and_one_line(&diff)?;
    let built = tempfile::Builder::new().prefix("example-").tempdir_in(target_directory()?)?;
    let program = build(root, built.path(), &diff)?;
    lab.serve("b")?;
    ensure!(held_after_a_move(lab, &[], "a", "b")? == 0, "it is carried without the diff");
    let with = ["sh", "-c", INSTEAD, &program];
    lab.serve_under("a", &with)?;
    let held = held_after_a_move(lab, &with, "b", "a")?;
    ensure!(held == 64, "with the diff a table of 64 lists has {held} at the target");
    Ok(())
}

/// The one block of this kind.
fn diff(page: &str) -> Result<String> {
    let mut blocks = page.split("```diff\n").skip(1);
    let block = blocks.next().context("CONTRIBUTING.md has no diff")?;
    ensure!(blocks.next().is_none(), "CONTRIBUTING.md has more than one diff");
    Ok(block.split("```").next().unwrap_or_default().to_owned())
}

fn one_file_and_one_line(diff: &str) -> Result<()> {
    let lines = format!("\n{diff}");
    let files: Vec<&str> = lines.split("\n--- ").skip(1).collect();
    let changed = |file: &str, sign: char| file.lines().skip(2).filter(|line| line.starts_with(sign)).count();
    let (new, old): (Vec<&str>, Vec<&str>) = files.iter().partition(|file| file.starts_with("/dev/null"));
    ensure!(new.len() == 1 && old.len() == 1, "the example has {} files: {diff}", files.len());
    ensure!(changed(old[0], '+') == 1 && changed(old[0], '-') == 0, "more than one line is changed: {diff}");
    Ok(())
}

/// Where the program under test was built: its profile's directory, in the target directory.
fn profile_directory() -> Result<&'static Path> {
    Path::new(ULPM).parent().context("a program lies in a directory")
}

fn target_directory() -> Result<&'static Path> {
    profile_directory()?.parent().context("a profile has a directory of its own")
}

/// Builds the tree with the diff in it. What it depends on is taken as it was built for these tests.
fn build(root: &Path, at: &Path, diff: &str) -> Result<String> {
    let tree = at.join("tree");
    fs::create_dir(&tree)?;
    run(Command::new("cp").arg("-a").args(TREE).arg(&tree).current_dir(root))?;
    let patch = at.join("diff");
    fs::write(&patch, diff)?;
    run(Command::new("patch").args(["-p1", "--fuzz=0", "-i"]).arg(&patch).current_dir(&tree))?;
    let (target, built) = (at.join("target"), profile_directory()?);
    let profile = target.join("debug");
    fs::create_dir_all(profile.join("deps"))?;
    run(Command::new("cp").arg("-a").args([".fingerprint", "build"]).arg(&profile).current_dir(built))?;
    for entry in fs::read_dir(built.join("deps"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let extension = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        if ["rlib", "rmeta", "so", "d"].contains(&extension) && !name.contains("ulpm") {
            share(&path, &profile.join("deps").join(name))?;
        }
    }
    let mut cargo = Command::new(needs::cargo());
    cargo.args(["build", "--quiet", "--offline", "--locked", "--bin", "ulpm"]).current_dir(&tree);
    let cheap = ["CARGO_INCREMENTAL", "CARGO_PROFILE_DEV_OPT_LEVEL", "CARGO_PROFILE_DEV_DEBUG"];
    // what cargo tells a test of its own package: build scripts that look at it would run again, and all that depends on them
    let told = |name: &OsString| {
        let name = name.to_string_lossy();
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"].iter().any(|of| name.starts_with(of))
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| told(name)) {
        cargo.env_remove(name);
    }
    run(cargo.env("CARGO_TARGET_DIR", &target).envs(cheap.map(|name| (name, "0"))))?;
    Ok(profile.join("ulpm").display().to_string())
}

/// The same file under another name; what tools write in place is copied.
fn share(from: &Path, to: &PathBuf) -> Result<()> {
    let whole = from.extension().is_some_and(|extension| extension == "rlib" || extension == "rmeta");
    if !whole || fs::hard_link(from, to).is_err() {
        run(Command::new("cp").arg("-a").args([from, to]))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let said =
        || String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{command:?}: {}", said());
    Ok(())
}

/// How many lists the table has of a process that was moved. `wrapper`: what runs `ulpm live`.
fn held_after_a_move(lab: &Lab, wrapper: &[&str], from: &str, to: &str) -> Result<u32> {
    let holder = lab.spawn(from, &["python3", "-c", HOLDER])?;
    ensure!(told(lab, &holder)? == 64, "it does not hold what it asked for");
    let outcome = lab
        .start_live_under(wrapper, from, holder.pid(), &lab.address(to), &["--pid-mode", "same"])?
        .outcome()?;
    ensure!(outcome.exit == 0, "{outcome:?}");
    told(lab, &holder)
}

/// What it says, wherever it is: a move gives it the same pid.
fn told(lab: &Lab, holder: &Proc) -> Result<u32> {
    let pid = holder.pid();
    let answer = lab.dir().join(format!("told-{pid}"));
    fs::write(lab.dir().join(format!("ask-{pid}")), "")?;
    wait_until("it tells how many lists there are", SOON, || answer.exists())?;
    let said = fs::read_to_string(&answer)?;
    fs::remove_file(&answer)?;
    Ok(said.trim().parse()?)
}
