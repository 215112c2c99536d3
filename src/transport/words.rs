//! What the other host wrote, fit for a terminal and a log: no control characters, no more than a few lines.

use crate::image::{Note, Obstacle, shown};

/// Longest text of another host that is shown.
const LONGEST: usize = 2000;

/// One line without control characters, of at most `most` characters before these are escaped.
pub fn harmless(text: &str, most: usize) -> String {
    shown(&text.chars().take(most).collect::<String>()).into_owned()
}

/// The other host's own words.
pub fn said(text: &str) -> String {
    harmless(text, LONGEST)
}

/// An obstacle that the other host found.
pub fn obstacle(theirs: &Obstacle) -> Obstacle {
    Obstacle::new(said(&theirs.object), said(&theirs.why), said(&theirs.advice))
}

/// A note of the other host.
pub fn note(theirs: &Note) -> Note {
    Note::new(said(&theirs.object), said(&theirs.what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_words_are_made_harmless() {
        assert_eq!(harmless("no\x1b[2Jway\n", 200), "no\\x1b[2Jway\\n");
        assert_eq!(harmless("a\u{202e}b\u{7f}", 2), "a\\u{202e}");
        assert_eq!(harmless(&"é".repeat(5000), 200).chars().count(), 200);
        let theirs = Obstacle::new("\x1b]0;x\x07", "why\r\nnot", "ok");
        assert_eq!(obstacle(&theirs).to_string(), "\\x1b]0;x\\x07: why\\r\\nnot (ok)");
    }
}
