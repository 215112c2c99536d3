//! Files that use each other in a circle: strongly connected components of the graph of files.
//!
//! An arrow leads to the file that defines what is named, whatever passes it on. Tests are left out: they lie beside
//! what they test. `circles.txt` lists today's circles, a line each.

use std::collections::{BTreeMap, BTreeSet};

use crate::allowance::{entries, say};
use crate::source::Source;

/// Files, what each uses, and a place that shows it.
type Graph = BTreeMap<String, BTreeMap<String, String>>;

fn graph() -> Graph {
    let mut graph = Graph::new();
    for arrow in Source::read().arrows() {
        if arrow.test || !arrow.item || arrow.from == arrow.to {
            continue;
        }
        graph.entry(arrow.to.clone()).or_default();
        let place = format!("{}:{}: {}", arrow.from, arrow.line, arrow.written);
        graph.entry(arrow.from).or_default().entry(arrow.to).or_insert(place);
    }
    graph
}

/// All that can be reached from a file by at least one arrow.
fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let mut open: Vec<&str> = vec![from];
    let mut seen = BTreeSet::new();
    while let Some(file) = open.pop() {
        for next in graph[file].keys() {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    seen
}

/// Strongly connected components of more than one file.
fn circles(graph: &Graph) -> Vec<BTreeSet<String>> {
    let reach: BTreeMap<&String, BTreeSet<String>> =
        graph.keys().map(|file| (file, reached(graph, file))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (file, reached) in &reach {
        if reached.contains(*file) {
            found.insert(reached.iter().filter(|it| reach[it].contains(*file)).cloned().collect());
        }
    }
    found.into_iter().collect()
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let graph = graph();
    let circles = circles(&graph);
    let allowed: Vec<BTreeSet<String>> = entries("circles.txt")
        .iter()
        .map(|line| line.split_whitespace().map(|it| format!("src/{it}.rs")).collect())
        .collect();
    let mut wrong = Vec::new();
    for circle in &circles {
        if allowed.iter().any(|it| circle.is_subset(it)) {
            continue;
        }
        let mut told = format!("{} files in a circle:", circle.len());
        for file in circle {
            for (to, place) in graph[file].iter().filter(|(to, _)| circle.contains(*to)) {
                told.push_str(&format!("\n    {to} is used by {place}"));
            }
        }
        wrong.push(told);
    }
    for file in allowed.iter().flatten() {
        if !circles.iter().any(|circle| circle.contains(file)) {
            wrong.push(format!(
                "tests/house/circles.txt still lists {file}, which is in no circle now: take it out"
            ));
        }
    }
    say("no file uses another in a circle", &wrong);
}

#[test]
fn a_circle_is_found_and_a_line_is_none() {
    let arrows = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e")];
    let mut graph = Graph::new();
    for (from, to) in arrows {
        graph.entry(to.into()).or_default();
        graph.entry(from.into()).or_default().insert(to.into(), String::new());
    }
    let three: BTreeSet<String> = ["a", "b", "c"].map(String::from).into();
    assert_eq!(circles(&graph), [three]);
}
