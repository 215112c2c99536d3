//! Who is here: conversations under way, and the processes that came from each peer, also after a restart of
//! `ulpm serve` (`ULPM_HOME/guests.json`). What is damaged there counts as empty.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::sys::stat::start_time;
use crate::transport::Fingerprint;
use crate::transport::private_dir::{self, LockedDir};

/// Conversations with all peers, and with one. A move has one, and two more while its memory follows it.
const MOST_VISITS: usize = 256;
const MOST_VISITS_OF_ONE: usize = 64;

const FILE: &str = "guests.json";

/// Counts visits and guests; clones count together.
#[derive(Debug, Clone)]
pub struct Guests {
    home: PathBuf,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    visits: HashMap<Fingerprint, usize>,
    building: HashMap<Fingerprint, u32>,
    guests: Vec<Guest>,
}

/// A process that came from a peer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Guest {
    peer: Fingerprint,
    pid: i32,
    start_time: u64,
}

impl Guest {
    fn lives(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }
}

impl Guests {
    /// Those whom an earlier `ulpm serve` with this home let in.
    pub fn load(home: &Path) -> Self {
        let text = private_dir::read(&home.join(FILE), 0o022).ok().flatten().unwrap_or_default();
        let guests = serde_json::from_str(&text).unwrap_or_default();
        let inside = Inside { guests, ..Inside::default() };
        Self { home: home.to_owned(), inside: Arc::new(Mutex::new(inside)) }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a conversation, if there are not too many.
    pub fn visit(&self, peer: Fingerprint) -> Option<Visit> {
        let mut inside = self.lock();
        let all: usize = inside.visits.values().sum();
        let own = inside.visits.entry(peer).or_default();
        if all >= MOST_VISITS || *own >= MOST_VISITS_OF_ONE {
            return None;
        }
        *own += 1;
        Some(Visit { guests: self.clone(), peer, building: false })
    }
}

/// One conversation; it ends when this is dropped.
#[derive(Debug)]
pub struct Visit {
    guests: Guests,
    peer: Fingerprint,
    building: bool,
}

impl Visit {
    /// How many processes of this peer are here or on their way, this one not counted.
    pub fn others(&self) -> u32 {
        let mut inside = self.guests.lock();
        inside.guests.retain(Guest::lives);
        let here = inside.guests.iter().filter(|guest| guest.peer == self.peer).count() as u32;
        here + inside.building.get(&self.peer).copied().unwrap_or(0) - u32::from(self.building)
    }

    /// Takes a place for a process; false if there are `most` already.
    pub fn take_place(&mut self, most: Option<u32>) -> bool {
        if most.is_some_and(|most| self.others() >= most) {
            return false;
        }
        if !self.building {
            *self.guests.lock().building.entry(self.peer).or_default() += 1;
            self.building = true;
        }
        true
    }

    /// The process lives here now, and on after us.
    pub fn arrived(&mut self, pid: i32) {
        let Some(start_time) = start_time(pid) else { return };
        let mut inside = self.guests.lock();
        inside.guests.retain(Guest::lives);
        inside.guests.push(Guest { peer: self.peer, pid, start_time });
        if std::mem::take(&mut self.building)
            && let Some(building) = inside.building.get_mut(&self.peer)
        {
            *building -= 1;
        }
        let text = serde_json::to_vec(&inside.guests).unwrap_or_default();
        let saved = LockedDir::lock(&self.guests.home).and_then(|home| home.replace(FILE, &text));
        if let Err(error) = saved {
            tracing::warn!(%error, "a restarted ulpm serve will not know whose process {pid} is");
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut inside = self.guests.lock();
        if let Some(visits) = inside.visits.get_mut(&self.peer) {
            *visits -= 1;
            if *visits == 0 {
                inside.visits.remove(&self.peer);
            }
        }
        if self.building
            && let Some(building) = inside.building.get_mut(&self.peer)
        {
            *building -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visits_are_bounded_for_one_and_for_all() {
        let home = tempfile::tempdir().unwrap();
        let guests = Guests::load(home.path());
        let one: Vec<Visit> = std::iter::from_fn(|| guests.visit(Fingerprint([1; 32]))).collect();
        assert_eq!(one.len(), MOST_VISITS_OF_ONE);
        let others: Vec<Visit> =
            (2..).map_while(|n| guests.visit(Fingerprint([n as u8; 32]))).take(1000).collect();
        assert_eq!(one.len() + others.len(), MOST_VISITS);
        drop(one);
        assert!(guests.visit(Fingerprint([1; 32])).is_some());
    }

    #[test]
    fn processes_count_while_they_come_and_while_they_live() {
        let home = tempfile::tempdir().unwrap();
        let guests = Guests::load(home.path());
        let peer = Fingerprint([1; 32]);
        let mut first = guests.visit(peer).unwrap();
        let mut second = guests.visit(peer).unwrap();
        assert!(first.take_place(Some(1)) && first.take_place(Some(1)));
        assert!(!second.take_place(Some(1)));
        first.arrived(std::process::id() as i32);
        drop(first);
        assert!(!second.take_place(Some(1)), "it lives");
        // after a restart, too
        let mut later = Guests::load(home.path()).visit(peer).unwrap();
        assert_eq!(later.others(), 1);
        assert!(!later.take_place(Some(1)) && later.take_place(Some(2)));
        let other = guests.visit(Fingerprint([2; 32])).unwrap();
        assert_eq!(other.others(), 0);
    }
}
