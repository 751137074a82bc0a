//! [`RunningExtension`]: an extension from `create` to `destroy`, and the worker that calls its hooks and completions.
#![expect(unsafe_code, reason = "calls the hooks of an extension")]

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, PoisonError};
use std::thread::{self, JoinHandle};

use super::callbacks::CALLBACKS;
use super::completion::{Event, Outcome};
use super::head::{Head, RequestSpec};
use super::operations::Upload;
use super::pointer::Pointer;
use super::requests::{IncomingBody, OpenRequest};
use super::routes;
use super::state::{Grants, World};
use crate::abi::*;
use crate::bridge::Bytes;
use crate::testing::answer::Answer;
use crate::testing::upstream::{Call, Canned, Reply, Upstream};

/// An extension that runs.
pub(in crate::testing) struct RunningExtension {
    world: Arc<World>,
    entry: ext_entry,
    worker: Option<JoinHandle<()>>,
}

type HandleHook = unsafe extern "C" fn(*mut c_void, *mut c_void, ext_request);

impl RunningExtension {
    pub(in crate::testing) fn start(
        entry: ext_entry,
        env: BTreeMap<String, String>,
        grants: Option<Grants>,
        upstream: Upstream,
    ) -> Result<Self, String> {
        let hooks = entry.create.zip(entry.handle);
        let (create, handle) = hooks.expect("an entry has `create` and `handle`");
        let world = World::new(env, grants, upstream);
        let worker = thread::spawn({
            let world = Arc::clone(&world);
            move || work(&world, handle)
        });
        let running = Self {
            world,
            entry,
            worker: Some(worker),
        };
        let world = &running.world;
        let ctx = Arc::as_ptr(world).cast_mut().cast();
        let mut instance = ptr::null_mut();
        // SAFETY: the table is constant; the world outlives `destroy`; `instance` is ours to be written.
        let status = unsafe { create(&CALLBACKS, ctx, &mut instance) };
        let mut state = world.lock();
        state.is_created = true;
        if status == EXT_OK {
            state.instance = Some(Pointer(instance));
            drop(state);
            return Ok(running);
        }
        let refusal = state.refusal.take();
        drop(state);
        Err(refusal.unwrap_or_else(|| format!("create failed with {status}")))
    }

    pub(in crate::testing) fn calls(&self) -> Vec<Call> {
        self.world.lock().calls.clone()
    }

    pub(in crate::testing) fn log(&self) -> Vec<String> {
        self.world.lock().log.clone()
    }

    /// Starts a request; its answer comes by the receiver.
    pub(in crate::testing) fn send(&self, spec: RequestSpec) -> Receiver<Answer> {
        let (answers, receiver) = mpsc::channel();
        let mut state = self.world.lock();
        let path = spec.url.split('?').next().unwrap_or_default();
        let (route, params) = match routes::find(&state.routes, &spec.method, path) {
            Ok((route, params)) => (route.clone(), params),
            Err(status) => {
                let answer = Answer {
                    status,
                    ..Answer::default()
                };
                // Never Err: this function still has the receiver.
                let _ = answers.send(answer);
                return receiver;
            }
        };
        let is_blocking = route.flags & EXT_ROUTE_BLOCKING != 0;
        let has_whole_body = is_blocking || route.flags & EXT_ROUTE_WHOLE_BODY != 0;
        let leaves = spec.leaves;
        let body = (!has_whole_body).then(|| IncomingBody {
            chunks: spec.chunks.iter().cloned().map(Bytes::from).collect(),
            end: spec.body_end,
        });
        let head = Head::new(spec, params, has_whole_body);
        let request = state.next();
        let open = OpenRequest::new(head, body, answers);
        state.requests.insert(request, open);
        if leaves {
            state.leaving.push_back(request);
        }
        let route = route.route;
        if is_blocking {
            let hooks = self.entry.handle.zip(state.instance);
            let (handle, instance) = hooks.expect("a running extension has both");
            let request = state.request_handle(request);
            let call = move || call_handle(handle, instance, route, request);
            state.threads.push(thread::spawn(call));
        } else {
            state.events.push_back(Event::Handle { route, request });
        }
        self.world.changed.notify_all();
        receiver
    }
}

fn call_handle(handle: HandleHook, instance: Pointer, route: Pointer, request: ext_request) {
    // SAFETY: instance and route are the extension's own; the request becomes its to finish.
    unsafe { handle(instance.0, route.0, request) }
}

impl Drop for RunningExtension {
    fn drop(&mut self) {
        let threads = std::mem::take(&mut self.world.lock().threads);
        for thread in threads {
            // Err: a handler's thread panicked, which the SDK has logged.
            let _ = thread.join();
        }
        let mut state = self.world.lock();
        state.is_stopping = true;
        let ops: Vec<u64> = state.ops.keys().copied().collect();
        ops.into_iter().for_each(|op| state.cancel(op));
        drop(state);
        self.world.changed.notify_all();
        let worker = self.worker.take().map(JoinHandle::join);
        let instance = self.world.lock().instance;
        if let Some(instance) = instance {
            for hook in [self.entry.stop, self.entry.destroy].into_iter().flatten() {
                // SAFETY: the worker has ended: nothing else of the extension runs. `destroy` is the last call.
                unsafe { hook(instance.0) }
            }
        }
        self.world.end();
        if !thread::panicking() {
            assert!(
                worker.is_some_and(|ended| ended.is_ok()),
                "the worker of the test's host panicked"
            );
        }
    }
}

/// Calls hooks and completions until the extension is stopped, and nothing is left to be called. Time is virtual: when nothing
/// else can happen, a client leaves, or the next sleep ends.
fn work(world: &World, handle: HandleHook) {
    world.worker.get_or_init(|| thread::current().id());
    let mut state = world.lock();
    loop {
        if let Some(event) = state.events.pop_front() {
            drop(state);
            handle_event(world, event, handle);
            state = world.lock();
        } else if let Some(request) = state.leaving.pop_front() {
            state.client_leaves(request);
        } else if let Some(((time_ms, op), ())) = state.timers.pop_first() {
            state.now_ms = time_ms;
            state.end_op(op, Outcome::status(EXT_OK));
        } else if state.is_stopping {
            return;
        } else {
            let waited = world.changed.wait(state);
            state = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn handle_event(world: &World, event: Event, handle: HandleHook) {
    match event {
        Event::Handle { route, request } => {
            let state = world.lock();
            let instance = state.instance.expect("a request comes after `create`");
            let request = state.request_handle(request);
            drop(state);
            call_handle(handle, instance, route, request);
        }
        Event::Complete(completion, outcome) => completion.call(outcome),
        Event::Written { op } => {
            let mut state = world.lock();
            let upload = state.ops.get_mut(&op).map(|op| &mut op.upload);
            if let Some(upload) = upload.filter(|upload| **upload == Upload::Writing) {
                *upload = Upload::Open;
            }
        }
        Event::CallOut { op } => call_out(world, op),
        Event::ClientTakes { request } => world.lock().client_takes(request),
    }
}

/// Has the test's upstream answer.
fn call_out(world: &World, op: u64) {
    let mut state = world.lock();
    let Some(call) = state.ops.get(&op).and_then(|op| op.call.clone()) else {
        return;
    };
    state.calls.push(call.clone());
    drop(state);
    let Canned(reply) = (world.upstream)(&call);
    let mut state = world.lock();
    match reply {
        Reply::Never => {}
        Reply::Error(error) => {
            let (status, message) = error.into_status();
            let outcome = Outcome {
                message,
                ..Outcome::status(status)
            };
            state.end_op(op, outcome);
        }
        Reply::Answer {
            status,
            headers,
            chunks,
            end,
        } => {
            if !state.ops.contains_key(&op) {
                return;
            }
            let fetched = state.keep_fetched(status, headers, chunks, end);
            let outcome = Outcome {
                fetched: state.fetched_handle(fetched),
                ..Outcome::default()
            };
            state.end_op(op, outcome);
        }
    }
}
