//! A request that has come to a handler, from the hook on: the task is made for it, and runs for the first time.
#![expect(
    unsafe_code,
    reason = "erases a future's lifetime, and says which thread polls it"
)]

use std::cell::Cell;
use std::future::Future;
use std::marker::PhantomData;
use std::task::Context;
use std::thread as std_thread;

use super::answer::Answer;
use super::block_on::unpark_this_thread;
use super::hold::Hold;
use super::host::Host;
use super::panics::catch_panic;
use super::task::TaskRef;
use super::thread::{self, Running};
use crate::abi::ext_request;
use crate::error::Result;

/// A request that is to be served on this thread. What lives for `'a` lives until the request is finished.
struct Opened<'a> {
    host: &'static Host,
    request: ext_request,
    /// Neither longer nor shorter than `'a`, and of this thread alone.
    lifetime: PhantomData<(Cell<&'a ()>, *const ())>,
}

/// A request on its own worker, which must not be blocked.
pub(crate) struct WorkerRequest<'a>(Opened<'a>);

/// A request on a thread of the pool that may be blocked.
pub(crate) struct PoolRequest<'a>(Opened<'a>);

impl<'a> WorkerRequest<'a> {
    /// # Safety
    ///
    /// The request must be the caller's to finish, and this thread its worker. What lives for `'a` must live until the request
    /// is finished.
    pub(crate) unsafe fn new(host: &'static Host, request: ext_request) -> Self {
        Self(Opened {
            host,
            request,
            lifetime: PhantomData,
        })
    }

    /// Serves the request with the future that `make` returns.
    pub(crate) fn serve<F, R>(self, make: impl FnOnce(Hold) -> F)
    where
        F: Future<Output = Result<R>> + 'a,
        R: Into<Answer>,
    {
        if let Some(task) = self.0.into_task(make) {
            task.run();
        }
    }
}

impl<'a> PoolRequest<'a> {
    /// # Safety
    ///
    /// As for [`WorkerRequest::new`], except that this thread is one of the pool's.
    pub(crate) unsafe fn new(host: &'static Host, request: ext_request) -> Self {
        Self(Opened {
            host,
            request,
            lifetime: PhantomData,
        })
    }

    /// Serves the request with the future that `make` returns, and parks this thread while that waits.
    pub(crate) fn serve<F, R>(self, make: impl FnOnce(Hold) -> F)
    where
        F: Future<Output = Result<R>> + 'a,
        R: Into<Answer>,
    {
        if let Some(task) = self.0.into_task(make) {
            let waker = unpark_this_thread();
            while !task.advance(&mut Context::from_waker(&waker), false) {
                std_thread::park();
            }
        }
    }
}

impl<'a> Opened<'a> {
    /// Makes the task, and with `make` its future. `None` where the request has been finished instead.
    fn into_task<F, R>(self, make: impl FnOnce(Hold) -> F) -> Option<TaskRef>
    where
        F: Future<Output = Result<R>> + 'a,
        R: Into<Answer>,
    {
        let task = TaskRef::new::<F, R>(self.host, self.request, thread::token());
        // SAFETY: the only call for this task.
        let hold = Hold::new(unsafe { task.second() });
        let made = {
            let _running = Running::enter(self.request, None);
            catch_panic(|| make(hold))
        };
        match made {
            Ok(future) => {
                // SAFETY: made for this `F` above, and this thread polls it and does not yet. What the future borrows lives for
                // `'a`, and so until the request is finished.
                unsafe { task.set_future(future) };
                Some(task)
            }
            Err(panic) => {
                task.panicked(panic.0);
                None
            }
        }
    }
}
