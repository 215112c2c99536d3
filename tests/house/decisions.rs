//! Decisions about kinds of descriptors: whoever looks at a [`FileKind`] says something of each, so that the compiler names every
//! place that a new kind has to decide about. Questions of one kind alone are methods of `FileKind`, which decide likewise.
//!
//! [`FileKind`]: ../../src/image/files.rs

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::allowance::{files, say, shown};
use crate::names;

const KIND: &str = "FileKind";

/// Places of one file where a kind may pass in silence.
#[derive(Default)]
struct Silences {
    lines: Vec<usize>,
}

/// Looks for the name of the type in a pattern.
#[derive(Default)]
struct Naming(bool);

impl<'ast> Visit<'ast> for Naming {
    fn visit_path_segment(&mut self, segment: &'ast syn::PathSegment) {
        self.0 |= segment.ident == KIND;
    }
}

fn names_kind(pattern: &syn::Pat) -> bool {
    let mut naming = Naming::default();
    naming.visit_pat(pattern);
    naming.0
}

fn mentions_kind(tokens: TokenStream) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Group(group) => mentions_kind(group.stream()),
        TokenTree::Ident(ident) => ident == KIND,
        _ => false,
    })
}

/// Takes everything: `_`, or a name without condition.
fn takes_all(pattern: &syn::Pat) -> bool {
    match pattern {
        syn::Pat::Wild(_) => true,
        syn::Pat::Ident(name) => name.subpat.is_none(),
        syn::Pat::Or(or) => or.cases.iter().any(takes_all),
        syn::Pat::Tuple(tuple) => tuple.elems.iter().all(takes_all),
        _ => false,
    }
}

impl<'ast> Visit<'ast> for Silences {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !names::is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_expr_match(&mut self, item: &'ast syn::ExprMatch) {
        if item.arms.iter().any(|arm| names_kind(&arm.pat)) {
            let silent = item.arms.iter().filter(|arm| takes_all(&arm.pat));
            self.lines.extend(silent.map(|arm| arm.span().start().line));
        }
        visit::visit_expr_match(self, item);
    }

    fn visit_expr_let(&mut self, item: &'ast syn::ExprLet) {
        if names_kind(&item.pat) {
            self.lines.push(item.span().start().line);
        }
        visit::visit_expr_let(self, item);
    }

    fn visit_local(&mut self, item: &'ast syn::Local) {
        if names_kind(&item.pat) {
            self.lines.push(item.span().start().line);
        }
        visit::visit_local(self, item);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        if item.path.is_ident("matches") && mentions_kind(item.tokens.clone()) {
            self.lines.push(item.span().start().line);
        }
    }
}

fn silences(text: &str) -> Vec<usize> {
    let mut found = Silences::default();
    found.visit_file(&syn::parse_file(text).expect("text of Rust"));
    found.lines
}

#[test]
fn nobody_passes_over_a_kind_of_descriptor() {
    let mut found = Vec::new();
    for path in files("src", "rs") {
        let file = shown(&path);
        let of_tests = file.ends_with("_tests.rs") || file.ends_with("/testing.rs");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("cannot read {file}: {e}"));
        let lines = if of_tests { Vec::new() } else { silences(&text) };
        found.extend(lines.into_iter().map(|line| format!("{file}:{line}: a kind may pass in silence")));
    }
    say("a match on a kind of descriptor names each of them", &found);
}

#[test]
fn each_way_to_pass_in_silence_is_seen() {
    let lines = |body: &str| silences(&format!("fn f(k: &FileKind) {{ {body} }}")).len();
    assert_eq!(lines("match k { FileKind::Udp(_) => 1, _ => 2 };"), 1);
    assert_eq!(lines("match k { FileKind::Udp(_) => 1, other => 2 };"), 1);
    assert_eq!(lines("match (k, 1) { (FileKind::Udp(_), 1) => 1, (_, _) => 2 };"), 1);
    assert_eq!(lines("if let FileKind::Udp(_) = k {}"), 1);
    assert_eq!(lines("let FileKind::Udp(_) = k else { return };"), 1);
    assert_eq!(lines("matches!(k, FileKind::Udp(_));"), 1);
    assert_eq!(
        lines("match k { FileKind::Udp(_) => 1, FileKind::Unix(_) if x => 2, FileKind::Unix(_) => 3 };"),
        0
    );
    assert_eq!(lines("match 1 { 1 => 2, _ => 3 };"), 0);
}
