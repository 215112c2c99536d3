//! Why a connection to a target did not come about, with what its user can do.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _, UdpSocket};

use quinn::{ConnectionError, TransportErrorCode};

use super::address::RemoteAddr;
use super::admission::AdmissionError;
use super::fingerprint::Fingerprint;
use super::tls::{NO_COMMON_VERSION, TlsError};

/// Why [`connect`](super::endpoint::connect) failed. The local process has not been touched in any case.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// This host's identity does not suit TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The name has no address.
    #[error("the name {host:?} does not resolve")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The resolver did not answer.
    #[error("the name {host:?} did not resolve within {seconds:.1} s")]
    ResolveTimeout {
        /// The name.
        host: String,
        /// How long it was given.
        seconds: f32,
    },
    /// The resolver answered with nothing.
    #[error("the name {host:?} has no address")]
    NoAddress {
        /// The name.
        host: String,
    },
    /// No UDP socket here.
    #[error("cannot open a UDP socket")]
    Socket(#[source] io::Error),
    /// The handshake could not even begin.
    #[error("cannot connect to {remote}")]
    Start {
        /// The address.
        remote: SocketAddr,
        /// What quinn said.
        source: quinn::ConnectError,
    },
    /// Nothing came back.
    #[error(
        "no answer from {} at {remote} (UDP) within {seconds:.1} s; \
         is `ulpm serve` running there, is UDP port {} open?", host.host, host.port
    )]
    NoAnswer {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// How long it was given.
        seconds: f32,
    },
    /// The handshake went through and then nothing came.
    #[error("{} at {remote} answered, but did not let us in within {seconds:.1} s", host.host)]
    Stalled {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// How long it was given.
        seconds: f32,
    },
    /// The network says that nothing is there.
    #[error("cannot reach UDP port {} of {} at {remote} (is `ulpm serve` running there?)", host.port, host.host)]
    Unreachable {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// The target has no room for another handshake.
    #[error("{} at {remote} is busy with other connections; try again", host.host)]
    Busy {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
    },
    /// The target speaks another version, or something else altogether.
    #[error("{} at {remote} does not speak ulpm/2 (is the same version of ulpm on both hosts?)", host.host)]
    Version {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// How the handshake ended.
        source: ConnectionError,
    },
    /// We do not trust the target.
    #[error(
        "{host} presented the key {presented}, which this host does not trust; if that is the right host, \
         run here: ulpm trust add {presented} --name {}", host.host
    )]
    UnknownPeer {
        /// The target.
        host: RemoteAddr,
        /// The key that it presented.
        presented: Fingerprint,
    },
    /// The target has our own key.
    #[error("{} is this host itself; name the host that the process shall go to", host.host)]
    ThisHost {
        /// The target.
        host: RemoteAddr,
    },
    /// The target's address is one of this host, and it did not let us in.
    #[error("{remote} is an address of this host itself, and nothing is moved from a host to itself")]
    OwnAddress {
        /// Its address.
        remote: SocketAddr,
        /// What came of it.
        source: Box<ConnectError>,
    },
    /// The target does not trust us.
    #[error(
        "{host} does not trust this host, whose key is {ours}; to allow it, run on {}: \
         ulpm trust add {ours} --name {our_name}, with --users any if processes of root are to go there (it said: {reason})", host.host
    )]
    RefusedByPeer {
        /// The target.
        host: RemoteAddr,
        /// Our key.
        ours: Fingerprint,
        /// What this host is called.
        our_name: String,
        /// The target's words.
        reason: String,
    },
    /// One side could not decide about the other.
    #[error("{} at {remote} and this host did not come together", host.host)]
    NotAdmitted {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// Why.
        source: Box<AdmissionError>,
    },
    /// The connection broke during the handshake.
    #[error("the connection to {} at {remote} broke during the handshake", host.host)]
    Lost {
        /// The target.
        host: RemoteAddr,
        /// Its address.
        remote: SocketAddr,
        /// How.
        source: ConnectionError,
    },
}

impl ConnectError {
    /// Nobody was there: another address of the same host may be better.
    pub(super) fn is_silence(&self) -> bool {
        matches!(
            self,
            Self::NoAnswer { .. } | Self::Unreachable { .. } | Self::Start { .. } | Self::Socket(_)
        )
    }

    /// With the remark that `to` is this host, if it is and if that may be why.
    pub fn remarked(self, to: &RemoteAddr) -> Self {
        let strange = matches!(self, Self::UnknownPeer { .. } | Self::RefusedByPeer { .. });
        if !strange && !self.is_silence() {
            return self;
        }
        let addresses = (to.host.as_str(), to.port).to_socket_addrs().into_iter().flatten();
        // only an address of this host can be bound
        match { addresses }.find(|address| UdpSocket::bind((address.ip(), 0)).is_ok()) {
            Some(remote) => Self::OwnAddress { remote, source: Box::new(self) },
            None => self,
        }
    }
}

/// Whether a handshake ended because the two sides have no version of QUIC or of ulpm in common.
pub(super) fn is_version_mismatch(error: &ConnectionError) -> bool {
    let is = |code: TransportErrorCode| u64::from(code) == NO_COMMON_VERSION;
    match error {
        ConnectionError::VersionMismatch => true,
        ConnectionError::ConnectionClosed(close) => is(close.error_code),
        ConnectionError::TransportError(error) => is(error.code),
        _ => false,
    }
}
