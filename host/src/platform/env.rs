//! The environment as the host knows it: a snapshot of the process's variables over those of a `.env` file.
//!
//! The file is never exported to the process, so that no library in it (and no child) sees the host's secrets. Who may
//! read which variable is decided elsewhere.
//!
//! The file is read as Node's dotenv reads it, because a Directus beside this host reads the same file and both must
//! come to the same SECRET: no `$` expansion, `#` begins a comment in a value without quotes, spaces need no quotes, the
//! last of two lines of one name wins. What that parser skips in silence is an error here.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

/// A `.env` file is read whole; one above this size is a mistake.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// The environment, read once at start.
#[derive(Clone, Default)]
pub struct Env {
    variables: HashMap<String, String>,
    /// Those of the process, as they were at the start: what an extension sets later is nobody else's.
    process: Arc<HashMap<String, String>>,
    /// The file that it may be read from again.
    file: Option<PathBuf>,
}

impl Env {
    /// Takes a snapshot of the process's variables over those of `dotenv_path`; a missing file is an empty one.
    ///
    /// # Errors
    /// Where the file cannot be read or a line of it is malformed. No error shows a value.
    pub fn load(dotenv_path: &Path) -> Result<Env, EnvError> {
        Env::over_file(of_process(), dotenv_path)
    }

    /// The same with a text in place of what the file says now.
    ///
    /// # Errors
    /// Where a line of it is malformed.
    pub fn of_text(text: &str, dotenv_path: &Path) -> Result<Env, EnvError> {
        Env::over_text(of_process(), text, dotenv_path)
    }

    fn over_file(
        process: Arc<HashMap<String, String>>,
        dotenv_path: &Path,
    ) -> Result<Env, EnvError> {
        let text = read(dotenv_path)?.unwrap_or_default();
        Env::over_text(process, &text, dotenv_path)
    }

    fn over_text(
        process: Arc<HashMap<String, String>>,
        text: &str,
        dotenv_path: &Path,
    ) -> Result<Env, EnvError> {
        let mut variables = parse(text).map_err(|(line, problem)| EnvError::Malformed {
            path: dotenv_path.to_owned(),
            line,
            problem,
        })?;
        let of_process = process.iter();
        variables.extend(of_process.map(|(name, value)| (name.clone(), value.clone())));
        Ok(Env {
            variables,
            process,
            file: Some(dotenv_path.to_owned()),
        })
    }

    /// Reads the file again, where there is one that may have changed. The variables of the process stay as they were at the
    /// start.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn reread(&self) -> Result<Option<Env>, EnvError> {
        let file = self.file.as_deref();
        file.map(|file| Env::over_file(self.process.clone(), file))
            .transpose()
    }

    /// Makes an environment of the given variables alone.
    pub fn from_pairs<N: Into<String>, V: Into<String>>(
        pairs: impl IntoIterator<Item = (N, V)>,
    ) -> Env {
        let variables = pairs
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        Env {
            variables,
            ..Env::default()
        }
    }

    /// The value of a variable. An empty one counts as not set: that is how an `.env` that was copied and not filled in looks.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Takes a snapshot of a file alone, with `${NAME}` for each given name replaced: settings that are shipped.
    ///
    /// # Errors
    /// As [`load`](Self::load), and where the file is missing.
    pub fn of_file(path: &Path, given: &[(&str, &str)]) -> Result<Env, EnvError> {
        let unreadable = |source| EnvError::Unreadable {
            path: path.to_owned(),
            source,
        };
        let mut text = fs::read_to_string(path).map_err(unreadable)?;
        for (name, value) in given {
            text = text.replace(&format!("${{{name}}}"), value);
        }
        let malformed = |(line, problem)| EnvError::Malformed {
            path: path.to_owned(),
            line,
            problem,
        };
        Ok(Env {
            variables: parse(&text).map_err(malformed)?,
            ..Env::default()
        })
    }
}

/// Shows how many variables there are, and no value.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env")
            .field("count", &self.variables.len())
            .finish_non_exhaustive()
    }
}

/// Why the `.env` file is of no use.
#[derive(Debug)]
pub enum EnvError {
    /// It is there and cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is larger than any such file should be.
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line is no assignment.
    Malformed {
        /// The file.
        path: PathBuf,
        /// Its line, from 1.
        line: usize,
        /// What is wrong, without the line's text, which may be a secret.
        problem: &'static str,
    },
}

impl fmt::Display for EnvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvError::Unreadable { path, .. } => write!(f, "cannot read {}", path.display()),
            EnvError::TooLarge { path } => write!(
                f,
                "cannot read {}: larger than {FILE_BYTES_MAX} bytes",
                path.display()
            ),
            EnvError::Malformed {
                path,
                line,
                problem,
            } => write!(f, "cannot read {}: {problem} (line {line})", path.display()),
        }
    }
}

impl std::error::Error for EnvError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            EnvError::Unreadable { source, .. } => Some(source),
            EnvError::TooLarge { .. } | EnvError::Malformed { .. } => None,
        }
    }
}

fn of_process() -> Arc<HashMap<String, String>> {
    // A name or value that is not UTF-8 cannot be handed to an extension, and reads as not set.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    Arc::new(variables.collect())
}

fn read(path: &Path) -> Result<Option<String>, EnvError> {
    let unreadable = |source| EnvError::Unreadable {
        path: path.to_owned(),
        source,
    };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
        Ok(metadata) if metadata.len() > FILE_BYTES_MAX => {
            return Err(EnvError::TooLarge {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
    }
    let bytes = fs::read(path).map_err(unreadable)?;
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + valid.iter().filter(|byte| **byte == b'\n').count();
        EnvError::Malformed {
            path: path.to_owned(),
            line,
            problem: "not UTF-8",
        }
    })
}

/// A line, from 1, and what is wrong with it.
type Malformed = (usize, &'static str);
/// A name and its value.
type Assignment = (String, String);

/// Reads the text of a `.env` file. Public for the fuzz targets alone.
#[doc(hidden)]
pub fn parse(text: &str) -> Result<HashMap<String, String>, Malformed> {
    let mut variables = HashMap::new();
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut line = 1;
    while !rest.is_empty() {
        let (used, assignment) = parse_line(rest).map_err(|problem| (line, problem))?;
        variables.extend(assignment);
        line += rest[..used].matches('\n').count();
        rest = &rest[used..];
    }
    Ok(variables)
}

/// Reads one assignment, comment or empty line from the start of `text`, and says how many bytes it takes.
/// A value in quotes may take several lines.
fn parse_line(text: &str) -> Result<(usize, Option<Assignment>), &'static str> {
    let end = text.find('\n').map_or(text.len(), |newline| newline + 1);
    let line = text[..end].trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok((end, None));
    }
    let Some(equals) = text[..end].find('=') else {
        return Err("expected NAME=value");
    };
    let name = text[..equals].trim();
    let name = name.strip_prefix("export ").map_or(name, str::trim_start);
    if name.is_empty()
        || !name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    {
        return Err("expected a name of letters, digits and _ before the first =");
    }
    let (used, value) = parse_value(&text[equals + 1..end], &text[equals + 1..])?;
    Ok((equals + 1 + used, Some((name.to_owned(), value))))
}

/// Reads a value: to the end of its `line`, or in quotes, which may reach further into `text`.
fn parse_value(line: &str, text: &str) -> Result<(usize, String), &'static str> {
    let start = line.len() - line.trim_start().len();
    let quote = match line[start..].chars().next() {
        Some(quote @ ('"' | '\'' | '`')) => quote,
        _ => {
            let value = line.split('#').next().unwrap_or_default().trim();
            return Ok((line.len(), value.to_owned()));
        }
    };
    let quoted = &text[start + 1..];
    let length = closing_quote(quoted, quote).ok_or("a quote is not closed")?;
    let value = &quoted[..length];
    let after = &quoted[length + 1..];
    let end = after.find('\n').map_or(after.len(), |newline| newline + 1);
    let trailing = after[..end].trim();
    if !trailing.is_empty() && !trailing.starts_with('#') {
        return Err("unexpected text after the closing quote");
    }
    let value = match quote {
        '"' => value.replace("\\n", "\n").replace("\\r", "\r"),
        _ => value.to_owned(),
    };
    Ok((text.len() - after.len() + end, value))
}

fn closing_quote(quoted: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    quoted.char_indices().find_map(|(at, char)| {
        let closes = char == quote && !escaped;
        escaped = char == '\\' && !escaped;
        closes.then_some(at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> String {
        parse(text).unwrap()["NAME"].clone()
    }

    #[test]
    fn values_read_as_node_reads_them() {
        assert_eq!(value("NAME=value"), "value");
        assert_eq!(value("\u{feff}NAME = two words \r\n"), "two words");
        assert_eq!(value("export NAME=value # comment"), "value");
        assert_eq!(value("NAME=a#b"), "a");
        assert_eq!(value("NAME='a#b'#c"), "a#b");
        assert_eq!(value("NAME=pa$$word${HOME}"), "pa$$word${HOME}");
        assert_eq!(value("NAME=it's"), "it's");
        assert_eq!(value("NAME="), "");
        assert_eq!(value("NAME=a=b=="), "a=b==");
        assert_eq!(value(r#"NAME="a\nb""#), "a\nb");
        assert_eq!(value(r"NAME='a\nb'"), r"a\nb");
        assert_eq!(value("NAME=`a\"b'c`"), "a\"b'c");
        assert_eq!(
            value("NAME=\"-----BEGIN\nabc\n-----END\"\nOTHER=1"),
            "-----BEGIN\nabc\n-----END"
        );
        assert_eq!(value("NAME=first\nNAME=last"), "last");
    }

    #[test]
    fn comments_and_empty_lines_are_passed_over() {
        let variables = parse("# NAME=no\n\n  \t\n  # x\nA=1\n\nB=2").unwrap();
        assert_eq!(variables.len(), 2);
    }

    #[test]
    fn a_malformed_line_is_named_by_its_number_and_never_shown() {
        for (text, line) in [
            ("A=1\nhunter2\n", 2),
            ("A=\"x\ny\"\n\n=hunter2", 4),
            ("A B=hunter2", 1),
            ("\nA=\"hunter2", 2),
            ("A='x' hunter2", 1),
            ("A=\"hunter2\\\"", 1),
        ] {
            let (found, problem) = parse(text).unwrap_err();
            assert_eq!(found, line, "{text:?}");
            assert!(!problem.contains("hunter2"));
        }
    }

    #[test]
    fn a_missing_file_is_an_empty_one() {
        assert!(Env::load(Path::new("/nowhere/.env")).is_ok());
    }

    #[test]
    fn the_process_wins_over_the_file_and_is_not_changed() {
        let path = std::env::temp_dir().join(format!("extension-host-env-{}", std::process::id()));
        fs::write(
            &path,
            "PATH=from-file\nEXTENSION_HOST_TEST_ONLY=from-file\n",
        )
        .unwrap();
        let env = Env::load(&path);
        fs::write(&path, b"A=1\nB=\xff").unwrap();
        let broken = Env::load(&path).unwrap_err();
        fs::remove_file(&path).unwrap();
        let env = env.unwrap();
        assert_eq!(env.get("PATH"), std::env::var("PATH").ok().as_deref());
        assert_eq!(env.get("EXTENSION_HOST_TEST_ONLY"), Some("from-file"));
        assert!(std::env::var_os("EXTENSION_HOST_TEST_ONLY").is_none());
        assert!(
            broken.to_string().ends_with("not UTF-8 (line 2)"),
            "{broken}"
        );
    }

    #[test]
    fn debug_shows_no_value() {
        let env = Env::from_pairs([("SECRET", "hunter2")]);
        assert!(!format!("{env:?}").contains("hunter2"));
        assert_eq!(env.get("SECRET"), Some("hunter2"));
        assert_eq!(env.get("OTHER"), None);
    }
}
