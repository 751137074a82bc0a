//! `extension-host dev`: builds extensions, serves them, and builds and serves them again when their source is saved.
//!
//! The host that serves is the usual one, with reload switched on. A source that does not compile leaves what was built
//! before serving.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};
use std::{fmt, fs, io, thread};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};

use crate::commands::build;
use crate::config::Config;
use crate::extension::copies::Copies;
use crate::extension::discovery::{FOLDER_PREFIX, folder_name};
use crate::extension::loader::{self, Scope};
use crate::extension::registry::{State, ids};
use crate::identity::Authority;
use crate::platform::env::Env;
use crate::platform::error_chain::error_chain;
use crate::platform::scratch::{self, Scratch};
use crate::server::{Host, Supervision};

/// How long nothing may be saved before a build begins: editors write several files, and some of them twice.
const SETTLED: Duration = Duration::from_millis(30);
/// How often sources are looked at where no event comes.
const EVERY: Duration = Duration::from_secs(2);
/// Folders beside the source that hold what is built, or what the compiler does not read.
const NOT_SOURCE: [&str; 3] = ["dist", "target", "node_modules"];

/// Why nothing is served.
#[derive(Debug)]
pub enum DevError {
    /// There is nothing to build.
    NoSource(PathBuf),
    /// A folder has a name under which it is not found.
    BadName(PathBuf),
    /// The folder of links to the extensions cannot be made.
    Links(PathBuf, io::Error),
}

impl fmt::Display for DevError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSource(folder) => write!(
                f,
                "there is no source of an extension in {}; make one with: extension-host new NAME",
                folder.display()
            ),
            Self::BadName(folder) => write!(
                f,
                "{} cannot be served; the name of an extension's folder begins with {FOLDER_PREFIX}",
                folder.display()
            ),
            Self::Links(folder, _) => {
                write!(f, "cannot link the extensions in {}", folder.display())
            }
        }
    }
}

impl std::error::Error for DevError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Links(_, cause) => Some(cause),
            Self::NoSource(_) | Self::BadName(_) => None,
        }
    }
}

/// Extensions that are being written, and the host that serves them.
pub struct Dev {
    /// The host, with nothing loaded yet.
    pub host: Arc<Host>,
    sources: Vec<Source>,
    /// Links to the folders that were named; removed at the end.
    _links: Option<Links>,
}

/// An extension that is being written.
struct Source {
    folder: PathBuf,
    name: String,
    /// Its files as they were when the last build began.
    built: Files,
}

/// The source files of an extension: when each was written, and how large it is.
type Files = BTreeMap<PathBuf, (SystemTime, u64)>;

impl Dev {
    /// Builds what there is to serve: the folders that are named, or the working directory where it is an extension's, or
    /// each extension in the extensions folder that has its source with it.
    ///
    /// # Errors
    /// Where there is no source.
    pub fn prepare(
        mut config: Config,
        env: Env,
        folders: &[PathBuf],
        supervision: Supervision,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        config.auto_reload = true;
        let here = [PathBuf::from(".")];
        let named = if folders.is_empty() && build::is_extension(&here[0]) {
            &here
        } else {
            folders
        };
        let links = serve_only(named, &mut config)?;
        let sources = if named.is_empty() {
            build::sources(&config.extensions_path)?
        } else {
            named.to_vec()
        };
        if sources.is_empty() {
            return Err(DevError::NoSource(config.extensions_path).into());
        }
        let authority = Authority::open(&config, supervision.is_first())?;
        let mut dev = Self {
            host: Host::new(config, env, authority, Copies::temporary, supervision)?,
            sources: sources.into_iter().map(Source::of).collect(),
            _links: links,
        };
        for source in &mut dev.sources {
            // Err: the cause has been printed, and the next save may cure it.
            let _ = source.build();
        }
        Ok(dev)
    }

    /// Watches the sources for as long as the process lives.
    pub fn watch(&mut self) {
        let (host, sources) = (self.host.clone(), std::mem::take(&mut self.sources));
        for source in &sources {
            report(&host, &source.name, None);
        }
        // Without the thread nothing is built again; the host serves all the same.
        let started = thread::Builder::new()
            .name("dev".to_owned())
            .spawn(move || watch(&host, sources));
        if let Err(cause) = started {
            eprintln!("cannot watch the sources: {cause}");
        }
    }
}

/// Has the host serve the named folders alone, where they do not lie in its extensions folder anyway.
fn serve_only(named: &[PathBuf], config: &mut Config) -> Result<Option<Links>, DevError> {
    for folder in named {
        if !build::has_source(folder) {
            return Err(DevError::NoSource(folder.clone()));
        }
        if !folder_name(folder).starts_with(FOLDER_PREFIX) {
            return Err(DevError::BadName(folder.clone()));
        }
    }
    let root = config.extensions_path.canonicalize().ok();
    let lies_there = |folder: &PathBuf| {
        let folder = folder.canonicalize().ok();
        folder.is_some() && folder.as_deref().and_then(Path::parent) == root.as_deref()
    };
    if named.iter().all(lies_there) {
        return Ok(None);
    }
    let links = Links::make(named)?;
    config.extensions_path = links.0.path().to_owned();
    Ok(Some(links))
}

/// A folder of links to extensions that lie elsewhere.
struct Links(Scratch);

impl Links {
    fn make(folders: &[PathBuf]) -> Result<Self, DevError> {
        let scratch = Scratch::temporary(scratch::DEV)
            .map_err(|(path, cause)| DevError::Links(path, cause))?;
        let links = Self(scratch);
        let path = links.0.path();
        let failed = |cause| DevError::Links(path.to_owned(), cause);
        for folder in folders {
            let whole = folder.canonicalize().map_err(failed)?;
            std::os::unix::fs::symlink(&whole, path.join(folder_name(folder))).map_err(failed)?;
        }
        Ok(links)
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        // Links alone; what they lead to stays.
        self.0.remove();
    }
}

impl Source {
    fn of(folder: PathBuf) -> Self {
        Self {
            name: folder_name(&folder),
            folder,
            built: Files::new(),
        }
    }

    /// Builds it; the compiler's messages go to stderr as they come.
    fn build(&mut self) -> Result<(), ()> {
        self.built = files(&self.folder);
        eprintln!("building {}", self.name);
        match build::build(&self.folder) {
            Ok(_) => Ok(()),
            Err(error) => {
                eprintln!("{}", error_chain(&error));
                Err(())
            }
        }
    }
}

/// The files that a build depends on, as far as they lie in the folder.
fn files(folder: &Path) -> Files {
    let mut files = Files::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            let Ok(about) = fs::metadata(&path) else {
                continue;
            };
            if name.starts_with('.') || name.ends_with('~') || name == "Cargo.lock" {
            } else if about.is_dir() {
                if !NOT_SOURCE.contains(&&*name) {
                    folders.push(path);
                }
            } else if is_source(&name) {
                let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                files.insert(path, (written, about.len()));
            }
        }
    }
    files
}

/// Whether a change of the file is worth a build. The manifest is not: the host reads it itself.
fn is_source(name: &str) -> bool {
    name != crate::extension::manifest::FILE_NAME
        && !name.ends_with(".md")
        && !name.ends_with(".swp")
}

fn watch(host: &Arc<Host>, mut sources: Vec<Source>) {
    let (saved, saves) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |_event| {
        // Err: the receiver is gone.
        let _ = saved.send(());
    })
    .ok();
    loop {
        if let Some(watcher) = &mut watcher {
            sources
                .iter()
                .for_each(|source| listen(watcher, &source.folder));
        }
        let is_changed = |source: &Source| files(&source.folder) != source.built;
        if !sources.iter().any(is_changed) {
            match saves.recv_timeout(EVERY) {
                Err(RecvTimeoutError::Disconnected) if watcher.is_some() => return,
                Err(RecvTimeoutError::Disconnected) => thread::sleep(EVERY),
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
        // A save while something was built is seen here, and built once more.
        for source in sources.iter_mut().filter(|source| is_changed(source)) {
            let saved = settle(source, &saves);
            if source.build().is_ok() {
                // Err: the cause has been logged.
                let _ = loader::refresh(&host.catalog, &Scope::Changed);
                report(host, &source.name, Some(saved));
            } else {
                report_failed(host, &source.name);
            }
        }
    }
}

/// Waits until nothing is saved any more, and returns when the last save was.
fn settle(source: &Source, saves: &Receiver<()>) -> Instant {
    let mut before = files(&source.folder);
    let mut saved = Instant::now();
    loop {
        thread::sleep(SETTLED);
        while saves.try_recv().is_ok() {}
        let now = files(&source.folder);
        if now == before {
            return saved;
        }
        (before, saved) = (now, Instant::now());
    }
}

/// Asks for events of the folder and of those in it that hold source; one that is watched stays so.
fn listen(watcher: &mut RecommendedWatcher, folder: &Path) {
    // Err: no events come, and the folder is looked at every few seconds.
    let _ = watcher.watch(folder, RecursiveMode::NonRecursive);
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if entry.path().is_dir() && !name.starts_with('.') && !NOT_SOURCE.contains(&&*name) {
            let _ = watcher.watch(&entry.path(), RecursiveMode::Recursive);
        }
    }
}

/// Prints what is running although the new source does not compile.
fn report_failed(host: &Host, folder: &str) {
    let registry = host.catalog.registry.load();
    match registry.entry(folder).map(|entry| &entry.state) {
        Some(State::Mounted(extension)) => println!(
            "still serving {folder} (/{}), generation {}: the new source does not compile, for the reason above",
            ids(extension),
            extension.generation
        ),
        _ => println!("{folder} is not served: its source does not compile"),
    }
}

/// Prints in one line what is running now, and how long that took from the save.
fn report(host: &Host, folder: &str, saved: Option<Instant>) {
    let took = saved.map_or_else(String::new, |saved| {
        format!(
            ", {:.2} s after it was saved",
            saved.elapsed().as_secs_f64()
        )
    });
    let registry = host.catalog.registry.load();
    let line = match registry.entry(folder) {
        None => format!("{folder} is not served: the host has not found it"),
        Some(entry) => match (&entry.state, &entry.rejected) {
            (State::Mounted(extension), None) => {
                format!(
                    "serving {} (/{}), generation {}{took}",
                    folder,
                    ids(extension),
                    extension.generation
                )
            }
            (State::Mounted(extension), Some(_)) => format!(
                "still serving {} (/{}), generation {}: the new build was refused, for the reason above",
                folder,
                ids(extension),
                extension.generation
            ),
            (State::Refused(error), _) => {
                format!("{folder} is not served: {}", error_chain(error.as_ref()))
            }
            (State::Off(switch), _) => {
                format!("{folder} is not served: it waits for {switch} to be set")
            }
            (State::Disabled(_), _) => {
                format!("{folder} is not served: it is switched off in the configuration")
            }
        },
    };
    println!("{line}");
}
