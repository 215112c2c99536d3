//! What a side is, and whether two sides can talk.

use super::protocol::{Hello, PROTOCOL_VERSION};
use crate::image::{IMAGE_VERSION, PAGE_SIZE};
use crate::sys::{stat, xsave};

/// This side.
pub fn ours() -> Hello {
    let name = nix::sys::utsname::uname().ok();
    let text = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        name.as_ref().map(|n| f(n).to_string_lossy().into_owned()).unwrap_or_default()
    };
    Hello {
        protocol: PROTOCOL_VERSION,
        image: IMAGE_VERSION,
        program: env!("CARGO_PKG_VERSION").to_owned(),
        kernel: text(|n| n.release()),
        host: text(|n| n.nodename()),
        page_size: PAGE_SIZE,
        cpu_components: xsave::components(),
        cpu_features: xsave::feature_words().to_vec(),
        boot_id: stat::boot_id(),
    }
}

/// Whether the two can talk; why not.
pub fn check(ours: &Hello, theirs: &Hello) -> Result<(), String> {
    let mut why = Vec::new();
    if ours.protocol != theirs.protocol {
        why.push(format!("protocol version {}, ours is {}", theirs.protocol, ours.protocol));
    }
    if ours.image != theirs.image {
        why.push(format!("image version {}, ours is {}", theirs.image, ours.image));
    }
    if ours.page_size != theirs.page_size {
        why.push(format!("pages of {} bytes, ours have {}", theirs.page_size, ours.page_size));
    }
    if why.is_empty() {
        return Ok(());
    }
    let theirs = super::words::harmless(&theirs.program, 40);
    Err(format!("it has {} (ulpm {theirs} there, {} here)", why.join(", "), ours.program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_must_be_equal() {
        let us = ours();
        assert_eq!(check(&us, &us), Ok(()));
        let them = Hello { protocol: 7, image: 9, ..us.clone() };
        let why = check(&us, &them).unwrap_err();
        assert!(why.contains("protocol version 7") && why.contains("image version 9"), "{why}");
    }
}
