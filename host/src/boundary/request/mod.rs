//! A request while an extension works on it.
//!
//! Two sides hold a request. The *extension's side* begins with `handle` and ends when the extension finishes the request.
//! The *client's side* begins with the connection's call and ends when the answer is written, the client has left or the
//! time is out. Each may end first; when both have, the slot is free for the next request.

mod client_side;
mod head;
mod incoming;
mod life;
mod log;
mod opening;
mod outgoing;
mod pending;
mod reading;
mod sources;
mod state;
mod stream;
mod url;
mod waiting;

pub use self::client_side::ClientSide;
pub use self::incoming::Incoming;
pub use self::life::{set_deadline, watch_deadlines};
pub use self::opening::{FreeSlot, Opening, RequestInfo, open, slot};
pub use self::state::{Handle, Requests, Shared, requests};
pub use self::url::{Url, below_mount};
