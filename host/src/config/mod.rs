//! What the operator decides: `config.toml`, over it the environment, over that the command line.
//!
//! Every default stands in one place, in the `Default`s below; the shipped `config.toml` repeats them, which a test holds
//! to be true. What a value means is the business of who uses it.

pub mod document;
pub mod values;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fmt, fs, io};

use serde::Deserialize;

use crate::platform::env::{Env, EnvError};
use crate::platform::log::{Level, Style};
use document::DocumentError;
use values::{Require, Secret, TrustProxy};

/// The file that is read where no other one is named; it may be missing.
pub const FILE_NAME: &str = "config.toml";

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address to listen on. All of them by default, as Directus does: what runs in a container must be reachable.
    pub host: String,
    /// The port to listen on; 0: one that is free.
    pub port: u16,
    /// How many event-loop threads; 0: one for each core.
    pub workers: usize,
    /// The folder of the extensions.
    pub extensions_path: PathBuf,
    /// Whether an extension that cannot be loaded ends the host.
    pub must_load: bool,
    /// Whether a changed extension is loaded anew while the host runs.
    pub auto_reload: bool,
    /// Whether extensions are accepted that would end the host where they panic.
    pub allow_panic_abort: bool,
    /// The file of variables below those of the process; it may be missing.
    pub env_file: PathBuf,
    /// What a request may take.
    pub limits: Limits,
    /// What an outgoing call may take.
    pub fetch: Fetch,
    /// What is logged, and how.
    pub log: Log,
    /// Whom the host believes.
    pub auth: Auth,
    /// Where the host keeps its own users and tokens.
    pub database: Database,
    /// What the operator says about single extensions, by their id.
    pub extensions: BTreeMap<String, ExtensionRules>,
}

/// What a request may take. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest request body.
    #[serde(deserialize_with = "values::bytes")]
    pub body_bytes_max: u64,
    /// How long an extension may take to answer; then 504. 0: for ever.
    pub timeout_ms: u64,
    /// How many requests one extension may have in hand at once; then 503.
    pub concurrency_max: usize,
    /// How many threads serve blocking routes.
    pub blocking_threads: usize,
    /// How many connections each worker keeps open.
    pub connections_max: usize,
    /// How long an idle connection is kept open.
    pub keep_alive_ms: u64,
    /// How long a client may take to send a request's head.
    pub client_request_timeout_ms: u64,
    /// How long requests in flight may take when the host is told to stop.
    pub shutdown_timeout_ms: u64,
    /// For an extension to get ready when it is loaded; then it is refused, and the others are served.
    pub create_timeout_ms: u64,
}

/// What an outgoing call may take, where the extension does not say otherwise. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fetch {
    /// To a connection, TLS included.
    pub connect_timeout_ms: u64,
    /// From the start to the head of the answer.
    pub first_byte_timeout_ms: u64,
    /// To the end of the answer's body. 0: for ever.
    pub total_timeout_ms: u64,
    /// How many connections each worker has to one origin.
    pub connections_max: usize,
    /// How long an idle connection is kept for the next call.
    pub idle_ms: u64,
    /// Where every call goes in place of its target, unencrypted: `check` must not reach what an extension calls.
    #[serde(skip)]
    pub stand_in: Option<std::net::SocketAddr>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// Events of this level and above are written.
    pub level: Level,
    /// How a line looks.
    pub style: Style,
    /// Whether each request gets a line.
    pub access: bool,
}

/// Whom the host believes.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Auth {
    /// What the tokens of users are signed with.
    pub secret: Secret,
    /// The static token of an administrator.
    pub admin_token: Secret,
    /// Whose `X-Forwarded-For` counts.
    pub trust_proxy: TrustProxy,
    /// The address of the administrator that an empty store gets; empty: admin@example.com.
    pub admin_email: String,
    /// The password of that administrator; empty: one is generated.
    pub admin_password: Secret,
    /// How long the access token of a sign-in is good.
    pub access_token_ttl_ms: u64,
    /// How long a session lasts that nobody uses.
    pub refresh_token_ttl_ms: u64,
    /// How long a session of mode `session` lasts, whose token is a cookie.
    pub session_ttl_ms: u64,
    /// Whether cookies are for https alone.
    pub cookie_secure: bool,
    /// How often a sign-in may fail within five minutes, for each account, and four times as often for each address.
    pub login_failures_max: u32,
    /// A Directus that knows users, too.
    pub directus: Directus,
}

/// A Directus that knows users, too.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Directus {
    /// Its URL; empty: it is not asked.
    pub url: String,
    /// Its database; empty: it is not read.
    pub database_url: Secret,
    /// How long an answer counts.
    pub cache_ms: u64,
    /// How long it may take to answer; then 503.
    pub timeout_ms: u64,
}

/// Where the host keeps its own users and tokens.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Database {
    /// The SQLite file, where `url` says nothing else.
    pub path: PathBuf,
    /// `postgres://…`, `sqlite:PATH`, or `none`: the host keeps no users.
    pub url: Secret,
}

/// What the operator says about one extension.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ExtensionRules {
    /// Whether it is served.
    pub enabled: bool,
    /// Who may call it.
    pub require: Require,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            host: "0.0.0.0".to_owned(),
            port: 8055,
            workers: 0,
            extensions_path: "./extensions".into(),
            must_load: false,
            auto_reload: false,
            allow_panic_abort: false,
            env_file: ".env".into(),
            limits: Limits::default(),
            fetch: Fetch::default(),
            log: Log::default(),
            auth: Auth::default(),
            database: Database::default(),
            extensions: BTreeMap::new(),
        }
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            body_bytes_max: 1024 * 1024,
            timeout_ms: 60_000,
            concurrency_max: 10_000,
            blocking_threads: 64,
            connections_max: 25_000,
            // Longer than the minute after which common load balancers close, so that it is they who close.
            keep_alive_ms: 75_000,
            client_request_timeout_ms: 10_000,
            shutdown_timeout_ms: 10_000,
            create_timeout_ms: 10_000,
        }
    }
}

impl Fetch {
    /// [`connect_timeout_ms`](Self::connect_timeout_ms), as a duration.
    pub fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    /// [`first_byte_timeout_ms`](Self::first_byte_timeout_ms), as a duration; `None` where there is no limit.
    pub fn first_byte_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.first_byte_timeout_ms)).filter(|limit| !limit.is_zero())
    }

    /// [`total_timeout_ms`](Self::total_timeout_ms), as a duration; `None` where there is no limit.
    pub fn total_timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(self.total_timeout_ms)).filter(|limit| !limit.is_zero())
    }
}

impl Default for Fetch {
    fn default() -> Fetch {
        Fetch {
            connect_timeout_ms: 5_000,
            first_byte_timeout_ms: 30_000,
            total_timeout_ms: 0,
            connections_max: 1_000,
            idle_ms: 15_000,
            stand_in: None,
        }
    }
}

impl Default for Log {
    fn default() -> Log {
        Log {
            level: Level::Info,
            style: Style::Pretty,
            access: true,
        }
    }
}

impl Default for Auth {
    fn default() -> Auth {
        Auth {
            secret: Secret::default(),
            admin_token: Secret::default(),
            trust_proxy: TrustProxy::default(),
            admin_email: String::new(),
            admin_password: Secret::default(),
            // 15 minutes, 7 days and 1 day, as in Directus.
            access_token_ttl_ms: 900_000,
            refresh_token_ttl_ms: 604_800_000,
            session_ttl_ms: 86_400_000,
            cookie_secure: false,
            login_failures_max: 10,
            directus: Directus::default(),
        }
    }
}

impl Default for Directus {
    fn default() -> Directus {
        Directus {
            url: String::new(),
            database_url: Secret::default(),
            // What was taken from a user there is not to count here for longer than elsewhere.
            cache_ms: 5_000,
            timeout_ms: 5_000,
        }
    }
}

impl Default for Database {
    fn default() -> Database {
        Database {
            path: "data/extension-host.db".into(),
            url: Secret::default(),
        }
    }
}

impl Default for ExtensionRules {
    fn default() -> ExtensionRules {
        ExtensionRules {
            enabled: true,
            require: Require::Nothing,
        }
    }
}

/// What the command line sets; `None`: nothing. Relative paths are relative to the working directory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The configuration file; it must exist.
    pub config: Option<PathBuf>,
    /// The file of variables; it must exist.
    pub env_file: Option<PathBuf>,
    /// See [`Config::host`].
    pub host: Option<String>,
    /// See [`Config::port`].
    pub port: Option<u16>,
    /// See [`Config::workers`].
    pub workers: Option<usize>,
    /// See [`Config::extensions_path`].
    pub extensions_path: Option<PathBuf>,
    /// See [`Config::must_load`].
    pub must_load: Option<bool>,
    /// See [`Config::auto_reload`].
    pub auto_reload: Option<bool>,
    /// See [`Log::level`].
    pub log_level: Option<Level>,
    /// See [`Log::style`].
    pub log_style: Option<Style>,
}

impl Config {
    /// Reads the file and the environment, and puts the layers over each other.
    ///
    /// # Errors
    /// Where a file that must be there is missing, or anything in a file or variable is not understood.
    pub fn load(overrides: &Overrides) -> Result<(Config, Env), ConfigError> {
        let mut config = match &overrides.config {
            Some(path) => read(path)?.ok_or_else(|| missing(path))?,
            None => read(Path::new(FILE_NAME))?.unwrap_or_default(),
        };
        if let Some(path) = &overrides.env_file {
            fs::metadata(path).map_err(|source| ConfigError::Unreadable {
                path: path.clone(),
                source,
            })?;
            config.env_file.clone_from(path);
        }
        let env = Env::load(&config.env_file).map_err(ConfigError::Env)?;
        config.apply_env(&env)?;
        config.apply(overrides);
        Ok((config, env))
    }

    /// Parses the text of a configuration file; relative paths in it are relative to `folder`.
    ///
    /// # Errors
    /// Where it is no TOML, has an unknown field or a value that is not understood.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, DocumentError> {
        let mut config: Config = document::parse(text)?;
        // Joined to the working directory, "./extensions" stays as it is: paths in messages are then as they were written.
        if folder != Path::new("") {
            config.extensions_path = folder.join(&config.extensions_path);
            config.env_file = folder.join(&config.env_file);
            config.database.path = folder.join(&config.database.path);
        }
        Ok(config)
    }

    /// Puts the variables that Directus users know over the configuration. An empty one counts as not set.
    ///
    /// # Errors
    /// Names the variable whose value is not understood.
    pub fn apply_env(&mut self, env: &Env) -> Result<(), ConfigError> {
        let set = |name: &'static str| {
            env.get(name)
                .filter(|value| !value.is_empty())
                .map(|value| (name, value))
        };
        let secret = |name| set(name).map(|(_, value)| Secret::new(value));
        take(&mut self.host, set("HOST"), |value| Ok(value.to_owned()))?;
        take(&mut self.port, set("PORT"), |value| {
            value.parse().map_err(|_| format!("{value:?} is no port"))
        })?;
        take(&mut self.extensions_path, set("EXTENSIONS_PATH"), |value| {
            Ok(value.into())
        })?;
        take(&mut self.must_load, set("EXTENSIONS_MUST_LOAD"), parse_bool)?;
        take(
            &mut self.auto_reload,
            set("EXTENSIONS_AUTO_RELOAD"),
            parse_bool,
        )?;
        take(
            &mut self.limits.body_bytes_max,
            set("MAX_PAYLOAD_SIZE"),
            values::parse_bytes,
        )?;
        take(&mut self.log.level, set("LOG_LEVEL"), str::parse)?;
        take(&mut self.log.style, set("LOG_STYLE"), str::parse)?;
        take(
            &mut self.auth.trust_proxy,
            set("IP_TRUST_PROXY"),
            TrustProxy::parse,
        )?;
        overwrite(&mut self.auth.secret, secret("SECRET"));
        overwrite(&mut self.auth.admin_token, secret("ADMIN_TOKEN"));
        overwrite(&mut self.auth.admin_password, secret("ADMIN_PASSWORD"));
        overwrite(&mut self.database.url, secret("DATABASE_URL"));
        let directus = &mut self.auth.directus;
        overwrite(
            &mut directus.database_url,
            secret("AUTH_DIRECTUS_DATABASE_URL"),
        );
        take(&mut directus.url, set("AUTH_DIRECTUS_URL"), |value| {
            Ok(value.to_owned())
        })?;
        take(&mut self.auth.admin_email, set("ADMIN_EMAIL"), |value| {
            Ok(value.to_owned())
        })?;
        Ok(())
    }

    /// Puts the command line over the configuration.
    pub fn apply(&mut self, overrides: &Overrides) {
        overwrite(&mut self.host, overrides.host.clone());
        overwrite(&mut self.port, overrides.port);
        overwrite(&mut self.workers, overrides.workers);
        overwrite(&mut self.extensions_path, overrides.extensions_path.clone());
        overwrite(&mut self.must_load, overrides.must_load);
        overwrite(&mut self.auto_reload, overrides.auto_reload);
        overwrite(&mut self.log.level, overrides.log_level);
        overwrite(&mut self.log.style, overrides.log_style);
    }

    /// How long requests in flight may take to finish when the host, or an extension, is stopped.
    pub fn shutdown_timeout(&self) -> Duration {
        Duration::from_millis(self.limits.shutdown_timeout_ms)
    }

    /// The event-loop threads to start: as configured, or one for each core.
    pub fn worker_count(&self) -> usize {
        match self.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }
}

fn read(path: &Path) -> Result<Option<Config>, ConfigError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => {
            return Err(ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            });
        }
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    Config::parse(&text, folder)
        .map(Some)
        .map_err(|source| ConfigError::Malformed {
            path: path.to_owned(),
            source,
        })
}

fn missing(path: &Path) -> ConfigError {
    ConfigError::Unreadable {
        path: path.to_owned(),
        source: io::ErrorKind::NotFound.into(),
    }
}

fn take<T>(
    target: &mut T,
    set: Option<(&'static str, &str)>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<(), ConfigError> {
    if let Some((variable, value)) = set {
        *target = parse(value).map_err(|problem| ConfigError::Variable { variable, problem })?;
    }
    Ok(())
}

fn overwrite<T>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

fn parse_bool(value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{value:?} is neither true nor false")),
    }
}

/// Why there is no configuration.
#[derive(Debug)]
pub enum ConfigError {
    /// A file that must be there cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The configuration file is not understood.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        source: DocumentError,
    },
    /// The `.env` file is of no use.
    Env(EnvError),
    /// The value of a variable is not understood.
    Variable {
        /// Its name.
        variable: &'static str,
        /// What is wrong with its value.
        problem: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, .. } | ConfigError::Malformed { path, .. } => {
                write!(f, "cannot read {}", path.display())
            }
            ConfigError::Env(error) => error.fmt(f),
            ConfigError::Variable { variable, problem } => {
                write!(f, "cannot use environment variable {variable}: {problem}")
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            ConfigError::Malformed { source, .. } => Some(source),
            ConfigError::Env(error) => error.source(),
            ConfigError::Variable { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../../config.toml");

    fn parse(text: &str) -> Config {
        Config::parse(text, Path::new("")).unwrap()
    }

    /// The fields of the table in whose place a nonsense field was found.
    fn fields(text: &str) -> Vec<String> {
        let error = Config::parse(text, Path::new("")).unwrap_err();
        assert!(!error.expected_fields().is_empty(), "{error}");
        error.expected_fields().to_vec()
    }

    #[test]
    fn the_shipped_file_is_the_default() {
        assert_eq!(parse(SHIPPED), Config::default());
    }

    #[test]
    fn the_shipped_file_names_every_key() {
        let shipped: toml::Table = toml::from_str(SHIPPED).unwrap();
        for field in fields("? = 1".replace('?', "zzz").as_str()) {
            if field == "extensions" {
                assert!(SHIPPED.contains("[extensions."));
                continue;
            }
            let value = shipped
                .get(&field)
                .unwrap_or_else(|| panic!("{field} is missing in config.toml"));
            if let Some(table) = value.as_table() {
                for inner in fields(&format!("[{field}]\nzzz = 1")) {
                    assert!(
                        table.contains_key(&inner),
                        "{field}.{inner} is missing in config.toml"
                    );
                }
            }
        }
        for inner in fields("[extensions.x]\nzzz = 1") {
            assert!(
                SHIPPED.contains(&format!("# {inner} = ")),
                "extensions.ID.{inner} is missing in config.toml"
            );
        }
    }

    #[test]
    fn an_unknown_key_suggests_the_nearest_one() {
        let error = Config::parse("\n\nprot = 1", Path::new("")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown field \"prot\", did you mean \"port\"? (line 3, column 1)"
        );
    }

    #[test]
    fn values_come_in_the_forms_that_are_documented() {
        let config = parse(
            r#"
            [limits]
            body_bytes_max = 17
            [auth]
            trust_proxy = ["loopback", "192.0.2.0/24"]
            [log]
            level = "silent"
            style = "raw"
            [extensions.twilio]
            require = "user"
            [extensions.other]
            enabled = false
            require = ["editor"]
            "#,
        );
        assert_eq!(config.limits.body_bytes_max, 17);
        assert_eq!(config.log.level, Level::Silent);
        assert_eq!(config.log.style, Style::Json);
        assert_eq!(
            config.extensions["twilio"],
            ExtensionRules {
                enabled: true,
                require: Require::User
            }
        );
        assert_eq!(
            config.extensions["other"],
            ExtensionRules {
                enabled: false,
                require: Require::Roles(vec!["editor".into()])
            }
        );
        assert_eq!(
            parse("[auth]\ntrust_proxy = 1").auth.trust_proxy,
            TrustProxy::Hops(1)
        );
        assert_eq!(
            parse("[auth]\ntrust_proxy = true").auth.trust_proxy,
            TrustProxy::Everybody
        );
        assert!(
            matches!(config.auth.trust_proxy, TrustProxy::Listed(networks) if networks.len() == 3)
        );
        let wrong =
            Config::parse("[extensions.x]\nrequire = \"editor\"", Path::new("")).unwrap_err();
        assert!(
            wrong
                .to_string()
                .contains("a role stands in a list: [\"editor\"] (line 2, column 11)"),
            "{wrong}"
        );
        assert!(Config::parse("[extensions.x]\nrequire = []", Path::new("")).is_err());
        assert!(Config::parse("[limits]\nbody_bytes_max = -1", Path::new("")).is_err());
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
        let mut config = parse("port = 1\nhost = \"a\"\n[auth]\nsecret = \"file\"");
        let env = Env::from_pairs([
            ("HOST", "b"),
            ("PORT", "2"),
            ("EXTENSIONS_PATH", "/e"),
            ("EXTENSIONS_MUST_LOAD", "true"),
            ("EXTENSIONS_AUTO_RELOAD", "1"),
            ("SECRET", "env"),
            ("ADMIN_TOKEN", ""),
            ("MAX_PAYLOAD_SIZE", "100kb"),
            ("LOG_LEVEL", "debug"),
            ("LOG_STYLE", "raw"),
            ("IP_TRUST_PROXY", "10.0.0.0/8"),
        ]);
        config.apply_env(&env).unwrap();
        config.apply(&Overrides {
            port: Some(3),
            auto_reload: Some(false),
            ..Overrides::default()
        });
        assert_eq!((config.host.as_str(), config.port), ("b", 3));
        assert_eq!(config.extensions_path, Path::new("/e"));
        assert!(config.must_load && !config.auto_reload);
        assert_eq!(config.auth.secret.reveal(), Some("env"));
        assert_eq!(config.auth.admin_token.reveal(), None);
        assert_eq!(config.limits.body_bytes_max, 102_400);
        assert_eq!(
            (config.log.level, config.log.style),
            (Level::Debug, Style::Json)
        );
        assert!(matches!(config.auth.trust_proxy, TrustProxy::Listed(_)));
    }

    #[test]
    fn a_wrong_variable_is_named() {
        let mut config = Config::default();
        let error = config
            .apply_env(&Env::from_pairs([("EXTENSIONS_MUST_LOAD", "yes")]))
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot use environment variable EXTENSIONS_MUST_LOAD: \"yes\" is neither true nor false"
        );
        assert!(
            config
                .apply_env(&Env::from_pairs([("PORT", "65536")]))
                .is_err()
        );
    }

    #[test]
    fn paths_in_the_file_are_relative_to_its_folder() {
        let config = Config::parse(
            "extensions_path = \"e\"\nenv_file = \"/abs/.env\"",
            Path::new("/etc/host"),
        )
        .unwrap();
        assert_eq!(config.extensions_path, Path::new("/etc/host/e"));
        assert_eq!(config.env_file, Path::new("/abs/.env"));
    }

    #[test]
    fn a_file_that_was_asked_for_must_exist() {
        let config = Some(PathBuf::from("/nowhere/config.toml"));
        let error = Config::load(&Overrides {
            config,
            ..Overrides::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/config.toml");
        let env_file = Some(PathBuf::from("/nowhere/.env"));
        assert!(
            Config::load(&Overrides {
                env_file,
                ..Overrides::default()
            })
            .is_err()
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let config = parse("[auth]\nsecret = \"hunter2\"\nadmin_token = \"hunter2\"");
        assert!(!format!("{config:?}").contains("hunter2"));
    }
}
