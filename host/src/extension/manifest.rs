//! What an extension declares in `extension.toml`: its name, the variables it reads, the origins it calls, its limits.

use std::fmt;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use super::error::{ManifestError, Reason};
use crate::config::document;
use crate::platform::env::Env;
use crate::upstream::origin::Origin;

/// The file's name.
pub const FILE_NAME: &str = "extension.toml";

/// A manifest above this size is a mistake.
pub const FILE_BYTES_MAX: u64 = 64 * 1024;

/// How long a variable's name may be.
const VARIABLE_BYTES_MAX: usize = 128;

/// The manifest of an extension. Everything in it is optional; an empty file is one.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Manifest {
    /// What people call it; its folder's name where it is empty.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// What it does, in a sentence.
    pub description: String,
    /// The file name of its library in `dist`; absent: the one that is there.
    pub library: Option<String>,
    /// A variable that switches it on: if it is not set, or set to "false", "0", "off" or "no", the extension is not loaded.
    pub enabled_by: Option<String>,
    /// The variables that it may read.
    pub env: Variables,
    /// Where it may call.
    pub fetch: Fetch,
    /// What its requests may take, below the host's own limits.
    pub limits: Limits,
    /// What it sees of a request.
    pub request: Request,
}

/// Whether the value of a variable switches something on.
pub fn is_on(value: &str) -> bool {
    !["false", "0", "off", "no"].contains(&value)
}

/// The variables of the host's environment that an extension may read.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Variables {
    /// Those without which it is not served.
    pub required: Vec<String>,
    /// Those that may be missing.
    pub optional: Vec<String>,
}

impl Variables {
    /// Whether the variable may be read.
    pub fn declares(&self, name: &str) -> bool {
        self.all().any(|declared| declared == name)
    }

    /// All names, in the order of the file.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.required
            .iter()
            .chain(&self.optional)
            .map(String::as_str)
    }
}

/// Where an extension may call.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// The origins.
    pub allow: Vec<Allow>,
}

/// An entry of `fetch.allow`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allow {
    /// `"https://api.example.com"`.
    Origin(Origin),
    /// `"$NAME"`: that of the URL which a declared variable holds; nothing where it is not set.
    Variable(String),
    /// `"*"`: every http and https origin, those inside the host's own network included. Only for an extension whose
    /// callers may make the host call anywhere, such as a proxy with a target of their choice.
    Any,
}

/// What the requests of one extension may take; `None`: as the host's configuration says.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// How long it may take to answer, in milliseconds; 0: for ever.
    pub timeout_ms: Option<u64>,
    /// The largest request body.
    #[serde(deserialize_with = "optional_bytes")]
    pub body_bytes_max: Option<u64>,
    /// How many requests it may have in flight at once.
    pub concurrency_max: Option<usize>,
    /// How many threads its blocking routes may have at once; not more than the host's configuration gives an extension.
    pub blocking_threads: Option<usize>,
}

/// What an extension sees of a request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Request {
    /// Whether it sees an `Authorization` header of the scheme Basic, which is never a credential of this host.
    pub basic_auth: bool,
}

impl Manifest {
    /// Parses the text of an `extension.toml`.
    ///
    /// # Errors
    /// Where it is no TOML, has an unknown field, or contradicts itself.
    pub fn parse(text: &str) -> Result<Manifest, ManifestError> {
        let manifest: Manifest = document::parse(text).map_err(ManifestError::Document)?;
        if let Some(library) = manifest.library.as_ref().filter(|name| !is_file_name(name)) {
            return Err(ManifestError::LibraryPath(library.clone()));
        }
        let mut seen = Vec::new();
        for name in manifest.env.all() {
            if !is_variable(name) {
                return Err(ManifestError::VariableName(name.to_owned()));
            }
            if seen.contains(&name) {
                return Err(ManifestError::VariableTwice(name.to_owned()));
            }
            seen.push(name);
        }
        for entry in &manifest.fetch.allow {
            if let Allow::Variable(name) = entry
                && !manifest.env.declares(name)
            {
                return Err(ManifestError::AllowUndeclared(name.clone()));
            }
        }
        let limits = [
            ("concurrency_max", manifest.limits.concurrency_max),
            ("blocking_threads", manifest.limits.blocking_threads),
        ];
        for (name, limit) in limits {
            if limit == Some(0) {
                return Err(ManifestError::ZeroLimit(name));
            }
        }
        Ok(manifest)
    }

    /// Whether it is switched on; most extensions always are.
    pub fn is_enabled(&self, env: &Env) -> bool {
        let switch = self.enabled_by.as_ref().map(|name| env.get(name));
        switch.is_none_or(|value| value.is_some_and(is_on))
    }

    /// Looks up every required variable.
    ///
    /// # Errors
    /// Names the first one that is missing.
    pub fn check_variables(&self, env: &Env) -> Result<(), Reason> {
        match self
            .env
            .required
            .iter()
            .find(|name| env.get(name).is_none())
        {
            Some(name) => Err(Reason::MissingVariable { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Resolves where the extension may call.
    ///
    /// # Errors
    /// Where a variable that names an origin is set to something else.
    pub fn allowed_origins(&self, env: &Env) -> Result<AllowedOrigins, Reason> {
        let mut allowed = AllowedOrigins::default();
        for entry in &self.fetch.allow {
            match entry {
                Allow::Any => allowed.any = true,
                Allow::Origin(origin) => allowed.origins.push(origin.clone()),
                // An empty variable is as good as none: that is how .env files switch one off.
                Allow::Variable(name) => {
                    if let Some(url) = env.get(name).filter(|url| !url.is_empty()) {
                        allowed.origins.push(
                            Origin::of_url(url)
                                .ok_or_else(|| Reason::BadOrigin { name: name.clone() })?,
                        );
                    }
                }
            }
        }
        Ok(allowed)
    }
}

/// The origins that an extension may call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AllowedOrigins {
    any: bool,
    origins: Vec<Origin>,
}

impl AllowedOrigins {
    /// Whether a call to the origin is allowed.
    pub fn allows(&self, origin: &Origin) -> bool {
        self.any || self.origins.contains(origin)
    }
}

/// As it stands in a manifest.
impl fmt::Display for Allow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allow::Any => f.write_str("*"),
            Allow::Variable(name) => write!(f, "${name}"),
            Allow::Origin(origin) => origin.fmt(f),
        }
    }
}

impl Serialize for Allow {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Allow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Allow, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "*" {
            return Ok(Allow::Any);
        }
        if let Some(name) = text.strip_prefix('$') {
            return Ok(Allow::Variable(name.to_owned()));
        }
        let origin = Origin::of_url(&text).ok_or_else(|| {
            de::Error::custom(format!("{text:?} is no origin, expected one like \"https://api.example.com\", \"$VARIABLE\" or \"*\""))
        })?;
        let path = text
            .split_once("://")
            .and_then(|(_, rest)| rest.split_once(['/', '?', '#']))
            .map(|(_, path)| path);
        match path {
            None | Some("") => Ok(Allow::Origin(origin)),
            Some(_) => Err(de::Error::custom(format!(
                "{text:?} holds more than an origin, expected \"{origin}\""
            ))),
        }
    }
}

fn optional_bytes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    crate::config::values::bytes(deserializer).map(Some)
}

fn is_file_name(name: &str) -> bool {
    !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\\', '\0'])
}

fn is_variable(name: &str) -> bool {
    let first = name
        .bytes()
        .next()
        .is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    first
        && name.len() <= VARIABLE_BYTES_MAX
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        Manifest::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_manifest_is_understood() {
        let manifest = Manifest::parse(
            r#"
            name = "twilio"
            version = "1.0.0"
            description = "Twilio's API for signed-in users"
            library = "libtwilio.so"
            [env]
            required = ["TWILIO_ACCOUNT_SID"]
            optional = ["TWILIO_API_BASE"]
            [fetch]
            allow = ["https://api.twilio.com", "$TWILIO_API_BASE"]
            [limits]
            timeout_ms = 1000
            body_bytes_max = "2mb"
            concurrency_max = 7
            blocking_threads = 3
            [request]
            basic_auth = true
            "#,
        )
        .unwrap();
        assert_eq!(
            manifest.limits,
            Limits {
                timeout_ms: Some(1000),
                body_bytes_max: Some(2 << 20),
                concurrency_max: Some(7),
                blocking_threads: Some(3),
            }
        );
        assert!(manifest.env.declares("TWILIO_API_BASE") && !manifest.env.declares("SECRET"));
        assert_eq!(
            manifest.fetch.allow[1],
            Allow::Variable("TWILIO_API_BASE".into())
        );
        assert!(manifest.request.basic_auth);
    }

    #[test]
    fn an_empty_manifest_is_one() {
        assert_eq!(Manifest::parse(""), Ok(Manifest::default()));
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("nmae = \"x\"", "did you mean \"name\"? (line 1, column 1)"),
            (
                "[env]\nrequierd = []",
                "did you mean \"required\"? (line 2, column 1)",
            ),
            (
                "library = \"../evil.so\"",
                "is not the name of a file in dist",
            ),
            (
                "[env]\nrequired = [\"A-B\"]",
                "\"A-B\" under [env] is not the name of a variable",
            ),
            (
                "[env]\nrequired = [\"A\"]\noptional = [\"A\"]",
                "declared twice",
            ),
            (
                "[fetch]\nallow = [\"$A\"]",
                "add \"A\" to required or optional under [env]",
            ),
            ("[fetch]\nallow = [\"ftp://x\"]", "is no origin"),
            ("[fetch]\nallow = [\"https://user:pw@x\"]", "is no origin"),
            ("[fetch]\nallow = [\"api.twilio.com\"]", "is no origin"),
            ("[fetch]\nallow = [\"https://x:0\"]", "is no origin"),
            ("[fetch]\nallow = [\"https://x:99999\"]", "is no origin"),
            (
                "[fetch]\nallow = [\n\"https://API.twilio.com/2010\"]",
                "expected \"https://api.twilio.com\" (line ",
            ),
            ("[limits]\nconcurrency_max = 0", "refuse every request"),
            ("[limits]\nblocking_threads = 0", "refuse every request"),
            ("[limits]\nbody_bytes_max = \"1 parsec\"", "is no size"),
        ] {
            assert!(error(text).contains(part), "{}", error(text));
        }
    }

    #[test]
    fn allowed_origins_are_compared_whole() {
        let text = "[env]\noptional = [\"BASE\"]\n[fetch]\nallow = [\"https://api.Example.com/\", \"$BASE\"]";
        let manifest = Manifest::parse(text).unwrap();
        let allows =
            |allowed: &AllowedOrigins, url: &str| allowed.allows(&Origin::of_url(url).unwrap());
        let allowed = manifest
            .allowed_origins(&Env::from_pairs([("BASE", "http://[::1]:8080/base?x")]))
            .unwrap();
        assert!(allows(&allowed, "https://API.example.com:443/anything"));
        assert!(allows(&allowed, "http://[::1]:8080"));
        for url in [
            "http://api.example.com",
            "https://api.example.com:8443",
            "https://evil.example.com",
            "http://[::1]",
        ] {
            assert!(!allows(&allowed, url), "{url}");
        }
        assert!(!allows(
            &manifest.allowed_origins(&Env::default()).unwrap(),
            "http://[::1]:8080"
        ));
        assert!(!allows(
            &manifest
                .allowed_origins(&Env::from_pairs([("BASE", "")]))
                .unwrap(),
            "http://[::1]:8080"
        ));
        let wrong = manifest
            .allowed_origins(&Env::from_pairs([("BASE", "https://user:hunter2@x/")]))
            .unwrap_err();
        assert!(wrong.to_string().contains("BASE") && !wrong.to_string().contains("hunter2"));
        let any = Manifest::parse("[fetch]\nallow = [\"*\"]")
            .unwrap()
            .allowed_origins(&Env::default())
            .unwrap();
        assert!(allows(&any, "http://anything:1"));
        let none = Manifest::default()
            .allowed_origins(&Env::default())
            .unwrap();
        assert!(!allows(&none, "http://anything:1"));
    }

    #[test]
    fn a_missing_required_variable_is_named() {
        let manifest = Manifest::parse("[env]\nrequired = [\"A\", \"B\"]").unwrap();
        let missing = |pairs: &[(&str, &str)]| {
            manifest
                .check_variables(&Env::from_pairs(pairs.iter().copied()))
                .unwrap_err()
        };
        assert!(matches!(missing(&[("A", "1")]), Reason::MissingVariable { name } if name == "B"));
        // As in an .env that was copied and not filled in.
        assert!(
            matches!(missing(&[("A", ""), ("B", "2")]), Reason::MissingVariable { name } if name == "A")
        );
        assert!(
            manifest
                .check_variables(&Env::from_pairs([("A", "1"), ("B", "2")]))
                .is_ok()
        );
    }
}
