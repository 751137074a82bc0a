//! One request, from the connection to the extension and back. Read downwards, this file is the life of a request.

use std::borrow::Cow;
use std::future::Future;
use std::hint::cold_path;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use actix_http::{ConnectionType, Method, Payload, Request, Response, Version};
use extension_api::abi::{EXT_ROUTE_BLOCKING, EXT_ROUTE_WHOLE_BODY, EXT_TOO_LARGE, ext_field};
use futures_core::future::LocalBoxFuture;

use crate::boundary::request::{self, Asked, ClientSide, Opening, RequestId, Url, below_mount};
use crate::config::values::Require;
use crate::extension::Extension;
use crate::extension::context::Closed;
use crate::extension::routes::{Found, Mark, Route};
use crate::http::facts::Noted;
use crate::http::reply::{self, Body, Refusal, refuse};
use crate::identity::answers::unauthorized;
use crate::identity::{self, Accountability, Identified, redact};
use crate::platform::log::{self, Level};
use crate::runtime::deadline::Late;
use crate::runtime::ffi_out;
use crate::runtime::worker::{Worker, with_current};
use crate::server::admin::{self, Served};
use crate::server::connection::{Connection, InHand};
use crate::server::sign_in;

/// Serves one request.
pub fn serve(worker: &Rc<Worker>, mut request: Request) -> Answer {
    let connection = worker.connections.current();
    let connection = connection.unwrap_or_else(|| Connection::of_peer(request.peer_addr()));
    let has_body = !matches!(request.payload(), Payload::None);
    let headers = &request.head().headers;
    let said = connection.said(headers);
    let in_hand = connection.begin(has_body);
    let ip = connection.peer().address().ip();
    let asked = Asked {
        id: worker.requests.next_id(),
        noted: Noted::of(headers, request.uri().query(), has_body, said),
        ip: worker.host.authority.forwarded(headers, ip),
        connection,
    };
    let mut answer = Answer {
        state: State::Own(None),
        id: asked.id,
        in_hand: Some(in_hand),
        is_head: *request.method() == Method::HEAD,
        knows_chunks: request.version() >= Version::HTTP_11,
        access: Access::begin(worker, &request),
    };
    answer.state = handle(worker, request, asked);
    answer
}

/// Finds out who asks for what, and has it handled.
fn handle(worker: &Rc<Worker>, request: Request, asked: Asked) -> State {
    if asked.noted.may_show_credential() {
        return handle_shown(worker, request, asked);
    }
    handle_as(worker, request, asked, None)
}

/// Has a request handled that may show a credential.
#[inline(never)]
fn handle_shown(worker: &Rc<Worker>, request: Request, asked: Asked) -> State {
    let peer = asked.connection.peer().address().ip();
    let identified = worker.host.authority.identify(
        &request.head().headers,
        &asked.noted,
        request.uri().query(),
        Some(asked.ip.unwrap_or(peer)),
        SystemTime::now,
        Some(&worker.upstream),
    );
    match identified {
        Identified::Now(Ok(who)) => handle_as(worker, request, asked, Some(who)),
        Identified::Now(Err(error)) => State::own(unauthorized(&error)),
        Identified::Later(answer) => handle_later(worker, request, asked, answer),
    }
}

/// Has a request handled when it is known who its caller is.
#[cold]
fn handle_later(
    worker: &Rc<Worker>,
    request: Request,
    asked: Asked,
    answer: identity::IdentityLookup,
) -> State {
    let worker = worker.clone();
    State::Later(Box::pin(async move {
        match answer.await {
            Ok(who) => handle_as(&worker, request, asked, Some(who)),
            Err(error) => State::own(unauthorized(&error)),
        }
    }))
}

/// Has a request handled whose caller is known.
fn handle_as(
    worker: &Rc<Worker>,
    mut request: Request,
    asked: Asked,
    who: Option<Arc<Accountability>>,
) -> State {
    let target = below_mount(request.uri(), 0);
    let path = &target[..path_len(request.uri(), target)];
    let (mount_id, url) = below(target, path, asked.noted.may_hold_token);
    let registry = worker.host.registry.load();
    let Some(mount) = registry.find(mount_id) else {
        cold_path();
        drop(registry);
        return serve_own(worker, request, who);
    };
    if !matches!(mount.require, Require::Nothing) && !is_let_in(&mount.require, who.as_deref()) {
        cold_path();
        return State::own(refuse(&Refusal::Forbidden));
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
    let declared = asked.noted.content_length;
    if declared.is_some_and(|length| length > extension.body_bytes_max) {
        cold_path();
        return State::own(refuse(&Refusal::ContentTooLarge));
    }
    let flight = match extension.context.enter(extension.concurrency_max) {
        Ok(flight) => flight,
        Err(closed) => {
            cold_path();
            drop(registry);
            return match closed {
                Closed::Full => State::own(refuse(&Refusal::Busy)),
                // Replaced since the snapshot was taken. The new snapshot is there before the old generation is retired.
                Closed::Retired => handle_as(worker, request, asked, who),
            };
        }
    };
    let mut place = request::place(worker);
    if let Some(values) = values {
        note_params(place.params(), route, &values);
    }
    if asked.noted.said.may_need_redaction() {
        let keep_basic = extension.context.basic_auth;
        redact::redact_headers(request.headers_mut(), &asked.noted.said, keep_basic);
    }
    let client = request::open(
        place,
        Opening {
            request,
            flight,
            url,
            who,
            asked,
            timeout: extension.timeout,
            body_bytes_max: extension.body_bytes_max,
        },
    );
    call(worker, client, extension, route.mark, route.flags)
}

/// Serves what is no extension's: the host's own routes, whose names no extension can have.
#[inline(never)]
fn serve_own(worker: &Rc<Worker>, request: Request, who: Option<Arc<Accountability>>) -> State {
    let who = who.unwrap_or_default();
    let path = request.uri().path();
    if sign_in::serves(path) {
        let worker = worker.clone();
        return State::Later(Box::pin(async move {
            State::own(sign_in::serve(&worker, request, who).await)
        }));
    }
    match admin::serve(&worker.host, request.method(), path, &who) {
        None => State::own(not_found(path)),
        Some(Served::Now(response)) => State::own(response),
        Some(Served::Soon(answer)) => State::Later(Box::pin(async { State::own(answer.await) })),
    }
}

/// Answers a request that none of the endpoint's routes is for.
#[cold]
fn no_route(request: &Request, path: &str, found: Found<'_, '_>) -> State {
    State::own(match found {
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
    worker: &Rc<Worker>,
    client: ClientSide,
    extension: &Arc<Extension>,
    mark: Mark,
    flags: u32,
) -> State {
    if flags & (EXT_ROUTE_BLOCKING | EXT_ROUTE_WHOLE_BODY) != 0 {
        cold_path();
        spawn_with_body(worker, client.handle(), extension, mark, flags);
    } else {
        let entered = worker.enter(extension.context);
        extension.handle(mark, client.handle());
        drop(entered);
    }
    match client.take() {
        Ok(response) => State::Ready(Some(response)),
        Err(client) => wait(worker, client, extension.timeout),
    }
}

#[inline(never)]
fn wait(worker: &Rc<Worker>, client: ClientSide, timeout: Option<Duration>) -> State {
    if let Some(timeout) = timeout {
        worker.deadlines.set(timeout, Late::Answer(client.handle()));
    }
    State::Waiting(Some(client))
}

#[inline(never)]
fn spawn_with_body(
    worker: &Rc<Worker>,
    request: request::Handle,
    extension: &Arc<Extension>,
    mark: Mark,
    flags: u32,
) {
    let (worker, extension) = (worker.clone(), extension.clone());
    actix_rt::spawn(call_with_body(worker, request, extension, mark, flags));
}

/// Calls the extension when the whole body is there, on a thread that may block where the route says so.
async fn call_with_body(
    worker: Rc<Worker>,
    request: request::Handle,
    extension: Arc<Extension>,
    mark: Mark,
    flags: u32,
) {
    let unseen = Unseen(request);
    let collected = request.collect_body().await;
    std::mem::forget(unseen);
    match collected {
        Ok(()) if flags & EXT_ROUTE_BLOCKING != 0 => {
            // An error says that the host is stopping; the client's side then ends by itself.
            let _ = actix_rt::task::spawn_blocking(move || extension.handle(mark, request)).await;
        }
        Ok(()) => {
            let entered = worker.enter(extension.context);
            extension.handle(mark, request);
            drop(entered);
        }
        // The client has left, or gets the host's answer to a body like that.
        Err(status) => {
            let refusal = if status == EXT_TOO_LARGE {
                Refusal::ContentTooLarge
            } else {
                Refusal::BadBody
            };
            request.overrule(&refusal);
            request.finish(&worker);
        }
    }
}

/// A request that the extension has not seen. Dropped when the worker ends, it is finished in the extension's place.
struct Unseen(request::Handle);

impl Drop for Unseen {
    fn drop(&mut self) {
        // `None` only while the thread itself ends.
        let _ = with_current(|worker| {
            self.0.overrule(&Refusal::BadBody);
            self.0.finish(worker);
        });
    }
}

/// Path and query below the mount: "/twilio/2010/A.json?P=2" is for "twilio" and "/2010/A.json?P=2".
///
/// Without credentials, so that they cannot be passed on by accident. `/twilio` and `/twilio?x` get the slash that they lack.
/// `path` is what of `target` stands before the query, which `may_hold_token`.
fn below<'a>(target: &'a str, path: &'a str, may_hold_token: bool) -> (&'a str, Url) {
    let rest = path.strip_prefix('/').unwrap_or_default();
    let mount_end = rest.bytes().position(|byte| byte == b'/');
    let mount_end = mount_end.unwrap_or(rest.len());
    let mount_len = (mount_end + 1).min(path.len());
    let mut path_len = path.len() - mount_len;
    let mut whole = None;
    if may_hold_token || path_len == 0 {
        cold_path();
        let mut changed = redact::redact_url(target);
        if path_len == 0 {
            changed.to_mut().insert(mount_len, '/');
            path_len = 1;
        }
        if let Cow::Owned(changed) = changed {
            whole = Some(changed);
        }
    }
    let url = Url {
        whole,
        mount_len,
        path_len,
    };
    (&rest[..mount_end], url)
}

/// How much of a target stands before its query. The parser knows; nobody needs to look for the '?' again.
fn path_len(uri: &actix_http::Uri, target: &str) -> usize {
    target.len() - uri.query().map_or(0, |query| query.len() + 1)
}

/// Whether the operator lets this caller use the extension, whatever its code does.
#[inline(never)]
fn is_let_in(require: &Require, who: Option<&Accountability>) -> bool {
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

/// The answer to a request, as a future of the connection's task.
pub struct Answer {
    state: State,
    id: RequestId,
    /// Until the answer is given to actix whole: then `None`, or within its body.
    in_hand: Option<InHand>,
    is_head: bool,
    knows_chunks: bool,
    access: Option<Box<Access>>,
}

enum State {
    /// An extension's answer is there.
    Ready(Option<Response<Body>>),
    /// The host's own is, without the request's id.
    Own(Option<Response<Body>>),
    /// An extension is at work. Dropped, the client has left.
    Waiting(Option<ClientSide>),
    /// Who asks is being found out, or the host itself is at work.
    Later(LocalBoxFuture<'static, State>),
}

impl State {
    #[cold]
    fn own(response: Response<Body>) -> Self {
        Self::Own(Some(response))
    }
}

impl Future for Answer {
    type Output = Result<Response<Body>, actix_web::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let State::Later(next) = &mut this.state {
            cold_path();
            this.state = std::task::ready!(next.as_mut().poll(cx));
        }
        let mut response = match &mut this.state {
            State::Ready(response) => match response.take() {
                Some(response) => response,
                None => return Poll::Pending,
            },
            State::Waiting(client) => std::task::ready!(ClientSide::poll(client, cx)),
            State::Own(response) => match response.take() {
                Some(response) => reply::with_id(response, this.id),
                None => return Poll::Pending,
            },
            State::Later(_) => return Poll::Pending,
        };
        // An answer is moved only where it has to be: it is large.
        if this.is_head || reply::has_none(response.status()) {
            cold_path();
            response = reply::without_body(response, this.is_head);
        }
        if !this.knows_chunks {
            cold_path();
            reply::end_by_closing(&mut response);
        }
        if let Some(in_hand) = this.in_hand.take() {
            if in_hand.is_last() {
                cold_path();
                response
                    .head_mut()
                    .set_connection_type(ConnectionType::Close);
            }
            if reply::is_on_its_way(&response) {
                response = reply::keep(response, in_hand);
            }
        }
        if let Some(access) = &this.access {
            access.log(&response, this.id);
        }
        Poll::Ready(Ok(response))
    }
}

/// What the access log says of a request: one line when the answer is decided.
struct Access {
    began: Instant,
    method: Method,
    /// Without its query, which may hold what is nobody's business.
    path: String,
    peer: Option<SocketAddr>,
}

impl Access {
    /// `None` where no line would be written.
    #[inline]
    fn begin(worker: &Worker, request: &Request) -> Option<Box<Self>> {
        if !worker.host.config.log.access {
            return None;
        }
        Self::begin_where_enabled(request)
    }

    #[inline(never)]
    fn begin_where_enabled(request: &Request) -> Option<Box<Self>> {
        log::enabled(Level::Info).then(|| {
            Box::new(Self {
                began: Instant::now(),
                method: request.method().clone(),
                path: request.uri().path().to_owned(),
                peer: request.peer_addr(),
            })
        })
    }

    #[inline(never)]
    fn log(&self, response: &Response<Body>, id: RequestId) {
        let took_ms = self.began.elapsed().as_micros() as f64 / 1_000.0;
        let peer = self
            .peer
            .map(|peer| peer.ip().to_string())
            .unwrap_or_default();
        let status = response.status().as_u16();
        let fields: [log::Field<'_>; 6] = [
            ("method", &self.method),
            ("path", &self.path),
            ("status", &status),
            ("took_ms", &took_ms),
            ("ip", &peer),
            ("request", &id),
        ];
        log::event(Level::Info, "answered", &fields);
    }
}
