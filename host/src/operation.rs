//! Sleeps and fetches under way: tasks of the worker that call a completion when they are done, and can be cancelled.

use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use extension_api::abi;
use tokio::task::AbortHandle;

use crate::callbacks::completion::{Completion, Outcome};
use crate::handle::{self, Held};
use crate::worker::{self, Worker};

/// An operation as `cancel` and `fetch_write` name it.
pub type Handle = Held<(), Local>;
/// A worker's operations.
pub type Pool = handle::Pool<(), Local>;

/// What the worker keeps of an operation.
#[derive(Default)]
pub struct Local {
    task: Option<AbortHandle>,
    upload: Option<Upload>,
}

/// The way of a streamed request body from the extension to the connection.
pub type Upload = tokio::sync::mpsc::UnboundedSender<UploadPart>;

/// A part of it.
pub enum UploadPart {
    /// A chunk, and what to call when there is room for the next.
    Chunk(Bytes, Completion),
    /// The end: whole, or to be broken off.
    End(bool),
}

/// Starts `work`; its outcome goes to `completion`, or EXT_CANCELLED does.
pub fn start(
    worker: &Rc<Worker>,
    completion: Completion,
    upload: Option<Upload>,
    work: impl Future<Output = Outcome> + 'static,
) -> Handle {
    let handle = worker.operations.open(
        &worker.remote,
        || ((), Local::default()),
        |(), local| local.upload = upload,
    );
    let over = Over(handle);
    let task = actix_rt::spawn(async move {
        let outcome = work.await;
        drop(over);
        completion.call(outcome);
    });
    if let Some(local) = handle.local() {
        local.borrow_mut().task = Some(task.abort_handle());
    }
    handle
}

/// Frees the operation's place when its task is done or cancelled.
struct Over(Handle);

impl Drop for Over {
    fn drop(&mut self) {
        // `None` only while the worker's thread ends.
        let _ = worker::with_current(|worker| {
            worker
                .operations
                .close(self.0, |(), local| std::mem::take(local))
        });
    }
}

impl Handle {
    /// The handle as the ABI has it.
    pub fn to_abi(self) -> abi::ext_op {
        let (slot, generation) = self.numbers();
        abi::ext_op { slot, generation }
    }

    /// Cancels the operation, from any thread.
    pub fn cancel(self) {
        self.worker().run(move |_| {
            let task = self
                .local()
                .and_then(|local| local.borrow_mut().task.take());
            if let Some(task) = task {
                task.abort();
            }
        });
    }

    /// Where the chunks of its body go.
    pub fn upload(&self) -> Option<Upload> {
        self.local()?.borrow().upload.clone()
    }
}
