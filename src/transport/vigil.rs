//! Silence on a connection, noticed by both sides at once.
//!
//! QUIC gives up a peer of which nothing was heard for the idle timeout, and says nothing. If packets are lost one way only, the
//! other side then goes on hearing signs of life until that moment, and needs as long again. So whoever hears nothing closes the
//! connection in time, in words that may still pass the other way: both sides know within [`BOUND`].

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Connection, ConnectionError};
use tokio::time::{MissedTickBehavior, interval};

/// How long a silence, one way or both, may go unnoticed by either side.
pub const BOUND: Duration = Duration::from_secs(10);

/// As often as signs of life are sent.
const TICK: Duration = Duration::from_millis(250);

/// Ticks without a packet: a second less than the idle timeout, which would say nothing.
const TICKS: u32 = 36;

/// The time of that.
pub const LISTENING: Duration = Duration::from_secs(9);
const _: () = assert!(TICK.as_millis() * TICKS as u128 == LISTENING.as_millis());

const WORDS: &[u8] = b"nothing was heard for 9 s";

/// Whether the other side closed the connection since it had heard nothing of us.
pub fn unheard(connection: &Connection) -> bool {
    matches!(connection.close_reason(), Some(ConnectionError::ApplicationClosed(close)) if close.reason == WORDS)
}

/// Whether a connection was given up for silence.
#[derive(Clone, Debug, Default)]
pub struct Vigil(Arc<AtomicBool>);

impl Vigil {
    /// Watches until the connection is closed. Ticks count, not the time: a runtime that is not driven hears nothing.
    pub async fn keep(self, connection: Connection) {
        let arrived = || connection.stats().udp_rx.datagrams;
        let (mut last, mut still) = (arrived(), 0);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = connection.closed() => return,
                _ = ticks.tick() => {}
            }
            still = if arrived() == last { still + 1 } else { 0 };
            last = arrived();
            if still > TICKS {
                self.0.store(true, Ordering::SeqCst);
                connection.close(0u32.into(), WORDS);
                return;
            }
        }
    }

    /// Whether it was.
    pub fn was_silent(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
