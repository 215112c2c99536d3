//! The eight bytes before every body. Pure: bytes in, values out, no I/O.
//!
//! ```text
//!  0        2        4                 8
//!  ├────────┼────────┼─────────────────┼───────── … ─┐
//!  │ kind   │ flags  │ len             │ body        │   all little endian
//!  └────────┴────────┴─────────────────┴───────── … ─┘
//! ```
//!
//! `kind` 0 is invalid, so that zeroed memory is no frame. `flags` is 0 in `ulpm/1`; a receiver refuses
//! anything else, so that a later version can give it a meaning. `len` counts the body alone and is held
//! against a cap for its kind before anything is allocated.

/// How long a body of this kind may be; `None` if there is no such kind.
pub type KindCap = fn(u16) -> Option<u32>;

/// What stands before a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// What the body is; never 0.
    pub kind: u16,
    /// How many bytes the body has.
    pub len: u32,
}

/// Why some bytes are no frame, or a body fits in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Fewer bytes than a header has.
    #[error("a frame header has {want} bytes, got {got}", want = Header::LEN)]
    Truncated {
        /// How many there were.
        got: usize,
    },
    /// Kind 0, or one that the receiver does not know.
    #[error("unknown frame kind {kind}")]
    UnknownKind {
        /// The kind.
        kind: u16,
    },
    /// Bits that have no meaning in this version.
    #[error("frame of kind {kind} has unknown flags {flags:#06x}")]
    UnknownFlags {
        /// The kind.
        kind: u16,
        /// The flags.
        flags: u16,
    },
    /// A body longer than its kind allows.
    #[error("frame of kind {kind} has {len} bytes, allowed are {cap}")]
    TooLong {
        /// The kind.
        kind: u16,
        /// The announced length.
        len: u64,
        /// The allowed length.
        cap: u32,
    },
}

impl Header {
    /// How many bytes a header takes.
    pub const LEN: usize = 8;

    /// The header for a body of `len` bytes, if `cap` allows it.
    pub fn new(kind: u16, len: usize, cap: KindCap) -> Result<Self, FrameError> {
        if kind == 0 {
            return Err(FrameError::UnknownKind { kind });
        }
        let cap = cap(kind).ok_or(FrameError::UnknownKind { kind })?;
        match u32::try_from(len) {
            Ok(len) if len <= cap => Ok(Self { kind, len }),
            _ => Err(FrameError::TooLong { kind, len: len as u64, cap }),
        }
    }

    /// The header as it goes on the wire.
    pub fn encode(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        bytes[..2].copy_from_slice(&self.kind.to_le_bytes());
        bytes[4..].copy_from_slice(&self.len.to_le_bytes());
        bytes
    }

    /// The header at the start of `bytes`, refused unless `cap` knows its kind and allows its length.
    pub fn decode(bytes: &[u8], cap: KindCap) -> Result<Self, FrameError> {
        let Some(&[k0, k1, f0, f1, l0, l1, l2, l3]) = bytes.first_chunk::<{ Self::LEN }>() else {
            return Err(FrameError::Truncated { got: bytes.len() });
        };
        let kind = u16::from_le_bytes([k0, k1]);
        let flags = u16::from_le_bytes([f0, f1]);
        let len = u32::from_le_bytes([l0, l1, l2, l3]);
        let header = Self::new(kind, len as usize, cap)?;
        if flags != 0 {
            return Err(FrameError::UnknownFlags { kind, flags });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cap(kind: u16) -> Option<u32> {
        match kind {
            // Zero stays invalid whatever the table says.
            0 | 1 => Some(10),
            2 => Some(u32::MAX),
            _ => None,
        }
    }

    #[test]
    fn round_trip() {
        for (kind, len) in [(1, 0), (1, 10), (2, 1 << 20), (2, u32::MAX as usize)] {
            let header = Header::new(kind, len, cap).unwrap();
            let bytes = header.encode();
            assert_eq!(Header::decode(&bytes, cap), Ok(header));
        }
        assert_eq!(Header { kind: 0x0102, len: 0x03040506 }.encode(), [2, 1, 0, 0, 6, 5, 4, 3]);
    }

    #[test]
    fn truncated() {
        let bytes = Header { kind: 1, len: 3 }.encode();
        for got in 0..Header::LEN {
            assert_eq!(Header::decode(&bytes[..got], cap), Err(FrameError::Truncated { got }));
        }
    }

    #[test]
    fn refused() {
        let too_long = FrameError::TooLong { kind: 1, len: 11, cap: 10 };
        assert_eq!(Header::new(1, 11, cap), Err(too_long));
        assert_eq!(Header::decode(&Header { kind: 1, len: 11 }.encode(), cap), Err(too_long));
        assert!(matches!(Header::new(2, 1 << 32, cap), Err(FrameError::TooLong { .. })));
        for kind in [0, 3, u16::MAX] {
            let unknown = Err(FrameError::UnknownKind { kind });
            assert_eq!(Header::new(kind, 0, cap), unknown);
            assert_eq!(Header::decode(&Header { kind, len: 0 }.encode(), cap), unknown);
        }
        let flagged = [1, 0, 0, 0x80, 0, 0, 0, 0];
        assert_eq!(Header::decode(&flagged, cap), Err(FrameError::UnknownFlags { kind: 1, flags: 0x8000 }));
    }

    #[test]
    fn garbage_never_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..100_000 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let bytes = state.to_le_bytes();
            let len = (state >> 3) as usize % 9;
            if let Ok(header) = Header::decode(&bytes[..len], cap) {
                assert_eq!(header.encode(), bytes);
            }
        }
    }
}
