//! The file `state` of a checkpoint, and any other file of its kind: sections behind a header that can be read before anything else
//! is believed. Everything but the header's own fields is a checksum away from being used. Little endian.
//!
//! ```text
//! offset  bytes
//!      0      8  "ulpmckpt"
//!      8      4  FORMAT_VERSION: of this file
//!     12      4  IMAGE_VERSION: of what a process is (src/image/)
//!     16      4  PROTOCOL_VERSION: of the messages that are kept
//!     20      4  number of sections
//!     24      8  bytes of the whole file
//!     32     24  version of the program that wrote it, as text, filled up with zeroes
//!     56      8  xxh3-64 of bytes 0 to 56
//!     64         sections: kind (u32), 0 (u32), length (u64), xxh3-64 of the content (u64), content
//!    end-16  16  xxh3-128 of everything before
//! ```

use std::io::{self, Read as _, Write};

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::image::IMAGE_VERSION;
use crate::transport::protocol::PROTOCOL_VERSION;

/// Version of the layout of files and directories; of what is in them there are others.
pub(crate) const FORMAT_VERSION: u32 = 1;

const MAGIC: &[u8; 8] = b"ulpmckpt";
const HEADER: usize = 64;
const SECTION: usize = 24;
const SUM: usize = 16;
const PROGRAM: std::ops::Range<usize> = 32..56;

/// What a section holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Kind {
    /// [`super::contents::Provenance`].
    About = 1,
    /// The tree of stopped processes.
    Tree = 2,
    /// [`super::contents::Memory`].
    Memory = 3,
    /// xxh3-64 of each page of the file `pages`.
    Sums = 4,
    /// Signals that came after the state.
    Signals = 5,
}

/// Why a file is not taken for a whole one in our version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FormatError {
    /// Something else.
    #[error("it does not begin as a checkpoint does")]
    NotOne,
    /// Written by another version.
    #[error(
        "ulpm {program} wrote it in version {theirs} (format, image, protocol), and this ulpm {} reads version {ours} only; install the same version of ulpm",
        env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Version of the program that wrote it.
        program: String,
        /// Its three versions.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// It ends too early, or too late.
    #[error("it has {is} bytes instead of {wanted}")]
    Length {
        /// Bytes that it has.
        is: u64,
        /// Bytes that it should have.
        wanted: u64,
    },
    /// A checksum does not fit.
    #[error("its {0} has another checksum than was written down")]
    Checksum(&'static str),
    /// A pipe, a link, a directory.
    #[error("it is no regular file")]
    NoFile,
    /// It is damaged, or was taken from elsewhere.
    #[error("it does not hold the name that is in `state`")]
    Name,
    /// A section is not there, or not what it should be.
    #[error("its {0} makes no sense")]
    Nonsense(&'static str),
}

/// Sections as they are written.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    sections: Vec<(Kind, Vec<u8>)>,
}

impl Writer {
    /// With one more section.
    pub(crate) fn with(mut self, kind: Kind, content: Vec<u8>) -> Self {
        self.sections.push((kind, content));
        self
    }

    /// With one more section, as postcard.
    pub(crate) fn with_value<T: serde::Serialize>(self, kind: Kind, value: &T) -> io::Result<Self> {
        let content = postcard::to_stdvec(value).map_err(io::Error::other)?;
        Ok(self.with(kind, content))
    }

    /// The whole file.
    pub(crate) fn finish(self, to: &mut impl Write) -> io::Result<()> {
        let len: usize = self.sections.iter().map(|(_, content)| SECTION + content.len()).sum();
        let mut all = Vec::with_capacity(HEADER + len + SUM);
        all.extend(header(self.sections.len() as u32, (HEADER + len + SUM) as u64));
        for (kind, content) in &self.sections {
            all.extend((*kind as u32).to_le_bytes());
            all.extend(0u32.to_le_bytes());
            all.extend((content.len() as u64).to_le_bytes());
            all.extend(xxh3_64(content).to_le_bytes());
            all.extend(content);
        }
        all.extend(xxh3_128(&all).to_le_bytes());
        to.write_all(&all)
    }
}

fn versions() -> [u32; 3] {
    [FORMAT_VERSION, IMAGE_VERSION, PROTOCOL_VERSION]
}

fn header(sections: u32, len: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    for (at, version) in [8, 12, 16].into_iter().zip(versions()) {
        header[at..at + 4].copy_from_slice(&version.to_le_bytes());
    }
    header[20..24].copy_from_slice(&sections.to_le_bytes());
    header[24..32].copy_from_slice(&len.to_le_bytes());
    let program = env!("CARGO_PKG_VERSION").as_bytes();
    let program = &program[..program.len().min(PROGRAM.len())];
    header[PROGRAM.start..PROGRAM.start + program.len()].copy_from_slice(program);
    let sum = xxh3_64(&header[..56]);
    header[56..].copy_from_slice(&sum.to_le_bytes());
    header
}

/// A whole file, every checksum of which was compared.
#[derive(Debug)]
pub(crate) struct Sections {
    all: Vec<u8>,
    places: Vec<(u32, std::ops::Range<usize>)>,
}

impl Sections {
    /// Reads and checks all of it.
    pub(crate) fn read(mut from: impl io::Read) -> io::Result<Result<Self, FormatError>> {
        let mut all = Vec::new();
        from.by_ref().take(HEADER as u64).read_to_end(&mut all)?;
        if let Err(e) = check_header(&all) {
            return Ok(Err(e));
        }
        from.read_to_end(&mut all)?;
        Ok(Self::check(all))
    }

    fn check(all: Vec<u8>) -> Result<Self, FormatError> {
        let wanted = word(&all[24..32]);
        let length = FormatError::Length { is: all.len() as u64, wanted };
        if all.len() as u64 != wanted || all.len() < HEADER + SUM {
            return Err(length);
        }
        let end = all.len() - SUM;
        if xxh3_128(&all[..end]).to_le_bytes() != all[end..] {
            return Err(FormatError::Checksum("content as a whole"));
        }
        let mut places = Vec::new();
        let mut at = HEADER;
        for _ in 0..number(&all[20..24]) {
            let head = all[..end].get(at..at + SECTION).ok_or(FormatError::Nonsense("list of sections"))?;
            let (kind, len, sum) = (number(&head[..4]), word(&head[8..16]), word(&head[16..24]));
            let from = at + SECTION;
            let to = usize::try_from(len).ok().and_then(|len| from.checked_add(len));
            let to = to.filter(|to| *to <= end).ok_or(FormatError::Nonsense("list of sections"))?;
            if xxh3_64(&all[from..to]) != sum {
                return Err(FormatError::Checksum("section"));
            }
            places.push((kind, from..to));
            at = to;
        }
        if at != end {
            return Err(FormatError::Nonsense("list of sections"));
        }
        Ok(Sections { all, places })
    }

    /// The content of one section.
    pub(crate) fn bytes(&self, kind: Kind) -> Result<&[u8], FormatError> {
        let place = self.places.iter().find(|(is, _)| *is == kind as u32);
        place.map(|(_, place)| &self.all[place.clone()]).ok_or(FormatError::Nonsense("list of sections"))
    }

    /// One section as the value that it was written from.
    pub(crate) fn value<T: serde::de::DeserializeOwned>(
        &self,
        kind: Kind,
        name: &'static str,
    ) -> Result<T, FormatError> {
        let decoded = crate::image::bounded::decode_owned(self.bytes(kind)?);
        match decoded {
            Ok((value, [])) => Ok(value),
            _ => Err(FormatError::Nonsense(name)),
        }
    }
}

/// The versions come before the length: a later one may have another layout.
fn check_header(header: &[u8]) -> Result<(), FormatError> {
    if header.len() < 8 || header[..8] != *MAGIC {
        return Err(FormatError::NotOne);
    }
    if header.len() < HEADER {
        return Err(FormatError::Length { is: header.len() as u64, wanted: HEADER as u64 });
    }
    if xxh3_64(&header[..56]) != word(&header[56..64]) {
        return Err(FormatError::Checksum("header"));
    }
    let theirs = [8, 12, 16].map(|at| number(&header[at..at + 4]));
    if theirs != versions() {
        let told = |[format, image, protocol]: [u32; 3]| format!("{format}, {image}, {protocol}");
        let program: Vec<u8> = header[PROGRAM].iter().copied().take_while(|b| *b != 0).collect();
        let program = crate::transport::words::harmless(&String::from_utf8_lossy(&program), 24);
        return Err(FormatError::Version { program, theirs: told(theirs), ours: told(versions()) });
    }
    Ok(())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let mut all = Vec::new();
        let writer = Writer::default().with(Kind::Sums, vec![7; 40]);
        writer.with_value(Kind::About, &(1u64, "text".to_owned())).unwrap().finish(&mut all).unwrap();
        all
    }

    fn read(all: &[u8]) -> Result<Sections, FormatError> {
        Sections::read(all).unwrap()
    }

    #[test]
    fn what_was_written_is_read() {
        let sections = read(&sample()).unwrap();
        assert_eq!(sections.bytes(Kind::Sums).unwrap(), [7; 40]);
        assert_eq!(sections.value::<(u64, String)>(Kind::About, "x").unwrap(), (1, "text".to_owned()));
        assert_eq!(sections.bytes(Kind::Memory), Err(FormatError::Nonsense("list of sections")));
        assert!(sections.value::<(u64, String, u8)>(Kind::About, "x").is_err());
    }

    #[test]
    fn no_part_of_it_is_taken_for_the_whole() {
        let all = sample();
        for end in 0..all.len() {
            let error = read(&all[..end]).unwrap_err();
            let told = matches!(error, FormatError::NotOne | FormatError::Length { .. });
            assert!(told, "cut at {end}: {error:?}");
        }
        let longer = [&all[..], &[0]].concat();
        assert!(matches!(read(&longer), Err(FormatError::Length { .. })));
    }

    #[test]
    fn no_byte_can_change_unnoticed() {
        let all = sample();
        for at in 0..all.len() {
            let mut changed = all.clone();
            changed[at] ^= 0x10;
            let error = read(&changed).unwrap_err();
            match at {
                0..8 => assert_eq!(error, FormatError::NotOne),
                8..64 => assert_eq!(error, FormatError::Checksum("header"), "at {at}"),
                _ => assert!(matches!(error, FormatError::Checksum(_)), "at {at}: {error:?}"),
            }
        }
    }

    #[test]
    fn another_version_is_named() {
        let mut all = sample();
        all[12] += 1;
        let sum = xxh3_64(&all[..56]).to_le_bytes();
        all[56..64].copy_from_slice(&sum);
        let told = read(&all).unwrap_err().to_string();
        let theirs = format!("{FORMAT_VERSION}, {}, {PROTOCOL_VERSION}", IMAGE_VERSION + 1);
        assert!(told.contains(&theirs) && told.contains("install the same version"), "{told}");
    }
}
