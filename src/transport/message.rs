//! Messages on the wire: each has a number of its own, which is the kind of its frame. The body is the postcard encoding of its fields,
//! one after the other.
//!
//! A number says what a message is for ever: it does not follow from the order in which variants stand in the source, and one that is no
//! longer used is not given to another. 0 is none. So a header tells what comes, and how much of it may, before a byte of it is read.
//!
//! | numbers | what |
//! |---|---|
//! | 1 – 99 | [`ToTarget`](super::protocol::ToTarget) |
//! | 101 – 199 | [`ToSource`](super::protocol::ToSource) |
//! | 201 – 219 | [`FromHolder`](super::lane::FromHolder) |
//! | 221 – 239 | [`FromSource`](super::lane::FromSource) |
//! | 301 – 399 | [pages](super::protocol::kind) |

use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::wire_error::WireError;

/// One frame that arrived whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What the body is.
    pub kind: u16,
    /// The body.
    pub body: Bytes,
}

impl Frame {
    /// The frame that says this.
    pub fn of<M: WireMessage>(message: &M) -> Result<Self, WireError> {
        let kind = message.kind();
        let body = message.write(Vec::new()).map_err(|source| WireError::Encode { kind, source })?;
        Ok(Frame { kind, body: body.into() })
    }

    /// What it says, as one of these messages.
    pub fn message<M: WireMessage>(&self) -> Result<M, WireError> {
        M::read(self)?.ok_or(WireError::OutOfTurn { kind: self.kind })
    }

    /// The body as the postcard encoding of exactly one `T`.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, WireError> {
        let (value, rest) = crate::image::bounded::decode_owned(&self.body)
            .map_err(|source| WireError::Decode { kind: self.kind, source })?;
        if !rest.is_empty() {
            return Err(WireError::Trailing { kind: self.kind, extra: rest.len() });
        }
        Ok(value)
    }
}

/// Something that one side says as a frame.
pub trait WireMessage: Sized {
    /// The number of this message.
    fn kind(&self) -> u16;

    /// How long the body of the message with this number may be, in bytes; `None`: there is none.
    fn cap(kind: u16) -> Option<u32>;

    /// Appends the body.
    fn write(&self, to: Vec<u8>) -> Result<Vec<u8>, postcard::Error>;

    /// What a frame says; `None`: its kind is the number of no such message.
    fn read(frame: &Frame) -> Result<Option<Self>, WireError>;
}

/// Gives the variants of an enum their numbers, and names their fields in the order of the wire. `max`: most bytes of a body.
macro_rules! numbered {
    ($name:ident {
        $($number:literal $variant:ident $(($($place:ident),+))? $({ $($field:ident),+ })? max $max:expr;)+
    }) => {
        impl $crate::transport::message::WireMessage for $name {
            fn kind(&self) -> u16 {
                match self {
                    $(Self::$variant { .. } => $number,)+
                }
            }

            fn cap(kind: u16) -> Option<u32> {
                match kind {
                    $($number => Some($max),)+
                    _ => None,
                }
            }

            fn write(&self, to: Vec<u8>) -> Result<Vec<u8>, postcard::Error> {
                match self {
                    $(Self::$variant $(($($place),+))? $({ $($field),+ })? => {
                        postcard::to_extend(&($($($place,)+)? $($($field,)+)?), to)
                    })+
                }
            }

            fn read(
                frame: &$crate::transport::message::Frame,
            ) -> Result<Option<Self>, $crate::transport::WireError> {
                Ok(Some(match frame.kind {
                    $($number => {
                        let ($($($place,)+)? $($($field,)+)?) = frame.decode()?;
                        Self::$variant $(($($place),+))? $({ $($field),+ })?
                    })+
                    _ => return Ok(None),
                }))
            }
        }
    };
}

pub(super) use numbered;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::lane::{FromHolder, FromSource};
    use crate::transport::protocol::{ToSource, ToTarget, kind};

    #[derive(Debug, PartialEq)]
    enum Said {
        Nothing,
        Pair(u8, String),
        Named { size: u64 },
    }

    numbered! {
        Said {
            7 Nothing max 0;
            300 Pair(first, second) max 10;
            9 Named { size } max 5;
        }
    }

    #[test]
    fn a_message_is_its_number_and_its_fields() {
        for (message, kind, body) in [
            (Said::Nothing, 7, &[][..]),
            (Said::Pair(5, "ab".to_owned()), 300, &[5, 2, b'a', b'b']),
            (Said::Named { size: 3 }, 9, &[3]),
        ] {
            let frame = Frame::of(&message).unwrap();
            assert_eq!((frame.kind, &frame.body[..]), (kind, body));
            assert_eq!(frame.message::<Said>().unwrap(), message);
        }
        assert_eq!([7, 300, 9, 0, 8].map(Said::cap), [Some(0), Some(10), Some(5), None, None]);
        let other = Frame { kind: 8, body: Vec::new().into() };
        assert!(matches!(Said::read(&other), Ok(None)));
        assert!(matches!(other.message::<Said>(), Err(WireError::OutOfTurn { kind: 8 })));
        let longer = Frame { kind: 7, body: vec![1].into() };
        assert!(matches!(longer.message::<Said>(), Err(WireError::Trailing { kind: 7, extra: 1 })));
    }

    /// Numbers are for ever: another list is another protocol.
    #[test]
    fn no_number_has_changed() {
        let all = |cap: fn(u16) -> Option<u32>| (0..=u16::MAX).filter(move |kind| cap(*kind).is_some());
        assert!(all(ToTarget::cap).eq(1..=21));
        assert!(all(ToSource::cap).eq(101..=114));
        assert!(all(FromHolder::cap).eq(201..=205));
        assert!(all(FromSource::cap).eq(221..=223));
        assert_eq!([kind::PAGES, kind::OBJECT_PAGES, kind::LAZY_PAGES], [301, 302, 303]);
        let spoken = [
            (ToTarget::Clock.kind(), 2),
            (ToTarget::RoundEnd(0).kind(), 10),
            (ToTarget::Freezing.kind(), 13),
            (ToTarget::Verify.kind(), 15),
            (ToTarget::Commit(Vec::new()).kind(), 17),
            (ToTarget::Abort(String::new()).kind(), 19),
            (ToTarget::Settle(String::new()).kind(), 20),
            (ToTarget::Goodbye.kind(), 21),
            (ToSource::Clock(0, 0).kind(), 102),
            (ToSource::RoundApplied(0).kind(), 106),
            (ToSource::SignalsTaken(0).kind(), 109),
            (ToSource::Failed(String::new()).kind(), 110),
            (ToSource::Settled(None).kind(), 111),
            (ToSource::SettledLater.kind(), 113),
            (FromHolder::Want(Vec::new()).kind(), 201),
            (FromHolder::Killed(String::new()).kind(), 205),
            (FromSource::Zero(Vec::new()).kind(), 221),
            (FromSource::Bye.kind(), 223),
        ];
        for (is, was) in spoken {
            assert_eq!(is, was);
        }
    }
}
