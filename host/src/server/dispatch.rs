//! One request, from the connection to the extension and back. Read downwards, this file is the life of a request.

use std::future::Future;
use std::hint::cold_path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use actix_http::{ConnectionType, Method, Payload, Request, Response, Version};
use extension_api::abi::{EXT_ROUTE_BLOCKING, EXT_ROUTE_WHOLE_BODY, EXT_TOO_LARGE, ext_field};
use futures_core::future::LocalBoxFuture;

use super::access_log::AccessLine;
use super::admin::{self, Served};
use super::blocking::Turn;
use super::server_worker::ServerWorker;
use super::sign_in;
use super::target::{below, path_len};
use crate::boundary::request::{self, ClientSide, Opening, RequestInfo, below_mount};
use crate::config::values::Require;
use crate::extension::loaded::Extension;
use crate::extension::routes::{Found, Route, RouteData};
use crate::http::body::{self, Body};
use crate::http::client_connection::{ClientConnection, RequestInFlight};
use crate::http::facts::RequestFacts;
use crate::http::reply::{self, Refusal, refuse};
use crate::http::request_id::RequestId;
use crate::identity::answers::unauthorized;
use crate::identity::{self, Accountability, Identified, redact};
use crate::runtime::crash_page::CallMark;
use crate::runtime::ffi_out;
use crate::runtime::in_flight::Closed;
use crate::runtime::worker::current;

/// Serves one request.
pub fn serve(worker: &'static ServerWorker, mut request: Request) -> ResponseFuture {
    let has_body = !matches!(request.payload(), Payload::None);
    let connection = worker.connections.begin(request.peer_addr(), has_body);
    let headers = &request.head().headers;
    let in_flight = connection.begin();
    let ip = connection.peer().address().ip();
    let info = RequestInfo {
        id: worker.requests.next_id(),
        facts: RequestFacts::of(headers, request.uri().query(), has_body),
        ip: worker.host.authority.forwarded(headers, ip),
        connection,
    };
    if has_body && info.facts.content_length.is_none() {
        cold_path();
        // Whoever serves it may have limits of its own; until then, and where nobody reads it, this is.
        let bytes_max = worker.host.config.limits.body_bytes_max;
        info.connection.limit_body(bytes_max);
    }
    let mut response = ResponseFuture {
        state: State::OfHost(None),
        worker,
        id: info.id,
        in_flight: Some(in_flight),
        is_head: *request.method() == Method::HEAD,
        supports_chunked: request.version() >= Version::HTTP_11,
        access: AccessLine::begin(worker.host.config.log.access, &request, &info),
    };
    response.state = handle(worker, request, info, response.access.as_ref());
    response
}

/// Finds out who asks for what, and has it handled.
fn handle(
    worker: &'static ServerWorker,
    request: Request,
    info: RequestInfo,
    access: Option<&Rc<AccessLine>>,
) -> State {
    if info.facts.may_show_credential() {
        return identify_then_dispatch(worker, request, info, access);
    }
    dispatch_as(worker, request, info, None)
}

/// Has a request handled that may show a credential.
#[inline(never)]
fn identify_then_dispatch(
    worker: &'static ServerWorker,
    request: Request,
    info: RequestInfo,
    access: Option<&Rc<AccessLine>>,
) -> State {
    let peer = info.connection.peer().address().ip();
    let identified = worker.host.authority.identify(
        &request.head().headers,
        &info.facts,
        request.uri().query(),
        Some(info.ip.unwrap_or(peer)),
        SystemTime::now,
        Some(&worker.upstream),
    );
    match identified {
        Identified::Now(Ok(who)) => dispatch_identified(worker, request, info, who, access),
        Identified::Now(Err(error)) => State::of_host(unauthorized(&error)),
        Identified::Pending(answer) => {
            dispatch_when_identified(worker, request, info, answer, access.cloned())
        }
    }
}

/// Has a request handled when it is known who its caller is.
#[cold]
fn dispatch_when_identified(
    worker: &'static ServerWorker,
    request: Request,
    info: RequestInfo,
    answer: identity::IdentityLookup,
    access: Option<Rc<AccessLine>>,
) -> State {
    State::Pending(Box::pin(async move {
        match answer.await {
            Ok(who) => dispatch_identified(worker, request, info, who, access.as_ref()),
            Err(error) => State::of_host(unauthorized(&error)),
        }
    }))
}

/// Has a request handled whose caller has been identified, and notes who that is.
fn dispatch_identified(
    worker: &'static ServerWorker,
    request: Request,
    info: RequestInfo,
    who: Arc<Accountability>,
    access: Option<&Rc<AccessLine>>,
) -> State {
    if let Some(access) = access {
        access.identified(&who);
    }
    dispatch_as(worker, request, info, Some(who))
}

/// Has a request handled whose caller is known.
fn dispatch_as(
    worker: &'static ServerWorker,
    mut request: Request,
    info: RequestInfo,
    who: Option<Arc<Accountability>>,
) -> State {
    let target = below_mount(request.uri(), 0);
    let path = &target[..path_len(request.uri(), target)];
    let (mount_id, url) = below(target, path, info.facts.may_hold_token);
    let registry = worker.host.catalog.registry.load();
    let Some(mount) = registry.find(mount_id) else {
        cold_path();
        drop(registry);
        return serve_host_route(worker, request, info.connection, who);
    };
    if !matches!(mount.require, Require::Nothing) && !is_allowed(&mount.require, who.as_deref()) {
        cold_path();
        return State::of_host(refuse(&Refusal::Forbidden));
    }
    let (route, values) = match mount
        .endpoint()
        .routes
        .find(request.method(), url.path(request.uri()))
    {
        Found::Route(route, values) => (route, values),
        other => return no_route(&request, path, other),
    };
    let extension = &mount.extension;
    let declared = info.facts.content_length;
    if declared.is_some_and(|length| length > extension.body_bytes_max) {
        cold_path();
        return State::of_host(refuse(&Refusal::ContentTooLarge));
    }
    let call_mark = CallMark {
        request: info.id.to_bytes(),
        route: route.mark,
    };
    let in_flight = &extension.context.in_flight;
    let flight = match in_flight.enter(extension.concurrency_max, call_mark) {
        Ok(flight) => flight,
        Err(closed) => {
            cold_path();
            drop(registry);
            return match closed {
                Closed::Full => State::of_host(refuse(&Refusal::Busy)),
                // Replaced since the snapshot was taken. The new snapshot is there before the old generation is retired.
                Closed::Retired => dispatch_as(worker, request, info, who),
            };
        }
    };
    let mut slot = request::slot(worker.worker);
    if let Some(values) = values {
        note_params(slot.params(), route, &values);
    }
    if info.facts.headers.may_need_redaction() {
        let keep_basic = extension.context.basic_auth;
        redact::redact_headers(request.headers_mut(), &info.facts.headers, keep_basic);
    }
    let client = request::open(
        slot,
        Opening {
            request,
            flight,
            url,
            who,
            info,
            timeout: extension.timeout,
            body_bytes_max: extension.body_bytes_max,
        },
    );
    call(worker, client, extension, route, call_mark)
}

/// Serves what is no extension's: the host's own routes, whose names no extension can have.
#[inline(never)]
fn serve_host_route(
    worker: &'static ServerWorker,
    request: Request,
    connection: Rc<ClientConnection>,
    who: Option<Arc<Accountability>>,
) -> State {
    let who = who.unwrap_or_default();
    let path = request.uri().path();
    if sign_in::serves(path) {
        return State::Pending(Box::pin(async move {
            State::of_host(sign_in::serve(worker, request, &connection, who).await)
        }));
    }
    match admin::serve(&worker.host, request.method(), path, &who) {
        None => State::of_host(not_found(path)),
        Some(Served::Now(response)) => State::of_host(response),
        Some(Served::Pending(answer)) => {
            State::Pending(Box::pin(async { State::of_host(answer.await) }))
        }
    }
}

/// Answers a request that none of the endpoint's routes is for.
#[cold]
fn no_route(request: &Request, path: &str, found: Found<'_, '_>) -> State {
    State::of_host(match found {
        Found::OtherMethods(methods) => {
            let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            let allow = names.join(", ");
            if *request.method() == Method::OPTIONS {
                admin::options(&allow)
            } else {
                refuse(&Refusal::MethodNotAllowed { allow })
            }
        }
        _ => not_found(path),
    })
}

/// Notes a route's parameters, whose values point into the url and whose names into the route.
#[inline(never)]
fn note_params(params: &mut Vec<ext_field>, route: &Route, values: &matchit::Params<'_, '_>) {
    let field = |(name, (_, value)): (&String, (&str, &str))| ext_field {
        name: ffi_out::text(name),
        value: ffi_out::text(value),
    };
    params.extend(route.params.iter().zip(values.iter()).map(field));
    // The rest below a "*" may be empty, of which the router knows nothing.
    if params.len() < route.params.len() {
        params.push(ext_field {
            name: ffi_out::text("*"),
            value: ffi_out::text(""),
        });
    }
}

/// Calls the extension. An answer that it gives inside the call needs nothing else.
fn call(
    worker: &'static ServerWorker,
    client: ClientSide,
    extension: &Arc<Extension>,
    route: &Route,
    call_mark: CallMark,
) -> State {
    if route.flags & (EXT_ROUTE_BLOCKING | EXT_ROUTE_WHOLE_BODY) != 0 {
        cold_path();
        spawn_with_body(worker, client.handle(), extension, route, call_mark);
    } else {
        let in_flight = &extension.context.in_flight;
        let handle = client.handle().to_abi();
        let call = || extension.handle(route.data, handle);
        worker.worker.within(in_flight, call_mark, call);
    }
    let request = client.handle();
    match client.take() {
        Ok(response) => {
            note_stream(worker, &response, request);
            State::Ready(Some(response))
        }
        Err(client) => wait(client, extension.timeout),
    }
}

#[inline(never)]
fn wait(client: ClientSide, timeout: Option<Duration>) -> State {
    if let Some(timeout) = timeout {
        request::set_deadline(client.handle(), timeout);
    }
    State::Waiting(Some(client))
}

#[inline(never)]
fn spawn_with_body(
    worker: &'static ServerWorker,
    request: request::Handle,
    extension: &Arc<Extension>,
    route: &Route,
    call_mark: CallMark,
) {
    let extension = extension.clone();
    let route = (route.data, route.flags);
    actix_rt::spawn(call_with_body(worker, request, extension, route, call_mark));
}

/// Calls the extension when the whole body is there, on a thread that may block where the route says so.
async fn call_with_body(
    worker: &'static ServerWorker,
    request: request::Handle,
    extension: Arc<Extension>,
    (data, flags): (RouteData, u32),
    call_mark: CallMark,
) {
    let unseen = Unseen(request);
    let prepared = prepare(worker, request, &extension, flags).await;
    std::mem::forget(unseen);
    let called = match prepared {
        Ok(Some(turn)) => {
            let threads = &worker.host.blocking;
            let called = threads.call(turn, extension, (data, call_mark), request);
            // The pool has logged that the system gives no thread.
            called.map_err(|_| Refusal::Busy)
        }
        Ok(None) => {
            let in_flight = &extension.context.in_flight;
            let call = || extension.handle(data, request.to_abi());
            worker.worker.within(in_flight, call_mark, call);
            Ok(())
        }
        Err(refusal) => Err(refusal),
    };
    // Where the client has left, nobody reads it.
    if let Err(refusal) = called {
        request.answer_instead(&refusal);
        request.finish(worker.worker);
    }
}

/// Waits for the request's body, and for a thread where the route says that it blocks.
async fn prepare(
    worker: &'static ServerWorker,
    request: request::Handle,
    extension: &Extension,
    flags: u32,
) -> Result<Option<Turn>, Refusal> {
    let collected = request.collect_body().await;
    collected.map_err(|status| match status {
        EXT_TOO_LARGE => Refusal::ContentTooLarge,
        _ => Refusal::BadBody,
    })?;
    if flags & EXT_ROUTE_BLOCKING == 0 {
        return Ok(None);
    }
    let turn = worker.host.blocking.turn(extension).await;
    turn.map(Some).ok_or(Refusal::Busy)
}

/// A request that the extension has not seen. Dropped when the worker ends, it is finished in the extension's place.
struct Unseen(request::Handle);

impl Drop for Unseen {
    fn drop(&mut self) {
        if let Some(worker) = current() {
            self.0.answer_instead(&Refusal::BadBody);
            self.0.finish(worker);
        }
    }
}

/// Whether the operator lets this caller use the extension, whatever its code does.
#[inline(never)]
fn is_allowed(require: &Require, who: Option<&Accountability>) -> bool {
    let who = who.unwrap_or(&identity::ANONYMOUS);
    match require {
        Require::Nothing => true,
        Require::User => who.user.is_some(),
        Require::Admin => who.admin,
        Require::Roles(roles) => {
            who.admin
                || who
                    .role_names
                    .iter()
                    .chain(&who.roles)
                    .any(|role| roles.iter().any(|named| **named == **role))
        }
    }
}

#[cold]
fn not_found(path: &str) -> Response<Body> {
    refuse(&Refusal::NotFound {
        path: path.to_owned(),
    })
}

/// Tells the connection of an answer that is written bit by bit.
fn note_stream(worker: &ServerWorker, response: &Response<Body>, request: request::Handle) {
    if response.body().has_source() {
        cold_path();
        worker.connections.stream(request);
    }
}

/// The answer to a request, as a future of the connection's task.
pub struct ResponseFuture {
    state: State,
    worker: &'static ServerWorker,
    id: RequestId,
    /// Until the answer is given to actix whole: then `None`, or within its body.
    in_flight: Option<RequestInFlight>,
    is_head: bool,
    supports_chunked: bool,
    access: Option<Rc<AccessLine>>,
}

enum State {
    /// An extension's answer is there.
    Ready(Option<Response<Body>>),
    /// The host's own is, without the request's id.
    OfHost(Option<Response<Body>>),
    /// An extension is at work. Dropped, the client has left.
    Waiting(Option<ClientSide>),
    /// Who asks is being found out, or the host itself is at work.
    Pending(LocalBoxFuture<'static, State>),
}

impl State {
    #[cold]
    fn of_host(response: Response<Body>) -> Self {
        Self::OfHost(Some(response))
    }
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, actix_web::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let State::Pending(next) = &mut this.state {
            cold_path();
            this.state = std::task::ready!(next.as_mut().poll(cx));
        }
        let mut response = match &mut this.state {
            State::Ready(response) => match response.take() {
                Some(response) => response,
                None => return Poll::Pending,
            },
            State::Waiting(client) => {
                let request = client.as_ref().map(ClientSide::handle);
                let response = std::task::ready!(ClientSide::poll(client, cx));
                if let Some(request) = request {
                    note_stream(this.worker, &response, request);
                }
                response
            }
            State::OfHost(response) => match response.take() {
                Some(response) => reply::with_id(response, this.id),
                None => return Poll::Pending,
            },
            State::Pending(_) => return Poll::Pending,
        };
        // An answer is moved only where it has to be: it is large.
        if this.is_head || body::has_none(response.status()) {
            cold_path();
            response = body::without_body(response, this.is_head);
        }
        if !this.supports_chunked {
            cold_path();
            body::end_by_closing(&mut response);
        }
        if let Some(in_flight) = this.in_flight.take() {
            if in_flight.closes_after_answer() {
                cold_path();
                response
                    .head_mut()
                    .set_connection_type(ConnectionType::Close);
            }
            if response.body().has_source() {
                response = response.map_body(|_, mut body| {
                    body.keep(in_flight);
                    body
                });
            }
        }
        if let Some(access) = &this.access {
            access.write(&response, this.id);
        }
        Poll::Ready(Ok(response))
    }
}
