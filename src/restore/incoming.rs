//! What a session takes from its source: frames, which become calls of the [`Builder`], and how much of it all.

use std::time::Duration;

use super::RestoreError;
use super::builder::{Builder, FIRST};
use crate::image::{FilePath, ObjectId};
use crate::transport::protocol::{ToTarget, kind};
use crate::transport::{Frame, words};

/// After how many bytes the memory is held against what the peer may bring.
pub const UNWEIGHED: u64 = 32 << 20;
/// How often the clock is read at most, and how many rounds there may be: no session goes on for ever.
pub const MAX_CLOCKS: u32 = 10_000;
/// See [`MAX_CLOCKS`].
pub const MAX_ROUNDS: u32 = 100_000;

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

/// Makes one frame a call of the builder. What is not about memory is given back. `permit`: whether a file may be mapped.
pub fn place(
    builder: &mut Builder,
    frame: &Frame,
    permit: &dyn Fn(&FilePath) -> Result<(), RestoreError>,
) -> Result<Option<ToTarget>, RestoreError> {
    match frame.kind {
        kind::PAGES => {
            let (addr, content) = frame.body.split_at_checked(8).ok_or_else(short)?;
            builder.pages(FIRST, word(addr), content)?;
        }
        kind::OBJECT_PAGES => {
            let (head, content) = frame.body.split_at_checked(24).ok_or_else(short)?;
            let id = ObjectId { dev: word(&head[..8]), ino: word(&head[8..16]) };
            builder.object_pages(id, word(&head[16..]), content)?;
        }
        _ => match frame.decode::<ToTarget>()? {
            ToTarget::Layout { pid, layout, new_files } => {
                let at = builder.find(pid)?;
                new_files.iter().try_for_each(|(path, _)| permit(path))?;
                builder.layout(at, layout, &new_files)?;
            }
            ToTarget::Zero(ranges) => builder.zero(FIRST, &ranges)?,
            ToTarget::Drop(ranges) => builder.drop_pages(FIRST, &ranges)?,
            ToTarget::ObjectHoles(id, ranges) => builder.object_holes(id, &ranges)?,
            ToTarget::Lazy(plan) => builder.postpone(FIRST, plan)?,
            ToTarget::Digests(digests) => builder.digests(digests),
            other => return Ok(Some(other)),
        },
    }
    Ok(None)
}

fn short() -> RestoreError {
    RestoreError::Nonsense("a page frame without an address".to_owned())
}

fn word(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b))
}
