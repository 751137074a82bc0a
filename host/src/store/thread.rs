//! The store's own thread: connections belong to the event loop that opened them, and workers come and go.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use super::database_url::DatabaseUrl;
use super::db::Db;
use super::error::{STEP_TIMEOUT, StoreError};
use super::migrations;
use crate::platform::process::EndsWithThread;
use crate::platform::thread_locals::touch_thread_locals;

/// A handle to the store, for workers and commands.
#[derive(Clone)]
pub struct Store {
    db: Db,
    runtime: tokio::runtime::Handle,
    /// SQLite's write-ahead log: its metadata change with every change that any process makes.
    wal: Option<Arc<File>>,
    /// The thread ends when the last clone is dropped.
    _alive: Arc<tokio::sync::oneshot::Sender<()>>,
}

impl Store {
    /// Opens the store, makes or migrates its tables, and starts its thread.
    ///
    /// # Errors
    /// Where it cannot be opened, or was made by a newer host.
    pub fn open(url: &DatabaseUrl) -> Result<Store, StoreError> {
        if let DatabaseUrl::File(path) = url {
            make_file(path).map_err(|cause| StoreError::File(path.clone(), cause))?;
        }
        let mut store = Self::start(url, true)?;
        let prepared = store.block_on(|db| async move {
            migrations::run(&db).await?;
            db.epoch().await
        });
        prepared.map_err(|cause| opening(url, cause))?;
        if let DatabaseUrl::File(path) = url {
            let mut wal = path.clone().into_os_string();
            wal.push("-wal");
            store.wal = File::open(wal).ok().map(Arc::new);
        }
        Ok(store)
    }

    /// Opens another program's database, to read only.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open_to_read(url: &DatabaseUrl) -> Result<Store, StoreError> {
        Self::start(url, false)
    }

    fn start(url: &DatabaseUrl, writable: bool) -> Result<Store, StoreError> {
        let (alive, ended) = tokio::sync::oneshot::channel::<()>();
        let (sender, receiver) = std::sync::mpsc::channel();
        let at = url.clone();
        let run = move || {
            let _ends = EndsWithThread;
            touch_thread_locals();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(cause) => {
                    let _ = sender.send(Err(StoreError::Thread(cause)));
                    return;
                }
            };
            runtime.block_on(async move {
                let connected = Db::connect(&at, writable).await;
                let handle = tokio::runtime::Handle::current();
                // Err: the opener has panicked.
                let _ = sender.send(connected.map(|db| (db, handle)));
                let _ = ended.await;
            });
        };
        std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(run)
            .map_err(StoreError::Thread)?;
        let (db, runtime) = receiver
            .recv()
            .unwrap_or(Err(StoreError::Gone))
            .map_err(|cause| opening(url, cause))?;
        Ok(Store {
            db,
            runtime,
            wal: None,
            _alive: Arc::new(alive),
        })
    }

    /// Runs queries on the store's thread, with a time limit; the result can be awaited on any thread.
    pub async fn run<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.spawn(queries).await.unwrap_or(Err(StoreError::Gone))
    }

    /// The same, blocking the calling thread.
    ///
    /// # Errors
    /// As the queries.
    pub fn block_on<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (sender, receiver) = std::sync::mpsc::channel();
        let queries = queries(self.db.clone());
        self.runtime.spawn(async move {
            let _ = sender.send(timed(queries).await);
        });
        receiver.recv().unwrap_or(Err(StoreError::Gone))
    }

    /// Starts queries whose result may be awaited later, or not at all.
    pub fn spawn<T, F>(
        &self,
        queries: impl FnOnce(Db) -> F,
    ) -> tokio::task::JoinHandle<Result<T, StoreError>>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.runtime.spawn(timed(queries(self.db.clone())))
    }

    /// Runs a future on the store's thread for as long as the thread lives.
    pub fn keep_running(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(work);
    }

    /// The connections, for work on the store's own thread.
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// A number that differs after a change by any process; always 0 for PostgreSQL. Costs one system call.
    pub fn mark(&self) -> u64 {
        use std::os::unix::fs::MetadataExt as _;
        let Some(Ok(log)) = self.wal.as_ref().map(|wal| wal.metadata()) else {
            return 0;
        };
        (log.mtime() as u64)
            .wrapping_mul(1_000_000_000)
            .wrapping_add(log.mtime_nsec() as u64)
            .wrapping_add(log.len())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Store")
    }
}

async fn timed<T>(queries: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    tokio::time::timeout(STEP_TIMEOUT, queries)
        .await
        .unwrap_or(Err(StoreError::TimedOut))
}

fn opening(url: &DatabaseUrl, cause: StoreError) -> StoreError {
    StoreError::Open {
        database: url.to_string(),
        cause: Box::new(cause),
    }
}

/// Makes the file readable by its owner only: it may hold the secret that signs tokens. SQLite gives its other files the same
/// permissions.
fn make_file(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    if let Some(folder) = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
    {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.create(true).append(true).mode(0o600);
    options.open(path).map(drop)
}
