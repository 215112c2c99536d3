//! The table of rooms in `docs/design.md` against the paths in `src/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::allowance::{root, say};
use crate::source::Source;

/// What the `uses` column says for a room that may use all rooms below it.
const ALL: &str = "all below";

/// A row of the table.
struct Row {
    room: String,
    uses: Vec<String>,
}

/// The table, from above to below.
fn table() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/design.md")).expect("docs/design.md");
    let section = text.split("\n## Rooms\n").nth(1).expect("docs/design.md has a section `Rooms`");
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [room, _, uses] = cells[..] else { panic!("not a row of three cells: {line}") };
        let room = room.trim_matches('`').trim_end_matches('/').trim_end_matches(".rs").to_owned();
        let uses = uses.split(',').map(|it| it.trim().trim_matches('`').to_owned()).filter(|it| it != "–");
        Row { room, uses: uses.collect() }
    })
    .collect()
}

/// Rooms that each room uses in truth, each with the first place that shows it. What tests use counts like the rest.
fn used() -> BTreeMap<String, BTreeMap<String, String>> {
    let source = Source::read();
    let mut used: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
    for room in &source.0[&Vec::new()].children {
        used.insert(room.clone(), BTreeMap::new());
    }
    for arrow in source.arrows() {
        let Some(to) = arrow.module.first() else { continue };
        let from = arrow.from.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default();
        if from != to && from != "lib" {
            let place = format!("{}:{}: {}", arrow.from, arrow.line, arrow.written);
            used.entry(from.to_owned()).or_default().entry(to.clone()).or_insert(place);
        }
    }
    used
}

#[test]
fn every_arrow_between_rooms_is_in_the_table() {
    let table = table();
    let order: Vec<&str> = table.iter().map(|row| row.room.as_str()).collect();
    let mut wrong = Vec::new();
    for (room, uses) in used() {
        let Some(place) = order.iter().position(|it| *it == room) else {
            wrong.push(format!("src/{room} is not in the table"));
            continue;
        };
        let row = &table[place];
        for (other, shown) in &uses {
            let below = order.iter().position(|it| it == other).is_some_and(|it| it > place);
            if !below {
                wrong
                    .push(format!("{shown}: an arrow upwards, `{other}` stands above `{room}` in the table"));
            } else if !row.uses.iter().any(|it| it == other || it == ALL) {
                wrong.push(format!("{shown}: the table does not let `{room}` use `{other}`"));
            }
        }
        for named in row.uses.iter().filter(|it| *it != ALL && !uses.contains_key(*it)) {
            wrong.push(format!("the table says that `{room}` uses `{named}`, which it does not"));
        }
    }
    say("the table of rooms in docs/design.md is exact, and arrows point down only", &wrong);
}

#[test]
fn the_table_has_each_room_once() {
    let rooms: Vec<String> = table().into_iter().map(|row| row.room).collect();
    let once: BTreeSet<&String> = rooms.iter().collect();
    assert_eq!(once.len(), rooms.len(), "a room stands twice in the table of docs/design.md: {rooms:?}");
    let source = Source::read();
    let missing: Vec<&String> =
        rooms.iter().filter(|it| !source.0[&Vec::new()].children.contains(*it)).collect();
    assert!(
        missing.is_empty(),
        "rooms of the table in docs/design.md that src/lib.rs does not have: {missing:?}"
    );
}
