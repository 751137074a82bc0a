//! The sources of settings, put over each other: the file, the environment, the command line.

use std::path::{Path, PathBuf};
use std::{fs, io};

use super::document::{self, DocumentError};
use super::error::ConfigError;
use super::settings::Config;
use super::values::{self, Secret, TrustProxy};
use crate::platform::env::Env;
use crate::platform::handover::SettingsText;
use crate::platform::log::{Level, Style};

/// The file that is read where no other one is named; it may be missing.
pub const FILE_NAME: &str = "config.toml";

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
    /// See [`Config::supervise`].
    pub supervise: Option<bool>,
    /// See [`Config::extensions_path`].
    pub extensions_path: Option<PathBuf>,
    /// See [`Config::must_load`].
    pub must_load: Option<bool>,
    /// See [`Config::auto_reload`].
    pub auto_reload: Option<bool>,
    /// See [`Log::level`](super::settings::Log::level).
    pub log_level: Option<Level>,
    /// See [`Log::style`](super::settings::Log::style).
    pub log_style: Option<Style>,
}

impl Config {
    /// Puts the layers over each other: what was read from the file, the environment, the command line. Paths are absolute from
    /// here on: an extension may change the working directory, which is the whole process's.
    ///
    /// # Errors
    /// Where a file that must be there is missing, or anything in a file or variable is not understood.
    pub fn of(
        settings: &SettingsText,
        overrides: &Overrides,
    ) -> Result<(Config, Env), ConfigError> {
        let mut config = match &settings.config {
            Some(text) => parse_at(file_of(overrides), text)?,
            None => Config::default(),
        };
        config.file = file_of(overrides).to_owned();
        make_absolute(&mut config.file)?;
        if let Some(path) = &overrides.env_file {
            fs::metadata(path).map_err(|source| ConfigError::Unreadable {
                path: path.clone(),
                source,
            })?;
            config.env_file.clone_from(path);
        }
        make_absolute(&mut config.env_file)?;
        let env = match &settings.env {
            Some(text) => Env::of_text(text, &config.env_file),
            None => Env::load(&config.env_file),
        };
        let env = env.map_err(ConfigError::Env)?;
        config.apply_env(&env)?;
        config.apply(overrides);
        make_absolute(&mut config.extensions_path)?;
        make_absolute(&mut config.database.path)?;
        Ok((config, env))
    }

    /// Parses the text of a configuration file; relative paths in it are relative to `folder`.
    ///
    /// # Errors
    /// Where it is no TOML, has an unknown field or a value that is not understood.
    pub fn parse(text: &str, folder: &Path) -> Result<Config, DocumentError> {
        let mut config: Config = document::parse(text)?;
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
        overwrite(&mut self.supervise, overrides.supervise);
        overwrite(&mut self.extensions_path, overrides.extensions_path.clone());
        overwrite(&mut self.must_load, overrides.must_load);
        overwrite(&mut self.auto_reload, overrides.auto_reload);
        overwrite(&mut self.log.level, overrides.log_level);
        overwrite(&mut self.log.style, overrides.log_style);
    }
}

/// Reads the configuration file as it is now. The file of variables is read where the settings say which it is.
///
/// # Errors
/// Where it cannot be read, or the one that the command line names is missing.
pub fn read_settings(overrides: &Overrides) -> Result<SettingsText, ConfigError> {
    let path = file_of(overrides);
    let config = match fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound && overrides.config.is_none() => None,
        Err(source) => {
            return Err(ConfigError::Unreadable {
                path: path.to_owned(),
                source,
            });
        }
    };
    Ok(SettingsText { config, env: None })
}

fn file_of(overrides: &Overrides) -> &Path {
    overrides.config.as_deref().unwrap_or(Path::new(FILE_NAME))
}

fn parse_at(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    Config::parse(text, folder).map_err(|source| ConfigError::Malformed {
        path: path.to_owned(),
        source,
    })
}

/// A path below the working directory, absolute; none where that has been removed.
fn make_absolute(path: &mut PathBuf) -> Result<(), ConfigError> {
    *path = std::path::absolute(&*path).map_err(|source| ConfigError::Unreadable {
        path: path.clone(),
        source,
    })?;
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::super::settings::ExtensionRules;
    use super::super::values::Require;
    use super::*;

    fn load(overrides: &Overrides) -> Result<(Config, Env), ConfigError> {
        Config::of(&read_settings(overrides)?, overrides)
    }

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
        let error = load(&Overrides {
            config,
            ..Overrides::default()
        })
        .unwrap_err();
        assert_eq!(error.to_string(), "cannot read /nowhere/config.toml");
        let env_file = Some(PathBuf::from("/nowhere/.env"));
        assert!(
            load(&Overrides {
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
