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

mod world;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bridge::Bytes;
use crate::endpoint::Endpoint;
use crate::fetch_error::FetchError;

use world::{Asked, Running};

/// How long a test waits for an answer before it fails: by far longer than any handler takes.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

type Upstream = Box<dyn Fn(&Call) -> Canned + Send + Sync>;

/// A host in the making.
pub struct Host {
    env: BTreeMap<String, String>,
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

    /// Makes the endpoint.
    ///
    /// # Errors
    ///
    /// Why it refuses to be served, as the operator would read it.
    pub fn mount<T: Endpoint>(self) -> Result<App, String> {
        let entry = crate::export::entry::<(T, ())>(false);
        Running::start(entry, self.env, self.upstream).map(|running| App { running })
    }
}

/// An endpoint that is served. Dropped, it is stopped.
pub struct App {
    running: Running,
}

impl App {
    /// A request of an anonymous caller; `url` is path and query below the mount.
    pub fn request(&self, method: &str, url: &str) -> RequestBuilder<'_> {
        let asked = Asked {
            method: method.to_owned(),
            url: url.to_owned(),
            ..Asked::default()
        };
        RequestBuilder { app: self, asked }
    }

    /// The calls that the endpoint has made so far.
    pub fn calls(&self) -> Vec<Call> {
        self.running.calls()
    }

    /// The log lines so far: `info message sent sid=SM1`.
    pub fn log(&self) -> Vec<String> {
        self.running.log()
    }
}

/// A request in the making.
#[must_use = "a request is made by `send`"]
pub struct RequestBuilder<'a> {
    app: &'a App,
    asked: Asked,
}

impl RequestBuilder<'_> {
    /// Asks as this user.
    pub fn user(mut self, id: &str) -> Self {
        self.asked.user = Some(id.to_owned());
        self
    }

    /// Asks as a user with this role.
    pub fn role(mut self, id: &str) -> Self {
        self.asked.role = Some(id.to_owned());
        self
    }

    /// Asks as an administrator.
    pub fn admin(mut self) -> Self {
        self.asked.admin = true;
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.asked
            .headers
            .push((name.to_ascii_lowercase(), value.to_owned()));
        self
    }

    /// Sets the body, of a known length, which comes in one chunk.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        let body = body.into();
        self.asked.body_length = Some(body.len());
        self.asked.chunks = if body.is_empty() { vec![] } else { vec![body] };
        self
    }

    /// Sets the body to JSON.
    pub fn json(self, value: &(impl Serialize + ?Sized)) -> Self {
        let json = serde_json::to_vec(value).expect("a test's body can be said in JSON");
        self.header("content-type", "application/json").body(json)
    }

    /// Sets the body to one of unknown length, in these chunks.
    pub fn chunks<C: Into<Vec<u8>>>(mut self, chunks: impl IntoIterator<Item = C>) -> Self {
        self.asked.body_length = None;
        self.asked.chunks = chunks
            .into_iter()
            .map(Into::into)
            .filter(|chunk: &Vec<u8>| !chunk.is_empty())
            .collect();
        self
    }

    /// Has the body break off behind what there is of it.
    pub fn broken_off(mut self) -> Self {
        self.asked.body_length = None;
        self.asked.broken = true;
        self
    }

    /// Asks, and waits for the whole answer.
    ///
    /// # Panics
    ///
    /// Where there is none after 20 seconds.
    pub fn send(self) -> Answer {
        let answer = self
            .app
            .running
            .ask(self.asked)
            .recv_timeout(ANSWER_DEADLINE);
        answer.expect("the handler answers in time")
    }

    /// Asks, and leaves as soon as the handler waits for something that does not come by itself: a sleep, an upstream that
    /// never answers. Waits until the endpoint has given the request up.
    ///
    /// # Panics
    ///
    /// Where it has not done so after 20 seconds.
    pub fn leave(mut self) {
        self.asked.leaves = true;
        let answer = self
            .app
            .running
            .ask(self.asked)
            .recv_timeout(ANSWER_DEADLINE);
        answer.expect("the handler's request is given up in time");
    }
}

/// What a caller gets.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers, in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the connection was broken off before the body was whole.
    pub broken_off: bool,
}

impl Answer {
    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// Where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is text")
    }

    /// The body from JSON.
    ///
    /// # Panics
    ///
    /// Where it is not such JSON.
    pub fn json<T: DeserializeOwned>(&self) -> T {
        serde_json::from_slice(&self.body).expect("the answer is such JSON")
    }
}

/// What an upstream sees.
#[derive(Clone, Debug, Default)]
pub struct Call {
    /// The method.
    pub method: String,
    /// The base URL, and the target behind it.
    pub url: String,
    /// The headers, in their order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The whole body.
    pub body: Vec<u8>,
}

impl Call {
    /// The first header of that name, in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        first(&self.headers, name)
    }

    /// The body as text.
    ///
    /// # Panics
    ///
    /// Where it is not UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the call's body is text")
    }
}

fn first<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(found, _)| found == name)
        .map(|(_, value)| value.as_str())
}

/// What an upstream answers.
#[derive(Debug)]
pub struct Canned(Outcome);

#[derive(Debug)]
enum Outcome {
    Answer {
        status: u16,
        headers: Vec<(String, String)>,
        chunks: Vec<Bytes>,
        breaks: bool,
    },
    Error(FetchError),
    Never,
}

impl Canned {
    /// An answer without a body.
    pub fn new(status: u16) -> Self {
        Self(Outcome::Answer {
            status,
            headers: vec![],
            chunks: vec![],
            breaks: false,
        })
    }

    /// An answer with text.
    pub fn text(status: u16, text: impl Display) -> Self {
        Self::new(status)
            .header("content-type", "text/plain")
            .chunk(text.to_string())
    }

    /// An answer with JSON.
    pub fn json(status: u16, value: &(impl Serialize + ?Sized)) -> Self {
        let json = serde_json::to_string(value).expect("a test's answer can be said in JSON");
        Self::new(status)
            .header("content-type", "application/json")
            .chunk(json)
    }

    /// No answer, but this.
    pub fn error(error: FetchError) -> Self {
        Self(Outcome::Error(error))
    }

    /// No answer, ever: the call waits until it is cancelled.
    pub fn never() -> Self {
        Self(Outcome::Never)
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        if let Outcome::Answer { headers, .. } = &mut self.0 {
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        self
    }

    /// Adds a chunk to the body.
    pub fn chunk(mut self, chunk: impl Into<Bytes>) -> Self {
        if let Outcome::Answer { chunks, .. } = &mut self.0 {
            chunks.push(chunk.into());
        }
        self
    }

    /// Has the body break off behind what there is of it.
    pub fn broken_off(mut self) -> Self {
        if let Outcome::Answer { breaks, .. } = &mut self.0 {
            *breaks = true;
        }
        self
    }
}
