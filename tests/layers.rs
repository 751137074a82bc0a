//! The layers of ARCHITECTURE.md, held against the sources: imports run down, and unsafe code stays where it belongs.

mod imports;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use imports::{Crate, Import};

/// So many files may import each other.
const CIRCLE_FILES_MAX: usize = 3;

/// A row of a table of layers.
struct Layer {
    /// Its files or folders below the crate's sources.
    places: Vec<String>,
    /// What it must not import although that lies below.
    never: Vec<String>,
    /// Where in it unsafe code may stand: files or folders below the crate's sources.
    unsafe_in: Vec<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The words in backticks.
fn quoted(cell: &str) -> Vec<String> {
    let words = cell.split('`').skip(1).step_by(2);
    words.map(str::to_owned).collect()
}

/// The table of layers under the heading that names the crate's sources, from the top down: layer, purpose, never, unsafe.
fn layers(sources: &str) -> Vec<Layer> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let heading = format!("### Layers of `{sources}`");
    let section = text.split(&heading).nth(1);
    let section = section.unwrap_or_else(|| panic!("ARCHITECTURE.md has no heading {heading:?}"));
    let rows = section.lines().skip_while(|line| !line.starts_with('|'));
    let rows = rows.take_while(|line| line.starts_with('|')).skip(2);
    let layer = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [places, _, never, unsafe_in] = cells[..] else {
            panic!("a row of four cells: {row}");
        };
        Layer {
            places: quoted(places),
            never: quoted(never),
            unsafe_in: quoted(unsafe_in),
        }
    };
    let layers: Vec<Layer> = rows.map(layer).collect();
    assert!(layers.len() > 3, "a table of layers below {heading:?}");
    layers
}

/// Whether a file is the place, or lies in it.
fn is_in(file: &Path, place: &str) -> bool {
    let place = Path::new(place);
    file == place || file.with_extension("") == place || file.starts_with(place)
}

/// Which layer a file belongs to, from the top: the longest place that holds it.
fn layer_of(layers: &[Layer], file: &Path) -> usize {
    let places = layers.iter().enumerate().flat_map(|(number, layer)| {
        let holds = layer.places.iter().filter(|place| is_in(file, place));
        holds.map(move |place| (place.len(), number))
    });
    let (_, number) = places
        .max()
        .unwrap_or_else(|| panic!("{} belongs to no layer of ARCHITECTURE.md", file.display()));
    number
}

/// What is wrong with an import, by the table.
fn problem(layers: &[Layer], import: &Import) -> Option<String> {
    let (from, to) = (layer_of(layers, &import.from), layer_of(layers, &import.to));
    let sentence = |why: &str| {
        let Import { from, to, name } = import;
        format!(
            "{} imports {name} of {}: {why}",
            from.display(),
            to.display()
        )
    };
    if to < from {
        return Some(sentence("that lies above it"));
    }
    let never = layers[from].never.iter();
    let broken = never.filter(|place| to != from && is_in(&import.to, place));
    broken
        .map(|place| sentence(&format!("never {place}")))
        .next()
}

fn check(sources: &str, own_name: &str) {
    let layers = layers(sources);
    let read = Crate::read(&root().join(sources), own_name);
    // The root's re-exports are for others.
    let is_root = |import: &&Import| import.from == Path::new("lib.rs");
    let imports = read.imports();
    let mut problems: Vec<String> = imports
        .iter()
        .filter(|import| !is_root(import))
        .filter_map(|import| problem(&layers, import))
        .collect();
    for circle in read.circles(CIRCLE_FILES_MAX) {
        let ties: Vec<String> = imports
            .iter()
            .filter(|import| circle.contains(&import.from) && circle.contains(&import.to))
            .map(|import| {
                format!(
                    "{} -> {} ({})",
                    import.from.display(),
                    import.to.display(),
                    import.name
                )
            })
            .collect();
        problems.push(format!(
            "{} files import each other:\n  {}",
            circle.len(),
            ties.join("\n  ")
        ));
    }
    for (file, escape) in read.escapes() {
        problems.push(format!(
            "{}: {escape}: name each thing by its own path, so that this test sees it",
            file.display()
        ));
    }
    for file in read.files().filter(|file| *file != Path::new("lib.rs")) {
        layer_of(&layers, file);
    }
    let root_file = fs::read_to_string(root().join(sources).join("lib.rs")).expect("lib.rs");
    let root_file = syn::parse_file(&root_file).expect("it compiles");
    for item in &root_file.items {
        if !matches!(item, syn::Item::Mod(_) | syn::Item::Use(_)) {
            problems.push("lib.rs holds something else than `mod` and `use`".to_owned());
        }
    }
    let allowed: Vec<&String> = layers.iter().flat_map(|layer| &layer.unsafe_in).collect();
    for file in read.unsafe_files() {
        if !allowed.iter().any(|place| is_in(file, place)) {
            problems.push(format!(
                "{} holds unsafe code, which is not its place",
                file.display()
            ));
        }
    }
    let unused: BTreeSet<&String> = allowed
        .into_iter()
        .filter(|place| !read.unsafe_files().any(|file| is_in(file, place)))
        .collect();
    if !unused.is_empty() {
        problems.push(format!(
            "no unsafe code stands in {unused:?}: take it out of the table"
        ));
    }
    assert!(
        problems.is_empty(),
        "in {sources}:\n{}",
        problems.join("\n")
    );
}

#[test]
fn imports_of_the_host_run_down_and_unsafe_code_stays_in_its_places() {
    check("host/src", "extension_host");
}

#[test]
fn imports_of_the_sdk_run_down_and_unsafe_code_stays_in_its_places() {
    check("extension-api/src", "extension_api");
}

/// The other absences that ARCHITECTURE.md promises.
#[test]
fn what_must_not_be_there_is_not_there() {
    let source = |file: &Path| fs::read_to_string(file).expect("a source");
    let manifest = source(&root().join("extension-api/Cargo.toml"));
    for runtime in ["tokio", "actix"] {
        assert!(!manifest.contains(runtime), "the SDK needs no {runtime}");
    }
    let abi = source(&root().join("extension-api/src/abi.rs"));
    for ours in ["crate::", "super::"] {
        assert!(!abi.contains(ours), "abi.rs imports nothing of ours");
    }
    let host = Crate::read(&root().join("host/src"), "extension_host");
    let opens_connections = ["awc::", "TcpStream::connect", "TcpSocket::new_v4().connect"];
    for file in host.files() {
        let text = source(&root().join("host/src").join(file));
        let program = text.split("#[cfg(test)]").next().unwrap_or_default();
        let is_upstream = file.starts_with("upstream") || file.starts_with("commands");
        for word in opens_connections.iter().filter(|_| !is_upstream) {
            assert!(
                !program.contains(word),
                "{}: only `upstream` opens outgoing connections",
                file.display()
            );
        }
    }
}
