//! A user's wish that a migration ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// Tells a migration that its user wants it to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cancel {
    set: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Cancel {
    /// Asks for the end.
    pub(crate) fn cancel(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    /// Whether it was asked for.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    /// Waits until it is asked for.
    pub(crate) async fn wait(&self) {
        loop {
            let notified = self.notify.notified();
            if self.is_set() {
                return;
            }
            notified.await;
        }
    }
}
