//! A process that a hand-over has left stopped, and whose outcome is open: what a crash leaves, until `ulpm recover` settles it.
//!
//! Whoever lets such a process go on (`kill -CONT`) takes the decision into his own hands: from then on there may be two.

use std::fmt::Display;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use crate::handover::drawer;
use crate::handover::journal::{Entry, Journal, Phase};
use crate::image::Obstacle;
use crate::sys::stat::stopped;
use crate::transport::permit::Moment;

/// How long a process may take to stop whose tracer has just been killed.
const STOPPING: Duration = Duration::from_secs(2);

/// The open hand-over of a process of this host: one that is to end here, or has been told of to whoever gets it.
pub(crate) fn by(home: &Path, pid: i32) -> Option<Entry> {
    let all = Journal::list(&home.join("journal")).ok()?.into_iter().flatten();
    let mut open = all.filter(|journal| journal.entry().source && journal.entry().phase == Phase::Committed);
    let found = open.find(|journal| journal.entry().pid == pid && journal.entry().process_lives())?;
    Some(found.entry().clone())
}

/// The same, as what stands in the way of anything else.
pub(crate) fn obstacle(home: &Path, pid: i32) -> Option<Obstacle> {
    let entry = by(home, pid)?;
    let (id, to) = (&entry.id, whither(&entry.peer));
    let why = match stopped(pid) {
        true => format!("it is held by the hand-over {id} {to}, which is open"),
        false => format!("somebody let it go on while the hand-over {id} {to} is open, which had stopped it"),
    };
    let advice =
        format!("run `ulpm recover`, which settles it (--id {id}); do not let it go on by hand before");
    Some(Obstacle::new(format!("process {pid}"), why, advice))
}

/// Where it goes, in words.
pub(crate) fn whither(peer: &str) -> String {
    match drawer::directory(peer) {
        Some(dir) => format!("into {}", dir.display()),
        None => format!("to {peer}"),
    }
}

/// Whether the process of an open hand-over has been let go on by somebody: it is there, and does not stand still.
pub(super) fn ran_on(entry: &Entry) -> bool {
    let begun = std::time::Instant::now();
    while entry.process_lives() && !stopped(entry.pid) {
        if begun.elapsed() > STOPPING {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

/// When it was stopped: the entry was written last just before.
pub(super) fn since(journal: &Journal) -> impl Display {
    let written = journal.written().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    Moment(written.map_or(0, |since| since.as_secs().cast_signed()))
}
