//! Obstacles and notes as lines for a person: many of one kind are one line.
//!
//! Of one kind are those with the same advice whose reasons differ in paths and numbers only. More than three of them
//! become a count and the first three; `-v` has them all, and so has JSON.

use crate::image::{Note, Obstacle, shown};

/// As many are named.
const NAMED: usize = 3;

/// One line each, or one for many of a kind.
pub fn obstacles(all: &[Obstacle], in_full: bool) -> Vec<String> {
    let items = all.iter().map(|o| Item { object: &o.object, why: &o.why, advice: Some(&o.advice) });
    lines(items.collect(), in_full)
}

/// The same of notes.
pub fn notes(all: &[Note], in_full: bool) -> Vec<String> {
    let items = all.iter().map(|n| Item { object: &n.object, why: &n.what, advice: None });
    lines(items.collect(), in_full)
}

#[derive(Clone, Copy)]
struct Item<'a> {
    object: &'a str,
    why: &'a str,
    advice: Option<&'a str>,
}

impl Item<'_> {
    fn kind(&self) -> (String, Option<&str>) {
        (shape(self.why), self.advice)
    }

    fn told(&self, objects: &str, why: &str) -> String {
        let advice = self.advice.map(|advice| format!(" ({})", shown(advice))).unwrap_or_default();
        format!("{objects}: {}{advice}", shown(why))
    }
}

fn lines(all: Vec<Item<'_>>, in_full: bool) -> Vec<String> {
    let mut kinds: Vec<Vec<Item<'_>>> = Vec::new();
    for item in all {
        match kinds.iter_mut().find(|kind| !in_full && kind[0].kind() == item.kind()) {
            Some(kind) => kind.push(item),
            None => kinds.push(vec![item]),
        }
    }
    kinds.iter().flat_map(|kind| of_a_kind(kind)).collect()
}

fn of_a_kind(kind: &[Item<'_>]) -> Vec<String> {
    let first = kind[0];
    if kind.len() <= NAMED {
        return kind.iter().map(|item| item.told(&shown(item.object), item.why)).collect();
    }
    let named: Vec<_> = kind.iter().take(NAMED).map(|item| shown(item.object)).collect();
    let objects = format!(
        "{} of one kind: {}; and {} more (-v names them)",
        kind.len(),
        named.join("; "),
        kind.len() - NAMED
    );
    let same = kind.iter().all(|item| item.why == first.why);
    let why = if same { first.why.to_owned() } else { shape(first.why) };
    vec![first.told(&objects, &why)]
}

/// A reason without what differs from one object to the next: paths and numbers.
fn shape(why: &str) -> String {
    let own = |word: &str| word.contains('/') || word.contains(|c: char| c.is_ascii_digit());
    why.split(' ').map(|word| if own(word) { "…" } else { word }).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing(n: usize) -> Obstacle {
        Obstacle::new(format!("fd {n}: /srv/{n}"), format!("/srv/{n} cannot be found"), "copy it")
    }

    #[test]
    fn many_of_a_kind_are_one_line() {
        let mut all: Vec<Obstacle> = (0..20).map(missing).collect();
        all.insert(1, Obstacle::new("fd 99", "a terminal", "redirect it"));
        let expected = "20 of one kind: fd 0: /srv/0; fd 1: /srv/1; fd 2: /srv/2; and 17 more (-v names them): \
             … cannot be found (copy it)";
        assert_eq!(obstacles(&all, false), [expected, "fd 99: a terminal (redirect it)"]);
        assert_eq!(obstacles(&all, true).len(), 21);
        assert_eq!(obstacles(&all[..3], false)[0], "fd 0: /srv/0: /srv/0 cannot be found (copy it)");
        let notes: Vec<Note> = (0..5).map(|n| Note::new(format!("fd {n}"), "it is new")).collect();
        assert_eq!(
            super::notes(&notes, false),
            ["5 of one kind: fd 0; fd 1; fd 2; and 2 more (-v names them): it is new"]
        );
    }

    #[test]
    fn a_name_begins_no_line() {
        let all = [Obstacle::new("fd 3: /a\nulpm: moved", "why\x1b[1A", "do")];
        assert_eq!(obstacles(&all, false), ["fd 3: /a\\nulpm: moved: why\\x1b[1A (do)"]);
    }
}
