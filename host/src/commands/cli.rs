//! The command line: what is asked for, and which settings it overrides. It never reads the environment itself.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::accounts::{RoleCommand, TokenCommand, UserCommand};
use crate::commands::new::Lang;
use crate::config::Overrides;
use crate::platform::log::{Level, Style};

/// Serves compiled extensions and authenticated API proxies over HTTP.
#[derive(Debug, Parser)]
#[command(name = "extension-host", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    files: FileOptions,
    #[command(flatten)]
    serve: ServeOptions,
    /// The process is the server of a supervisor, which is at the other end of the standard input.
    #[arg(long, hide = true)]
    supervised: bool,
}

const EXAMPLES: &str = "\
Examples:
  extension-host demo                          build this checkout's extensions, serve them, show how to call them
  extension-host                               serve ./extensions with config.toml and .env
  extension-host --port 3000 --log-style json  the same on another port, with a log for programs
  extension-host new weather                   a new extension, in Rust; --lang c: in C
  extension-host dev                           build what lies here, serve it, and again after each save
  extension-host check extensions/…            drive an extension as a hostile world would
  extension-host list                          what would be mounted, and why the rest would not

Settings come from config.toml, over it from the environment and .env (HOST, PORT, EXTENSIONS_PATH, SECRET, ADMIN_TOKEN, …),
over that from the command line. The shipped config.toml explains each of them.

Exit codes: 0 done; 1 it failed, and stderr says why; 2 the command line is wrong (check: the extension cannot be loaded);
3 the host has ended, and an extension did not; 4 the host could not serve any more. The log names what it was.";

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serves the extensions; what happens without a command, too.
    Serve(ServeOptions),
    /// Builds the extensions of this checkout, serves them with a fresh token, and prints a call to try.
    Demo(ServeOptions),
    /// Makes the folder of a new extension: its source, manifest, test and README.
    New {
        /// The name under which it is served; asked for in a terminal where it is missing.
        name: Option<String>,
        /// What it is written in [default: rust]
        #[arg(long, value_enum)]
        lang: Option<Lang>,
        /// Where its folder is made [default: ./extensions, where there is one, else here]
        #[arg(long, value_name = "PATH")]
        dir: Option<PathBuf>,
        /// Where the crate extension-api is [default: that of this checkout]
        #[arg(long, value_name = "PATH")]
        api: Option<PathBuf>,
    },
    /// Builds extensions in release mode, and puts each library in its dist, whole or not at all.
    Build {
        /// Their folders [default: this one, where it is an extension's, else all in the extensions folder with source]
        folders: Vec<PathBuf>,
        /// Prints JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Loads one extension as the host would, shows what it is, and drives it as a hostile world would.
    ///
    /// Exit codes: 0 it is sound, 1 there are findings, 2 it cannot be loaded. Its outgoing calls are answered by a stand-in
    /// on this machine.
    Check {
        /// Its folder.
        #[arg(default_value = ".")]
        folder: PathBuf,
        /// Prints JSON for programs.
        #[arg(long)]
        json: bool,
        /// Shows the log of the host that it is checked with.
        #[arg(long)]
        log: bool,
    },
    /// Builds extensions, serves them, and builds and serves them again after each save.
    Dev {
        /// Their folders [default: this one, where it is an extension's, else all in the extensions folder with source]
        folders: Vec<PathBuf>,
        /// How to serve.
        #[command(flatten)]
        serve: ServeOptions,
    },
    /// Serves the extension that another process checks, which holds the other end of its standard input.
    #[command(hide = true)]
    CheckSubject {
        /// Its folder.
        folder: PathBuf,
        /// What answers outgoing calls.
        #[arg(long)]
        stand_in: SocketAddr,
    },
    /// Starts a server from the binary and the settings that are on the disk now, in the place of the running one.
    ///
    /// The new one takes what comes; requests in flight on the old one have shutdown_timeout_ms to finish. If the new one does
    /// not start, the old one serves on.
    Upgrade {
        /// Prints JSON for programs.
        #[arg(long)]
        json: bool,
    },
    /// Loads the extension that another process names, and reports to it.
    #[command(hide = true)]
    Trial,
    /// Shows what the extensions folder holds: what would be mounted, and why the rest would not.
    List {
        /// Prints JSON for programs instead of a table.
        #[arg(long)]
        json: bool,
    },
    /// Adds, shows, suspends and removes users.
    #[command(subcommand)]
    User(UserCommand),
    /// Adds, shows and removes roles.
    #[command(subcommand)]
    Role(RoleCommand),
    /// Makes, shows and revokes static tokens.
    #[command(subcommand)]
    Token(TokenCommand),
    /// Copies the store of users and tokens into a new file, whole, whether a host runs or not.
    Backup {
        /// The file, which must not be there yet
        file: PathBuf,
        /// Prints JSON for programs.
        #[arg(long)]
        json: bool,
    },
}

/// The files to read settings from.
#[derive(Debug, Args)]
struct FileOptions {
    /// The configuration file, which must exist [default: config.toml, where there is one]
    #[arg(long, global = true, value_name = "PATH")]
    config: Option<PathBuf>,
    /// The file of variables below those of the process, which must exist [default: .env, where there is one]
    #[arg(long, global = true, value_name = "PATH")]
    env_file: Option<PathBuf>,
    /// The folder that holds the extensions [default: ./extensions]
    #[arg(long, global = true, value_name = "PATH")]
    extensions_path: Option<PathBuf>,
}

/// How to serve.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct ServeOptions {
    /// The address to listen on [default: 0.0.0.0]
    #[arg(long, value_name = "ADDRESS")]
    host: Option<String>,
    /// The port to listen on; 0: one that is free [default: 8055]
    #[arg(long)]
    port: Option<u16>,
    /// The number of event-loop threads; 0: one for each core [default: 0]
    #[arg(long, value_name = "COUNT")]
    workers: Option<usize>,
    /// Has a second process start the server anew when an extension has ended it [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    supervise: Option<bool>,
    /// Ends the host where an extension cannot be loaded
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    must_load: Option<bool>,
    /// Loads a changed extension anew while the host runs
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    auto_reload: Option<bool>,
    /// What is logged: error, warn, info, debug, trace or silent [default: info]
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// How it is logged: pretty for people, json for programs [default: pretty]
    #[arg(long, value_name = "STYLE")]
    log_style: Option<Style>,
}

impl Cli {
    /// What is asked for; to serve, where nothing is.
    pub fn command(&self) -> Command {
        self.command
            .clone()
            .unwrap_or_else(|| Command::Serve(ServeOptions::default()))
    }

    /// Whether this process is the server of a supervisor.
    pub fn is_supervised(&self) -> bool {
        self.supervised
    }

    /// The options that say where settings come from, for another process.
    pub fn files(&self) -> Vec<OsString> {
        let FileOptions {
            config,
            env_file,
            extensions_path: _,
        } = &self.files;
        let named = [("--config", config), ("--env-file", env_file)];
        let given = named
            .into_iter()
            .filter_map(|(name, path)| Some([name.into(), path.clone()?.into_os_string()]));
        given.flatten().collect()
    }

    /// The settings that stand on the command line, before or after the command; after wins.
    pub fn overrides(&self) -> Overrides {
        let before = &self.serve;
        let after = match &self.command {
            Some(
                Command::Serve(options)
                | Command::Demo(options)
                | Command::Dev { serve: options, .. },
            ) => options,
            _ => before,
        };
        Overrides {
            config: self.files.config.clone(),
            env_file: self.files.env_file.clone(),
            extensions_path: self.files.extensions_path.clone(),
            host: after.host.as_ref().or(before.host.as_ref()).cloned(),
            port: after.port.or(before.port),
            workers: after.workers.or(before.workers),
            supervise: after.supervise.or(before.supervise),
            must_load: after.must_load.or(before.must_load),
            auto_reload: after.auto_reload.or(before.auto_reload),
            log_level: after.log_level.or(before.log_level),
            log_style: after.log_style.or(before.log_style),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn the_definition_is_sound() {
        <Cli as CommandFactory>::command().debug_assert();
    }

    #[test]
    fn without_a_command_it_serves() {
        assert!(matches!(
            parse("extension-host").command(),
            Command::Serve(_)
        ));
        assert!(matches!(
            parse("extension-host demo").command(),
            Command::Demo(_)
        ));
        assert_eq!(
            parse("extension-host list --json").command(),
            Command::List { json: true }
        );
        assert_eq!(parse("extension-host").overrides(), Overrides::default());
    }

    #[test]
    fn options_stand_before_or_behind_the_command() {
        for line in [
            "extension-host --config c --port 1 --must-load",
            "extension-host --port 1 --must-load serve --config c",
            "extension-host --config c --must-load=false serve --port 1 --must-load",
            "extension-host demo --config c --port 1 --must-load=true",
        ] {
            let overrides = parse(line).overrides();
            assert_eq!(overrides.config.as_deref(), Some("c".as_ref()), "{line}");
            assert_eq!(
                (overrides.port, overrides.must_load, overrides.auto_reload),
                (Some(1), Some(true), None),
                "{line}"
            );
        }
        assert_eq!(
            parse("extension-host list --extensions-path e")
                .overrides()
                .extensions_path
                .as_deref(),
            Some("e".as_ref())
        );
        assert_eq!(
            parse("extension-host --log-level debug")
                .overrides()
                .log_level,
            Some(Level::Debug)
        );
    }

    #[test]
    fn mistakes_are_explained() {
        for (line, part) in [
            ("extension-host --prot 1", "'--port'"),
            ("extension-host --port x", "invalid value 'x'"),
            (
                "extension-host --log-level loud",
                "unknown log level \"loud\"",
            ),
            ("extension-host sevre", "'serve'"),
        ] {
            let error = Cli::try_parse_from(line.split(' '))
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn the_help_holds_examples() {
        assert!(
            <Cli as CommandFactory>::command()
                .render_help()
                .to_string()
                .contains("extension-host demo")
        );
    }
}
