//! Sleeps and fetches under way: what calls a completion when it is done, and can be cancelled before.
//!
//! One that belongs to a request whose client waits for the answer is polled by that client's connection, whose task would be
//! woken by the outcome anyway: a relay costs no task, and no way through the event loop, that a proxy without extensions would
//! not need. Any other is a task of its own.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use extension_api::abi;
use tokio::task::AbortHandle;

use crate::boundary::request;
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::deadline::Late;
use crate::runtime::handle::{self, Held};
use crate::runtime::worker::{self, Worker};

/// An operation as `cancel` and `fetch_write` name it.
pub type Handle = Held<(), Local>;
/// A worker's operations.
pub type Pool = handle::Pool<(), Local>;

/// What the worker keeps of an operation.
#[derive(Default)]
pub struct Local {
    completion: Option<Completion>,
    by: By,
    upload: Option<Upload>,
}

/// What polls an operation.
#[derive(Default)]
enum By {
    #[default]
    Nobody,
    Task(AbortHandle),
    Connection(request::Handle),
}

/// An operation's work. It calls the completion itself, and where it is dropped before, with EXT_CANCELLED.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// The way of a streamed request body from the extension to the connection.
pub type Upload = tokio::sync::mpsc::UnboundedSender<UploadPart>;

/// A part of it.
pub enum UploadPart {
    /// A chunk, and what to call when there is room for the next.
    Chunk(Bytes, Completion),
    /// The end: whole, or to be broken off.
    End(bool),
}

/// Starts an operation, for a request or for the extension itself. `work` makes what pays its debt with the outcome; EXT_TIMEOUT
/// is paid in its place after `patience`.
pub fn start(
    worker: &Rc<Worker>,
    request: Option<request::Handle>,
    completion: Completion,
    upload: Option<Upload>,
    patience: Option<Duration>,
    work: impl FnOnce(Owed) -> Work,
) -> Handle {
    let new = || ((), Local::default());
    let mut place = worker.operations.take(&worker.remote, new);
    let (_, mut local) = place.parts();
    local.completion = Some(completion);
    local.upload = upload;
    drop(local);
    let handle = place.hand_out();
    let work = work(Owed(handle));
    let by = match request {
        Some(request) => match request.poll_along(handle, work) {
            Ok(()) => By::Connection(request),
            Err(work) => By::Task(spawn(work)),
        },
        None => By::Task(spawn(work)),
    };
    if let Some(local) = handle.local() {
        local.borrow_mut().by = by;
    }
    if let Some(patience) = patience {
        let late = Late::Operation(handle);
        worker.deadlines.set(patience, late);
    }
    handle
}

fn spawn(work: Work) -> AbortHandle {
    actix_rt::spawn(work).abort_handle()
}

/// What work owes to its completion; dropped unpaid, EXT_CANCELLED.
pub struct Owed(Handle);

impl Owed {
    /// Calls the completion, where the operation has not ended before.
    pub fn pay(self, outcome: Outcome) {
        if let Some(completion) = self.0.end() {
            completion.call(outcome);
        }
    }
}

impl Drop for Owed {
    fn drop(&mut self) {
        // A completion that is dropped is called with EXT_CANCELLED.
        drop(self.0.end());
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
        self.worker()
            .run(move |worker| self.give_up(worker, Outcome::failed(abi::EXT_CANCELLED)));
    }

    /// Ends the operation because its time is out.
    pub fn time_out(self, worker: &Worker) {
        let outcome = Outcome::failed_because(abi::EXT_TIMEOUT, "there was no answer in time");
        self.give_up(worker, outcome);
    }

    fn give_up(self, worker: &Worker, outcome: Outcome) {
        let by = match self.local() {
            Some(local) => std::mem::take(&mut local.borrow_mut().by),
            None => return,
        };
        let completion = self.end();
        match by {
            By::Nobody => {}
            By::Task(task) => task.abort(),
            By::Connection(request) => request.forget(self),
        }
        if let Some(completion) = completion {
            worker.complete(completion, outcome);
        }
    }

    /// Lets a task poll what a connection has polled, which does so no more.
    pub fn go_on(self, work: Work) {
        let task = spawn(work);
        if let Some(local) = self.local() {
            local.borrow_mut().by = By::Task(task);
        }
    }

    /// Ends the operation, on its worker: what is to be called. `None` where it has ended.
    fn end(self) -> Option<Completion> {
        let local = std::mem::take(&mut *self.local()?.borrow_mut());
        // `None` only while the worker's thread ends.
        let _ = worker::with_current(|worker| worker.operations.close(self, |(), _| ()));
        local.completion
    }

    /// Where the chunks of its body go.
    pub fn upload(&self) -> Option<Upload> {
        self.local()?.borrow().upload.clone()
    }
}
