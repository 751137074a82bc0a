//! Which file of a crate imports which, and by which names: read from the sources, with all paths that name something of ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A module's path below its crate: empty for the root.
type Module = Vec<String>;

/// What one file holds.
#[derive(Default)]
struct File {
    /// Each path that may be one of ours, below the crate's root.
    paths: BTreeSet<Vec<String>>,
    /// What it hands on under a name of its own: the name, and where it comes from.
    re_exports: HashMap<String, Vec<String>>,
    /// There is unsafe code.
    has_unsafe: bool,
    /// What keeps this from seeing all imports.
    escapes: BTreeSet<String>,
    /// The modules of which everything is brought in.
    globs: BTreeSet<Vec<String>>,
}

/// All files of a crate, and what each imports of the others.
pub struct Crate {
    files: BTreeMap<Module, (PathBuf, File)>,
}

/// That one file imports something of another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Import {
    /// The file that imports, relative to the crate's sources.
    pub from: PathBuf,
    /// The file that it imports from.
    pub to: PathBuf,
    /// The name, as a path.
    pub name: String,
}

impl Crate {
    /// Reads the sources below `folder`; `own_name` is how the crate's binary calls the library.
    pub fn read(folder: &Path, own_name: &str) -> Self {
        let mut files = BTreeMap::new();
        for path in sources(folder) {
            let relative = path.strip_prefix(folder).expect("below it").to_owned();
            let module = module_of(&relative);
            let text = fs::read_to_string(&path).expect("a source");
            let syntax = syn::parse_file(&text).expect("it compiles");
            let mut reader = Reader {
                own_name,
                module: if relative == Path::new("main.rs") {
                    Module::new()
                } else {
                    module.clone()
                },
                aliases: vec![HashMap::new()],
                file: File::default(),
            };
            reader.collect_aliases(&syntax.items);
            reader.visit_file(&syntax);
            files.insert(module, (relative, reader.file));
        }
        assert!(files.len() > 5, "{} holds no crate", folder.display());
        Self { files }
    }

    /// All files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.values().map(|(path, _)| path.as_path())
    }

    /// The files that hold unsafe code.
    pub fn unsafe_files(&self) -> impl Iterator<Item = &Path> {
        self.files
            .values()
            .filter(|(_, file)| file.has_unsafe)
            .map(|(path, _)| path.as_path())
    }

    /// What keeps this from seeing all imports of a file: the file, and what it is.
    pub fn escapes(&self) -> Vec<(&Path, String)> {
        let mut found = Vec::new();
        for (path, file) in self.files.values() {
            found.extend(
                file.escapes
                    .iter()
                    .map(|escape| (path.as_path(), escape.clone())),
            );
            // All of a module that only hands on what stands elsewhere is all of elsewhere.
            let hands_on = |glob: &&Vec<String>| {
                let source = self.files.get(glob.as_slice());
                source.is_some_and(|(of, file)| of != path && !file.re_exports.is_empty())
            };
            let globs = file.globs.iter().filter(hands_on);
            found.extend(globs.map(|glob| (path.as_path(), format!("use {}::*", glob.join("::")))));
        }
        found
    }

    /// Every import of one file from another.
    pub fn imports(&self) -> Vec<Import> {
        let mut imports = BTreeSet::new();
        for (path, file) in self.files.values() {
            for name in &file.paths {
                if let Some(to) = self.resolve(name)
                    && to != path
                {
                    imports.insert(Import {
                        from: path.clone(),
                        to: to.clone(),
                        name: name.join("::"),
                    });
                }
            }
        }
        imports.into_iter().collect()
    }

    /// The file in which a path's item stands: behind all re-exports.
    fn resolve(&self, name: &[String]) -> Option<&PathBuf> {
        let mut name = name.to_vec();
        for _ in 0..16 {
            let known = (0..=name.len())
                .rev()
                .find(|length| self.files.contains_key(&name[..*length]))?;
            let (path, file) = &self.files[&name[..known]];
            let Some(item) = name.get(known) else {
                // The root alone says nothing.
                return (known > 0).then_some(path);
            };
            match file.re_exports.get(item) {
                Some(source) => name = [source.as_slice(), &name[known + 1..]].concat(),
                None if known == 0 => return None,
                None => return Some(path),
            }
        }
        panic!("{} is re-exported in a circle", name.join("::"));
    }

    /// The circles of files that import each other, larger than `files_max`.
    pub fn circles(&self, files_max: usize) -> Vec<BTreeSet<PathBuf>> {
        let mut next: BTreeMap<PathBuf, BTreeSet<PathBuf>> = BTreeMap::new();
        for import in self.imports() {
            next.entry(import.from).or_default().insert(import.to);
        }
        let reach = |start: &PathBuf| {
            let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
            while let Some(file) = open.pop() {
                for to in next.get(&file).into_iter().flatten() {
                    if seen.insert(to.clone()) {
                        open.push(to.clone());
                    }
                }
            }
            seen
        };
        let reached: BTreeMap<&PathBuf, BTreeSet<PathBuf>> =
            next.keys().map(|file| (file, reach(file))).collect();
        let circle = |(file, seen): (&&PathBuf, &BTreeSet<PathBuf>)| {
            let back = |to: &&PathBuf| reached.get(to).is_some_and(|of_it| of_it.contains(*file));
            seen.iter().filter(back).cloned().collect::<BTreeSet<_>>()
        };
        let mut circles: Vec<_> = reached.iter().map(circle).collect();
        circles.retain(|circle| circle.len() > files_max);
        circles.sort();
        circles.dedup();
        circles
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            found.push(path);
        }
    }
    found
}

/// "server/mod.rs" and "server.rs" are `server`, "lib.rs" is the root, and "main.rs" stands beside it.
fn module_of(relative: &Path) -> Module {
    let mut module: Module = relative
        .with_extension("")
        .iter()
        .map(|part| part.to_string_lossy().into_owned())
        .collect();
    if module
        .last()
        .is_some_and(|last| last == "mod" || last == "lib")
    {
        module.pop();
    }
    module
}

/// Reads one file.
struct Reader<'a> {
    own_name: &'a str,
    module: Module,
    /// Names that stand for a path of ours, in each block of the file that is open.
    aliases: Vec<HashMap<String, Vec<String>>>,
    file: File,
}

impl Reader<'_> {
    /// A path of ours, below the crate's root.
    fn own(&self, path: &[String]) -> Option<Vec<String>> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            name if name == self.own_name => Some(rest.to_vec()),
            "self" => Some([self.module.as_slice(), rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let base = &self.module[..self.module.len().checked_sub(ups)?];
                Some([base, &path[ups..]].concat())
            }
            name => {
                let known = self
                    .aliases
                    .iter()
                    .rev()
                    .find_map(|known| known.get(name))?;
                Some([known.as_slice(), rest].concat())
            }
        }
    }

    fn note(&mut self, path: &[String]) {
        if let Some(own) = self.own(path) {
            self.file.paths.insert(own);
        }
    }

    /// Notes what the `use`s of a block bring in, before the block is read.
    fn collect_aliases(&mut self, items: &[syn::Item]) {
        for item in items {
            if let syn::Item::Mod(item) = item {
                let name = item.ident.to_string();
                let path = [self.module.as_slice(), std::slice::from_ref(&name)].concat();
                self.aliases.last_mut().expect("a block").insert(name, path);
            }
        }
        for item in items {
            if let syn::Item::Use(item) = item {
                for (name, path) in flattened(&item.tree) {
                    if let Some(own) = self.own(&path) {
                        self.aliases.last_mut().expect("a block").insert(name, own);
                    }
                }
            }
        }
    }

    /// Paths of ours among the tokens of a macro, which nobody parses.
    fn read_tokens(&mut self, tokens: TokenStream) {
        let mut path: Vec<String> = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    let ident = ident.to_string();
                    self.file.has_unsafe |= ident == "unsafe";
                    if colons != 2 {
                        self.note(&std::mem::take(&mut path));
                    }
                    path.push(ident);
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    if colons == 2 && !path.is_empty() {
                        let what = format!("{}::{{…}} in a macro", path.join("::"));
                        self.file.escapes.insert(what);
                    }
                    self.note(&std::mem::take(&mut path));
                    self.read_tokens(group.stream());
                    colons = 0;
                }
                _ => {
                    self.note(&std::mem::take(&mut path));
                    colons = 0;
                }
            }
        }
        self.note(&path);
    }
}

/// Each name that a `use` brings in, and its path.
fn flattened(tree: &syn::UseTree) -> Vec<(String, Vec<String>)> {
    fn walk(tree: &syn::UseTree, before: &[String], found: &mut Vec<(String, Vec<String>)>) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => walk(&path.tree, &with(&path.ident), found),
            syn::UseTree::Name(name) if name.ident == "self" => {
                let own = before.last().cloned().unwrap_or_default();
                found.push((own, before.to_vec()));
            }
            syn::UseTree::Name(name) => found.push((name.ident.to_string(), with(&name.ident))),
            syn::UseTree::Rename(name) => found.push((name.rename.to_string(), with(&name.ident))),
            syn::UseTree::Glob(_) => found.push(("*".to_owned(), before.to_vec())),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    walk(tree, before, found);
                }
            }
        }
    }
    let mut found = Vec::new();
    walk(tree, &[], &mut found);
    found
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let is_public = !matches!(item.vis, syn::Visibility::Inherited);
        for (name, path) in flattened(&item.tree) {
            self.note(&path);
            let own = self.own(&path);
            if own.as_ref().is_some_and(Vec::is_empty) {
                let what = format!("use {} as {name}", path.join("::"));
                self.file.escapes.insert(what);
            }
            if let Some(own) = own.filter(|_| name == "*") {
                self.file.globs.insert(own);
            }
            let is_outermost = self.aliases.len() == 1;
            if is_public
                && is_outermost
                && let Some(own) = self.own(&path)
            {
                self.file.re_exports.insert(name, own);
            }
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if item
            .attrs
            .iter()
            .any(|attribute| attribute.path().is_ident("path"))
        {
            self.file
                .escapes
                .insert(format!("mod {} elsewhere", item.ident));
        }
        let Some((_, items)) = &item.content else {
            return;
        };
        // Tests may look at more than what they test.
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg")
                && matches!(&attribute.meta, syn::Meta::List(list) if list.tokens.to_string() == "test")
        });
        if is_test {
            return;
        }
        self.module.push(item.ident.to_string());
        self.aliases.push(HashMap::new());
        self.collect_aliases(items);
        visit::visit_item_mod(self, item);
        self.aliases.pop();
        self.module.pop();
    }

    /// `pub(super)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path
            .segments
            .iter()
            .map(|segment| segment.ident.to_string())
            .collect();
        self.note(&parts);
        visit::visit_path(self, path);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        self.file
            .escapes
            .insert(format!("extern crate {}", item.ident));
    }

    fn visit_item_trait(&mut self, item: &'ast syn::ItemTrait) {
        self.file.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_trait(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        self.file.has_unsafe |= attribute.path().is_ident("unsafe");
        visit::visit_attribute(self, attribute);
    }

    fn visit_macro(&mut self, mac: &'ast syn::Macro) {
        if mac.path.is_ident("include") {
            self.file.escapes.insert("include!".to_owned());
        }
        self.read_tokens(mac.tokens.clone());
        visit::visit_macro(self, mac);
    }

    fn visit_expr_unsafe(&mut self, block: &'ast syn::ExprUnsafe) {
        self.file.has_unsafe = true;
        visit::visit_expr_unsafe(self, block);
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.file.has_unsafe |= !matches!(signature.safety, syn::Safety::Default);
        visit::visit_signature(self, signature);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        self.file.has_unsafe |= item.unsafety.is_some();
        visit::visit_item_impl(self, item);
    }

    fn visit_item_foreign_mod(&mut self, item: &'ast syn::ItemForeignMod) {
        self.file.has_unsafe = true;
        visit::visit_item_foreign_mod(self, item);
    }
}
