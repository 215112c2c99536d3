//! Who is let in: the same few steps on both sides of a fresh connection, before any byte of the peer is
//! parsed.
//!
//! ```text
//!  connecting side                              listening side
//!  ───────────────── TLS 1.3, both prove their key ─────────────────
//!  is the target's key trusted?                 is the source's key trusted?
//!     no: close(UNTRUSTED, text)                   no: close(UNTRUSTED, text)
//!  hello on a one-way stream ───────────►◄─────────── hello on a one-way stream
//!  the target's hello has come: done            the source's hello has come: done
//! ```
//!
//! The connecting side's TLS is done before the listening side has looked at its certificate; only the
//! hello tells that it was let in. The text of a close is for people, the code decides.

use quinn::{Connection, ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;

use super::fingerprint::Fingerprint;
use super::permit::{Day, NotNow};
use super::trust::{TrustError, TrustStore};
use super::words::harmless;

/// The close code of a side that is done, or gives up for a reason said elsewhere.
pub const CLOSE_DONE: VarInt = VarInt::from_u32(0);
/// The close code of a side that does not trust the other's key.
pub const CLOSE_UNTRUSTED: VarInt = VarInt::from_u32(1);
/// The close code of a side that cannot read its list of trusted keys.
pub const CLOSE_TRUST_UNREADABLE: VarInt = VarInt::from_u32(2);

/// What each side sends once it has let the other in.
const HELLO: &[u8] = b"ulpm";

/// Why a connection goes no further.
#[derive(Debug, thiserror::Error)]
pub enum AdmissionError {
    /// We do not trust the key that the other side presented.
    #[error("{presented} is not trusted here")]
    UnknownPeer {
        /// The other side's key.
        presented: Fingerprint,
    },
    /// We trust the key, but not now, or not for this.
    #[error("{presented} is not let in: {why}")]
    NotNow {
        /// The other side's key.
        presented: Fingerprint,
        /// Why not.
        why: NotNow,
    },
    /// The other side does not trust our key.
    #[error("{peer} does not let this host in, it says: {reason}")]
    RefusedByPeer {
        /// The other side's key.
        peer: Fingerprint,
        /// Its words, made harmless.
        reason: String,
    },
    /// The other side cannot tell whom it trusts.
    #[error("{peer} cannot read its list of trusted peers")]
    PeerTrustUnreadable {
        /// The other side's key.
        peer: Fingerprint,
    },
    /// We cannot tell whom we trust, so we trust nobody.
    #[error("cannot tell whether {presented} is trusted")]
    Trust {
        /// The other side's key.
        presented: Fingerprint,
        /// What is wrong with our list.
        source: Box<TrustError>,
    },
    /// The handshake ended without a certificate of the other side.
    #[error("the other side presented no certificate")]
    NoCertificate,
    /// The other side sent something else than a hello.
    #[error("the other side did not say hello as ulpm does")]
    BadHello,
    /// The connection broke in between.
    #[error("the connection broke")]
    Lost(#[source] ConnectionError),
}

/// Lets the peer of `connection` in and is let in, or closes it and says why. `receiving`: processes would come from it.
pub(super) async fn admit(
    connection: &Connection,
    trust: &TrustStore,
    receiving: bool,
) -> Result<Fingerprint, AdmissionError> {
    let peer = presented(connection).ok_or(AdmissionError::NoCertificate)?;
    match trust.permit(&peer) {
        Ok(Some(permit)) => {
            if let Err(why) = permit.admits(receiving, Day::today()) {
                connection.close(CLOSE_UNTRUSTED, format!("{peer} is not let in: {why}").as_bytes());
                return Err(AdmissionError::NotNow { presented: peer, why });
            }
        }
        Ok(None) => {
            connection.close(CLOSE_UNTRUSTED, format!("{peer} is not trusted here").as_bytes());
            return Err(AdmissionError::UnknownPeer { presented: peer });
        }
        Err(source) => {
            connection.close(CLOSE_TRUST_UNREADABLE, b"the list of trusted peers cannot be read");
            return Err(AdmissionError::Trust { presented: peer, source: Box::new(source) });
        }
    }
    say_hello(connection).await.map_err(|()| broken(connection, peer))?;
    let hello = hear_hello(connection).await.map_err(|()| broken(connection, peer))?;
    if hello != HELLO {
        connection.close(CLOSE_DONE, b"this is no ulpm hello");
        return Err(AdmissionError::BadHello);
    }
    Ok(peer)
}

/// The key that the other side has proved to hold.
fn presented(connection: &Connection) -> Option<Fingerprint> {
    let certificates = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Fingerprint::of_certificate(certificates.first()?).ok()
}

/// An error here means that the connection has closed; [`broken`] finds out how.
async fn say_hello(connection: &Connection) -> Result<(), ()> {
    let mut stream = connection.open_uni().await.map_err(drop)?;
    stream.write_all(HELLO).await.map_err(drop)?;
    stream.finish().map_err(drop)
}

async fn hear_hello(connection: &Connection) -> Result<Vec<u8>, ()> {
    let mut stream = connection.accept_uni().await.map_err(drop)?;
    match stream.read_to_end(HELLO.len()).await {
        Ok(hello) => Ok(hello),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::ConnectionLost(_))) => Err(()),
        // Too long or taken back: no hello of ours.
        Err(_) => Ok(Vec::new()),
    }
}

fn broken(connection: &Connection, peer: Fingerprint) -> AdmissionError {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) if close.error_code == CLOSE_UNTRUSTED => {
            AdmissionError::RefusedByPeer {
                peer,
                reason: harmless(&String::from_utf8_lossy(&close.reason), 200),
            }
        }
        Some(ConnectionError::ApplicationClosed(close)) if close.error_code == CLOSE_TRUST_UNREADABLE => {
            AdmissionError::PeerTrustUnreadable { peer }
        }
        Some(lost) => AdmissionError::Lost(lost),
        // A stream failed on a live connection: the other side stopped reading our hello.
        None => AdmissionError::BadHello,
    }
}
