//! The hello as it travels. Whatever else changes from version to version, this does not, and so each version can read which one the other
//! is:
//!
//! ```text
//! magic "ulpm" │ protocol u32 │ image u32 │ program: length, text │ about: length, bytes      little endian; lengths are varints
//! ```
//! `about` is for those whose versions are equal. It is a list of fields that only ever grows at its end: what follows those that one knows
//! is of a build that knows more, and is left alone.

use serde::{Deserialize, Serialize};

use crate::image::bounded;

const MAGIC: [u8; 4] = *b"ulpm";

/// Which version a side is, and what it says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// `ulpm`.
    pub magic: Magic,
    /// [`PROTOCOL_VERSION`](super::protocol::PROTOCOL_VERSION).
    #[serde(with = "postcard::fixint::le")]
    pub protocol: u32,
    /// [`IMAGE_VERSION`](crate::image::IMAGE_VERSION).
    #[serde(with = "postcard::fixint::le")]
    pub image: u32,
    /// Version of the program, for messages.
    pub program: String,
    /// [`About`], as a version wrote it.
    pub about: Vec<u8>,
}

/// What a side is, beyond its version. New fields come last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// `uname -r`.
    pub kernel: String,
    /// `uname -n`.
    pub host: String,
    /// Bytes of a page.
    pub page_size: u64,
    /// Enabled register state components (XCR0).
    pub cpu_components: u64,
    /// CPUID feature words.
    pub cpu_features: Vec<u32>,
    /// `/proc/sys/kernel/random/boot_id`: equal on both sides means one kernel, one clock.
    pub boot_id: String,
}

/// What a hello begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "[u8; 4]", try_from = "[u8; 4]")]
pub struct Magic;

impl From<Magic> for [u8; 4] {
    fn from(_: Magic) -> Self {
        MAGIC
    }
}

impl TryFrom<[u8; 4]> for Magic {
    type Error = &'static str;

    fn try_from(bytes: [u8; 4]) -> Result<Self, Self::Error> {
        if bytes == MAGIC { Ok(Magic) } else { Err("no hello of ulpm") }
    }
}

impl Hello {
    /// Of a side of these versions.
    pub fn new(protocol: u32, image: u32, program: &str, about: &About) -> Self {
        let about = about.encode();
        Hello { magic: Magic, protocol, image, program: program.to_owned(), about }
    }
}

impl About {
    /// As it travels.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_else(|_| unreachable!("texts and numbers have an encoding"))
    }

    /// Of a side of our version; what it says beyond what we know is left alone.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        bounded::decode_owned(bytes).ok().map(|(about, _)| about)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Frame;
    use crate::transport::protocol::ToTarget;

    fn about() -> About {
        About {
            kernel: "6.1".to_owned(),
            host: "a".to_owned(),
            page_size: 4096,
            cpu_components: 7,
            cpu_features: vec![1, 2],
            boot_id: "b".to_owned(),
        }
    }

    /// Byte by byte: other versions rely on it.
    #[test]
    fn the_prefix_is_fixed() {
        let hello = Hello { about: vec![9, 8], ..Hello::new(0x0102_0304, 3, "0.1", &about()) };
        let frame = Frame::of(&ToTarget::Hello(hello.clone())).unwrap();
        assert_eq!(frame.kind, 1);
        assert_eq!(frame.body, [b"ulpm", &[4, 3, 2, 1, 3, 0, 0, 0, 3][..], b"0.1", &[2, 9, 8]].concat());
        assert_eq!(frame.message::<ToTarget>().unwrap(), ToTarget::Hello(hello));
        let other = Frame { kind: 1, body: frame.body.to_vec().iter().map(|b| b ^ 1).collect() };
        assert!(other.message::<ToTarget>().is_err(), "no hello at all");
    }

    #[test]
    fn a_later_build_may_say_more() {
        let more = [about().encode(), vec![5; 100]].concat();
        assert_eq!(About::decode(&more), Some(about()));
        assert_eq!(About::decode(&about().encode()[..5]), None);
    }
}
