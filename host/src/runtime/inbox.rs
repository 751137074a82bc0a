//! Jobs that other threads leave for a worker, and how it is woken for them. The model in `tests/loom` tries every order of the
//! steps: no job is lost, and none is left lying.

use std::sync::PoisonError;

use super::sync::{AtomicBool, Mutex, MutexGuard, Ordering};

/// See the module's text. `J` is a job; `W` wakes the worker.
pub struct Inbox<J, W> {
    content: Mutex<Content<J, W>>,
    /// There may be jobs: so that the worker needs no lock to see that there are none.
    is_filled: AtomicBool,
}

/// How a worker is woken. Cloned for each job.
pub trait Wake: Clone {
    /// Has it look for jobs.
    fn wake(&self);
}

struct Content<J, W> {
    /// `None` after the worker has ended.
    jobs: Option<Vec<J>>,
    /// There once the worker looks for jobs.
    waker: Option<W>,
}

impl<J, W: Wake> Inbox<J, W> {
    /// An empty one.
    pub fn new() -> Self {
        Self {
            content: Mutex::new(Content {
                jobs: Some(Vec::new()),
                waker: None,
            }),
            is_filled: AtomicBool::new(false),
        }
    }

    /// Leaves a job. It is dropped where the worker has ended, as happens at the end of the process.
    pub fn put(&self, job: J) {
        let mut content = self.lock();
        let Some(jobs) = &mut content.jobs else {
            return;
        };
        jobs.push(job);
        // Under the lock, so that a worker that only now says how it is woken finds it set.
        self.is_filled.store(true, Ordering::Release);
        let wake = content.waker.clone();
        // Not under the lock: whoever wakes a worker for the first time may wait for the system's loader, and the worker must not
        // wait with it.
        drop(content);
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    /// Whether there may be jobs.
    pub fn is_filled(&self) -> bool {
        self.is_filled.load(Ordering::Acquire)
    }

    /// Says how the worker is woken from now on. It looks for jobs after this.
    pub fn set_waker(&self, waker: W) {
        self.lock().waker = Some(waker);
    }

    /// Takes what is there.
    pub fn take(&self) -> Vec<J> {
        if !self.is_filled() {
            return Vec::new();
        }
        let mut content = self.lock();
        self.is_filled.store(false, Ordering::Relaxed);
        content
            .jobs
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Takes what is left when nobody looks any more.
    pub fn close(&self) -> Vec<J> {
        self.lock().jobs.take().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Content<J, W>> {
        self.content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J, W: Wake> Default for Inbox<J, W> {
    fn default() -> Self {
        Self::new()
    }
}
