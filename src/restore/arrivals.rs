//! What `ulpm serve` says of the processes that come to it: one line each, without being asked for more (`-v`).

use std::time::{Duration, Instant};

use super::RestoreError;
use crate::image::Obstacle;
use crate::sys::chain;
use crate::transport::protocol::Description;

/// The target of these lines in the log.
pub const LOG: &str = "ulpm::arrivals";

/// A process on its way here.
#[derive(Debug)]
pub struct Passenger {
    what: String,
    id: String,
    began: Instant,
    only_asks: bool,
}

impl Passenger {
    /// As a source describes it.
    pub fn new(description: &Description, peer: &str) -> Self {
        let process = description.tree.processes.first();
        let (pid, name) = process.map_or((0, String::new()), |p| {
            let comm = p.threads.first().map(|t| String::from_utf8_lossy(&t.comm).into_owned());
            (p.pid, comm.unwrap_or_default())
        });
        Passenger {
            what: format!("process {pid} ({name}) of {peer}"),
            id: description.id.clone(),
            began: Instant::now(),
            only_asks: description.only_asks,
        }
    }

    /// It runs here.
    pub fn arrived(self, pid: i32, frozen: Duration) {
        let Passenger { what, id, began, .. } = self;
        tracing::info!(
            target: LOG,
            "{what} has arrived: pid {pid} here, in {:.1} s, frozen for {:.1} ms, migration {id}",
            began.elapsed().as_secs_f64(),
            frozen.as_secs_f64() * 1e3
        );
    }

    /// Something is in its way here. Whoever only asks hears of it, and nobody else.
    pub fn refused(self, obstacles: &[Obstacle]) {
        let first = obstacles.first().map(ToString::to_string).unwrap_or_default();
        let (count, what, id) = (obstacles.len(), self.what, self.id);
        let more = if count > 1 { format!(" and {} more", count - 1) } else { String::new() };
        match self.only_asks {
            true => tracing::debug!(target: LOG, "{what} was only asked for: {first}{more}"),
            false => tracing::info!(target: LOG, "{what} is refused: {first}{more}; migration {id}"),
        }
    }

    /// It stays where it is.
    pub fn stays(self, why: &RestoreError) {
        let Passenger { what, id, only_asks, .. } = self;
        let why = chain(why);
        match only_asks {
            true => tracing::debug!(target: LOG, "{what} was only asked for: {why}"),
            false => tracing::info!(target: LOG, "{what} does not come: {why}; migration {id}"),
        }
    }
}
