//! QUIC endpoint, identity and trust, frames and their codec.
