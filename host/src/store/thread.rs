//! The store's own thread: connections belong to the event loop that opened them, and workers come and go.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::condition::Use;
use super::database_url::DatabaseUrl;
use super::db::Db;
use super::error::{STEP_TIMEOUT, StoreError};
use super::file::beside;
use super::opening;
use super::probe::Health;
use crate::platform::process::EndsWithThread;
use crate::platform::thread_locals::touch_thread_locals;

/// How long closing may take: a host that was told to end must end. What SQLite's log still holds stays there, for the next start.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A handle to the store, for workers and commands.
#[derive(Clone)]
pub struct Store {
    db: Db,
    runtime: tokio::runtime::Handle,
    /// SQLite's write-ahead log: its metadata change with every change that any process makes.
    wal: Option<Arc<File>>,
    thread: Arc<StoreThread>,
}

/// The store's thread. It ends when the store is closed, or the last handle is dropped.
struct StoreThread(Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>);

impl Store {
    /// Opens the store, makes or migrates its tables, and starts its thread.
    ///
    /// # Errors
    /// Where it cannot be opened, or was made by a newer host.
    pub fn open(url: &DatabaseUrl) -> Result<Store, StoreError> {
        let mut store = Self::start(url, true)?;
        if let DatabaseUrl::File(path) = url {
            store.wal = File::open(beside(path, "-wal")).ok().map(Arc::new);
        }
        Ok(store)
    }

    /// Opens it for a host that goes on where another has ended: it must be there.
    ///
    /// # Errors
    /// Where it is not, or cannot be opened.
    pub fn open_again(url: &DatabaseUrl) -> Result<Store, StoreError> {
        opening::check_there(url)?;
        Self::open(url)
    }

    /// Opens another program's database, to read only.
    ///
    /// # Errors
    /// Where it cannot be opened.
    pub fn open_to_read(url: &DatabaseUrl) -> Result<Store, StoreError> {
        Self::start(url, false)
    }

    fn start(url: &DatabaseUrl, writable: bool) -> Result<Store, StoreError> {
        let (end, ended) = oneshot::channel::<()>();
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
                let connected = match writable {
                    true => opening::open(&at).await,
                    false => Db::connect(&at, false).await,
                };
                let handle = tokio::runtime::Handle::current();
                let opened = connected.as_ref().ok().cloned();
                // Err: the opener has panicked.
                let _ = sender.send(connected.map(|db| (db, handle)));
                if let Some(db) = opened {
                    let _ = ended.await;
                    // Err: as after a crash, nothing is lost, and the next start has a little more to do.
                    let _ = tokio::time::timeout(CLOSE_TIMEOUT, db.close()).await;
                }
            });
        };
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(run)
            .map_err(StoreError::Thread)?;
        let (db, runtime) = receiver
            .recv()
            .unwrap_or(Err(StoreError::Gone))
            .map_err(|cause| StoreError::Open {
                database: url.to_string(),
                cause: Box::new(cause),
            })?;
        Ok(Store {
            db,
            runtime,
            wal: None,
            thread: Arc::new(StoreThread(Mutex::new(Some((end, thread))))),
        })
    }

    /// Looks something up on the store's thread, with a time limit; the result can be awaited on any thread.
    ///
    /// # Errors
    /// As the queries. That the database does not answer has been logged.
    pub async fn read<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.run(Use::Read, queries).await
    }

    /// Changes something, in the same way.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub async fn change<T, F>(&self, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        self.run(Use::Change, queries).await
    }

    async fn run<T, F>(&self, using: Use, queries: impl FnOnce(Db) -> F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let (db, queries) = (self.db.clone(), queries(self.db.clone()));
        let answer = self
            .runtime
            .spawn(async move { db.timed(using, queries).await });
        answer.await.unwrap_or(Err(StoreError::Gone))
    }

    /// Looks whether the database answers; takes little more than a second whatever it does, and costs the database no more
    /// than one look in a second, however many ask.
    pub async fn health(&self) -> Health {
        let db = self.db.clone();
        let looked = self.runtime.spawn(async move { db.health().await });
        looked.await.unwrap_or_else(|_| Health {
            read: Err(StoreError::Gone.to_string()),
            change: None,
        })
    }

    /// Closes the connections and ends the thread; what is asked from then on fails. SQLite's file is complete without its log
    /// then, unless another process uses the store.
    pub fn close(&self) {
        self.thread.end();
    }

    /// Runs queries with a time limit, blocking the calling thread: for a start and for commands, which tell of failures themselves.
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
            let answer = tokio::time::timeout(STEP_TIMEOUT, queries).await;
            let _ = sender.send(answer.unwrap_or(Err(StoreError::TimedOut)));
        });
        receiver.recv().unwrap_or(Err(StoreError::Gone))
    }

    /// Runs a future on the store's thread for as long as the store is open.
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

impl StoreThread {
    fn end(&self) {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((end, thread)) = thread else {
            return;
        };
        drop(end);
        // A handle that was held by what runs on the thread itself: it ends when that has returned.
        if thread.thread().id() != std::thread::current().id() {
            // Err: it has panicked, and is over.
            let _ = thread.join();
        }
    }
}

impl Drop for StoreThread {
    fn drop(&mut self) {
        self.end();
    }
}
