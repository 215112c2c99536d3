//! The hosts that are let in: `ULPM_HOME/trusted`, one `FINGERPRINT [NAME] [LIMIT…]` a line (limits: [`super::permit`]).
//!
//! People may edit the file: empty lines and lines that begin with `#` are kept as they are, anything else
//! must parse. It is read anew for each question, so that `ulpm trust add` takes effect on a running
//! `ulpm serve`; a file that cannot be believed lets nobody in.

use std::fmt;
use std::path::{Path, PathBuf};

use super::fingerprint::{Fingerprint, FingerprintError};
use super::permit::{Permit, PermitError};
use super::private_dir::{self, LockedDir, PrivateDirError};

const FILE: &str = "trusted";

/// One host that is let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustedPeer {
    /// Its key.
    pub fingerprint: Fingerprint,
    /// What its people call it; a remark, nothing is decided by it.
    pub name: Option<String>,
    /// How far it may go.
    pub permit: Permit,
}

impl fmt::Display for TrustedPeer {
    /// As the line of the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.fingerprint)?;
        self.name.iter().try_for_each(|name| write!(f, " {name}"))?;
        write!(f, "{}", self.permit)
    }
}

/// What [`TrustStore::add`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Added {
    /// The peer was unknown.
    New,
    /// The peer was trusted and has another name, or other limits, now.
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

    /// Trusts `fingerprint` without limits, under `name` if one is given; the name it has stays otherwise.
    pub fn add(&self, fingerprint: Fingerprint, name: Option<&str>) -> Result<Added, TrustError> {
        self.add_with(fingerprint, name, |known| Ok(known.unwrap_or_default()))
    }

    /// The same with limits: `limits` is given those it has, if it is trusted already.
    pub fn add_with(
        &self,
        fingerprint: Fingerprint,
        name: Option<&str>,
        limits: impl FnOnce(Option<Permit>) -> Result<Permit, PermitError>,
    ) -> Result<Added, TrustError> {
        if let Some(name) = name {
            check_name(name)?;
        }
        let locked = LockedDir::lock(&self.dir)?;
        let mut lines = self.read()?;
        let added = match lines.iter_mut().filter_map(Line::peer_mut).find(|p| p.fingerprint == fingerprint) {
            None => {
                let (name, permit) = (name.map(str::to_owned), limits(None)?);
                lines.push(Line::Peer(TrustedPeer { fingerprint, name, permit }));
                Added::New
            }
            Some(peer) if peer.permit.revoked => return Err(TrustError::Revoked { fingerprint }),
            Some(peer) => {
                let before = peer.clone();
                peer.permit = limits(Some(peer.permit.clone()))?;
                peer.name = name.map(str::to_owned).or_else(|| peer.name.take());
                if *peer == before { Added::Already } else { Added::Renamed }
            }
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

    /// Marks as revoked the peer with this fingerprint, or all those with this name; an unknown fingerprint is noted, too.
    pub fn revoke(&self, fingerprint_or_name: &str) -> Result<Vec<TrustedPeer>, TrustError> {
        let wanted = fingerprint_or_name.parse::<Fingerprint>();
        let locked = LockedDir::lock(&self.dir)?;
        let mut lines = self.read()?;
        let mut revoked = Vec::new();
        for peer in lines.iter_mut().filter_map(Line::peer_mut) {
            let meant = match wanted {
                Ok(fingerprint) => peer.fingerprint == fingerprint,
                Err(FingerprintError) => peer.name.as_deref() == Some(fingerprint_or_name),
            };
            if meant {
                peer.permit.revoked = true;
                revoked.push(peer.clone());
            }
        }
        match wanted {
            Ok(fingerprint) if revoked.is_empty() => {
                let permit = Permit { revoked: true, ..Permit::default() };
                let peer = TrustedPeer { fingerprint, name: None, permit };
                revoked.push(peer.clone());
                lines.push(Line::Peer(peer));
            }
            Err(_) if revoked.is_empty() => {
                let wanted = fingerprint_or_name.to_owned();
                return Err(TrustError::NotFound { wanted, path: self.path() });
            }
            _ => {}
        }
        locked.replace(FILE, render(&lines).as_bytes())?;
        Ok(revoked)
    }

    /// All trusted peers, in the order of the file.
    pub fn list(&self) -> Result<Vec<TrustedPeer>, TrustError> {
        Ok(self.read()?.into_iter().filter_map(Line::into_peer).collect())
    }

    /// How far the peer with this key may go, by the file as it is now; `None` if it is a stranger. Should a key be listed
    /// twice, the first line counts, unless one of them is revoked.
    pub fn permit(&self, fingerprint: &Fingerprint) -> Result<Option<Permit>, TrustError> {
        let lines = self.read()?.into_iter().filter_map(Line::into_peer);
        let mut own: Vec<Permit> =
            lines.filter(|p| p.fingerprint == *fingerprint).map(|p| p.permit).collect();
        own.sort_by_key(|permit| !permit.revoked);
        Ok(own.into_iter().next())
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
    /// A limit that makes no sense.
    #[error("cannot read the limits")]
    Limits(#[from] PermitError),
    /// A key that was given up for good.
    #[error(
        "{fingerprint} was revoked; `ulpm trust remove {fingerprint}` first if it is to be trusted again"
    )]
    Revoked {
        /// The key.
        fingerprint: Fingerprint,
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
    /// A word behind the name that has a meaning, but not this one.
    #[error("cannot read the limits")]
    Limit(#[from] PermitError),
    /// What comes after the name.
    #[error("{word:?} is no limit")]
    TooMuch {
        /// The word.
        word: String,
    },
}

/// A line of the file: a peer, or text that is kept as it is.
#[derive(Debug, Clone)]
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
    let parse = |(index, line): (usize, &str)| {
        // of a line that ends with them only the first would be taken for its end
        parse_line(line.trim_end_matches('\r')).map_err(|source| TrustError::Line {
            path: path.to_owned(),
            line: index + 1,
            source,
        })
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
            let mut peer = TrustedPeer { fingerprint: word.parse()?, name: None, permit: Permit::default() };
            for (index, word) in words.enumerate() {
                match peer.permit.take(word)? {
                    true => {}
                    false if index == 0 => peer.name = Some(word.to_owned()),
                    false => return Err(LineError::TooMuch { word: word.to_owned() }),
                }
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
            Line::Peer(peer) => text.push_str(&peer.to_string()),
        }
        text.push('\n');
    }
    text
}

fn check_name(name: &str) -> Result<(), TrustError> {
    let bad = name.is_empty()
        || name.starts_with("SHA256:")
        || Permit::default().take(name) != Ok(false)
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
        assert!(store.permit(&fingerprint(2)).unwrap().is_some());
        assert!(store.permit(&fingerprint(3)).unwrap().is_none());
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
            let error = store.permit(&fingerprint(1)).unwrap_err();
            assert!(matches!(error, TrustError::Line { line: 4, .. }), "{error:?}");
            assert!(error.to_string().contains("trusted:4:"), "{error}");
            assert!(store.add(fingerprint(9), None).is_err());
        }
    }

    #[test]
    fn names_that_break_the_file_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        for name in ["revoked", "memory=1", "expires=x", "", "two words", "line\nbreak", "SHA256:x", "\u{7}"]
        {
            assert!(
                matches!(store.add(fingerprint(1), Some(name)), Err(TrustError::BadName { .. })),
                "{name:?}"
            );
        }
        assert!(!store.path().exists());
    }

    #[test]
    fn limits_are_kept_changed_and_revoked() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        let give = |words: &'static str| {
            move |known: Option<Permit>| {
                let mut permit = known.unwrap_or_else(Permit::ordinary);
                words.split_whitespace().try_for_each(|word| permit.take(word).map(drop))?;
                Ok(permit)
            }
        };
        store.add_with(fingerprint(1), Some("alpha"), give("memory=1G")).unwrap();
        assert_eq!(
            store.permit(&fingerprint(1)).unwrap().unwrap().to_string(),
            " users=ordinary memory=1073741824"
        );
        assert_eq!(store.add_with(fingerprint(1), None, give("users=any")).unwrap(), Added::Renamed);
        assert_eq!(store.add(fingerprint(1), None).unwrap(), Added::Already);
        let line = std::fs::read_to_string(store.path()).unwrap();
        assert_eq!(line, format!("{} alpha memory=1073741824\n", fingerprint(1)));
        assert_eq!(store.permit(&fingerprint(2)).unwrap(), None);
        store.revoke("alpha").unwrap();
        store.revoke(&fingerprint(2).to_string()).unwrap();
        for n in [1, 2] {
            assert!(store.permit(&fingerprint(n)).unwrap().unwrap().revoked);
            assert!(matches!(store.add(fingerprint(n), None), Err(TrustError::Revoked { .. })));
        }
        assert!(matches!(store.revoke("beta"), Err(TrustError::NotFound { .. })));
        // a second line for the same key does not undo it
        let text = format!("{0}\n{0} revoked\n", fingerprint(3));
        std::fs::write(store.path(), text).unwrap();
        assert!(store.permit(&fingerprint(3)).unwrap().unwrap().revoked);
    }

    #[test]
    fn a_file_that_others_may_write_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let store = TrustStore::new(home.path());
        store.add(fingerprint(1), None).unwrap();
        std::fs::set_permissions(store.path(), std::fs::Permissions::from_mode(0o620)).unwrap();
        assert!(matches!(store.permit(&fingerprint(1)), Err(TrustError::File(_))));
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
