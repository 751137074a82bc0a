//! UNSAFE: a completion of the ABI, called exactly once, whatever happens to what it waits for.
#![expect(
    unsafe_code,
    reason = "calls a function pointer that an extension gave"
)]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;

use bytes::Bytes;
use extension_api::abi;

use super::buffers::give;
use crate::platform::slice::Slice;
use crate::runtime::ffi_out;
use crate::runtime::in_flight::{Flight, InFlight};
use crate::runtime::worker::{self, Worker};

thread_local! {
    static DUE: Cell<Option<&'static Due>> = const { Cell::new(None) };
}

/// The completions that are due on a worker.
#[derive(Default)]
struct Due {
    queues: RefCell<Queues>,
    is_being_called: Cell<bool>,
}

/// Those of each build have a queue of their own, and the builds take turns: none waits for what another has piled up.
#[derive(Default)]
struct Queues {
    /// The build that has its turn, and what is due of it.
    build: u64,
    queue: Queue,
    /// The other builds of which something is due: none, where nothing is due of that one.
    others: VecDeque<(u64, Queue)>,
    count: usize,
}

type Queue = VecDeque<(Completion, Outcome)>;

impl Queues {
    /// More memory is not kept for the next pile.
    const KEPT_MAX: usize = 64;

    #[inline]
    fn put(&mut self, completion: Completion, outcome: Outcome) {
        let build = completion.build().map_or(0, |build| build.number);
        self.count += 1;
        if self.queue.is_empty() {
            self.build = build;
        }
        let queue = match self.build == build {
            true => &mut self.queue,
            false => self.queue_of_other(build),
        };
        queue.push_back((completion, outcome));
    }

    #[cold]
    fn queue_of_other(&mut self, build: u64) -> &mut Queue {
        let known = self.others.iter().position(|(other, _)| *other == build);
        let index = known.unwrap_or_else(|| {
            self.others.push_back((build, Queue::new()));
            self.others.len() - 1
        });
        &mut self.others[index].1
    }

    #[inline]
    fn take(&mut self) -> Option<(Completion, Outcome)> {
        let next = self.queue.pop_front()?;
        self.count -= 1;
        if !self.others.is_empty() || self.queue.capacity() > Self::KEPT_MAX {
            self.end_turn();
        }
        Some(next)
    }

    /// The next build has its turn.
    #[cold]
    fn end_turn(&mut self) {
        if let Some((build, queue)) = self.others.pop_front() {
            let before = (self.build, std::mem::replace(&mut self.queue, queue));
            self.build = build;
            if !before.1.is_empty() {
                self.others.push_back(before);
            }
        } else if self.queue.is_empty() {
            self.queue.shrink_to(Self::KEPT_MAX);
        }
    }
}

/// Never freed, so that what outlives the thread's loop finds it.
fn due() -> &'static Due {
    DUE.get().unwrap_or_else(|| {
        let due: &Due = Box::leak(Box::default());
        DUE.set(Some(due));
        due
    })
}

/// Calls `completion` soon, from the worker's own loop; where that is over, at once, but never from inside another completion.
pub fn complete(worker: &'static Worker, completion: Completion, outcome: Outcome) {
    let due = due();
    due.queues.borrow_mut().put(completion, outcome);
    worker.note_due();
    if worker.is_ending() && !due.is_being_called.get() {
        while worker.call_due() {}
    }
}

/// As [`complete`], for a task of the completion's own: thousands of those may come to their end at once, and each that called would
/// keep the worker from its others.
pub fn complete_from_task(completion: Completion, outcome: Outcome) {
    match worker::current() {
        Some(worker) => complete(worker, completion, outcome),
        None => completion.call(outcome),
    }
}

/// Calls the completions that are due on this worker, for a slice of its time at most, and as many as there are now: an extension
/// that always has more to do waits for the worker's others. Tells whether some are left.
pub fn call_due() -> bool {
    let due = due();
    let was_being_called = due.is_being_called.replace(true);
    let mut slice = Slice::default();
    let count = due.queues.borrow().count;
    for _ in 0..count {
        let next = due.queues.borrow_mut().take();
        let Some((completion, outcome)) = next else {
            break;
        };
        completion.call(outcome);
        if slice.is_over() {
            break;
        }
    }
    due.is_being_called.set(was_being_called);
    due.queues.borrow().count > 0
}

/// A function of an extension's that is owed one call. Dropped uncalled, it is called with EXT_CANCELLED soon.
///
/// While it is owed, the extension is not destroyed.
pub struct Completion {
    /// Its function is NULL once it has been called, or given up.
    uncalled: abi::ext_completion,
    flight: Option<Flight>,
}

// SAFETY: the header says that `user` travels to the request's worker, whichever thread it was given on.
unsafe impl Send for Completion {}

/// What a completion is called with.
pub struct Outcome {
    status: i32,
    data: Bytes,
    fetched: abi::ext_fetched,
    message: Option<Box<str>>,
}

impl Outcome {
    /// Done; there is nothing to hand over.
    pub const OK: Self = Self::of_status(abi::EXT_OK);

    /// Only a status.
    pub const fn of_status(status: i32) -> Self {
        Self {
            status,
            data: Bytes::new(),
            fetched: abi::ext_fetched {
                slot: 0,
                generation: 0,
            },
            message: None,
        }
    }

    /// A failure that the extension's author should read about.
    pub fn failed_because(status: i32, message: impl Into<Box<str>>) -> Self {
        Self {
            message: Some(message.into()),
            ..Self::of_status(status)
        }
    }

    /// A chunk, the end, or a failure on the way.
    pub fn of_chunk(chunk: Option<Result<Bytes, i32>>) -> Self {
        match chunk {
            Some(Ok(data)) => Self { data, ..Self::OK },
            Some(Err(status)) => Self::of_status(status),
            None => Self::of_status(abi::EXT_END),
        }
    }

    /// The answer to a fetch.
    pub fn fetched(answer: abi::ext_fetched) -> Self {
        Self {
            fetched: answer,
            ..Self::OK
        }
    }
}

impl Completion {
    /// Takes over what a callback was given, where the callback will return EXT_OK.
    pub fn new(completion: abi::ext_completion) -> Self {
        Self {
            uncalled: completion,
            flight: None,
        }
    }

    /// Keeps the extension from being destroyed until it is called.
    pub fn hold(&mut self, flight: impl Into<Option<Flight>>) {
        if let Some(flight) = flight.into() {
            self.flight = Some(flight);
        }
    }

    /// The build that it belongs to, where it keeps that from being destroyed.
    pub fn build(&self) -> Option<&'static InFlight> {
        self.flight.as_ref().map(Flight::build)
    }

    /// Gives it up uncalled, where the callback returns a failure after all.
    pub fn forget(mut self) {
        self.uncalled.function = None;
    }

    /// Calls it, on the worker's loop.
    // Where it is called, so that what it takes is not moved once more.
    #[inline(always)]
    pub fn call(mut self, outcome: Outcome) {
        let Some(function) = self.uncalled.function.take() else {
            return;
        };
        let inside = self.flight.as_ref().zip(worker::current());
        let inside = inside.map(|(flight, worker)| worker.enter(flight.build(), flight.call()));
        invoke(function, self.uncalled.user, outcome);
        if let Some(inside) = inside {
            inside.leave();
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let function = self.uncalled.function.take();
        if function.is_none() {
            return;
        }
        let again = Self {
            uncalled: abi::ext_completion {
                function,
                ..self.uncalled
            },
            flight: self.flight.take(),
        };
        let cancelled = Outcome::of_status(abi::EXT_CANCELLED);
        complete_from_task(again, cancelled);
    }
}

#[inline(always)]
fn invoke(
    function: unsafe extern "C" fn(*mut c_void, *const abi::ext_result),
    user: *mut c_void,
    outcome: Outcome,
) {
    let Outcome {
        status,
        data,
        fetched,
        message,
    } = outcome;
    let result = abi::ext_result {
        struct_size: size_of::<abi::ext_result>() as u32,
        status,
        data: give(data),
        fetched,
        message: ffi_out::text(message.as_deref().unwrap_or_default()),
    };
    // SAFETY: the extension gave `function` and `user` for exactly this call, and `Completion` makes it once. `result` outlives it.
    unsafe { function(user, &raw const result) };
}
