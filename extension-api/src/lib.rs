//! What an extension is, and the boundary between it and the host.

pub mod abi;
mod accountability;
mod bridge;
mod context;
mod endpoint;
mod error;
#[doc(hidden)]
pub mod export;
mod fetch;
mod form;
mod headers;
mod request;
mod response;
mod router;
#[cfg(feature = "testing")]
pub mod testing;

pub use accountability::Accountability;
pub use bridge::Bytes;
pub use bridge::task::block_on;
pub use context::{Context, Level};
pub use endpoint::Endpoint;
pub use error::{Error, Result};
pub use fetch::{Base, Fetch, FetchError, Fetched, Sending};
pub use form::Form;
pub use headers::{Header, Headers};
pub use request::Request;
pub use response::{BodyWriter, Response};
pub use router::Router;

/// What nearly every extension uses: `use extension_api::prelude::*;`
pub mod prelude {
    pub use crate::{
        Accountability, Base, BodyWriter, Bytes, Context, Endpoint, Error, Fetch, FetchError,
        Fetched, Form, Level, Request, Response, Result, Router, export_endpoint,
    };
}
