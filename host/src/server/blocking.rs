//! The threads for routes that block: one bounded pool of the process, of which each extension has a bounded share.
//!
//! A call waits a moment for its turn, so that a burst is served one after the other; where all threads stay busy it is refused, as
//! it is above `concurrency_max`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::boundary::request;
use crate::extension::loaded::Extension;
use crate::extension::routes::RouteData;
use crate::platform::log::{self, Level};
use crate::platform::thread_pool::{NotDone, ThreadPool};
use crate::runtime::crash_page::{CallMark, ThreadMark};

/// How long a call waits for its turn.
const TURN_WITHIN: Duration = Duration::from_secs(1);

/// See the module's text.
pub struct BlockingThreads {
    pool: ThreadPool,
    permits: Arc<Semaphore>,
    /// By the extension's name and not by its build: threads that are stuck in an older build count, too.
    shares: Mutex<HashMap<Arc<str>, Share>>,
}

/// What one extension may have of the threads.
struct Share {
    threads_max: usize,
    permits: Arc<Semaphore>,
    /// Calls that were refused since that was last told.
    refused_count: u64,
}

/// One thread, for one call.
pub struct Turn {
    _of_extension: OwnedSemaphorePermit,
    _of_all: OwnedSemaphorePermit,
}

impl BlockingThreads {
    /// None has been started yet.
    pub fn new(threads_max: usize) -> Self {
        let threads_max = threads_max.max(1);
        Self {
            pool: ThreadPool::new("blocking", threads_max),
            permits: Arc::new(Semaphore::new(threads_max)),
            shares: Mutex::default(),
        }
    }

    /// Waits for a thread; `None`: none has become free in time.
    pub async fn turn(&self, extension: &Extension) -> Option<Turn> {
        // The extension's own first: who waits for that must not hold one of all.
        let own = self.share_of(extension);
        let all = self.permits.clone();
        let both = async {
            Some(Turn {
                _of_extension: own.acquire_owned().await.ok()?,
                _of_all: all.acquire_owned().await.ok()?,
            })
        };
        let turn = actix_rt::time::timeout(TURN_WITHIN, both).await;
        let turn = turn.ok().flatten();
        if turn.is_none() {
            self.note_refused(extension);
        }
        turn
    }

    /// Has a thread call the extension.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn call(
        &self,
        turn: Turn,
        extension: Arc<Extension>,
        (data, call_mark): (RouteData, CallMark),
        request: request::Handle,
    ) -> Result<(), NotDone> {
        self.pool.start(move || {
            let number = extension.context.in_flight.number;
            let call = || extension.handle(data, request.to_abi());
            ThreadMark::of_this_thread().within(number, call_mark, call);
            drop(turn);
        })
    }

    /// Has the threads end that are in no call.
    pub fn end(&self) {
        self.pool.end();
    }

    /// Writes which extensions' calls were refused since the last time.
    pub fn report_refused(&self) {
        let mut refused: Vec<(Arc<str>, usize, u64)> = Vec::new();
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, share) in &mut *shares {
            let count = std::mem::take(&mut share.refused_count);
            if count > 0 {
                refused.push((name.clone(), share.threads_max, count));
            }
        }
        drop(shares);
        for (name, threads_max, count) in refused {
            let fields: [log::Field<'_>; 3] = [
                ("extension", &name),
                ("refused_count", &count),
                ("blocking_threads_each", &threads_max),
            ];
            let sentence = "calls of blocking routes were refused: all threads that the extension may have are busy, or all of the process";
            log::event(Level::Warn, sentence, &fields);
        }
    }

    fn share_of(&self, extension: &Extension) -> Arc<Semaphore> {
        let threads_max = extension.blocking_threads;
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let name = extension.context.name();
        if let Some(share) = shares.get_mut(name) {
            // Another build may have another limit. What is in use is not taken back.
            if threads_max > share.threads_max {
                share.permits.add_permits(threads_max - share.threads_max);
                share.threads_max = threads_max;
            } else if threads_max < share.threads_max {
                share.threads_max -= share
                    .permits
                    .forget_permits(share.threads_max - threads_max);
            }
            return share.permits.clone();
        }
        let permits = Arc::new(Semaphore::new(threads_max));
        let share = Share {
            threads_max,
            permits: permits.clone(),
            refused_count: 0,
        };
        shares.insert(name.clone(), share);
        permits
    }

    fn note_refused(&self, extension: &Extension) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get_mut(extension.context.name()) {
            share.refused_count += 1;
        }
    }
}
