//! Unit tests of an endpoint, without a host: given variables, given callers, canned upstream answers.
//!
//! The endpoint runs through the same hooks, callbacks and completions as in the real host, on a worker thread of its own.
//! Time is virtual: when nothing else can happen, the next sleep ends. Every base URL is allowed.
//!
//! ```
//! use extension_api::prelude::*;
//! use extension_api::testing::{Canned, Host};
//!
//! struct Weather {
//!     api: Base,
//! }
//!
//! impl Endpoint for Weather {
//!     fn new(ctx: Context) -> Result<Self> {
//!         Ok(Self { api: ctx.base(ctx.env("WEATHER_API")?)? })
//!     }
//!
//!     fn routes(router: &mut Router<Self>) {
//!         router.get("/*", Self::proxy);
//!     }
//! }
//!
//! impl Weather {
//!     async fn proxy(&self, req: Request) -> Result<Response> {
//!         Ok(Response::relay(req.forward(&self.api).send().await?))
//!     }
//! }
//!
//! let app = Host::new()
//!     .env("WEATHER_API", "https://weather.example")
//!     .upstream(|_| Canned::text(200, "sunny"))
//!     .mount::<Weather>()
//!     .unwrap();
//!
//! let answer = app.request("GET", "/today?in=Rome").user("ada").send();
//! assert_eq!((answer.status, answer.text()), (200, "sunny"));
//! assert_eq!(app.calls()[0].url, "https://weather.example/today?in=Rome");
//! ```

mod answer;
mod lines;
mod request;
mod upstream;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use crate::abi::ext_entry;
use crate::endpoint::Endpoint;
use crate::fetch_error::FetchError;

use upstream::Upstream;
use world::{Grants, RunningExtension};

pub use answer::Answer;
pub use request::RequestBuilder;
pub use upstream::{Call, Canned};

/// A host in the making.
pub struct Host {
    env: BTreeMap<String, String>,
    grants: Option<Grants>,
    upstream: Upstream,
}

impl Default for Host {
    fn default() -> Self {
        Self::new()
    }
}

impl Host {
    /// Without variables; every call out fails as one to an upstream that is down.
    pub fn new() -> Self {
        let upstream =
            |_: &Call| Canned::error(FetchError::Connect("no upstream in this test".to_owned()));
        Self {
            env: BTreeMap::new(),
            grants: None,
            upstream: Box::new(upstream),
        }
    }

    /// Sets a variable, and declares it. Others count as declared, and not set.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Says what every upstream answers.
    pub fn upstream(mut self, answer: impl Fn(&Call) -> Canned + Send + Sync + 'static) -> Self {
        self.upstream = Box::new(answer);
        self
    }

    /// Grants these variables and origins, and no others: as an extension.toml would.
    #[doc(hidden)]
    pub fn grant(mut self, variables: &[&str], origins: &[&str]) -> Self {
        let owned = |names: &[&str]| {
            names
                .iter()
                .map(|&name| name.to_owned())
                .collect::<BTreeSet<_>>()
        };
        self.grants = Some(Grants {
            variables: owned(variables),
            origins: owned(origins),
        });
        self
    }

    /// Makes the endpoint.
    ///
    /// # Errors
    ///
    /// Why it refuses to be served, as the operator would read it.
    pub fn mount<T: Endpoint>(self) -> Result<App, String> {
        self.mount_entry(crate::export::entry::<(T, ())>(false))
    }

    /// Makes an extension of its entry, in whatever language it is written.
    #[doc(hidden)]
    pub fn mount_entry(self, entry: ext_entry) -> Result<App, String> {
        let extension = RunningExtension::start(entry, self.env, self.grants, self.upstream)?;
        Ok(App { extension })
    }
}

/// An endpoint that is served. Dropped, it is stopped.
pub struct App {
    extension: RunningExtension,
}

impl App {
    /// A request of an anonymous caller; `url` is path and query below the mount.
    pub fn request(&self, method: &str, url: &str) -> RequestBuilder<'_> {
        RequestBuilder::new(&self.extension, method, url)
    }

    /// The calls that the endpoint has made so far.
    pub fn calls(&self) -> Vec<Call> {
        self.extension.calls()
    }

    /// The log lines so far: `info message sent sid=SM1`.
    pub fn log(&self) -> Vec<String> {
        self.extension.log()
    }
}
