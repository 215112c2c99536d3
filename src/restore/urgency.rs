//! How urgent the network threads of `ulpm serve` are: all sessions share them.
//!
//! | sessions | threads |
//! |---|---|
//! | one whose process is frozen at its source | favoured: what they carry is waited for |
//! | else one in its rounds | in the background |
//! | none | as they began |
//!
//! Each session tells where it stands by a [`Stage`], which ends with it. A lane of lazy memory goes ahead of all this
//! ([`super::lazy::carriers`]): a thread that it has made real-time is left alone.

use std::sync::{Mutex, PoisonError};

use crate::sys::background::{self, Background};
use crate::sys::own_session::{OwnSession, Starving};
use crate::sys::process::{SchedAttr, sched_attr, set_sched_attr};
use crate::tracee::together::favoured;

#[derive(Debug)]
struct Network {
    /// Threads, and how they began.
    threads: Vec<(i32, SchedAttr)>,
    rounds: usize,
    frozen: usize,
    /// While nothing is frozen.
    session: Option<OwnSession>,
}

static NETWORK: Mutex<Network> =
    Mutex::new(Network { threads: Vec::new(), rounds: 0, frozen: 0, session: None });

fn with_network(work: impl FnOnce(&mut Network)) {
    work(&mut NETWORK.lock().unwrap_or_else(PoisonError::into_inner));
}

/// The calling thread is one of the network's from now on.
pub fn enlist() {
    let tid = nix::unistd::gettid().as_raw();
    if let Ok(began) = sched_attr(tid) {
        with_network(|network| {
            network.threads.push((tid, began));
            network.apply();
        });
    }
}

impl Network {
    fn apply(&mut self) {
        match (self.frozen, self.rounds) {
            (0, 1..) => {
                self.session.get_or_insert_with(OwnSession::behind);
            }
            _ => self.session = None,
        }
        for (tid, began) in &self.threads {
            let ordinary = |attr: &SchedAttr| attr.policy != libc::SCHED_FIFO as u32;
            if !sched_attr(*tid).is_ok_and(|now| ordinary(&now)) {
                continue;
            }
            let set = match (self.frozen, self.rounds) {
                (0, 0) => set_sched_attr(*tid, began),
                (0, _) => background::put(*tid).map(drop),
                // where that is not permitted it is as it began
                _ => set_sched_attr(*tid, &favoured(*began)).or_else(|_| set_sched_attr(*tid, began)),
            };
            if let Err(error) = set {
                tracing::debug!(tid, %error, "scheduling of a network thread");
            }
        }
    }
}

/// Where a session stands. Its own thread is in the background during the rounds.
#[derive(Debug)]
pub struct Stage {
    rounds: Option<(Background, Starving)>,
}

impl Stage {
    /// Pages arrive while the process runs at its source.
    pub fn rounds() -> Self {
        with_network(|network| {
            network.rounds += 1;
            network.apply();
        });
        Stage { rounds: Some((Background::begin(), Starving::begin())) }
    }

    /// Once for each message: in the rounds others may leave us nothing of the CPUs. Then our session is one as any other,
    /// unless somebody watches over that.
    pub fn look(&mut self) {
        if self.rounds.as_mut().is_some_and(|(_, starving)| starving.look()) {
            with_network(|network| network.session.iter_mut().for_each(OwnSession::starves));
        }
    }

    /// The process is frozen, or about to be.
    pub fn frozen(&mut self) {
        if self.rounds.take().is_some() {
            with_network(|network| {
                network.rounds -= 1;
                network.frozen += 1;
                network.apply();
            });
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let in_rounds = self.rounds.take().is_some();
        with_network(|network| {
            *(if in_rounds { &mut network.rounds } else { &mut network.frozen }) -= 1;
            network.apply();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_threads_follow_the_most_urgent_session() {
        let policy = || sched_attr(0).unwrap().policy;
        std::thread::spawn(move || {
            let began = policy();
            enlist();
            let (mut one, other) = (Stage::rounds(), Stage::rounds());
            assert_eq!(policy(), libc::SCHED_BATCH as u32);
            one.frozen();
            assert_eq!(policy(), began);
            drop(one);
            assert_eq!(policy(), libc::SCHED_BATCH as u32);
            drop(other);
            assert_eq!(policy(), began);
        })
        .join()
        .unwrap();
    }
}
