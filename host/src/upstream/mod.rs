//! Outgoing calls, on the worker's own thread: the only place that opens connections to elsewhere.

mod base;
pub mod body;
mod call;
mod call_error;
mod client;
pub mod connect;
mod decoding;
// These are public for the fuzz targets alone, which read answers from memory.
#[doc(hidden)]
pub mod exchange;
mod limit;
pub mod origin;
#[doc(hidden)]
pub mod pool;
mod redirect;
#[doc(hidden)]
pub mod request_head;
mod response_body;

pub use self::base::Base;
pub use self::body::OutgoingBody;
pub use self::call::{Call, Limits};
pub use self::call_error::CallError;
pub use self::client::{Upstream, UpstreamResponse, current, start};
pub use self::limit::Limit;
pub use self::response_body::ResponseBody;
