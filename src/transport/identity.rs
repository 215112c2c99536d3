//! This host's identity: one key pair and a self-signed certificate around it, made on first use.
//!
//! Both lie in one PEM file, `identity.pem` (0600), so that they can never belong to two different keys.
//! Whoever holds the directory's lock makes it; a second process on first use finds the first one's.

use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ED25519};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::fingerprint::Fingerprint;
use super::private_dir::{self, LockedDir, PrivateDirError};

const FILE: &str = "identity.pem";
const NEXT: &str = "identity.next.pem";
const OLD: &str = "identity.old.pem";

/// The name in every certificate; nobody checks it, TLS only wants one.
pub(super) const CERTIFICATE_NAME: &str = "ulpm";

/// The key by which other hosts know this one, and the certificate that carries it.
#[derive(Debug)]
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// The identity in `dir`; made there, durably, if there is none yet.
    pub fn load_or_create(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        if let Some(pem) = private_dir::read(&path, 0o077)? {
            return Self::parse(&pem, &path);
        }
        let locked = LockedDir::lock(dir)?;
        // Another process may have been faster between the look and the lock.
        if let Some(pem) = private_dir::read(&path, 0o077)? {
            return Self::parse(&pem, &path);
        }
        let pem = generate().map_err(|source| IdentityError::Generate { path: path.clone(), source })?;
        locked.replace(FILE, pem.as_bytes())?;
        let identity = Self::parse(&pem, &path)?;
        tracing::info!(path = %path.display(), fingerprint = %identity.fingerprint, "made this host's identity");
        Ok(identity)
    }

    /// Makes the key that shall follow this one, if there is none yet; nobody uses it before [`Identity::take_next`].
    pub fn prepare_next(dir: &Path) -> Result<Self, IdentityError> {
        let locked = LockedDir::lock(dir)?;
        let path = dir.join(NEXT);
        if let Some(pem) = private_dir::read(&path, 0o077)? {
            return Self::parse(&pem, &path);
        }
        let pem = generate().map_err(|source| IdentityError::Generate { path: path.clone(), source })?;
        locked.replace(NEXT, pem.as_bytes())?;
        Self::parse(&pem, &path)
    }

    /// Takes the prepared key into use; the one before is kept beside it. `None` if none was prepared.
    pub fn take_next(dir: &Path) -> Result<Option<Self>, IdentityError> {
        let locked = LockedDir::lock(dir)?;
        let (path, next) = (dir.join(FILE), dir.join(NEXT));
        let Some(pem) = private_dir::read(&next, 0o077)? else { return Ok(None) };
        let identity = Self::parse(&pem, &next)?;
        if let Some(before) = private_dir::read(&path, 0o077)? {
            locked.replace(OLD, before.as_bytes())?;
        }
        // one rename: there is a whole identity at every instant
        locked.replace(FILE, pem.as_bytes())?;
        locked.remove(NEXT)?;
        Ok(Some(identity))
    }

    /// What other hosts must trust to talk to this one.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// The certificate, as the handshake presents it.
    pub fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// The private key.
    pub fn key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    fn parse(text: &str, path: &Path) -> Result<Self, IdentityError> {
        let broken =
            |part| move |source: pem::Error| IdentityError::Pem { path: path.to_owned(), part, source };
        let key = PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(broken("private key"))?;
        let certificate = CertificateDer::from_pem_slice(text.as_bytes()).map_err(broken("certificate"))?;
        let fingerprint = Fingerprint::of_certificate(&certificate)
            .map_err(|source| IdentityError::Certificate { path: path.to_owned(), source })?;
        Ok(Self { certificate, key, fingerprint })
    }
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file or its directory.
    #[error(transparent)]
    File(#[from] PrivateDirError),
    /// The file lacks a part or the part is garbled.
    #[error("{} has no readable {part}; move the file away and a new identity is made", path.display())]
    Pem {
        /// The identity file.
        path: PathBuf,
        /// What is missing.
        part: &'static str,
        /// What the PEM reader said.
        source: pem::Error,
    },
    /// The certificate cannot be parsed.
    #[error("the certificate in {} is broken; move the file away and a new identity is made", path.display())]
    Certificate {
        /// The identity file.
        path: PathBuf,
        /// What the certificate parser said.
        source: rustls::Error,
    },
    /// No key or certificate could be made.
    #[error("cannot make an identity for {}", path.display())]
    Generate {
        /// The identity file.
        path: PathBuf,
        /// What the generator said.
        source: rcgen::Error,
    },
}

/// A new key and certificate, both as PEM in one text.
fn generate() -> Result<String, rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ED25519)?;
    let mut params = CertificateParams::new([CERTIFICATE_NAME.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CERTIFICATE_NAME);
    let certificate = params.self_signed(&key)?;
    Ok(format!("{}{}", key.serialize_pem(), certificate.pem()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Barrier;

    use super::*;

    #[test]
    fn made_once_and_found_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("new");
        let first = Identity::load_or_create(&dir).unwrap();
        let again = Identity::load_or_create(&dir).unwrap();
        assert_eq!(first.fingerprint(), again.fingerprint());
        assert_eq!(first.certificate(), again.certificate());
        let other = Identity::load_or_create(&home.path().join("other")).unwrap();
        assert_ne!(first.fingerprint(), other.fingerprint());
    }

    #[test]
    fn racing_first_uses_agree() {
        for _ in 0..8 {
            let home = tempfile::tempdir().unwrap();
            let barrier = Barrier::new(6);
            let fingerprints: Vec<_> = std::thread::scope(|scope| {
                let run = || {
                    barrier.wait();
                    Identity::load_or_create(home.path()).unwrap().fingerprint()
                };
                let threads: Vec<_> = (0..6).map(|_| scope.spawn(run)).collect();
                threads.into_iter().map(|t| t.join().unwrap()).collect()
            });
            assert!(fingerprints.windows(2).all(|w| w[0] == w[1]), "{fingerprints:?}");
        }
    }

    #[test]
    fn the_next_key_is_taken_when_it_is_time() {
        let home = tempfile::tempdir().unwrap();
        let first = Identity::load_or_create(home.path()).unwrap().fingerprint();
        assert!(Identity::take_next(home.path()).unwrap().is_none());
        let next = Identity::prepare_next(home.path()).unwrap().fingerprint();
        assert_eq!(Identity::prepare_next(home.path()).unwrap().fingerprint(), next);
        assert_eq!(Identity::load_or_create(home.path()).unwrap().fingerprint(), first);
        assert_eq!(Identity::take_next(home.path()).unwrap().unwrap().fingerprint(), next);
        assert_eq!(Identity::load_or_create(home.path()).unwrap().fingerprint(), next);
        assert!(Identity::take_next(home.path()).unwrap().is_none());
        let names = ["identity.pem", "identity.old.pem"].map(|name| {
            std::os::unix::fs::PermissionsExt::mode(
                &fs::metadata(home.path().join(name)).unwrap().permissions(),
            ) & 0o777
        });
        assert_eq!(names, [0o600, 0o600]);
    }

    #[test]
    fn garbage_is_named() {
        let home = tempfile::tempdir().unwrap();
        let dir = LockedDir::lock(home.path()).unwrap();
        dir.replace(FILE, b"nonsense").unwrap();
        let error = Identity::load_or_create(home.path()).unwrap_err().to_string();
        assert!(error.contains("identity.pem has no readable private key"), "{error}");
        let pem = generate().unwrap();
        let half = pem.find("-----BEGIN CERT").unwrap() + 100;
        dir.replace(FILE, &pem.as_bytes()[..half]).unwrap();
        let error = Identity::load_or_create(home.path()).unwrap_err().to_string();
        assert!(error.contains("has no readable certificate"), "{error}");
        assert!(fs::read(home.path().join(FILE)).is_ok());
    }
}
