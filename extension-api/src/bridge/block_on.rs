//! [`block_on`]: waits for a future on a thread that may be parked.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread as std_thread;

use super::thread;

/// Waits for a future on this thread, which is parked meanwhile.
///
/// # Panics
///
/// On a worker, in an asynchronous handler: there, `.await` the future.
pub fn block_on<F: Future>(future: F) -> F::Output {
    assert!(
        !thread::on_worker(),
        "block_on would block the worker: `.await` the future instead"
    );
    let waker = unpark_this_thread();
    let mut cx = Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut cx) {
            Poll::Ready(output) => return output,
            Poll::Pending => std_thread::park(),
        }
    }
}

/// A waker that unparks this thread.
pub(super) fn unpark_this_thread() -> Waker {
    Waker::from(Arc::new(Unpark(std_thread::current())))
}

struct Unpark(std_thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}
