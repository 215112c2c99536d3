//! Names in one module's text: what an item defines, what `use` brings, which paths are written.

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};

use crate::source::Module;

/// A path as it is written.
pub(crate) struct Named {
    pub(crate) segments: Vec<String>,
    pub(crate) line: usize,
    pub(crate) test: bool,
}

/// Gathers the paths of one item.
pub(crate) struct Reader<'a> {
    pub(crate) module: &'a mut Module,
    pub(crate) test: bool,
}

impl Reader<'_> {
    fn add(&mut self, segments: Vec<String>, line: usize) {
        self.module.paths.push(Named { segments, line, test: self.test });
    }

    fn tree(&mut self, tree: &syn::UseTree, before: &[String], passes: bool) {
        let line = tree.span().start().line;
        match tree {
            syn::UseTree::Path(path) => {
                self.tree(&path.tree, &[before, &[path.ident.to_string()]].concat(), passes);
            }
            syn::UseTree::Name(name) => self.bring(before, &name.ident, &name.ident, line, passes),
            syn::UseTree::Rename(rename) => self.bring(before, &rename.ident, &rename.rename, line, passes),
            syn::UseTree::Glob(_) => self.add(before.to_vec(), line),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.tree(tree, before, passes);
                }
            }
        }
    }

    /// One name that `use` brings. What is only passed on is nothing that this file uses.
    fn bring(&mut self, before: &[String], name: &syn::Ident, here: &syn::Ident, line: usize, passes: bool) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_string());
        }
        let here = if here == "self" { path.last().cloned().unwrap_or_default() } else { here.to_string() };
        if !passes {
            self.add(path.clone(), line);
        }
        self.module.imports.insert(here, path);
    }

    /// Paths in the arguments of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let (mut path, mut line, mut colons): (Vec<String>, usize, usize) = (Vec::new(), 0, 0);
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        self.end(&mut path, line);
                        line = ident.span().start().line;
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.end(&mut path, line);
                    colons = 0;
                    self.tokens(group.stream());
                }
                _ => {
                    self.end(&mut path, line);
                    colons = 0;
                }
            }
        }
        self.end(&mut path, line);
    }

    fn end(&mut self, path: &mut Vec<String>, line: usize) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.add(path, line);
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let passes = !matches!(item.vis, syn::Visibility::Inherited);
        self.tree(&item.tree, &[], passes);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|it| it.ident.to_string()).collect();
        if segments.len() > 1 {
            self.add(segments, path.span().start().line);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.visit_path(&item.path);
        self.tokens(item.tokens.clone());
    }

    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

/// `#[cfg(test)]` or `#[test]`.
pub(crate) fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::List(list) => {
            list.path.is_ident("cfg")
                && list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|it| it == "test")
        }
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::NameValue(_) => false,
    })
}

/// Attributes of an item.
pub(crate) fn attributes(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(it) => &it.attrs,
        syn::Item::Enum(it) => &it.attrs,
        syn::Item::Fn(it) => &it.attrs,
        syn::Item::Impl(it) => &it.attrs,
        syn::Item::Static(it) => &it.attrs,
        syn::Item::Struct(it) => &it.attrs,
        syn::Item::Trait(it) => &it.attrs,
        syn::Item::Type(it) => &it.attrs,
        syn::Item::Use(it) => &it.attrs,
        syn::Item::Macro(it) => &it.attrs,
        _ => &[],
    }
}

/// Name of a type that an item defines.
pub(crate) fn type_name(item: &syn::Item) -> Option<String> {
    match item {
        syn::Item::Enum(it) => Some(it.ident.to_string()),
        syn::Item::Struct(it) => Some(it.ident.to_string()),
        syn::Item::Trait(it) => Some(it.ident.to_string()),
        syn::Item::Type(it) => Some(it.ident.to_string()),
        syn::Item::Union(it) => Some(it.ident.to_string()),
        _ => None,
    }
}

/// Name that an item defines.
pub(crate) fn defined(item: &syn::Item) -> Option<String> {
    match item {
        syn::Item::Const(it) => Some(it.ident.to_string()),
        syn::Item::Fn(it) => Some(it.sig.ident.to_string()),
        syn::Item::Static(it) => Some(it.ident.to_string()),
        syn::Item::Macro(it) => it.ident.as_ref().map(ToString::to_string),
        _ => type_name(item),
    }
}

/// Modules that a list of `kinds!` declares: each of its lines is `FILE::TYPE;`.
pub(crate) fn listed_modules(item: &syn::Item) -> Vec<syn::ItemMod> {
    let syn::Item::Macro(list) = item else { return Vec::new() };
    if !list.mac.path.is_ident("kinds") {
        return Vec::new();
    }
    let tokens: Vec<TokenTree> = list.mac.tokens.clone().into_iter().collect();
    let file = |tokens: &[TokenTree]| match tokens {
        [TokenTree::Ident(file), TokenTree::Punct(one), TokenTree::Punct(two), TokenTree::Ident(_)]
            if one.as_char() == ':' && two.as_char() == ':' =>
        {
            Some(syn::parse_quote!(mod #file;))
        }
        _ => None,
    };
    tokens.windows(4).filter_map(file).collect()
}
