//! Names as a terminal and a log may show them. A file's or a process's name may hold any byte but a few: an escape
//! sequence in it would move the cursor, a line break would begin a line that looks like one of ours.
//!
//! Escaped and not blanked: who reads `\x1b[2J` can still find the file. JSON has escapes of its own.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text in one line, whatever a terminal would obey made visible: control characters, marks of direction, characters
/// without width.
pub fn shown(text: &str) -> Cow<'_, str> {
    if !text.contains(is_unseen) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        let _ = match c {
            '\n' => out.write_str("\\n"),
            '\r' => out.write_str("\\r"),
            '\t' => out.write_str("\\t"),
            c if is_unseen(c) && c.is_ascii() => write!(out, "\\x{:02x}", u32::from(c)),
            c if is_unseen(c) => write!(out, "\\u{{{:x}}}", u32::from(c)),
            c => out.write_char(c),
        };
    }
    Cow::Owned(out)
}

/// The same of each line of a text whose lines are ours.
pub fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

/// Whether a terminal obeys it instead of showing it, or shows nothing.
pub fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_seen() {
        assert_eq!(shown("\x1b[1A\nulpm: moved\r\t\x7f"), "\\x1b[1A\\nulpm: moved\\r\\t\\x7f");
        assert_eq!(shown("a\u{202e}b\u{9b}c\u{feff}"), "a\\u{202e}b\\u{9b}c\\u{feff}");
        assert_eq!(shown_lines("one\ntwo\x07\n"), "one\ntwo\\x07\n");
    }

    #[test]
    fn other_names_stay_as_they_are() {
        assert!(matches!(shown("/srv/größe — 大.log \\n"), Cow::Borrowed("/srv/größe — 大.log \\n")));
    }
}
