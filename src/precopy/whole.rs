//! Whether a process of this host still misses memory of an earlier move: then it must not be moved on.
//!
//! Its holder has a socket `ULPM_HOME/lazy/ID.sock` for as long as anything is outstanding, and beside it `ID.json`, which
//! says whose it is.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;

use super::MigrateError;
use super::cancel::Cancel;
use crate::image::Obstacle;
use crate::sys::stat::start_time;

/// How often a process that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// `ID.json`.
#[derive(Debug, Deserialize)]
struct Note {
    id: String,
    pid: i32,
    start_time: u64,
}

/// The move that has brought this process here and is not done with its memory.
pub(crate) fn unfinished(home: &Path, pid: i32) -> Option<String> {
    let began = start_time(pid)?;
    let dir = std::fs::read_dir(home.join("lazy")).ok()?;
    let sockets =
        dir.flatten().map(|item| item.path()).filter(|p| p.extension().is_some_and(|e| e == "sock"));
    let notes = sockets.filter_map(|socket| {
        let text = std::fs::read(socket.with_extension("json")).ok()?;
        serde_json::from_slice::<Note>(&text).ok()
    });
    notes.into_iter().find(|note| note.pid == pid && note.start_time == began).map(|note| note.id)
}

/// The same, as what stands in the way of another move.
pub(crate) fn obstacle(home: &Path, pid: i32) -> Option<Obstacle> {
    let id = unfinished(home, pid)?;
    Some(Obstacle::new(
        format!("process {pid}"),
        format!("its memory has not all arrived yet (move {id})"),
        "wait until it is whole, or let `ulpm live --wait` do so",
    ))
}

/// Waits until the process is whole.
pub(crate) fn wait(home: &Path, pid: i32, cancel: &Cancel) -> Result<(), MigrateError> {
    while unfinished(home, pid).is_some() {
        if cancel.is_set() {
            return Err(MigrateError::Cancelled);
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_whole_when_its_holder_is_gone() {
        let home = tempfile::tempdir().unwrap();
        let (dir, pid) = (home.path().join("lazy"), std::process::id() as i32);
        let note = |start: u64| format!(r#"{{"id":"m-1","pid":{pid},"start_time":{start},"more":1}}"#);
        assert!(obstacle(home.path(), pid).is_none());
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("m-1.json"), note(start_time(pid).unwrap())).unwrap();
        assert!(obstacle(home.path(), pid).is_none(), "a note without a socket is left over");
        std::fs::write(dir.join("m-1.sock"), "").unwrap();
        assert!(obstacle(home.path(), pid).unwrap().to_string().contains("m-1"));
        assert!(obstacle(home.path(), 1).is_none());
        let cancel = Cancel::default();
        cancel.cancel();
        assert!(matches!(wait(home.path(), pid, &cancel), Err(MigrateError::Cancelled)));
        std::fs::write(dir.join("m-1.json"), note(1)).unwrap();
        assert!(obstacle(home.path(), pid).is_none(), "another process had that number");
        wait(home.path(), pid, &Cancel::default()).unwrap();
    }
}
