//! The host: what all workers of the server share.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::blocking::BlockingThreads;
use super::serve_error::ServeError;
use crate::boundary::CALLBACKS;
use crate::config::Config;
use crate::extension::catalog::Catalog;
use crate::extension::changes;
use crate::extension::copies::Copies;
use crate::extension::loader::{self, Scope};
use crate::extension::quarantine::Quarantine;
use crate::extension::reload_thread::ReloadThread;
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::platform::handover::{Link, Occasion, Quarantined};
use crate::platform::listen::Listeners;
use crate::platform::log;
use crate::upstream::connect::remember_roots;

/// See the module's text.
pub struct Host {
    /// The settings.
    pub config: Arc<Config>,
    /// Who asks.
    pub authority: Authority,
    /// The extensions.
    pub catalog: Arc<Catalog>,
    /// To the supervisor, where there is one.
    pub link: Option<Arc<Link>>,
    /// Why it was started.
    occasion: Occasion,
    /// What it listens on, once it does.
    pub listeners: OnceLock<Listeners>,
    /// The threads for routes that block.
    pub blocking: BlockingThreads,
    /// Who brings the extensions in line while the host serves.
    pub reloads: ReloadThread,
    /// Held while hashes of libraries are computed.
    pub hashing: tokio::sync::Mutex<()>,
    /// When the host started.
    pub started: Instant,
    /// The host was told to end.
    pub is_stopping: AtomicBool,
}

/// What a supervisor has to say to a host; nothing where there is none.
#[derive(Default)]
pub struct Supervision {
    /// The way back to it.
    pub link: Option<Arc<Link>>,
    /// What is not to be loaded.
    pub quarantined: Vec<Quarantined>,
    /// Why the host is started.
    pub occasion: Occasion,
}

impl Supervision {
    /// Whether no server has served before this one.
    pub fn is_first(&self) -> bool {
        self.occasion == Occasion::Start
    }
}

impl Host {
    /// A host that serves nothing yet; `copies` says whether the next one finds its copies of libraries.
    ///
    /// # Errors
    /// Where the folder for private copies of libraries cannot be made.
    pub fn new(
        config: Config,
        env: Env,
        authority: Authority,
        copies: impl FnOnce() -> Result<Copies, (PathBuf, io::Error)>,
        supervision: Supervision,
    ) -> Result<Arc<Self>, ServeError> {
        remember_roots();
        let config = Arc::new(config);
        let Supervision {
            link,
            quarantined,
            occasion,
        } = supervision;
        let quarantine = Quarantine::new(quarantined, link.clone());
        let catalog = Catalog::new(config.clone(), env, &CALLBACKS, copies, quarantine);
        Ok(Arc::new(Self {
            blocking: BlockingThreads::new(config.limits.blocking_threads),
            reloads: ReloadThread::default(),
            listeners: OnceLock::new(),
            hashing: tokio::sync::Mutex::default(),
            config,
            authority,
            catalog: catalog.map_err(ServeError::Copies)?,
            link,
            occasion,
            started: Instant::now(),
            is_stopping: AtomicBool::new(false),
        }))
    }

    /// Loads what the extensions folder holds, and mounts it.
    ///
    /// # Errors
    /// Where the folder cannot be read, or something was refused and must not be.
    pub fn load_extensions(&self) -> Result<(), ServeError> {
        let scope = match &self.occasion {
            // What may take its time, or hang as it did before, follows when the others are served.
            Occasion::Replacement { serves } if !serves.is_empty() => Scope::Named(serves),
            _ => Scope::Changed,
        };
        let changes = loader::update(&self.catalog, &scope)
            .map_err(|cause| ServeError::Extensions(self.config.extensions_path.clone(), cause))?;
        self.catalog.copies.forget_left();
        let registry = self.catalog.registry.load();
        changes::report_passed_over(&registry);
        changes::report(&changes);
        match &self.occasion {
            // Better fewer extensions than none.
            Occasion::Replacement { .. } => return Ok(()),
            Occasion::Upgrade { serves } => {
                let refused = registry.refused().map(|refused| refused.folder.as_str());
                let lost: Vec<String> = refused
                    .filter(|refused| serves.iter().any(|served| served == refused))
                    .map(str::to_owned)
                    .collect();
                if !lost.is_empty() {
                    return Err(ServeError::Lost(lost));
                }
            }
            Occasion::Start => {}
        }
        match registry.refused().count() {
            refused if self.config.must_load && refused > 0 => Err(ServeError::MustLoad(refused)),
            _ => Ok(()),
        }
    }

    /// Whether some of the extensions folder was left for when the host serves.
    pub fn has_more_to_load(&self) -> bool {
        matches!(self.occasion, Occasion::Replacement { .. })
    }

    /// Has nobody listen any more where this host does, unless another one takes over.
    pub fn shut_down_listeners(&self) {
        let is_last = self.link.as_ref().is_none_or(|link| link.is_last());
        if let Some(listeners) = self.listeners.get().filter(|_| is_last) {
            log::note_sockets_closed();
            listeners.shut_down();
        }
    }

    /// Closes the store, and stops and destroys all extensions, when no request is served any more, and tidies up.
    pub fn end(&self) {
        // First: no extension uses it, and one may never come back from its hook.
        self.authority.close();
        self.catalog.end();
        self.blocking.end();
    }
}
