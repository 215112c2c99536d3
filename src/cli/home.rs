//! `ULPM_HOME`: where this host's identity, its trusted peers and its journals live.
//!
//! The environment decides if it says anything; else `/var/lib/ulpm` for root and
//! `~/.local/share/ulpm` for everybody else. Directories are made with mode 0700.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use crate::transport::identity::IdentityError;
use crate::transport::private_dir::{self, PrivateDirError};
use crate::transport::{Identity, TrustStore};

/// The environment variable that names the directory.
pub(crate) const VARIABLE: &str = "ULPM_HOME";

const SYSTEM: &str = "/var/lib/ulpm";
const PER_USER: &str = ".local/share/ulpm";

/// The directory, which exists and is ours.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    path: PathBuf,
}

impl Home {
    /// Finds the directory and makes it if need be.
    pub(crate) fn open() -> Result<Self, HomeError> {
        let euid = nix::unistd::geteuid();
        let chosen = choose(std::env::var_os(VARIABLE), euid.is_root(), std::env::var_os("HOME"))?;
        let path =
            std::path::absolute(&chosen).map_err(|source| HomeError::Relative { path: chosen, source })?;
        private_dir::create(&path)?;
        Ok(Self { path })
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// A directory inside, made if need be.
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf, HomeError> {
        let path = self.path.join(name);
        private_dir::create(&path)?;
        Ok(path)
    }

    /// This host's identity, made on first use.
    pub(crate) fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::load_or_create(&self.path)
    }

    /// The peers that this host trusts.
    pub(crate) fn trust(&self) -> TrustStore {
        TrustStore::new(&self.path)
    }
}

/// Why there is no home.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HomeError {
    /// Nothing says where it should be.
    #[error("neither {VARIABLE} nor HOME is set; set {VARIABLE} to a directory of your own")]
    Nowhere,
    /// A relative path, and the current directory is gone.
    #[error("cannot make {} absolute", path.display())]
    Relative {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The directory cannot be made, or is not private.
    #[error("{VARIABLE} is not usable")]
    Directory(#[from] PrivateDirError),
}

/// An empty variable counts as none.
fn choose(variable: Option<OsString>, root: bool, home: Option<OsString>) -> Result<PathBuf, HomeError> {
    let set = |value: Option<OsString>| value.filter(|value| !value.is_empty()).map(PathBuf::from);
    match (set(variable), root, set(home)) {
        (Some(path), _, _) => Ok(path),
        (None, true, _) => Ok(SYSTEM.into()),
        (None, false, Some(home)) => Ok(home.join(PER_USER)),
        (None, false, None) => Err(HomeError::Nowhere),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_wins_then_root_then_the_user() {
        let os = |text: &str| Some(OsString::from(text));
        let path = |variable, root, home| choose(variable, root, home).unwrap().display().to_string();
        assert_eq!(path(os("/x"), true, os("/root")), "/x");
        assert_eq!(path(None, true, os("/root")), "/var/lib/ulpm");
        assert_eq!(path(os(""), false, os("/home/u")), "/home/u/.local/share/ulpm");
        assert!(matches!(choose(None, false, os("")), Err(HomeError::Nowhere)));
        assert!(matches!(choose(None, false, None), Err(HomeError::Nowhere)));
    }
}
