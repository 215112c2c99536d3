//! The connecting side: from `HOST[:PORT]` to a connection on which both sides have let each other in.
//!
//! Every address of the host is tried in turn, each with its share of the time. UDP has no refusal of its
//! own, so a second, connected socket listens for the ICMP answer of a closed port while the handshake
//! runs: "nothing listens there" is said at once instead of after the timeout.
//!
//! Works on a current-thread runtime as well as on a multi-threaded one: what must be sent before the
//! caller may stop driving the runtime has been sent when the functions here return.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connecting, Connection, ConnectionError, Endpoint, TokioRuntime};
use tokio::net::UdpSocket;
use tokio::time::{Instant, timeout};

use super::address::RemoteAddr;
use super::admission::{self, AdmissionError, CLOSE_DONE};
use super::connect_error::is_version_mismatch;
use super::fingerprint::Fingerprint;
use super::identity::{CERTIFICATE_NAME, Identity};
use super::tls;
use super::trust::TrustStore;
use super::tuning::Tuning;
use super::way::Way;

pub use super::connect_error::ConnectError;

/// How long a close may take to leave; on a LAN it is gone in a few milliseconds.
const LINGER: Duration = Duration::from_millis(500);

/// How often the port is asked whether it is closed.
const PROBE_INTERVAL: Duration = Duration::from_millis(500);

/// A connection to a target that trusts us and that we trust.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub connection: Connection,
    /// The endpoint behind it; it serves this connection only.
    pub endpoint: Endpoint,
    /// The target's key.
    pub peer: Fingerprint,
    /// The target's address.
    pub remote: SocketAddr,
}

impl Connected {
    /// Closes the connection and waits, for half a second at most, until the target has heard of it.
    pub async fn close(self, reason: &str) {
        self.connection.close(CLOSE_DONE, reason.as_bytes());
        linger(&self.endpoint).await;
    }
}

/// Connects to `host` as `identity`, if it is in `trust`.
pub async fn connect(
    identity: &Identity,
    trust: &TrustStore,
    host: &RemoteAddr,
    limit: Duration,
) -> Result<Connected, ConnectError> {
    connect_by(Way::Ordinary, identity, trust, host, limit).await
}

/// As [`connect`]; what a thread waits for goes another [`Way`].
pub async fn connect_by(
    way: Way,
    identity: &Identity,
    trust: &TrustStore,
    host: &RemoteAddr,
    limit: Duration,
) -> Result<Connected, ConnectError> {
    let tuning = Tuning { way, ..Tuning::default() };
    connect_with(identity, trust, host, limit, &tuning, tls::ALPN).await
}

/// As [`connect`], with other parameters.
pub(super) async fn connect_with(
    identity: &Identity,
    trust: &TrustStore,
    host: &RemoteAddr,
    limit: Duration,
    tuning: &Tuning,
    alpn: &[u8],
) -> Result<Connected, ConnectError> {
    let deadline = Instant::now() + limit;
    let tls = Arc::new(tls::client(identity, alpn)?);
    let addresses = match timeout(limit, host.resolve()).await {
        Ok(Ok(addresses)) => addresses,
        Ok(Err(source)) => return Err(ConnectError::Resolve { host: host.host.clone(), source }),
        Err(_) => {
            let (host, seconds) = (host.host.clone(), limit.as_secs_f32());
            return Err(ConnectError::ResolveTimeout { host, seconds });
        }
    };
    let call = Call { tls, trust, host, ours: identity.fingerprint(), tuning };
    let mut failure = ConnectError::NoAddress { host: host.host.clone() };
    for (index, remote) in addresses.iter().enumerate() {
        let share = deadline.saturating_duration_since(Instant::now()) / (addresses.len() - index) as u32;
        match call.reach(*remote, share).await {
            Ok(connected) => return Ok(connected),
            Err(error) if error.is_silence() => failure = error,
            Err(error) => return Err(error),
        }
    }
    Err(failure)
}

/// What stays the same for all addresses of a host.
struct Call<'a> {
    tls: Arc<QuicClientConfig>,
    trust: &'a TrustStore,
    host: &'a RemoteAddr,
    ours: Fingerprint,
    tuning: &'a Tuning,
}

impl Call<'_> {
    async fn reach(&self, remote: SocketAddr, limit: Duration) -> Result<Connected, ConnectError> {
        let endpoint = self.endpoint(remote)?;
        let mut config = ClientConfig::new(self.tls.clone());
        config.transport_config(self.tuning.towards(remote).transport());
        let way = self.tuning.way;
        config.initial_dst_cid_provider(Arc::new(move || way.connection_id()));
        let connecting = endpoint
            .connect_with(config, remote, CERTIFICATE_NAME)
            .map_err(|source| ConnectError::Start { remote, source })?;

        let started = Instant::now();
        let mut answered = false;
        let outcome = tokio::select! {
            outcome = timeout(limit, self.admitted(connecting, remote, &mut answered)) => outcome,
            source = closed_port(remote) => Ok(Err(ConnectError::Unreachable { host: self.host.clone(), remote, source })),
        };
        let error = match outcome {
            Ok(Ok((connection, peer))) => return Ok(Connected { connection, endpoint, peer, remote }),
            Ok(Err(error)) => error,
            Err(_) => self.silent(remote, started, answered),
        };
        endpoint.close(CLOSE_DONE, b"gave up");
        if answered {
            linger(&endpoint).await;
        }
        // Quinn's own idle timer may end a silent handshake before ours does.
        match error {
            ConnectError::Lost { source: ConnectionError::TimedOut, .. } => {
                Err(self.silent(remote, started, answered))
            }
            error => Err(error),
        }
    }

    fn endpoint(&self, remote: SocketAddr) -> Result<Endpoint, ConnectError> {
        let any: IpAddr = match remote {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = self.tuning.bind(SocketAddr::new(any, 0)).map_err(ConnectError::Socket)?;
        Endpoint::new(self.tuning.endpoint(), None, socket, Arc::new(TokioRuntime))
            .map_err(ConnectError::Socket)
    }

    /// The handshake and the admission; `answered` says how far it came if it is given up.
    async fn admitted(
        &self,
        connecting: Connecting,
        remote: SocketAddr,
        answered: &mut bool,
    ) -> Result<(Connection, Fingerprint), ConnectError> {
        let connection = connecting.await.map_err(|lost| self.lost(remote, lost))?;
        *answered = true;
        match admission::admit(&connection, self.trust, false).await {
            Ok(peer) => Ok((connection, peer)),
            Err(error) => Err(self.not_admitted(remote, error)),
        }
    }

    fn silent(&self, remote: SocketAddr, started: Instant, answered: bool) -> ConnectError {
        let (host, seconds) = (self.host.clone(), started.elapsed().as_secs_f32());
        if answered {
            ConnectError::Stalled { host, remote, seconds }
        } else {
            ConnectError::NoAnswer { host, remote, seconds }
        }
    }

    fn not_admitted(&self, remote: SocketAddr, error: AdmissionError) -> ConnectError {
        let (host, ours) = (self.host.clone(), self.ours);
        match error {
            AdmissionError::UnknownPeer { presented } if presented == ours => ConnectError::ThisHost { host },
            AdmissionError::UnknownPeer { presented } => ConnectError::UnknownPeer { host, presented },
            AdmissionError::RefusedByPeer { reason, .. } => {
                ConnectError::RefusedByPeer { host, ours, our_name: our_name(), reason }
            }
            AdmissionError::Lost(lost) => self.lost(remote, lost),
            source => ConnectError::NotAdmitted { host, remote, source: Box::new(source) },
        }
    }

    fn lost(&self, remote: SocketAddr, source: ConnectionError) -> ConnectError {
        let host = self.host.clone();
        match source {
            source if is_version_mismatch(&source) => ConnectError::Version { host, remote, source },
            ConnectionError::ConnectionClosed(close)
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                ConnectError::Busy { host, remote }
            }
            source => ConnectError::Lost { host, remote, source },
        }
    }
}

/// Waits until all connections of `endpoint` are closed and the other sides told, half a second at most.
pub(super) async fn linger(endpoint: &Endpoint) {
    // A peer that does not answer the close has lost nothing but the news.
    let _ = timeout(LINGER, endpoint.wait_idle()).await;
}

/// Waits for the kernel to say that nothing can be reached at `remote`; for ever if it does not.
///
/// One zero byte is sent each time, which no version of QUIC takes for a packet.
async fn closed_port(remote: SocketAddr) -> std::io::Error {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = async {
        let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
        socket.connect(remote).await?;
        loop {
            socket.send(&[0]).await?;
            // Data would be no answer to our question; only an error is.
            if let Ok(answer) = timeout(PROBE_INTERVAL, socket.recv(&mut [0])).await {
                answer?;
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        }
    };
    let result: Result<std::convert::Infallible, std::io::Error> = probe.await;
    match result {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// What the target's people may call this host.
fn our_name() -> String {
    let name = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    name.filter(|name| !name.is_empty()).unwrap_or_else(|| "source".to_owned())
}
