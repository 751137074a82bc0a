//! Reads a TOML document into a type, and says where and how it is wrong.
//!
//! Used for `config.toml` and for each `extension.toml`; types that it reads refuse unknown fields.

use std::fmt;

use serde::de::DeserializeOwned;

/// Parses a document.
///
/// # Errors
/// Where the text is no TOML, or does not fit the type.
pub fn parse<T: DeserializeOwned>(text: &str) -> Result<T, DocumentError> {
    toml::from_str(text).map_err(|error| {
        let (line, column) = position(text, error.span().map_or(0, |span| span.start));
        // Never the error's own Display: it shows the line, which may hold a secret.
        DocumentError {
            problem: Problem::from_message(error.message()),
            line,
            column,
        }
    })
}

/// What is wrong with a document, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DocumentError {
    problem: Problem,
    line: usize,
    column: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Problem {
    UnknownField {
        field: String,
        expected: Vec<String>,
    },
    Other(String),
}

impl Problem {
    /// Parses serde's sentence about an unknown field: its parts are not available otherwise. A sentence in another
    /// form is kept as it is.
    fn from_message(message: &str) -> Problem {
        let message = message.trim_end();
        let Some(rest) = message.strip_prefix("unknown field `") else {
            return Problem::Other(message.replace('\n', "; "));
        };
        let Some((field, expected)) = rest.split_once('`') else {
            return Problem::Other(message.to_owned());
        };
        let expected = expected
            .split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect();
        Problem::UnknownField {
            field: field.to_owned(),
            expected,
        }
    }
}

impl DocumentError {
    /// The fields that could have stood in the place of an unknown one.
    #[cfg(test)]
    pub(crate) fn expected_fields(&self) -> &[String] {
        match &self.problem {
            Problem::UnknownField { expected, .. } => expected,
            Problem::Other(_) => &[],
        }
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            Problem::Other(message) => f.write_str(message)?,
            Problem::UnknownField { field, expected } => {
                write!(f, "unknown field {field:?}")?;
                match nearest(field, expected) {
                    Some(near) => write!(f, ", did you mean {near:?}?")?,
                    None => write_expected(f, expected)?,
                }
            }
        }
        write!(f, " (line {}, column {})", self.line, self.column)
    }
}

impl std::error::Error for DocumentError {}

fn write_expected(f: &mut fmt::Formatter<'_>, expected: &[String]) -> fmt::Result {
    for (index, field) in expected.iter().enumerate() {
        let before = match index {
            0 if expected.len() > 1 => ", expected one of ",
            0 => ", expected ",
            _ => ", ",
        };
        write!(f, "{before}{field:?}")?;
    }
    Ok(())
}

fn nearest<'a>(field: &str, expected: &'a [String]) -> Option<&'a str> {
    // As clap does: alike in their beginnings, or a few slips apart.
    let likeness = |candidate: &str| strsim::jaro_winkler(field, candidate);
    let near = expected
        .iter()
        .filter(|candidate| likeness(candidate) > 0.8);
    near.max_by(|a, b| likeness(a).total_cmp(&likeness(b)))
        .map(String::as_str)
}

/// Line and column of a byte, both from 1; columns count characters.
fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text[..text.floor_char_boundary(offset)];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        1 + before.matches('\n').count(),
        1 + before[line_start..].chars().count(),
    )
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Sample {
        port: u16,
        extensions_path: String,
        inner: Inner,
    }

    #[derive(Debug, Deserialize, Default)]
    #[serde(default, deny_unknown_fields)]
    struct Inner {
        timeout_ms: u64,
    }

    fn error(text: &str) -> String {
        parse::<Sample>(text).unwrap_err().to_string()
    }

    #[test]
    fn an_unknown_field_suggests_the_nearest_one() {
        assert_eq!(
            error("\n\nprot = 1"),
            "unknown field \"prot\", did you mean \"port\"? (line 3, column 1)"
        );
        assert_eq!(
            error("[inner]\n timeout = 1"),
            "unknown field \"timeout\", did you mean \"timeout_ms\"? (line 2, column 2)"
        );
        assert_eq!(
            error("inner = { timeoutms = 1 }"),
            "unknown field \"timeoutms\", did you mean \"timeout_ms\"? (line 1, column 11)"
        );
    }

    #[test]
    fn an_unknown_field_near_to_none_lists_them() {
        assert_eq!(
            error("colour = 1"),
            "unknown field \"colour\", expected one of \"port\", \"extensions_path\", \"inner\" (line 1, column 1)"
        );
        assert_eq!(
            error("[inner]\nzzz = 1"),
            "unknown field \"zzz\", expected \"timeout_ms\" (line 2, column 1)"
        );
    }

    #[test]
    fn other_errors_have_a_place_too() {
        assert_eq!(
            error("port = \"x\""),
            "invalid type: string \"x\", expected u16 (line 1, column 8)"
        );
        assert!(
            error("port = 1\nport 2").ends_with("(line 2, column 6)"),
            "{}",
            error("port = 1\nport 2")
        );
        assert!(error("port = 1\nport = 2").contains("duplicate key"));
        assert!(error("\u{e9} = ").contains("(line 1, column "));
    }
}
