//! `src/` as its modules: what each defines and re-exports, and every path that it names.
//!
//! Read with `syn`, not resolved by a compiler: paths that begin with `crate`, `self`, `super`, a module's child, or a name
//! that a `use` of the same module brought. Names that come by a glob are seen by the glob alone, and methods not at all
//! (their type was named somewhere).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::Visit as _;

use crate::allowance::{root, shown};
use crate::names::{self, Named};

/// One module: a file, or a block `mod NAME { … }` in one.
#[derive(Default)]
pub(crate) struct Module {
    /// File that holds its text, relative to the project.
    pub(crate) file: String,
    /// Part of the tests: `#[cfg(test)]` here or above.
    pub(crate) test: bool,
    /// Names of its child modules.
    pub(crate) children: BTreeSet<String>,
    /// Names that it defines itself.
    pub(crate) items: BTreeSet<String>,
    /// What `use` brings into it: name, path as written.
    pub(crate) imports: BTreeMap<String, Vec<String>>,
    /// Paths as written, with their lines.
    pub(crate) paths: Vec<Named>,
}

/// All modules, by their path below the crate.
pub(crate) struct Source(pub(crate) BTreeMap<Vec<String>, Module>);

/// A path that arrived somewhere.
pub(crate) struct Arrow {
    pub(crate) from: String,
    pub(crate) line: usize,
    pub(crate) written: String,
    /// Path of the module that defines what is named.
    pub(crate) module: Vec<String>,
    /// File of that module.
    pub(crate) to: String,
    /// It is an item of that module, not the module itself.
    pub(crate) item: bool,
    /// Named by a test.
    pub(crate) test: bool,
}

impl Source {
    /// The library, from `src/lib.rs` on.
    pub(crate) fn read() -> Self {
        let mut source = Self(BTreeMap::new());
        source.file(&root().join("src/lib.rs"), Vec::new(), false);
        source
    }

    fn file(&mut self, path: &Path, module: Vec<String>, test: bool) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("cannot read {}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("cannot parse {}: {e}", path.display()));
        self.items(&file.items, path, module, test);
    }

    fn items(&mut self, items: &[syn::Item], path: &Path, module: Vec<String>, test: bool) {
        let mut here = Module { file: shown(path), test, ..Module::default() };
        for item in items {
            if let syn::Item::Mod(inner) = item {
                here.children.insert(inner.ident.to_string());
                let below = [module.clone(), vec![inner.ident.to_string()]].concat();
                let test = test || names::is_test(&inner.attrs);
                match &inner.content {
                    Some((_, items)) => self.items(items, path, below, test),
                    None => self.file(&child_file(path, inner, module.is_empty()), below, test),
                }
                continue;
            }
            for inner in names::listed_modules(item) {
                here.children.insert(inner.ident.to_string());
                let below = [module.clone(), vec![inner.ident.to_string()]].concat();
                self.file(&child_file(path, &inner, module.is_empty()), below, test);
            }
            if let Some(name) = names::defined(item) {
                here.items.insert(name);
            }
            let mut reader =
                names::Reader { module: &mut here, test: names::is_test(names::attributes(item)) };
            reader.visit_item(item);
        }
        self.0.insert(module, here);
    }

    /// Every path from one file that leads to a module of the crate.
    pub(crate) fn arrows(&self) -> Vec<Arrow> {
        let mut arrows = Vec::new();
        for (path, module) in &self.0 {
            for named in &module.paths {
                let Some((target, item)) = self.resolve(path, &named.segments, 0) else { continue };
                arrows.push(Arrow {
                    from: module.file.clone(),
                    line: named.line,
                    written: named.segments.join("::"),
                    to: self.0[&target].file.clone(),
                    module: target,
                    item,
                    test: module.test || named.test,
                });
            }
        }
        arrows
    }

    /// Module that a path leads to, and whether to an item of it. `None`: not a path of this crate.
    fn resolve(&self, from: &[String], segments: &[String], depth: usize) -> Option<(Vec<String>, bool)> {
        let (mut at, mut rest) = self.begin(from, segments, depth)?;
        loop {
            let Some((first, others)) = rest.split_first() else { return Some((at, false)) };
            let module = self.0.get(&at)?;
            let below = [at.clone(), vec![first.clone()]].concat();
            if first == "super" {
                at.pop();
            } else if self.0.contains_key(&below) {
                at = below;
            } else if module.items.contains(first) || depth > 16 {
                return Some((at, true));
            } else if let Some(import) = module.imports.get(first) {
                let whole = [import.clone(), others.to_vec()].concat();
                return self.resolve(&at, &whole, depth + 1).or(Some((at, true)));
            } else {
                return Some((at, true));
            }
            rest = others;
        }
    }

    /// Module from which the rest of a path is read.
    fn begin<'a>(
        &self,
        from: &[String],
        segments: &'a [String],
        depth: usize,
    ) -> Option<(Vec<String>, &'a [String])> {
        let (first, rest) = segments.split_first()?;
        let module = self.0.get(from)?;
        match first.as_str() {
            "crate" | "ulpm" => Some((Vec::new(), rest)),
            "self" => Some((from.to_vec(), rest)),
            "super" => Some((from[..from.len().checked_sub(1)?].to_vec(), rest)),
            _ if module.children.contains(first) => Some((from.to_vec(), segments)),
            _ => {
                let import =
                    module.imports.get(first).filter(|import| import.first() != Some(first) && depth < 16)?;
                let (at, item) = self.resolve(from, import, depth + 1)?;
                // an item's own parts (variants, functions of a type) lead no further
                Some((at, if item { &segments[1..1] } else { rest })).filter(|_| !item)
            }
        }
    }
}

/// File of `mod NAME;`.
fn child_file(parent: &Path, inner: &syn::ItemMod, _top: bool) -> PathBuf {
    let directory = parent.parent().expect("a file lies in a directory");
    for attribute in &inner.attrs {
        if let syn::Meta::NameValue(pair) = &attribute.meta
            && attribute.path().is_ident("path")
            && let syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(name), .. }) = &pair.value
        {
            return directory.join(name.value());
        }
    }
    let stem = parent.file_stem().and_then(|it| it.to_str()).expect("a name in UTF-8");
    let directory =
        if ["lib", "main", "mod"].contains(&stem) { directory.to_owned() } else { directory.join(stem) };
    let name = inner.ident.to_string();
    let flat = directory.join(format!("{name}.rs"));
    if flat.exists() { flat } else { directory.join(name).join("mod.rs") }
}
