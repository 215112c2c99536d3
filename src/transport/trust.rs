//! The hosts that are let in: `ULPM_HOME/trusted`, one `FINGERPRINT NAME` a line.
//!
//! People may edit the file: empty lines and lines that begin with `#` are kept as they are, anything else
//! must parse. It is read anew for each question, so that `ulpm trust add` takes effect on a running
//! `ulpm serve`; a file that cannot be believed lets nobody in.

use std::path::{Path, PathBuf};

use super::fingerprint::{Fingerprint, FingerprintError};
use super::private_dir::{self, LockedDir, PrivateDirError};

const FILE: &str = "trusted";

/// One host that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPeer {
    /// Its key.
    pub fingerprint: Fingerprint,
    /// What its people call it; a remark, nothing is decided by it.
    pub name: Option<String>,
}

/// What [`TrustStore::add`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The peer was unknown.
    New,
    /// The peer was trusted and has another name now.
    Renamed,
    /// Nothing changed.
    Already,
}

/// The list of trusted peers in one directory. Holds no state: each call reads the file.
#[derive(Debug, Clone)]
pub struct TrustStore {
    dir: PathBuf,
}

impl TrustStore {
    /// The store in `dir`; neither needs to exist, an absent file trusts nobody.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The file behind the store.
    pub fn path(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Trusts `fingerprint`, under `name` if one is given; the name it has stays otherwise.
    pub fn add(&self, fingerprint: Fingerprint, name: Option<&str>) -> Result<Added, TrustError> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let locked = LockedDir::lock(&self.dir)?;
        let mut lines = self.read()?;
        let added = match lines.iter_mut().filter_map(Line::peer_mut).find(|p| p.fingerprint == fingerprint) {
            None => {
                let name = name.map(str::to_owned);
                lines.push(Line::Peer(TrustedPeer { fingerprint, name }));
                Added::New
            }
            Some(peer) if name.is_some() && peer.name.as_deref() != name => {
                peer.name = name.map(str::to_owned);
                Added::Renamed
            }
            Some(_) => Added::Already,
        };
        if added != Added::Already {
            locked.replace(FILE, render(&lines).as_bytes())?;
        }
        Ok(added)
    }

    /// Trusts no longer the peer with this fingerprint, or all those with this name; returns who went.
    pub fn remove(&self, fingerprint_or_name: &str) -> Result<Vec<TrustedPeer>, TrustError> {
        let wanted = fingerprint_or_name.parse::<Fingerprint>();
        let goes = |peer: &TrustedPeer| match wanted {
            Ok(fingerprint) => peer.fingerprint == fingerprint,
            Err(FingerprintError) => peer.name.as_deref() == Some(fingerprint_or_name),
        };
        let locked = LockedDir::lock(&self.dir)?;
        let mut removed = Vec::new();
        let mut kept = Vec::new();
        for line in self.read()? {
            match line {
                Line::Peer(peer) if goes(&peer) => removed.push(peer),
                line => kept.push(line),
            }
        }
        if removed.is_empty() {
            let wanted = fingerprint_or_name.to_owned();
            return Err(TrustError::NotFound { wanted, path: self.path() });
        }
        locked.replace(FILE, render(&kept).as_bytes())?;
        Ok(removed)
    }

    /// All trusted peers, in the order of the file.
    pub fn list(&self) -> Result<Vec<TrustedPeer>, TrustError> {
        Ok(self.read()?.into_iter().filter_map(Line::into_peer).collect())
    }

    /// Whether the peer with this key is let in, by the file as it is now.
    pub fn is_trusted(&self, fingerprint: &Fingerprint) -> Result<bool, TrustError> {
        Ok(self.read()?.into_iter().filter_map(Line::into_peer).any(|p| p.fingerprint == *fingerprint))
    }

    fn read(&self) -> Result<Vec<Line>, TrustError> {
        let path = self.path();
        // Readable by others is harmless, writable by others is not.
        let text = private_dir::read(&path, 0o022)?.unwrap_or_default();
        parse(&text, &path)
    }
}

/// What can go wrong with the list of trusted peers.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file or its directory.
    #[error(transparent)]
    File(#[from] PrivateDirError),
    /// A line that is no peer.
    #[error("{}:{line}: cannot read this line", path.display())]
    Line {
        /// The trust file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        source: LineError,
    },
    /// Nobody to remove.
    #[error("{wanted:?} is neither the fingerprint nor the name of a trusted peer in {}", path.display())]
    NotFound {
        /// What was asked for.
        wanted: String,
        /// The trust file.
        path: PathBuf,
    },
    /// A name that the file could not hold.
    #[error("{name:?} cannot name a peer: use one word without spaces that is no fingerprint")]
    BadName {
        /// The name.
        name: String,
    },
}

/// What is wrong with one line of the trust file.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The first word.
    #[error(transparent)]
    Fingerprint(#[from] FingerprintError),
    /// What comes after the name.
    #[error("more than FINGERPRINT NAME")]
    TooMuch,
}

/// A line of the file: a peer, or text that is kept as it is.
#[derive(Debug)]
enum Line {
    Text(String),
    Peer(TrustedPeer),
}

impl Line {
    fn into_peer(self) -> Option<TrustedPeer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Text(_) => None,
        }
    }

    fn peer_mut(&mut self) -> Option<&mut TrustedPeer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Text(_) => None,
        }
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<Line>, TrustError> {
    let parse = |(index, line)| {
        parse_line(line).map_err(|source| TrustError::Line { path: path.to_owned(), line: index + 1, source })
    };
    text.lines().enumerate().map(parse).collect()
}

/// Reads a text as the file and writes it again, for fuzzers: what is understood is written so that it is understood again.
pub(crate) fn reread(text: &str) {
    let path = Path::new("trusted");
    if let Ok(lines) = parse(text, path) {
        let again = parse(&render(&lines), path).expect("what was written can be read");
        assert_eq!(format!("{again:?}"), format!("{lines:?}"));
    }
}

fn parse_line(line: &str) -> Result<Line, LineError> {
    let mut words = line.split_whitespace();
    match words.next() {
        None => Ok(Line::Text(line.to_owned())),
        Some(word) if word.starts_with('#') => Ok(Line::Text(line.to_owned())),
        Some(word) => {
            let peer = TrustedPeer { fingerprint: word.parse()?, name: words.next().map(str::to_owned) };
            if words.next().is_some() {
                return Err(LineError::TooMuch);
            }
            Ok(Line::Peer(peer))
        }
    }
}

fn render(lines: &[Line]) -> String {
    let mut text = String::new();
    for line in lines {
        match line {
            Line::Text(line) => text.push_str(line),
            Line::Peer(TrustedPeer { fingerprint, name: None }) => text.push_str(&fingerprint.to_string()),
            Line::Peer(TrustedPeer { fingerprint, name: Some(name) }) => {
                text.push_str(&format!("{fingerprint} {name}"));
            }
        }
        text.push('\n');
    }
    text
}

fn check_name(name: &str) -> Result<(), TrustError> {
    let bad = name.is_empty()
        || name.starts_with("SHA256:")
        || name.chars().any(|c| c.is_whitespace() || c.is_control());
    if bad { Err(TrustError::BadName { name: name.to_owned() }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn fingerprint(n: u8) -> Fingerprint {
        Fingerprint([n; 32])
    }

    #[test]
    fn add_list_remove() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path().join("sub"));
        assert_eq!(store.list().unwrap(), []);
        assert_eq!(store.add(fingerprint(1), Some("alpha")).unwrap(), Added::New);
        assert_eq!(store.add(fingerprint(2), None).unwrap(), Added::New);
        assert_eq!(store.add(fingerprint(1), None).unwrap(), Added::Already);
        assert_eq!(store.add(fingerprint(2), Some("beta")).unwrap(), Added::Renamed);
        assert!(store.is_trusted(&fingerprint(2)).unwrap());
        assert!(!store.is_trusted(&fingerprint(3)).unwrap());
        assert_eq!(store.remove("alpha").unwrap().len(), 1);
        assert_eq!(store.remove(&fingerprint(2).to_string()).unwrap()[0].name.as_deref(), Some("beta"));
        assert_eq!(store.list().unwrap(), []);
        assert!(matches!(store.remove("alpha"), Err(TrustError::NotFound { .. })));
    }

    #[test]
    fn remarks_stay_and_bad_lines_are_numbered() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        let text = format!("# friends\n\n{} alpha\n", fingerprint(1));
        std::fs::write(store.path(), &text).unwrap();
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o644)).unwrap();
        store.add(fingerprint(2), None).unwrap();
        let now = std::fs::read_to_string(store.path()).unwrap();
        assert_eq!(now, format!("{text}{}\n", fingerprint(2)));

        for bad in ["SHA256:short beta", "what is this", &format!("{} a b", fingerprint(3))] {
            std::fs::write(store.path(), format!("{text}{bad}\n")).unwrap();
            let error = store.is_trusted(&fingerprint(1)).unwrap_err();
            assert!(matches!(error, TrustError::Line { line: 4, .. }), "{error:?}");
            assert!(error.to_string().contains("trusted:4:"), "{error}");
            assert!(store.add(fingerprint(9), None).is_err());
        }
    }

    #[test]
    fn names_that_break_the_file_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        for name in ["", "two words", "line\nbreak", "SHA256:x", "\u{7}"] {
            assert!(
                matches!(store.add(fingerprint(1), Some(name)), Err(TrustError::BadName { .. })),
                "{name:?}"
            );
        }
        assert!(!store.path().exists());
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        store.add(fingerprint(1), None).unwrap();
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(store.is_trusted(&fingerprint(1)), Err(TrustError::File(_))));
    }

    #[test]
    fn racing_adds_all_arrive() {
        let home = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for n in 0..16 {
                let store = TrustStore::new(home.path());
                scope.spawn(move || store.add(fingerprint(n), Some(&format!("host{n}"))).unwrap());
            }
        });
        assert_eq!(TrustStore::new(home.path()).list().unwrap().len(), 16);
    }
}
