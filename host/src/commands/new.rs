//! `extension-host new NAME`: a folder with a whole extension in it, which builds, and whose test passes.

use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{env, fmt, fs};

use clap::ValueEnum;

use crate::extension::discovery::FOLDER_PREFIX;

/// What an extension is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Rust, with the crate extension-api.
    Rust,
    /// C, with the header alone.
    C,
}

/// Why there is no new extension.
#[derive(Debug)]
pub enum NewError {
    /// No name was given, and there is no terminal to ask on.
    NoName,
    /// A name cannot be an id.
    BadName(String),
    /// The host has routes of its own under that name.
    OfHost(String),
    /// The SDK has a type of that name.
    OfSdk(String),
    /// The folder is there already.
    Exists(PathBuf),
    /// The crate extension-api is not found.
    NoApi,
    /// The crate extension-api is not in the folder that was named.
    NotApi(PathBuf),
    /// A file cannot be written.
    Write(PathBuf, io::Error),
    /// The terminal cannot be read.
    Ask(io::Error),
}

impl fmt::Display for NewError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoName => f.write_str("the extension has no name; give it one: extension-host new NAME"),
            Self::BadName(name) => write!(
                f,
                "{name:?} cannot name an extension; it is served under its name: lower-case letters, digits, - and _, a letter first, 48 characters at most"
            ),
            Self::OfHost(name) => write!(
                f,
                "{name:?} cannot name an extension; the host has routes of its own under /{name}"
            ),
            Self::OfSdk(name) => write!(
                f,
                "{name:?} cannot name an extension; the crate extension-api has a type of that name"
            ),
            Self::Exists(path) => write!(
                f,
                "{} is there already; choose another name, or another folder with --dir",
                path.display()
            ),
            Self::NoApi => f.write_str(
                "cannot find the crate extension-api; run `new` in a checkout of extension-host, name the crate's folder with --api, or write the extension in C with --lang c, which needs the header alone",
            ),
            Self::NotApi(path) => write!(
                f,
                "the crate extension-api is not in {}; name the folder that holds its Cargo.toml",
                path.display()
            ),
            Self::Write(path, _) => write!(f, "cannot write {}", path.display()),
            Self::Ask(_) => f.write_str("cannot read an answer from the terminal"),
        }
    }
}

impl std::error::Error for NewError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Write(_, cause) | Self::Ask(cause) => Some(cause),
            Self::NoName
            | Self::BadName(_)
            | Self::OfHost(_)
            | Self::OfSdk(_)
            | Self::Exists(_)
            | Self::NoApi
            | Self::NotApi(_) => None,
        }
    }
}

/// What kind of extension to make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewOptions {
    /// The name, with or without `directus-extension-` before it.
    pub name: Option<String>,
    /// What it is written in.
    pub lang: Option<Lang>,
    /// Where its folder is made.
    pub dir: Option<PathBuf>,
    /// Where the crate extension-api is.
    pub api: Option<PathBuf>,
}

/// Makes the folder, and says what to do next. On a terminal, it asks for what is missing.
///
/// # Errors
/// Where it cannot be made; nothing that was there before is changed.
pub fn run(options: NewOptions) -> Result<ExitCode, NewError> {
    let is_interactive = io::stdin().is_terminal() && io::stdout().is_terminal();
    let name = match options.name {
        Some(name) => name,
        None if is_interactive => ask("Name of the extension, under which it is served", "")?,
        None => return Err(NewError::NoName),
    };
    let lang = match options.lang {
        Some(lang) => lang,
        None if is_interactive => match ask("Language, rust or c", "rust")?.as_str() {
            "c" | "C" => Lang::C,
            _ => Lang::Rust,
        },
        None => Lang::Rust,
    };
    let folder = make(
        &name,
        lang,
        &options.dir.unwrap_or_else(default_dir),
        options.api,
    )?;
    println!("made {}", folder.display());
    let program = if std::env::var_os("CARGO").is_some() {
        "cargo run --release --"
    } else {
        "extension-host"
    };
    println!("\nNext:\n  {program} dev {}", folder.display());
    println!(
        "and in another terminal:\n  curl http://127.0.0.1:8055/{}/",
        id_of(&name)
    );
    Ok(ExitCode::SUCCESS)
}

fn ask(question: &str, default: &str) -> Result<String, NewError> {
    match default {
        "" => print!("{question}: "),
        default => print!("{question} [{default}]: "),
    }
    io::stdout().flush().map_err(NewError::Ask)?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(NewError::Ask)?;
    Ok(match answer.trim() {
        "" => default.to_owned(),
        answer => answer.to_owned(),
    })
}

/// The extensions folder, where the working directory has one, else the working directory.
fn default_dir() -> PathBuf {
    let extensions = Path::new("extensions");
    if extensions.is_dir() {
        extensions.to_owned()
    } else {
        PathBuf::from(".")
    }
}

fn id_of(name: &str) -> &str {
    name.strip_prefix(FOLDER_PREFIX).unwrap_or(name)
}

/// Makes the folder of an extension in `dir`, and gives its path.
///
/// # Errors
/// As [`run`].
pub fn make(name: &str, lang: Lang, dir: &Path, api: Option<PathBuf>) -> Result<PathBuf, NewError> {
    let id = id_of(name);
    check_name(id)?;
    let folder = dir.join(format!("{FOLDER_PREFIX}{id}"));
    let api = match lang {
        Lang::C => String::new(),
        Lang::Rust => {
            let api = match api {
                Some(api) if is_api(&api) => api,
                Some(other) => return Err(NewError::NotApi(other)),
                None => find_api().ok_or(NewError::NoApi)?,
            };
            let api = api.canonicalize().map_err(|_| NewError::NoApi)?;
            let from = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            path_from(&from.join(format!("{FOLDER_PREFIX}{id}")), &api)
        }
    };
    fs::create_dir_all(dir).map_err(|cause| NewError::Write(dir.to_owned(), cause))?;
    fs::create_dir(&folder).map_err(|cause| match cause.kind() {
        io::ErrorKind::AlreadyExists => NewError::Exists(folder.clone()),
        _ => NewError::Write(folder.clone(), cause),
    })?;
    let values = Values::of(id, lang, api);
    for (path, template) in files(lang) {
        let path = folder.join(values.fill(path));
        let written = path
            .parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(&path, values.fill(template)));
        written.map_err(|cause| NewError::Write(path.clone(), cause))?;
    }
    Ok(folder)
}

/// The files of an extension, and what stands in them.
fn files(lang: Lang) -> &'static [(&'static str, &'static str)] {
    const MANIFEST: &str = include_str!("../../templates/extension.toml.txt");
    match lang {
        Lang::Rust => &[
            (
                "Cargo.toml",
                include_str!("../../templates/rust/Cargo.toml.txt"),
            ),
            (
                "src/lib.rs",
                include_str!("../../templates/rust/src/lib.rs.txt"),
            ),
            ("extension.toml", MANIFEST),
            (
                "README.md",
                include_str!("../../templates/rust/README.md.txt"),
            ),
            (
                ".gitignore",
                include_str!("../../templates/rust/gitignore.txt"),
            ),
        ],
        Lang::C => &[
            (
                "{{snake}}.c",
                include_str!("../../templates/c/extension.c.txt"),
            ),
            ("Makefile", include_str!("../../templates/c/Makefile.txt")),
            (
                "extension_api.h",
                include_str!("../../../extension-api/include/extension_api.h"),
            ),
            ("extension.toml", MANIFEST),
            ("README.md", include_str!("../../templates/c/README.md.txt")),
            (
                ".gitignore",
                include_str!("../../templates/c/gitignore.txt"),
            ),
        ],
    }
}

/// The values that are filled into a template.
struct Values([(&'static str, String); 6]);

impl Values {
    fn of(id: &str, lang: Lang, api: String) -> Self {
        let snake = id.replace('-', "_");
        let capitals = |word: &str| {
            let mut letters = word.chars();
            letters.next().map_or_else(String::new, |first| {
                first.to_ascii_uppercase().to_string() + letters.as_str()
            })
        };
        let language = match lang {
            Lang::Rust => "Rust",
            Lang::C => "C",
        };
        Self([
            ("{{name}}", id.to_owned()),
            ("{{Type}}", snake.split('_').map(capitals).collect()),
            (
                "{{VARIABLE}}",
                format!("{}_GREETING", snake.to_ascii_uppercase()),
            ),
            ("{{snake}}", snake),
            (
                "{{description}}",
                format!("An extension in {language} that greets."),
            ),
            ("{{api}}", api),
        ])
    }

    fn fill(&self, template: &str) -> String {
        let mut text = template.to_owned();
        for (name, value) in &self.0 {
            text = text.replace(name, value);
        }
        text
    }
}

/// Refuses what is no id that is a crate's name and a Rust type, too.
fn check_name(id: &str) -> Result<(), NewError> {
    const NAME_BYTES_MAX: usize = 48;
    // As the name of a type, these would hide one of the SDK's prelude.
    const PRELUDE: [&str; 16] = [
        "self",
        "context",
        "endpoint",
        "error",
        "request",
        "response",
        "result",
        "router",
        "base",
        "bytes",
        "fetch",
        "fetched",
        "form",
        "level",
        "accountability",
        "app",
    ];
    let is_id = id.len() <= NAME_BYTES_MAX
        && id.starts_with(|first: char| first.is_ascii_lowercase())
        && id.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_'
        });
    if !is_id {
        return Err(NewError::BadName(id.to_owned()));
    }
    if crate::extension::opened::RESERVED.contains(&id) {
        return Err(NewError::OfHost(id.to_owned()));
    }
    match PRELUDE.contains(&id) {
        true => Err(NewError::OfSdk(id.to_owned())),
        false => Ok(()),
    }
}

fn is_api(folder: &Path) -> bool {
    folder.join("include/extension_api.h").is_file() && folder.join("Cargo.toml").is_file()
}

/// The crate's folder in the checkout around the working directory, else in the one that this program was built in.
fn find_api() -> Option<PathBuf> {
    let here = env::current_dir().ok()?;
    let around = here.ancestors().map(|folder| folder.join("extension-api"));
    around
        .chain([Path::new(env!("CARGO_MANIFEST_DIR")).join("../extension-api")])
        .find(|folder| is_api(folder))
}

/// The path from one folder to another: with ".." where both lie in one checkout, so that the checkout may be moved.
fn path_from(from: &Path, to: &Path) -> String {
    let checkout = to.parent().unwrap_or(to);
    let path = match from.strip_prefix(checkout) {
        Ok(below) => {
            let up: PathBuf = below.components().map(|_| "..").collect();
            up.join(to.file_name().unwrap_or_default())
        }
        Err(_) => to.to_owned(),
    };
    path.display().to_string().replace('\\', "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_can_be_served() {
        for good in ["weather", "a", "my-proxy_2"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        let long = "x".repeat(49);
        for bad in [
            "", "2fast", "Weather", "a b", "a/b", "../x", "-x", "server", "request", &long,
        ] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert!(matches!(check_name("server"), Err(NewError::OfHost(_))));
        assert!(matches!(check_name("request"), Err(NewError::OfSdk(_))));
    }

    #[test]
    fn a_checkout_may_be_moved_with_what_lies_in_it() {
        let api = Path::new("/a/extension-api");
        for (from, path) in [
            ("/a/extensions/directus-extension-x", "../../extension-api"),
            ("/b/directus-extension-x", "/a/extension-api"),
        ] {
            assert_eq!(path_from(Path::new(from), api), path);
        }
    }

    #[test]
    fn the_c_scaffold_is_short() {
        let (_, source) = files(Lang::C)[0];
        assert!(source.lines().count() < 60);
    }
}
