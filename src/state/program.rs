//! The program's file, by the exe link: refused where it is gone. The vDSO: without one, calls need an instruction elsewhere.
//!
//! The target maps the program's file by its name, and puts the exe link by it. After an upgrade the name leads to another file, or
//! to none, and the link ends in ` (deleted)`.

use super::StateError;
use super::memory_map::{DELETED, nameless};
use super::reasons::{REPLACED, WITHOUT_VDSO};
use crate::image::file_path::printable;
use crate::image::{FilePath, Obstacle};
use crate::tracee::{Site, TraceeError};

/// Why a program is refused whose name leads nowhere.
pub const GONE: &str = "its file was deleted since the process was started";
/// Why a process is refused whose program or directory is not at the target.
pub const ABSENT: &str = "it does not exist at the target";

/// The name of a process or thread, which everybody may read, as a terminal may show it.
pub fn name(tid: i32) -> String {
    printable(&crate::sys::status::name(tid))
}

/// The program that a process runs.
#[derive(Debug)]
pub struct Program {
    /// Its name, or the one that it had.
    pub path: FilePath,
    obstacle: Option<Obstacle>,
    /// What is said of its mappings, should it be gone.
    of_mappings: String,
}

/// What the exe link says.
pub fn of(pid: i32) -> Result<Program, StateError> {
    let link = format!("/proc/{pid}/exe");
    let shown: FilePath =
        std::fs::read_link(&link).map_err(StateError::io(pid, "reading its exe link"))?.into();
    if !shown.ends_with(DELETED) || shown.as_path().exists() {
        return Ok(Program { path: shown, obstacle: None, of_mappings: String::new() });
    }
    let path = shown.without_suffix(DELETED);
    let why = if path.as_path().exists() { REPLACED } else { GONE };
    let obstacle = Obstacle::new(format!("program {path}"), why, "start it anew, and move that");
    Ok(Program { path, obstacle: Some(obstacle), of_mappings: nameless(&shown) })
}

impl Program {
    /// What stands in the way: that it is gone, if so, in the place of what is said of each of its mappings.
    pub fn without(&self, obstacles: Vec<Obstacle>) -> impl Iterator<Item = Obstacle> {
        let of_mappings = |obstacle: &Obstacle| obstacle.why == self.of_mappings;
        self.obstacle.clone().into_iter().chain(obstacles.into_iter().filter(move |o| !of_mappings(o)))
    }
}

/// Why a process is refused that has neither its main thread nor its vDSO.
pub const NEITHER: &str =
    "its main thread has ended, and it has unmapped its vDSO, by which that would end at the target";

/// An obstacle, where the main thread has ended (`ended`) and nothing is there by which it could end at the target.
pub fn without_both(ended: bool, has_vdso: bool) -> Option<Obstacle> {
    (ended && !has_vdso).then(|| Obstacle::new("vDSO", NEITHER, "have the program keep its vDSO"))
}

/// An obstacle, where the vDSO is not among the special areas and no library has what calls need.
pub fn without_vdso(pid: i32, special: &[(String, u64, u64)]) -> Option<Obstacle> {
    let there = special.iter().any(|(name, ..)| name == "[vdso]");
    let unable = !there && matches!(Site::of_running(pid), Err(TraceeError::NoSyscallInstruction { .. }));
    unable.then(|| Obstacle::new("vDSO", WITHOUT_VDSO, "have the program keep its vDSO"))
}
