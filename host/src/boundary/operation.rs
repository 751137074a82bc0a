//! Sleeps and fetches in flight: what calls a completion when it is done, and can be cancelled before.
//!
//! One that belongs to a request whose client waits for the answer is polled by that client's connection, whose task would be
//! woken by the outcome anyway: a relay costs no task, and no way through the event loop, that a proxy without extensions would
//! not need. Any other is a task of its own.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use extension_api::abi;
use tokio::task::AbortHandle;

use super::completion::{Completion, Outcome, complete, complete_from_task};
use super::upload::Upload;
use crate::extension::context::Cancel;
use crate::runtime::deadline::{Deadlines, Expirable};
use crate::runtime::handle::{Recycle, SlotPool, SlotRef};
use crate::runtime::in_flight::{Flight, InFlight};
use crate::runtime::worker::{Worker, current};
use crate::upstream::{Base, Limit};

thread_local! {
    static OPERATIONS: Cell<Option<&'static Operations>> = const { Cell::new(None) };
}

/// An operation as `cancel` and `fetch_write` name it.
pub type Handle = SlotRef<Shared, Local>;

/// A worker's operations, and when they must be over.
#[derive(Default)]
struct Operations {
    pool: SlotPool<Shared, Local>,
    deadlines: Deadlines<Handle>,
}

/// Those of this thread. Never freed: handles outlive the thread's loop.
fn operations() -> &'static Operations {
    OPERATIONS.get().unwrap_or_else(|| {
        let operations: &Operations = Box::leak(Box::default());
        OPERATIONS.set(Some(operations));
        operations
    })
}

/// Ends this worker's operations that are late, for as long as its loop lives.
pub async fn watch_deadlines() {
    operations().deadlines.watch().await;
}

/// What every thread may read of an operation.
#[derive(Default)]
pub struct Shared {
    /// The build that started it.
    build: Option<&'static InFlight>,
}

/// What the worker keeps of an operation.
#[derive(Default)]
pub struct Local {
    completion: Option<Completion>,
    polled_by: PolledBy,
    upload: Option<Upload>,
    /// Who has to answer, and by when.
    limit: Option<(Arc<Base>, Limit)>,
}

impl Recycle<Local> for Shared {
    fn recycle(&mut self, local: &mut Local) {
        // Taken out by `end`.
        debug_assert!(local.completion.is_none());
    }
}

/// What polls an operation.
#[derive(Default)]
enum PolledBy {
    #[default]
    Nobody,
    Task(AbortHandle),
    /// Its connection; the number says for which of its requests.
    Connection(&'static dyn PollsWithRequest, u64),
}

/// A request's slot, whose connection can poll operations along with the request.
pub trait PollsWithRequest {
    /// Has the connection poll the work of an operation for the request of that generation. Gives it back where no client waits
    /// for an answer: then it would be polled at the pace at which that one reads.
    fn poll_with_request(
        &'static self,
        generation: u64,
        operation: Handle,
        work: Work,
    ) -> Result<(), Work>;

    /// Drops the work of an operation that has been given up.
    fn forget(&'static self, generation: u64, operation: Handle);
}

/// An operation's work. It calls the completion itself, and where it is dropped before, with EXT_CANCELLED.
pub type Work = Pin<Box<dyn Future<Output = ()>>>;

/// Starts an operation, for a request or for the extension itself. `work` makes what [completes](CompletionGuard::complete) it
/// with the outcome; it is completed with EXT_TIMEOUT in its place where the base does not answer within its limit.
pub fn start(
    worker: &Worker,
    request: Option<(&'static dyn PollsWithRequest, u64)>,
    completion: Completion,
    upload: Option<Upload>,
    limit: Option<(Arc<Base>, Limit)>,
    work: impl FnOnce(CompletionGuard) -> Work,
) -> Handle {
    let operations = operations();
    let new = || (Shared::default(), Local::default());
    let mut slot = operations.pool.take(worker, new);
    let (shared, mut local) = slot.parts();
    let timeout = limit.as_ref().map(|(_, limit)| limit.time);
    shared.build = completion.build();
    local.limit = limit;
    local.completion = Some(completion);
    local.upload = upload;
    drop(local);
    let handle = slot.hand_out();
    let work = work(CompletionGuard(handle));
    let polled_by = match request {
        Some((request, generation)) => match request.poll_with_request(generation, handle, work) {
            Ok(()) => PolledBy::Connection(request, generation),
            Err(work) => PolledBy::Task(spawn(work)),
        },
        None => PolledBy::Task(spawn(work)),
    };
    if let Some(local) = handle.local() {
        local.borrow_mut().polled_by = polled_by;
    }
    if let Some(timeout) = timeout {
        operations.deadlines.set(timeout, handle);
    }
    handle
}

fn spawn(work: Work) -> AbortHandle {
    actix_rt::spawn(work).abort_handle()
}

/// The duty of an operation's work to complete it. Dropped before, it completes it with EXT_CANCELLED.
pub struct CompletionGuard(Handle);

impl CompletionGuard {
    /// Calls the completion, where the operation has not ended before: at once where the connection polls the operation, which
    /// knows when others are to get their turn.
    pub fn complete(self, outcome: Outcome) {
        let Some(Local {
            completion: Some(completion),
            polled_by,
            ..
        }) = self.0.end()
        else {
            return;
        };
        match polled_by {
            PolledBy::Connection(..) => completion.call(outcome),
            PolledBy::Task(_) | PolledBy::Nobody => complete_from_task(completion, outcome),
        }
    }
}

impl Drop for CompletionGuard {
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

    /// Keeps the build that started it from being destroyed, from any thread; `None`: the operation is over.
    pub fn hold(&self) -> Option<Flight> {
        self.read()?.build?.hold()
    }

    /// Cancels the operation, from any thread.
    pub fn cancel(self) {
        self.worker()
            .run(move |worker| self.give_up(worker, Outcome::of_status(abi::EXT_CANCELLED)));
    }

    fn give_up(self, worker: &'static Worker, outcome: Outcome) {
        let polled_by = match self.local() {
            Some(local) => std::mem::take(&mut local.borrow_mut().polled_by),
            None => return,
        };
        let completion = self.end().and_then(|local| local.completion);
        match polled_by {
            PolledBy::Nobody => {}
            PolledBy::Task(task) => task.abort(),
            PolledBy::Connection(request, generation) => request.forget(generation, self),
        }
        if let Some(completion) = completion {
            complete(worker, completion, outcome);
        }
    }

    /// Lets a task poll what a connection has polled, which does so no more.
    pub fn continue_in_task(self, work: Work) {
        let task = spawn(work);
        if let Some(local) = self.local() {
            local.borrow_mut().polled_by = PolledBy::Task(task);
        }
    }

    /// Ends the operation, on its worker: what there was of it. `None` where it has ended.
    fn end(self) -> Option<Local> {
        let local = std::mem::take(&mut *self.local()?.borrow_mut());
        operations().pool.close(self);
        Some(local)
    }

    /// Where the chunks of its body go.
    pub fn upload(&self) -> Option<Upload> {
        self.local()?.borrow().upload.clone()
    }
}

impl Expirable for Handle {
    fn is_awaited(&self) -> bool {
        self.is_open()
    }

    fn expire(self) {
        if let Some(worker) = current() {
            let limit = self
                .local()
                .and_then(|local| local.borrow_mut().limit.take());
            let why =
                limit.map(|(base, limit)| format!("{} sent no answer {limit}", base.origin()));
            let outcome = Outcome::failed_because(abi::EXT_TIMEOUT, why.unwrap_or_default());
            self.give_up(worker, outcome);
        }
    }
}

impl Cancel for Handle {
    fn is_open(&self) -> bool {
        Handle::is_open(self)
    }

    fn cancel(&self) {
        Handle::cancel(*self);
    }
}
