//! Time limits on what the database is asked, what is concluded from its failures, and a look at it for those who monitor the
//! host.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::condition::Use;
use super::db::Db;
use super::error::{STEP_TIMEOUT, StoreError};
use crate::platform::error_chain::error_chain;

/// How often a database that fails is tried, until it answers.
const RETRY: Duration = Duration::from_secs(1);
/// How long a look may take; what has not answered by then counts as failing.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a look counts: many who ask at once are one question to the database.
const LOOK_COUNTS_FOR: Duration = Duration::from_secs(1);

/// What a look at a database has shown.
#[derive(Debug, Clone)]
pub struct Health {
    /// How long a look-up took, or why there was none.
    pub read: Result<Duration, String>,
    /// Whether it can be changed, or why not; `None`: it is only read.
    pub change: Option<Result<(), String>>,
}

/// The newest look, which may still be going on.
#[derive(Default)]
pub(super) struct Looks(Mutex<Option<Look>>);

#[derive(Clone)]
struct Look {
    began: Instant,
    seen: watch::Receiver<Seen>,
}

impl Look {
    /// The one who looks has left.
    fn is_over(&self) -> bool {
        self.seen.has_changed().is_err()
    }
}

/// What has been seen so far.
#[derive(Clone, Default)]
struct Seen {
    read: Option<Result<Duration, String>>,
    change: Option<Result<(), String>>,
}

impl Db {
    /// Awaits queries, with a time limit, and notes whether the database answered.
    pub async fn timed<T>(
        &self,
        using: Use,
        queries: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answer = tokio::time::timeout(STEP_TIMEOUT, queries)
            .await
            .unwrap_or(Err(StoreError::TimedOut))
            .map_err(|cause| self.explain(cause));
        match &answer {
            Err(cause) if cause.is_fault() => self.failed(using, cause),
            _ => self.condition.answered(using),
        }
        answer
    }

    /// Notes a failure. From the first one on the database is tried until it answers, whether anybody uses it or not.
    fn failed(&self, using: Use, cause: &StoreError) {
        if self.condition.failed(using, &error_chain(cause)) {
            tokio::spawn(self.clone().retry(using));
        }
    }

    async fn retry(self, using: Use) {
        while self.condition.cause(using).is_some() {
            tokio::time::sleep(RETRY).await;
            // Its outcome is noted like that of others.
            let _ = match using {
                Use::Read => self.timed(using, self.try_read()).await,
                Use::Change => self.timed(using, self.try_change()).await,
            };
        }
    }

    async fn try_read(&self) -> Result<(), StoreError> {
        if self.is_writable() {
            return self.epoch().await.map(drop);
        }
        // For SQLite something that reads the file.
        let query = if self.is_postgres() {
            "SELECT 1"
        } else {
            "SELECT COUNT(*) FROM sqlite_master"
        };
        let _: i64 = sqlx::query_scalar(query).fetch_one(self.reads()?).await?;
        Ok(())
    }

    /// A change that changes nothing, and is written all the same: only that shows whether the disk takes it.
    async fn try_change(&self) -> Result<(), StoreError> {
        let mut change = self.begin().await?;
        sqlx::query("UPDATE host_changes SET epoch = epoch WHERE id = 1")
            .execute(&mut *change)
            .await?;
        change.commit().await
    }

    /// Begins a change, and takes it back: shows whether another process keeps this one from changing anything, and writes nothing.
    async fn try_begin(&self) -> Result<(), StoreError> {
        self.begin().await?.undo().await
    }

    /// Looks whether the database answers. Takes a second at most, whatever the database does.
    pub async fn health(&self) -> Health {
        let Look { began, mut seen } = self.current_look();
        let over = async { while seen.changed().await.is_ok() {} };
        // Err: what is not known by now is not known.
        let _ = tokio::time::timeout_at(began + LOOK_TIMEOUT, over).await;
        let seen = seen.borrow().clone();
        let late = format!("it did not answer within {} s", LOOK_TIMEOUT.as_secs());
        // What callers meet meanwhile counts for more than an older look.
        let known = |using| self.condition.cause(using);
        let read = known(Use::Read).map(Err).or(seen.read);
        let change = known(Use::Change).map(Err).or(seen.change);
        let change = change.unwrap_or_else(|| Err(late.clone()));
        Health {
            read: read.unwrap_or(Err(late)),
            change: self.is_writable().then_some(change),
        }
    }

    fn current_look(&self) -> Look {
        let mut newest = self.looks.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that has not come to its end is the only one: a database that is stuck gets no second question.
        let still_counts = |look: &&Look| !look.is_over() || look.began.elapsed() < LOOK_COUNTS_FOR;
        if let Some(look) = newest.as_ref().filter(still_counts) {
            return look.clone();
        }
        let (sender, seen) = watch::channel(Seen::default());
        let look = Look {
            began: Instant::now(),
            seen,
        };
        tokio::spawn(self.clone().look(sender));
        *newest = Some(look.clone());
        look
    }

    async fn look(self, seen: watch::Sender<Seen>) {
        let began = Instant::now();
        let read = self.timed(Use::Read, self.try_read()).await;
        let read = read
            .map(|()| began.elapsed())
            .map_err(|cause| error_chain(&cause));
        seen.send_modify(|seen| seen.read = Some(read));
        // While changes are known to fail, others try. That one can begin says nothing then: a full disk shows when it is written to.
        let change = match self.condition.cause(Use::Change) {
            Some(cause) => Err(cause),
            None if self.is_writable() => self.begins().await,
            None => Ok(()),
        };
        seen.send_modify(|seen| seen.change = Some(change));
    }

    /// Whether a change can begin; that it cannot is noted.
    async fn begins(&self) -> Result<(), String> {
        let begun = tokio::time::timeout(STEP_TIMEOUT, self.try_begin());
        let begun = begun.await.unwrap_or(Err(StoreError::TimedOut));
        begun.map_err(|cause| {
            let cause = self.explain(cause);
            if cause.is_fault() {
                self.failed(Use::Change, &cause);
            }
            error_chain(&cause)
        })
    }
}
