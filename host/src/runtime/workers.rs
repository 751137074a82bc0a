//! All workers of the host, as other threads see them: how to reach one, and whether one is inside an extension.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use super::worker::{Remote, Worker};

/// The workers, and the names of those whose code they call.
#[derive(Default)]
pub struct Workers {
    all: RwLock<Vec<(Remote, Arc<BusyMarker>)>>,
    next: AtomicUsize,
    /// The name of each build that was ever loaded, by its number, from 1. Builds that were replaced are among them: their code
    /// can still run.
    builds: RwLock<Vec<Arc<str>>>,
    /// None may end: whoever needs them all says so.
    may_not_end: AtomicBool,
}

/// Whether a worker is inside an extension, for the thread that watches for those that block.
#[derive(Default)]
pub struct BusyMarker {
    /// The number of the extension's build; 0 outside.
    inside: AtomicU64,
    /// Counts the times that an extension was entered.
    entry_count: AtomicU64,
    /// Counts the times that the worker has answered [`Workers::ask_for_sign_of_life`].
    sign_count: AtomicU64,
}

impl BusyMarker {
    /// Which build the worker is in, and how many times it has entered one.
    pub fn read(&self) -> (u64, u64) {
        (
            self.inside.load(Ordering::Relaxed),
            self.entry_count.load(Ordering::Relaxed),
        )
    }

    /// Notes that the worker's loop goes round.
    pub fn give_sign_of_life(&self) {
        self.sign_count.fetch_add(1, Ordering::Relaxed);
    }

    /// Which build the worker is in; 0: none.
    pub fn build(&self) -> u64 {
        self.inside.load(Ordering::Relaxed)
    }

    /// Notes that the worker goes into a build, until the returned guard is dropped.
    #[inline]
    pub fn enter(&self, build: u64) -> Inside<'_> {
        // The worker is the only writer, so that two plain steps do what an atomic one would.
        let count = self.entry_count.load(Ordering::Relaxed);
        self.entry_count
            .store(count.wrapping_add(1), Ordering::Relaxed);
        self.inside.store(build, Ordering::Relaxed);
        Inside(self)
    }
}

/// The worker is inside an extension while this lives.
pub struct Inside<'a>(&'a BusyMarker);

impl Drop for Inside<'_> {
    #[inline]
    fn drop(&mut self) {
        self.0.inside.store(0, Ordering::Relaxed);
    }
}

impl Workers {
    /// Makes a worker known to other threads.
    pub fn add(&self, remote: Remote, marker: Arc<BusyMarker>) {
        self.all
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .push((remote, marker));
    }

    fn all(&self) -> RwLockReadGuard<'_, Vec<(Remote, Arc<BusyMarker>)>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// A worker for what belongs to no request; `None` before the first has started.
    pub fn any(&self) -> Option<Remote> {
        let all = self.all();
        let next = self.next.fetch_add(1, Ordering::Relaxed);
        all.get(next % all.len().max(1))
            .map(|(remote, _)| remote.clone())
    }

    /// Runs a job on each worker.
    pub fn on_each(&self, job: fn(&'static Worker)) {
        for (remote, _) in &*self.all() {
            remote.run(job);
        }
    }

    /// How many workers have started.
    pub fn count(&self) -> usize {
        self.all().len()
    }

    /// Of each worker, which build it is in, and how many times it has entered one.
    pub fn markers(&self) -> Vec<(u64, u64)> {
        self.all().iter().map(|(_, marker)| marker.read()).collect()
    }

    /// Asks each worker's loop to go round once.
    pub fn ask_for_sign_of_life(&self) {
        self.on_each(Worker::give_sign_of_life);
    }

    /// Of each worker, how many times it has answered that.
    pub fn signs_of_life(&self) -> Vec<u64> {
        let sign_count = |marker: &BusyMarker| marker.sign_count.load(Ordering::Relaxed);
        self.all()
            .iter()
            .map(|(_, marker)| sign_count(marker))
            .collect()
    }

    /// Whether a worker that ends takes the process with it: its connections would be lost, and nobody would say so.
    pub fn keep_alive(&self, may_not_end: bool) {
        self.may_not_end.store(may_not_end, Ordering::Release);
    }

    /// See [`keep_alive`](Self::keep_alive).
    pub fn may_end(&self) -> bool {
        !self.may_not_end.load(Ordering::Acquire)
    }

    /// Gives a build of the extension of that name its number: log lines about it find the name by that.
    pub fn register(&self, name: Arc<str>) -> u64 {
        let mut builds = self.builds.write().unwrap_or_else(PoisonError::into_inner);
        builds.push(name);
        builds.len() as u64
    }

    /// The name of the extension whose build has the number.
    pub fn name_of(&self, build: u64) -> Option<Arc<str>> {
        let builds = self.builds.read().unwrap_or_else(PoisonError::into_inner);
        let index = usize::try_from(build).ok()?.checked_sub(1)?;
        builds.get(index).cloned()
    }
}
