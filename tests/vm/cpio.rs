//! Writes the archive that a kernel unpacks as its first root: "newc" cpio, uncompressed (unpacking a compressed one
//! costs more under emulation than it saves).
//!
//! ```text
//!   "070701"  ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!             13 numbers of 8 hexadecimal digits; then name NUL, padded to 4; then content, padded to 4
//! ```
//! Kernel interface: `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

const DIRECTORY: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const FILE: u32 = 0o100_000;

/// An archive being written. Directories come by themselves before what is in them.
pub(super) struct Archive<W: Write> {
    out: W,
    inode: u32,
    there: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, inode: 0, there: BTreeSet::new() }
    }

    /// An empty directory, with those above it.
    pub(super) fn directory(&mut self, path: &Path) -> io::Result<()> {
        let above: Vec<&Path> = path.ancestors().filter(|path| path.file_name().is_some()).collect();
        for path in above.into_iter().rev() {
            if self.there.insert(path.to_owned()) {
                self.entry(path, DIRECTORY, 0, &[])?;
            }
        }
        Ok(())
    }

    /// A file with this content and these permissions.
    pub(super) fn content(&mut self, path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
        self.file_of(path, mode, 0, content)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, path: &Path, target: &str) -> io::Result<()> {
        self.above(path)?;
        if self.there.insert(path.to_owned()) {
            self.entry(path, LINK, 0, target.as_bytes())?;
        }
        Ok(())
    }

    /// A file of this machine under another path, with its permissions and its time; links are followed.
    pub(super) fn file(&mut self, path: &Path, from: &Path) -> io::Result<()> {
        let metadata = fs::metadata(from)?;
        let seconds = u32::try_from(metadata.mtime()).unwrap_or(0);
        self.file_of(path, metadata.mode() & 0o7777, seconds, &fs::read(from)?)
    }

    /// The end mark.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.inode = 0;
        self.entry(Path::new("TRAILER!!!"), 0, 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn file_of(&mut self, path: &Path, mode: u32, seconds: u32, content: &[u8]) -> io::Result<()> {
        self.above(path)?;
        if self.there.insert(path.to_owned()) {
            self.entry(path, FILE | mode, seconds, content)?;
        }
        Ok(())
    }

    fn above(&mut self, path: &Path) -> io::Result<()> {
        path.parent().map_or(Ok(()), |parent| self.directory(parent))
    }

    fn entry(&mut self, path: &Path, mode: u32, seconds: u32, content: &[u8]) -> io::Result<()> {
        let name = path.to_string_lossy();
        let name = name.trim_start_matches('/');
        let size = u32::try_from(content.len()).map_err(io::Error::other)?;
        let name_size = u32::try_from(name.len() + 1).map_err(io::Error::other)?;
        let mut header = String::from("070701");
        for number in [self.inode, mode, 0, 0, 1, seconds, size, 0, 0, 0, 0, name_size, 0] {
            header += &format!("{number:08X}");
        }
        self.inode += 1;
        let mut entry = header.into_bytes();
        entry.extend(name.bytes());
        entry.push(0);
        pad(&mut entry);
        self.out.write_all(&entry)?;
        self.out.write_all(content)?;
        self.out.write_all(&[0; 3][..content.len().next_multiple_of(4) - content.len()])
    }
}

fn pad(entry: &mut Vec<u8>) {
    entry.resize(entry.len().next_multiple_of(4), 0);
}
