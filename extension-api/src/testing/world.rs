//! The small host behind [`super`]: callbacks over one locked state, and one worker thread that calls hooks and completions.
#![expect(unsafe_code, reason = "plays the host's part of the boundary")]

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::{Answer, Call, Canned, Outcome, Upstream};
use crate::abi::*;
use crate::bridge::{ABSENT, Bytes, bytes_of, slice, struct_size};

/// A request as a test asks it.
#[derive(Default)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) url: String,
    pub(super) user: Option<String>,
    pub(super) role: Option<String>,
    pub(super) admin: bool,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body_length: Option<usize>,
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) broken: bool,
    pub(super) leaves: bool,
}

/// An extension that runs.
pub(super) struct Running {
    world: Arc<World>,
    entry: ext_entry,
    worker: Option<JoinHandle<()>>,
}

/// One host with one extension; `ctx` points to it.
struct World {
    number: u64,
    env: BTreeMap<String, String>,
    upstream: Upstream,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    last: u64,
    events: VecDeque<Event>,
    /// Requests whose client leaves when nothing else happens.
    leaving: VecDeque<u64>,
    /// Operations that wait for their time, by it.
    timers: BTreeMap<(u64, u64), ()>,
    now_ms: u64,
    stopping: bool,
    instance: Option<Pointer>,
    refusal: Option<String>,
    routes: Vec<Route>,
    bases: Vec<String>,
    requests: HashMap<u64, Live>,
    ops: HashMap<u64, Pending>,
    fetched: HashMap<u64, Back>,
    calls: Vec<Call>,
    log: Vec<String>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Route {
    method: Option<String>,
    pattern: String,
    flags: u32,
    route: Pointer,
}

/// A pointer that only the extension follows.
#[derive(Clone, Copy)]
struct Pointer(*mut c_void);

// SAFETY: nothing is read through it here; the extension's hooks may be called with it from any thread.
unsafe impl Send for Pointer {}
// SAFETY: as above.
unsafe impl Sync for Pointer {}

/// A completion, which may be called from the worker.
#[derive(Clone, Copy)]
struct Completion(ext_completion);

// SAFETY: the contract has completions called on another thread than the one that registers them.
unsafe impl Send for Completion {}

enum Event {
    Handle {
        route: Pointer,
        request: u64,
    },
    Complete {
        completion: Completion,
        status: ext_status,
        data: Bytes,
        fetched: u64,
        message: String,
    },
    CallOut {
        op: u64,
    },
}

impl Event {
    fn done(completion: Completion, status: ext_status) -> Self {
        Self::Complete {
            completion,
            status,
            data: Bytes::new(),
            fetched: 0,
            message: String::new(),
        }
    }
}

/// A sleep or a fetch under way.
struct Pending {
    completion: Completion,
    request: u64,
    call: Call,
    upload_open: bool,
}

/// The answer of an upstream.
struct Back {
    status: u16,
    headers: Headers,
    chunks: VecDeque<Bytes>,
    breaks: bool,
}

/// A request that is open.
struct Live {
    head: Arc<Head>,
    chunks: VecDeque<Bytes>,
    broken: bool,
    gone: bool,
    answer: Option<Answer>,
    watch: Option<Completion>,
    answers: Sender<Answer>,
}

/// What a head's raw struct points into: nothing of it changes until it is dropped.
struct Head {
    asked: Asked,
    headers: Headers,
    raw: ext_request_head,
    /// What only `raw` points to.
    _whole: Vec<u8>,
    _params: Headers,
    _roles: Vec<ext_slice>,
}

type Lines = Vec<(String, String)>;

/// A value of `None` removes.
type Edits = Vec<(String, Option<String>)>;

/// Lines, and what points to them.
struct Headers {
    lines: Lines,
    raw: Vec<ext_field>,
}

// SAFETY: the raw structs point to text and lists on the heap that are kept beside them, and move with them.
unsafe impl Send for Head {}
// SAFETY: nothing of it changes, so it can be read from everywhere.
unsafe impl Sync for Head {}
// SAFETY: as for `Head`.
unsafe impl Send for Headers {}

/// All hosts of this process, for the callbacks that take a handle alone.
static WORLDS: LazyLock<Mutex<HashMap<u64, Arc<World>>>> = LazyLock::new(Mutex::default);
static LAST_WORLD: AtomicU64 = AtomicU64::new(0);

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- From start to stop ----

type HandleHook = unsafe extern "C" fn(*mut c_void, *mut c_void, ext_request);

impl Running {
    pub(super) fn start(
        entry: ext_entry,
        env: BTreeMap<String, String>,
        upstream: Upstream,
    ) -> Result<Self, String> {
        let number = LAST_WORLD.fetch_add(1, Ordering::Relaxed) + 1;
        let world = Arc::new(World {
            number,
            env,
            upstream,
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        locked(&WORLDS).insert(number, Arc::clone(&world));

        let (create, handle) = entry
            .create
            .zip(entry.handle)
            .expect("an entry of ours has every hook");
        let worker = thread::spawn({
            let world = Arc::clone(&world);
            move || world.work(handle)
        });
        let running = Self {
            world,
            entry,
            worker: Some(worker),
        };
        let world = &running.world;
        let mut instance = ptr::null_mut();
        // SAFETY: the table is constant; the world outlives `destroy`; `instance` is ours to be written.
        let status = unsafe {
            create(
                &CALLBACKS,
                Arc::as_ptr(world).cast_mut().cast(),
                &mut instance,
            )
        };
        if status == EXT_OK {
            world.lock().instance = Some(Pointer(instance));
            return Ok(running);
        }
        let refusal = world.lock().refusal.take();
        Err(refusal.unwrap_or_else(|| format!("create failed with {status}")))
    }

    pub(super) fn calls(&self) -> Vec<Call> {
        self.world.lock().calls.clone()
    }

    pub(super) fn log(&self) -> Vec<String> {
        self.world.lock().log.clone()
    }

    /// Begins a request; its answer comes by the receiver.
    pub(super) fn ask(&self, asked: Asked) -> Receiver<Answer> {
        let (answers, receiver) = mpsc::channel();
        let mut state = self.world.lock();
        let path = asked.url.split('?').next().unwrap_or_default();
        let (route, params) = match find(&state.routes, &asked.method, path) {
            Ok((route, params)) => (route.clone(), params),
            Err(status) => {
                let _ = answers.send(Answer {
                    status,
                    ..Answer::default()
                });
                return receiver;
            }
        };
        let blocking = route.flags & EXT_ROUTE_BLOCKING != 0;
        let (broken, leaves) = (asked.broken, asked.leaves);
        let chunks = if blocking {
            VecDeque::new()
        } else {
            asked.chunks.iter().cloned().map(Bytes::from).collect()
        };
        let head = Head::new(asked, params, blocking);
        let request = state.next();
        let live = Live {
            head,
            chunks,
            broken,
            gone: false,
            answer: None,
            watch: None,
            answers,
        };
        state.requests.insert(request, live);
        if leaves {
            state.leaving.push_back(request);
        }
        if blocking {
            let (handle, instance) = self
                .entry
                .handle
                .zip(state.instance)
                .expect("a running extension has both");
            let handle_of_request = self.world.request(request);
            let call = move || hand_over(handle, instance, route.route, handle_of_request);
            state.threads.push(thread::spawn(call));
        } else {
            state.events.push_back(Event::Handle {
                route: route.route,
                request,
            });
        }
        self.world.changed.notify_all();
        receiver
    }
}

/// Calls `handle`.
fn hand_over(handle: HandleHook, instance: Pointer, route: Pointer, request: ext_request) {
    // SAFETY: instance and route are the extension's own; the request becomes its to finish.
    unsafe { handle(instance.0, route.0, request) }
}

impl Drop for Running {
    fn drop(&mut self) {
        let threads = std::mem::take(&mut self.world.lock().threads);
        for thread in threads {
            let _ = thread.join();
        }
        let mut state = self.world.lock();
        state.stopping = true;
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
        locked(&WORLDS).remove(&self.world.number);
        if !thread::panicking() {
            assert!(
                worker.is_some_and(|ended| ended.is_ok()),
                "the worker of the test's host panicked"
            );
        }
    }
}

// ---- The worker ----

impl World {
    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    fn request(&self, request: u64) -> ext_request {
        ext_request {
            slot: self.number,
            generation: request,
        }
    }

    /// Calls hooks and completions until the extension is stopped, and nothing is left to be called.
    fn work(&self, handle: HandleHook) {
        let mut state = self.lock();
        loop {
            if let Some(event) = state.events.pop_front() {
                drop(state);
                self.happen(event, handle);
                state = self.lock();
            } else if let Some(request) = state.leaving.pop_front() {
                state.client_leaves(request);
            } else if let Some(((time_ms, op), ())) = state.timers.pop_first() {
                state.now_ms = time_ms;
                state.complete_op(op, EXT_OK, String::new());
            } else if state.stopping {
                return;
            } else {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn happen(&self, event: Event, handle: HandleHook) {
        match event {
            Event::Handle { route, request } => {
                let instance = self
                    .lock()
                    .instance
                    .expect("a request comes after `create`");
                hand_over(handle, instance, route, self.request(request));
            }
            Event::Complete {
                completion,
                status,
                data,
                fetched,
                message,
            } => {
                let fetched = match fetched {
                    0 => ext_fetched::default(),
                    generation => ext_fetched {
                        slot: self.number,
                        generation,
                    },
                };
                let result = ext_result {
                    struct_size: struct_size::<ext_result>(),
                    status,
                    data: data.into_raw(),
                    fetched,
                    message: slice(message.as_bytes()),
                };
                let function = completion
                    .0
                    .function
                    .expect("a completion of ours has a function");
                // SAFETY: registered by the extension, taken out of the state, and so called once.
                unsafe { function(completion.0.user, &result) }
            }
            Event::CallOut { op } => self.call_out(op),
        }
    }

    /// Has the test's upstream answer.
    fn call_out(&self, op: u64) {
        let mut state = self.lock();
        let Some(call) = state.ops.get(&op).map(|pending| pending.call.clone()) else {
            return;
        };
        state.calls.push(call.clone());
        drop(state);
        let Canned(outcome) = (self.upstream)(&call);
        let mut state = self.lock();
        match outcome {
            Outcome::Never => {}
            Outcome::Error(error) => {
                let (status, message) = error.into_status();
                state.complete_op(op, status, message);
            }
            Outcome::Answer {
                status,
                headers,
                chunks,
                breaks,
            } => {
                let fetched = state.next();
                let back = Back {
                    status,
                    headers: Headers::new(headers),
                    chunks: chunks.into(),
                    breaks,
                };
                state.fetched.insert(fetched, back);
                let Some(Pending { completion, .. }) = state.ops.remove(&op) else {
                    return;
                };
                let (data, message) = (Bytes::new(), String::new());
                state.events.push_back(Event::Complete {
                    completion,
                    status: EXT_OK,
                    data,
                    fetched,
                    message,
                });
            }
        }
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    fn complete_op(&mut self, op: u64, status: ext_status, message: String) {
        let Some(Pending { completion, .. }) = self.ops.remove(&op) else {
            return;
        };
        self.timers.retain(|(_, timed), ()| *timed != op);
        self.events.push_back(Event::Complete {
            completion,
            status,
            data: Bytes::new(),
            fetched: 0,
            message,
        });
    }

    fn cancel(&mut self, op: u64) {
        self.complete_op(op, EXT_CANCELLED, String::new());
    }

    fn cancel_of(&mut self, request: u64) {
        let ops: Vec<u64> = self
            .ops
            .iter()
            .filter(|(_, op)| op.request == request)
            .map(|(&op, _)| op)
            .collect();
        ops.into_iter().for_each(|op| self.cancel(op));
    }

    fn client_leaves(&mut self, request: u64) {
        let Some(live) = self.requests.get_mut(&request) else {
            return;
        };
        live.gone = true;
        if let Some(watch) = live.watch.take() {
            self.events.push_back(Event::done(watch, EXT_CANCELLED));
        }
        self.cancel_of(request);
    }

    /// Ends a request, with what the caller gets.
    fn finish(&mut self, request: u64, answer: Answer) -> ext_status {
        let Some(live) = self.requests.remove(&request) else {
            return EXT_GONE;
        };
        if let Some(watch) = live.watch {
            self.events.push_back(Event::done(watch, EXT_OK));
        }
        self.cancel_of(request);
        // A test that has stopped waiting gets nothing.
        let _ = live.answers.send(answer);
        if live.gone { EXT_GONE } else { EXT_OK }
    }

    /// Ends a request with an error, as the host renders it.
    fn fail(&mut self, request: u64, status: u16, code: &str, message: &str) -> ext_status {
        let Some(live) = self.requests.get(&request) else {
            return EXT_GONE;
        };
        let shown = if status == 500 && !live.head.asked.admin {
            "An unexpected error occurred."
        } else {
            message
        };
        let body =
            serde_json::json!({"errors": [{"message": shown, "extensions": {"code": code}}]});
        let headers = vec![(
            "content-type".to_owned(),
            "application/json; charset=utf-8".to_owned(),
        )];
        self.finish(
            request,
            Answer {
                status,
                headers,
                body: body.to_string().into_bytes(),
                broken_off: false,
            },
        )
    }
}

// ---- Routes ----

/// The most specific route, and its parameters; else 404 or 405.
fn find<'a>(routes: &'a [Route], method: &str, path: &str) -> Result<(&'a Route, Lines), u16> {
    let on_path: Vec<_> = routes
        .iter()
        .filter_map(|route| match_path(&route.pattern, path).map(|found| (route, found)))
        .collect();
    let best = on_path
        .iter()
        .map(|(_, (rank, _))| rank)
        .max()
        .ok_or(404_u16)?;
    let of_method = |wanted: Option<&str>| {
        on_path
            .iter()
            .find(|(route, (rank, _))| rank == best && route.method.as_deref() == wanted)
    };
    let found = of_method(Some(method));
    let found = found
        .or_else(|| of_method(Some("GET")).filter(|_| method == "HEAD"))
        .or_else(|| of_method(None));
    found
        .map(|(route, (_, params))| (*route, params.clone()))
        .ok_or(405)
}

/// How specific each segment's match is, and the parameters; `None` where the pattern does not match.
fn match_path(pattern: &str, path: &str) -> Option<(Vec<u8>, Lines)> {
    let (mut rank, mut params) = (Vec::new(), Vec::new());
    let mut path = path.strip_prefix('/')?;
    let mut pattern = pattern.strip_prefix('/')?;
    loop {
        let (wanted, next_pattern) = pattern
            .split_once('/')
            .map_or((pattern, None), |(a, b)| (a, Some(b)));
        if wanted == "*" {
            rank.push(0);
            params.push(("*".to_owned(), path.to_owned()));
            return Some((rank, params));
        }
        let (segment, next_path) = path
            .split_once('/')
            .map_or((path, None), |(a, b)| (a, Some(b)));
        match wanted.strip_prefix(':') {
            Some(name) if !segment.is_empty() => {
                rank.push(1);
                params.push((name.to_owned(), segment.to_owned()));
            }
            None if wanted == segment => rank.push(2),
            _ => return None,
        }
        match (next_pattern, next_path) {
            (None, None) => return Some((rank, params)),
            (Some(next_pattern), Some(next_path)) => (pattern, path) = (next_pattern, next_path),
            _ => return None,
        }
    }
}

// ---- What is lent ----

fn lent(text: &Option<String>) -> ext_slice {
    text.as_ref().map_or(ABSENT, |text| slice(text.as_bytes()))
}

impl Headers {
    fn new(lines: Lines) -> Self {
        let field = |(name, value): &(String, String)| ext_field {
            name: slice(name.as_bytes()),
            value: slice(value.as_bytes()),
        };
        let raw = lines.iter().map(field).collect();
        Self { lines, raw }
    }

    fn get(&self, name: &str, index: usize) -> Option<ext_slice> {
        let of_name = self
            .lines
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name));
        of_name.map(|(_, value)| slice(value.as_bytes())).nth(index)
    }
}

impl Head {
    fn new(mut asked: Asked, params: Lines, whole: bool) -> Arc<Self> {
        let headers = Headers::new(std::mem::take(&mut asked.headers));
        let params = Headers::new(params);
        let roles: Vec<_> = asked
            .role
            .iter()
            .map(|role| slice(role.as_bytes()))
            .collect();
        let whole = if whole {
            asked.chunks.concat()
        } else {
            Vec::new()
        };
        let (path, query) = asked
            .url
            .split_once('?')
            .map_or((asked.url.as_str(), None), |(path, query)| {
                (path, Some(query))
            });
        let no_body = asked.chunks.is_empty() && !asked.broken;
        let raw = ext_request_head {
            struct_size: struct_size::<ext_request_head>(),
            http_version: 11,
            method: slice(asked.method.as_bytes()),
            url: slice(asked.url.as_bytes()),
            path: slice(path.as_bytes()),
            query: query.map_or(ABSENT, |query| slice(query.as_bytes())),
            params: params.raw.as_ptr(),
            param_count: params.raw.len(),
            peer: slice(b"127.0.0.1:50000"),
            id: slice(b"test"),
            deadline_ms: 0,
            body_length: if no_body {
                0
            } else {
                asked.body_length.map_or(-1, |length| length as i64)
            },
            body: ext_buffer {
                ptr: whole.as_ptr(),
                len: whole.len(),
                owner: ptr::null_mut(),
                release: None,
            },
            accountability: ext_accountability {
                user: lent(&asked.user),
                role: lent(&asked.role),
                roles: roles.as_ptr(),
                role_count: roles.len(),
                ip: slice(b"127.0.0.1"),
                user_agent: ABSENT,
                origin: ABSENT,
                session: ABSENT,
                admin: asked.admin.into(),
                app: asked.admin.into(),
                reserved: [0; 6],
            },
        };
        Arc::new(Self {
            asked,
            headers,
            raw,
            _whole: whole,
            _params: params,
            _roles: roles,
        })
    }
}

// ---- Callbacks ----

static CALLBACKS: ext_callbacks = ext_callbacks {
    struct_size: struct_size::<ext_callbacks>(),
    abi_minor: EXT_ABI_MINOR,
    get_interface,
    endpoint,
    route,
    refuse,
    env,
    log_enabled,
    log,
    base,
    head,
    header,
    headers,
    read,
    respond,
    fail,
    stream,
    write,
    end,
    relay,
    drop: drop_request,
    watch,
    sleep,
    post,
    cancel,
    fetch,
    fetch_write,
    fetch_end,
    fetched_head,
    fetched_header,
    fetched_headers,
    fetched_read,
    fetched_drop,
};

/// The host that `ctx` stands for.
///
/// # Safety
///
/// As the contract says: between `create` and the return of `destroy`.
unsafe fn world<'a>(ctx: *mut ext_context) -> &'a World {
    // SAFETY: `ctx` is the world that was handed to `create`, and which `Running` keeps until after `destroy`.
    unsafe { &*ctx.cast::<World>().cast_const() }
}

/// The host that a handle belongs to, unless it has ended.
fn world_of(slot: u64) -> Option<Arc<World>> {
    locked(&WORLDS).get(&slot).cloned()
}

/// Looks at a request; EXT_GONE where its time is over.
fn with_request(
    handle: ext_request,
    look: impl FnOnce(&mut State, u64) -> ext_status,
) -> ext_status {
    let Some(world) = world_of(handle.slot) else {
        return EXT_GONE;
    };
    let mut state = world.lock();
    let status = if state.requests.contains_key(&handle.generation) {
        look(&mut state, handle.generation)
    } else {
        EXT_GONE
    };
    world.changed.notify_all();
    status
}

/// # Safety
///
/// The slice must be readable during the call.
unsafe fn text(slice: ext_slice) -> String {
    // SAFETY: readable during the call, says the caller.
    String::from_utf8_lossy(unsafe { bytes_of(slice) }.unwrap_or_default()).into_owned()
}

/// # Safety
///
/// The fields, and the slices in them, must be readable during the call.
unsafe fn lines(fields: *const ext_field, count: usize) -> Edits {
    if count == 0 {
        return Vec::new();
    }
    // SAFETY: readable during the call, says the caller.
    let fields = unsafe { std::slice::from_raw_parts(fields, count) };
    // SAFETY: as above.
    let line = |field: &ext_field| unsafe {
        let value = if field.value.ptr.is_null() {
            None
        } else {
            Some(text(field.value))
        };
        (text(field.name).to_ascii_lowercase(), value)
    };
    fields.iter().map(line).collect()
}

unsafe extern "C" fn get_interface(_: *mut ext_context, _: ext_slice) -> *const c_void {
    ptr::null()
}

unsafe extern "C" fn endpoint(
    _: *mut ext_context,
    _: ext_slice,
    endpoint: *mut ext_endpoint,
) -> ext_status {
    // SAFETY: the extension's place, to be written.
    unsafe { *endpoint = 0 };
    EXT_OK
}

unsafe extern "C" fn route(
    ctx: *mut ext_context,
    _: ext_endpoint,
    method: ext_slice,
    pattern: ext_slice,
    flags: u32,
    route: *mut c_void,
) -> ext_status {
    // SAFETY: the slices are lent for the call, `ctx` is alive.
    let (world, method, pattern) = unsafe {
        let method = if method.ptr.is_null() {
            None
        } else {
            Some(text(method))
        };
        (world(ctx), method, text(pattern))
    };
    let mut state = world.lock();
    let twice = state
        .routes
        .iter()
        .any(|other| other.method == method && other.pattern == pattern);
    let misplaced = pattern.find('*').is_some_and(|at| at + 1 != pattern.len());
    if twice || misplaced || !pattern.starts_with('/') {
        return EXT_INVALID;
    }
    state.routes.push(Route {
        method,
        pattern,
        flags,
        route: Pointer(route),
    });
    EXT_OK
}

unsafe extern "C" fn refuse(ctx: *mut ext_context, message: ext_slice) {
    // SAFETY: the message is lent for the call, `ctx` is alive.
    unsafe { world(ctx).lock().refusal = Some(text(message)) };
}

unsafe extern "C" fn env(
    ctx: *mut ext_context,
    name: ext_slice,
    value: *mut ext_slice,
) -> ext_status {
    // SAFETY: the name is lent for the call, `ctx` is alive.
    let (world, name) = unsafe { (world(ctx), text(name)) };
    let Some(found) = world.env.get(&name) else {
        return EXT_ABSENT;
    };
    // SAFETY: the extension's place, to be written; what it gets lives until after `destroy`.
    unsafe { *value = slice(found.as_bytes()) };
    EXT_OK
}

unsafe extern "C" fn log_enabled(_: *mut ext_context, _: u32) -> u32 {
    1
}

unsafe extern "C" fn log(
    ctx: *mut ext_context,
    _: ext_request,
    level: u32,
    message: ext_slice,
    fields: *const ext_field,
    count: usize,
) {
    const LEVELS: [&str; 6] = ["?", "error", "warn", "info", "debug", "trace"];
    // SAFETY: message and fields are lent for the call, `ctx` is alive.
    let (world, message, fields) = unsafe { (world(ctx), text(message), lines(fields, count)) };
    let mut line = format!("{} {message}", LEVELS.get(level as usize).unwrap_or(&"?"));
    for (name, value) in fields {
        line += &format!(" {name}={}", value.unwrap_or_default());
    }
    world.lock().log.push(line);
}

unsafe extern "C" fn base(
    ctx: *mut ext_context,
    url: ext_slice,
    base: *mut ext_base,
) -> ext_status {
    // SAFETY: the url is lent for the call, `ctx` is alive.
    let (world, url) = unsafe { (world(ctx), text(url)) };
    let rest = url
        .strip_prefix("https://")
        .or_else(|| url.strip_prefix("http://"));
    if rest.is_none_or(|rest| rest.is_empty() || rest.contains(['?', '#', '@', ' '])) {
        return EXT_INVALID;
    }
    let mut state = world.lock();
    state.bases.push(url);
    // SAFETY: the extension's place, to be written.
    unsafe { *base = state.bases.len() as ext_base - 1 };
    EXT_OK
}

unsafe extern "C" fn head(request: ext_request) -> *const ext_request_head {
    let mut head = ptr::null();
    with_request(request, |state, request| {
        // It stays where it is until the request is finished.
        head = &raw const state.requests[&request].head.raw;
        EXT_OK
    });
    head
}

unsafe extern "C" fn header(
    request: ext_request,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    // SAFETY: the name is lent for the call.
    let name = unsafe { text(name) };
    with_request(request, |state, request| {
        let Some(found) = state.requests[&request].head.headers.get(&name, index) else {
            return EXT_ABSENT;
        };
        // SAFETY: the extension's place, to be written.
        unsafe { *value = found };
        EXT_OK
    })
}

unsafe extern "C" fn headers(
    request: ext_request,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    with_request(request, |state, request| {
        let raw = &state.requests[&request].head.headers.raw;
        // SAFETY: the extension's places, to be written.
        unsafe { (*fields, *count) = (raw.as_ptr(), raw.len()) };
        EXT_OK
    })
}

unsafe extern "C" fn read(request: ext_request, completion: ext_completion) -> ext_status {
    with_request(request, |state, request| {
        let live = state.requests.get_mut(&request).expect("looked up before");
        let (status, data) = match live.chunks.pop_front() {
            _ if live.gone => (EXT_CANCELLED, Bytes::new()),
            Some(chunk) => (EXT_OK, chunk),
            None => (if live.broken { EXT_BROKEN } else { EXT_END }, Bytes::new()),
        };
        let (completion, message) = (Completion(completion), String::new());
        state.events.push_back(Event::Complete {
            completion,
            status,
            data,
            fetched: 0,
            message,
        });
        EXT_OK
    })
}

/// # Safety
///
/// The response must be as the contract says; its body becomes the caller's.
unsafe fn answer(response: *const ext_response) -> Option<(Answer, Edits)> {
    // SAFETY: lent for the call; the body is given.
    let (raw, body) = unsafe { (&*response, Bytes::from_raw((*response).body)) };
    // SAFETY: lent for the call.
    let edits = unsafe { lines(raw.headers, raw.header_count) };
    let headers = edits
        .iter()
        .filter_map(|(name, value)| Some((name.clone(), value.clone()?)))
        .collect::<Vec<_>>();
    let bad = |text: &String| text.contains(['\r', '\n', '\0']);
    if headers.iter().any(|(name, value)| bad(name) || bad(value)) {
        return None;
    }
    Some((
        Answer {
            status: raw.status as u16,
            headers,
            body: body.to_vec(),
            broken_off: false,
        },
        edits,
    ))
}

unsafe extern "C" fn respond(request: ext_request, response: *const ext_response) -> ext_status {
    // SAFETY: as the contract says.
    let answer = unsafe { answer(response) };
    with_request(request, |state, request| match answer {
        Some((answer, _)) if (200..=599).contains(&answer.status) => state.finish(request, answer),
        _ => {
            state.fail(
                request,
                500,
                "INTERNAL_SERVER_ERROR",
                "the answer is not valid",
            );
            EXT_INVALID
        }
    })
}

unsafe extern "C" fn fail(request: ext_request, error: *const ext_error) -> ext_status {
    // SAFETY: as the contract says, lent for the call.
    let (error, code, message, cause) = unsafe {
        let error = &*error;
        (
            error,
            text(error.code),
            text(error.message),
            text(error.cause),
        )
    };
    with_request(request, |state, request| {
        let mut line = format!("error {message} status={} code={code}", error.status);
        if !cause.is_empty() {
            line += &format!(" cause={cause}");
        }
        state.log.push(line);
        state.fail(request, error.status as u16, &code, &message)
    })
}

unsafe extern "C" fn stream(request: ext_request, head: *const ext_response) -> ext_status {
    // SAFETY: as the contract says.
    let answer = unsafe { answer(head) };
    with_request(request, |state, request| {
        let live = state.requests.get_mut(&request).expect("looked up before");
        live.answer = answer.map(|(answer, _)| answer);
        match live {
            Live { gone: true, .. } => EXT_GONE,
            Live { answer: None, .. } => EXT_INVALID,
            _ => EXT_OK,
        }
    })
}

unsafe extern "C" fn write(
    request: ext_request,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: the chunk is given.
    let chunk = unsafe { Bytes::from_raw(chunk) };
    with_request(request, |state, request| {
        let live = state.requests.get_mut(&request).expect("looked up before");
        let Some(answer) = &mut live.answer else {
            return EXT_STAGE;
        };
        answer.body.extend_from_slice(&chunk);
        let status = if live.gone { EXT_CANCELLED } else { EXT_OK };
        state
            .events
            .push_back(Event::done(Completion(completion), status));
        EXT_OK
    })
}

unsafe extern "C" fn end(request: ext_request, status: ext_status) -> ext_status {
    with_request(request, |state, request| {
        let live = state.requests.get_mut(&request).expect("looked up before");
        let Some(answer) = live.answer.take() else {
            return EXT_STAGE;
        };
        state.finish(
            request,
            Answer {
                broken_off: status != EXT_OK,
                ..answer
            },
        )
    })
}

unsafe extern "C" fn relay(
    request: ext_request,
    fetched: ext_fetched,
    edits: *const ext_response,
) -> ext_status {
    let edits = match edits.is_null() {
        true => None,
        // SAFETY: as the contract says.
        false => unsafe { answer(edits) },
    };
    with_request(request, |state, request| {
        let Some(back) = state.fetched.remove(&fetched.generation) else {
            return EXT_GONE;
        };
        let mut answer = Answer {
            status: back.status,
            headers: back.headers.lines,
            ..Answer::default()
        };
        for chunk in &back.chunks {
            answer.body.extend_from_slice(chunk);
        }
        answer.broken_off = back.breaks;
        if let Some((edited, edits)) = edits {
            answer.status = if edited.status == 0 {
                answer.status
            } else {
                edited.status
            };
            answer
                .headers
                .retain(|(name, _)| !edits.iter().any(|(edited, _)| edited == name));
            answer.headers.extend(edited.headers);
        }
        state.finish(request, answer)
    })
}

unsafe extern "C" fn drop_request(request: ext_request) -> ext_status {
    with_request(request, |state, request| {
        if state.requests[&request].answer.is_some() {
            return EXT_STAGE;
        }
        state.fail(
            request,
            500,
            "INTERNAL_SERVER_ERROR",
            "the request was dropped unanswered",
        )
    })
}

unsafe extern "C" fn watch(request: ext_request, completion: ext_completion) -> ext_status {
    with_request(request, |state, request| {
        let live = state.requests.get_mut(&request).expect("looked up before");
        if live.gone {
            state
                .events
                .push_back(Event::done(Completion(completion), EXT_CANCELLED));
        } else {
            live.watch = Some(Completion(completion));
        }
        EXT_OK
    })
}

unsafe extern "C" fn sleep(
    ctx: *mut ext_context,
    request: ext_request,
    ms: u64,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    // SAFETY: `ctx` is alive.
    let world = unsafe { world(ctx) };
    let mut state = world.lock();
    if state.stopping {
        return EXT_CANCELLED;
    }
    let number = state.next();
    let completion = Completion(completion);
    let pending = Pending {
        completion,
        request: request.generation,
        call: Call::default(),
        upload_open: false,
    };
    state.ops.insert(number, pending);
    let time_ms = state.now_ms.saturating_add(ms);
    state.timers.insert((time_ms, number), ());
    if !op.is_null() {
        // SAFETY: the extension's place, to be written.
        unsafe {
            *op = ext_op {
                slot: world.number,
                generation: number,
            }
        };
    }
    world.changed.notify_all();
    EXT_OK
}

unsafe extern "C" fn post(
    ctx: *mut ext_context,
    _: ext_request,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: `ctx` is alive.
    let world = unsafe { world(ctx) };
    let mut state = world.lock();
    if state.stopping {
        return EXT_CANCELLED;
    }
    state
        .events
        .push_back(Event::done(Completion(completion), EXT_OK));
    world.changed.notify_all();
    EXT_OK
}

unsafe extern "C" fn cancel(op: ext_op) {
    if let Some(world) = world_of(op.slot) {
        world.lock().cancel(op.generation);
        world.changed.notify_all();
    }
}

unsafe extern "C" fn fetch(
    ctx: *mut ext_context,
    fetch: *const ext_fetch,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    // SAFETY: `ctx` is alive; the fetch and its slices are lent for the call; its body is given.
    let (world, fetch, body, method, target, edits) = unsafe {
        let fetch = &*fetch;
        let edits = lines(fetch.headers, fetch.header_count);
        (
            world(ctx),
            fetch,
            Bytes::from_raw(fetch.body),
            text(fetch.method),
            text(fetch.target),
            edits,
        )
    };
    let mut state = world.lock();
    if state.stopping {
        return EXT_CANCELLED;
    }
    let Some(base) = state.bases.get(fetch.base as usize) else {
        return EXT_INVALID;
    };
    let url = base.trim_end_matches('/').to_owned() + &target;
    let mut call = Call {
        method,
        url,
        headers: Vec::new(),
        body: body.to_vec(),
    };
    if let Some(live) = state.requests.get_mut(&fetch.request.generation) {
        if fetch.flags & EXT_FETCH_TAKE_HEADERS != 0 {
            if call.method.is_empty() {
                call.method.clone_from(&live.head.asked.method);
            }
            const HOP_BY_HOP: [&str; 6] = [
                "connection",
                "keep-alive",
                "te",
                "trailer",
                "transfer-encoding",
                "upgrade",
            ];
            let lines = live.head.headers.lines.iter();
            call.headers = lines
                .filter(|(name, _)| !HOP_BY_HOP.contains(&name.as_str()))
                .cloned()
                .collect();
        }
        if fetch.flags & EXT_FETCH_TAKE_BODY != 0 {
            call.body = live.chunks.drain(..).flat_map(Vec::from).collect();
        }
    }
    if call.method.is_empty() {
        call.method = "GET".to_owned();
    }
    call.headers
        .retain(|(name, _)| !edits.iter().any(|(edited, _)| edited == name));
    call.headers.extend(
        edits
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let number = state.next();
    let upload_open = fetch.flags & EXT_FETCH_STREAM_BODY != 0;
    let pending = Pending {
        completion: Completion(completion),
        request: fetch.request.generation,
        call,
        upload_open,
    };
    state.ops.insert(number, pending);
    if !upload_open {
        state.events.push_back(Event::CallOut { op: number });
    }
    // SAFETY: the extension's place, to be written.
    unsafe {
        *op = ext_op {
            slot: world.number,
            generation: number,
        }
    };
    world.changed.notify_all();
    EXT_OK
}

unsafe extern "C" fn fetch_write(
    op: ext_op,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: the chunk is given.
    let chunk = unsafe { Bytes::from_raw(chunk) };
    let Some(world) = world_of(op.slot) else {
        return EXT_GONE;
    };
    let mut state = world.lock();
    let Some(pending) = state
        .ops
        .get_mut(&op.generation)
        .filter(|pending| pending.upload_open)
    else {
        return EXT_GONE;
    };
    pending.call.body.extend_from_slice(&chunk);
    state
        .events
        .push_back(Event::done(Completion(completion), EXT_OK));
    world.changed.notify_all();
    EXT_OK
}

unsafe extern "C" fn fetch_end(op: ext_op, status: ext_status) -> ext_status {
    let Some(world) = world_of(op.slot) else {
        return EXT_GONE;
    };
    let mut state = world.lock();
    let Some(pending) = state
        .ops
        .get_mut(&op.generation)
        .filter(|pending| pending.upload_open)
    else {
        return EXT_GONE;
    };
    pending.upload_open = false;
    match status {
        EXT_OK => state.events.push_back(Event::CallOut { op: op.generation }),
        _ => state.complete_op(
            op.generation,
            EXT_BROKEN,
            "the call's body was broken off".to_owned(),
        ),
    }
    world.changed.notify_all();
    EXT_OK
}

/// Looks at an answer; EXT_GONE where its time is over.
fn with_fetched(
    handle: ext_fetched,
    look: impl FnOnce(&mut State, u64) -> ext_status,
) -> ext_status {
    let Some(world) = world_of(handle.slot) else {
        return EXT_GONE;
    };
    let mut state = world.lock();
    let status = if state.fetched.contains_key(&handle.generation) {
        look(&mut state, handle.generation)
    } else {
        EXT_GONE
    };
    world.changed.notify_all();
    status
}

unsafe extern "C" fn fetched_head(fetched: ext_fetched, head: *mut ext_fetched_head) -> ext_status {
    with_fetched(fetched, |state, fetched| {
        let status = state.fetched[&fetched].status.into();
        // SAFETY: the extension's place, to be written.
        unsafe {
            *head = ext_fetched_head {
                struct_size: struct_size::<ext_fetched_head>(),
                status,
                body_length: -1,
            }
        };
        EXT_OK
    })
}

unsafe extern "C" fn fetched_header(
    fetched: ext_fetched,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    // SAFETY: the name is lent for the call.
    let name = unsafe { text(name) };
    with_fetched(fetched, |state, fetched| {
        let Some(found) = state.fetched[&fetched].headers.get(&name, index) else {
            return EXT_ABSENT;
        };
        // SAFETY: the extension's place, to be written.
        unsafe { *value = found };
        EXT_OK
    })
}

unsafe extern "C" fn fetched_headers(
    fetched: ext_fetched,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    with_fetched(fetched, |state, fetched| {
        let raw = &state.fetched[&fetched].headers.raw;
        // SAFETY: the extension's places, to be written.
        unsafe { (*fields, *count) = (raw.as_ptr(), raw.len()) };
        EXT_OK
    })
}

unsafe extern "C" fn fetched_read(fetched: ext_fetched, completion: ext_completion) -> ext_status {
    with_fetched(fetched, |state, fetched| {
        let back = state.fetched.get_mut(&fetched).expect("looked up before");
        let (status, data) = match back.chunks.pop_front() {
            Some(chunk) => (EXT_OK, chunk),
            None => (if back.breaks { EXT_BROKEN } else { EXT_END }, Bytes::new()),
        };
        let (completion, message) = (Completion(completion), String::new());
        state.events.push_back(Event::Complete {
            completion,
            status,
            data,
            fetched: 0,
            message,
        });
        EXT_OK
    })
}

unsafe extern "C" fn fetched_drop(fetched: ext_fetched) -> ext_status {
    with_fetched(fetched, |state, fetched| {
        state.fetched.remove(&fetched);
        EXT_OK
    })
}
