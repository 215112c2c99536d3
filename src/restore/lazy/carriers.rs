//! Threads of `ulpm serve` that carry lanes, ahead of everything ordinary for as long as there is one: each page that they pass on is
//! waited for by a thread that cannot run without it.
//!
//! Which threads those are is not known beforehand: tasks of a runtime wander between its workers. So a task that carries makes
//! the worker urgent that happens to run it ([`Carried`]), with it the driver of its connection, which runs there as well; and when the
//! last of them ends, all are as they were. Children are not urgent (`SCHED_FLAG_RESET_ON_FORK`).

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll};

use crate::tracee::together::{Haste, Unhurried, hasten, hasten_together};

#[derive(Debug)]
struct Carriers {
    lanes: usize,
    /// As they were before, if they could be made urgent.
    threads: BTreeMap<i32, Option<Unhurried>>,
}

static CARRIERS: Mutex<Carriers> = Mutex::new(Carriers { lanes: 0, threads: BTreeMap::new() });

fn with_carriers<T>(work: impl FnOnce(&mut Carriers) -> T) -> T {
    work(&mut CARRIERS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A task that carries.
#[derive(Debug)]
pub struct Carried<F> {
    task: Pin<Box<F>>,
    haste: Haste,
}

impl<F: Future> Carried<F> {
    /// For this task; it makes its threads urgent in that degree.
    pub fn new(haste: Haste, task: F) -> Self {
        with_carriers(|carriers| carriers.lanes += 1);
        Carried { task: Box::pin(task), haste }
    }
}

impl<F: Future> Future for Carried<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let haste = self.haste;
        with_carriers(|carriers| {
            carriers.threads.entry(nix::unistd::gettid().as_raw()).or_insert_with(|| match haste {
                // in turn with the holder
                Haste::Now => hasten_together(haste),
                Haste::Soon | Haste::Next => hasten(haste),
            });
        });
        self.task.as_mut().poll(context)
    }
}

impl<F> Drop for Carried<F> {
    fn drop(&mut self) {
        with_carriers(|carriers| {
            carriers.lanes -= 1;
            if carriers.lanes > 0 {
                return;
            }
            for (tid, before) in std::mem::take(&mut carriers.threads) {
                if let Some(before) = before
                    && let Err(error) = before.restore(tid)
                {
                    tracing::debug!(tid, %error, "a thread stays urgent");
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::sched_attr;

    #[test]
    fn a_worker_is_urgent_as_long_as_a_task_carries() {
        let policy = || sched_attr(0).unwrap().policy;
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let before = policy();
        let permitted = std::thread::spawn(|| hasten(Haste::Soon).is_some()).join().unwrap();
        runtime.block_on(async {
            let inner = Carried::new(Haste::Soon, async { policy() });
            let outer = Carried::new(Haste::Soon, async {
                let within = inner.await;
                (within, policy())
            });
            let urgent = if permitted { libc::SCHED_FIFO as u32 } else { before };
            assert_eq!(outer.await, (urgent, urgent));
        });
        assert_eq!(policy(), before);
    }
}
