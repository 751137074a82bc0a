//! All workers of the host, as other threads see them: how to reach one, and whether one is inside an extension.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use tokio::sync::Notify;

use super::crash_page::{ThreadMark, page};
use super::worker::{Remote, Worker};

/// The workers, and the names of those whose code they call.
#[derive(Default)]
pub struct Workers {
    all: RwLock<Vec<Known>>,
    next: AtomicUsize,
    /// The name of each build that was ever loaded, by its number, from 1. Builds that were replaced are among them: their code
    /// can still run.
    builds: RwLock<Vec<Arc<str>>>,
    /// Where the texts stand in the crash page that have been written there.
    texts: Mutex<HashMap<String, u32>>,
    /// How many workers were found blocked when somebody last looked.
    blocked: AtomicUsize,
    /// None may end: whoever needs them all says so.
    may_not_end: AtomicBool,
}

/// A worker as other threads know it.
struct Known {
    remote: Remote,
    mark: &'static ThreadMark,
    /// Has it look for jobs, without its usual waker.
    jobs_left: &'static Notify,
}

impl Workers {
    /// Makes a worker known to other threads.
    pub fn add(&self, remote: Remote, mark: &'static ThreadMark, jobs_left: &'static Notify) {
        let known = Known {
            remote,
            mark,
            jobs_left,
        };
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push(known);
    }

    fn all(&self) -> RwLockReadGuard<'_, Vec<Known>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker for what belongs to no request; `None` before the first has started.
    pub fn any(&self) -> Option<Remote> {
        let all = self.all();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        all.get(next % all.len().max(1))
            .map(|known| known.remote.clone())
    }

    /// Runs a job on each worker.
    pub fn on_each(&self, job: fn(&'static Worker)) {
        for known in &*self.all() {
            known.remote.run(job);
        }
    }

    /// Waits until each worker has come round: what had reached one before has been begun. One that is kept by an extension lets
    /// wait for as long.
    pub async fn come_round(&self) {
        let (coming, mut all_came) = tokio::sync::mpsc::channel::<()>(1);
        for known in &*self.all() {
            let coming = coming.clone();
            // Gone when it has run, and where the worker has ended.
            known.remote.run(move |_| drop(coming));
        }
        drop(coming);
        all_came.recv().await;
    }

    /// How many workers have started.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Of each worker, where it is.
    pub fn marks(&self) -> Vec<&'static ThreadMark> {
        self.all().iter().map(|known| known.mark).collect()
    }

    /// How many workers were found blocked by the last look at them.
    pub fn blocked(&self) -> usize {
        self.blocked.load(Ordering::Relaxed)
    }

    /// Notes how many workers are blocked.
    pub fn set_blocked(&self, count: usize) {
        self.blocked.store(count, Ordering::Relaxed);
    }

    /// Asks a worker's loop to go round once.
    pub fn ask_for_sign_of_life(&self, number: usize) {
        if let Some(known) = self.all().get(number) {
            known.remote.run(Worker::give_sign_of_life);
        }
    }

    /// Has workers look for jobs for which they may not have been woken: see `look_again` in [`worker`](super::worker). Costs a worker
    /// that has none nothing, so that it sleeps on.
    pub fn look_for_jobs_left(&self) {
        for known in self.all().iter().filter(|known| known.remote.has_jobs()) {
            known.jobs_left.notify_one();
        }
    }

    /// Whether a worker that ends takes the process with it: its connections would be lost, and nobody would say so.
    pub fn keep_alive(&self, may_not_end: bool) {
        self.may_not_end.store(may_not_end, Ordering::Release);
    }

    /// See [`keep_alive`](Self::keep_alive).
    pub fn may_end(&self) -> bool {
        !self.may_not_end.load(Ordering::Acquire)
    }

    /// Gives a build of the extension of that name its number: log lines about it find the name by that, and what is told of a
    /// crash finds the files by their `fingerprint`.
    pub fn register(&self, name: Arc<str>, fingerprint: u64) -> u64 {
        let text = self.intern(&name);
        let mut builds = self.builds.write().unwrap_or_else(PoisonError::into_inner);
        let number = page().add_build(text, fingerprint);
        // Numbers that were given to the builds of another host in this process, as in unit tests, stay without a name.
        builds.resize((number - 1) as usize, "".into());
        builds.push(name);
        number
    }

    /// Has a text stand in the crash page, once; gives its place there.
    pub fn intern(&self, text: &str) -> u32 {
        let mut texts = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = texts.get(text) {
            return *place;
        }
        let place = page().add_text(text);
        texts.insert(text.to_owned(), place);
        place
    }

    /// The name of the extension whose build has the number.
    pub fn name_of(&self, build: u64) -> Option<Arc<str>> {
        let builds = self.builds.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(build).ok()?.checked_sub(1)?;
        builds.get(index).cloned()
    }
}
