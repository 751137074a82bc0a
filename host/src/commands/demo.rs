//! `extension-host demo`: builds the extensions of this checkout, serves them with its own settings, and says what to try.
//!
//! The files in `demo/` say what is served and what there is to try: this code knows of no extension.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, fs, io};

use crate::commands::build;
use crate::config::Config;
use crate::config::values::Secret;
use crate::extension::copies::Copies;
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::server::{Host, Supervision};
use crate::store::random_text;

/// The variables that the demo's extensions see; `${PORT}` is filled in.
const ENV: &str = "demo/demo.env";
/// What is printed when the host listens; `${URL}` and `${TOKEN}` are filled in.
const TRY: &str = "demo/try.txt";

/// Why there is no demo.
#[derive(Debug)]
pub enum DemoError {
    /// The working directory is no checkout.
    NoCheckout,
    /// A file of the checkout cannot be read.
    Unreadable(PathBuf, io::Error),
    /// No port is free.
    NoPort(io::Error),
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCheckout => write!(
                f,
                "there is no {ENV} here; run the demo in a checkout of extension-host"
            ),
            Self::Unreadable(path, _) => write!(f, "cannot read {}", path.display()),
            Self::NoPort(_) => f.write_str("cannot find a free port"),
        }
    }
}

impl std::error::Error for DemoError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Unreadable(_, cause) | Self::NoPort(cause) => Some(cause),
            Self::NoCheckout => None,
        }
    }
}

/// A demo that is ready to be served.
pub struct Demo {
    /// The host, with nothing loaded yet.
    pub host: Arc<Host>,
    text: String,
    token: String,
}

impl Demo {
    /// Builds what there is to serve. The operator's own `.env` is left alone: a demo must not spend real credit.
    ///
    /// # Errors
    /// Where this is no checkout, or an extension cannot be built.
    pub fn prepare(mut config: Config) -> Result<Self, Box<dyn std::error::Error>> {
        if !Path::new(ENV).is_file() {
            return Err(DemoError::NoCheckout.into());
        }
        let text =
            fs::read_to_string(TRY).map_err(|cause| DemoError::Unreadable(TRY.into(), cause))?;
        let folders = build::sources(&config.extensions_path)?;
        for (number, folder) in folders.iter().enumerate() {
            let (name, count) = (folder.display(), folders.len());
            eprintln!("building {name} ({} of {count})", number + 1);
            build::build(folder)?;
        }
        if config.port == 0 {
            config.port = free_port().map_err(DemoError::NoPort)?;
        }
        let token = random_text()?;
        config.auth.admin_token = Secret::new(token.clone());
        // For this machine alone: the token is printed on a terminal.
        config.host = "127.0.0.1".to_owned();
        // The token is all that there is to sign in with: a demo leaves no users behind.
        let authority = Authority::without_store(&config.auth)?;
        let env = Env::of_file(Path::new(ENV), &[("PORT", &config.port.to_string())])?;
        Ok(Self {
            host: Host::new(
                config,
                env,
                authority,
                Copies::temporary,
                Supervision::default(),
            )?,
            text,
            token,
        })
    }

    /// The text that says what there is to try.
    pub fn invitation(&self) -> String {
        let url = format!("http://127.0.0.1:{}", self.host.config.port);
        self.text
            .replace("${URL}", &url)
            .replace("${TOKEN}", &self.token)
    }
}

fn free_port() -> io::Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?
        .local_addr()?
        .port())
}
