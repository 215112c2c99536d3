//! Names as the kernel has them: bytes without a NUL, of any encoding or none. A path that was made text and opened again
//! would name another file, or none.

use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The path of a file, byte by byte. It is shown so that a terminal takes no harm, and opened as it is.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FilePath(Vec<u8>);

impl FilePath {
    /// As the standard library takes it.
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }

    /// The bytes, without a NUL at the end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether its bytes begin so.
    pub fn starts_with(&self, start: &str) -> bool {
        self.0.starts_with(start.as_bytes())
    }

    /// Whether its bytes end so.
    pub fn ends_with(&self, end: &str) -> bool {
        self.0.ends_with(end.as_bytes())
    }

    /// What is left without this at the beginning.
    pub fn strip_prefix(&self, start: &str) -> Option<Self> {
        self.0.strip_prefix(start.as_bytes()).map(Self::from)
    }

    /// What is left without this at the end, if it is there.
    pub fn without_suffix(&self, end: &str) -> Self {
        self.0.strip_suffix(end.as_bytes()).unwrap_or(&self.0).into()
    }

    /// As text, to be compared with names of the kernel's own; `None`: it is no UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether it is the root directory.
    pub fn is_root(&self) -> bool {
        self.0 == b"/"
    }
}

/// Text for people: what is UTF-8 as it is, control characters ([`super::shown()`]) and other bytes as escapes.
pub fn printable(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(&super::shown(chunk.valid()));
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

impl fmt::Display for FilePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(&printable(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "\"{}\"", self.0.escape_ascii())
    }
}

impl AsRef<Path> for FilePath {
    fn as_ref(&self) -> &Path {
        self.as_path()
    }
}

impl AsRef<[u8]> for FilePath {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<OsStr> for FilePath {
    fn as_ref(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl From<&[u8]> for FilePath {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Vec<u8>> for FilePath {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl From<OsString> for FilePath {
    fn from(name: OsString) -> Self {
        Self(name.into_vec())
    }
}

impl From<PathBuf> for FilePath {
    fn from(path: PathBuf) -> Self {
        Self(path.into_os_string().into_vec())
    }
}

impl From<&Path> for FilePath {
    fn from(path: &Path) -> Self {
        Self(path.as_os_str().as_bytes().to_vec())
    }
}

impl From<&str> for FilePath {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl From<String> for FilePath {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl PartialEq<str> for FilePath {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for FilePath {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_survives_and_none_reaches_the_terminal_raw() {
        let bytes: Vec<u8> = (1..=255).collect();
        let path = FilePath::from(bytes.as_slice());
        assert_eq!(path.as_path().as_os_str().as_bytes(), bytes);
        let sent = postcard::to_stdvec(&path).unwrap();
        assert_eq!(postcard::from_bytes::<FilePath>(&sent).unwrap(), path);
        assert!(!path.to_string().contains(char::is_control));
        assert_eq!(FilePath::from("/tmp/Bücher\n").to_string(), "/tmp/Bücher\\n");
        assert_eq!(FilePath::from(&b"/tmp/B\xfccher\x1b"[..]).to_string(), "/tmp/B\\xfccher\\x1b");
    }
}
