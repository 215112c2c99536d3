//! The way that a connection goes at the target, told by the first byte of its ID (see [`express`](super::express)).

use std::time::Duration;

use quinn::{ConnectionId, ConnectionIdGenerator};
use rustls::crypto::ring;

/// Whether packets of a connection go ahead of others at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They do not.
    Ordinary,
    /// They do: for little data that is waited for.
    Express,
}

/// Where the bit is.
pub(super) const MARK: u8 = 0x80;

impl Way {
    /// A fresh ID of a connection: eight bytes, of which all but one bit are random, as RFC 9000 wants them at least (7.2).
    pub(super) fn connection_id(self) -> ConnectionId {
        let mut id = [0; 8];
        if ring::default_provider().secure_random.fill(&mut id).is_err() {
            // without randomness there would have been no key either
            tracing::error!("no random numbers: an ID of a connection can be guessed");
        }
        id[0] = match self {
            Way::Ordinary => id[0] & !MARK,
            Way::Express => id[0] | MARK,
        };
        ConnectionId::new(&id)
    }
}

impl ConnectionIdGenerator for Way {
    fn generate_cid(&mut self) -> ConnectionId {
        self.connection_id()
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}
