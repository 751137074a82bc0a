//! A request while an extension works on it: what the extension may read of it, who still has a say in it, and how it ends.
//!
//! Two sides hold a request. The *extension's side* begins with `handle` and ends when the extension finishes the request.
//! The *client's side* begins with the connection's call and ends when the answer is written, the client has left or the
//! time is out. Each may end first; when both have, the place is free for the next request.

use std::cell::{Cell, RefCell};
use std::hint::cold_path;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_http::header::HeaderMap;
use actix_http::{Method, Payload, Request, RequestHead, Response, Uri};
use bytes::Bytes;
use extension_api::abi;
use futures_core::Stream;
use smallvec::SmallVec;

use crate::accountability::client::IpText;
use crate::accountability::{self, Accountability};
use crate::breach::{self, Rule};
use crate::callbacks::completion::{Completion, Outcome};
use crate::callbacks::lend;
use crate::connection::{Connection, InHand, Peer};
use crate::extension::Flight;
use crate::handle::{Free, Held, Pool};
use crate::log::{self, Level};
use crate::noted::{Noted, Said};
use crate::operation::{self, Work};
use crate::reply::{self, Body, Refusal};
use crate::worker::Worker;

/// A request as callbacks name it.
pub type Handle = Held<Shared, Local>;

/// What every thread may read, unchanged until the extension has finished the request.
pub struct Shared {
    /// What the extension sees, made when it first asks; its slices point into the rest of this entry and into `sources`.
    head: OnceLock<Head>,
    /// All headers as fields, made when first asked for.
    fields: OnceLock<Vec<abi::ext_field>>,
    sources: Sources,
    /// Which side has decided how the request is answered: one of `UNDECIDED`, `ANSWERED`, `STREAMING`, `OVER`.
    decision: AtomicU8,
    /// `None`: whoever shows no credential.
    who: Option<Arc<Accountability>>,
    params: Vec<abi::ext_field>,
    url: Url,
    /// The caller's address, where it is not the peer's.
    ip: Option<IpAddr>,
    id: RequestId,
    timeout: Option<Duration>,
    body: Bytes,
    body_length: Option<u64>,
}

/// What is read of a request: parts of [`Local`], which stay where they are, unchanged, until the entry is closed.
struct Sources {
    request: Kept<RequestHead>,
    peer: Kept<Peer>,
    said: Kept<Said>,
}

/// What the entry keeps elsewhere, for any thread to read.
struct Kept<T>(*const T);

impl<T> Kept<T> {
    const NOTHING: Self = Self(std::ptr::null());

    #[expect(
        unsafe_code,
        reason = "any thread may read what only the worker may drop"
    )]
    fn get(&self) -> &T {
        debug_assert!(!self.0.is_null(), "the entry is open");
        // SAFETY: set in `open` to a part of `Local`, which lives, unchanged, until the entry is closed: when the extension has
        // finished the request. Who calls this has looked, on the worker, whether the entry is open; or it is the extension,
        // which must not call with a request that it finishes meanwhile (header).
        unsafe { &*self.0 }
    }
}

/// A head as the ABI has it, and what it shows that stands nowhere else.
struct Head {
    raw: abi::ext_request_head,
    _roles: Vec<abi::ext_slice>,
    _ip: Option<Box<IpText>>,
}

const UNDECIDED: u8 = 0;
/// The extension has given its answer, or given up.
const ANSWERED: u8 = 1;
/// The extension has given the head and is writing the body.
const STREAMING: u8 = 2;
/// The client has left, or the host has answered in the extension's place.
const OVER: u8 = 3;

// SAFETY: the raw pointers point at memory that this entry owns (`Local`, and its own strings), and that nobody changes while a
// handle is out; what they point at is Send and Sync itself, see below.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Sync for Shared {}

/// What any thread may read must be made for that.
const fn is_sync<T: Sync>() {}
const _: () = is_sync::<RequestHead>();
const _: () = is_sync::<Peer>();
const _: () = is_sync::<Said>();

/// What only the request's worker touches.
#[derive(Default)]
pub struct Local {
    /// Keeps the extension's generation alive, and counted as in flight. `None` when the extension's side has ended.
    flight: Option<Flight>,
    request: Option<Request>,
    /// Hold texts that the head shows.
    connection: Option<Rc<Connection>>,
    said: Option<Rc<Said>>,
    payload: Option<Incoming>,
    reading: Option<Reading>,
    client: Client,
    /// The connection is polling what is under way, and will see what comes of it.
    is_being_polled: bool,
    stream: Outgoing,
    watch: Option<Completion>,
    operations: Operations,
    /// The work of those that the connection polls.
    work: Vec<(operation::Handle, Work)>,
}

/// What is called with the next chunk of a body, and the task that waits for it where the connection does not.
type Reading = (Completion, Option<tokio::task::AbortHandle>);

impl Local {
    /// Whether there is nothing that ends with the extension's side: as for most answers that are given inside the call.
    fn has_nothing_open(&self) -> bool {
        self.payload.is_none()
            && self.reading.is_none()
            && self.operations.is_empty()
            && self.watch.is_none()
    }

    /// What has to be cancelled. Most requests leave nothing.
    fn take_under_way(&mut self) -> Option<UnderWay> {
        self.operations.retain(|operation| operation.is_open());
        let has_any = self.reading.is_some() || !self.operations.is_empty();
        has_any.then(|| UnderWay {
            reading: self.reading.take(),
            operations: std::mem::take(&mut self.operations),
        })
    }

    /// Whether the connection polls what is under way: while its client waits for the answer, or for the next chunk of it. If
    /// so, has it polled.
    fn wake_connection(&self) -> bool {
        let waker = match &self.client {
            Client::Waiting(waker) => waker,
            // It is about to take the answer, and then decides.
            Client::Answered(_) => return true,
            Client::Writing if self.is_being_polled => return true,
            Client::Writing if self.stream.waker.is_some() => &self.stream.waker,
            Client::Ended | Client::Writing => return false,
        };
        if let Some(waker) = waker.as_ref().filter(|_| !self.is_being_polled) {
            waker.wake_by_ref();
        }
        true
    }
}

/// What is under way for a request; few have more than one or two at a time.
type Operations = SmallVec<[operation::Handle; 2]>;

/// Where the client's side stands.
#[derive(Default)]
enum Client {
    /// It has ended.
    #[default]
    Ended,
    /// It waits for an answer.
    Waiting(Option<Waker>),
    /// The answer is there, not yet taken.
    Answered(Response<Body>),
    /// The answer has been taken; its body may still be under way.
    Writing,
}

/// A streamed answer on its way from the extension to the connection: while one chunk waits for the connection, the extension
/// may get the next one ready; with two waiting, it waits.
#[derive(Default)]
struct Outgoing {
    chunk: Option<Bytes>,
    next: Option<Bytes>,
    /// Called when there is room for another chunk.
    written: Option<Completion>,
    /// `Some` once the extension has ended the stream: whole, or to be broken off.
    ended: Option<bool>,
    /// There while the connection waits for what comes next.
    waker: Option<Waker>,
}

impl Outgoing {
    fn wake_connection(&self) {
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

/// The request's body on its way in, counted against the limit.
pub struct Incoming {
    payload: Payload,
    left: u64,
    /// What is still to come of a body that the connection does not end by itself.
    ends_after: Option<u64>,
    failed: Option<i32>,
}

impl Incoming {
    /// A body of which at most `bytes_max` are taken.
    pub fn new(payload: Payload, bytes_max: u64) -> Self {
        Self {
            payload,
            left: bytes_max,
            ends_after: None,
            failed: None,
        }
    }

    /// The body is over after so many bytes, whatever follows.
    fn ending_after(mut self, length: Option<u64>) -> Self {
        self.ends_after = length;
        self
    }

    /// The next chunk; the failure is a status of the ABI, and stays.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, i32>>> {
        loop {
            if let Some(failed) = self.failed {
                return Poll::Ready(Some(Err(failed)));
            }
            if self.ends_after == Some(0) {
                return Poll::Ready(None);
            }
            match std::task::ready!(Pin::new(&mut self.payload).poll_next(cx)) {
                None if self.ends_after.is_some() => self.failed = Some(abi::EXT_BROKEN),
                None => return Poll::Ready(None),
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(mut chunk)) => {
                    match self.cut(&mut chunk).left.checked_sub(chunk.len() as u64) {
                        Some(left) => {
                            self.left = left;
                            return Poll::Ready(Some(Ok(chunk)));
                        }
                        None => self.failed = Some(abi::EXT_TOO_LARGE),
                    }
                }
                Some(Err(_)) => self.failed = Some(abi::EXT_BROKEN),
            }
        }
    }

    /// Cuts off what is not of the body any more.
    fn cut(&mut self, chunk: &mut Bytes) -> &mut Self {
        if let Some(to_come) = &mut self.ends_after {
            chunk.truncate(usize::try_from(*to_come).unwrap_or(usize::MAX));
            *to_come -= chunk.len() as u64;
        }
        self
    }

    /// Whether more arrived than is allowed.
    pub fn is_too_large(&self) -> bool {
        self.failed == Some(abi::EXT_TOO_LARGE)
    }
}

/// What dispatch found out about a request before the extension is called.
pub struct Opening {
    /// The request as the connection gave it, credentials already taken out of its headers.
    pub request: Request,
    /// The generation that handles it, counted in flight.
    pub flight: Flight,
    /// What the extension is asked for.
    pub url: Url,
    /// Who asks; `None`: whoever shows no credential.
    pub who: Option<Arc<Accountability>>,
    /// What is known of it.
    pub asked: Asked,
    /// How long the client waits for an answer; `None`: for ever.
    pub timeout: Option<Duration>,
    /// The most that the body may hold.
    pub body_bytes_max: u64,
}

/// What is known of a request before anything is done about it.
pub struct Asked {
    /// Its id.
    pub id: RequestId,
    /// What stands in its headers.
    pub noted: Noted,
    /// The connection that it came on.
    pub connection: Rc<Connection>,
    /// Where it comes from, where a trusted proxy names another than the peer.
    pub ip: Option<IpAddr>,
}

/// A place for a request, to be opened.
pub struct Place(Free<Shared, Local>);

impl Place {
    /// The route's parameters, of which there are none yet. Their values may point into the request's url, their names into
    /// the generation.
    pub fn params(&mut self) -> &mut Vec<abi::ext_field> {
        &mut self.0.parts().0.params
    }
}

/// Path and query below the mount.
pub struct Url {
    /// Path and query with the mount, where they differ from what was sent.
    pub whole: Option<String>,
    /// How much of them stands before what the extension sees.
    pub mount_len: usize,
    /// How much of what the extension sees is path; behind it the query begins.
    pub path_len: usize,
}

impl Url {
    /// The text; what was sent as `uri`, where nothing else is said.
    #[inline]
    pub fn text<'a>(&'a self, uri: &'a Uri) -> &'a str {
        match &self.whole {
            Some(whole) => &whole[self.mount_len..],
            None => below_mount(uri, self.mount_len),
        }
    }

    /// The part of [`text`](Self::text) before the first '?'.
    #[inline]
    pub fn path<'a>(&'a self, uri: &'a Uri) -> &'a str {
        &self.text(uri)[..self.path_len]
    }
}

/// A request's id: 16 hexadecimal digits.
#[derive(Clone, Copy)]
pub struct RequestId([u8; 16]);

impl Default for RequestId {
    fn default() -> Self {
        Self([b'0'; 16])
    }
}

impl RequestId {
    /// The digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The digits, for a header.
    pub fn header_value(&self) -> actix_http::header::HeaderValue {
        reply::value_of(&self.0).expect("digits may stand in a header")
    }
}

impl std::fmt::Display for RequestId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A worker's requests.
#[derive(Default)]
pub struct Requests {
    pool: Pool<Shared, Local>,
    ids: Ids,
}

/// Request ids: a random beginning for each worker, then a count.
struct Ids {
    next: Cell<RequestId>,
}

impl Default for Ids {
    fn default() -> Self {
        use std::hash::{BuildHasher, Hasher};
        let beginning = std::hash::RandomState::new().build_hasher().finish() as u32;
        let mut first = RequestId::default();
        first.0[..8].copy_from_slice(format!("{beginning:08x}").as_bytes());
        let next = Cell::new(first);
        Self { next }
    }
}

impl RequestId {
    /// The one that is one more, in the last eight digits.
    fn following(mut self) -> Self {
        for digit in self.0[8..].iter_mut().rev() {
            *digit = match *digit {
                b'9' => b'a',
                b'f' => b'0',
                digit => digit + 1,
            };
            if *digit != b'0' {
                break;
            }
        }
        self
    }
}

impl Requests {
    /// The most requests that extensions worked on at once, on this worker.
    pub fn most_at_once(&self) -> usize {
        self.pool.made()
    }

    /// The next request id.
    pub fn next_id(&self) -> RequestId {
        let id = self.ids.next.get();
        self.ids.next.set(id.following());
        id
    }
}

/// A place for a request.
pub fn place(worker: &Worker) -> Place {
    let empty = || (Shared::empty(), Local::default());
    Place(worker.requests.pool.take(&worker.remote, empty))
}

/// Puts a request in its place. From here on the client's side is the returned [`ClientSide`]; the extension's side is open
/// until [`Handle::finish`].
#[inline]
pub fn open(mut place: Place, opening: Opening) -> ClientSide {
    let Opening {
        mut request,
        flight,
        url,
        who,
        asked,
        timeout,
        body_bytes_max,
    } = opening;
    let (shared, mut local) = place.0.parts();
    let payload = request.take_payload();
    shared.body_length = Some(0);
    if !matches!(payload, Payload::None) {
        let (body, length) = incoming(&request, &asked.noted, payload, body_bytes_max);
        local.payload = body;
        shared.body_length = length;
    }
    *shared.decision.get_mut() = UNDECIDED;
    // `close` has emptied them. A thread that asked while the request before was being finished may have filled them since.
    if shared.head.get_mut().is_some() || shared.fields.get_mut().is_some() {
        cold_path();
        shared.head = OnceLock::new();
        shared.fields = OnceLock::new();
    }
    shared.id = asked.id;
    shared.url = url;
    shared.who = who;
    shared.ip = asked.ip;
    shared.timeout = timeout;
    local.flight = Some(flight);
    local.client = Client::Waiting(None);
    shared.sources = Sources {
        request: Kept(local.request.insert(request).head()),
        peer: Kept(local.connection.insert(asked.connection).peer()),
        said: Kept(Rc::as_ptr(local.said.insert(asked.noted.said))),
    };
    drop(local);
    ClientSide(place.0.hand_out())
}

/// The body of a request that may have one, and its length.
#[inline(never)]
fn incoming(
    request: &Request,
    noted: &Noted,
    payload: Payload,
    bytes_max: u64,
) -> (Option<Incoming>, Option<u64>) {
    let length = noted.content_length;
    // Of a request that asks for a WebSocket, which no extension can have, actix gives everything until the connection
    // ends. Asking does not change what its body is.
    let ends_after = (noted.has_upgrade && asks_for_websocket(&request.head().headers))
        .then(|| length.unwrap_or(0));
    if ends_after == Some(0) {
        return (None, Some(0));
    }
    let body = Incoming::new(payload, bytes_max).ending_after(ends_after);
    (Some(body), length)
}

impl Shared {
    fn empty() -> Self {
        Self {
            head: OnceLock::new(),
            fields: OnceLock::new(),
            sources: Sources {
                request: Kept::NOTHING,
                peer: Kept::NOTHING,
                said: Kept::NOTHING,
            },
            decision: AtomicU8::new(UNDECIDED),
            who: None,
            params: Vec::new(),
            url: Url {
                whole: None,
                mount_len: 0,
                path_len: 0,
            },
            ip: None,
            id: RequestId::default(),
            timeout: None,
            body: Bytes::new(),
            body_length: None,
        }
    }

    /// Decides how the request is answered, where that is undecided. The error is what was decided before.
    fn decide(&self, decision: u8) -> Result<(), u8> {
        // A look costs nothing; most who ask come when all is decided.
        match self.decision.load(Ordering::Acquire) {
            UNDECIDED => {}
            decided => return Err(decided),
        }
        self.decision
            .compare_exchange(UNDECIDED, decision, Ordering::AcqRel, Ordering::Acquire)
            .map(|_| ())
    }

    #[inline(never)]
    fn make_head(&self) -> Head {
        let request = self.request();
        let who = self.accountability();
        let roles: Vec<_> = who.roles.iter().map(|role| lend::text(role)).collect();
        let url = self.url.text(&request.uri);
        let (path, query) = url.split_at(self.url.path_len);
        let (peer, said) = (self.sources.peer.get(), self.sources.said.get());
        let ip = self.ip.map(|ip| Box::new(IpText::new(ip)));
        let raw = abi::ext_request_head {
            struct_size: size_of::<abi::ext_request_head>() as u32,
            http_version: match request.version {
                actix_http::Version::HTTP_10 => 10,
                _ => 11,
            },
            method: lend::text(request.method.as_str()),
            url: lend::text(url),
            path: lend::text(path),
            query: lend::option(query.strip_prefix('?')),
            params: self.params.as_ptr(),
            param_count: self.params.len(),
            peer: lend::bytes(peer.text()),
            id: lend::text(self.id()),
            deadline_ms: self.timeout.map_or(0, |timeout| timeout.as_millis() as u64),
            body_length: self.body_length.map_or(-1, |length| length as i64),
            body: match &*self.body {
                [] => lend::EMPTY_BUFFER,
                body => abi::ext_buffer {
                    ptr: body.as_ptr(),
                    len: body.len(),
                    ..lend::EMPTY_BUFFER
                },
            },
            accountability: abi::ext_accountability {
                user: lend::option(who.user.as_deref()),
                role: lend::option(who.role.as_deref()),
                roles: roles.as_ptr(),
                role_count: roles.len(),
                ip: lend::bytes(ip.as_deref().unwrap_or(peer.ip_text()).as_bytes()),
                user_agent: lend::option_bytes(said.user_agent()),
                origin: lend::option_bytes(said.origin()),
                session: lend::option(who.session.as_deref()),
                admin: who.admin.into(),
                app: who.app.into(),
                reserved: [0; 6],
            },
        };
        Head {
            raw,
            _roles: roles,
            _ip: ip,
        }
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.request().headers
    }

    /// All headers as fields of the ABI.
    pub fn fields(&self) -> &[abi::ext_field] {
        self.fields.get_or_init(|| lend::fields(self.headers()))
    }

    /// Who asks.
    pub fn accountability(&self) -> &Accountability {
        self.who.as_deref().unwrap_or(&accountability::ANONYMOUS)
    }

    /// The request's id.
    pub fn id(&self) -> &str {
        self.id.as_str()
    }

    /// The same, to be written.
    pub fn request_id(&self) -> RequestId {
        self.id
    }

    /// The declared length of the body; `None`: unknown.
    pub fn body_length(&self) -> Option<u64> {
        self.body_length
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.request().method
    }

    fn request(&self) -> &RequestHead {
        self.sources.request.get()
    }
}

/// Path and query behind the first `mount_len` bytes of a request's target: "/twilio/a?b" below 7 is "/a?b".
#[inline]
pub fn below_mount(uri: &Uri, mount_len: usize) -> &str {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    &target[mount_len..]
}

/// Whether actix takes what follows a head for a WebSocket's: its own rule.
fn asks_for_websocket(headers: &HeaderMap) -> bool {
    use actix_http::header::{TRANSFER_ENCODING, UPGRADE};
    let is_websocket = |value: &actix_http::header::HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.eq_ignore_ascii_case(b"websocket")
    };
    headers.contains_key(UPGRADE)
        && headers.get_all(UPGRADE).any(is_websocket)
        && !headers.contains_key(TRANSFER_ENCODING)
}

/// The client's claim on a request: a future of the answer. Dropped early, the client has left.
pub struct ClientSide(Handle);

impl ClientSide {
    /// The request.
    pub fn handle(&self) -> Handle {
        self.0
    }

    /// The answer, if it is there.
    pub fn take(self) -> Result<Response<Body>, Self> {
        let handle = self.0;
        let mut local = handle.own().borrow_mut();
        // Looked at before it is moved: most polls of an answer come before it.
        if !matches!(local.client, Client::Answered(_)) {
            drop(local);
            return Err(self);
        }
        let client = std::mem::replace(&mut local.client, Client::Writing);
        let has_more = local.reading.is_some() || !local.work.is_empty();
        drop(local);
        let Client::Answered(response) = client else {
            unreachable!("it has just been looked at");
        };
        if handle.shared().decision.load(Ordering::Acquire) == STREAMING {
            return Ok(self.stream(response));
        }
        if has_more {
            cold_path();
            handle.leave_to_tasks();
        }
        Ok(response)
    }

    /// The answer whose head is `response`, with a body that is written bit by bit.
    #[inline(never)]
    fn stream(self, response: Response<Body>) -> Response<Body> {
        if let Some(connection) = &self.0.own().borrow().connection {
            connection.streams(self.0);
        }
        response.map_body(|_, size| {
            Body::Stream(Streaming {
                in_hand: None,
                client: self,
                size: size.declared(),
                sent: 0,
                is_broken: false,
                has_paused: false,
            })
        })
    }

    /// As [`take`](Self::take), which takes the client's side out.
    fn take_out(side: &mut Option<Self>) -> Poll<Response<Body>> {
        match side.take().map(Self::take) {
            Some(Ok(response)) => Poll::Ready(response),
            Some(Err(client)) => {
                *side = Some(client);
                Poll::Pending
            }
            None => Poll::Pending,
        }
    }

    /// The answer, or has the task that polls with `cx` woken when it is there. Polls what the extension has under way for it.
    pub fn poll(side: &mut Option<Self>, cx: &mut Context<'_>) -> Poll<Response<Body>> {
        let Some(handle) = side.as_ref().map(Self::handle) else {
            return Poll::Pending;
        };
        let own = handle.own();
        loop {
            {
                let mut local = own.borrow_mut();
                let Client::Waiting(waker) = &mut local.client else {
                    drop(local);
                    return Self::take_out(side);
                };
                let is_same = |waker: &Waker| waker.will_wake(cx.waker());
                if !waker.as_ref().is_some_and(is_same) {
                    *waker = Some(cx.waker().clone());
                }
                // Whatever answers while this polls need not wake it.
                local.is_being_polled = true;
            }
            let goes_on = handle.go_on(own, cx);
            own.borrow_mut().is_being_polled = false;
            if !goes_on {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for ClientSide {
    fn drop(&mut self) {
        // Dropped only by the connection, which lives and dies on the worker; `None` while the thread itself ends.
        let _ = crate::worker::with_current(|worker| self.0.client_ended(worker));
    }
}

/// The body of a streamed answer.
pub struct Streaming {
    /// The connection counts as busy until the stream is over.
    pub in_hand: Option<InHand>,
    client: ClientSide,
    /// What was declared as Content-Length.
    pub size: Option<u64>,
    sent: u64,
    /// It ended before it was whole.
    is_broken: bool,
    /// What was sent before that has had its chance to go out.
    has_paused: bool,
}

impl Streaming {
    /// The next chunk; an error breaks the connection off.
    pub fn poll_chunk(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, std::io::Error>>> {
        let request = self.client.0;
        let own = request.own();
        // Whatever writes or reads while this polls need not wake it.
        let waker = {
            let mut local = own.borrow_mut();
            local.is_being_polled = true;
            local.stream.waker.take()
        };
        let polled = loop {
            if let Some(polled) = self.waiting() {
                break Poll::Ready(polled);
            }
            if self.is_broken {
                self.has_paused = true;
                cx.waker().wake_by_ref();
                break Poll::Pending;
            }
            if !request.go_on(own, cx) {
                break Poll::Pending;
            }
        };
        let mut local = own.borrow_mut();
        local.is_being_polled = false;
        if polled.is_pending() {
            let waker = waker.filter(|waker| waker.will_wake(cx.waker()));
            local.stream.waker = waker.or_else(|| Some(cx.waker().clone()));
        }
        polled
    }

    /// What is there of the stream; the inner `None` is its end.
    fn waiting(&mut self) -> Option<Option<Result<Bytes, std::io::Error>>> {
        let mut local = self.client.0.own().borrow_mut();
        if let Some(chunk) = local.stream.chunk.take() {
            local.stream.chunk = local.stream.next.take();
            if let Some(written) = local.stream.written.take() {
                crate::worker::with_current(|worker| worker.complete(written, Outcome::OK));
            }
            self.sent += chunk.len() as u64;
            if let Some(size) = self.size.filter(|size| self.sent > *size) {
                note_length(size, self.sent);
            }
            return Some(Some(Ok(chunk)));
        }
        let ended = local.stream.ended?;
        let other_size = self.size.filter(|size| ended && self.sent != *size);
        if let Some(size) = other_size.filter(|_| !self.has_paused) {
            note_length(size, self.sent);
        }
        let is_whole = ended && self.size.is_none_or(|size| self.sent >= size);
        match is_whole {
            true => Some(None),
            // actix drops what it has not yet written when a body fails: what came before goes out first.
            false if !self.has_paused => {
                self.is_broken = true;
                None
            }
            false => Some(Some(Err(std::io::Error::other(
                "the extension broke its answer off",
            )))),
        }
    }
}

/// Calls what is due on this worker; tells whether anything was.
fn call_ready() -> bool {
    // `None` only while the thread itself ends.
    crate::worker::with_current(|worker| worker.call_ready()).unwrap_or(false)
}

fn note_length(declared: u64, sent: u64) {
    breach::note(Rule::TrueLength, || {
        format!("{declared} bytes were declared and {sent} written")
    });
}

type Refused = (Completion, i32);

impl Handle {
    /// The worker's part, where the caller is that worker and the entry is known to be open.
    fn own(&self) -> &'static RefCell<Local> {
        self.local()
            .expect("the client's side is held on the worker, and keeps the entry open")
    }

    /// The handle as the ABI has it.
    pub fn to_abi(self) -> abi::ext_request {
        let (slot, generation) = self.numbers();
        abi::ext_request { slot, generation }
    }

    /// What the extension sees; `None`: it has finished the request.
    pub fn head(&self) -> Option<&'static abi::ext_request_head> {
        let shared = self.shared();
        if shared.head.get().is_none() {
            if !self.is_open() {
                return None;
            }
            let made = shared.make_head();
            // Of one that was finished meanwhile nothing must be left for the next.
            if !self.is_open() {
                return None;
            }
            // Another thread that was first has made the same.
            let _ = shared.head.set(made);
        }
        shared.head.get().map(|head| &head.raw)
    }

    /// Decides that the extension answers: at once whole, or as a stream. The error is a status of the ABI.
    pub fn claim(&self, streaming: bool) -> Result<(), i32> {
        let decision = if streaming { STREAMING } else { ANSWERED };
        match self.shared().decide(decision) {
            Ok(()) => Ok(()),
            Err(OVER) => Err(abi::EXT_GONE),
            Err(_) => Err(abi::EXT_ANSWERED),
        }
    }

    /// Gives the client its answer. The caller has [claimed](Self::claim) it, or answers in the extension's place.
    pub fn answer(&self, response: Response<Body>) {
        self.answer_as_it_is(reply::with_id(response, self.shared().id));
    }

    /// Gives the client its answer, which names the request, and ends the extension's side.
    pub fn conclude(&self, worker: &Rc<Worker>, response: Response<Body>) {
        let Some(local) = self.local() else { return };
        let mut own = local.borrow_mut();
        let is_alone = matches!(own.client, Client::Waiting(None)) && own.has_nothing_open();
        if !is_alone {
            cold_path();
            drop(own);
            self.answer_as_it_is(response);
            return self.finish(worker);
        }
        own.client = Client::Answered(response);
        let flight = own.flight.take();
        drop(own);
        drop(flight);
    }

    fn answer_as_it_is(&self, response: Response<Body>) {
        let Some(local) = self.local() else { return };
        let waker = {
            let mut local = local.borrow_mut();
            let Client::Waiting(waker) = &mut local.client else {
                return;
            };
            let waker = waker.take();
            local.client = Client::Answered(response);
            waker.filter(|_| !local.is_being_polled)
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Answers in the extension's place, unless an answer is decided already; tells whether it did.
    pub fn overrule(&self, refusal: &Refusal) -> bool {
        let is_over = self.shared().decide(OVER).is_ok();
        if is_over {
            self.answer(reply::refuse(refusal));
        }
        is_over
    }

    /// Ends the extension's side. Without an answer the client gets a 500, or the 413 that the extension left to the host.
    pub fn finish(&self, worker: &Rc<Worker>) {
        let Some(local) = self.local() else { return };
        if self.shared().decision.load(Ordering::Acquire) == UNDECIDED {
            self.answer_in_its_place();
        }
        let is_streaming = self.shared().decision.load(Ordering::Acquire) == STREAMING;
        let (flight, under_way, watch) = {
            let mut local = local.borrow_mut();
            local.payload = None;
            if is_streaming && local.stream.ended.is_none() {
                // Given up in the middle: the client must not take it for whole, nor wait for the rest.
                local.stream.ended = Some(false);
                local.stream.wake_connection();
            }
            (
                local.flight.take(),
                local.take_under_way(),
                local.watch.take(),
            )
        };
        if let Some(under_way) = under_way {
            under_way.cancel(worker);
        }
        if let Some(watch) = watch {
            worker.complete(watch, Outcome::OK);
        }
        if flight.is_some() {
            self.close_if_over(worker);
        }
    }

    /// The client gets a 500, or the 413 that the extension left to the host.
    #[cold]
    fn answer_in_its_place(&self) {
        let Some(local) = self.local() else { return };
        let payload_of = |local: &Local| local.payload.as_ref().is_some_and(Incoming::is_too_large);
        if payload_of(&local.borrow()) {
            self.overrule(&Refusal::ContentTooLarge);
        } else if self.overrule(&Refusal::Unanswered) {
            breach::note(Rule::AnswersRequests, || {
                let local = local.borrow();
                let target = local.request.as_ref().map(|request| request.uri().path());
                let method = self.shared().method();
                format!("{method} {} was given up", target.unwrap_or_default())
            });
            self.log(
                Level::Error,
                "the extension gave a request up without an answer",
            );
        }
    }

    /// Ends the client's side: the answer is written, or the client has left.
    fn client_ended(&self, worker: &Rc<Worker>) {
        let Some(local) = self.local() else { return };
        let decided = self.shared().decide(OVER);
        {
            let mut local = local.borrow_mut();
            let is_done = decided == Err(ANSWERED)
                && local.flight.is_none()
                && local.watch.is_none()
                && matches!(local.client, Client::Writing);
            // Then nothing else is left, either: `finish` and `conclude` leave nothing, and nothing begins without a flight.
            if is_done {
                local.client = Client::Ended;
                drop(local);
                return self.close(worker);
            }
        }
        self.client_left(worker, local, decided);
    }

    /// Ends what has to be ended early.
    #[cold]
    fn client_left(&self, worker: &Rc<Worker>, local: &RefCell<Local>, decided: Result<(), u8>) {
        let was_open = decided.is_ok();
        let (client, under_way, stream, watch, owned) = {
            let mut local = local.borrow_mut();
            let owned = local.flight.is_some();
            if owned {
                self.shared().decision.store(OVER, Ordering::Release);
                local.payload = None;
            }
            (
                std::mem::take(&mut local.client),
                local.take_under_way(),
                (decided == Err(STREAMING)).then(|| std::mem::take(&mut local.stream)),
                local.watch.take(),
                owned,
            )
        };
        if was_open && owned {
            self.log(Level::Debug, "the client left before the answer");
        }
        drop(client);
        if let Some(written) = stream.and_then(|stream| stream.written) {
            worker.complete(written, Outcome::failed(abi::EXT_CANCELLED));
        }
        if let Some(watch) = watch {
            worker.complete(watch, Outcome::failed(abi::EXT_CANCELLED));
        }
        if let Some(under_way) = under_way {
            under_way.cancel(worker);
        }
        self.close_if_over(worker);
    }

    /// Frees the place when both sides have ended.
    fn close_if_over(&self, worker: &Rc<Worker>) {
        let over = self.local().is_some_and(|local| {
            let local = local.borrow();
            local.flight.is_none() && matches!(local.client, Client::Ended)
        });
        if over {
            self.close(worker);
        }
    }

    /// Frees the place.
    fn close(&self, worker: &Rc<Worker>) {
        // What is left in the place is used again, or says that it has ended.
        let rest = worker.requests.pool.close(*self, |shared, local| {
            shared.sources.request = Kept::NOTHING;
            shared.sources.peer = Kept::NOTHING;
            shared.sources.said = Kept::NOTHING;
            shared.url.whole = None;
            shared.params.clear();
            if shared.head.get().is_some() {
                shared.head.take();
            }
            if shared.fields.get().is_some() {
                shared.fields.take();
            }
            if !shared.body.is_empty() {
                shared.body = Bytes::new();
            }
            if local.stream.ended.is_some() {
                local.stream = Outgoing::default();
            }
            (
                shared.who.take(),
                local.request.take(),
                local.connection.take(),
                local.said.take(),
                local.payload.take(),
            )
        });
        drop(rest);
    }

    /// Reads the next chunk of the body and completes with it.
    pub fn read(&self, worker: &Rc<Worker>, mut completion: Completion) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut own = local.borrow_mut();
        if own.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        if own.reading.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        completion.hold(own.flight.clone());
        let has_left = matches!(own.client, Client::Ended);
        let polled = match &mut own.payload {
            _ if has_left => Poll::Ready(Outcome::failed(abi::EXT_CANCELLED)),
            None => Poll::Ready(Outcome::failed(abi::EXT_END)),
            Some(payload) => payload
                .poll_chunk(&mut Context::from_waker(Waker::noop()))
                .map(Outcome::of_chunk),
        };
        match polled {
            Poll::Ready(outcome) => worker.complete(completion, outcome),
            Poll::Pending => {
                own.reading = Some((completion, None));
                if !own.wake_connection() {
                    self.read_in_task(&mut own);
                }
            }
        }
        Ok(())
    }

    /// Lets a task of its own wait for what is being read.
    fn read_in_task(self, local: &mut Local) {
        let Some((_, task)) = &mut local.reading else {
            return;
        };
        let reading = actix_rt::spawn(async move {
            let (completion, outcome) = std::future::poll_fn(|cx| self.poll_read(cx)).await;
            completion.call(outcome);
        });
        *task = Some(reading.abort_handle());
    }

    /// What is being read, once it is there.
    fn poll_read(self, cx: &mut Context<'_>) -> Poll<(Completion, Outcome)> {
        let mut local = self.own().borrow_mut();
        if local.reading.is_none() {
            return Poll::Pending;
        }
        let outcome = match &mut local.payload {
            Some(payload) => std::task::ready!(payload.poll_chunk(cx).map(Outcome::of_chunk)),
            None => Outcome::failed(abi::EXT_CANCELLED),
        };
        match local.reading.take() {
            Some((completion, _)) => Poll::Ready((completion, outcome)),
            None => Poll::Pending,
        }
    }

    /// Takes the body, for a fetch that passes it on. `None`: there is none, or it is being read.
    pub fn take_body(&self) -> Option<Incoming> {
        let mut local = self.local()?.borrow_mut();
        if local.reading.is_some() {
            None
        } else {
            local.payload.take()
        }
    }

    /// Reads the whole body into the head. The error is a status of the ABI.
    pub async fn collect_body(&self) -> Result<(), i32> {
        let mut whole = bytes::BytesMut::new();
        let mut first = None;
        loop {
            let chunk = std::future::poll_fn(|cx| {
                let Some(local) = self.local() else {
                    return Poll::Ready(Some(Err(abi::EXT_CANCELLED)));
                };
                let mut local = local.borrow_mut();
                let has_left = matches!(local.client, Client::Ended);
                match &mut local.payload {
                    Some(payload) => payload.poll_chunk(cx),
                    None if has_left => Poll::Ready(Some(Err(abi::EXT_CANCELLED))),
                    None => Poll::Ready(None),
                }
            });
            match chunk.await {
                Some(chunk) if first.is_none() && whole.is_empty() => first = Some(chunk?),
                Some(chunk) => {
                    if let Some(first) = first.take() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&chunk?);
                }
                None => break,
            }
        }
        self.set_body(first.unwrap_or_else(|| whole.freeze()));
        Ok(())
    }

    /// Keeps the collected body for the head, before the extension has seen the request.
    #[expect(
        unsafe_code,
        reason = "the head is read without a lock once the extension has the handle"
    )]
    fn set_body(&self, body: Bytes) {
        // SAFETY: the extension is called only after this, so no other reader of the entry exists.
        unsafe { self.shared_mut(|shared| shared.body = body) };
    }

    /// Takes the next chunk of a streamed answer.
    pub fn write(
        &self,
        worker: &Rc<Worker>,
        chunk: Bytes,
        mut completion: Completion,
    ) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local = local.borrow_mut();
        let decision = self.shared().decision.load(Ordering::Acquire);
        if local.flight.is_none() {
            return Err((completion, abi::EXT_GONE));
        }
        completion.hold(local.flight.clone());
        if decision == OVER || chunk.is_empty() && decision == STREAMING {
            worker.complete(
                completion,
                Outcome::failed(if decision == OVER {
                    abi::EXT_CANCELLED
                } else {
                    abi::EXT_OK
                }),
            );
            return Ok(());
        }
        if decision != STREAMING {
            return Err((completion, abi::EXT_STAGE));
        }
        if local.stream.written.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        if local.stream.chunk.is_none() {
            local.stream.chunk = Some(chunk);
            worker.complete(completion, Outcome::OK);
        } else {
            local.stream.next = Some(chunk);
            local.stream.written = Some(completion);
        }
        local.stream.wake_connection();
        Ok(())
    }

    /// Ends a streamed answer, and with it the extension's side.
    pub fn end(&self, worker: &Rc<Worker>, whole: bool) -> Result<(), i32> {
        let Some(local) = self.local() else {
            return Err(abi::EXT_GONE);
        };
        let decision = self.shared().decision.load(Ordering::Acquire);
        if decision == UNDECIDED || decision == ANSWERED {
            return Err(abi::EXT_STAGE);
        }
        {
            let mut local = local.borrow_mut();
            local.stream.ended = Some(whole);
            local.stream.wake_connection();
        }
        self.finish(worker);
        if decision == OVER {
            Err(abi::EXT_GONE)
        } else {
            Ok(())
        }
    }

    /// Completes when the client's side has ended.
    pub fn watch(&self, worker: &Rc<Worker>, mut completion: Completion) -> Result<(), Refused> {
        let Some(local) = self.local() else {
            return Err((completion, abi::EXT_GONE));
        };
        let mut local = local.borrow_mut();
        if local.watch.is_some() {
            return Err((completion, abi::EXT_BUSY));
        }
        completion.hold(local.flight.clone());
        if matches!(local.client, Client::Ended) {
            worker.complete(completion, Outcome::failed(abi::EXT_CANCELLED));
        } else {
            local.watch = Some(completion);
        }
        Ok(())
    }

    /// Has the connection poll the work of an operation. Gives it back where no client waits for an answer: then it would be
    /// polled at the pace at which that one reads.
    pub fn poll_along(&self, operation: operation::Handle, work: Work) -> Result<(), Work> {
        let Some(local) = self.local() else {
            return Err(work);
        };
        let mut local = local.borrow_mut();
        if !local.wake_connection() {
            return Err(work);
        }
        local.work.push((operation, work));
        Ok(())
    }

    /// Leaves what is under way to tasks, since the client takes no more for now, or has its answer: then the connection has no
    /// reason to poll.
    pub fn leave_to_tasks(self) {
        let Some(local) = self.local() else { return };
        let work = {
            let mut local = local.borrow_mut();
            if matches!(local.reading, Some((_, None))) {
                self.read_in_task(&mut local);
            }
            if local.work.is_empty() {
                return;
            }
            std::mem::take(&mut local.work)
        };
        for (operation, work) in work {
            operation.go_on(work);
        }
    }

    /// Polls what is under way, and calls what is due; tells whether anything has come to its end.
    fn go_on(self, own: &'static RefCell<Local>, cx: &mut Context<'_>) -> bool {
        let (reads, works) = {
            let local = own.borrow();
            (
                matches!(local.reading, Some((_, None))),
                !local.work.is_empty(),
            )
        };
        let has_read = reads
            && match self.poll_read(cx) {
                Poll::Ready((completion, outcome)) => {
                    completion.call(outcome);
                    true
                }
                Poll::Pending => false,
            };
        let has_worked = works && Self::poll_work(own, cx);
        call_ready() || has_worked || has_read
    }

    fn poll_work(own: &'static RefCell<Local>, cx: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        let mut polled = 0;
        // Not lent while it is polled: what is completed may start more, which is polled as well, or cancel some.
        let mut work = std::mem::take(&mut own.borrow_mut().work);
        loop {
            while let Some((_, next)) = work.get_mut(polled) {
                if next.as_mut().poll(cx).is_ready() {
                    drop(work.swap_remove(polled));
                    has_ended = true;
                } else {
                    polled += 1;
                }
            }
            if has_ended {
                work.retain(|(operation, _)| operation.is_open());
            }
            let mut local = own.borrow_mut();
            if local.work.is_empty() {
                local.work = work;
                return has_ended;
            }
            polled = work.len();
            work.append(&mut local.work);
        }
    }

    /// Drops the work of an operation that has been given up.
    pub fn forget(&self, operation: operation::Handle) {
        let Some(local) = self.local() else { return };
        let work = {
            let work = &mut local.borrow_mut().work;
            let place = work.iter().position(|(other, _)| other.is(operation));
            place.map(|place| work.swap_remove(place))
        };
        drop(work);
    }

    /// Whether the client waits for an answer.
    pub fn is_awaited(&self) -> bool {
        self.local()
            .is_some_and(|local| matches!(local.borrow().client, Client::Waiting(_)))
    }

    /// Answers 504, because the extension has not answered in time.
    pub fn time_out(&self) {
        if self.overrule(&Refusal::Timeout) {
            self.log(Level::Warn, "the extension did not answer in time");
        }
    }

    /// Ties an operation to the request: it is cancelled when either side ends.
    pub fn bind(&self, operation: operation::Handle) -> bool {
        let Some(local) = self.local() else {
            return false;
        };
        let mut local = local.borrow_mut();
        if local.flight.is_none() || matches!(local.client, Client::Ended) {
            return false;
        }
        // A long stream sleeps often: those that are over make room.
        if local.operations.len() >= 16 {
            local.operations.retain(|operation| operation.is_open());
        }
        local.operations.push(operation);
        true
    }

    /// Another hold on the generation that handles the request, for what outlives the extension's side.
    pub fn flight(&self) -> Option<Flight> {
        self.local()?.borrow().flight.clone()
    }

    /// Writes what went wrong in the extension. What the caller brought on itself is for `debug`.
    pub fn log_failure(&self, failure: &reply::Failure) {
        let level = match failure.status.as_u16() {
            500 => Level::Error,
            501.. => Level::Warn,
            _ => Level::Debug,
        };
        let Some(local) = self.local() else { return };
        let local = local.borrow();
        let Some(flight) = &local.flight else { return };
        let sentence = if failure.is_panic {
            "the extension panicked"
        } else {
            "the extension failed"
        };
        let status = failure.status.as_u16();
        let cause = failure.cause.as_deref().unwrap_or(&failure.message);
        let fields: [log::Field<'_>; 4] = [
            ("extension", flight.name()),
            ("request", &self.shared().id()),
            ("status", &status),
            ("cause", &cause),
        ];
        log::event(level, sentence, &fields);
    }

    /// Writes a log line about the request, under its extension's name.
    pub fn log(&self, level: log::Level, sentence: &str) {
        let Some(local) = self.local() else { return };
        let name = match &local.borrow().flight {
            Some(flight) => Some(flight.name().clone()),
            // The extension has finished it; that it speaks of it all the same is seen from inside of it.
            None => crate::worker::inside(),
        };
        let id = self.shared().id();
        let name = name.as_deref().unwrap_or("unknown");
        log::event(level, sentence, &[("extension", &name), ("request", &id)]);
    }
}

/// What ends with either side.
struct UnderWay {
    reading: Option<Reading>,
    operations: Operations,
}

impl UnderWay {
    fn cancel(self, worker: &Rc<Worker>) {
        if let Some((completion, task)) = self.reading {
            if let Some(task) = task {
                task.abort();
            }
            worker.complete(completion, Outcome::failed(abi::EXT_CANCELLED));
        }
        for operation in self.operations {
            operation.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_count_in_their_last_eight_digits() {
        let following = |id: &str| {
            let id = RequestId(id.as_bytes().try_into().expect("16 digits"));
            id.following().as_str().to_owned()
        };
        assert_eq!(following("5eed5eed00000000"), "5eed5eed00000001");
        assert_eq!(following("5eed5eed00000009"), "5eed5eed0000000a");
        assert_eq!(following("5eed5eed00000eff"), "5eed5eed00000f00");
        assert_eq!(following("5eed5eedffffffff"), "5eed5eed00000000");
    }
}
