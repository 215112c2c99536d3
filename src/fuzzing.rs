//! The doors through which bytes from outside come in, for fuzzers: each takes any bytes, and must neither panic nor take
//! more memory or time than they are worth. `fuzz/` has one target for each (`cargo fuzz run NAME`), `tests/fuzz.rs` goes
//! through all of them for some seconds.
//!
//! Whatever is decoded goes as far as it can be followed without touching this host.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::convergence::learned;
use crate::handover::journal;
use crate::image::memory::Layout;
use crate::image::{TreeImage, bounded, check};
use crate::precopy::control;
use crate::state::sanity;
use crate::transport::frame::Header;
use crate::transport::lane::{FromHolder, FromSource, LazyPlan, PagesHead};
use crate::transport::message::WireMessage;
use crate::transport::protocol::{self, ToSource, ToTarget};
use crate::transport::{Frame, RemoteAddr, hello, trust, words};

/// A door: its name and what is behind it.
pub type Door = (&'static str, fn(&[u8]));

/// All doors.
pub const DOORS: [Door; 10] = [
    ("frame", frame),
    ("to_target", to_target),
    ("to_source", to_source),
    ("image", image),
    ("layout", layout),
    ("lane", lane),
    ("journal", journal_entry),
    ("trust", trusted),
    ("predictions", predictions),
    ("address", address),
];

/// The door of that name.
pub fn door(name: &str) -> Option<fn(&[u8])> {
    DOORS.into_iter().find(|(own, _)| *own == name).map(|(_, door)| door)
}

/// What was understood can be said again, and is understood the same way. (Texts instead of values: NaN differs from itself.)
fn again<T: Serialize + DeserializeOwned + std::fmt::Debug>(value: &T) {
    let said = postcard::to_stdvec(value).expect("what was decoded can be encoded");
    let (back, rest) = bounded::decode_owned::<T>(&said).expect("what was encoded can be decoded");
    assert!(rest.is_empty());
    assert_eq!(format!("{back:?}"), format!("{value:?}"));
}

fn decoded<T: Serialize + DeserializeOwned + std::fmt::Debug>(bytes: &[u8]) -> Option<T> {
    let (value, _) = bounded::decode_owned::<T>(bytes).ok()?;
    again(&value);
    Some(value)
}

/// What a frame says: its kind, and its body.
fn said<M: WireMessage + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let (kind, body) = bytes.split_first_chunk()?;
    let frame = Frame { kind: u16::from_le_bytes(*kind), body: body.to_vec().into() };
    let message = M::read(&frame).ok()??;
    let back = Frame::of(&message).expect("what was decoded can be encoded").message::<M>();
    let back = back.expect("what was encoded can be decoded");
    assert_eq!(format!("{back:?}"), format!("{message:?}"));
    Some(message)
}

/// Headers of frames, at each stage of a conversation.
fn frame(bytes: &[u8]) {
    for cap in [protocol::cap, protocol::greeting_cap, protocol::description_cap, protocol::answer_cap] {
        if let Ok(header) = Header::decode(bytes, cap) {
            assert!(Some(header.len) <= cap(header.kind));
            assert_eq!(header.encode(), bytes[..Header::LEN]);
        }
    }
}

/// What a source says.
fn to_target(bytes: &[u8]) {
    match said::<ToTarget>(bytes) {
        Some(ToTarget::Describe(description)) => {
            let _ = check::id(&description.id).and_then(|()| sanity::tree(&description.tree, false));
        }
        Some(ToTarget::State(tree, _)) => drop(sanity::tree(&tree, true)),
        Some(ToTarget::Zero(_, ranges) | ToTarget::Drop(_, ranges) | ToTarget::ObjectHoles(_, ranges)) => {
            for range in ranges {
                let _ = (range.len(), range.pages(), range.chunks(1 << 18).next());
            }
        }
        Some(ToTarget::Hello(theirs)) => drop(hello::check(&hello::ours(), &theirs)),
        Some(ToTarget::Settle(id)) => drop(check::id(&id)),
        _ => {}
    }
}

/// What a target says.
fn to_source(bytes: &[u8]) {
    match said::<ToSource>(bytes) {
        Some(ToSource::Failed(why)) => assert!(!words::said(&why).contains(char::is_control)),
        Some(ToSource::Preflight { obstacles, notes }) => {
            let obstacles = obstacles.iter().map(|o| words::obstacle(o).to_string());
            let text: String = obstacles.chain(notes.iter().map(|n| words::note(n).to_string())).collect();
            assert!(!text.contains(char::is_control));
        }
        _ => {}
    }
}

fn image(bytes: &[u8]) {
    if let Some(tree) = decoded::<TreeImage>(bytes) {
        let described = sanity::tree(&tree, false);
        if sanity::tree(&tree, true).is_ok() {
            assert_eq!(described, Ok(()), "what is good when frozen was good before");
        }
    }
}

/// Two layouts that pass, and what it takes to make one the other.
fn layout(bytes: &[u8]) {
    if let Some((old, new)) = decoded::<(Layout, Layout)>(bytes) {
        let vdso = crate::image::memory::Vdso { areas: Vec::new(), hash: [0; 32] };
        if check::layout(&old, &vdso).is_ok() && check::layout(&new, &vdso).is_ok() {
            crate::restore::mapper::walk(&old, &new);
            let _ = crate::image::memory::discontinued(&old.vmas, &new.vmas);
        }
    }
}

fn lane(bytes: &[u8]) {
    if let Some((head, content)) = PagesHead::decode(bytes) {
        assert_eq!([&head.encode()[..], content].concat(), bytes);
    }
    said::<FromHolder>(bytes);
    said::<FromSource>(bytes);
    decoded::<LazyPlan>(bytes);
}

/// As it is, and with the checksum that it ought to have.
fn journal_entry(bytes: &[u8]) {
    let _ = journal::decode(bytes);
    let mut sealed = bytes.to_vec();
    if sealed.len() >= 32 {
        let sum = blake3::hash(&sealed[32..]);
        sealed[..32].copy_from_slice(sum.as_bytes());
        if let Some(entry) = journal::decode(&sealed) {
            let _ = entry.process_lives();
        }
    }
}

fn trusted(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        trust::reread(text);
    }
}

fn predictions(bytes: &[u8]) {
    learned::Correction::parse(bytes).check();
}

fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(host) = text.parse::<RemoteAddr>() {
        assert_eq!(host.to_string().parse::<RemoteAddr>().as_ref(), Ok(&host));
    }
    let _ = text.parse::<control::Command>();
}
