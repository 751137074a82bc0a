//! [`World`]: one host with one extension, and all that it keeps of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{JoinHandle, ThreadId};

use super::completion::{Completion, Event, Outcome};
use super::operations::{Fetched, Operation};
use super::pointer::Pointer;
use super::requests::OpenRequest;
use super::routes::Route;
use crate::abi::{ext_fetched, ext_op, ext_request};
use crate::testing::upstream::{Call, Upstream};

/// What the extension may use of the host: what an extension.toml says.
pub(in crate::testing) struct Grants {
    pub(in crate::testing) variables: BTreeSet<String>,
    pub(in crate::testing) origins: BTreeSet<String>,
}

/// One host with one extension; `ctx` points to it.
pub(super) struct World {
    number: u64,
    pub(super) env: BTreeMap<String, String>,
    /// `None`: everything.
    pub(super) grants: Option<Grants>,
    pub(super) upstream: Upstream,
    pub(super) worker: OnceLock<ThreadId>,
    state: Mutex<State>,
    pub(super) changed: Condvar,
}

/// What changes.
#[derive(Default)]
pub(super) struct State {
    pub(super) world: u64,
    last: u64,
    pub(super) events: VecDeque<Event>,
    /// Requests whose client leaves when nothing else happens.
    pub(super) leaving: VecDeque<u64>,
    /// Sleeps, by when they end.
    pub(super) timers: BTreeMap<(u64, u64), ()>,
    pub(super) now_ms: u64,
    /// `create` has returned.
    pub(super) is_created: bool,
    /// The extension is retired.
    pub(super) is_stopping: bool,
    pub(super) instance: Option<Pointer>,
    pub(super) refusal: Option<String>,
    pub(super) endpoints: u32,
    pub(super) routes: Vec<Route>,
    /// Origin and path.
    pub(super) bases: Vec<(String, String)>,
    pub(super) requests: HashMap<u64, OpenRequest>,
    pub(super) ops: HashMap<u64, Operation>,
    pub(super) fetched: HashMap<u64, Fetched>,
    pub(super) calls: Vec<Call>,
    pub(super) log: Vec<String>,
    /// Of blocking handlers.
    pub(super) threads: Vec<JoinHandle<()>>,
}

/// All worlds of this process, for the callbacks that take a handle alone.
static WORLDS: LazyLock<Mutex<HashMap<u64, Arc<World>>>> = LazyLock::new(Mutex::default);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The world that a handle belongs to, unless it has ended.
pub(super) fn world_of(slot: u64) -> Option<Arc<World>> {
    locked(&WORLDS).get(&slot).cloned()
}

impl World {
    pub(super) fn new(
        env: BTreeMap<String, String>,
        grants: Option<Grants>,
        upstream: Upstream,
    ) -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        let number = LAST.fetch_add(1, Ordering::Relaxed) + 1;
        let state = State {
            world: number,
            ..State::default()
        };
        let world = Arc::new(Self {
            number,
            env,
            grants,
            upstream,
            worker: OnceLock::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
        });
        locked(&WORLDS).insert(number, Arc::clone(&world));
        world
    }

    /// Its handles mean nothing from here on.
    pub(super) fn end(&self) {
        locked(&WORLDS).remove(&self.number);
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Whether this thread is the worker.
    pub(super) fn is_worker(&self) -> bool {
        self.worker.get() == Some(&std::thread::current().id())
    }
}

impl State {
    /// A number that no other handle of this world has.
    pub(super) fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    pub(super) fn request_handle(&self, request: u64) -> ext_request {
        ext_request {
            slot: self.world,
            generation: request,
        }
    }

    pub(super) fn fetched_handle(&self, fetched: u64) -> ext_fetched {
        ext_fetched {
            slot: self.world,
            generation: fetched,
        }
    }

    pub(super) fn op_handle(&self, op: u64) -> ext_op {
        ext_op {
            slot: self.world,
            generation: op,
        }
    }

    /// Has a completion called soon.
    pub(super) fn complete(&mut self, completion: Completion, outcome: Outcome) {
        self.events.push_back(Event::Complete(completion, outcome));
    }

    /// Whether something new may be started: not for an extension that is retired, and of which nothing is in flight.
    pub(super) fn may_start(&self) -> bool {
        let is_open = |request: &OpenRequest| request.is_with_extension();
        !self.is_stopping || !self.ops.is_empty() || self.requests.values().any(is_open)
    }
}
