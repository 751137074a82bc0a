//! One request, from the connection to the extension and back. Read downwards, this file is the life of a request.

use std::borrow::Cow;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Instant, SystemTime};

use actix_http::header::HeaderName;
use actix_http::{ConnectionType, Method, Payload, Request, Response, Version};
use extension_api::abi::{EXT_ROUTE_BLOCKING, EXT_ROUTE_WHOLE_BODY, EXT_TOO_LARGE, ext_field};
use futures_core::future::LocalBoxFuture;

use crate::accountability::{self, Accountability, Identified, redact};
use crate::auth;
use crate::callbacks::lend;
use crate::config::values::Require;
use crate::connection::{Connection, InHand};
use crate::deadline::Late;
use crate::extension::Extension;
use crate::extension::context::Closed;
use crate::extension::routes::{Found, Mark};
use crate::log::{self, Level};
use crate::noted::Noted;
use crate::own::{self, Served};
use crate::registry::Mount;
use crate::reply::{self, Body, Refusal, refuse};
use crate::request::{self, ClientSide, Opening, Params, RequestId, Url, below_mount};
use crate::worker::{Worker, with_current};

/// Serves one request.
pub fn serve(worker: &Rc<Worker>, mut request: Request) -> Answer {
    let connection = worker.connections.current();
    let connection = connection.unwrap_or_else(|| Connection::of_peer(request.peer_addr()));
    let has_body = !matches!(request.payload(), Payload::None);
    let headers = &request.head().headers;
    let said = connection.said(headers);
    let in_hand = connection.begin(has_body);
    let asked = Asked {
        id: worker.requests.next_id(),
        noted: Noted::of(headers, request.uri().query(), has_body, said),
        ip: worker
            .host
            .authority
            .address(headers, connection.peer().ip()),
        connection,
    };
    let access = Access::begin(worker, &request);
    let is_head = *request.method() == Method::HEAD;
    let knows_chunks = request.version() >= Version::HTTP_11;
    let state = handle(worker, request, &asked);
    let state = state.unwrap_or_else(|response| State::Ready(Some(response)));
    Answer {
        state,
        id: asked.id,
        in_hand: Some(in_hand),
        is_head,
        knows_chunks,
        access,
    }
}

/// What is known of a request before anything is done about it.
#[derive(Clone)]
struct Asked {
    id: RequestId,
    noted: Noted,
    connection: Rc<Connection>,
    /// Where it comes from: the peer, or whom a trusted proxy names.
    ip: IpAddr,
}

/// Finds out who asks for what, and has it handled; the error is the answer where it comes to nothing.
fn handle(worker: &Rc<Worker>, request: Request, asked: &Asked) -> Result<State, Response<Body>> {
    let identified = worker.host.authority.identify(
        &request.head().headers,
        &asked.noted,
        request.uri().query(),
        Some(asked.ip),
        SystemTime::now,
        Some(&worker.upstream),
    );
    match identified {
        Identified::Now(Ok(who)) => handle_as(worker, request, asked, who),
        Identified::Now(Err(error)) => Err(reply::unauthorized(&error)),
        Identified::Later(answer) => Ok(handle_later(worker, request, asked, answer)),
    }
}

/// Has a request handled when it is known who its caller is.
#[cold]
fn handle_later(
    worker: &Rc<Worker>,
    request: Request,
    asked: &Asked,
    answer: accountability::Answer,
) -> State {
    let (worker, asked) = (worker.clone(), asked.clone());
    State::Later(Box::pin(async move {
        let handled = match answer.await {
            Ok(who) => handle_as(&worker, request, &asked, who),
            Err(error) => Err(reply::unauthorized(&error)),
        };
        handled.unwrap_or_else(|response| State::Ready(Some(response)))
    }))
}

/// Has a request handled whose caller is known.
fn handle_as(
    worker: &Rc<Worker>,
    mut request: Request,
    asked: &Asked,
    who: Arc<Accountability>,
) -> Result<State, Response<Body>> {
    let target = below_mount(request.uri(), 0);
    let path = &target[..path_len(request.uri(), target)];
    let (mount_id, url) = below(target, path, asked.noted.may_hold_token);
    let registry = worker.host.registry.load();
    let Some(mount) = registry.find(mount_id) else {
        drop(registry);
        return serve_own(worker, request, who);
    };
    if !is_let_in(&mount.require, &who) {
        return Err(refuse(&Refusal::Forbidden));
    }
    let route =
        find_route(mount, request.method(), url.path(&request)).map_err(|allow| match allow {
            Some(allow) if *request.method() == Method::OPTIONS => own::options(&allow),
            Some(allow) => refuse(&Refusal::MethodNotAllowed { allow }),
            None => not_found(path),
        })?;
    let extension = &mount.extension;
    let declared = asked.noted.content_length;
    if declared.is_some_and(|length| length > extension.body_bytes_max) {
        return Err(refuse(&Refusal::ContentTooLarge));
    }
    let flight = match extension.context.enter(extension.concurrency_max) {
        Ok(flight) => flight,
        Err(Closed::Full) => return Err(refuse(&Refusal::Busy)),
        // Replaced since the snapshot was taken. The new snapshot is there before the old generation is retired.
        Err(Closed::Retired) => {
            drop(registry);
            return handle_as(worker, request, asked, who);
        }
    };
    redact::redact_headers(
        request.headers_mut(),
        &asked.noted.said,
        extension.context.basic_auth,
    );
    let peer = asked.connection.peer().ip();
    let client = request::open(
        worker,
        Opening {
            request,
            id: asked.id,
            flight,
            url,
            params: route.params,
            accountability: who,
            ip: (asked.ip != peer).then_some(asked.ip),
            noted: &asked.noted,
            connection: asked.connection.clone(),
            timeout: extension.timeout,
            body_bytes_max: extension.body_bytes_max,
        },
    );
    Ok(call(worker, client, extension, route.mark, route.flags))
}

/// Serves what is no extension's: the host's own routes, whose names no extension can have.
#[inline(never)]
fn serve_own(
    worker: &Rc<Worker>,
    request: Request,
    who: Arc<Accountability>,
) -> Result<State, Response<Body>> {
    let path = request.uri().path();
    if auth::serves(path) {
        let worker = worker.clone();
        return Ok(State::Later(Box::pin(async move {
            State::Ready(Some(auth::serve(&worker, request, who).await))
        })));
    }
    match own::serve(&worker.host, request.method(), path, &who) {
        None => Err(not_found(path)),
        Some(Served::Now(response)) => Ok(State::Ready(Some(response))),
        Some(Served::Soon(answer)) => {
            let state = async { State::Ready(Some(answer.await)) };
            Ok(State::Later(Box::pin(state)))
        }
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
        spawn_with_body(worker, client.handle(), extension, mark, flags);
    } else {
        let entered = worker.enter(extension.context);
        extension.handle(mark, client.handle());
        drop(entered);
    }
    let mut client = Some(client);
    if let Some(response) = ClientSide::take(&mut client) {
        return State::Ready(Some(response));
    }
    if let (Some(timeout), Some(client)) = (extension.timeout, &client) {
        let late = Late::Answer(client.handle());
        worker.deadlines.set(timeout, late);
    }
    State::Waiting(client)
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
    let mut whole = if may_hold_token {
        redact::redact_url(target)
    } else {
        Cow::Borrowed(target)
    };
    let mut path_len = path.len() - mount_len;
    if path_len == 0 {
        whole.to_mut().insert(mount_len, '/');
        path_len = 1;
    }
    let whole = match whole {
        Cow::Borrowed(_) => None,
        Cow::Owned(whole) => Some(whole),
    };
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

/// Which of an endpoint's routes serves a request.
struct Matched {
    mark: Mark,
    flags: u32,
    /// Values point into the url, names into the route.
    params: Params,
}

/// The error is the `Allow` of a path that other methods are served on, or nothing.
fn find_route(mount: &Mount, method: &Method, path: &str) -> Result<Matched, Option<String>> {
    match mount.endpoint().routes.find(method, path) {
        Found::Route(route, params) => {
            let field = |(name, (_, value)): (&String, (&str, &str))| ext_field {
                name: lend::text(name),
                value: lend::text(value),
            };
            let mut params: Params = route.params.iter().zip(params.iter()).map(field).collect();
            // The rest below a "*" may be empty, of which the router knows nothing.
            if params.len() < route.params.len() {
                params.push(ext_field {
                    name: lend::text("*"),
                    value: lend::text(""),
                });
            }
            Ok(Matched {
                mark: route.mark,
                flags: route.flags,
                params,
            })
        }
        Found::OtherMethods(methods) => Err(Some(
            methods
                .iter()
                .map(|method| method.as_str())
                .collect::<Vec<_>>()
                .join(", "),
        )),
        Found::Nothing => Err(None),
    }
}

/// Whether the operator lets this caller use the extension, whatever its code does.
fn is_let_in(require: &Require, who: &Accountability) -> bool {
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
    access: Option<Access>,
}

enum State {
    /// The answer is there.
    Ready(Option<Response<Body>>),
    /// An extension is at work. Dropped, the client has left.
    Waiting(Option<ClientSide>),
    /// Who asks is being found out, or the host itself is at work.
    Later(LocalBoxFuture<'static, State>),
}

impl Future for Answer {
    type Output = Result<Response<Body>, actix_web::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let State::Later(next) = &mut this.state {
            match next.as_mut().poll(cx) {
                Poll::Ready(state) => this.state = state,
                Poll::Pending => return Poll::Pending,
            }
        }
        let mut response = match &mut this.state {
            State::Later(_) => return Poll::Pending,
            State::Ready(response) => match response.take() {
                Some(response) => response,
                None => return Poll::Pending,
            },
            State::Waiting(client) => std::task::ready!(ClientSide::poll(client, cx)),
        };
        // An answer is moved only where it has to be: it is large.
        if this.is_head || reply::has_none(response.status()) {
            response = reply::without_body(response, this.is_head);
        }
        if !this.knows_chunks {
            reply::end_by_closing(&mut response);
        }
        if let Some(in_hand) = this.in_hand.take() {
            if in_hand.is_last() {
                response
                    .head_mut()
                    .set_connection_type(ConnectionType::Close);
            }
            if reply::is_on_its_way(&response) {
                response = reply::keep(response, in_hand);
            }
        }
        // An upstream's own id is passed on as it is, like all of its headers.
        if !response.headers().contains_key(REQUEST_ID) {
            response
                .headers_mut()
                .append(REQUEST_ID, this.id.header_value());
        }
        if let Some(access) = &this.access {
            access.log(&response, this.id);
        }
        Poll::Ready(Ok(response))
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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
    fn begin(worker: &Worker, request: &Request) -> Option<Self> {
        if !worker.host.config.log.access || !log::enabled(Level::Info) {
            return None;
        }
        let path = request.uri().path().to_owned();
        Some(Self {
            began: Instant::now(),
            method: request.method().clone(),
            path,
            peer: request.peer_addr(),
        })
    }

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
