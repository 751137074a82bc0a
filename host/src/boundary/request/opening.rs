//! UNSAFE: how a request gets into its slot.
#![expect(
    unsafe_code,
    reason = "any thread may read what only the worker may drop"
)]

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::{Payload, Request};
use extension_api::abi;

use super::client_side::ClientSide;
use super::incoming::incoming;
use super::sources::{HeadSources, Kept};
use super::state::{Client, Local, Shared, requests};
use super::url::Url;
use crate::http::client_connection::ClientConnection;
use crate::http::facts::RequestFacts;
use crate::http::request_id::RequestId;
use crate::identity::Accountability;
use crate::runtime::handle::Free;
use crate::runtime::in_flight::Flight;
use crate::runtime::worker::Worker;

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
    pub info: RequestInfo,
    /// How long the client waits for an answer; `None`: for ever.
    pub timeout: Option<Duration>,
    /// The most that the body may hold.
    pub body_bytes_max: u64,
}

/// What is known of a request before anything is done about it.
pub struct RequestInfo {
    /// Its id.
    pub id: RequestId,
    /// What stands in its headers.
    pub facts: RequestFacts,
    /// The connection that it came on.
    pub connection: Rc<ClientConnection>,
    /// Where it comes from, where a trusted proxy names another than the peer.
    pub ip: Option<IpAddr>,
}

/// A slot for a request, to be opened.
pub struct FreeSlot(Free<Shared, Local>);

impl FreeSlot {
    /// The route's parameters, of which there are none yet. Their values may point into the request's url, their names into
    /// the generation.
    pub fn params(&mut self) -> &mut Vec<abi::ext_field> {
        &mut self.0.parts().0.params.0
    }
}

/// A slot for a request.
pub fn slot(worker: &Worker) -> FreeSlot {
    let empty = || (Shared::empty(), Local::default());
    FreeSlot(requests().pool.take(worker, empty))
}

/// Puts a request into its slot. From here on the client's side is the returned [`ClientSide`]; the extension's side is open
/// until [`Handle::finish`](super::Handle::finish).
#[inline]
pub fn open(mut slot: FreeSlot, opening: Opening) -> ClientSide {
    let Opening {
        mut request,
        flight,
        url,
        who,
        info,
        timeout,
        body_bytes_max,
    } = opening;
    let (shared, mut local) = slot.0.parts();
    let payload = request.take_payload();
    shared.body_length = Some(0);
    if !matches!(payload, Payload::None) {
        let (body, length) = incoming(
            &request,
            &info.facts,
            payload,
            body_bytes_max,
            &info.connection,
        );
        local.payload = body;
        shared.body_length = length;
    }
    shared.id = info.id;
    shared.url = url;
    shared.who = who;
    shared.ip = info.ip;
    shared.timeout = timeout;
    shared.build = Some(flight.build());
    local.flight = Some(flight);
    local.client = Client::Waiting(None);
    let local_parts = &mut *local;
    let request = local_parts.request.insert(request);
    let connection = local_parts.connection.insert(info.connection);
    // SAFETY: both stand behind pointers of their own in `Local`, which nobody takes out of there before `recycle`, that takes
    // these out first.
    shared.sources = unsafe {
        HeadSources {
            request: Kept::of(request.head()),
            peer: Kept::of(connection.peer()),
        }
    };
    drop(local);
    ClientSide::of(slot.0.hand_out())
}
