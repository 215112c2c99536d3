//! The program's own file has changed under the process: no longer executable, replaced as by an upgrade, deleted.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use libtest_mimic::Trial;

use super::trial;
use super::victims::Victim;
use crate::lab::{Lab, SOON, ULPM, victims};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("a program that may not be executed any more", &[], not_executable),
        trial("a program that was replaced or deleted", &[], replaced),
        trial("a current directory that was deleted", &[], directory),
    ]
}

/// What a target says of a path that it does not have.
const ABSENT: &str = "does not exist at the target";

/// A victim that runs from a file of its own.
fn start(lab: &Lab) -> Result<(Victim, PathBuf)> {
    let file = lab.dir().join("program");
    fs::copy(victims::program("memory")?, &file)?;
    Ok((Victim::start_command(lab, &[&file.display().to_string()])?, file))
}

fn not_executable(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let (mut victim, file) = start(lab)?;
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
    lab.live("a", victim.pid, "b", &[])?.refused(
        3,
        &["program ", "it may not be executed at the target any more", "chmod +x", "nothing was touched"],
    )?;
    victim.check_running(lab)?;
    // the advice
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755))?;
    victim.move_to(lab, "b")?;
    victim.finish()
}

fn replaced(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let (victim, file) = start(lab)?;
    let next = lab.dir().join("program.new");
    fs::copy(&file, &next)?;
    fs::rename(&next, &file)?;
    let pid = victim.pid.to_string();
    for why in ["its file was replaced since", "its file was deleted since"] {
        let check = lab.run("a", &[ULPM, "check", "--pid", &pid], SOON)?;
        ensure!(check.exit == 3 && check.stdout.contains(why), "{check:?}");
        ensure!(!check.stdout.contains("has no name any more"), "its mappings are named, too: {check:?}");
        let outcome = lab.live("a", victim.pid, "b", &[])?;
        outcome.refused(3, &["program ", why, "nothing was touched"])?;
        ensure!(!outcome.stderr.contains(ABSENT), "to be made at the target: {outcome:?}");
        let _ = fs::remove_file(&file);
    }
    victim.check_running(lab)?;
    victim.finish()
}

/// What is gone here is named once, and is not to be made at the target.
fn directory(lab: &mut Lab) -> Result<()> {
    lab.serve("b")?;
    let dir = lab.dir().join("directory");
    fs::create_dir(&dir)?;
    let script = r#"cd "$0" && exec "$@""#;
    let program = victims::program("plain")?;
    let victim = Victim::start_command(lab, &["sh", "-c", script, &dir.display().to_string(), &program])?;
    fs::remove_dir(&dir)?;
    let outcome = lab.live("a", victim.pid, "b", &[])?;
    outcome.refused(3, &["current directory ", "it was deleted", "nothing was touched"])?;
    ensure!(!outcome.stderr.contains(ABSENT), "to be made at the target: {outcome:?}");
    victim.check_running(lab)?;
    victim.finish()
}
