//! What a server is made of, its binary and its settings, as they were when somebody asked for them. A server that takes the place of
//! one that has crashed has the same: what is half written on the disk by then does not matter.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use crate::config::{Config, ConfigError, Overrides, read_settings};
use crate::platform::env::Env;
use crate::platform::handover::SettingsText;
use crate::platform::log::{self, Level};

/// See the module's text.
pub struct Version {
    program: Program,
    settings: SettingsText,
    env_file: PathBuf,
}

impl Version {
    /// That of this process.
    ///
    /// # Errors
    /// Where the system does not say what this process runs.
    pub fn own(config: &Config, settings: SettingsText) -> io::Result<Self> {
        let mut version = Self {
            program: Program::own()?,
            settings,
            env_file: config.env_file.clone(),
        };
        // Err: it was understood a moment ago, and is read again before it is needed.
        let _ = version.keep_env();
        Ok(version)
    }

    /// That which is on the disk now, with the settings as they are there now.
    ///
    /// # Errors
    /// Where the binary is not there, or the settings are not understood.
    pub fn on_disk(&self, overrides: &Overrides) -> Result<Self, Box<dyn std::error::Error>> {
        let settings = read_settings(overrides)?;
        let (config, _) = Config::of(&settings, overrides)?;
        let mut version = Self {
            program: self.program.on_disk()?,
            settings,
            env_file: config.env_file,
        };
        version.keep_env()?;
        Ok(version)
    }

    /// How its program is started.
    pub fn program(&self) -> PathBuf {
        self.program.path_to_run()
    }

    /// What its settings are read from. The file of variables is read anew by each server, as SIGHUP has it read; where it cannot be
    /// at the moment, the server gets what it said before.
    pub fn settings(&mut self) -> SettingsText {
        match self.keep_env() {
            Ok(()) => SettingsText {
                env: None,
                ..self.settings.clone()
            },
            Err(cause) => {
                let sentence =
                    "the variables are not understood; the next server has those of before";
                log::event(Level::Error, sentence, &[("cause", &cause)]);
                self.settings.clone()
            }
        }
    }

    /// Notes what the file of variables says, where it is understood.
    ///
    /// # Errors
    /// Where it cannot be read, or is not understood.
    pub fn keep_env(&mut self) -> Result<(), ConfigError> {
        Env::load(&self.env_file).map_err(ConfigError::Env)?;
        // Err: there is none, which is as good as an empty one.
        self.settings.env = Some(fs::read_to_string(&self.env_file).unwrap_or_default());
        Ok(())
    }
}

/// A binary that stays the same when another is put in its place.
struct Program {
    path: PathBuf,
    file: File,
}

impl Program {
    fn own() -> io::Result<Self> {
        Ok(Self {
            path: std::env::current_exe()?,
            file: File::open("/proc/self/exe")?,
        })
    }

    fn on_disk(&self) -> io::Result<Self> {
        Ok(Self {
            path: self.path.clone(),
            file: File::open(&self.path)?,
        })
    }

    /// By its path, so that lists of processes show its name; where another is there now, by the open file.
    fn path_to_run(&self) -> PathBuf {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let here = self.file.metadata().map(id).ok();
        if here.is_some() && here == fs::metadata(&self.path).map(id).ok() {
            self.path.clone()
        } else {
            format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
        }
    }
}
