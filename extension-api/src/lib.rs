//! Write an extension of extension-host in safe Rust.
//!
//! An extension is one shared library that serves HTTP requests below `/its-id`. A complete one, which passes the requests of
//! signed-in callers on to an API with a key that they never see:
//!
//! ```
//! #![forbid(unsafe_code)]
//! use extension_api::prelude::*;
//!
//! struct Weather {
//!     api: Base,
//!     key: String,
//! }
//!
//! impl Endpoint for Weather {
//!     const ID: &'static str = "weather";
//!
//!     fn new(ctx: Context) -> Result<Self> {
//!         Ok(Self { api: ctx.base("https://api.weather.example/v1")?, key: ctx.env("WEATHER_KEY")?.to_owned() })
//!     }
//!
//!     fn routes(router: &mut Router<Self>) {
//!         router.get("/*", Self::proxy);
//!     }
//! }
//!
//! impl Weather {
//!     async fn proxy(&self, req: Request) -> Result<Response> {
//!         if req.accountability().user().is_none() {
//!             return Err(Error::forbidden("You don't have permission to access this."));
//!         }
//!         let call = req.forward(&self.api).header("x-api-key", &self.key);
//!         Ok(Response::relay(call.send().await?))
//!     }
//! }
//!
//! export_endpoint!(Weather);
//! # fn main() {}
//! ```
//!
//! Its `Cargo.toml` says `crate-type = ["cdylib"]`; its `extension.toml` says what it may use of the host: which variables, and
//! which origins it may call. Its tests need no host: see [below](#testing).
//!
//! # How a handler runs
//!
//! A handler is a plain `async fn`. Its future stays in the extension: it is polled on the worker thread of its request, need
//! not be `Send`, and costs one allocation. It must not block; a handler that has to is declared by [`Router::blocking`].
//! When the client leaves, the future is dropped where it waits, and its pending operations are cancelled. A panic is a 500 in the
//! host's log; the next request is served.
//!
//! Futures of this crate work with every executor-independent combinator, and outside of handlers with [`block_on`].
//!
//! # Testing
//!
//! With the feature `testing`, `extension_api::testing` mounts an endpoint with given variables, callers and upstream answers.
//!
//! # The boundary
//!
//! `include/extension_api.h` is the contract between host and extension; [`abi`] mirrors it. All unsafe code of an extension is in
//! this crate: in `bridge`, `export` and `testing`.

// What an author writes,
mod endpoint;
mod handler;
mod router;

// is asked,
mod accountability;
mod headers;
mod request;

// answers,
mod body_writer;
mod error;
mod header_lines;
mod response;

// and uses.
mod context;
mod fetch;
mod fetch_error;
mod fetched;
mod form;
#[cfg(feature = "testing")]
pub mod testing;

// The boundary.
#[doc(hidden)]
pub mod export;

mod bridge;

pub mod abi;

pub use accountability::Accountability;
pub use body_writer::BodyWriter;
pub use bridge::{Bytes, block_on};
pub use context::{Context, Level};
pub use endpoint::Endpoint;
pub use error::{Error, Result};
pub use fetch::{Base, Fetch, Sending};
pub use fetch_error::FetchError;
pub use fetched::Fetched;
pub use form::Form;
pub use headers::{Header, Headers};
pub use request::Request;
pub use response::Response;
pub use router::Router;

/// What nearly every extension uses: `use extension_api::prelude::*;`
pub mod prelude {
    pub use crate::{
        Accountability, Base, BodyWriter, Bytes, Context, Endpoint, Error, Fetch, FetchError,
        Fetched, Form, Level, Request, Response, Result, Router, export_endpoint,
    };
}

/// The guide's code is compiled and run as that of this documentation.
#[cfg(doctest)]
#[doc = include_str!("../../docs/writing-an-extension.md")]
mod guide {}
