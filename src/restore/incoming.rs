//! What a session takes from its source: frames, which become calls of the [`Builder`], and how much of it all.

use std::time::Duration;

use super::RestoreError;
use super::builder::Builder;
use crate::image::FilePath;
use crate::transport::page_head::{ObjectHead, PrivateHead};
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
            let (head, content) = PrivateHead::decode(&frame.body).ok_or_else(short)?;
            builder.pages(head.of, head.start, content)?;
        }
        kind::OBJECT_PAGES => {
            let (head, content) = ObjectHead::decode(&frame.body).ok_or_else(short)?;
            builder.object_pages(head.id, head.start, content)?;
        }
        _ => match frame.message()? {
            ToTarget::Layout { of, layout, new_files } => {
                new_files.iter().try_for_each(|(path, _)| permit(path))?;
                builder.layout(of, layout, &new_files)?;
            }
            ToTarget::Zero(of, ranges) => builder.zero(of, &ranges)?,
            ToTarget::Drop(of, ranges) => builder.drop_pages(of, &ranges)?,
            ToTarget::ObjectHoles(id, ranges) => builder.object_holes(id, &ranges)?,
            ToTarget::Lazy(plan) => builder.postpone(plan)?,
            ToTarget::Digests(digests) => builder.digests(digests),
            other => return Ok(Some(other)),
        },
    }
    Ok(None)
}

fn short() -> RestoreError {
    RestoreError::Nonsense("a page frame without an address".to_owned())
}
