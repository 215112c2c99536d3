//! What this side is, and whether it can talk to another.

use super::greeting::{About, Hello};
use super::protocol::PROTOCOL_VERSION;
use crate::image::{IMAGE_VERSION, PAGE_SIZE};
use crate::sys::{stat, xsave};

/// This side.
pub fn ours() -> Hello {
    Hello::new(PROTOCOL_VERSION, IMAGE_VERSION, env!("CARGO_PKG_VERSION"), &about())
}

/// What this side is, beyond its version.
pub fn about() -> About {
    let name = nix::sys::utsname::uname().ok();
    let text = |f: fn(&nix::sys::utsname::UtsName) -> &std::ffi::OsStr| {
        name.as_ref().map(|n| f(n).to_string_lossy().into_owned()).unwrap_or_default()
    };
    About {
        kernel: text(|n| n.release()),
        host: text(|n| n.nodename()),
        page_size: PAGE_SIZE,
        cpu_components: xsave::components(),
        cpu_features: xsave::feature_words().to_vec(),
        boot_id: stat::boot_id(),
    }
}

/// Whether the two can talk, and then what the other is; why not.
pub fn check(ours: &Hello, theirs: &Hello) -> Result<About, String> {
    let mut why = Vec::new();
    if ours.protocol != theirs.protocol {
        why.push(format!("protocol version {}, ours is {}", theirs.protocol, ours.protocol));
    }
    if ours.image != theirs.image {
        why.push(format!("image version {}, ours is {}", theirs.image, ours.image));
    }
    let program = super::words::harmless(&theirs.program, 40);
    let there_and_here = format!("ulpm {program} there, {} here", ours.program);
    if !why.is_empty() {
        return Err(format!("it has {} ({there_and_here})", why.join(", ")));
    }
    let Some(about) = About::decode(&theirs.about) else {
        return Err(format!("it has our versions, and does not say what it is ({there_and_here})"));
    };
    if about.page_size != PAGE_SIZE {
        return Err(format!("it has pages of {} bytes, ours have {PAGE_SIZE}", about.page_size));
    }
    Ok(about)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_must_be_equal() {
        let us = ours();
        assert_eq!(check(&us, &us), Ok(about()));
        // nothing of what another version says beside its number is looked at
        let them =
            Hello { protocol: 7, image: 9, program: "9.9".to_owned(), about: vec![0xff], ..us.clone() };
        let why = check(&us, &them).unwrap_err();
        assert!(why.contains("protocol version 7") && why.contains("image version 9"), "{why}");
        assert!(why.contains("ulpm 9.9 there"), "{why}");
        let other = Hello { about: About { page_size: 65536, ..about() }.encode(), ..us.clone() };
        assert!(check(&us, &other).unwrap_err().contains("pages of 65536 bytes"));
        assert!(check(&us, &Hello { about: Vec::new(), ..us.clone() }).is_err());
    }
}
