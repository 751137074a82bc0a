//! UNSAFE: what an extension may call. Each function checks what it is given, turns it into the host's own types once, and
//! leaves the work to `request`, `operation`, `fetched` and `upstream`.
//!
//! Every function may be called from every thread. What concerns a request or an answer happens on its worker: at once where
//! the caller is that worker, else as a job of it.
#![expect(
    unsafe_code,
    reason = "the functions of the ABI take raw pointers; the header says what they must point at"
)]

pub mod completion;
pub mod lend;

use std::borrow::Cow;
use std::ffi::c_void;
use std::hint::cold_path;
use std::rc::Rc;

use actix_http::header::{self, HeaderMap, HeaderName, HeaderValue};
use actix_http::{Method, Response, StatusCode};
use bytes::Bytes;
use extension_api::abi::*;
use smallvec::SmallVec;

use self::completion::{Completion, Outcome};
use crate::breach::{self, Rule};
use crate::extension::Context;
use crate::log::{self, Level};
use crate::reply::{self, Body, Failure, REQUEST_ID, Refusal};
use crate::upstream::{Call, Limits, Outgoing, headers};
use crate::worker::{Remote, Worker, with_current};
use crate::{fetched, noted, operation, request};

/// The table that `create` is given.
pub static CALLBACKS: ext_callbacks = ext_callbacks {
    struct_size: size_of::<ext_callbacks>() as u32,
    abi_minor: EXT_ABI_MINOR,
    get_interface,
    endpoint,
    route,
    refuse,
    env,
    log_enabled,
    log: log_line,
    base,
    head,
    header,
    headers: all_headers,
    read,
    respond,
    fail,
    stream,
    write,
    end,
    relay,
    drop: give_up,
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

// ---- The extension ----

unsafe extern "C" fn get_interface(_ctx: *mut ext_context, _id: ext_slice) -> *const c_void {
    std::ptr::null()
}

unsafe extern "C" fn endpoint(
    ctx: *mut ext_context,
    id: ext_slice,
    endpoint: *mut ext_endpoint,
) -> ext_status {
    let (Some(ctx), Some(id), false) = (context(ctx), text(&id), endpoint.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.declare_endpoint(id) {
        // SAFETY: not NULL, and the header makes it a place for the number.
        Ok(number) => unsafe { endpoint.write(number) },
        Err(status) => return staged("endpoint", status),
    }
    EXT_OK
}

unsafe extern "C" fn route(
    ctx: *mut ext_context,
    endpoint: ext_endpoint,
    method: ext_slice,
    pattern: ext_slice,
    flags: u32,
    route: *mut c_void,
) -> ext_status {
    let (Some(ctx), Some(method), Some(pattern)) = (context(ctx), text(&method), text(&pattern))
    else {
        return EXT_INVALID;
    };
    ctx.declare_route(endpoint, method, pattern, flags, route)
        .map_or_else(|status| staged("route", status), |()| EXT_OK)
}

unsafe extern "C" fn refuse(ctx: *mut ext_context, message: ext_slice) {
    if let Some(ctx) = context(ctx) {
        ctx.refuse(&lossy(&message));
    }
}

unsafe extern "C" fn env(
    ctx: *mut ext_context,
    name: ext_slice,
    value: *mut ext_slice,
) -> ext_status {
    let (Some(ctx), Some(name), false) = (context(ctx), text(&name), value.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.variable(name) {
        Some(Some(found)) => {
            // SAFETY: not NULL, and the header makes it a place for a slice.
            unsafe { value.write(lend::text(found)) };
            EXT_OK
        }
        Some(None) => EXT_ABSENT,
        None => {
            breach::note(Rule::DeclaresVariables, || {
                format!("`env` was asked for {name}")
            });
            EXT_UNDECLARED
        }
    }
}

/// Passes a status on, and notes one that says that the call came at the wrong time.
fn staged(call: &str, status: ext_status) -> ext_status {
    if status == EXT_STAGE {
        breach::note(Rule::AtItsStage, || {
            format!("`{call}` was called too early or too late")
        });
    }
    status
}

/// Notes a struct that is shorter than the first version of the header has it.
fn sized<T>(call: &str, struct_size: u32) {
    if (struct_size as usize) < size_of::<T>() {
        cold_path();
        breach::note(Rule::StructSize, || {
            format!("`{call}` was given a struct_size of {struct_size}")
        });
    }
}

/// A request, for a report.
fn named(request: request::Handle) -> String {
    match request.head() {
        Some(head) => format!("{} {}", lossy(&head.method), lossy(&head.path)),
        None => "a finished request".to_owned(),
    }
}

unsafe extern "C" fn log_enabled(_ctx: *mut ext_context, level: u32) -> u32 {
    level_of(level).is_some_and(log::enabled).into()
}

unsafe extern "C" fn log_line(
    ctx: *mut ext_context,
    request: ext_request,
    level: u32,
    message: ext_slice,
    fields: *const ext_field,
    field_count: usize,
) {
    let (Some(ctx), Some(level)) = (context(ctx), level_of(level)) else {
        return;
    };
    if level == Level::Error && breach::is_watched() {
        note_panic(slice_of(fields, field_count));
    }
    if !log::enabled(level) {
        return;
    }
    let request = of_request(request);
    let own: Vec<(String, String)> = slice_of(fields, field_count)
        .iter()
        .map(|field| (lossy(&field.name), lossy(&field.value)))
        .collect();
    let mut line: Vec<log::Field<'_>> = vec![("extension", &ctx.name)];
    let id = request.map(|request| request.shared().id());
    if let Some(id) = &id {
        line.push(("request", id));
    }
    line.extend(
        own.iter()
            .map(|(name, value)| (name.as_str(), value as &dyn std::fmt::Display)),
    );
    log::event(level, &lossy(&message), &line);
}

/// The SDK says so of a panic that it has caught where there is no request to fail: in `stop`, in a drop.
fn note_panic(fields: &[ext_field]) {
    let panicked = fields
        .iter()
        .find(|field| bytes(&field.value).starts_with(b"panicked"));
    if let Some(field) = panicked {
        breach::note(Rule::DoesNotPanic, || lossy(&field.value));
    }
}

fn level_of(level: u32) -> Option<Level> {
    match level {
        EXT_LOG_ERROR => Some(Level::Error),
        EXT_LOG_WARN => Some(Level::Warn),
        EXT_LOG_INFO => Some(Level::Info),
        EXT_LOG_DEBUG => Some(Level::Debug),
        EXT_LOG_TRACE => Some(Level::Trace),
        _ => None,
    }
}

unsafe extern "C" fn base(
    ctx: *mut ext_context,
    url: ext_slice,
    base: *mut ext_base,
) -> ext_status {
    let (Some(ctx), Some(url), false) = (context(ctx), text(&url), base.is_null()) else {
        return EXT_INVALID;
    };
    match ctx.declare_base(url) {
        // SAFETY: not NULL, and the header makes it a place for the number.
        Ok(number) => unsafe { base.write(number) },
        Err(status) => return status,
    }
    EXT_OK
}

// ---- The request ----

unsafe extern "C" fn head(request: ext_request) -> *const ext_request_head {
    of_request(request).map_or(std::ptr::null(), |request| {
        request.head().map_or(std::ptr::null(), std::ptr::from_ref)
    })
}

unsafe extern "C" fn header(
    request: ext_request,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    look_up(request.shared().headers(), &name, index, value)
}

unsafe extern "C" fn all_headers(
    request: ext_request,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    hand_over(request.shared().fields(), fields, count)
}

unsafe extern "C" fn read(request: ext_request, completion: ext_completion) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    on_worker(request.worker(), completion, move |worker, completion| {
        request.read(worker, completion)
    })
}

unsafe extern "C" fn respond(request: ext_request, response: *const ext_response) -> ext_status {
    // SAFETY: the header makes it a response, lent for the call.
    let Some(response) = (unsafe { response.as_ref() }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { completion::take(response.body) };
    sized::<ext_response>("respond", response.struct_size);
    let Some(request) = of_request(request) else {
        cold_path();
        return stale("respond");
    };
    answer_with(request, response, body)
}

unsafe extern "C" fn stream(request: ext_request, head: *const ext_response) -> ext_status {
    // SAFETY: the header makes it a response, lent for the call.
    let Some(response) = (unsafe { head.as_ref() }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { completion::take(response.body) };
    sized::<ext_response>("stream", response.struct_size);
    let Some(request) = of_request(request) else {
        return stale("stream");
    };
    if !body.is_empty() {
        return reject(request, "the head of a stream must have no body");
    }
    let mut headers = HeaderMap::new();
    let made = status_of(response.status)
        .and_then(|status| Ok((status, set_headers(&mut headers, response)?)));
    let (status, says) = match made {
        Ok(made) => made,
        Err(rule) => return reject(request, rule),
    };
    if let Err(status) = request.claim(true) {
        return late(request, status);
    }
    request.worker().run(move |_| {
        request.answer(with_headers(status, headers, Body::Declared(says.length)));
    });
    EXT_OK
}

fn with_headers(status: StatusCode, headers: HeaderMap, body: Body) -> Response<Body> {
    let mut response = Response::with_body(status, body);
    *response.headers_mut() = headers;
    response
}

/// Answers whole with what an extension gave: directly on the request's worker, else as a job of it.
fn answer_with(request: request::Handle, given: &ext_response, body: Bytes) -> ext_status {
    let status = match status_of(given.status) {
        Ok(status) => status,
        Err(rule) => return reject(request, rule),
    };
    if !request.worker().is_current() {
        cold_path();
        return answer_from_elsewhere(request, status, given, body);
    }
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    // Straight into the answer's own header map.
    let mut response = Response::with_body(status, Body::Bytes(body));
    let headers = response.headers_mut();
    let made = set_headers(headers, given);
    match made {
        Ok(Says { has_id: true, .. }) => {}
        Ok(_) => headers.append(REQUEST_ID, request.shared().request_id().header_value()),
        Err(rule) => {
            cold_path();
            response = reply::with_id(invalid(request, rule), request.shared().request_id())
        }
    }
    with_current(|worker| request.conclude(worker, response));
    made.map_or(EXT_INVALID, |_| EXT_OK)
}

#[inline(never)]
fn answer_from_elsewhere(
    request: request::Handle,
    status: StatusCode,
    given: &ext_response,
    body: Bytes,
) -> ext_status {
    let mut headers = HeaderMap::new();
    match set_headers(&mut headers, given) {
        Ok(_) => match request.claim(false) {
            Ok(()) => {
                request.worker().run(move |worker| {
                    request.answer(with_headers(status, headers, Body::Bytes(body)));
                    request.finish(worker);
                });
                EXT_OK
            }
            Err(status) => late(request, status),
        },
        Err(rule) => reject(request, rule),
    }
}

/// Answers with a 500 in place of what breaks a rule.
fn reject(request: request::Handle, rule: &'static str) -> ext_status {
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    request.worker().run(move |worker| {
        request.answer(invalid(request, rule));
        request.finish(worker);
    });
    EXT_INVALID
}

fn status_of(status: u32) -> Result<StatusCode, &'static str> {
    u16::try_from(status)
        .ok()
        .filter(|status| (200..600).contains(status))
        .and_then(|status| StatusCode::from_u16(status).ok())
        .ok_or("the status of an answer must be from 200 to 599")
}

/// What the client gets in place of an answer that breaks the rules.
fn invalid(request: request::Handle, rule: &str) -> Response<Body> {
    breach::note(Rule::ValidAnswers, || format!("{}: {rule}", named(request)));
    request.log(
        Level::Error,
        &format!("the extension's answer was not sent: {rule}"),
    );
    reply::refuse(&Refusal::Internal)
}

/// An answer that came too late, or twice.
fn late(request: request::Handle, status: ext_status) -> ext_status {
    if status == EXT_ANSWERED {
        breach::note(Rule::AnswersOnce, || {
            format!("{} was answered twice", named(request))
        });
    }
    request.worker().run(move |worker| {
        if status == EXT_GONE {
            request.log(
                Level::Debug,
                "the extension answered after the request was over",
            );
            request.finish(worker);
        } else {
            request.log(
                Level::Warn,
                "the extension answered a request twice; the second answer was discarded",
            );
        }
    });
    status
}

/// A handle whose time is over. Whose it was is not known any more, but on a worker, who uses it.
fn stale(call: &str) -> ext_status {
    breach::note(Rule::LetsFinishedGo, || {
        format!("`{call}` was called with a finished request")
    });
    let name = crate::worker::inside();
    let name = name.as_deref().unwrap_or("unknown");
    log::event(
        Level::Warn,
        "an extension used a request that it had finished before",
        &[("extension", &name), ("call", &call)],
    );
    EXT_GONE
}

/// What an answer's headers say that the host heeds.
#[derive(Clone, Copy, Default)]
struct Says {
    /// The length that `Content-Length` declares.
    length: Option<u64>,
    /// They name the request themselves.
    has_id: bool,
}

/// Sets an answer's headers; the error is the rule that they break.
fn set_headers(headers: &mut HeaderMap, response: &ext_response) -> Result<Says, &'static str> {
    let mut says = Says::default();
    for field in slice_of(response.headers, response.header_count) {
        if bytes(&field.name) == CONTENT_TYPE {
            headers.append(header::CONTENT_TYPE, value_of(field)?);
            continue;
        }
        let (name, value) = header_of(field)?;
        match name {
            header::CONTENT_LENGTH => {
                cold_path();
                says.length = noted::length(&value);
            }
            name if headers::is_hop_by_hop(&name) => {}
            name => {
                says.has_id |= name == REQUEST_ID;
                headers.append(name, value);
            }
        }
    }
    Ok(says)
}

fn header_of(field: &ext_field) -> Result<(HeaderName, HeaderValue), &'static str> {
    let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
    Ok((name, value_of(field)?))
}

fn value_of(field: &ext_field) -> Result<HeaderValue, &'static str> {
    match bytes(&field.value) {
        // What nearly every answer has is neither parsed nor copied.
        b"application/json; charset=utf-8" => Ok(reply::JSON),
        b"text/plain; charset=utf-8" => Ok(reply::TEXT),
        value => reply::value_of(value).ok_or(NOT_A_VALUE),
    }
}

/// As extensions write it, for the most part.
const CONTENT_TYPE: &[u8] = b"content-type";
const NOT_A_NAME: &str = "a header's name is not a token";
const NOT_A_VALUE: &str = "a header's value holds a control character";

/// Whether an extension has a say in a header: those of the connection, its target and the body's length are the host's.
fn is_settable(name: &HeaderName) -> bool {
    !headers::is_hop_by_hop(name) && *name != header::CONTENT_LENGTH && *name != header::HOST
}

unsafe extern "C" fn fail(request: ext_request, error: *const ext_error) -> ext_status {
    // SAFETY: the header makes it an error, lent for the call.
    let Some(error) = (unsafe { error.as_ref() }) else {
        return EXT_INVALID;
    };
    sized::<ext_error>("fail", error.struct_size);
    let Some(request) = of_request(request) else {
        return stale("fail");
    };
    if let Err(status) = request.claim(false) {
        return late(request, status);
    }
    let failure = Failure {
        status: u16::try_from(error.status)
            .ok()
            .and_then(|status| StatusCode::from_u16(status).ok())
            .filter(|status| status.is_client_error() || status.is_server_error())
            .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
        code: Some(lossy(&error.code)).filter(|code| !code.is_empty()),
        message: lossy(&error.message),
        cause: Some(lossy(&error.cause)).filter(|cause| !cause.is_empty()),
        is_panic: error.flags & EXT_ERROR_PANIC != 0,
    };
    if failure.is_panic {
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        breach::note(Rule::DoesNotPanic, || {
            format!("{}: {cause}", named(request))
        });
    }
    if !(400..600).contains(&error.status) {
        breach::note(Rule::ValidAnswers, || {
            format!(
                "{}: `fail` was given the status {}",
                named(request),
                error.status
            )
        });
    }
    request.worker().run(move |worker| {
        request.log_failure(&failure);
        request.answer(reply::fail(&failure, request.shared()));
        request.finish(worker);
    });
    EXT_OK
}

unsafe extern "C" fn write(
    request: ext_request,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given by the rules of the header, also where the call fails.
    let chunk = unsafe { completion::take(chunk) };
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    on_worker(request.worker(), completion, move |worker, completion| {
        request.write(worker, chunk, completion)
    })
}

unsafe extern "C" fn end(request: ext_request, status: ext_status) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    if request.worker().is_current() {
        return with_current(|worker| request.end(worker, status == EXT_OK))
            .map_or(EXT_GONE, |ended| {
                ended.map_or_else(|status| staged("end", status), |()| EXT_OK)
            });
    }
    request.worker().run(move |worker| {
        let _ = request
            .end(worker, status == EXT_OK)
            .map_err(|status| staged("end", status));
    });
    EXT_OK
}

unsafe extern "C" fn relay(
    request: ext_request,
    fetched: ext_fetched,
    edits: *const ext_response,
) -> ext_status {
    let answer = of_fetched(fetched);
    // Given in every case, so that it ends here in every case.
    let discard = move || {
        if let Some(answer) = answer {
            answer
                .worker()
                .run(move |worker| drop(answer.close(worker)));
        }
    };
    let Some(request) = of_request(request) else {
        discard();
        return stale("relay");
    };
    // SAFETY: NULL, or lent for the call.
    let edits = unsafe { edits.as_ref() }.map(Edits::read).transpose();
    let (answer, edits) = match (answer, edits) {
        (Some(answer), Ok(edits)) => (answer, edits),
        (None, _) => return reject(request, "the answer that was to be relayed is over"),
        (_, Err(rule)) => {
            discard();
            return reject(request, rule);
        }
    };
    if let Err(status) = request.claim(false) {
        discard();
        return late(request, status);
    }
    request.worker().run(move |worker| {
        // An answer that was fetched on another worker cannot move here: its connection belongs there.
        let response = match answer.close(worker) {
            Some((status, headers, Some(body))) => {
                let mut response = reply::relay(status, headers, body, request.flight());
                if let Some(edits) = edits {
                    edits.apply(&mut response);
                }
                response
            }
            _ => {
                discard();
                invalid(
                    request,
                    "only an answer that was fetched on the request's worker can be relayed",
                )
            }
        };
        request.answer(response);
        request.finish(worker);
    });
    EXT_OK
}

/// Changes to a relayed answer.
struct Edits {
    status: Option<StatusCode>,
    headers: Vec<(HeaderName, Option<HeaderValue>)>,
}

impl Edits {
    fn read(given: &ext_response) -> Result<Self, &'static str> {
        let status = if given.status == 0 {
            None
        } else {
            Some(status_of(given.status)?)
        };
        Ok(Self {
            status,
            headers: edited(slice_of(given.headers, given.header_count))?,
        })
    }

    fn apply(self, response: &mut Response<Body>) {
        if let Some(status) = self.status {
            *response.status_mut() = status;
        }
        apply(self.headers, response.headers_mut());
    }
}

/// Headers to set, or to remove where the value is absent.
fn edited(fields: &[ext_field]) -> Result<Vec<(HeaderName, Option<HeaderValue>)>, &'static str> {
    let mut edits = Vec::with_capacity(fields.len());
    for field in fields {
        if field.value.ptr.is_null() {
            let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
            edits.push((name, None));
        } else {
            let (name, value) = header_of(field)?;
            edits.push((name, Some(value)));
        }
    }
    edits.retain(|(name, _)| is_settable(name));
    Ok(edits)
}

/// Sets each name's lines in place of those that were there; several lines of one name stay several.
fn apply(edits: Vec<(HeaderName, Option<HeaderValue>)>, headers: &mut HeaderMap) {
    for (index, (name, _)) in edits.iter().enumerate() {
        if !edits[..index].iter().any(|(before, _)| before == name) {
            headers.remove(name);
        }
    }
    for (name, value) in edits {
        if let Some(value) = value {
            headers.append(name, value);
        }
    }
}

unsafe extern "C" fn give_up(request: ext_request) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    request.worker().run(move |worker| request.finish(worker));
    EXT_OK
}

unsafe extern "C" fn watch(request: ext_request, completion: ext_completion) -> ext_status {
    let Some(request) = of_request(request) else {
        return EXT_GONE;
    };
    on_worker(request.worker(), completion, move |worker, completion| {
        request.watch(worker, completion)
    })
}

// ---- Time and threads ----

unsafe extern "C" fn sleep(
    ctx: *mut ext_context,
    request: ext_request,
    ms: u64,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, request)) = worker_for(ctx, request) else {
        return EXT_GONE;
    };
    if !op.is_null() && !remote.is_current() {
        // SAFETY: not NULL, and the header makes it a place for a handle; a sleep begun elsewhere cannot be cancelled early.
        unsafe { op.write(ext_op::default()) };
    }
    let place = Place(op, remote.is_current());
    on_worker(&remote, completion, move |worker, completion| {
        let time = std::time::Duration::from_millis(ms);
        begin(worker, ctx, request, completion, place, |completion| {
            operation::start(worker, request, completion, None, None, |owed| {
                Box::pin(async move {
                    actix_rt::time::sleep(time).await;
                    owed.pay(Outcome::OK);
                })
            })
        })
    })
}

/// Where the caller wants the operation's handle, and whether the caller still waits for it.
struct Place(*mut ext_op, bool);
// SAFETY: the pointer is written only where `1` says that the job runs inside the caller's own call.
unsafe impl Send for Place {}

impl Place {
    fn put(&self, operation: operation::Handle) {
        if self.1 && !self.0.is_null() {
            // SAFETY: the caller is still inside its call, which lends the place (header).
            unsafe { self.0.write(operation.to_abi()) };
        }
    }
}

/// Starts an operation and ties it to the request, or to the extension's own life.
fn begin(
    worker: &Rc<Worker>,
    ctx: &'static Context,
    request: Option<request::Handle>,
    mut completion: Completion,
    place: Place,
    start: impl FnOnce(Completion) -> operation::Handle,
) -> Result<(), (Completion, ext_status)> {
    let Some(flight) = ctx.hold().filter(|_| !worker.is_ending()) else {
        return Err((completion, EXT_GONE));
    };
    completion.hold(flight);
    let operation = start(completion);
    place.put(operation);
    let is_bound = match request {
        Some(request) => request.bind(operation),
        None => ctx.bind(operation),
    };
    if !is_bound {
        operation.cancel();
    }
    Ok(())
}

unsafe extern "C" fn post(
    ctx: *mut ext_context,
    request: ext_request,
    completion: ext_completion,
) -> ext_status {
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, _)) = worker_for(ctx, request) else {
        return EXT_GONE;
    };
    let Some(flight) = ctx.hold() else {
        return EXT_GONE;
    };
    on_worker(&remote, completion, move |worker, mut completion| {
        completion.hold(flight);
        worker.complete(completion, Outcome::OK);
        Ok(())
    })
}

unsafe extern "C" fn cancel(op: ext_op) {
    // SAFETY: zero, or a handle of this host's (header).
    if let Some(operation) = unsafe { operation::Handle::from_numbers(op.slot, op.generation) } {
        operation.cancel();
    }
}

// ---- Outgoing calls ----

unsafe extern "C" fn fetch(
    ctx: *mut ext_context,
    fetch: *const ext_fetch,
    completion: ext_completion,
    op: *mut ext_op,
) -> ext_status {
    // SAFETY: the header makes it a fetch, lent for the call.
    let Some(fetch) = (unsafe { fetch.as_ref() }) else {
        return EXT_INVALID;
    };
    // SAFETY: given by the rules of the header, also where the call fails.
    let body = unsafe { completion::take(fetch.body) };
    sized::<ext_fetch>("fetch", fetch.struct_size);
    let Some(ctx) = context(ctx) else {
        return EXT_INVALID;
    };
    let Ok((remote, request)) = worker_for(ctx, fetch.request) else {
        return EXT_GONE;
    };
    let streams = fetch.flags & EXT_FETCH_STREAM_BODY != 0;
    let takes_body = fetch.flags & EXT_FETCH_TAKE_BODY != 0;
    if streams && (op.is_null() || takes_body || !remote.is_current())
        || takes_body && request.is_none()
    {
        ctx.log_misuse("fetch", "a streamed body needs a place for the operation, on a worker, and a body to take needs a request");
        return EXT_INVALID;
    }
    let call = match prepare(ctx, fetch, request) {
        Ok(call) => call,
        Err(status) => return status,
    };
    let (upload, parts) = if streams {
        cold_path();
        let (upload, parts) = tokio::sync::mpsc::unbounded_channel();
        (Some(upload), Some(parts))
    } else {
        (None, None)
    };
    if !op.is_null() && !remote.is_current() {
        // SAFETY: not NULL, and the header makes it a place for a handle.
        unsafe { op.write(ext_op::default()) };
    }
    let place = Place(op, remote.is_current());
    on_worker(&remote, completion, move |worker, completion| {
        let body = match (parts, request) {
            (Some(parts), _) => Outgoing::Upload(parts),
            (None, Some(request)) if takes_body => {
                let length = request.shared().body_length();
                request
                    .take_body()
                    .map_or(Outgoing::Empty, |body| Outgoing::Incoming(body, length))
            }
            _ => Outgoing::of(body),
        };
        let Some(flight) = ctx.hold() else {
            return Err((completion, EXT_GONE));
        };
        let caller = worker.clone();
        let patience = worker.upstream.patience(&call);
        begin(worker, ctx, request, completion, place, |completion| {
            operation::start(worker, request, completion, upload, patience, |owed| {
                Box::pin(async move {
                    owed.pay(match caller.upstream.call(call, body).await {
                        Ok(answer) => Outcome::fetched(fetched::keep(&caller, answer, flight)),
                        Err(failed) => Outcome::failed_because(failed.status, failed.message),
                    });
                })
            })
        })
    })
}

/// Turns a fetch into a call. The error is a status of the ABI, and has been logged.
fn prepare(
    ctx: &'static Context,
    fetch: &ext_fetch,
    request: Option<request::Handle>,
) -> Result<Call, ext_status> {
    let misuse = |rule: &str| {
        cold_path();
        ctx.log_misuse("fetch", rule);
        EXT_INVALID
    };
    let base = ctx
        .base(fetch.base)
        .ok_or_else(|| misuse("the base was not made by `base`"))?;
    let target = text(&fetch.target).ok_or_else(|| misuse("the target is not UTF-8"))?;
    let takes_headers = fetch.flags & EXT_FETCH_TAKE_HEADERS != 0;
    let taken = request.filter(|_| takes_headers);
    let parsed;
    let method = match (bytes(&fetch.method), taken) {
        (b"", Some(request)) => request.shared().method(),
        (b"", None) => &Method::GET,
        (method, _) => {
            parsed = Method::from_bytes(method).map_err(|_| misuse("the method is not a token"))?;
            &parsed
        }
    };
    let mut call = Call::new(base, method, target)
        .ok_or_else(|| misuse("the target must be a path or a query, and stay below the base"))?
        .limit(Limits {
            connect: duration(fetch.connect_ms),
            first_byte: duration(fetch.first_byte_ms),
            total: duration(fetch.total_ms),
        });
    if fetch.flags & EXT_FETCH_FOLLOW_REDIRECTS != 0 {
        cold_path();
        call = call.follow(method.clone(), target, Box::new(|base| ctx.allows(base)));
    }
    let decompress = fetch.flags & EXT_FETCH_DECOMPRESS != 0;
    let set = set_by(slice_of(fetch.headers, fetch.header_count)).map_err(misuse)?;
    if let Some(request) = taken {
        for (name, value) in headers::end_to_end(request.shared().headers()) {
            let is_set = set.iter().any(|(other, _)| other == name)
                || decompress && *name == header::ACCEPT_ENCODING;
            if !is_set {
                call.add(name, value.as_bytes());
            }
        }
    }
    for (name, value) in &set {
        if let Some(value) = value
            && !(decompress && *name == header::ACCEPT_ENCODING)
        {
            call.add(name, value);
        }
    }
    Ok(if decompress { call.decompress() } else { call })
}

/// Few set more than two or three.
type Set<'a> = SmallVec<[(HeaderName, Option<&'a [u8]>); 4]>;

/// The headers that a fetch sets, or keeps back where the value is absent. The error is the rule that they break.
fn set_by(fields: &[ext_field]) -> Result<Set<'_>, &'static str> {
    let mut set = SmallVec::with_capacity(fields.len());
    for field in fields {
        let name = HeaderName::from_bytes(bytes(&field.name)).map_err(|_| NOT_A_NAME)?;
        let value = (!field.value.ptr.is_null()).then(|| bytes(&field.value));
        let is_bad = value
            .unwrap_or_default()
            .iter()
            .fold(false, |is_bad, byte| {
                is_bad | (*byte < b' ' && *byte != b'\t') | (*byte == 0x7f)
            });
        if is_bad {
            return Err(NOT_A_VALUE);
        }
        if is_settable(&name) {
            set.push((name, value));
        }
    }
    Ok(set)
}

fn duration(ms: u64) -> Option<std::time::Duration> {
    (ms > 0).then(|| std::time::Duration::from_millis(ms))
}

unsafe extern "C" fn fetch_write(
    op: ext_op,
    chunk: ext_buffer,
    completion: ext_completion,
) -> ext_status {
    // SAFETY: given by the rules of the header, also where the call fails.
    let chunk = unsafe { completion::take(chunk) };
    // SAFETY: zero, or a handle of this host's (header).
    let Some(operation) = (unsafe { operation::Handle::from_numbers(op.slot, op.generation) })
    else {
        return EXT_GONE;
    };
    on_worker(
        operation.worker(),
        completion,
        move |_, completion| match operation.upload() {
            None => Err((completion, EXT_GONE)),
            // Where the call is over the part is dropped, and its completion called as cancelled.
            Some(upload) => {
                let _ = upload.send(operation::UploadPart::Chunk(chunk, completion));
                Ok(())
            }
        },
    )
}

unsafe extern "C" fn fetch_end(op: ext_op, status: ext_status) -> ext_status {
    // SAFETY: zero, or a handle of this host's (header).
    let Some(operation) = (unsafe { operation::Handle::from_numbers(op.slot, op.generation) })
    else {
        return EXT_GONE;
    };
    operation.worker().run(move |_| {
        if let Some(upload) = operation.upload() {
            let _ = upload.send(operation::UploadPart::End(status == EXT_OK));
        }
    });
    EXT_OK
}

unsafe extern "C" fn fetched_head(fetched: ext_fetched, head: *mut ext_fetched_head) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    if head.is_null() {
        return EXT_INVALID;
    }
    let answer = answer.shared();
    let known = ext_fetched_head {
        struct_size: size_of::<ext_fetched_head>() as u32,
        status: answer.status().as_u16().into(),
        body_length: answer.body_length().map_or(-1, |length| length as i64),
    };
    // SAFETY: not NULL; `struct_size` says how much of it the caller knows, and no more is written.
    unsafe {
        let room = ((*head).struct_size as usize).min(size_of::<ext_fetched_head>());
        std::ptr::copy_nonoverlapping((&raw const known).cast::<u8>(), head.cast::<u8>(), room);
        if room >= size_of::<u32>() {
            (*head).struct_size = room as u32;
        }
    }
    EXT_OK
}

unsafe extern "C" fn fetched_header(
    fetched: ext_fetched,
    name: ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    look_up(answer.shared().headers(), &name, index, value)
}

unsafe extern "C" fn fetched_headers(
    fetched: ext_fetched,
    fields: *mut *const ext_field,
    count: *mut usize,
) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    hand_over(answer.shared().fields(), fields, count)
}

unsafe extern "C" fn fetched_read(fetched: ext_fetched, completion: ext_completion) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    on_worker(answer.worker(), completion, move |worker, completion| {
        answer.read(worker, completion)
    })
}

unsafe extern "C" fn fetched_drop(fetched: ext_fetched) -> ext_status {
    let Some(answer) = of_fetched(fetched) else {
        return EXT_GONE;
    };
    answer
        .worker()
        .run(move |worker| drop(answer.close(worker)));
    EXT_OK
}

// ---- What is given ----

fn context(ctx: *mut ext_context) -> Option<&'static Context> {
    // SAFETY: the header: the pointer that `create` was given; it is one to a `Context` that is never freed.
    unsafe { ctx.cast::<Context>().as_ref() }
}

fn of_request(request: ext_request) -> Option<request::Handle> {
    // SAFETY: zero, or a handle of this host's (header).
    unsafe { request::Handle::from_numbers(request.slot, request.generation) }
}

fn of_fetched(fetched: ext_fetched) -> Option<fetched::Handle> {
    // SAFETY: zero, or a handle of this host's (header).
    unsafe { fetched::Handle::from_numbers(fetched.slot, fetched.generation) }
}

fn bytes(slice: &ext_slice) -> &[u8] {
    if slice.len == 0 || slice.ptr.is_null() {
        return b"";
    }
    // SAFETY: lent by the caller for the call (header), and the reference lives no longer than the slice that was passed in.
    unsafe { std::slice::from_raw_parts(slice.ptr, slice.len) }
}

fn text(slice: &ext_slice) -> Option<&str> {
    std::str::from_utf8(bytes(slice)).ok()
}

fn lossy(slice: &ext_slice) -> String {
    String::from_utf8_lossy(bytes(slice)).into_owned()
}

fn slice_of<'a>(fields: *const ext_field, count: usize) -> &'a [ext_field] {
    if count == 0 || fields.is_null() {
        return &[];
    }
    // SAFETY: an array lent by the caller for the call (header); every caller of this uses it within that call.
    unsafe { std::slice::from_raw_parts(fields, count) }
}

fn look_up(
    headers: &HeaderMap,
    name: &ext_slice,
    index: usize,
    value: *mut ext_slice,
) -> ext_status {
    let (Some(name), false) = (text(name), value.is_null()) else {
        return EXT_INVALID;
    };
    match headers.get_all(name).nth(index) {
        Some(found) => {
            // SAFETY: not NULL, and the header makes it a place for a slice.
            unsafe { value.write(lend::bytes(found.as_bytes())) };
            EXT_OK
        }
        None => EXT_ABSENT,
    }
}

fn hand_over(all: &[ext_field], fields: *mut *const ext_field, count: *mut usize) -> ext_status {
    if fields.is_null() || count.is_null() {
        return EXT_INVALID;
    }
    // SAFETY: not NULL, and the header makes them places for a pointer and a number.
    unsafe {
        fields.write(all.as_ptr());
        count.write(all.len());
    }
    EXT_OK
}

/// The worker on which an operation runs: the request's; without one this thread's, or else any.
fn worker_for(
    ctx: &Context,
    request: ext_request,
) -> Result<(Cow<'static, Remote>, Option<request::Handle>), ()> {
    if request.slot != 0 {
        let request = of_request(request).ok_or(())?;
        return Ok((Cow::Borrowed(request.worker()), Some(request)));
    }
    let remote = with_current(|worker| worker.remote.clone()).or_else(|| ctx.any_worker());
    Ok((Cow::Owned(remote.ok_or(())?), None))
}

/// Registers a completion on a worker. Where that is another thread's, a failure comes through the completion.
fn on_worker(
    remote: &Remote,
    completion: ext_completion,
    act: impl FnOnce(&Rc<Worker>, Completion) -> Result<(), (Completion, ext_status)> + Send + 'static,
) -> ext_status {
    if completion.function.is_none() {
        breach::note(Rule::CompletionFunction, || {
            "its function is NULL".to_owned()
        });
        return EXT_INVALID;
    }
    let completion = Completion::new(completion);
    if !remote.is_current() {
        return on_worker_elsewhere(remote, completion, act);
    }
    match with_current(|worker| act(worker, completion)) {
        Some(Ok(())) => EXT_OK,
        Some(Err((completion, status))) => {
            cold_path();
            completion.forget();
            refused(status)
        }
        None => EXT_GONE,
    }
}

#[inline(never)]
fn on_worker_elsewhere(
    remote: &Remote,
    completion: Completion,
    act: impl FnOnce(&Rc<Worker>, Completion) -> Result<(), (Completion, ext_status)> + Send + 'static,
) -> ext_status {
    remote.run(move |worker| {
        if let Err((completion, status)) = act(worker, completion) {
            worker.complete(completion, Outcome::failed(refused(status)));
        }
    });
    EXT_OK
}

/// Passes on why an operation was not begun, and notes what should not have been asked for.
fn refused(status: ext_status) -> ext_status {
    if status == EXT_BUSY {
        breach::note(Rule::OneAtATime, || {
            "a read or write was begun while one was under way".to_owned()
        });
    }
    staged("write", status)
}
