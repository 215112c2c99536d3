//! Builds the victims of `tests/victims/` and says which there are: every `.c` file is one. A victim that is too large for
//! one file has headers in a directory of its name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context as _, Result, ensure};

/// The names of all victims.
pub(crate) fn names() -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(sources())
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "c"))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The path of a victim's program, built if its source is newer.
pub(crate) fn program(name: &str) -> Result<String> {
    build(&sources(), name)
}

/// The path of a little program of the lab, from `tests/lab/tools`.
pub(crate) fn tool(name: &str) -> Result<String> {
    build(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lab/tools"), name)
}

fn build(sources: &Path, name: &str) -> Result<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock();
    let source = sources.join(format!("{name}.c"));
    let directory = Path::new(super::ULPM).ancestors().nth(2).context("no target directory")?.join("victims");
    fs::create_dir_all(&directory)?;
    let program = directory.join(name);
    let built = modified(&program);
    let parts = fs::read_dir(sources.join(name)).into_iter().flatten().flatten().map(|part| part.path());
    let mut all = parts.chain([source.clone(), sources.join("victim.h")]);
    if built.is_none() || all.any(|part| built < modified(&part)) {
        let fresh = directory.join(format!("{name}.{}", std::process::id()));
        let flags = ["-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-pthread"];
        let mut command = Command::new("cc");
        command.args(flags).arg("-o").arg(&fresh).arg(&source).args(["-lrt", "-lm"]);
        let output = command.output().context("run cc")?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        fs::rename(&fresh, &program)?;
    }
    Ok(program.display().to_string())
}

fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/victims")
}

fn modified(path: &Path) -> Option<std::time::SystemTime> {
    fs::metadata(path).and_then(|data| data.modified()).ok()
}
