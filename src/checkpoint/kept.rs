//! A checkpoint that is read: whole and in our version, or not at all.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::contents::{Memory, Provenance, Record};
use super::error::CheckpointError;
use super::extents::{Extents, Spot};
use super::format::{FormatError, Kind, Sections};
use super::place::{PAGES, SIGNALS};
use crate::handover::drawer::{ID, STATE};
use crate::image::process::LateSignal;
use crate::image::{PAGE_SIZE, PageRange, ProcessIndex};
use crate::transport::protocol::PAGES_MAX;

/// One that was opened.
#[derive(Debug)]
pub(crate) struct Kept {
    /// All but the pages.
    pub contents: Record,
    /// Signals that reached the copy at the source after the checkpoint was whole.
    pub later: BTreeMap<ProcessIndex, Vec<LateSignal>>,
    /// Bytes of all its files.
    pub bytes: u64,
    path: PathBuf,
    pages: File,
}

/// What is kept of a range.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Content<'a> {
    /// All zeroes.
    Zero(PageRange),
    /// These bytes, from this address on.
    Bytes(u64, &'a [u8]),
}

impl Kept {
    /// Reads everything but the pages, whose number is compared.
    pub(crate) fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let state = dir.join(STATE);
        let (sections, state_bytes) = match read(&state)? {
            Some(read) => read,
            None if dir.join(PAGES).exists() => return Err(CheckpointError::Unfinished(dir.to_owned())),
            None => return Err(CheckpointError::Nowhere(dir.to_owned())),
        };
        let contents = contents(&sections).map_err(wrong(&state))?;
        named(&dir.join(ID), &contents.about.id)?;
        let later = match read(&dir.join(SIGNALS))? {
            Some((sections, _)) => {
                sections.value(Kind::Signals, "list of signals").map_err(wrong(&dir.join(SIGNALS)))?
            }
            None => BTreeMap::new(),
        };
        let path = dir.join(PAGES);
        let (pages, is) = open(&path)?;
        let wanted = contents.about.slots.saturating_mul(PAGE_SIZE);
        if is != wanted {
            return Err(wrong(&path)(FormatError::Length { is, wanted }));
        }
        Ok(Kept { contents, later, bytes: is + state_bytes, path, pages })
    }

    /// Goes through what is kept of these extents, within `range`, piece by piece; every page is compared with its checksum.
    pub(crate) fn each<E: From<CheckpointError>>(
        &self,
        extents: &Extents,
        range: PageRange,
        mut take: impl FnMut(Content<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut buffer = vec![0; PAGES_MAX];
        for (whole, place) in extents.iter() {
            let part = whole.intersection(&range);
            if part.is_empty() {
                continue;
            }
            let Spot::Stored(first) = place else {
                take(Content::Zero(part))?;
                continue;
            };
            for piece in part.chunks(PAGES_MAX as u64) {
                let slot = first + (piece.start - whole.start) / PAGE_SIZE;
                let content = &mut buffer[..piece.len() as usize];
                self.read(slot, content)?;
                take(Content::Bytes(piece.start, content))?;
            }
        }
        Ok(())
    }

    fn read(&self, slot: u64, content: &mut [u8]) -> Result<(), CheckpointError> {
        let failed = CheckpointError::io("reading", &self.path);
        self.pages.read_exact_at(content, slot * PAGE_SIZE).map_err(failed)?;
        for (slot, page) in (slot..).zip(content.chunks(PAGE_SIZE as usize)) {
            if self.contents.sums.get(slot as usize) != Some(&xxh3_64(page)) {
                return Err(CheckpointError::Page { path: self.path.clone(), slot });
            }
        }
        Ok(())
    }
}

/// All addresses.
pub(crate) fn everywhere() -> PageRange {
    PageRange::new(0, u64::MAX)
}

fn wrong(path: &Path) -> impl FnOnce(FormatError) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::File { path, source }
}

/// A regular file and its length. Nobody is waited for at the other end of anything else, and no link is followed.
fn open(path: &Path) -> Result<(File, u64), CheckpointError> {
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOFOLLOW).open(path);
    let file = match file {
        Err(e) if matches!(e.raw_os_error(), Some(libc::ELOOP | libc::ENXIO)) => {
            return Err(wrong(path)(FormatError::NoFile));
        }
        file => file.map_err(CheckpointError::io("opening", path))?,
    };
    let found = file.metadata().map_err(CheckpointError::io("looking at", path))?;
    if found.is_file() { Ok((file, found.len())) } else { Err(wrong(path)(FormatError::NoFile)) }
}

/// The sections of a file and its length, if it is there.
fn read(path: &Path) -> Result<Option<(Sections, u64)>, CheckpointError> {
    let (file, len) = match open(path) {
        Err(CheckpointError::Io { source, .. })
            if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        file => file?,
    };
    let sections = Sections::read(file).map_err(CheckpointError::io("reading", path))?;
    Ok(Some((sections.map_err(wrong(path))?, len)))
}

/// The name beside it says the same: by it `ulpm recover` knows which hand-over a directory is of.
fn named(path: &Path, id: &str) -> Result<(), CheckpointError> {
    let (file, _) = open(path)?;
    let mut found = Vec::new();
    file.take(id.len() as u64 + 1).read_to_end(&mut found).map_err(CheckpointError::io("reading", path))?;
    if found == id.as_bytes() { Ok(()) } else { Err(wrong(path)(FormatError::Name)) }
}

fn contents(sections: &Sections) -> Result<Record, FormatError> {
    let about: Provenance = sections.value(Kind::About, "description")?;
    let memory: Memory = sections.value(Kind::Memory, "list of pages")?;
    let sums = sections.bytes(Kind::Sums)?;
    let sums: Vec<u64> =
        sums.chunks_exact(8).map(|sum| u64::from_le_bytes(sum.try_into().unwrap_or_default())).collect();
    if sums.len() as u64 != about.slots || !memory.plausible(about.slots) {
        return Err(FormatError::Nonsense("list of pages"));
    }
    Ok(Record { about, tree: sections.value(Kind::Tree, "state")?, memory, sums })
}
