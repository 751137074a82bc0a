//! Threads for what takes long, started when there is work and ended when there is none. A system that gives no thread is an
//! error here and no panic, as it is in tokio's pool.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;
use std::{fmt, io};

use super::log::{self, Level};
use super::process::EndsWithThread;
use super::thread_locals::touch_thread_locals;

/// How long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// See the module's text. The drop ends its threads.
pub struct ThreadPool(Arc<Shared>);

struct Shared {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State>,
    has_work: Condvar,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    /// Threads that wait for work.
    idle: usize,
    /// How many threads stay without work.
    kept: usize,
    /// The system gave no thread the last time.
    is_refused: bool,
    /// Nobody has work for it any more.
    is_over: bool,
}

/// The system gives no thread, or the work panicked.
#[derive(Debug)]
pub struct NotDone;

impl fmt::Display for NotDone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("there is no thread for it; raise the limit of threads (ulimit -u, TasksMax)")
    }
}

impl std::error::Error for NotDone {}

impl ThreadPool {
    /// One that has no thread yet, and never more than `threads_max`.
    pub fn new(name: &'static str, threads_max: usize) -> Self {
        Self(Arc::new(Shared {
            name,
            threads_max: threads_max.max(1),
            state: Mutex::default(),
            has_work: Condvar::new(),
        }))
    }

    /// Starts threads that stay: while a library's initialiser does not return, no thread can begin.
    ///
    /// # Errors
    /// Where the system gives none.
    pub fn keep(&self, count: usize) -> io::Result<()> {
        let mut state = self.0.lock();
        state.kept = count.min(self.0.threads_max);
        while state.threads < state.kept {
            self.0.spawn(&mut state)?;
        }
        Ok(())
    }

    /// Has its threads end as soon as they have nothing to do.
    pub fn end(&self) {
        self.0.lock().is_over = true;
        self.0.has_work.notify_all();
    }

    /// Has a thread do a job, as soon as one is free.
    ///
    /// # Errors
    /// Where all threads are busy and the system gives no further one, although the pool may have it.
    pub fn start(&self, job: impl FnOnce() + Send + 'static) -> Result<(), NotDone> {
        self.0.put(Box::new(job), false)
    }

    /// Has a thread do something, and waits for it. Whatever has not begun when nobody waits any more is not done.
    ///
    /// # Errors
    /// Where there is no thread at all.
    pub async fn run<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, NotDone> {
        let (done, wait) = tokio::sync::oneshot::channel();
        let job = move || {
            if done.is_closed() {
                return;
            }
            // The hook has logged a panic; whoever waits learns of it by the closed channel.
            if let Ok(result) = catch_unwind(AssertUnwindSafe(work)) {
                // Err: nobody waits any more.
                let _ = done.send(result);
            }
        };
        self.0.put(Box::new(job), true)?;
        wait.await.map_err(|_| NotDone)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a job. Where the system gives no thread, it waits for one that is busy if it `may_wait`.
    fn put(self: &Arc<Self>, job: Job, may_wait: bool) -> Result<(), NotDone> {
        let mut state = self.lock();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            self.has_work.notify_one();
        } else if state.threads < self.threads_max {
            let started = self.spawn(&mut state);
            let was_refused = std::mem::replace(&mut state.is_refused, started.is_err());
            if let Err(cause) = started {
                let is_lost = !may_wait || state.threads == 0;
                if is_lost {
                    state.jobs.pop_back();
                }
                drop(state);
                if !was_refused {
                    self.tell_refused(&cause);
                }
                if is_lost {
                    return Err(NotDone);
                }
            }
        }
        Ok(())
    }

    /// Once, until there is a thread again.
    #[cold]
    fn tell_refused(&self, cause: &io::Error) {
        log::event(
            Level::Error,
            "the system gives no thread; raise the limit of threads (ulimit -u, TasksMax)",
            &[("for", &self.name), ("cause", cause)],
        );
    }

    fn spawn(self: &Arc<Self>, state: &mut State) -> io::Result<()> {
        let shared = self.clone();
        thread::Builder::new()
            .name(self.name.to_owned())
            .spawn(move || shared.work())?;
        state.threads += 1;
        Ok(())
    }

    fn work(&self) {
        let _ends = EndsWithThread;
        touch_thread_locals();
        let mut state = self.lock();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                job();
                state = self.lock();
                continue;
            }
            if state.is_over {
                break;
            }
            state.idle += 1;
            let waited = self.has_work.wait_timeout(state, IDLE);
            let waited = waited.unwrap_or_else(PoisonError::into_inner);
            state = waited.0;
            state.idle -= 1;
            if waited.1.timed_out() && state.jobs.is_empty() && state.threads > state.kept {
                break;
            }
        }
        state.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn no_more_threads_are_started_than_the_pool_may_have() {
        let pool = ThreadPool::new("test", 2);
        let (at, arrived) = mpsc::channel();
        let gate = Arc::new(Mutex::new(()));
        let closed = gate.lock().unwrap();
        for number in 0..4 {
            let (at, gate) = (at.clone(), gate.clone());
            let job = move || {
                at.send(number).unwrap();
                drop(gate.lock());
            };
            pool.start(job).unwrap();
        }
        let mut first = [arrived.recv().unwrap(), arrived.recv().unwrap()];
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        assert_eq!(pool.0.lock().threads, 2);
        assert_eq!(pool.0.lock().jobs.len(), 2);
        drop(closed);
        let mut last = [arrived.recv().unwrap(), arrived.recv().unwrap()];
        last.sort_unstable();
        assert_eq!(last, [2, 3]);
    }

    #[tokio::test]
    async fn a_job_that_panics_is_not_done_and_the_next_one_is() {
        let pool = ThreadPool::new("test", 1);
        pool.run(|| panic!("on purpose")).await.unwrap_err();
        assert_eq!(pool.run(|| 7).await.unwrap(), 7);
    }
}
