//! [`Op`]: one thing that takes time, from the call that starts it to the completion that ends it.
//!
//! The state is shared with the host, as a completion's `user`: whichever side is done last frees it. An `Op` can be used
//! again when it has completed, so that a body costs one allocation however many chunks it has.
#![expect(
    unsafe_code,
    reason = "a completion's `user` is a counted reference in disguise"
)]

use std::ffi::c_void;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::bound::BoundOperation;
use super::bytes::Bytes;
use super::fetched::FetchedHandle;
use super::lent::bytes_of;
use super::panics::catch_panic;
use super::thread;
use crate::abi::{
    EXT_CANCELLED, EXT_OK, ext_callbacks, ext_completion, ext_op, ext_result, ext_status,
};

/// How an operation ended.
pub(crate) struct Outcome {
    pub(crate) status: ext_status,
    pub(crate) data: Bytes,
    pub(crate) fetched: Option<FetchedHandle>,
    pub(crate) message: String,
}

/// An operation: idle, pending, or completed and not yet looked at.
pub(crate) struct Op {
    table: &'static ext_callbacks,
    shared: Option<Arc<Shared>>,
    cancel: Option<ext_op>,
}

struct Shared {
    table: &'static ext_callbacks,
    state: Mutex<State>,
}

enum State {
    Idle,
    /// What is woken by the completion, and the task that learns that the client has left.
    Pending(Option<Waker>, Option<BoundOperation>),
    Completed(Outcome),
    Abandoned,
}

impl Op {
    pub(crate) const fn new(table: &'static ext_callbacks) -> Self {
        Self {
            table,
            shared: None,
            cancel: None,
        }
    }

    /// Whether it has been started and its outcome has not been taken.
    pub(crate) fn is_started(&self) -> bool {
        self.shared
            .as_ref()
            .is_some_and(|shared| !matches!(*shared.lock(), State::Idle))
    }

    /// Starts the operation. Anything but EXT_OK means that it was not started. `bound` stands for one that the host ends with
    /// a request.
    ///
    /// # Safety
    ///
    /// `register` must hand the completion to one callback of the host, once, and return what that returned.
    pub(super) unsafe fn start(
        &mut self,
        bound: Option<BoundOperation>,
        register: impl FnOnce(ext_completion) -> ext_status,
    ) -> ext_status {
        debug_assert!(
            !self.is_started(),
            "an operation is awaited before it is started again"
        );
        let table = self.table;
        let shared = self.shared.get_or_insert_with(|| {
            Arc::new(Shared {
                table,
                state: Mutex::new(State::Idle),
            })
        });
        *shared.lock() = State::Pending(None, bound);
        let user = Arc::into_raw(Arc::clone(shared));
        let status = register(ext_completion {
            function: Some(completed),
            user: user.cast_mut().cast(),
        });
        if status != EXT_OK {
            let state = mem::replace(&mut *shared.lock(), State::Idle);
            if let State::Pending(_, Some(bound)) = state {
                bound.release();
            }
            // SAFETY: made by `into_raw` above; the host does not call the completion of what it has not accepted.
            drop(unsafe { Arc::from_raw(user) });
        }
        status
    }

    /// Has the operation cancelled when this is dropped before its end.
    pub(super) fn cancel_on_drop(&mut self, op: ext_op) {
        self.cancel = Some(op);
    }

    /// Takes the outcome, or has the task woken when there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        let shared = self
            .shared
            .as_ref()
            .expect("an operation is started before it is awaited");
        let mut state = shared.lock();
        match &mut *state {
            State::Pending(Some(waker), _) => waker.clone_from(cx.waker()),
            State::Pending(waker, _) => *waker = Some(cx.waker().clone()),
            State::Completed(_) => {
                let State::Completed(outcome) = mem::replace(&mut *state, State::Idle) else {
                    unreachable!()
                };
                drop(state);
                self.cancel = None;
                return Poll::Ready(outcome);
            }
            State::Idle | State::Abandoned => {
                unreachable!("an operation is started before it is awaited")
            }
        }
        Poll::Pending
    }
}

impl Drop for Op {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else {
            return;
        };
        let mut state = shared.lock();
        if matches!(*state, State::Idle) {
            return;
        }
        // Replaced first, dropped after: a waker or an outcome may run code that comes back here.
        let before = mem::replace(&mut *state, State::Abandoned);
        drop(state);
        if let (State::Pending(..), Some(op)) = (&before, self.cancel) {
            // SAFETY: `cancel` takes every handle, also one whose time is over.
            unsafe { (self.table.cancel)(op) }
        }
        drop(before);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn complete(&self, outcome: Outcome) {
        let mut state = self.lock();
        let before = mem::replace(&mut *state, State::Abandoned);
        let is_cancelled = outcome.status == EXT_CANCELLED;
        let (waker, bound) = match before {
            State::Pending(waker, bound) => {
                *state = State::Completed(outcome);
                (waker, bound)
            }
            // The `Op` was dropped: so is the outcome, and with it what it holds.
            _ => (None, None),
        };
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        if is_cancelled && let Some(bound) = bound {
            bound.cancel();
        }
    }
}

unsafe extern "C" fn completed(user: *mut c_void, result: *const ext_result) {
    // SAFETY: `start` gave this reference away with the completion, and the host calls a completion exactly once.
    let shared = unsafe { Arc::from_raw(user.cast_const().cast::<Shared>()) };
    // SAFETY: the result is lent to the completion by the host.
    let result = unsafe { &*result };
    let outcome = Outcome {
        status: result.status,
        // SAFETY: the data is given to the completion; nobody else takes it.
        data: unsafe { Bytes::from_raw(result.data) },
        // SAFETY: so is the answer to a fetch, which is zero in every other result.
        fetched: unsafe { FetchedHandle::from_raw(shared.table, result.fetched) },
        // SAFETY: the message is lent until the completion returns; it is copied here.
        message: match unsafe { bytes_of(result.message) } {
            None | Some([]) => String::new(),
            Some(message) => String::from_utf8_lossy(message).into_owned(),
        },
    };
    // A waker may be the author's own code; what it panics with has nowhere to go.
    let _ = catch_panic(|| {
        let woken = thread::collect_woken(|| {
            let _ = catch_panic(|| shared.complete(outcome));
        });
        if let Some(task) = woken {
            task.run();
        }
    });
}
