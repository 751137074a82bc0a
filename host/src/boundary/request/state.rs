//! What the slot of a request holds, and whose say it is how the request is answered.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::task::Waker;
use std::time::Duration;

use actix_http::header::HeaderMap;
use actix_http::{Method, Request, RequestHead, Response};
use bytes::Bytes;
use extension_api::abi;
use smallvec::SmallVec;

use super::incoming::Incoming;
use super::outgoing::Outgoing;
use super::sources::{Head, HeadSources, Params};
use super::url::Url;
use crate::boundary::completion::Completion;
use crate::boundary::fields::Fields;
use crate::boundary::operation::{self, Work};
use crate::http::body::Body;
use crate::http::client_connection::ClientConnection;
use crate::http::peer::IpText;
use crate::http::request_id::{Ids, RequestId};
use crate::identity::{self, Accountability};
use crate::runtime::crash_page::CallMark;
use crate::runtime::deadline::Deadlines;
use crate::runtime::handle::{Recycle, SlotPool, SlotRef};
use crate::runtime::in_flight::{Flight, InFlight};
use crate::runtime::slot_state::{NotAdvanced, Stage};

thread_local! {
    static REQUESTS: Cell<Option<&'static Requests>> = const { Cell::new(None) };
}

/// A request as callbacks name it.
pub type Handle = SlotRef<Shared, Local>;

/// A completion that was not taken, and why: a status of the ABI.
pub(super) type Refused = (Completion, i32);

/// A worker's requests.
#[derive(Default)]
pub struct Requests {
    pub(super) pool: SlotPool<Shared, Local>,
    pub(super) deadlines: Deadlines<Handle>,
    ids: Ids,
}

/// Those of this thread. Never freed: handles outlive the thread's loop.
#[inline]
pub fn requests() -> &'static Requests {
    #[cold]
    fn make() -> &'static Requests {
        let requests: &Requests = Box::leak(Box::default());
        REQUESTS.set(Some(requests));
        requests
    }
    REQUESTS.get().unwrap_or_else(make)
}

impl Requests {
    /// The most requests that extensions worked on at once, on this worker.
    pub fn most_at_once(&self) -> usize {
        self.pool.made()
    }

    /// The next request id.
    #[inline]
    pub fn next_id(&self) -> RequestId {
        self.ids.next()
    }
}

/// How the request is answered is not decided.
pub(super) const UNDECIDED: Stage = 0;
/// The extension has given its answer, or given up.
pub(super) const ANSWERED: Stage = 1;
/// The extension has given the head and is writing the body.
pub(super) const STREAMING: Stage = 2;
/// The client has left, or the host has answered in the extension's place.
pub(super) const OVER: Stage = 3;

/// The extension has given the request up; the host is about to answer in its place.
pub(super) const GIVEN_UP: Stage = 4;

/// What every thread may read, unchanged until the extension has finished the request.
pub struct Shared {
    /// What the extension sees, made when it first asks; its slices point into the rest of this and into `sources`.
    pub(super) head: OnceLock<Head>,
    /// All headers as fields, made when first asked for.
    pub(super) fields: OnceLock<Fields>,
    pub(super) sources: HeadSources,
    /// The build that handles the request.
    pub(super) build: Option<&'static InFlight>,
    /// `None`: whoever shows no credential.
    pub(super) who: Option<Arc<Accountability>>,
    pub(super) params: Params,
    pub(super) url: Url,
    /// The caller's address, where it is not the peer's.
    pub(super) ip: Option<IpAddr>,
    pub(super) id: RequestId,
    pub(super) timeout: Option<Duration>,
    /// The whole body, where it was collected before the extension was called.
    pub(super) body: OnceLock<Bytes>,
    pub(super) body_length: Option<u64>,
}

/// What only the request's worker touches.
#[derive(Default)]
pub struct Local {
    /// Keeps the extension's generation alive, and counted as in flight. `None` when the extension's side has ended.
    pub(super) flight: Option<Flight>,
    /// Keeps the request counted while the last of a streamed answer is written, when the extension's side has ended.
    pub(super) writing: Option<Flight>,
    /// These hold what `Shared::sources` points at.
    pub(super) request: Option<Request>,
    pub(super) connection: Option<Rc<ClientConnection>>,
    pub(super) payload: Option<Incoming>,
    pub(super) reading: Option<BodyRead>,
    pub(super) client: Client,
    /// The connection is polling what is in flight, and will see what comes of it.
    pub(super) is_being_polled: bool,
    pub(super) stream: Outgoing,
    pub(super) watch: Option<Completion>,
    pub(super) operations: Operations,
    /// The work of those that the connection polls.
    pub(super) work: Vec<(operation::Handle, Work)>,
}

/// What is called with the next chunk of a body, and the task that waits for it where the connection does not.
pub(super) type BodyRead = (Completion, Option<tokio::task::AbortHandle>);

/// What is in flight for a request; few have more than one or two at a time.
pub(super) type Operations = SmallVec<[operation::Handle; 2]>;

/// Where the client's side stands.
#[derive(Default)]
pub(super) enum Client {
    /// It has ended.
    #[default]
    Ended,
    /// It waits for an answer.
    Waiting(Option<Waker>),
    /// The answer is there, not yet taken.
    Answered(Response<Body>),
    /// The answer has been taken; its body may still be on its way.
    Writing,
}

impl Local {
    /// Whether there is nothing that ends with the extension's side: as for most answers that are given inside the call.
    #[inline]
    pub(super) fn has_nothing_open(&self) -> bool {
        self.payload.is_none()
            && self.reading.is_none()
            && self.operations.is_empty()
            && self.watch.is_none()
    }
}

impl Recycle<Local> for Shared {
    fn recycle(&mut self, local: &mut Local) {
        self.sources = HeadSources::NOTHING;
        self.url.whole = None;
        self.params.0.clear();
        if self.head.get().is_some() {
            self.head.take();
        }
        if self.fields.get().is_some() {
            self.fields.take();
        }
        if self.body.get().is_some() {
            self.body.take();
        }
        if local.stream.ended.is_some() {
            local.stream = Outgoing::default();
        }
        self.who = None;
        local.payload = None;
        local.request = None;
        local.connection = None;
    }
}

impl Shared {
    /// That of a slot which has never been used.
    pub(super) fn empty() -> Self {
        Self {
            head: OnceLock::new(),
            fields: OnceLock::new(),
            sources: HeadSources::NOTHING,
            build: None,
            who: None,
            params: Params::default(),
            url: Url::default(),
            ip: None,
            id: RequestId::default(),
            timeout: None,
            body: OnceLock::new(),
            body_length: None,
        }
    }

    /// The request's headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.request().headers
    }

    /// All headers as fields of the ABI.
    pub fn fields(&self) -> &[abi::ext_field] {
        self.fields.get_or_init(|| Fields::of(self.headers())).all()
    }

    /// Who asks.
    pub fn accountability(&self) -> &Accountability {
        self.who.as_deref().unwrap_or(&identity::ANONYMOUS)
    }

    /// The address that the request comes from.
    pub fn client_ip(&self) -> IpText {
        let peer = self.sources.peer.get();
        self.ip.map_or(*peer.ip_text(), IpText::new)
    }

    /// The request's id.
    pub fn id(&self) -> RequestId {
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

    /// Method and path below the mount, for a report.
    pub fn line(&self) -> String {
        let request = self.request();
        format!("{} {}", request.method, self.url.path(&request.uri))
    }

    pub(super) fn request(&self) -> &RequestHead {
        self.sources.request.get()
    }
}

impl Handle {
    /// The worker's part, where the caller is that worker and the slot is known to be in use.
    pub(super) fn local_state(&self) -> &'static RefCell<Local> {
        self.local()
            .expect("the client's side is held on the worker, and keeps the slot in use")
    }

    /// The handle as the ABI has it.
    pub fn to_abi(self) -> abi::ext_request {
        let (slot, generation) = self.numbers();
        abi::ext_request { slot, generation }
    }

    /// The id; that of no request, where this one is over.
    pub fn id(&self) -> RequestId {
        self.read().map(|shared| shared.id).unwrap_or_default()
    }

    /// Decides that the extension answers: at once whole, or as a stream. The error is a status of the ABI.
    pub fn claim(&self, streaming: bool) -> Result<(), i32> {
        let stage = if streaming { STREAMING } else { ANSWERED };
        self.advance(UNDECIDED, stage)
            .map_err(|refused| match refused {
                NotAdvanced::Over | NotAdvanced::AtStage(OVER | GIVEN_UP) => abi::EXT_GONE,
                NotAdvanced::AtStage(_) => abi::EXT_ANSWERED,
            })
    }

    /// Whether the extension is writing its answer bit by bit.
    pub fn is_streaming(&self) -> bool {
        self.stage() == Some(STREAMING)
    }

    /// Whether the client waits for an answer.
    pub fn waits(&self) -> bool {
        self.local()
            .is_some_and(|local| matches!(local.borrow().client, Client::Waiting(_)))
    }

    /// Keeps the build that handles the request from being destroyed, from any thread; `None`: the request is over.
    pub fn hold(&self) -> Option<Flight> {
        self.read()?.build?.hold()
    }

    /// What a crash names the request by.
    pub fn call_mark(&self) -> Option<CallMark> {
        self.local()?.borrow().flight.as_ref().map(Flight::call)
    }

    /// What counts the request as in flight, for an answer whose body outlives the extension's side: until it has been written,
    /// it is in flight. Another hold on the build stays in its place.
    pub fn hand_flight_on(&self) -> Option<Flight> {
        let mut local = self.local()?.borrow_mut();
        let hold = local.flight.clone()?;
        local.flight.replace(hold)
    }
}
