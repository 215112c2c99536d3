//! What stands before the content in a frame of pages: whose they are, and from where on. Pure. (Of pages that come late:
//! [`super::lane::PagesHead`].)
//!
//! ```text
//! PAGES         process u32 │ address u64 │ content          all little endian
//! OBJECT_PAGES  dev u64 │ ino u64 │ offset u64 │ content
//! ```

use crate::image::{ObjectId, ProcessIndex};

/// Before pages of private memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrivateHead {
    /// The process.
    pub of: ProcessIndex,
    /// Address of the first byte.
    pub start: u64,
}

/// Before pages of a memory object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// The object.
    pub id: ObjectId,
    /// Offset of the first byte.
    pub start: u64,
}

impl PrivateHead {
    /// Bytes of an encoded head.
    pub const LEN: usize = 12;

    /// As it is on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..4].copy_from_slice(&self.of.0.to_le_bytes());
        bytes[4..].copy_from_slice(&self.start.to_le_bytes());
        bytes
    }

    /// Splits the body of a frame; `None` if it is too short.
    pub fn decode(body: &[u8]) -> Option<(Self, &[u8])> {
        let (of, rest) = body.split_first_chunk()?;
        let (start, content) = rest.split_first_chunk()?;
        let head = Self { of: ProcessIndex(u32::from_le_bytes(*of)), start: u64::from_le_bytes(*start) };
        Some((head, content))
    }
}

impl ObjectHead {
    /// Bytes of an encoded head.
    pub const LEN: usize = 24;

    /// As it is on the wire.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        for (to, word) in bytes.chunks_exact_mut(8).zip([self.id.dev, self.id.ino, self.start]) {
            to.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Splits the body of a frame; `None` if it is too short.
    pub fn decode(body: &[u8]) -> Option<(Self, &[u8])> {
        let (dev, rest) = body.split_first_chunk()?;
        let (ino, rest) = rest.split_first_chunk()?;
        let (start, content) = rest.split_first_chunk()?;
        let id = ObjectId { dev: u64::from_le_bytes(*dev), ino: u64::from_le_bytes(*ino) };
        Some((Self { id, start: u64::from_le_bytes(*start) }, content))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_the_wire() {
        let private = PrivateHead { of: ProcessIndex(0x0102_0304), start: 0x7fff_1234_5000 };
        let body = [&private.encode()[..], b"content"].concat();
        assert_eq!(body[..4], [4, 3, 2, 1]);
        assert_eq!(PrivateHead::decode(&body), Some((private, &b"content"[..])));
        assert_eq!(PrivateHead::decode(&body[..PrivateHead::LEN - 1]), None);

        let object = ObjectHead { id: ObjectId { dev: 7, ino: u64::MAX }, start: 0x3000 };
        let body = [&object.encode()[..], b"content"].concat();
        assert_eq!(ObjectHead::decode(&body), Some((object, &b"content"[..])));
        assert_eq!(ObjectHead::decode(&body[..ObjectHead::LEN - 1]), None);
    }
}
