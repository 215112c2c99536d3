//! The listening side: connections whose peers have been let in, one after the other.
//!
//! A task of its own takes what arrives and gives each handshake a task, so that a slow or silent client
//! holds up nobody. All of it is bounded: so many handshakes at once, so many seconds each, and when half
//! of the places are taken, addresses must prove that they are real before they get one.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, Incoming, ServerConfig, TokioRuntime};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{self, AbortHandle};
use tokio::time::timeout;

use super::admission::{self, AdmissionError, CLOSE_DONE};
use super::connect_error::is_version_mismatch;
use super::endpoint::linger;
use super::express;
use super::fingerprint::Fingerprint;
use super::identity::Identity;
use super::tls::{self, TlsError};
use super::trust::TrustStore;
use super::tuning::Tuning;
use super::way::Way;

/// How many handshakes may run at once; the next one is told that we are busy.
const MAX_HANDSHAKES: usize = 32;

/// How long a handshake may take, the admission included.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How many settled connections may wait to be taken.
const BACKLOG: usize = 8;

/// A UDP port at which sources may call.
#[derive(Debug)]
pub struct Listener {
    /// The ordinary one, and the express one where there is one.
    doors: Vec<Door>,
    local: SocketAddr,
    settled: mpsc::Receiver<Result<Accepted, AcceptError>>,
}

/// A socket of the port, and who attends to it.
#[derive(Debug)]
struct Door {
    endpoint: Endpoint,
    doorman: AbortHandle,
    /// If it is not the runtime of the listener that drives it.
    thread: Option<JoinHandle<()>>,
}

/// A connection from a source that trusts us and that we trust.
#[derive(Debug)]
pub struct Accepted {
    /// The connection.
    pub connection: Connection,
    /// The source's key.
    pub peer: Fingerprint,
    /// The source's address.
    pub remote: SocketAddr,
    /// What drives the connection.
    pub driver: Handle,
    /// Whether that is a thread for what is waited for, and for nothing else.
    pub way: Way,
}

impl Listener {
    /// Listens at `address` as `identity` for peers in `trust`. Needs a tokio runtime around it.
    pub fn bind(identity: &Identity, trust: TrustStore, address: SocketAddr) -> Result<Self, BindError> {
        Self::bind_with(identity, trust, address, &Tuning::default(), tls::ALPN)
    }

    /// As [`bind`](Self::bind), but speaking another protocol: for trials of what sources say to such a target.
    #[doc(hidden)]
    pub fn bind_speaking(
        identity: &Identity,
        trust: TrustStore,
        address: SocketAddr,
        alpn: &[u8],
    ) -> Result<Self, BindError> {
        Self::bind_with(identity, trust, address, &Tuning::default(), alpn)
    }

    /// As [`bind`](Self::bind), with other parameters.
    pub(super) fn bind_with(
        identity: &Identity,
        trust: TrustStore,
        address: SocketAddr,
        tuning: &Tuning,
        alpn: &[u8],
    ) -> Result<Self, BindError> {
        let mut config = ServerConfig::with_crypto(Arc::new(tls::server(identity, alpn)?));
        config.transport_config(tuning.transport());
        config.max_incoming(MAX_HANDSHAKES);
        let failed = |source| BindError::Listen { address, source };
        let socket = tuning.bind(address).map_err(failed)?;
        let local = socket.local_addr().map_err(failed)?;
        let beside = express::beside(&socket, tuning);
        let (sender, settled) = mpsc::channel(BACKLOG);
        let hall = Hall { tuning: tuning.clone(), config, trust, settled: sender };
        let (endpoint, attending) = hall.open(socket, Way::Ordinary).map_err(failed)?;
        let mut doors = vec![Door { endpoint, doorman: attending.abort_handle(), thread: None }];
        match beside.and_then(|socket| hall.open_express(socket)) {
            Ok(door) => doors.push(door),
            Err(error) => {
                tracing::warn!(%error, "no second socket: pages that threads wait for queue behind others")
            }
        }
        Ok(Self { doors, local, settled })
    }

    /// Where it listens, with the port that the kernel chose if none was given.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next peer that was let in, or why one was not (which has been logged); `None` after
    /// [`close`](Self::close). Cancel-safe.
    pub async fn accept(&mut self) -> Option<Result<Accepted, AcceptError>> {
        self.settled.recv().await
    }

    /// Closes all connections, tells their peers why, and listens no more.
    pub async fn close(&mut self, reason: &str) {
        for door in &self.doors {
            door.doorman.abort();
            door.endpoint.close(CLOSE_DONE, reason.as_bytes());
        }
        for door in &self.doors {
            linger(&door.endpoint).await;
        }
    }
}

impl Drop for Listener {
    /// Accepted connections live on, but those of the express way, whose thread ends: the port is free then.
    fn drop(&mut self) {
        for door in &mut self.doors {
            door.doorman.abort();
            if let Some(thread) = door.thread.take() {
                door.endpoint.close(CLOSE_DONE, b"this host listens no more");
                // a panic there was printed
                let _ = thread.join();
            }
        }
    }
}

/// What all doors have in common.
struct Hall {
    tuning: Tuning,
    config: ServerConfig,
    trust: TrustStore,
    settled: mpsc::Sender<Result<Accepted, AcceptError>>,
}

impl Hall {
    /// In the runtime around it.
    fn open(&self, socket: UdpSocket, way: Way) -> io::Result<(Endpoint, task::JoinHandle<()>)> {
        let mut config = self.tuning.endpoint();
        config.cid_generator(move || Box::new(way));
        let endpoint = Endpoint::new(config, Some(self.config.clone()), socket, Arc::new(TokioRuntime))?;
        let doorman = tokio::spawn(attend(endpoint.clone(), way, self.trust.clone(), self.settled.clone()));
        Ok((endpoint, doorman))
    }

    /// In a thread of its own.
    fn open_express(&self, socket: UdpSocket) -> io::Result<Door> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (endpoint, attending) = {
            let _within = runtime.enter();
            self.open(socket, Way::Express)?
        };
        let doorman = attending.abort_handle();
        let closing = endpoint.clone();
        let run = move || {
            runtime.block_on(async {
                // until nobody attends to it any more; then its peers are told
                let _ = attending.await;
                linger(&closing).await;
            });
        };
        let thread = Some(std::thread::Builder::new().name("express".to_owned()).spawn(run)?);
        Ok(Door { endpoint, doorman, thread })
    }
}

/// Why there is no listener.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// This host's identity does not suit TLS.
    #[error("cannot set up TLS")]
    Tls(#[from] TlsError),
    /// The port is taken, or not ours to take.
    #[error("cannot listen at UDP {address}{}", hint(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the user can do.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrInUse => " (is `ulpm serve` running already? --listen takes another port)",
        io::ErrorKind::AddrNotAvailable => " (this host has no such address)",
        io::ErrorKind::PermissionDenied => " (--listen takes a port above 1023)",
        _ => "",
    }
}

/// Why a caller was not let in. It has been logged; the listener goes on.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The handshake did not end in time.
    #[error("{remote} did not finish the handshake within {} s", HANDSHAKE_LIMIT.as_secs())]
    Timeout {
        /// The caller.
        remote: SocketAddr,
    },
    /// The caller speaks another version, or something else altogether.
    #[error("{remote} does not speak ulpm/2")]
    Version {
        /// The caller.
        remote: SocketAddr,
        /// How the handshake ended.
        source: ConnectionError,
    },
    /// The handshake failed.
    #[error("the handshake with {remote} failed")]
    Handshake {
        /// The caller.
        remote: SocketAddr,
        /// How.
        source: ConnectionError,
    },
    /// One of the two did not let the other in.
    #[error("{remote} was not admitted")]
    NotAdmitted {
        /// The caller.
        remote: SocketAddr,
        /// Why.
        source: AdmissionError,
    },
}

impl AcceptError {
    fn log(&self) {
        match self {
            Self::NotAdmitted { remote, source: AdmissionError::UnknownPeer { presented } } => {
                tracing::warn!(%remote, fingerprint = %presented,
                    "refused a peer that is not trusted; to let it in: ulpm trust add {presented}");
            }
            Self::NotAdmitted { remote, source: AdmissionError::NotNow { presented, why } } => {
                tracing::warn!(%remote, fingerprint = %presented,
                    "refused a peer: {why}; `ulpm trust list` shows its entry, `ulpm trust add {presented} …` changes it");
            }
            error => {
                // one that has none, as a timeout, names none
                let cause = std::error::Error::source(error).map(ToString::to_string);
                tracing::warn!(cause = cause.as_deref(), "{error}");
            }
        }
    }
}

/// Takes what arrives and hands it to tasks, until the endpoint is closed.
async fn attend(
    endpoint: Endpoint,
    way: Way,
    trust: TrustStore,
    settled: mpsc::Sender<Result<Accepted, AcceptError>>,
) {
    let places = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    while let Some(incoming) = endpoint.accept().await {
        if places.available_permits() <= MAX_HANDSHAKES / 2 && incoming.may_retry() {
            // It fails only where `may_retry` says no.
            let _ = incoming.retry();
            continue;
        }
        let Ok(place) = places.clone().try_acquire_owned() else {
            tracing::warn!(remote = %incoming.remote_address(), "too many handshakes at once, refused one");
            incoming.refuse();
            continue;
        };
        let (trust, settled) = (trust.clone(), settled.clone());
        tokio::spawn(async move {
            report(settle(incoming, way, &trust).await, &settled).await;
            drop(place);
        });
    }
}

/// One handshake, from the first packet to the admission.
async fn settle(incoming: Incoming, way: Way, trust: &TrustStore) -> Result<Accepted, AcceptError> {
    let caller = incoming.remote_address();
    let remote = SocketAddr::new(caller.ip().to_canonical(), caller.port());
    let lost = |source| match source {
        source if is_version_mismatch(&source) => AcceptError::Version { remote, source },
        source => AcceptError::Handshake { remote, source },
    };
    let settled = async {
        let connection = incoming.accept().map_err(lost)?.await.map_err(lost)?;
        let peer = admission::admit(&connection, trust, true)
            .await
            .map_err(|source| AcceptError::NotAdmitted { remote, source })?;
        Ok(Accepted { connection, peer, remote, driver: Handle::current(), way })
    };
    timeout(HANDSHAKE_LIMIT, settled).await.unwrap_or(Err(AcceptError::Timeout { remote }))
}

/// Hands the outcome to whoever accepts. A good one waits for its turn and keeps its place meanwhile; a
/// bad one is dropped when the queue is full, so that strangers cannot fill it.
async fn report(
    outcome: Result<Accepted, AcceptError>,
    settled: &mpsc::Sender<Result<Accepted, AcceptError>>,
) {
    match outcome {
        Ok(accepted) => {
            tracing::debug!(remote = %accepted.remote, fingerprint = %accepted.peer, "let a peer in");
            if let Err(mpsc::error::SendError(Ok(accepted))) = settled.send(Ok(accepted)).await {
                accepted.connection.close(CLOSE_DONE, b"this host is shutting down");
            }
        }
        Err(error) => {
            error.log();
            match settled.try_send(Err(error)) {
                // Logged is enough.
                Ok(()) | Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_has_no_cause_names_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Arc::new(file.reopen().unwrap());
        let remote: SocketAddr = "10.0.0.1:7".parse().unwrap();
        let written = tracing_subscriber::fmt().with_ansi(false).with_writer(log).finish();
        tracing::subscriber::with_default(written, || {
            AcceptError::Timeout { remote }.log();
            AcceptError::Handshake { remote, source: ConnectionError::Reset }.log();
        });
        let said = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<&str> = said.lines().collect();
        assert!(lines[0].ends_with("10.0.0.1:7 did not finish the handshake within 5 s"), "{said}");
        assert!(lines[1].contains(r#"cause="reset by peer""#), "{said}");
    }
}
