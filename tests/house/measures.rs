//! Sizes, `unsafe`, names of types, width of prose.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::allowance::{files, hold, root, say, shown};
use crate::names;

/// Most lines of a file.
const FILE_LINES: usize = 500;
/// Most lines of a function, from its signature to its closing brace.
const FUNCTION_LINES: usize = 60;
/// Widest line of prose, in characters.
const PROSE: usize = 110;

/// Directories with Rust text.
const RUST: [&str; 4] = ["src", "tests", "benches", "fuzz/fuzz_targets"];

fn text(path: &PathBuf) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()))
}

fn parsed(path: &PathBuf) -> syn::File {
    syn::parse_file(&text(path)).unwrap_or_else(|e| panic!("cannot parse {}: {e}", path.display()))
}

fn rust() -> impl Iterator<Item = PathBuf> {
    RUST.iter().flat_map(|directory| files(directory, "rs"))
}

#[test]
fn files_are_short() {
    let long = rust()
        .map(|path| (shown(&path), text(&path).lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES);
    let found: Vec<_> =
        long.map(|(file, lines)| (file.clone(), format!("{file} has {lines} lines"))).collect();
    hold("long_files.txt", &format!("a file has at most {FILE_LINES} lines"), &found);
}

/// Gathers functions that are too long, and places of `unsafe`.
#[derive(Default)]
struct Measured {
    long: Vec<(String, usize, usize)>,
    unsafe_lines: Vec<usize>,
}

impl Measured {
    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let (first, last) = (signature.span().start().line, block.span().end().line);
        if last - first + 1 > FUNCTION_LINES {
            self.long.push((signature.ident.to_string(), first, last - first + 1));
        }
        if signature.unsafety.is_some() {
            self.unsafe_lines.push(first);
        }
    }

    fn tokens(&mut self, tokens: proc_macro2::TokenStream) {
        for token in tokens {
            match token {
                proc_macro2::TokenTree::Group(group) => self.tokens(group.stream()),
                proc_macro2::TokenTree::Ident(ident) if ident == "unsafe" => {
                    self.unsafe_lines.push(ident.span().start().line);
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Measured {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.function(&item.sig, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.function(&item.sig, block);
        }
        visit::visit_trait_item_fn(self, item);
    }

    fn visit_expr_unsafe(&mut self, item: &'ast syn::ExprUnsafe) {
        self.unsafe_lines.push(item.span().start().line);
        visit::visit_expr_unsafe(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if item.unsafety.is_some() {
            self.unsafe_lines.push(item.span().start().line);
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.unsafe_lines.push(item.span().start().line);
        visit::visit_item_foreign_mod(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(item.tokens.clone());
    }
}

fn measured(path: &PathBuf) -> Measured {
    let mut measured = Measured::default();
    measured.visit_file(&parsed(path));
    measured
}

#[test]
fn functions_are_short() {
    let mut found = Vec::new();
    for path in rust() {
        for (name, line, lines) in measured(&path).long {
            let file = shown(&path);
            found.push((format!("{file} {name}"), format!("{file}:{line}: `{name}` has {lines} lines")));
        }
    }
    hold("long_functions.txt", &format!("a function has at most {FUNCTION_LINES} lines"), &found);
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let mut found = Vec::new();
    for path in rust() {
        let file = shown(&path);
        let at_home = ["src/sys/", "src/tracee/"].iter().any(|room| file.starts_with(room));
        if let Some(line) = measured(&path).unsafe_lines.first().filter(|_| !at_home) {
            found.push((file.clone(), format!("{file}:{line}: `unsafe`")));
        }
    }
    hold("unsafe.txt", "`unsafe` stands in src/sys/ and src/tracee/ only", &found);
}

/// Types of one file, without those of its tests.
fn types(items: &[syn::Item], file: &str, into: &mut BTreeMap<String, Vec<String>>) {
    for item in items {
        if let syn::Item::Mod(inner) = item {
            if let Some((_, items)) = inner.content.as_ref().filter(|_| !names::is_test(&inner.attrs)) {
                types(items, file, into);
            }
        } else if let Some(name) = names::type_name(item).filter(|_| !names::is_test(names::attributes(item)))
        {
            into.entry(name).or_default().push(format!("{file}:{}", item.span().start().line));
        }
    }
}

#[test]
fn a_type_name_is_used_once() {
    let mut all = BTreeMap::new();
    for path in files("src", "rs").iter().filter(|path| !shown(path).ends_with("_tests.rs")) {
        types(&parsed(path).items, &shown(path), &mut all);
    }
    let twice = all.iter().filter(|(_, places)| places.len() > 1);
    let found: Vec<_> =
        twice.map(|(name, places)| (name.clone(), format!("{name}: {}", places.join(", ")))).collect();
    hold("type_names.txt", "a type name is used once in src/", &found);
}

/// Lines of prose that are too wide: neither a table's row, nor in a block of code.
fn wide(text: &str) -> Vec<usize> {
    let mut code = false;
    let mut wide = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            code = !code;
        } else if !code && !line.starts_with('|') && line.chars().count() > PROSE {
            wide.push(number + 1);
        }
    }
    wide
}

#[test]
fn prose_is_narrow() {
    let mut pages = files("docs", "md");
    pages.extend(["README.md", "SECURITY.md"].map(|name| root().join(name)));
    let mut found = Vec::new();
    for page in pages {
        let (file, lines) = (shown(&page), wide(&text(&page)));
        if let Some(first) = lines.first() {
            let told =
                format!("{file}:{first}: wider than {PROSE} columns, and {} lines more", lines.len() - 1);
            found.push((file, told));
        }
    }
    hold("wide_pages.txt", &format!("a line of prose has at most {PROSE} columns"), &found);
}

#[test]
fn a_table_and_code_may_be_wide() {
    let long = "x".repeat(PROSE + 1);
    let page = format!("{long}\n| {long} |\n```text\n{long}\n```\nshort\n{long}\n");
    assert_eq!(wide(&page), [1, 7]);
}

#[test]
fn every_file_of_src_belongs_to_the_library_or_the_program() {
    let source = crate::source::Source::read();
    let known: std::collections::BTreeSet<&String> = source.0.values().map(|module| &module.file).collect();
    let all = files("src", "rs").into_iter().map(|path| shown(&path)).filter(|file| file != "src/main.rs");
    let wrong: Vec<String> = all.filter(|file| !known.contains(file)).collect();
    say("every file in src/ is a module of the library", &wrong);
}
