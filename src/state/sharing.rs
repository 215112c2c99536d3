//! What clone(2) lets tasks share, beside descriptors: the address space, the directories with the umask. Seen by kcmp(2),
//! which needs no stop.
//!
//! | shared | with a process that stays | between threads |
//! |---|---|---|
//! | `KCMP_VM` | refused: one memory cannot be on two hosts | always |
//! | `KCMP_FILES` | refused | refused if it is not (`state::files`) |
//! | `KCMP_FS` | refused | a thread that has its own keeps it; two that share one beside the process's are refused |
//! | `KCMP_SYSVSEM` | `state::sysv` | always |
//! | `KCMP_SIGHAND`, `KCMP_IO` | only with the address space; no state | always; no state |

use crate::image::Obstacle;
use crate::sys::kcmp::{self, Shared};
use crate::sys::voice;

use super::thread::own_directory::is_apart;

/// What other processes share with this one, and threads among themselves.
pub fn obstacles(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    // a main thread that has ended has nothing any more
    let alive = voice::of(pid);
    let mut found = with_others(pid, alive);
    found.extend(between_threads(alive, tids));
    found
}

/// `alive`: one of its threads.
fn with_others(pid: i32, alive: i32) -> Vec<Obstacle> {
    const KINDS: [(Shared, &str); 3] = [
        (Shared::Memory, "its memory is shared"),
        (Shared::Descriptors, "its descriptor table is shared"),
        (Shared::Directories, "its current directory and umask are shared"),
    ];
    let others = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found = Vec::new();
    for other in others.filter(|other| *other != pid) {
        let their = voice::of(other);
        let shares = KINDS.iter().filter(|(kind, _)| kcmp::shared(alive, their, *kind) == Some(true));
        for (kind, what) in shares {
            let name = super::program::name(other);
            found.push(Obstacle::new(
                format!("process {pid}"),
                format!("{what} with process {other} ({name}), which stays here ({})", kind.flag()),
                "wait until that process has ended, or runs a program of its own",
            ));
        }
    }
    found
}

/// Threads that have left the process's directories together.
fn between_threads(pid: i32, tids: &[i32]) -> Vec<Obstacle> {
    let apart: Vec<i32> = tids.iter().copied().filter(|tid| is_apart(pid, *tid)).collect();
    let mut found = Vec::new();
    for (i, one) in apart.iter().enumerate() {
        for other in &apart[i + 1..] {
            if kcmp::shared(*one, *other, Shared::Directories) == Some(true) {
                found.push(Obstacle::new(
                    format!("thread {one}"),
                    format!("it shares a current directory with thread {other} that is not their process's"),
                    "move the program before it starts these threads",
                ));
            }
        }
    }
    found
}
