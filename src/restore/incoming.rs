//! What a session takes from its source: frames of pages, files that were mapped since, and how much of it all.

use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use super::objects::Objects;
use super::skeleton::Skeleton;
use super::{RestoreError, pages};
use crate::image::files::{ContentHashes, FileIdentity};
use crate::image::{FilePath, ObjectId, PAGE_SIZE};
use crate::state::files::{Access, FileCheck, check_file};
use crate::transport::{Frame, words};

/// After how many bytes the memory is held against what the peer may bring.
pub const UNWEIGHED: u64 = 32 << 20;
/// How often the clock is read at most, and how many rounds there may be: no session goes on for ever.
pub const MAX_CLOCKS: u32 = 10_000;
/// See [`MAX_CLOCKS`].
pub const MAX_ROUNDS: u32 = 100_000;

/// Bytes that the process takes here so far.
pub fn weight(skeleton: &Skeleton, objects: &Objects) -> u64 {
    let objects = objects.iter().filter_map(|(_, file)| file.metadata().ok());
    skeleton.written.pages() * PAGE_SIZE + objects.map(|m| m.blocks() * 512).sum::<u64>()
}

/// Nothing came for so long.
pub fn silent(patience: Duration) -> RestoreError {
    RestoreError::Aborted(format!("silent for {} s", patience.as_secs()))
}

/// There is no end to it.
pub fn endless() -> RestoreError {
    RestoreError::Nonsense("the same again and again".to_owned())
}

/// The source gave up, in its own words.
pub fn aborted(why: &str) -> RestoreError {
    RestoreError::Aborted(words::said(why))
}

/// Files mapped since preflight must be the same here.
pub fn compare(files: &[(FilePath, FileIdentity)]) -> Result<(), RestoreError> {
    for (path, identity) in files {
        let object = format!("mapped file {path}");
        match check_file(&object, path, identity, Access::Read, &ContentHashes::new()) {
            FileCheck::Same | FileCheck::SameContent(_) => {}
            FileCheck::NeedsHash => {
                return Err(RestoreError::Differs(format!(
                    "{object} was mapped since preflight, and may differ here"
                )));
            }
            FileCheck::Differs(obstacle) => return Err(RestoreError::Differs(obstacle.to_string())),
        }
    }
    Ok(())
}

/// Places a frame of pages.
pub fn place_pages(skeleton: &mut Skeleton, frame: &Frame) -> Result<(), RestoreError> {
    let (addr, data) = frame.body.split_at_checked(8).ok_or_else(short)?;
    pages::write(skeleton, word(addr), data)
}

/// Places a frame of an object's pages.
pub fn place_object_pages(objects: &Objects, frame: &Frame) -> Result<(), RestoreError> {
    let (head, data) = frame.body.split_at_checked(24).ok_or_else(short)?;
    let id = ObjectId { dev: word(&head[..8]), ino: word(&head[8..16]) };
    objects.write(id, word(&head[16..]), data)
}

fn short() -> RestoreError {
    RestoreError::Nonsense("a page frame without an address".to_owned())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b))
}
