//! The road between two hosts: QUIC with pinned keys, and frames on one stream.
//!
//! | file | owns |
//! |---|---|
//! | [`fingerprint`] | what a host is called by its key: `SHA256:…` |
//! | [`identity`] | this host's key and certificate, made on first use |
//! | [`trust`] | the list of hosts that are let in |
//! | [`user`] | users as a permit names them; pure |
//! | [`user_map`] | whom the users of a peer are here |
//! | [`permit`] | how far each of them may go; pure |
//! | [`private_dir`] | locked, atomic writes of both in `ULPM_HOME` |
//! | [`tls`] | TLS 1.3, both sides prove their key, ALPN `ulpm/2` |
//! | [`tuning`] | windows, timers, MTU, congestion control, socket buffers |
//! | [`address`] | `HOST[:PORT]` and its resolution |
//! | [`admission`] | the check that both sides do before a byte of the peer is parsed |
//! | [`endpoint`] | [`connect()`], the source's side |
//! | [`connect_error`] | why it failed and what to do |
//! | [`way`] | the way that a connection goes at the target, in its ID |
//! | [`express`] | a second socket behind the port, for what a thread waits for |
//! | [`listener`] | [`Listener`], the target's side: bounded handshakes, accepted peers |
//! | [`greeting`] | the hello, which every version can read |
//! | [`hello`] | what a side is; whether two sides can talk |
//! | [`frame`] | the eight bytes before every body; pure |
//! | [`message`] | messages and their numbers |
//! | [`page_head`] | whose the pages of a frame are; pure |
//! | [`protocol`] | what the two sides say to each other |
//! | [`vigil`] | silence, noticed by both sides at once |
//! | [`wire`] | frames over one bidirectional stream |
//! | [`wire_error`] | what can go wrong there |
//! | [`words`] | the other host's texts, made harmless |
//!
//! Nothing in here knows what the frames mean.

pub mod address;
pub mod admission;
pub mod connect_error;
pub mod endpoint;
pub mod express;
pub mod fingerprint;
pub mod frame;
pub mod greeting;
pub mod hello;
pub mod identity;
pub mod lane;
pub mod listener;
pub mod message;
pub mod page_head;
pub mod permit;
pub mod private_dir;
pub mod protocol;
pub mod tls;
pub mod trust;
pub mod tuning;
pub mod user;
pub mod user_map;
pub mod vigil;
pub mod way;
pub mod wire;
pub mod wire_error;
pub mod words;

#[cfg(test)]
mod loopback_tests;

pub use address::{DEFAULT_PORT, RemoteAddr, RemoteAddrError};
pub use endpoint::{ConnectError, Connected, connect, connect_by};
pub use fingerprint::Fingerprint;
pub use frame::{FrameError, Header, KindCap};
pub use identity::Identity;
pub use listener::{AcceptError, Accepted, Listener};
pub use message::Frame;
pub use trust::TrustStore;
pub use way::Way;
pub use wire::{Wire, WireError, WireRecv, WireSend, accept_wire, open_wire};
