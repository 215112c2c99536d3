//! A list of exceptions that can only become shorter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The project's own directory.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from)
}

/// All files with this ending below a directory of the project, sorted.
pub(crate) fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let mut open = vec![root().join(directory)];
    let mut found = Vec::new();
    while let Some(directory) = open.pop() {
        for entry in
            fs::read_dir(&directory).unwrap_or_else(|e| panic!("cannot list {}: {e}", directory.display()))
        {
            let path = entry.expect("an entry of a directory").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|it| it == ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A path as it is written in messages and lists: relative to the project.
pub(crate) fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// Entries of a list in `tests/house`: a line each, what follows a `#` is the reason.
pub(crate) fn entries(list: &str) -> Vec<String> {
    let path = root().join("tests/house").join(list);
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default().trim().to_owned());
    lines.filter(|line| !line.is_empty()).collect()
}

/// Fails unless what was found is exactly what the list allows. `found` is (entry, what to say about it).
pub(crate) fn hold(list: &str, rule: &str, found: &[(String, String)]) {
    let allowed: BTreeSet<String> = entries(list).into_iter().collect();
    let mut wrong: Vec<String> =
        found.iter().filter(|(entry, _)| !allowed.contains(entry)).map(|(_, told)| told.clone()).collect();
    for entry in &allowed {
        if !found.iter().any(|(it, _)| it == entry) {
            wrong.push(format!(
                "tests/house/{list} still lists {entry}, which keeps the rule now: take it out"
            ));
        }
    }
    say(rule, &wrong);
}

/// Fails with all that is wrong, a line each.
pub(crate) fn say(rule: &str, wrong: &[String]) {
    assert!(wrong.is_empty(), "{rule}; {} against it:\n  {}", wrong.len(), wrong.join("\n  "));
}
