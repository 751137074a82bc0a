//! A request while an extension works on it: what the extension may read of it, who still has a say in it, and how it ends.
//!
//! Two sides hold a request. The *extension's side* begins with `handle` and ends when the extension finishes the request.
//! The *client's side* begins with the connection's call and ends when the answer is written, the client has left or the
//! time is out. Each may end first; when both have, the place is free for the next request.

mod body;
mod head;
mod pending;
mod stream;

use std::cell::RefCell;
use std::hint::cold_path;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_http::header::HeaderMap;
use actix_http::{Method, Payload, Request, RequestHead, Response};
use bytes::Bytes;
use extension_api::abi;

pub use self::body::Incoming;
use self::body::Reading;
use self::head::{Head, Kept, Sources};
pub use self::head::{Url, below_mount};
use self::pending::Operations;
use self::stream::Outgoing;
pub use self::stream::Streaming;
use crate::boundary::operation::{self, Work};
use crate::extension::Flight;
use crate::http::facts::{Noted, Said};
use crate::http::reply::{self, Body, Refusal};
use crate::http::request_id::Ids;
pub use crate::http::request_id::RequestId;
use crate::identity::{self, Accountability};
use crate::platform::log::{self, Level};
use crate::runtime::completion::{Completion, Outcome};
use crate::runtime::contract_checks::{self, Rule};
use crate::runtime::ffi_out;
use crate::runtime::handle::{Free, Held, Pool};
use crate::runtime::worker::Worker;
use crate::server::connection::Connection;

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

const UNDECIDED: u8 = 0;
/// The extension has given its answer, or given up.
const ANSWERED: u8 = 1;
/// The extension has given the head and is writing the body.
const STREAMING: u8 = 2;
/// The client has left, or the host has answered in the extension's place.
const OVER: u8 = 3;

// SAFETY: the raw pointers point at memory that this entry owns (`Local`, and its own strings), and that nobody changes while a
// handle is out; what they point at is Send and Sync itself, see `head`.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Send for Shared {}
// SAFETY: as above.
#[expect(unsafe_code, reason = "slices of the ABI are raw pointers")]
unsafe impl Sync for Shared {}

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

impl Local {
    /// Whether there is nothing that ends with the extension's side: as for most answers that are given inside the call.
    fn has_nothing_open(&self) -> bool {
        self.payload.is_none()
            && self.reading.is_none()
            && self.operations.is_empty()
            && self.watch.is_none()
    }
}

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

/// A worker's requests.
#[derive(Default)]
pub struct Requests {
    pool: Pool<Shared, Local>,
    ids: Ids,
}

impl Requests {
    /// The most requests that extensions worked on at once, on this worker.
    pub fn most_at_once(&self) -> usize {
        self.pool.made()
    }

    /// The next request id.
    pub fn next_id(&self) -> RequestId {
        self.ids.next()
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
        let (body, length) = body::incoming(&request, &asked.noted, payload, body_bytes_max);
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

impl Shared {
    fn empty() -> Self {
        Self {
            head: OnceLock::new(),
            fields: OnceLock::new(),
            sources: Sources::NOTHING,
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

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.request().headers
    }

    /// All headers as fields of the ABI.
    pub fn fields(&self) -> &[abi::ext_field] {
        self.fields.get_or_init(|| ffi_out::fields(self.headers()))
    }

    /// Who asks.
    pub fn accountability(&self) -> &Accountability {
        self.who.as_deref().unwrap_or(&identity::ANONYMOUS)
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
        let _ = crate::runtime::worker::with_current(|worker| self.0.client_ended(worker));
    }
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
            contract_checks::note(Rule::AnswersRequests, || {
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
            shared.sources = Sources::NOTHING;
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
            None => crate::runtime::worker::inside(),
        };
        let id = self.shared().id();
        let name = name.as_deref().unwrap_or("unknown");
        log::event(level, sentence, &[("extension", &name), ("request", &id)]);
    }
}
