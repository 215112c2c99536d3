//! The program's file, by the exe link, and the vDSO: refused where either is gone.
//!
//! The target maps the program's file by its name, and puts the exe link by it. After an upgrade the name leads to another file, or
//! to none, and the link ends in ` (deleted)`.

use super::StateError;
use super::memory_map::{DELETED, nameless};
use crate::image::{FilePath, Obstacle};

/// Why a program is refused whose name leads to another file now.
pub const REPLACED: &str = "its file was replaced since the process was started, as by an upgrade";
/// Why a program is refused whose name leads nowhere.
pub const GONE: &str = "its file was deleted since the process was started";
/// Why a program whose file has no `x` bit at the target is refused.
pub const NOT_EXECUTABLE: &str = "it may not be executed at the target any more";
/// Why a process without a vDSO is refused.
pub const WITHOUT_VDSO: &str = "the process has unmapped it, and calls made in its name need it";

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

/// An obstacle, where the vDSO is not among the special areas.
pub fn without_vdso(special: &[(String, u64, u64)]) -> Option<Obstacle> {
    let there = special.iter().any(|(name, ..)| name == "[vdso]");
    (!there).then(|| Obstacle::new("vDSO", WITHOUT_VDSO, "have the program keep its vDSO"))
}
